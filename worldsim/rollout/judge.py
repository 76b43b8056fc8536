"""Judges episodes by the world's own success and progress heads.

A world predicts success and progress at each step, and this reads them by the task's rule ("solved at the end" or
"solved at any step"). Its version is part of every stored rollout's key, so outcomes judged in two ways never mix.
Judges that look at pixels implement `worldsim.protocols.Judge` in other packages.

Shape legend: B episodes, T steps.
"""

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from worldsim.core import Rollout, Verdict, WorldSpec
from worldsim.errors import InvalidInputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldJudge:
    """Reads the verdict from the world's heads.

    Attributes:
        success_at: ``"end"`` reads the last step, ``"any"`` the best one.
        threshold: Probability from which on an episode counts as solved; None keeps the probability itself, which has
            less noise where the world is calibrated.

    Raises:
        InvalidInputError: The threshold lies outside (0, 1].
    """

    success_at: Literal["end", "any"] = "end"
    threshold: float | None = 0.5

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise InvalidInputError(f"A judge's threshold must lie in (0, 1], or be None; got {self.threshold}.")

    @property
    def version(self) -> str:
        """Names the rule; changes whenever the same rollout could be judged differently."""
        return f"world-heads-1/{self.success_at}/{self.threshold}"

    def __call__(self, rollout: Rollout) -> Verdict:
        """Judge B episodes; see `worldsim.protocols.Judge`. Never abstains and gives no text."""
        return self.read(rollout.success, rollout.progress)

    def read(self, success_BT: Tensor, progress_BT: Tensor) -> Verdict:
        """Judge from the heads alone.

        Args:
            success_BT: [B, T], probability that the task stands solved at each step.
            progress_BT: [B, T], progress in 0..1.
        """
        probability = self.probability(success_BT)
        solved = probability if self.threshold is None else (probability >= self.threshold).float()
        return Verdict(
            success=solved,
            progress=progress_BT[:, -1] if self.success_at == "end" else progress_BT.amax(dim=1),
            abstain=torch.zeros_like(probability, dtype=torch.bool),
            failed_at=torch.full_like(probability, -1, dtype=torch.int64),
        )

    @staticmethod
    def require_labels(spec: WorldSpec, *, name: str) -> None:
        """Refuse a world whose success head had nothing to learn from.

        Args:
            spec: The world's.
            name: The world's, for the message.

        Raises:
            InvalidInputError: It was trained without success labels.
        """
        if "success" in spec.unlabelled:
            raise InvalidInputError(
                f"The world {name!r} was trained without success labels, so it cannot say which episodes are solved, and "
                "nothing is ranked by it. Label some episodes (worldsim label DATASET) and train it again with labels=FILE, "
                "give a judge that watches (--judge FOLDER), or use another world."
            )

    def probability(self, success_BT: Tensor) -> Tensor:
        """Probability [B] that the episode was solved, before any threshold."""
        return success_BT[:, -1] if self.success_at == "end" else success_BT.amax(dim=1)
