import math

import pytest
import torch
from torch import Tensor

from worldsim import storage
from worldsim.errors import InvalidInputError
from worldsim.tokenizers import TOKENIZERS
from worldsim.tokenizers.layers.tokenizer import POSE
from worldsim.tokenizers.state import PosesConfig, PosesTokenizer

CENTER = torch.tensor([0.5, -0.2])


def scene(count: int = 400, *, blocks: int = 1, proprio: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """True states [N, 4 blocks] and proprioception [N, proprio] of things that roam +-0.3 m about CENTER."""
    g = torch.Generator().manual_seed(seed)
    places = (torch.rand((count, blocks + 1, 2), generator=g) * 0.6 - 0.3) + CENTER
    yaw = torch.rand((count, blocks), generator=g) * 2 * math.pi
    block = torch.cat([places[:, :-1], yaw.cos()[..., None], yaw.sin()[..., None]], dim=-1)
    rest = torch.randn((count, proprio - 2), generator=g)
    return block.flatten(1), torch.cat([places[:, -1], rest], dim=1)


def columns(true_state: Tensor, proprio: Tensor) -> Tensor:
    """Rows as the time axis of one episode: [1, E + P, N, 1, 1]."""
    return torch.cat([true_state, proprio], dim=1).T[None, ..., None, None]


@pytest.mark.parametrize(("blocks", "proprio"), [(1, 2), (1, 4), (3, 2)])
def test_the_true_state_and_the_place_of_the_body_come_back(blocks: int, proprio: int) -> None:
    state, body = scene(blocks=blocks, proprio=proprio)
    tokenizer = PosesTokenizer.fit(state, body)
    z = tokenizer.encode(columns(state, body))
    assert tuple(z.shape[1:2] + z.shape[3:]) == tokenizer.latent_shape == (POSE * (blocks + 1), 1, 1)
    held = torch.cat([state, body[:, :2]], dim=1)
    assert torch.allclose(tokenizer.decode(z)[0, ..., 0, 0].T, held, atol=1e-6)


def test_positions_fill_the_picture_and_the_body_is_round() -> None:
    state, body = scene(blocks=2)
    tokenizer = PosesTokenizer.fit(state, body)
    z = tokenizer.encode(columns(state, body))[0, ..., 0, 0].T.unflatten(-1, (-1, POSE))
    assert tokenizer.config.orders == (1, 1, 0)
    assert 0.98 < float(z[..., :2].abs().max()) < 1.00001
    assert torch.allclose(tokenizer.center_2, CENTER, atol=0.01)
    assert abs(float(tokenizer.half_width) - 0.3) < 0.01
    assert torch.equal(z[:, -1, 2:], torch.tensor([1.0, 0.0]).expand(len(z), 2))
    assert torch.equal(z[:, 0, 2:], state[:, 2:4])
    assert torch.allclose(z[:, -1, :2], (body[:, :2] - tokenizer.center_2) / tokenizer.half_width)


def test_distances_keep_their_proportions_on_both_axes() -> None:
    state, body = scene()
    state[:, 1] = CENTER[1]  # the block stays on a line, so that the axes roam unequally
    tokenizer = PosesTokenizer.fit(state, body)
    z = tokenizer.encode(columns(state, body))[0, ..., 0, 0].T
    assert torch.allclose((z[:, :2] - z[:, 4:6]) * tokenizer.half_width, state[:, :2] - body, atol=1e-6)


def _angles(state: Tensor, body: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([state[:, :2], state[:, :2]], dim=1), body


def _one_bad_row(state: Tensor, body: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([state[:-1], torch.full((1, 4), float("nan"))]), body


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_angles, "cos and sin"),
        (_one_bad_row, "cos and sin"),
        (lambda s, b: (s[:, :3], b), "width 3"),
        (lambda s, b: (s[:, :0], b), "width 0"),
        (lambda s, b: (s, b[:, :1]), "width 1"),
        (lambda s, b: (s, b * 1000), "in one unit"),
        (lambda s, b: (s, b * 0), "in one unit"),
    ],
)
def test_other_states_are_refused(change, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        PosesTokenizer.fit(*change(*scene()))


@pytest.mark.parametrize("orders", [(), (0,), (1,), (1, 1), (0, 0), (2, 0)])
def test_layouts_that_it_cannot_hold_are_refused(orders: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="orders"):
        PosesConfig(orders=orders)


def test_rows_do_not_know_of_each_other() -> None:
    state, body = scene()
    tokenizer = PosesTokenizer.fit(state, body)
    batch = torch.cat([state, body], dim=1)[..., None, None, None]
    assert torch.equal(tokenizer.encode(batch)[3:4], tokenizer.encode(batch[3:4]))


def test_it_is_rebuilt_from_its_config_and_weights() -> None:
    state, body = scene(blocks=2)
    tokenizer = PosesTokenizer.fit(state, body)
    again = TOKENIZERS.build(TOKENIZERS.name_of(tokenizer), storage.to_json(tokenizer.config))
    storage.load_weights(again, tokenizer.state_dict(), source="test")
    assert torch.equal(again.encode(columns(state, body)), tokenizer.encode(columns(state, body)))
