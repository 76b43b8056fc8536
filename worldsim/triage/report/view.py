"""The page's own view of a report: every table as rows of finished strings, so that the template holds no arithmetic.

Strings are plain text; the template escapes them. Not for sentences (`words`) or judgements (`trust`).
"""

import dataclasses

from worldsim.stats.intervals import Estimate, Interval
from worldsim.triage.ranking.ranking import RankedPolicy
from worldsim.triage.report.data import Clip, ReportData
from worldsim.triage.report.truth import Episodes
from worldsim.triage.report.videos import Film
from worldsim.triage.report.words import chance, estimate, percent, points, span, whole

MOST_ROWS = 300
"""Policies that the page lists one by one; the rest are in ranking.json."""

ESTIMATES: dict[str, tuple[str, str]] = {
    "pearson": ("Pearson r", "linear correlation over policies; blind to offset and scale"),
    "noise_ceiling": ("Noise ceiling of r", "what a perfect world would be expected to show with these rollouts"),
    "pearson_disattenuated": ("r net of noise", "what endless rollouts would show; noise can lift it above 1"),
    "pearson_without_extremes": ("r without best and worst", "a single broken policy can make r look good"),
    "spearman": ("Spearman", "correlation of the ranks"),
    "kendall": ("Kendall tau-b", "pairs in the right order minus pairs in the wrong one, as a share"),
    "order_accuracy": (
        "Clear pairs in order",
        "pairs of policies clearly apart in truth that the world orders rightly",
    ),
    "mmrv": ("MMRV", "mean maximum rank violation: how much true success a wrong order costs; 0 is best"),
    "bias": ("Mean bias", "world minus truth; positive where the world is optimistic"),
    "bias_spread": ("Spread of the bias", "between policies, net of noise: this is what reorders them"),
    "mean_absolute_error": ("Mean absolute error", "of the world's rates"),
    "recall": ("Recall of the best k", "share of the world's best k that are truly among the best k"),
    "recall_within_epsilon": ("Recall, ties forgiven", "the same, counting those within a small distance of the k-th"),
    "regret": ("Regret", "true success lost by taking the best of the world's k rather than the best of all"),
    "set_regret": ("Set regret", "mean true success lost over all k"),
    "episode_phi": ("Episode correlation", "of single outcomes, same start and same noise"),
    "episode_phi_within": ("... within a policy", "the same, not counting differences between policies"),
    "episode_accuracy": ("Episodes alike", "matched episodes with the same outcome"),
    "episode_kappa": ("Cohen's kappa", "agreement of outcomes beyond chance; 1 is perfect"),
}
"""Label and meaning of every estimate by name; one that is not listed is shown under its own name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bar:
    """A rate on a 0..100 track: the dot, and both intervals, in per cent of the track."""

    value: str
    wide_from: str
    wide_to: str
    from_: str
    to: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the ranking table."""

    rank: int
    label: str
    name: str
    tier: int
    letters: str
    chosen: bool
    success: str
    anytime: str
    exact: str
    bar: Bar | None
    progress: str
    progress_span: str
    p_top: str
    rollouts: str
    corrected: str = ""  # rate and interval without the judge's errors; empty where nothing was corrected


@dataclasses.dataclass(frozen=True, kw_only=True)
class Number:
    """An estimate by quantity: label, meaning, and its value for success and progress."""

    label: str
    meaning: str
    success: str
    progress: str
    n: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TripRow:
    """One line of the round-trip table."""

    label: str
    direct: str
    decoded: str
    gap: str
    rollouts: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilmView:
    """A film with its caption."""

    film: Film
    label: str
    episode: int
    world: str
    truth: str
    verdict: str


VERDICTS = {
    "win": "win",
    "loss": "loss",
    "optimistic": "only the world solves it",
    "pessimistic": "only the truth solves it",
}


def ranking_rows(data: ReportData) -> tuple[Row, ...]:
    """Lines of the policies that ran, best first, at most `MOST_ROWS` of them."""
    labels = data.labels
    return tuple(_row(line, labels[line.policy], data.ranking.k) for line in data.alive[:MOST_ROWS])


