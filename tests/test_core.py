"""Rows: every nested tensor follows its row, and what cannot be batched is refused by name."""

import dataclasses
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.core import IMAGE, Camera, Rows, SharedRows, WorldSpec, constant, row_texts, text_rows
from worldsim.errors import InvalidInputError, UnknownNameError


class Pair(NamedTuple):
    key: Tensor
    value: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner(Rows):
    x: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache(Rows):
    number: Tensor
    layers: tuple[Pair, ...]
    maps: dict[str, Tensor]
    inner: Inner
    names: tuple[str, ...] = ()
    nothing: Tensor | None = None
    plans: int = constant(default=0)


def cache(batch: int, first: int = 0) -> Cache:
    number = torch.arange(first, first + batch)
    column = number[:, None].float()
    return Cache(
        number=number,
        layers=(Pair(column, column + 100), Pair(column * 2, column.double()[..., None])),
        maps={"depth": column + 7},
        inner=Inner(x=column - 1),
        names=tuple(str(i) for i in number.tolist()),
        plans=3,
    )


def same(a: Cache, b: Cache) -> bool:
    return a.to_bytes() == b.to_bytes() and a.plans == b.plans


def numbers(value: Cache) -> list[int]:
    """The rows' numbers, after checking that every leaf still belongs to its row."""
    value.check()
    again = Cache.cat([cache(1, n) for n in value.number.tolist()])
    assert same(again, value)
    return value.number.tolist()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=7), st.integers(1, 3))
def test_every_leaf_follows_its_row(index: list[int], n: int) -> None:
    five = cache(5)
    assert numbers(five.rows(index)) == index
    assert numbers(five.rows(torch.tensor(index))) == index
    assert numbers(five.repeat(n)) == [i for i in range(5) for _ in range(n)]
    assert numbers(Cache.cat([five, five.rows(index)])) == [0, 1, 2, 3, 4, *index]
    mask = torch.tensor([i in index for i in range(5)])
    assert numbers(five.rows(mask)) == [i for i in range(5) if i in index]
    assert numbers(five.merge(cache(5, 10), mask)) == [i + 10 if i in index else i for i in range(5)]
    put = five.put(torch.tensor([3, 1]), cache(2, 20))
    assert numbers(put) == [0, 21, 2, 20, 4]
    assert numbers(five.rows(slice(1, 3))) == [1, 2]


def test_bytes_bring_back_every_value_for_any_batch() -> None:
    assert same(cache(1).from_bytes(cache(4).to_bytes()), cache(4))
    with pytest.raises(InvalidInputError, match="Inner"):
        Inner(x=torch.zeros(2, 3)).from_bytes(cache(4).to_bytes())
    with pytest.raises(InvalidInputError, match="Cache"):
        cache(1).from_bytes(b"not rows")


def test_bytes_of_another_type_or_with_more_values_are_refused() -> None:
    twice, once = Pair(key=torch.zeros(2, 3), value=torch.zeros(2, 3)), torch.zeros(2, 3)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Both(Rows):
        x: Tensor
        pair: Pair | None = None

    shared = Both(x=once, pair=Pair(key=once, value=once[:, :]))  # one memory, as a state right after reset has
    again = shared.from_bytes(shared.to_bytes())
    assert again.pair is not None and torch.equal(again.pair.value, once)
    with pytest.raises(InvalidInputError, match="expected torch.float32"):
        Both(x=once).from_bytes(Both(x=once.long()).to_bytes())
    with pytest.raises(InvalidInputError, match="3 values were written"):
        Both(x=once).from_bytes(Both(x=once, pair=twice).to_bytes())


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[1]", "[" * 100_000, "NaN"])
def test_texts_of_other_people_are_texts_or_refused(text: str) -> None:
    written = load(cache(4).to_bytes())
    (name,) = [k for k, v in written.items() if v.dtype == torch.uint8 and v.ndim == 1]
    hostile = save({**written, name: torch.tensor(list(text.encode()), dtype=torch.uint8)})
    with pytest.raises(InvalidInputError, match="Not rows of this Cache"):
        cache(1).from_bytes(hostile)


def test_what_cannot_be_batched_is_refused_by_name() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Bad(Rows):
        x: Tensor
        queue: object

    for queue, found in (([torch.zeros(2)], "list"), (3, "int"), (torch.tensor(1.0), "Tensor")):
        with pytest.raises(InvalidInputError, match=rf"Bad.queue is a {found}"):
            Bad(x=torch.zeros(2), queue=queue).repeat(2)
    with pytest.raises(InvalidInputError, match=r"share one batch; got \[2, 3\]"):
        Bad(x=torch.zeros(2), queue=torch.zeros(3)).check()
    with pytest.raises(InvalidInputError, match="different kinds"):
        Bad.cat([Bad(x=torch.zeros(2), queue=torch.zeros(2)), Bad(x=torch.zeros(2), queue=None)])
    with pytest.raises(InvalidInputError, match="different keys"):
        Bad.cat([Bad(x=torch.zeros(1), queue={k: torch.zeros(1)}) for k in "ab"])


def test_branches_share_what_is_constant() -> None:
    prefix = SharedRows.of(Inner(x=torch.arange(6.0).reshape(3, 2)))
    branched = prefix.repeat(1000)
    assert branched.batch == 3000 and branched.value is prefix.value
    assert torch.equal(branched.rows([0, 1500, 2999]).gather().x, prefix.value.x)
    other = SharedRows.of(Inner(x=torch.arange(6.0, 10.0).reshape(2, 2)))
    joined = SharedRows.cat([prefix, other.rows([1]), prefix.rows([0])])
    assert torch.equal(joined.gather().x, torch.cat([prefix.value.x, other.value.x[1:], prefix.value.x[:1]]))
    assert joined.value.batch == 4  # the row without an index is gone, the shared one is there once
    mask = torch.tensor([True, False, False])
    assert torch.equal(prefix.merge(other.rows([1, 0, 0]), mask).gather().x[0], other.value.x[1])
    assert torch.equal(prefix.from_bytes(branched.to_bytes()).gather().x, branched.gather().x)
    assert len(branched.to_bytes()) < 3000 * 8 + 1000  # indices, and the prefix once


def test_texts_travel_as_rows() -> None:
    texts = ("push the red block", "", "größer")
    assert row_texts(text_rows(texts)) == texts
    assert row_texts(text_rows(texts)[torch.tensor([2, 0])]) == ("größer", "push the red block")


def test_a_spec_says_what_does_not_fit() -> None:
    action = ActionSpec(names=("x",), units=("m",), low=(-1,), high=(1,), rate_hz=10)
    spec = WorldSpec(action=action, latent_shape=(1, 1, 1), proprio_dim=1, horizon=8, actions_per_step=4)
    assert spec.steps == 2
    with pytest.raises(InvalidInputError, match="no camera"):
        _ = spec.image_size
    with pytest.raises(InvalidInputError, match="multiple of actions_per_step"):
        dataclasses.replace(spec, horizon=10)
    wrist = Camera(key="observation.images.wrist", height=4, width=6)
    both = dataclasses.replace(spec, cameras=(Camera(height=8, width=8), wrist))
    assert both.image_size == (8, 8) and both.camera(wrist.key).name == "wrist" and both.camera().name == "image"
    with pytest.raises(UnknownNameError, match="wrist"):
        both.camera("observation.images.wrst")
    with pytest.raises(InvalidInputError, match="different keys"):
        dataclasses.replace(spec, cameras=(wrist, wrist))
    with pytest.raises(InvalidInputError, match=IMAGE):
        Camera(key="observation.state", height=4, width=4)
