"""`report.html`: one self-contained page from a `ReportData`, and its atomic write.

The page forbids itself any network by a content security policy, and can be read without its few lines of script. The
template shows `data` through the filters and sentences of `words`, and with the judgements of `trust`.
"""

import base64
import hashlib
import re
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from worldsim import storage
from worldsim.text import printable
from worldsim.triage.report import trust, words
from worldsim.triage.report.conclusion import conclude
from worldsim.triage.report.data import ReportData
from worldsim.triage.report.figures import draw_both_widths
from worldsim.triage.report.training import training_runs
from worldsim.triage.report.videos import encode_films

TEMPLATE, STYLE, SCRIPT = "report.html.jinja", "report.css", "report.js"
MAX_ROWS = 300
"""Policies that the page lists one by one; the rest are in ranking.json."""
_HIGHLIGHTS = ("pearson", "noise_ceiling", "mmrv", "bias", "episode_accuracy")
_VERDICTS = {
    "win": "win",
    "loss": "loss",
    "optimistic": "only the world solves it",
    "pessimistic": "only the truth solves it",
}


def render(data: ReportData) -> str:
    """Return the page. Equal data gives equal text, the codec's packing of the films aside."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("worldsim.triage.report", ""),
        autoescape=True,
        finalize=_clean,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {f.__name__: f for f in (*words.FILTERS, words.describe_estimate, breakable)}
    return environment.get_template(TEMPLATE).render(_context(data))


def _context(data: ReportData) -> dict[str, object]:
    """Everything the template shows, by name."""
    script = _read(SCRIPT)
    films = encode_films(data.clips)
    found = [data.truth.success.get(name) for name in _HIGHLIGHTS] if data.truth else []
    concluded = conclude(data)
    return {
        "style": _read(STYLE),
        "script": script,
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        "data": data,
        "ranking": data.ranking,
        "labels": data.labels,
        "title": concluded.title,
        "missing": concluded.missing,
        "places": data.ranking.places,
        "how_sure": words.describe_certainty(data),
        "not_known": words.describe_unknowns(data),
        "reliances": trust.assess_reliance(data),
        "cautions": trust.list_cautions(data),
        "gap": trust.average_round_trip_gap(data),
        "gap_limit": trust.GAP,
        "max_rows": MAX_ROWS,
        "corrects": any(line.corrected for line in data.alive),
        "highlights": [estimate for estimate in found if estimate is not None],
        "figures": _draw_figures(data),
        "films": films,
        "films_left_out": len(data.clips) - len(films),
        "verdicts": _VERDICTS,
    }


def write_report(path: Path, data: ReportData) -> None:
    """Write the page wholly or not at all.

    Raises:
        StorageError: The disk is full or the place cannot be written; an earlier report stays as it was.
    """
    storage.write_bytes(path, render(data).encode("utf8"))


def breakable(text: str) -> Markup:
    """Escape text and let it break after the signs that paths are made of."""
    parts = [escape(part) for part in re.split(r"(?<=[/_.:\\-])(?=.)", printable(text))]
    return Markup("<wbr>").join(parts)


def _clean(value: object) -> object:
    """Make every text printable on its way into the page; what is markup already is our own."""
    return printable(value) if type(value) is str else value


def _draw_figures(data: ReportData) -> dict[str, tuple[str, str]]:
    """Drawings by name, for a wide and a narrow page; only those that have something to show."""
    wanted = {
        "ranking": any(p.shown.success is not None for p in data.alive),
        "training": bool(training_runs(data)),
        "allocation": bool(data.rounds),
        "agreement": data.truth is not None and bool(data.truth.policies),
    }
    return {name: draw_both_widths(name, data) for name, there in wanted.items() if there}


def _read(name: str) -> str:
    return resources.files("worldsim.triage.report").joinpath(name).read_text(encoding="utf8")
