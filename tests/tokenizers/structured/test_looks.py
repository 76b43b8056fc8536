"""Which looks of a thing are usual."""

import torch

from worldsim.tokenizers.structured.looks import KeptLooks


def kept_looks(strange: int) -> tuple[KeptLooks, torch.Tensor, torch.Tensor]:
    """Looks of one kind, two things, of which some rows are far from all others; the codes and which are usual."""
    made = torch.Generator().manual_seed(0)
    mixed = torch.randn(4, 4, generator=made)
    code = torch.randn(1000, 4, generator=made) @ mixed * 0.3 + 1
    code[:strange] = 1 - 4 * mixed[0] + 0.02 * torch.randn(strange, 4, generator=made)
    looks = KeptLooks(things=3, kept=8, code_dim=4)
    return looks, code, looks.measure([0, 2], code)


def test_looks_of_something_else_are_not_familiar_though_a_few_were_learned_from() -> None:
    looks, code, usual = kept_looks(strange=30)
    assert not usual[:30].any()
    assert usual[30:].float().mean() > 0.99
    familiar = looks.familiar(code[:, None].expand(-1, 3, -1))
    assert float(familiar[:30, [0, 2]].max()) == 0
    assert float((familiar[30:, 0] == 1).float().mean()) > 0.98
    assert torch.equal(familiar[:, 0], familiar[:, 2])


def test_every_look_is_familiar_while_nothing_was_measured() -> None:
    assert bool((KeptLooks(things=2, kept=8, code_dim=4).familiar(torch.randn(5, 2, 4) * 9) == 1).all())


def test_a_thing_that_always_looks_alike_may_differ_a_little() -> None:
    looks = KeptLooks(things=1, kept=8, code_dim=4)
    looks.measure([0], torch.full((50, 4), 0.4))
    codes = torch.tensor([0.45, 0.8]).view(2, 1, 1).expand(-1, -1, 4)
    assert looks.familiar(codes)[:, 0].tolist() == [1.0, 0.0]
