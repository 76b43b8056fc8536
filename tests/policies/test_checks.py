import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldsim.errors import PolicyError
from worldsim.policies.checks import checked_action


@given(st.lists(st.lists(st.floats(-1024, 1024, width=32), min_size=2, max_size=2), min_size=1, max_size=4))
def test_finite_numbers_pass_unchanged(rows):
    action = checked_action(rows, policy="p", n=len(rows), dim=2)
    assert torch.equal(action, torch.tensor(rows, dtype=torch.float32))


@given(st.integers(0, 4), st.integers(0, 4), st.integers(1, 4), st.integers(1, 4))
def test_every_other_shape_is_refused(rows, columns, n, dim):
    value = torch.zeros(rows, columns)
    if (rows, columns) == (n, dim):
        checked_action(value, policy="p", n=n, dim=dim)
    else:
        with pytest.raises(PolicyError, match="shape"):
            checked_action(value, policy="p", n=n, dim=dim)
