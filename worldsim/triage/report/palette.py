"""Colours of figures by role, once as CSS variables of the page (light and dark) and once fixed for a picture.

A figure is drawn in placeholder colours; on a page each placeholder becomes a CSS variable, so that one drawing serves
both schemes. Not for the page's own style sheet (`report.css`).
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True, kw_only=True)
class Palette:
    """A colour for each role, as ``#rrggbb``.

    Attributes:
        ink: Text.
        muted: Secondary text and axes.
        faint: Grid lines.
        accent: The winners, and the world.
        other: Everybody else.
        fresh: The audit, and the truth.
    """

    ink: str
    muted: str
    faint: str
    accent: str
    other: str
    fresh: str


PAGE = Palette(ink="#010101", muted="#020202", faint="#030303", accent="#040404", other="#050505", fresh="#060606")
"""Placeholders; `to_css` turns them into variables."""
PAPER = Palette(ink="#1b1f24", muted="#5b6470", faint="#dfe3e8", accent="#1f5fbf", other="#8a94a1", fresh="#b4631d")
"""For a picture on white."""

_BY_CODE = {getattr(PAGE, field.name): f"var(--{field.name})" for field in dataclasses.fields(Palette)}
_PLACEHOLDER = re.compile("|".join(_BY_CODE))


def to_css(svg: str) -> str:
    """Replace the placeholder colours of a drawing in `PAGE` by CSS variables."""
    return _PLACEHOLDER.sub(lambda m: _BY_CODE[m.group()], svg)
