"""The report's figures (ranking with intervals, allocation by round, world against truth), and one picture of a run.

Each drawing takes a palette, so that page and picture share it. Values are drawn as given; nothing is computed here.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator, PercentFormatter

from worldsim.stats.intervals import Interval
from worldsim.triage.ranking.ranking import RankedPolicy
from worldsim.triage.report.canvas import PAGE, PAPER, Palette, draw_png, draw_svg, style_axes
from worldsim.triage.report.data import Clip, ComparedPolicy, ReportData
from worldsim.triage.report.training import Names, draw_training
from worldsim.video import Frames

WIDE_PX, NARROW_PX = 880, 368
_MANY = 80  # above this number of policies, marks merge into bands
_TIER_PX = 44  # room that the name of a tier takes
PICTURE_PX = 1000
_UPPER_PX = 360
_STRIP_FRAMES = 10
_NAMED_WINNERS, _NAMED_GAPS = 6, 3
_NAMED_TIERS = 6  # more tier borders than this are noise


def draw_both_widths(name: str, data: ReportData) -> tuple[str, str]:
    """Return a figure of this file for a wide and for a narrow page.

    Args:
        name: ``"ranking"``, ``"training"``, ``"allocation"`` or ``"agreement"``.
        data: What to show.
    """
    painter, alt = _FIGURES[name]
    out = []
    for width, height in ((WIDE_PX, _HEIGHTS[name][0]), (NARROW_PX, _HEIGHTS[name][1])):
        wide = width == WIDE_PX

        def draw(figure: Figure, wide: bool = wide) -> None:
            painter(figure, data, PAGE, wide)

        out.append(draw_svg(draw, name=f"{name}-{width}", width_px=width, height_px=height, alt=alt))
    return out[0], out[1]


def draw_ranking(figure: Figure, data: ReportData, palette: Palette, wide: bool) -> None:
    """Success by rank with both intervals, and below it the probability to belong to the best k."""
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    draw_success(upper, data, palette, width_px=WIDE_PX if wide else NARROW_PX)
    lines = data.alive
    chosen, rest = lines[: data.ranking.k], lines[data.ranking.k :]
    for part, colour in ((chosen, palette.accent), (rest, palette.other)):
        ranks = [p.rank for p in part]
        _draw_columns(lower, ranks, [0] * len(part), [p.p_top_k for p in part], colour, alpha=1, width=0.62)
    lower.set_ylim(0, 1)
    lower.set_yticks([0, 0.5, 1])
    lower.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    lower.set_ylabel(f"P(best {data.ranking.k})")
    lower.set_xlabel("rank")
    style_axes(lower, palette)


def draw_success(axes: Axes, data: ReportData, palette: Palette, *, width_px: float) -> None:
    """Success, or what ranks, by rank: dots, thick exact and thin anytime-valid intervals; the best k stand on a tinted field.

    Args:
        axes: Where to draw.
        data: What to show.
        palette: Colours.
        width_px: About how wide the axes are; tiers too narrow for their name go without.
    """
    lines = [p for p in data.alive if p.shown.success is not None]
    shown = {p.rank: data.ranked(p) for p in lines}
    k = data.ranking.k
    axes.axvspan(0.4, k + 0.5, color=palette.accent, alpha=0.07, linewidth=0)
    for part, colour in ((lines[:k], palette.accent), (lines[k:], palette.other)):
        if len(lines) <= _MANY:
            _draw_stems(axes, part, [shown[p.rank].success_anytime for p in part], colour, width=1.1, alpha=1.0)
            _draw_stems(axes, part, [shown[p.rank].success_exact for p in part], colour, width=4.2, alpha=0.4)
        else:
            _draw_band(axes, data, part, colour)
        size = 5.0 if len(lines) <= _MANY else 2.0
        axes.plot(
            [p.rank for p in part], [shown[p.rank].success or 0.0 for p in part], "o", color=colour, markersize=size
        )
    _draw_tier_borders(axes, lines, palette, narrowest=_TIER_PX / width_px * len(lines))
    axes.set_xlim(0.4, max(len(lines), 2) + 0.6)
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_xticks(_rank_ticks(len(lines)))
    axes.set_ylabel(f"{data.ranked_by} in the world")
    style_axes(axes, palette)


def _draw_stems(
    axes: Axes, lines: Sequence[RankedPolicy], spans: Sequence[Interval], colour: str, *, width: float, alpha: float
) -> None:
    axes.vlines(
        [p.rank for p in lines],
        [s.low for s in spans],
        [s.high for s in spans],
        color=colour,
        linewidth=width,
        alpha=alpha,
    )


def _draw_band(axes: Axes, data: ReportData, lines: Sequence[RankedPolicy], colour: str) -> None:
    """Intervals of very many policies, merged."""
    ranks = [p.rank for p in lines]
    for spans, alpha in (
        ([data.ranked(p).success_anytime for p in lines], 0.18),
        ([data.ranked(p).success_exact for p in lines], 0.3),
    ):
        axes.fill_between(
            ranks, [s.low for s in spans], [s.high for s in spans], step="mid", color=colour, alpha=alpha, linewidth=0
        )


def _rank_ticks(count: int) -> list[int]:
    """1 and the multiples of a round step, about ten in all."""
    step = next(s * 10**e for e in range(9) for s in (1, 5) if s * 10**e * 12 >= count)
    return sorted({1, *range(step, count + 1, step)})


def _draw_tier_borders(axes: Axes, lines: Sequence[RankedPolicy], palette: Palette, *, narrowest: float) -> None:
    """Dotted borders between tiers, where there are few enough to mean something; names only for wide tiers."""
    borders = [(a.rank, b.tier) for a, b in itertools.pairwise(lines) if a.tier != b.tier]
    if not borders or len(borders) >= _NAMED_TIERS:
        return
    for rank, _ in borders:
        axes.axvline(rank + 0.5, color=palette.muted, linewidth=0.8, linestyle=(0, (1, 3)))
    starts = [(0, lines[0].tier), *borders]
    ends = [rank for rank, _ in borders] + [len(lines)]
    for (rank, tier), end in zip(starts, ends, strict=True):
        if end - rank < narrowest:
            continue
        axes.annotate(
            f"tier {tier}",
            (rank + 0.5, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(2, 2),
            textcoords="offset points",
            color=palette.muted,
            fontsize=11,
        )


def draw_allocation(figure: Figure, data: ReportData, palette: Palette, wide: bool) -> None:
    """Rollouts of each policy, in rank order, stacked by round."""
    axes = figure.subplots()
    ranked = [line.policy for line in data.ranking.policies]
    ranks, base = list(range(1, len(ranked) + 1)), [0] * len(ranked)
    regular = [r for r in data.rounds if not r.audit]
    for part in data.rounds:
        alpha = 0.85 if part.audit else 0.25 + 0.6 * (regular.index(part) + 1) / len(regular)
        heights = [part.rollouts[policy] for policy in ranked]
        top = [a + b for a, b in zip(base, heights, strict=True)]
        colour = palette.fresh if part.audit else palette.accent
        _draw_columns(axes, ranks, base, top, colour, alpha=alpha, width=0.74)
        base = top
    even = sum(base) / len(base)
    axes.axhline(even, color=palette.muted, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        f"spread evenly: {even:.0f} each",
        (1, even),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=palette.muted,
    )
    axes.set_xlim(0.4, len(ranked) + 0.6)
    axes.set_xticks(_rank_ticks(len(ranked)))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.set_ylabel("rollouts")
    axes.set_xlabel("rank")
    style_axes(axes, palette)


def _draw_columns(
    axes: Axes,
    ranks: Sequence[int],
    base: Sequence[float],
    top: Sequence[float],
    colour: str,
    *,
    alpha: float,
    width: float,
) -> None:
    """Columns by rank; very many become one outline."""
    if len(ranks) <= _MANY:
        heights = [b - a for a, b in zip(base, top, strict=True)]
        axes.bar(ranks, heights, bottom=base, width=width, color=colour, alpha=alpha, linewidth=0)
    elif ranks:
        edges = [r - 0.5 for r in ranks] + [ranks[-1] + 0.5]
        axes.stairs(top, edges, baseline=base, fill=True, color=colour, alpha=alpha, linewidth=0)


def draw_agreement(figure: Figure, data: ReportData, palette: Palette, wide: bool) -> None:
    """World against truth: success, and progress beside it (below it on a narrow page)."""
    panels = figure.subplots(1, 2) if wide else figure.subplots(2, 1)
    for axes, quantity in zip(panels, ("success", "progress"), strict=True):
        draw_scatter(axes, data, palette, quantity=quantity)


def draw_scatter(axes: Axes, data: ReportData, palette: Palette, *, quantity: str) -> None:
    """World against truth for one quantity, with both intervals and the line where they are equal."""
    points = data.truth.policies if data.truth else ()
    winners = {line.policy for line in data.ranking.top}
    axes.plot([0, 1], [0, 1], color=palette.muted, linewidth=1, linestyle=(0, (4, 3)))
    widths = [_coordinate(p, side, quantity)[1].width for p in points for side in ("truth", "world")]
    faintness = min(0.45, max(0.12, 0.06 * len(widths) / max(sum(widths), 1e-9)))  # long intervals would cover the dots
    for chosen, colour in ((False, palette.other), (True, palette.accent)):
        part = [p for p in points if (p.policy in winners) == chosen]
        x, y = ([_coordinate(p, side, quantity) for p in part] for side in ("truth", "world"))
        if len(points) <= _MANY:
            _draw_cross(axes, x, y, colour, alpha=faintness)
        size = 5.0 if len(points) <= _MANY else 2.2
        axes.plot([value for value, _ in x], [value for value, _ in y], "o", color=colour, markersize=size)
    _name_points(axes, data, points, palette, quantity=quantity)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
        if quantity == "success":
            axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_xlabel(f"{quantity} in truth")
    axes.set_ylabel(f"{quantity} in the world")
    style_axes(axes, palette, grid="both")


def _name_points(
    axes: Axes, data: ReportData, points: Sequence[ComparedPolicy], palette: Palette, *, quantity: str
) -> None:
    """Name the winners, then those on which world and truth differ most, as far as there is room."""
    winners = {line.policy for line in data.ranking.top}
    gap = {p.policy: abs(_coordinate(p, "world", quantity)[0] - _coordinate(p, "truth", quantity)[0]) for p in points}
    wanted = sorted(points, key=lambda p: (p.policy not in winners, -gap[p.policy]))[: _NAMED_WINNERS + _NAMED_GAPS]
    places = {p.policy: (_coordinate(p, "truth", quantity)[0], _coordinate(p, "world", quantity)[0]) for p in points}
    names = Names(axes, palette, points=list(places.values()))
    for point in wanted:
        at = places[point.policy]
        names.write(data.labels[point.policy], at, share=at)


def _draw_cross(
    axes: Axes,
    x: Sequence[tuple[float, Interval]],
    y: Sequence[tuple[float, Interval]],
    colour: str,
    *,
    alpha: float,
) -> None:
    """Draw the intervals of points on both axes."""
    low, high = [interval.low for _, interval in x], [interval.high for _, interval in x]
    axes.hlines([value for value, _ in y], low, high, color=colour, alpha=alpha, linewidth=1.2)
    low, high = [interval.low for _, interval in y], [interval.high for _, interval in y]
    axes.vlines([value for value, _ in x], low, high, color=colour, alpha=alpha, linewidth=1.2)


def _coordinate(point: ComparedPolicy, side: str, quantity: str) -> tuple[float, Interval]:
    """Return one coordinate of a point with its interval: exact in truth, anytime-valid in the world."""
    measured = point.world if side == "world" else point.truth
    if quantity == "progress":
        return measured.progress or 0.0, measured.progress_anytime
    return measured.success or 0.0, measured.success_anytime if side == "world" else measured.success_exact


_HEIGHTS = {"ranking": (400, 380), "training": (320, 300), "allocation": (280, 260), "agreement": (430, 690)}
_FIGURES = {
    "ranking": (
        draw_ranking,
        "Success of every policy by rank, with intervals, and its probability to be among the best",
    ),
    "training": (draw_training, "Success of every checkpoint against its training step, a line for each run"),
    "allocation": (draw_allocation, "Rollouts spent on each policy, by rank and round"),
    "agreement": (draw_agreement, "Success and progress of each policy in the world against the ground truth"),
}


def draw_picture(data: ReportData) -> bytes:
    """Return a PNG, 2000 pixels wide: ranking left, agreement right, frames of one episode below.

    Parts without data are left out: the scatter without a ground truth, the strip without a clip.
    """
    clip = _choose_clip(data)
    rows = 0 if clip is None else 1 if clip.truth is None else 2
    strip = rows * PICTURE_PX / _STRIP_FRAMES + (26 if rows else 0)

    def draw(figure: Figure) -> None:
        upper: FigureBase = figure
        if clip is not None:
            grid = figure.add_gridspec(2, 1, height_ratios=[_UPPER_PX, strip])
            upper = figure.add_subfigure(grid[0])
            _draw_strip(figure.add_subfigure(grid[1]), clip)
        if data.truth is None:
            left = upper.subplots()
        else:
            left, right = upper.subplots(1, 2, width_ratios=[1.75, 1])
            draw_scatter(right, data, PAPER, quantity="success")
            _set_caption(right, _describe_agreement(data))
        draw_success(left, data, PAPER, width_px=PICTURE_PX * (1 if data.truth is None else 0.55))
        left.set_xlabel("checkpoints by rank")
        _set_caption(
            left,
            f"best {data.ranking.k} of {len(data.ranking.policies)} checkpoints, {data.ranking.rollouts:,} rollouts",
        )

    return draw_png(draw, width_px=PICTURE_PX, height_px=round(_UPPER_PX + strip))


def _set_caption(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", color=PAPER.ink, fontsize=12.5, pad=20)


def _describe_agreement(data: ReportData) -> str:
    """Write the correlation with its interval, where there is one."""
    r = data.truth.success.get("pearson") if data.truth else None
    if r is None or r.value is None or r.low is None:
        return "world and truth"
    return f"r = {r.value:.2f} [{r.low:.2f}, {r.high:.2f}], {r.n} checkpoints"


def _choose_clip(data: ReportData) -> Clip | None:
    """The first win with both sides, else the first clip."""
    both = [c for c in data.clips if c.truth is not None]
    wins = [c for c in both if c.kind == "win"]
    return next(iter(wins or both or data.clips), None)


def _draw_strip(figure: FigureBase, clip: Clip) -> None:
    """Frames at even distances, the world above the truth."""
    sides: list[tuple[str, Frames]] = [("world", clip.world)]
    if clip.truth is not None:
        sides.append(("truth", clip.truth))
    grid = figure.subplots(len(sides), _STRIP_FRAMES, squeeze=False, gridspec_kw={"hspace": 0.02, "wspace": 0.02})
    for i, (row, (name, frames)) in enumerate(zip(grid, sides, strict=True)):
        for axes, at in zip(row, np.linspace(0, len(frames) - 1, _STRIP_FRAMES).round().astype(int), strict=True):
            axes.imshow(frames[at], interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if i == 0:
                axes.set_title(f"{at / clip.rate_hz:.1f} s", fontsize=10, color=PAPER.muted, pad=3)
        row[0].set_ylabel(name, color=PAPER.muted)
