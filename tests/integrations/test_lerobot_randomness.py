import pytest
import torch

from worldsim.integrations.lerobot.policies import KeyedRandomness

KEYS = torch.tensor([5, 2**40 + 1, -7])
DRAWS = {
    "randn": lambda n: torch.randn(n, 3, 2),
    "randn_size": lambda n: torch.randn((n, 4), dtype=torch.float64),
    "randn_like": lambda n: torch.randn_like(torch.zeros(n, 5)),
    "rand": lambda n: torch.rand(n, 3),
    "normal": lambda n: torch.normal(2.0, 0.5, (n, 3)),
    "normal_named": lambda n: torch.normal(mean=0.0, std=1.0, size=(n, 3)),
    "twice": lambda n: torch.randn(n, 3) + 10 * torch.randn(n, 3),
}


def draw(name, keys):
    with KeyedRandomness(keys):
        return DRAWS[name](len(keys))


@pytest.mark.parametrize("name", DRAWS)
def test_rows_follow_their_keys(name):
    together = draw(name, KEYS)
    for i in range(3):
        torch.testing.assert_close(draw(name, KEYS[i : i + 1]), together[i : i + 1], rtol=0, atol=0)
    torch.testing.assert_close(draw(name, KEYS.flip(0)), together.flip(0), rtol=0, atol=0)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("name", DRAWS)
def test_shape_and_type_are_torchs(name):
    keyed, plain = draw(name, KEYS), DRAWS[name](3)
    assert (keyed.shape, keyed.dtype) == (plain.shape, plain.dtype)


def test_distributions():
    keys = torch.arange(4000)
    normal, uniform = draw("normal", keys), draw("rand", keys)
    assert normal.mean().item() == pytest.approx(2.0, abs=0.03)
    assert normal.std().item() == pytest.approx(0.5, abs=0.02)
    assert 0 <= uniform.min() < 0.01 < 0.99 < uniform.max() < 1
    assert draw("twice", keys).std().item() == pytest.approx(101**0.5, rel=0.05)


def test_second_draw_differs_from_the_first():
    with KeyedRandomness(KEYS):
        first, second = torch.randn(3, 2), torch.randn(3, 2)
    assert not torch.equal(first, second)


def test_other_draws_repeat_and_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    drawn = []
    for _ in range(2):
        with KeyedRandomness(KEYS):
            drawn.append(
                torch.cat([torch.randn(7), torch.multinomial(torch.ones(9), 7).float(), torch.randperm(5).float()])
            )
    assert torch.equal(*drawn)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_exception_inside_restores_the_generator():
    before = torch.random.get_rng_state()
    with pytest.raises(ZeroDivisionError), KeyedRandomness(KEYS):
        torch.randn(1)
        1 / 0  # noqa: B018
    assert torch.equal(before, torch.random.get_rng_state())
