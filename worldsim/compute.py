"""Where and how tensors are computed: the device and dtype that a user names, and the number of threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from worldsim.errors import InvalidInputError, unknown_name

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(name: str) -> torch.device:
    """The device of a name such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises:
        InvalidInputError: No such device, or none here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        count = torch.cuda.device_count()
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise InvalidInputError(f"There is no device {name!r} here. Choose one of: {there}.") from error
    return device


def find_dtype(name: str | None) -> torch.dtype | None:
    """The dtype of a name; None where None or nothing is given.

    Raises:
        UnknownNameError: No such dtype; the closest is named.
    """
    if not name:
        return None
    if name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)
    return DTYPES[name]


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Compute on one thread inside the block, if wanted; then the caller's setting comes back.

    Sums come out the same in every process, and small models on a CPU lose more by a second thread than they gain.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if wanted else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
