import dataclasses

from worldsim.triage.report import ReportData
from worldsim.triage.report.words import describe_certainty, describe_unknowns, write_title


def ranked(data: ReportData, **changes: object) -> ReportData:
    return dataclasses.replace(data, ranking=dataclasses.replace(data.ranking, **changes))  # type: ignore[arg-type]


def test_titles(sample: ReportData) -> None:
    assert write_title(sample) == "Try these 5 of 24 checkpoints first."
    assert write_title(ranked(sample, k=1)) == "Try this one of 24 checkpoints first."
    assert write_title(ranked(sample, k=24)) == "All 23 checkpoints that ran, best first."
    assert write_title(ranked(sample, policies=sample.failed)) == "None of the 1 checkpoint could be tried."
    assert write_title(ranked(sample, policies=sample.alive[:1])) == "Only one checkpoint ran."
    unsure = tuple(dataclasses.replace(p, p_top_k=0.2) for p in sample.alive)
    assert write_title(ranked(sample, policies=unsure)) == "No clear winners: these 5 come first, but not by much."


def test_how_sure(sample: ReportData) -> None:
    assert "between 43\u202f% and over\u202f99\u202f%. 2 other policies still have a chance" in describe_certainty(
        sample
    )
    assert "of 120 fresh episodes, which did not choose them" in describe_certainty(sample)
    certain = tuple(dataclasses.replace(p, p_top_k=float(p.rank <= 5), audit=None) for p in sample.alive)
    text = describe_certainty(ranked(sample, policies=certain))
    assert "is over\u202f99\u202f%. No other policy has a chance" in text
    assert "which flatters" in text
    assert "nothing to choose from" in describe_certainty(ranked(sample, k=23))


def test_not_known(sample: ReportData) -> None:
    assert "3.1 points too high" in describe_unknowns(sample)
    assert "outside the world was not measured" in describe_unknowns(dataclasses.replace(sample, truth=None))


def test_ties_are_called_ties(sample: ReportData) -> None:
    def at(rate: float) -> ReportData:
        lines = [
            dataclasses.replace(p, audit=None, triage=dataclasses.replace(p.triage, success=rate)) for p in sample.alive
        ]
        return ranked(sample, policies=(*lines, *sample.failed))

    assert write_title(at(0.0)) == "None of the 23 checkpoints that ran solved an episode."
    assert write_title(at(1.0)) == "The 23 checkpoints that ran are tied at 100\u202f% success."
    assert "They solve 0\u202f% of the episodes" in describe_certainty(at(0.0))
    lines = [dataclasses.replace(p, score=0.5 if p.rank in (5, 6, 7) else p.score) for p in sample.alive]
    assert "2 other policies are tied with the last of them." in describe_certainty(
        ranked(sample, policies=tuple(lines))
    )
    assert "tied" not in describe_certainty(sample)
