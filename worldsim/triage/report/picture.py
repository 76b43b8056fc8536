"""One picture of a run, for a README or a slide: ranking, agreement with the truth, and a strip of frames.

Not for reading numbers off: that is the report.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from worldsim.triage.report.canvas import png
from worldsim.triage.report.data import Clip, Frames, ReportData
from worldsim.triage.report.figures import scatter, success_by_rank
from worldsim.triage.report.palette import PAPER

WIDTH_PX = 1000
_UPPER_PX = 360
_FRAMES = 10


def picture(data: ReportData) -> bytes:
    """Return a PNG, 2000 pixels wide: ranking left, agreement right, frames of one episode below.

    Parts without data are left out: the scatter without a ground truth, the strip without a clip.
    """
    clip = _best_clip(data)
    rows = 0 if clip is None else 1 if clip.truth is None else 2
    strip = rows * WIDTH_PX / _FRAMES + (26 if rows else 0)

    def draw(figure: Figure) -> None:
        upper: FigureBase = figure
        if clip is not None:
            grid = figure.add_gridspec(2, 1, height_ratios=[_UPPER_PX, strip])
            upper = figure.add_subfigure(grid[0])
            _strip(figure.add_subfigure(grid[1]), clip)
        if data.truth is None:
            left = upper.subplots()
        else:
            left, right = upper.subplots(1, 2, width_ratios=[1.75, 1])
            scatter(right, data, PAPER, quantity="success")
            _caption(right, _agreement(data))
        success_by_rank(left, data, PAPER, width_px=WIDTH_PX * (1 if data.truth is None else 0.55))
        left.set_xlabel("checkpoints by rank")
        _caption(
            left,
            f"best {data.ranking.k} of {len(data.ranking.policies)} checkpoints, {data.ranking.rollouts:,} rollouts",
        )

    return png(draw, width_px=WIDTH_PX, height_px=round(_UPPER_PX + strip))


def _caption(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", color=PAPER.ink, fontsize=12.5, pad=20)


def _agreement(data: ReportData) -> str:
    """The correlation with its interval, or nothing."""
    found = {e.name: e for e in data.truth.success.estimates} if data.truth else {}
    r = found.get("pearson")
    if r is None or r.value is None or r.low is None:
        return "world and truth"
    return f"r = {r.value:.2f} [{r.low:.2f}, {r.high:.2f}], {r.n} checkpoints"


def _best_clip(data: ReportData) -> Clip | None:
    """The first win with both sides, else the first clip."""
    both = [c for c in data.clips if c.truth is not None]
    wins = [c for c in both if c.kind == "win"]
    return next(iter(wins or both or data.clips), None)


def _strip(figure: FigureBase, clip: Clip) -> None:
    """Frames at even distances, the world above the truth."""
    sides: list[tuple[str, Frames]] = [("world", clip.world)]
    if clip.truth is not None:
        sides.append(("truth", clip.truth))
    grid = figure.subplots(len(sides), _FRAMES, squeeze=False, gridspec_kw={"hspace": 0.02, "wspace": 0.02})
    for i, (row, (name, frames)) in enumerate(zip(grid, sides, strict=True)):
        for axes, at in zip(row, np.linspace(0, len(frames) - 1, _FRAMES).round().astype(int), strict=True):
            axes.imshow(frames[at], interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if i == 0:
                axes.set_title(f"{at / clip.rate_hz:.1f} s", fontsize=10, color=PAPER.muted, pad=3)
        row[0].set_ylabel(name, color=PAPER.muted)
