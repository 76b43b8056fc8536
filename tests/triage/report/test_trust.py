import dataclasses

import pytest

from worldsim.stats.agreement import Agreement
from worldsim.stats.intervals import Estimate
from worldsim.triage.report import ReportData, render
from worldsim.triage.report.trust import assess_reliance, describe_outside, list_cautions


def answers(data: ReportData) -> list[str]:
    return [r.answer for r in assess_reliance(data)]


def with_estimates(data: ReportData, *, policies: int | None = None, **values: float) -> ReportData:
    assert data.truth is not None
    old: Agreement = data.truth.success
    new = tuple(
        Estimate(name=e.name, value=values[e.name], low=values[e.name] - 0.01, high=values[e.name] + 0.01, n=e.n)
        if e.name in values
        else e
        for e in old.estimates
    )
    success = dataclasses.replace(old, estimates=new, policies=policies or old.policies)
    return dataclasses.replace(data, truth=dataclasses.replace(data.truth, success=success))


def with_gap(data: ReportData, gap: float) -> ReportData:
    rows = [
        dataclasses.replace(
            t,
            direct=dataclasses.replace(t.direct, success=0.8),
            decoded=dataclasses.replace(t.decoded, success=0.8 - gap),
        )
        for t in data.round_trip
    ]
    return dataclasses.replace(data, round_trip=tuple(rows))


def test_a_good_world_is_relied_on(sample: ReportData) -> None:
    assert answers(sample) == ["partly", "yes", "yes", "yes"]
    assert list_cautions(sample) == ("1 policy crashed and is not ranked; the reasons are below.",)


@pytest.mark.parametrize(("value", "answer"), [(0.95, "yes"), (0.8, "partly"), (0.6, "no")])
def test_order_is_judged_by_pairs_clearly_apart(sample: ReportData, value: float, answer: str) -> None:
    data = with_estimates(sample, order_accuracy=value)
    assert answers(data)[1] == answer
    assert f"{100 * value:.0f}" in assess_reliance(data)[1].reason


def test_few_true_episodes_support_no_plain_yes(sample: ReportData) -> None:
    assert sample.truth is not None
    success = dataclasses.replace(sample.truth.success, truth_rollouts=2)
    data = dataclasses.replace(sample, truth=dataclasses.replace(sample.truth, success=success))
    assert answers(data)[1] == "partly"
    assert "2 true episodes only" in assess_reliance(data)[1].reason


def test_an_unknown_noise_ceiling_is_admitted(sample: ReportData) -> None:
    assert sample.truth is not None
    old = sample.truth.success
    new = tuple(
        dataclasses.replace(e, value=None, low=None, high=None, undefined="a policy has a single rollout")
        if e.name == "noise_ceiling"
        else e
        for e in old.estimates
    )
    truth = dataclasses.replace(sample.truth, success=dataclasses.replace(old, estimates=new))
    text = list_cautions(dataclasses.replace(sample, truth=truth))[0]
    assert text.endswith("cannot be said: a policy has a single rollout.")


def test_few_policies_say_nothing_about_order(sample: ReportData) -> None:
    assert answers(with_estimates(sample, policies=9))[1] == "unknown"


@pytest.mark.parametrize(("bias", "answer"), [(0.02, "yes"), (-0.07, "partly"), (0.12, "no"), (-0.12, "no")])
def test_bias_decides_on_absolute_rates(sample: ReportData, bias: float, answer: str) -> None:
    data = with_estimates(sample, bias=bias, mean_absolute_error=abs(bias))
    assert answers(data)[2] == answer
    way = "optimistic" if bias > 0 else "pessimistic"
    assert any(way in text for text in list_cautions(data)) == (answer == "no")


@pytest.mark.parametrize(("gap", "answer"), [(0.03, "yes"), (0.08, "partly"), (0.2, "no")])
def test_a_large_round_trip_gap_forbids_absolute_rates(sample: ReportData, gap: float, answer: str) -> None:
    data = with_gap(sample, gap)
    assert answers(data)[2] == answer
    warned = any("Absolute success is not to be trusted" in text for text in list_cautions(data))
    assert warned == (gap > 0.05)


