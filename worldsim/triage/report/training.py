"""Success, or progress where that ranks, against training step: runs of checkpoints, their figure, and names beside points."""

import re
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from worldsim.text import printable, shorten, strip_common_parts
from worldsim.triage.report.canvas import Palette, style_axes
from worldsim.triage.report.data import ReportData

_STEP = re.compile(
    r"(.*/)(?:[a-z]+[_=-]?)?(\d+)((?:/.*)?)"
)  # a part of a path that is a number, or a word and a number
_NAMED_RUNS = 8
_ROOM = 1.25  # width of the axes over the last step, for names
_LETTERS = 22
_LETTER_SHARE, _LINE_SHARE, _DOT_SHARE = 0.02, 0.033, 0.01  # of the axes, that a letter, a line and a dot take


class Names:
    """Writes short names beside points, none over another or over a point.

    Args:
        axes: Where to write.
        palette: Colours.
        points: All points, as shares of the axes from left and bottom.
    """

    def __init__(self, axes: Axes, palette: Palette, *, points: Sequence[tuple[float, float]]) -> None:
        self._axes, self._palette = axes, palette
        self._taken = [(x - _DOT_SHARE, x + _DOT_SHARE, y) for x, y in points]

    def write(self, text: str, at: tuple[float, float], *, share: tuple[float, float]) -> None:
        """Write a name right of a point or left of it; not at all where neither is free.

        Args:
            text: The name.
            at: The point, in the units of the axes.
            share: The same as shares of the axes.
        """
        label = shorten(printable(text), width=_LETTERS)
        x, y = share
        width = _LETTER_SHARE * len(label)
        for side, begin in (("left", x + 2 * _DOT_SHARE), ("right", x - 2 * _DOT_SHARE - width)):
            if not self._is_free(begin, begin + width, y):
                continue
            self._taken.append((begin, begin + width, y))
            self._axes.annotate(
                label,
                at,
                xytext=(7 if side == "left" else -7, 0),
                textcoords="offset points",
                color=self._palette.muted,
                fontsize=11,
                ha=side,
                va="center",
            )
            return

    def _is_free(self, begin: float, end: float, y: float) -> bool:
        """Whether nothing stands there and it lies inside the axes."""
        covered = any(abs(y - height) < _LINE_SHARE and begin < b and a < end for a, b, height in self._taken)
        return begin >= 0 and end <= 1 and not covered


def training_runs(data: ReportData) -> dict[str, list[tuple[int, float, int]]]:
    """Checkpoints by run, as (training step, success, row), of runs with two steps or more.

    Args:
        data: The run; a checkpoint's step is a part of its name, ``run/checkpoints/002000/pretrained_model``.
    """
    found: dict[str, list[tuple[int, float, int]]] = {}
    for line in data.alive:
        parts = _STEP.fullmatch(line.name)
        rate = data.ranked(line).success
        if parts is not None and len(parts[2]) < 12 and rate is not None:
            found.setdefault(f"{parts[1]}{parts[3]}", []).append((int(parts[2]), rate, line.policy))
    return {run: sorted(points) for run, points in sorted(found.items()) if len({step for step, *_ in points}) > 1}


def draw_training(figure: Figure, data: ReportData, palette: Palette, wide: bool) -> None:
    """Success against training step, a line for each run; runs of the chosen stand out."""
    axes = figure.subplots()
    winners, runs = {line.policy for line in data.ranking.top}, training_runs(data)
    labels = dict(zip(runs, strip_common_parts(list(runs)), strict=True))
    best = sorted(runs, key=lambda run: -max(success for _, success, _ in runs[run]))[:_NAMED_RUNS]
    last = max(step for points in runs.values() for step, *_ in points)
    for points in runs.values():
        chosen = any(policy in winners for *_, policy in points)
        colour = palette.accent if chosen else palette.other
        steps, rates = [step for step, *_ in points], [success for _, success, _ in points]
        axes.plot(steps, rates, color=colour, linewidth=1.4 if chosen else 1.0, alpha=0.9 if chosen else 0.6)
        for step, success, policy in points:
            axes.plot([step], [success], "o", color=colour, markersize=6 if policy in winners else 3)
    ends = {run: (step, success) for run, points in runs.items() for step, success, _ in points[-1:]}
    names = Names(axes, palette, points=[(step / last / _ROOM, rate) for step, rate in ends.values()])
    for run in best if wide else ():
        step, success = ends[run]
        names.write(labels[run].strip("/"), (step, success), share=(step / last / _ROOM, success))
    axes.set_xlim(0, last * _ROOM if wide else last * 1.05)
    axes.set_ylim(-0.02, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_ylabel(f"{data.ranked_by} in the world")
    axes.set_xlabel("training step")
    style_axes(axes, palette)
