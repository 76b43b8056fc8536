"""Figures of a world on episodes that it was not trained on, beside copying the last frame seen, and what they come to."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

_LABELS = ("success_accuracy", "progress_mae")
_LEARNABLE = 0.02
"""Progress that copying misses by less than this changes too little to say whether a world predicts it."""
_WRONG = 0.05
"""Share of steps by which success may be read worse than by saying what the first frame says."""
_OUTCOMES = ("solved", "unsolved")
_FEW = 3
"""Episodes of an outcome; of fewer nothing is said."""
_PER_HORIZON = re.compile(r"(psnr_db|state_error)_h(\d+)(/.*)?")
_UNCERTAINTY = re.compile(r"uncertainty_h(\d+)")
_FALLEN = 0.95
"""Uncertainty below this share of the first counts as fallen."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What was measured of a world on held-out episodes, open loop, with the recorded actions.

    Attributes:
        figures: `psnr_db_h8` of decoded frames 8 actions ahead (other cameras: `psnr_db_h8/NAME`), `state_error_h8` of true
            states (root mean square, in standard deviations), `success_accuracy` and `progress_mae` of the heads; each
            with `copy_` in front for repeating the first frame, its state or its label; and `uncertainty_h8`, the world's
            own, on average. Of entire episodes: `solved_right` and `unsolved_right`, the shares of those that end solved and
            of those that do not which the world ends alike, and `solved_episodes` and `unsolved_episodes`, how many there
            are.
        stated: Why the world is not usable, as its manifest says; empty where it says nothing of the kind.
    """

    figures: Mapping[str, float]
    stated: tuple[str, ...] = ()

    @classmethod
    def of_manifest(cls, manifest: Any) -> Self | None:
        """What a world's manifest holds, as JSON values; None where it holds no figure. Values of another type are left out."""
        values = manifest if isinstance(manifest, Mapping) else {}
        figures = values.get("figures")
        kept = {k: float(v) for k, v in figures.items() if _is_number(v)} if isinstance(figures, Mapping) else {}
        why = values.get("why")
        said = tuple(map(str, why)) if isinstance(why, list) else ()
        stated = (said or ("Its manifest says so.",)) if values.get("usable") is False else ()
        return cls(figures=kept, stated=stated) if kept or stated else None

    @property
    def usable(self) -> bool | None:
        """Whether the world predicts better than copying; None where that was not measured."""
        if not self.stated and not any(f"copy_{name}" in self.figures for name in self._names()):
            return None
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not usable, or not known to be; empty for a usable world."""
        names = self._names()
        if self.stated:
            return self.stated
        if not any(f"copy_{name}" in self.figures for name in names):
            return ("Pictures or states were not compared with copying the first frame.",)
        far = [name for name in names if _horizon(name) > 1]
        found = [self._compare(name) for name in far or names if not self._beats(name)]
        missed, copied = (self.figures.get(f"{who}progress_mae") for who in ("", "copy_"))
        if missed is not None and copied is not None and missed > copied > _LEARNABLE:
            found.append(f"Progress is off by {missed:.3f}; that of the first frame, repeated, by {copied:.3f}.")
        right, copied = (self.figures.get(f"{who}success_accuracy") for who in ("", "copy_"))
        if right is not None and copied is not None and right < copied - _WRONG:
            found.append(
                f"Success is right in {_percent(right)} of steps; that of the first frame in {_percent(copied)}."
            )
        solved, unsolved = (self.figures.get(f"{name}_right") for name in _OUTCOMES)
        if solved is not None and unsolved is not None and self._counts_outcomes and solved + unsolved <= 1:
            many, others = (int(self.figures[f"{name}_episodes"]) for name in _OUTCOMES)
            found.append(
                f"It cannot tell solved from unsolved episodes: it calls solved {_percent(solved)} of the {many} that end solved, "
                f"and {_percent(1 - unsolved)} of the {others} that do not."
            )
        return tuple(found)

    @property
    def verdict(self) -> str:
        """The closing sentence."""
        if self.usable is None:
            return f"It is not known whether this world is usable: {self.reasons[0]}"
        if self.usable:
            said = "This world is usable: it predicts held-out episodes better than copying their first frame does."
            return " ".join(filter(None, (said, self.untold, self.unaware)))
        return f"This world is NOT usable: {' '.join(self.reasons)}"

    @property
    def uncertainty(self) -> dict[int, float]:
        """Mean uncertainty by how many actions ahead, in order; empty where it was not measured."""
        found = [(_UNCERTAINTY.fullmatch(name), value) for name, value in self.figures.items()]
        return dict(sorted((int(match[1]), value) for match, value in found if match is not None))

    @property
    def unaware(self) -> str:
        """That the uncertainty falls along the horizon while the error rises, in a sentence; empty where it does not."""
        curve = self.uncertainty
        for kind in ("psnr_db", "state_error"):
            reached = [h for h in curve if f"{kind}_h{h}" in self.figures]
            if len(reached) < 2:
                continue
            first, last = (self.figures[f"{kind}_h{h}"] for h in (reached[0], reached[-1]))
            worse = last < first if kind == "psnr_db" else last > first
            if worse and curve[reached[-1]] < _FALLEN * curve[reached[0]]:
                return (
                    f"It is unaware of its errors: from {reached[0]} to {_actions(reached[-1])} ahead its uncertainty falls from "
                    f"{curve[reached[0]]:.3g} to {curve[reached[-1]]:.3g}, while {'pictures' if kind == 'psnr_db' else 'states'} "
                    f"get worse, from {_figure(kind, first)} to {_figure(kind, last)}."
                )
        return ""

    @property
    def untold(self) -> str:
        """That too few held-out episodes tell whether it sees success, in a sentence; empty where they are enough, or not counted."""
        counts = [self.figures.get(f"{name}_episodes") for name in _OUTCOMES]
        if counts == [None, None] or self._counts_outcomes:
            return ""
        solved, unsolved = (int(count or 0) for count in counts)
        return (
            f"Whether it tells solved from unsolved episodes is not known: {solved} of {solved + unsolved} held-out episodes end "
            "solved."
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """The table: what was measured, of the world, of copying; a dash where there is nothing."""
        names = [*self._names(), *(n for n in _LABELS if n in self.figures)]
        found = [(_label(n), _figure(n, self.figures[n]), self._copied(n)) for n in names]
        for name in _OUTCOMES:
            if f"{name}_right" in self.figures:
                found.append((f"{name} episodes end alike", _percent(self.figures[f"{name}_right"]), "-"))
        return found + [(f"uncertainty after {_actions(h)}", f"{v:.3g}", "-") for h, v in self.uncertainty.items()]

    def table(self) -> str:
        """The rows as aligned text under headings."""
        return align([("held-out episodes", "world", "copying"), *self.rows()])

    def summary(self) -> str:
        """The farthest comparison and the labels, in one line; empty without figures."""
        names = self._names()
        last = [n for n in names if _horizon(n) == max(map(_horizon, names))]
        parts = [f"{_label(n)} {_figure(n, self.figures[n])} (copying: {self._copied(n)})" for n in last]
        parts += [f"{_label(n)} {_figure(n, self.figures[n])}" for n in _LABELS if n in self.figures]
        return "; ".join(parts)

    @property
    def _counts_outcomes(self) -> bool:
        """Whether there are episodes enough of both outcomes."""
        return all(self.figures.get(f"{name}_episodes", 0) >= _FEW for name in _OUTCOMES)

    def _names(self) -> list[str]:
        """Keys of pictures and states, by camera and then by horizon."""
        found = [n for n in self.figures if _PER_HORIZON.fullmatch(n)]
        return sorted(found, key=lambda n: (_parts(n)[0], _parts(n)[2], _horizon(n)))

    def _beats(self, name: str) -> bool:
        own, copied = self.figures[name], self.figures.get(f"copy_{name}")
        return copied is None or (own > copied if name.startswith("psnr") else own < copied)

    def _copied(self, name: str) -> str:
        value = self.figures.get(f"copy_{name}")
        return "-" if value is None else _figure(name, value)

    def _compare(self, name: str) -> str:
        text = f"{_label(name)}: {_figure(name, self.figures[name])}, and copying {self._copied(name)}."
        return text[0].upper() + text[1:]


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as aligned text: the first column left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))) for r in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _parts(name: str) -> tuple[str, int, str]:
    """Kind, horizon and camera of a key."""
    found = _PER_HORIZON.fullmatch(name)
    return (found[1], int(found[2]), (found[3] or "").removeprefix("/")) if found else (name, 0, "")


def _horizon(name: str) -> int:
    return _parts(name)[1]


def _label(name: str) -> str:
    kind, horizon, camera = _parts(name)
    if not horizon:
        return {"success_accuracy": "success right", "progress_mae": "progress off by"}[kind]
    what = "pictures" if kind == "psnr_db" else "states"
    return f"{what}{f' of {camera}' if camera else ''} after {_actions(horizon)}"


def _actions(count: int) -> str:
    return f"{count} action{'s' if count > 1 else ''}"


def _figure(name: str, value: float) -> str:
    if name.startswith("psnr_db"):
        return f"{value:.1f} dB"
    if name == "success_accuracy":
        return _percent(value)
    return f"{value:.3f} sd" if name.startswith("state_error") else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
