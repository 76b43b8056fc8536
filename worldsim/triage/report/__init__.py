"""A triage run as one page that needs nothing but a browser, and as one picture.

`from_results` gathers what a run has learned into a `ReportData`; `write_report` and `picture` show it. For people: programs
read `ranking.json`.
"""

from worldsim.triage.report.assemble import from_results
from worldsim.triage.report.data import Clip, Manifest, ReportData, Round, RoundTrip
from worldsim.triage.report.page import render, write_report
from worldsim.triage.report.picture import picture
from worldsim.triage.report.truth import Compared, Episodes, Rate, Truth
from worldsim.triage.report.videos import choose

__all__ = [
    "Clip",
    "Compared",
    "Episodes",
    "Manifest",
    "Rate",
    "ReportData",
    "Round",
    "RoundTrip",
    "Truth",
    "choose",
    "from_results",
    "picture",
    "render",
    "write_report",
]
