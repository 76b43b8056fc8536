"""Keyed noise for policies that draw from torch's global generator: the same episode key gives the same draws.

Wrap the call of another library's model in `KeyedRandomness`. worldsim's own policies take noise from `worldsim.noise`.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from worldsim import noise

_STREAM = 0x7A5D


class KeyedRandomness(TorchFunctionMode):
    """Inside this context, torch.randn, randn_like, rand, rand_like and normal draw from episode keys.

    A draw whose leading size is n, the number of keys, gets row i from key i, whatever the other rows are; this is how
    diffusion and flow policies draw. Any other draw (multinomial, dropout, another leading size) comes from the global
    generator, seeded by all keys together for the length of the context: repeatable for the same batch, but not
    independent of it. The global generator is left as it was.

    Args:
        keys: int64 [n], one per episode.
    """

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self._keys = keys.cpu()
        self._drawn = 0
        self._fork = torch.random.fork_rng(devices=range(torch.cuda.device_count()))

    def __enter__(self) -> "KeyedRandomness":
        """Seed the global generator by all keys; start counting draws."""
        self._fork.__enter__()
        seed = 0
        for key in noise.fold(self._keys, _STREAM).tolist():
            seed = (seed * 31 + key) & 0x7FFFFFFFFFFFFFFF
        torch.manual_seed(seed)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the global generator back."""
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._fork.__exit__(kind, error, trace)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace the draws that have one row per key; let everything else pass."""
        kwargs = kwargs or {}
        draw = _DRAWS.get(func)
        if draw is None:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            template = func(*args, **kwargs)  # settles shape, type and device as torch would
            if template.ndim == 0 or template.shape[0] != len(self._keys):
                return template
            self._drawn += 1
            fresh = draw(self._keys, self._drawn, template.shape[1:], stream=_STREAM).to(template)
            if func is torch.normal:
                fresh = _located(args, kwargs, fresh)
            return template.copy_(fresh)


_DRAWS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    torch.randn: noise.normal,
    torch.randn_like: noise.normal,
    torch.normal: noise.normal,
    torch.rand: noise.uniform,
    torch.rand_like: noise.uniform,
}


def _located(args: Sequence[Any], kwargs: dict[str, Any], unit: Tensor) -> Tensor:
    """Apply torch.normal's mean and standard deviation to unit noise."""
    mean = args[0] if args else kwargs.get("mean", 0.0)
    std = args[1] if len(args) > 1 else kwargs.get("std", 1.0)
    located: Tensor = mean + std * unit
    return located
