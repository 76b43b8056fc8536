"""Draws a world's held-out predictions beside the truth, and its errors by horizon.

Shape legend: E episodes, J horizons, H W pixels.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from worldsim.triage.report.canvas import PAPER, draw_png, style_axes
from worldsim.validity.curve import BOUND, ErrorCurve
from worldsim.validity.validity import Spread, Validity
from worldsim.video import Frames, encode_png

SHOWN = (1, 8, 16, 32)
"""Actions ahead that a sheet shows, where they were measured."""
MOST_SHOWN = 4
"""Episodes in a sheet."""
_COLUMNS, _PANEL_PX = 3, (300, 210)
_PANE_PX, _HEADING_PX, _GAP_PX = 96, 16, 4


def draw_sheet(true: Mapping[str, Tensor], drawn: Mapping[str, Sequence[Tensor]], horizons: Sequence[int]) -> bytes:
    """A sheet: a column for the start and for each horizon, for each camera and episode truth above prediction; PNG.

    Args:
        true: By camera, uint8 [E, J + 1, H, W, 3]: the start, then what was recorded at each horizon.
        drawn: By camera, uint8 [E, H, W, 3] for each horizon.
        horizons: J actions ahead.
    """
    rows = list[Frames]()
    for key, frames in drawn.items():
        for i in range(len(true[key])):
            imagined = [true[key][i, 0], *(f[i] for f in frames)]
            rows.append(np.concatenate([_join(list(true[key][i])), _join(imagined)]))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(r, [(0, 2 * _GAP_PX), (0, width - r.shape[1]), (0, 0)], constant_values=255) for r in rows]
    heading = Image.new("RGB", (width, _HEADING_PX), "white")
    pen, columns = ImageDraw.Draw(heading), 1 + len(horizons)
    for number, h in enumerate((0, *horizons)):
        text = f"{h} action{'s' if h > 1 else ''}" if h else "start"
        pen.text((2 + number * (width // columns), 2), text, fill="black")
    return encode_png(np.concatenate([np.asarray(heading), *padded]))


def _join(frames: Sequence[Tensor]) -> Frames:
    """Frames [H, W, 3] beside each other, enlarged by an integer, with white between and below."""
    factor = max(1, _PANE_PX // int(frames[0].shape[0]))
    panes = [f.cpu().numpy().repeat(factor, axis=0).repeat(factor, axis=1) for f in frames]
    return np.concatenate([np.pad(p, [(0, _GAP_PX), (0, _GAP_PX), (0, 0)], constant_values=255) for p in panes], axis=1)


def draw_curves(validity: Validity) -> bytes:
    """Errors by horizon, a panel for each quantity, and the spread; PNG.

    Args:
        validity: With at least one curve.
    """
    panels = len(validity.curves) + (validity.spread is not None)
    rows = -(-panels // _COLUMNS)
    width, height = _PANEL_PX
    draw = functools.partial(_draw_panels, validity=validity, rows=rows)
    return draw_png(draw, width_px=width * min(panels, _COLUMNS), height_px=height * rows + 30)


def _draw_panels(figure: Figure, *, validity: Validity, rows: int) -> None:
    panels: list[ErrorCurve | Spread] = [*validity.curves, *([validity.spread] if validity.spread else [])]
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, min(len(panels), _COLUMNS), number + 1)
        style_axes(axes, PAPER)
        if validity.horizon:
            axes.axvline(validity.horizon, color=PAPER.fresh, linewidth=1, linestyle=":")
        if isinstance(panel, ErrorCurve):
            _draw_errors(axes, panel)
        else:
            axes.plot(panel.horizons, panel.mean, color=PAPER.accent)
            axes.set_title(f"spread, against {panel.quantity}", color=PAPER.ink, fontsize=11, loc="left")
        axes.set_xlabel("actions ahead")
        axes.set_ylim(bottom=0)


def _draw_errors(axes: Axes, curve: ErrorCurve) -> None:
    """The world with its bound, copying and a constant."""
    x = curve.horizons
    axes.plot(x, curve.copying, color=PAPER.other, label="copying")
    axes.plot(x, curve.constant, color=PAPER.other, linestyle=":", label="constant")
    bounds = [(h, b) for h, b in zip(x, curve.bound, strict=True) if b is not None]
    if bounds:
        axes.plot(*zip(*bounds, strict=True), color=PAPER.accent, linestyle="--", label=f"{100 * BOUND:.0f} % bound")
    axes.plot(x, curve.world, color=PAPER.accent, linewidth=2, label="world")
    unit = "share misread" if curve.unit == "wrong" else curve.unit
    title = curve.quantity if unit == curve.quantity else f"{curve.quantity}, {unit}"
    axes.set_title(title, color=PAPER.ink, fontsize=11, loc="left")
    axes.legend(fontsize=8, frameon=False, labelcolor=PAPER.muted)
