"""Items that need no footage: a square wanders over a plain; where it is can be read off every frame."""

import torch

from worldsim.reason.items.item import Item, format_prompt
from worldsim.reason.items.video import Provenance
from worldsim.reason.vlm import attention
from worldsim.reason.vlm.model import VLM

OPTIONS = ("left", "right")
CASES = {"side": OPTIONS, "half": ("top", "bottom", "nowhere at all")}


def item(number: int, *, size: int = 32, frames: int = 4, task: str = "side") -> Item:
    """On which side does the square end?"""
    draw = torch.Generator().manual_seed(number * 7 + frames)
    place = torch.randint(0, 4, (frames, 2), generator=draw)
    pictures = torch.randint(0, 60, (frames, size, size, 3), generator=draw, dtype=torch.uint8)
    step = size // 4
    for t, (x, y) in enumerate(place.tolist()):
        pictures[t, y * step : (y + 1) * step, x * step : (x + 1) * step] = torch.tensor(
            [250, 40, 10], dtype=torch.uint8
        )
    last_x, last_y = place[-1].tolist()
    answer = OPTIONS[last_x > 1] if task == "side" else CASES["half"][last_y > 1]
    return Item(
        task=task,
        group="even" if number % 2 == 0 else "odd",
        number=number,
        prompt=format_prompt(f"On which {task} is it in the end?", CASES[task]),
        frames=pictures,
        options=CASES[task],
        answer=answer,
        difficulty=(number % 10) / 9,
        think="object " + " ".join(f"{x}{y}" for x, y in place.tolist()),
        provenance=Provenance(kind="simulator", episode=str(number)),
        taken=tuple(range(frames)),
    )


def items(count: int, *, first: int = 0, size: int = 32) -> list[Item]:
    """Two tasks in turn, with 4 and 3 frames."""
    return [
        item(n, size=size, task="side" if n % 2 == 0 else "half", frames=4 if n % 3 else 3)
        for n in range(first, first + count)
    ]


def texts(found: list[Item]) -> list[str]:
    """What a tokenizer learns from."""
    return [t for i in found for t in (i.prompt, i.completion)]


def attends_like_transformers(vlm: VLM, asked: list[Item]) -> None:
    """The tower's own attention changes nothing but the time it takes."""
    batch, config = vlm.encode(asked), vlm.model.model.visual.config
    assert config._attn_implementation == attention.NAME
    with torch.no_grad():
        fast = vlm.model(**batch).logits
        config._attn_implementation = "sdpa"
        slow = vlm.model(**batch).logits
        config._attn_implementation = attention.NAME
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-4)