def test_without_truth_nothing_outside_is_claimed(sample: ReportData) -> None:
    data = dataclasses.replace(sample, truth=None)
    assert answers(data) == ["partly", "unknown", "partly", "unknown"]
    assert answers(dataclasses.replace(data, round_trip=()))[2] == "unknown"


@pytest.mark.parametrize(("kappa", "answer"), [(0.9, "yes"), (0.6, "partly"), (0.2, "no")])
def test_single_episodes_are_judged_beyond_chance(sample: ReportData, kappa: float, answer: str) -> None:
    assert answers(with_estimates(sample, episode_kappa=kappa))[3] == answer


def test_the_choice_is_judged_by_its_least_certain_members(sample: ReportData) -> None:
    for certain, answer in ((0.99, "yes"), (0.3, "no")):
        lines = tuple(dataclasses.replace(p, p_top_k=certain) for p in sample.ranking.policies)
        data = dataclasses.replace(sample, ranking=dataclasses.replace(sample.ranking, policies=lines))
        assert answers(data)[0] == answer


def test_thin_evidence_is_admitted(sample: ReportData) -> None:
    few = [dataclasses.replace(p.triage, rollouts=12) for p in sample.ranking.policies]
    lines = tuple(
        dataclasses.replace(p, triage=t, audit=None) for p, t in zip(sample.ranking.policies, few, strict=True)
    )
    data = dataclasses.replace(
        with_estimates(sample, noise_ceiling=0.6),
        ranking=dataclasses.replace(sample.ranking, policies=lines),
        distinct_starts=1,
        remarks=("The judge abstained often.",),
    )
    text = " ".join(list_cautions(data))
    for part in (
        "about 0.60 only",
        "12 episodes only",
        "success is overstated",
        "begin from 1 start:",
        "abstained often",
    ):
        assert part in text


@pytest.mark.parametrize(("rate", "word"), [(0.0, "nothing"), (1.0, "everything")])
def test_rates_that_agree_because_all_are_alike_are_no_evidence(sample: ReportData, rate: float, word: str) -> None:
    data = with_estimates(sample, bias=0.0, mean_absolute_error=0.0)
    assert data.truth is not None
    rows = tuple(
        dataclasses.replace(
            row, world=dataclasses.replace(row.world, success=rate), truth=dataclasses.replace(row.truth, success=rate)
        )
        for row in data.truth.policies
    )
    data = dataclasses.replace(data, truth=dataclasses.replace(data.truth, policies=rows))
    assert answers(data)[2] == "unknown"
    assert f"every policy solved {word} on both sides" in assess_reliance(data)[2].reason


def test_a_biased_world_is_read_as_an_order_only_where_the_order_holds(sample: ReportData) -> None:
    advice = "Read its success rates as an order only."
    for order, expected in ((0.95, True), (0.5, False)):
        data = with_estimates(sample, bias=-0.37, mean_absolute_error=0.37, order_accuracy=order)
        assert (advice in " ".join(list_cautions(data))) == expected


def test_policies_outside_of_the_training_data_are_named(sample: ReportData) -> None:
    def at(*shares: float | None) -> ReportData:
        lines = (dataclasses.replace(p, outside=s) for p, s in zip(sample.ranking.policies, shares, strict=False))
        rest = sample.ranking.policies[len(shares) :]
        return dataclasses.replace(sample, ranking=dataclasses.replace(sample.ranking, policies=(*lines, *rest)))

    far = at(0.01, 0.35, 0.6, None)
    said = describe_outside(far)
    assert (
        said.startswith("2 policies act where this world was hardly trained") and "in 60\u202f% of its actions" in said
    )
    assert list_cautions(far)[0] == said
    page = render(far)
    assert page.count('data-label="outside">') == len(far.alive) and 'data-label="outside">35\u202f%' in page
    assert describe_outside(at(0.01, 0.1)) == describe_outside(sample) == ""
    assert ">outside</th>" not in render(sample)
