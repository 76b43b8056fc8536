"""Matplotlib without its global state: figures are drawn by Agg or SVG back ends directly, and come out the same each time.

A user's matplotlibrc is ignored while drawing, and pyplot is not used. A figure is drawn in placeholder colours; on a page
each placeholder becomes a CSS variable, so that one drawing serves the light and the dark scheme.
"""

import dataclasses
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

POINTS_PER_INCH = 72
_STYLE: dict[str, object] = {
    "font.size": 12,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.major.width": 0.8,
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's font
    "text.parse_math": False,  # a name may hold a dollar sign
}
_CLUTTER = re.compile(
    r"<\?xml[^>]*\?>|<!DOCTYPE[^>]*>|<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>"
    r'| id="[A-Za-z][A-Za-z0-9.]*_[0-9]+"| font-family: [^;"]*;|(?<=[\d"z]) +(?=\n)',
    re.DOTALL,
)
_SIZE = re.compile(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"')

Draw = Callable[[Figure], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Palette:
    """A colour for each role, as ``#rrggbb``.

    Attributes:
        ink: Text.
        muted: Secondary text and axes.
        faint: Grid lines.
        accent: The winners, and the world.
        other: The other policies.
        fresh: The audit, and the truth.
    """

    ink: str
    muted: str
    faint: str
    accent: str
    other: str
    fresh: str


PAGE = Palette(ink="#010101", muted="#020202", faint="#030303", accent="#040404", other="#050505", fresh="#060606")
"""Placeholders; `draw_svg` turns them into variables."""
PAPER = Palette(ink="#1b1f24", muted="#5b6470", faint="#dfe3e8", accent="#1f5fbf", other="#8a94a1", fresh="#b4631d")
"""For a picture on white."""

_BY_CODE = {getattr(PAGE, field.name): f"var(--{field.name})" for field in dataclasses.fields(Palette)}
_PLACEHOLDER = re.compile("|".join(_BY_CODE))


@contextmanager
def _style() -> Iterator[None]:
    """Matplotlib's own defaults with ours on top; glyphs that its font lacks are no reason to warn."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def draw_svg(draw: Draw, *, name: str, width_px: float, height_px: float, alt: str) -> str:
    """Draw a figure for a page.

    Args:
        draw: Fills the figure, in the colours of `PAGE`.
        name: Unique on the page; the ids inside the drawing depend on it.
        width_px: Width of the view box, CSS px; the page scales the drawing down, never up.
        height_px: Its height.
        alt: What is to be seen, for those who cannot.

    Returns:
        An ``<svg>`` element whose colours are CSS variables and whose text is in the page's font.
    """
    with _style():
        mpl.rcParams["svg.hashsalt"] = name
        figure = Figure(figsize=(width_px / POINTS_PER_INCH, height_px / POINTS_PER_INCH), layout="constrained")
        figure.patch.set_visible(False)
        draw(figure)
        out = io.StringIO()
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    text = _to_css(_CLUTTER.sub("", out.getvalue()).strip())
    shape = rf'\1 role="img" aria-label="{_attribute(alt)}" style="max-width:{width_px:g}px"'
    return _SIZE.sub(lambda m: m.expand(shape), text, count=1)


def draw_png(draw: Draw, *, width_px: int, height_px: int, scale: float = 2.0) -> bytes:
    """Draw a figure on white and return it as PNG of `width_px * scale` by `height_px * scale` pixels."""
    with _style():
        figure = Figure(figsize=(width_px / POINTS_PER_INCH, height_px / POINTS_PER_INCH), layout="constrained")
        draw(figure)
        out = io.BytesIO()
        figure.set_dpi(POINTS_PER_INCH * scale)
        FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return out.getvalue()


def style_axes(axes: Axes, palette: Palette, *, grid: Literal["both", "x", "y"] = "y") -> None:
    """Give axes the quiet look: faint grid behind the data, muted ticks, no frame."""
    axes.patch.set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(True, axis=grid, color=palette.faint, linewidth=0.8)
    for spine in axes.spines.values():
        spine.set_color(palette.faint)
    axes.tick_params(colors=palette.muted, labelcolor=palette.muted)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(palette.muted)


def _attribute(text: str) -> str:
    """Escape text for an attribute inside `re.Match.expand`."""
    plain = text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
    return plain.replace("\\", "\\\\")


def _to_css(svg: str) -> str:
    """Replace the placeholder colours of a drawing in `PAGE` by CSS variables."""
    return _PLACEHOLDER.sub(lambda m: _BY_CODE[m.group()], svg)
