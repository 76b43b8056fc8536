"""A triage run as one page that needs nothing but a browser, as one picture, and as a table for a terminal.

`assemble` gathers what a run has learned into a `ReportData`; `write_report` and `draw_picture` show it. Programs read
``ranking.json``.
"""

from worldsim.triage.report.assemble import assemble, compare_with_truth
from worldsim.triage.report.data import (
    Clip,
    ComparedPolicy,
    Manifest,
    MatchedEpisodes,
    ReportData,
    Round,
    RoundTrip,
    Truth,
)
from worldsim.triage.report.figures import draw_picture
from worldsim.triage.report.page import render, write_report
from worldsim.triage.report.videos import choose

__all__ = [
    "Clip",
    "ComparedPolicy",
    "Manifest",
    "MatchedEpisodes",
    "ReportData",
    "Round",
    "RoundTrip",
    "Truth",
    "assemble",
    "choose",
    "compare_with_truth",
    "draw_picture",
    "render",
    "write_report",
]
