"""What an update rule is, and what all sampling rules share: a Gaussian in time, kept elites, priors among the candidates.

A rule holds settings only; what it learns during a search is its memory, which the loop carries.

Shape legend: B episodes, N candidates, K elites, H steps (or spline knots), A action width.
"""

import abc
import dataclasses
import functools
import math
from typing import Any, Protocol

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.planners.bounds import Bounds
from worldsim.planners.evaluate import Scored
from worldsim.planners.noise import Noise, samples_around
from worldsim.planners.search import Search


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What one stage of a search works with.

    Attributes:
        bounds: Of every step's action.
        noise: This search's randomness.
        samples: Candidates N per iteration.
        iterations: Iterations of this stage.
        prior: [B, P, H, A], candidates somebody suggests; tried in the first iteration. P may be 0.
    """

    bounds: Bounds
    noise: Noise
    samples: int
    iterations: int
    prior: Tensor
    _shares: dict[float, Tensor] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.prior.shape[1] > self.samples:
            raise InvalidInputError(
                f"{self.prior.shape[1]} suggested plans do not fit into {self.samples} candidates. Suggest fewer, or "
                "raise samples (or starts)."
            )

    @functools.cached_property
    def limits(self) -> tuple[Tensor, Tensor]:
        """Low and high of every step, [H, A] each: clamping to them takes a quarter of the time that [A] takes."""
        low, high = (limit.expand(self.prior.shape[2:]).contiguous() for limit in (self.bounds.low, self.bounds.high))
        return low, high

    def share(self, of_half: float) -> Tensor:
        """A share of half the range of every step, [H, A]; made once."""
        if of_half not in self._shares:
            self._shares[of_half] = (of_half * self.bounds.half).expand(self.prior.shape[2:]).contiguous()
        return self._shares[of_half]


class Rule(Protocol):
    """Proposes candidates and learns from their costs."""

    @property
    def gradient(self) -> bool:
        """Whether `update` reads `Scored.gradient`."""

    def check(self, samples: int) -> None:
        """Refuse settings that cannot work with N candidates.

        Raises:
            InvalidInputError: What does not fit, and what would.
        """

    def begin(self, search: Search, setting: Setting) -> Any:
        """The memory at the start of a stage; `search` is warm where its elites are not empty."""

    def propose(self, memory: Any, setting: Setting) -> Tensor:
        """Candidates [B, N, H, A] inside the bounds."""

    def update(self, memory: Any, scored: Scored, setting: Setting) -> Any:
        """The memory after the candidates' costs are known."""

    def finish(self, memory: Any) -> tuple[Search, Tensor]:
        """The search to go on from, and candidates [B, F, H, A] worth a last look."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler(abc.ABC):
    """Base of the rules that sample around a mean.

    Attributes:
        elites: Best candidates that count, a number or a fraction of N.
        std: Initial spread, in half ranges of the bounds; a tuple has one for each dimension of an action.
        std_min: The spread never falls below this, in half ranges: refitting shrinks the tails.
        beta: Exponent of the noise's spectrum f^-beta over time; 0 is white. White noise averages out over a horizon
            and never tries a detour.
        keep: Elites carried into the next iteration and, shifted, into the next search.
        momentum: Share of the old mean and spread that survives an update.
        clip: Keep candidates inside the bounds; off only to reproduce planners that do not.
    """

    gradient = False

    elites: int | float = 1 / 16
    std: float | tuple[float, ...] = 1.0
    std_min: float = 0.02
    beta: float = 2.0
    keep: int = 5
    momentum: float = 0.0
    clip: bool = True

    def __post_init__(self) -> None:
        for name in ("std", "std_min", "beta", "keep", "momentum"):
            value = getattr(self, name)
            if not all(0 <= v < float("inf") for v in (value if isinstance(value, tuple) else (value,))):
                raise InvalidInputError(f"{type(self).__name__}.{name} is at least 0; got {value}.")
        if self.elites <= 0 or (isinstance(self.elites, float) and self.elites > 1) or self.momentum >= 1:
            raise InvalidInputError(
                f"elites is a count of at least 1 or a fraction in (0, 1], momentum below 1; got {self.elites} and "
                f"{self.momentum}."
            )

    def count(self, samples: int) -> int:
        """Number of elites K among N candidates."""
        return self.elites if isinstance(self.elites, int) else max(2, round(self.elites * samples))

    def check(self, samples: int) -> None:
        """See `Rule.check`."""
        if self.count(samples) > samples:
            raise InvalidInputError(
                f"{self.count(samples)} elites cannot be chosen among {samples} samples. Lower elites or draw more."
            )
        if self.keep >= samples:
            raise InvalidInputError(f"keep={self.keep} leaves no room for new candidates among {samples} samples.")

    def begin(self, search: Search, setting: Setting) -> tuple[Search, Tensor]:
        """The search with its spread reset; the prior [B, P, H, A] waits for the first iteration."""
        half = setting.bounds.half
        if isinstance(self.std, tuple) and len(self.std) != len(half):
            raise InvalidInputError(f"std has {len(self.std)} entries for actions of width {len(half)}.")
        std = (half.new_tensor(self.std) * half).expand_as(search.mean)
        return dataclasses.replace(search, std=std), setting.prior

    def propose(self, memory: tuple[Search, Tensor], setting: Setting) -> Tensor:
        """Candidates [B, N, H, A]: the mean, the kept elites and the prior, then samples around the mean."""
        search, prior = memory
        elites = search.elites[:, : self.keep]
        kept = 1 + elites.shape[1]
        count = kept + prior.shape[1]
        if count > setting.samples:
            raise InvalidInputError(
                f"{count} given candidates (mean, kept elites, prior) do not fit into {setting.samples} samples."
            )
        candidates = samples_around(search.mean, search.std, setting.noise, samples=setting.samples, beta=self.beta)
        candidates[:, 0] = search.mean
        if kept > 1:
            candidates[:, 1:kept] = elites
        if count > kept:
            candidates[:, kept:count] = prior
        return candidates.clamp_(*setting.limits) if self.clip else candidates

    def update(self, memory: tuple[Search, Tensor], scored: Scored, setting: Setting) -> tuple[Search, Tensor]:
        """Refit mean and spread [B, H, A] to the elites; an episode without one finite cost keeps what it had."""
        search, prior = memory
        best, finite = self.choose(scored)
        mean, std = self.refit(search, best, scored)
        if self.momentum:
            mean, std = mean.lerp(search.mean, self.momentum), std.lerp(search.std, self.momentum)
        if self.std_min:
            std = torch.maximum(std, setting.share(self.std_min))
        elites = best.candidates
        if not finite:
            found = best.rank[:, :1, None].isfinite()
            mean, std = torch.where(found, mean, search.mean), torch.where(found, std, search.std)
            elites = torch.where(found[..., None], elites, search.mean[:, None])
        return Search(mean=mean, std=std, elites=elites), prior[:, :0] if prior.shape[1] else prior

    def choose(self, scored: Scored) -> tuple[Scored, bool]:
        """The elites, best first, and whether all are known to be finite; where only a few are, those are repeated."""
        k = self.count(scored.rank.shape[1])
        best = scored.best(k)
        rank = best.rank
        known = rank.device.type == "cpu" and max(rank[:, -1].tolist()) < math.inf  # elsewhere, asking means waiting
        if not known:
            finite = rank.isfinite().sum(1, keepdim=True).clamp_min(1)
            best = best.pick(torch.arange(k, device=rank.device)[None] % finite)
        return best, known

    @abc.abstractmethod
    def refit(self, search: Search, best: Scored, scored: Scored) -> tuple[Tensor, Tensor]:
        """New mean and spread [B, H, A] from the elites (and, where a rule wants them, all candidates)."""

    def finish(self, memory: tuple[Search, Tensor]) -> tuple[Search, Tensor]:
        """The search, and its mean as one candidate [B, 1, H, A]."""
        return memory[0], memory[0].mean[:, None]


def spread(candidates: Tensor, fallback: Tensor) -> Tensor:
    """Sample standard deviation over candidates [B, K, H, A]; one candidate has none and keeps the old one."""
    return candidates.std(dim=1) if candidates.shape[1] > 1 else fallback


def softmin(rank: Tensor, scale: Tensor) -> Tensor:
    """Weights [B, K] of candidates by cost: exp(-(rank - best) / scale), normalised; +inf weighs nothing beside a finite cost.

    Args:
        rank: [B, K].
        scale: [B, 1], > 0.
    """
    best = rank.amin(1, keepdim=True)
    # inf - inf: a row without one finite cost weighs all alike
    return torch.softmax(((best - rank) / scale).nan_to_num_(nan=0.0, neginf=-torch.inf), dim=1)
