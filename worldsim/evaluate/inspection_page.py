"""The page of `worldsim inspect`: one self-contained file with pictures, the actions' histograms, faults and uses.

Shape legend: N actions, A action, H W image.
"""

import base64
import functools
import math
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from worldsim import storage
from worldsim.arrays import Bytes, Float64s
from worldsim.core import camera_name
from worldsim.data.faults import faulty_episodes, group_faults
from worldsim.evaluate.inspection import Inspection, Pictures
from worldsim.text import printable
from worldsim.triage.report.canvas import PAGE, draw_svg, style_axes
from worldsim.video import encode_png

_WIDEST_PX = 256
_COLUMNS, _PANEL_PX = 4, (210, 130)
_MOST_PANELS = 32
_BINS = 40


def write_page(path: Path, found: Inspection, pictures: Pictures) -> None:
    """Write the page, entirely or not at all.

    Args:
        path: The file; replaced if it is there.
        found: What the dataset holds.
        pictures: Frames uint8 [3, H, W, 3] and actions [N, A], as `Pictures` says.

    Raises:
        StorageError: The disk is full or the place cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("worldsim.evaluate", ""),
        autoescape=True,
        finalize=_clean,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("inspection.html.jinja").render(
        style=Markup(resources.files("worldsim.triage.report").joinpath("report.css").read_text(encoding="utf8")),  # noqa: S704
        found=found,
        faults=group_faults(found.faults),
        faulty=len(faulty_episodes(found.faults)),
        cameras={
            camera_name(key): [(number, [_picture(frame) for frame in frames]) for number, frames in shown]
            for key, shown in pictures.frames.items()
        },
        histograms=Markup(_histograms(found, pictures.action)),  # noqa: S704
    )
    storage.write_bytes(path, text.encode("utf8"))


def _clean(value: object) -> object:
    """Make every text printable on its way into the page; what is markup already is our own."""
    return printable(value) if type(value) is str else value


def _picture(frame: Bytes) -> str:
    """A frame uint8 [H, W, 3] as a data address, made small enough for pages."""
    step = -(-max(frame.shape[:2]) // _WIDEST_PX)
    data = encode_png(np.asarray(Image.fromarray(frame).reduce(step)))  # means of step x step pixels
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def _histograms(found: Inspection, action_NA: Float64s) -> str:
    """One panel for every dimension of the actions [N, A]; empty where there is no action."""
    count = min(len(found.actions), _MOST_PANELS)
    if not count or not len(action_NA):
        return ""
    columns = min(_COLUMNS, count)
    return draw_svg(
        functools.partial(_draw_histograms, found=found, action_NA=action_NA, columns=columns),
        name="actions",
        width_px=_PANEL_PX[0] * columns,
        height_px=_PANEL_PX[1] * math.ceil(count / columns),
        alt=f"Histograms of {count} dimensions of the actions",
    )


def _draw_histograms(figure: Figure, *, found: Inspection, action_NA: Float64s, columns: int) -> None:
    count = min(len(found.actions), _MOST_PANELS)
    for number, channel in enumerate(found.actions[:count]):
        axes = figure.add_subplot(math.ceil(count / columns), columns, number + 1)
        style_axes(axes, PAGE)
        axes.hist(action_NA[:, number], bins=_BINS, color=PAGE.accent)
        unit = "" if channel.unit == "unknown" else f" ({channel.unit})"
        axes.set_title(f"{channel.name}{unit}", fontsize=11, color=PAGE.ink)
        axes.set_yticks([])