def _row(line: RankedPolicy, label: str, k: int) -> Row:
    shown = line.shown
    none = shown.success is None
    audit = f" + {whole(line.audit.rollouts)}" if line.audit else ""
    return Row(
        rank=line.rank,
        label=label,
        name=line.name,
        tier=line.tier,
        letters=line.letters if any(len(x) > 1 for x in line.letters.split()) else line.letters.replace(" ", ""),
        chosen=line.rank <= k,
        success=percent(shown.success, decimals=1),
        anytime="" if none else span(shown.success_anytime),
        exact="" if none else span(shown.success_exact),
        bar=None if shown.success is None else bar(shown.success, shown.success_exact, shown.success_anytime),
        progress="–" if shown.progress is None else f"{shown.progress:.2f}",
        progress_span="" if none else f"[{shown.progress_anytime.low:.2f}, {shown.progress_anytime.high:.2f}]",
        p_top=chance(line.p_top_k),
        rollouts=f"{whole(line.triage.rollouts)}{audit}",
        corrected=f"{percent(rate.value, decimals=1)} {span(rate.interval)}" if (rate := line.corrected) else "",
    )


def bar(value: float, exact: Interval, anytime: Interval) -> Bar:
    """Place a rate and its intervals on a track."""
    return Bar(
        value=_place(value),
        wide_from=_place(anytime.low),
        wide_to=_place(1 - anytime.high),
        from_=_place(exact.low),
        to=_place(1 - exact.high),
    )


def numbers(data: ReportData) -> tuple[Number, ...]:
    """Every estimate of agreement, in reading order."""
    if data.truth is None:
        return ()
    progress = {e.name: e for e in data.truth.progress.estimates} if data.truth.progress else {}
    rows = []
    for given in data.truth.success.estimates:
        label, meaning = ESTIMATES.get(given.name, (given.name.replace("_", " "), ""))
        other = progress.get(given.name)
        rows.append(
            Number(
                label=label,
                meaning=meaning,
                success=estimate(given),
                progress=estimate(other) if other else "–",
                n=whole(given.n),
            )
        )
    return tuple(rows)


def figures_of_merit(data: ReportData) -> tuple[tuple[str, str, str], ...]:
    """The few estimates that stand out on the page: label, value, remark."""
    if data.truth is None:
        return ()
    found: dict[str, Estimate] = {e.name: e for e in data.truth.success.estimates}
    shown = [found[name] for name in ("pearson", "noise_ceiling", "mmrv", "bias", "episode_accuracy") if name in found]
    return tuple((ESTIMATES[e.name][0], *_split(e)) for e in shown)


def _split(given: Estimate) -> tuple[str, str]:
    """Value and interval of an estimate apart."""
    if given.value is None:
        return "–", f"undefined: {given.undefined}"
    value, _, interval = estimate(given).partition(" [")
    unit = "episodes" if given.name.startswith("episode") else "policies"
    return value, f"[{interval} over {whole(given.n)} {unit}" if interval else f"{whole(given.n)} {unit}"


def trips(data: ReportData) -> tuple[TripRow, ...]:
    """Lines of the round-trip table, at most `MOST_ROWS`."""
    labels = data.labels
    rows = []
    for trip in data.round_trip[:MOST_ROWS]:
        gap = trip.direct.mean - trip.decoded.mean
        sign = "−" if gap > 0 else "+" if gap < 0 else ""
        ends = f" [{-100 * trip.gap.high:.0f}, {-100 * trip.gap.low:.0f}]".replace("-", "−") if trip.gap else ""
        rows.append(
            TripRow(
                label=labels[trip.policy],
                direct=f"{percent(trip.direct.mean)} {span(trip.direct.interval)}",
                decoded=f"{percent(trip.decoded.mean)} {span(trip.decoded.interval)}",
                gap=f"{sign}{points(gap)}{ends}",
                rollouts=whole(trip.direct.rollouts),
            )
        )
    return tuple(rows)


def film_views(data: ReportData, films: tuple[Film, ...]) -> tuple[FilmView, ...]:
    """Films with their captions."""
    labels = data.labels
    return tuple(
        FilmView(
            film=film,
            label=labels[film.clip.policy],
            episode=film.clip.episode,
            world=_ending(film.clip.world_success, film.clip.world_progress),
            truth=_truth_ending(film.clip),
            verdict=VERDICTS[film.clip.kind],
        )
        for film in films
    )


def crosstab(episodes: Episodes) -> tuple[tuple[str, str], ...]:
    """The four cells of matched outcomes, as counts with their share: both, only world, only truth, neither."""
    cells = (episodes.both, episodes.only_world, episodes.only_truth, episodes.neither)
    return tuple((whole(n), percent(n / max(episodes.total, 1), decimals=1)) for n in cells)


def _truth_ending(clip: Clip) -> str:
    return "" if clip.truth_success is None else _ending(clip.truth_success, clip.truth_progress)


def _ending(success: float, progress: float | None) -> str:
    verdict = "solved" if success >= 0.5 else "not solved"
    return verdict if progress is None else f"{verdict}, progress {progress:.2f}"


def _place(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"
