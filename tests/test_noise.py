"""Keyed noise: the published test vectors, one stream of words on every path, independence of the batch."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim import noise


def test_philox_gives_the_published_vectors() -> None:
    def words(counter: list[int], key: list[int]) -> list[str]:
        c = tuple(torch.tensor([v]) for v in counter)
        return [f"{int(w):08x}" for w in noise.philox(c, (torch.tensor([key[0]]), torch.tensor([key[1]])))]

    full = 0xFFFFFFFF
    assert words([0] * 4, [0] * 2) == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    assert words([full] * 4, [full] * 2) == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]


@settings(max_examples=40, deadline=None)
@given(
    key=st.integers(-(2**63), 2**63 - 1),
    step=st.integers(-(2**63), 2**63 - 1),
    stream=st.integers(-(2**31), 2**32 - 1),
    count=st.integers(1, 23),
)
def test_the_fast_path_on_the_cpu_gives_the_words_of_philox(key: int, step: int, stream: int, count: int) -> None:
    blocks = (count + 3) // 4
    split = [torch.tensor([v]) for v in (key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF)]
    expected = []
    for block in range(blocks):
        counter = (block, step & 0xFFFFFFFF, stream & 0xFFFFFFFF, (step >> 32) & 0xFFFFFFFF)
        expected += [int(w) for w in noise.philox(tuple(torch.tensor([c]) for c in counter), (split[0], split[1]))]
    given_words = noise._words(torch.tensor([key]), torch.tensor([step]), stream, count)
    assert given_words.tolist() == [expected[:count]]


def test_an_episode_sees_the_same_noise_alone_and_in_a_batch() -> None:
    keys, steps = torch.arange(10, 20), torch.arange(10)
    together = noise.normal(keys, steps, (3, 2), stream=4)
    for i in range(10):
        assert torch.equal(noise.normal(keys[i : i + 1], i, (3, 2), stream=4)[0], together[i])


def test_moments() -> None:
    draws = noise.normal(torch.arange(2000), 1, (50,))
    assert abs(float(draws.mean())) < 0.01 and abs(float(draws.std()) - 1) < 0.01
    flat = noise.uniform(torch.arange(2000), 1, (50,))
    assert float(flat.min()) >= 0 and float(flat.max()) < 1 and abs(float(flat.mean()) - 0.5) < 0.005
