"""What a world is good for: its errors on recordings that it was not trained on, and what follows from them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from worldsim.errors import InvalidInputError, StorageError
from worldsim.json_values import from_json
from worldsim.text import align
from worldsim.validity.coverage import Coverage
from worldsim.validity.curve import BOUND, ErrorCurve, count_actions

UNSURE = 0.3
"""Rank correlation of spread and error below which a world counts as unaware of its errors."""
_LEARNABLE = 0.02
"""Progress that copying misses by less than this changes too little to say whether a world predicts it."""
_WRONG = 0.05
"""Share of steps by which success may be read worse than by saying what the first frame says."""
_FEW = 3
"""Episodes of an outcome; of fewer nothing is said."""
_DRAWN = 0.75
"""Share of what changes in recorded pictures below which a world that draws it does not show what policies are used to see: .70 of a
cart whose pole was not drawn, .93 of FetchPush and PushT."""
_SUMMARISED = (1, 8, 16, 32)
"""Actions ahead that a short table shows, where they were measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Response:
    """How much predictions depend on the actions, by one quantity's mean error over all horizons.

    Attributes:
        quantity: Whose error.
        true: Under the actions that were taken.
        shuffled: Under those of other episodes.
        idle: Under none.
    """

    quantity: str
    true: float
    shuffled: float
    idle: float

    @property
    def score(self) -> float:
        """Share of the error under wrong actions that true actions take away: 0 where actions change nothing, 1 for no error."""
        wrong = min(self.shuffled, self.idle)
        return min(1.0, max(0.0, 1 - self.true / wrong)) if wrong > 0 else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """What the world's own uncertainty says of its errors.

    The spread to a horizon is the error that the world's error model expects there, as a share of what a constant prediction is
    off by. Of a world without one it is the root of the summed squares of the uncertainties of all steps: what steps disagree
    about adds up along an open-loop prediction.

    Attributes:
        quantity: Whose error it is compared with.
        horizons: Actions ahead, in order.
        mean: Mean spread to each of them.
        rank: Spearman's correlation of spread and error over the episodes at each of them; None where it does not exist.
    """

    quantity: str
    horizons: tuple[int, ...]
    mean: tuple[float, ...]
    rank: tuple[float | None, ...]

    @property
    def rises(self) -> bool:
        """Whether the mean spread rises with the horizon."""
        return all(a < b for a, b in zip(self.mean, self.mean[1:], strict=False))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcomes:
    """How entire held-out episodes end, in the recording and in the world under the same actions.

    Attributes:
        solved: Episodes that end solved; `solved_right` the share of them that the world ends solved.
        unsolved: Episodes that do not; `unsolved_right` the share of them that the world does not end solved.
    """

    solved: int
    unsolved: int
    solved_right: float | None = None
    unsolved_right: float | None = None

    @property
    def enough(self) -> bool:
        """Whether there are episodes enough of both kinds."""
        return min(self.solved, self.unsolved) >= _FEW

    @property
    def blind(self) -> str:
        """That the world tells nothing about how episodes end, in a sentence; empty where it does, or too few were seen."""
        if not self.enough or self.solved_right is None or self.unsolved_right is None:
            return ""
        if self.solved_right + self.unsolved_right > 1:
            return ""
        return (
            f"It cannot tell solved from unsolved episodes: it calls solved {_percent(self.solved_right)} of the {self.solved} "
            f"that end solved, and {_percent(1 - self.unsolved_right)} of the {self.unsolved} that do not."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validity:
    """What was measured of a world on held-out episodes, open loop, with the recorded actions.

    Attributes:
        curves: Errors by horizon: pictures of every camera, proprioception, states or places of things, progress, success.
        read_from: Quantities that the outcome of a rollout is read from, which decide the horizon.
        horizon: Actions up to which the world is better than copying in all of them; 0 where it never is, None where that
            was not measured.
        episodes: How many episodes it was measured on, at most; fewer last to the last horizons.
        response: Whether actions matter; None where nothing changes.
        spread: Whether its uncertainty tells its errors; None where it states none.
        coverage: What the training data holds; None where it is not known.
        outcomes: How entire episodes end; None without labels.
        drawn: Share of what differs between recorded pictures that it draws of them, nothing predicted, of the camera of which that
            is least; None where nothing differs, or nothing is drawn.
        stated: Why the world is not usable, where its maker says so without figures.
    """

    curves: tuple[ErrorCurve, ...] = ()
    read_from: tuple[str, ...] = ()
    horizon: int | None = None
    episodes: int = 0
    response: Response | None = None
    spread: Spread | None = None
    coverage: Coverage | None = None
    outcomes: Outcomes | None = None
    drawn: float | None = None
    stated: tuple[str, ...] = ()

    @classmethod
    def of_manifest(cls, manifest: Any, *, source: object) -> Self | None:
        """What the manifest of a world folder holds, as JSON values; None where nothing was measured.

        Args:
            manifest: Its values.
            source: Where they come from, for messages.

        Raises:
            StorageError: What it holds is no validity.
        """
        values = manifest if isinstance(manifest, Mapping) else {}
        if values.get("validity") is not None:
            try:
                return from_json(cls, values["validity"])
            except (InvalidInputError, LookupError) as error:
                raise StorageError(
                    f"The manifest of {source} holds a wrong validity ({error}). Measure it again: worldsim check WORLD --data "
                    "RECORDINGS --write"
                ) from error
        if values.get("usable") is not False:
            return None
        why = values.get("why")  # worlds that were made before validity was measured
        return cls(stated=tuple(map(str, why)) if isinstance(why, list) and why else ("Its manifest says so.",))

    def curve(self, quantity: str) -> ErrorCurve | None:
        """The errors of a quantity; None where it was not measured."""
        return next((c for c in self.curves if c.quantity == quantity), None)

    @property
    def usable(self) -> bool | None:
        """Whether the world predicts better than copying; None where that was not measured."""
        if self.horizon is None and not self.stated:
            return None
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not usable, or not known to be; empty for a usable world."""
        if self.stated:
            return self.stated
        if self.horizon is None:
            return ("Predictions were not compared with copying the first frame.",)
        found = self._lost() if not self.horizon else self._lost_pictures(self.horizon)
        if (progress := self.curve("progress")) is not None:
            missed, copied = (_mean([e * e for e in v]) ** 0.5 for v in (progress.world, progress.copying))
            if missed > copied > _LEARNABLE:
                found.append(f"Progress is off by {missed:.3f}; that of the first frame, repeated, by {copied:.3f}.")
        if (success := self.curve("success")) is not None:
            wrong, copied = (_mean(v) for v in (success.world, success.copying))
            if wrong > copied + _WRONG:
                found.append(
                    f"Success is misread in {_percent(wrong)} of cases; that of the first frame in {_percent(copied)}."
                )
        if self.response is not None and not self.response.score:
            found.append(
                f"It ignores actions: its errors of {self.response.quantity} are the same under other actions."
            )
        return tuple(filter(None, [*found, self.outcomes.blind if self.outcomes else ""]))

    def _lost(self) -> list[str]:
        """Where each quantity that outcomes are read from, and each picture, loses to copying or a constant."""
        asked = [c for c in self.curves if c.quantity in self.read_from or c.unit == "grey levels"]
        found = []
        for curve in asked:
            far = [i for i, h in enumerate(curve.horizons) if h > 1] or list(range(len(curve.horizons)))
            found += [curve.compare(i) for i in far if not curve.beats(i)][:3]
        return found or ["Nothing changes in the held-out episodes that it could predict."]

    def _lost_pictures(self, horizon: int) -> list[str]:
        """Pictures that are no better than copies at the valid horizon."""
        pictures = [c for c in self.curves if c.unit == "grey levels"]
        lost = [(c, i) for c in pictures if c.world[i := c.last(horizon)] >= c.copying[i]]
        return [curve.compare(i) for curve, i in lost]

    @property
    def verdict(self) -> str:
        """The closing sentences."""
        if self.usable is None:
            return f"It is not known whether this world is usable: {self.reasons[0]}"
        if self.usable:
            said = (
                "This world is usable: it predicts held-out episodes better than copying their first frame does, "
                f"{self.extent}."
            )
            return " ".join(filter(None, (said, self.undrawn, self.untold, self.unaware)))
        return f"This world is NOT usable: {' '.join(self.reasons)}"

    @property
    def undrawn(self) -> str:
        """That much of what changes in pictures is not drawn, in a sentence; empty where most is, or that is not known."""
        if self.drawn is None or self.drawn >= _DRAWN:
            return ""
        return (
            f"Its pictures show {_percent(self.drawn)} of what differs between recorded ones, even where nothing is predicted: "
            "policies that look at them see another scene than the robot's. Look at held_out.png, and train for longer."
        )

    @property
    def extent(self) -> str:
        """Up to how many actions it is valid, and by what, in a phrase; empty where that was not measured."""
        if not self.horizon:
            return ""
        return f"up to {count_actions(self.horizon)} ahead, by {' and '.join(self.read_from)}"

    def steps(self, length: int, *, per_step: int = 1) -> int | None:
        """Actions to which rollouts of episodes of some length are to be believed; None where that is all of them, or not known.

        Args:
            length: Actions of an episode in the world.
            per_step: Actions of a step of the world.
        """
        if not self.horizon or self.horizon >= length:
            return None
        return max(1, self.horizon // per_step) * per_step

    def plan_steps(self, steps: int, *, actions: int) -> int:
        """Of so many steps of a plan, each of some actions, those that the world is valid for: at least one; all where that is not known."""
        return steps if not self.horizon else min(steps, max(1, self.horizon // actions))

    @property
    def unaware(self) -> str:
        """That its spread does not tell its errors, in a sentence; empty where it does, or states none."""
        if self.spread is None:
            return ""
        weak = [
            (h, r) for h, r in zip(self.spread.horizons, self.spread.rank, strict=True) if r is not None and r < UNSURE
        ]
        if not weak:
            return ""
        parts = ", ".join(f"{r:.2f} after {count_actions(h)}" for h, r in weak)
        return f"It is unaware of its errors: the rank correlation of its spread with them is {parts}."

    @property
    def untold(self) -> str:
        """That too few held-out episodes show whether it sees success, in a sentence; empty where they are enough, or not counted."""
        if self.outcomes is None or self.outcomes.enough:
            return ""
        solved, total = self.outcomes.solved, self.outcomes.solved + self.outcomes.unsolved
        return f"Whether it can tell solved from unsolved episodes is not known: {solved} of {total} held-out episodes end solved."

    def rows(self) -> list[tuple[str, str, str]]:
        """The short table: what was measured, of the world, of copying; a dash where there is nothing."""
        found = []
        for c in self.curves:
            shown = [i for i, h in enumerate(c.horizons) if h in _SUMMARISED or i == len(c.horizons) - 1]
            label = f"{c.quantity}{' misread' if c.unit == 'wrong' else ''} after"
            found += [
                (f"{label} {count_actions(c.horizons[i])}", c.figure(c.world[i]), c.figure(c.copying[i])) for i in shown
            ]
        if self.outcomes is not None:
            for name in ("solved", "unsolved"):
                if (right := getattr(self.outcomes, f"{name}_right")) is not None:
                    found.append((f"{name} episodes end alike", _percent(right), "-"))
        return found

    def table(self) -> str:
        """The short table as aligned text under headings."""
        return align([("held-out episodes", "world", "copying"), *self.rows()])

    def full_table(self) -> str:
        """Every error at every horizon as aligned text under headings; empty without figures."""
        parts = []
        for c in self.curves:
            shown = zip(c.horizons, c.world, c.bound, c.copying, c.constant, c.episodes, strict=True)
            head = (
                f"{c.quantity}{' misread' if c.unit == 'wrong' else ''}",
                "world",
                f"{100 * BOUND:.0f} % bound",
                "copying",
            )
            lines = [
                (f"  after {count_actions(h)}", *map(c.figure, (own, bound, copied, same)), str(n))
                for h, own, bound, copied, same, n in shown
            ]
            parts.append(align([(*head, "constant", "episodes"), *lines]))
        return "\n".join(parts)

    def describe(self) -> str:
        """What else was measured, a line each: actions, what is drawn, spread, coverage, outcomes."""
        found = []
        if (r := self.response) is not None:
            found.append(
                f"Actions matter: {r.score:.2f} of 1. Mean error of {r.quantity} under the true actions {r.true:.3g}, under those "
                f"of other episodes {r.shuffled:.3g}, under none {r.idle:.3g}."
            )
        if self.drawn is not None:
            found.append(
                f"Pictures: {_percent(self.drawn)} of what differs between recorded ones is drawn, nothing predicted."
            )
        if (s := self.spread) is not None:
            ranks = [
                f"{k:.2f} after {count_actions(h)}" for h, k in zip(s.horizons, s.rank, strict=True) if k is not None
            ]
            found.append(
                f"Spread: {'rises' if s.rises else 'does NOT rise'} with the horizon, from {s.mean[0]:.3g} to {s.mean[-1]:.3g}; rank "
                f"correlation with the error of {s.quantity}: {', '.join(ranks) or 'not known'}."
            )
        if (c := self.coverage) is not None:
            sides = ((c.proprio_low, c.proprio_high), (c.action_low, c.action_high))
            ranges = ["; ".join(f"{a:.3g} to {b:.3g}" for a, b in zip(*side, strict=True)) for side in sides]
            found.append(f"Trained on proprioception {ranges[0] or 'none'}, and actions {ranges[1]}.")
        if (o := self.outcomes) is not None:
            rights = [(n, getattr(o, n), getattr(o, f"{n}_right")) for n in ("solved", "unsolved")]
            parts = [
                f"of {count} that end {name}, {_percent(r)} do so here" for name, count, r in rights if r is not None
            ]
            found.append(f"Entire episodes: {'; '.join(parts)}.")
        return "\n".join(found)

    def summary(self) -> str:
        """The farthest comparison of each quantity but proprioception, in one line; empty without figures."""
        parts = []
        for c in self.curves:
            if c.quantity == "proprioception":
                continue
            i = len(c.horizons) - 1
            label = f"{c.quantity}{' misread' if c.unit == 'wrong' else ''} after {count_actions(c.horizons[i])}"
            parts.append(f"{label} {c.figure(c.world[i])} (copying: {c.figure(c.copying[i])})")
        return "; ".join(parts)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
