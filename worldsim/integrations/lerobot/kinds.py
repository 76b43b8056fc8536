"""How networks of LeRobot's types are asked for actions, with everything they remember handed in and out.

LeRobot keeps observations, queues and means of earlier plans inside its modules, for whatever batch comes next. Here a
module is emptied, filled with what one group of episodes remembers, asked once, and emptied again.

Shape legend: n episodes, T observations of history, K chunk, A action, C H W image.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import Tensor

_IMAGES, _ACTION = "observation.images", "action"  # names inside LeRobot's modules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """One of LeRobot's policy types.

    Attributes:
        history: It looks at the last `n_obs_steps` observations, not only at the newest.
        queues: It reads observations from queues of its own, not from the batch.
        alone: Its draws have no row per episode: episodes are played one by one, so that none sees another.
        executed: Field of its config that says how many actions of a chunk are executed.
    """

    history: bool = False
    queues: bool = False
    alone: bool = False
    executed: str = "n_action_steps"


KINDS = {
    "act": Kind(),
    "diffusion": Kind(history=True),
    "multi_task_dit": Kind(history=True, queues=True),
    "pi0": Kind(),
    "pi05": Kind(),
    "smolvla": Kind(),
    "tdmpc": Kind(alone=True),
    "vqbet": Kind(history=True, queues=True, alone=True, executed="action_chunk_size"),
}


def executed(kind: str, config: Any) -> int:
    """How many actions of a chunk a policy executes before it looks again."""
    repeats = int(getattr(config, "n_action_repeats", 1) or 1) if kind == "tdmpc" else 1
    return repeats if repeats > 1 else int(getattr(config, KINDS[kind].executed, 1) or 1)


def ask(kind: str, network: Any, batch: Mapping[str, Tensor], memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Ask a network for the next actions.

    Args:
        kind: Its type.
        network: LeRobot's policy.
        batch: Preprocessed observations by LeRobot's names, [n, ...], or [n, T, ...] where the type has a history.
        memory: What the last call returned; None at first.

    Returns:
        A chunk [n, K, A] in normalised units, and what to hand in next.
    """
    network.reset()
    if kind == "tdmpc":
        return _plan(network, batch, memory)
    seen = dict(batch)
    if KINDS[kind].queues:
        _fill(network, seen)
    with _BESIDE_NEWER_TRANSFORMERS.get(kind, nullcontext)():
        chunk: Tensor = network.predict_action_chunk(seen)
    network.reset()
    return chunk, None


@contextmanager
def _cropped_to_a_length() -> Iterator[None]:
    """Let SmolVLA crop its cache to a length, as LeRobot 0.6 does; newer transformers take only a number of tokens to remove."""
    from transformers.cache_utils import DynamicLayer

    crop = DynamicLayer.crop
    DynamicLayer.crop = lambda self, n: crop(self, n if n <= 0 else min(0, n - self.get_seq_length()))
    try:
        yield
    finally:
        DynamicLayer.crop = crop


@contextmanager
def _masked_without_positions() -> Iterator[None]:
    """Let pi0 hand positions to the mask and call caches as LeRobot 0.6 does; newer transformers take none, and warn."""
    from lerobot.policies import pi_gemma

    make = pi_gemma.create_causal_mask
    pi_gemma.create_causal_mask = lambda cache_position=None, **given: make(
        **given, **({"cache_position": cache_position} if "cache_position" in signature(make).parameters else {})
    )
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            yield
    finally:
        pi_gemma.create_causal_mask = make


_BESIDE_NEWER_TRANSFORMERS: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
    "pi0": _masked_without_positions,
    "pi05": _masked_without_positions,
    "smolvla": _cropped_to_a_length,
}


def _fill(network: Any, batch: dict[str, Tensor]) -> None:
    """Put observations [n, T, ...] into the network's queues, oldest first."""
    cameras = [batch[key] for key in network.config.image_features]
    if cameras:
        batch[_IMAGES] = torch.stack(cameras, dim=-4)
    for key, queue in network._queues.items():
        if key != _ACTION and key in batch:
            queue.extend(batch[key].unbind(1))


def _plan(network: Any, batch: Mapping[str, Tensor], memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """TD-MPC plans [K, n, A] from the mean of its last plan, and may repeat one action instead of executing several.

    LeRobot's own `predict_action_chunk` finds the picture only where the camera is called ``observation.image``.
    """
    config = network.config
    z = network.model.encode({key: batch[key] for key in config.input_features})
    network._prev_mean = None if memory is None else memory.transpose(0, 1).clone()
    chunk_KnA = network.plan(z) if config.use_mpc else network.model.pi(z)[None]
    chunk_nKA = chunk_KnA.clamp(-1, 1).transpose(0, 1)
    mean = network._prev_mean
    network.reset()
    if config.n_action_repeats > 1:
        chunk_nKA = chunk_nKA[:, :1].expand(-1, int(config.n_action_repeats), -1)
    return chunk_nKA, None if mean is None else mean.transpose(0, 1)
