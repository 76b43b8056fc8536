"""`report.html`: one self-contained page from a `ReportData`, and its atomic write.

The page forbids itself any network by a content security policy, and reads without its few lines of script. Not for
deciding what to show: `data`, `words`, `trust` and `view` do.
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
from worldsim.triage.report import trust, view, words
from worldsim.triage.report.data import ReportData
from worldsim.triage.report.figures import both_widths
from worldsim.triage.report.videos import films

TEMPLATE, STYLE, SCRIPT = "report.html.jinja", "report.css", "report.js"


def render(data: ReportData) -> str:
    """Return the page. Equal data gives equal text, the codec's packing of the films aside."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("worldsim.triage.report", ""),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    environment.globals |= {"percent": words.percent, "whole": words.whole, "plural": words.plural}
    return environment.get_template(TEMPLATE).render(**_frame(), **_sections(data), **_film_strip(data))


def _frame() -> dict[str, object]:
    """What every page has."""
    script = _text(SCRIPT)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return {"style": _text(STYLE), "script": script, "script_digest": digest, "gap_limit": trust.GAP}


def _sections(data: ReportData) -> dict[str, object]:
    """Sentences, tables and figures by their name in the template."""
    rows = view.ranking_rows(data)
    return {
        "data": data,
        "ranking": data.ranking,
        "labels": data.labels,
        "title": words.title(data),
        "how_sure": words.how_sure(data),
        "not_known": words.not_known(data),
        "reliances": trust.reliances(data),
        "cautions": trust.cautions(data),
        "gap": trust.round_trip_gap(data),
        "rows": rows,
        "corrects": any(row.corrected for row in rows),
        "winners": rows[: len(data.ranking.top)],
        "figures": _figures(data),
        "merits": view.figures_of_merit(data),
        "numbers": view.numbers(data),
        "cells": view.crosstab(data.truth.episodes) if data.truth and data.truth.episodes else (),
        "trips": view.trips(data),
    }


def _film_strip(data: ReportData) -> dict[str, object]:
    """The films, and how many did not fit."""
    encoded = films(data.clips)
    return {"films": view.film_views(data, encoded), "films_left_out": len(data.clips) - len(encoded)}


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


def _shown(value: object) -> object:
    """Clean every text on its way into the page; what is markup already is ours."""
    return printable(value) if type(value) is str else value


def _figures(data: ReportData) -> dict[str, tuple[str, str]]:
    """Drawings by name, for a wide and a narrow page; only those that have something to show."""
    wanted = {
        "ranking": any(p.shown.success is not None for p in data.alive),
        "allocation": bool(data.rounds),
        "agreement": data.truth is not None and bool(data.truth.policies),
    }
    return {name: both_widths(name, data) for name, there in wanted.items() if there}


def _text(name: str) -> str:
    return resources.files("worldsim.triage.report").joinpath(name).read_text(encoding="utf8")
