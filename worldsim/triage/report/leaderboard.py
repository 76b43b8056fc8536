"""The leaderboard for a terminal: rich where there is one, plain aligned text where the output goes to a file or a pipe.

Print it with a rich console and ``soft_wrap=True``, so that lines in a pipe are not cut.
"""

import dataclasses
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from worldsim.text import printable, shorten, strip_common_parts
from worldsim.triage.ranking.ranking import RankedPolicy, Ranking

_LONGEST = 60  # characters of a name; ranking.json has them in full
_WIDE = 100  # characters from which a terminal has room for bars
_TRACK = 12  # cells of a success bar


@dataclasses.dataclass(frozen=True)
class Leaderboard:
    """A leaderboard to print.

    Attributes:
        ranking: What to show.
        rows: How many policies to list at most; by default the best k and as many again, at least 20. Crashed ones are
            listed in addition.
    """

    ranking: Ranking
    rows: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw a table on a terminal, and plain lines elsewhere."""
        if console.is_terminal:
            yield self._table(bar=options.max_width >= _WIDE)
            yield from self._remarks()
            return
        for line in self.plain().splitlines():
            yield Segment(line)
            yield Segment.line()

    def plain(self) -> str:
        """Return the leaderboard as aligned text without colour or frames, one policy a line."""
        body = [self._cells(line, name) for line, name in self._shown()]
        cells = [self._columns(), *body]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join(c.ljust(w) if i == 1 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in cells
        ]
        return "\n".join([line.rstrip() for line in lines] + [text.plain for text in self._remarks()])

    @property
    def _max_rows(self) -> int:
        return max(20, 2 * self.ranking.k) if self.rows is None else self.rows

    @property
    def _corrects(self) -> bool:
        """Whether a judge's rates were corrected; there is a column more then."""
        return any(line.corrected is not None for line in self.ranking.policies)

    def _columns(self) -> Sequence[str]:
        """Headings, in the order of the cells."""
        corrected = ("corrected",) if self._corrects else ()
        measured = (
            ("progress", "interval", "solved")
            if self.ranking.by_progress
            else ("success", "interval", *corrected, "progress")
        )
        return (
            "#",
            "checkpoint",
            "score",
            *measured,
            f"P(top {self.ranking.k})",
            "rollouts",
        )

    def _cells(self, line: RankedPolicy, name: str) -> Sequence[str]:
        """The cells of a line, in the order of `_columns`."""
        shown = line.shown
        success = "-" if shown.success is None else f"{100 * shown.success:.1f}%"
        progress = "-" if shown.progress is None else f"{shown.progress:.2f}"
        if self.ranking.by_progress:
            score, span = "" if line.score is None else f"{line.score:.2f}", shown.progress_anytime
            measured = (progress, f"[{span.low:.2f}, {span.high:.2f}]" if shown.rollouts else "", success)
        else:
            score, span = "" if line.score is None else f"{100 * line.score:.1f}%", shown.success_anytime
            interval = "" if shown.success is None else f"[{100 * span.low:.0f}, {100 * span.high:.0f}]"
            measured = (success, interval, *((_corrected(line),) if self._corrects else ()), progress)
        return (
            self.ranking.places[line.policy],
            name,
            score or "-",
            *measured,
            self._chance(line),
            f"{line.triage.rollouts}{f' + {line.audit.rollouts}' if line.audit else ''}",
        )

    def _chance(self, line: RankedPolicy) -> str:
        """The probability of being among the first k; a dash where no more than k are left to choose from."""
        if not self.ranking.selects:
            return "-"
        return ">99%" if line.p_top_k > 0.995 else "<1%" if line.p_top_k < 0.005 else f"{100 * line.p_top_k:.0f}%"

    def _shown(self) -> list[tuple[RankedPolicy, str]]:
        """Lines to list, with their labels."""
        short = strip_common_parts([line.name for line in self.ranking.policies])
        pairs = zip(self.ranking.policies, short, strict=True)
        alive = [(line, shorten(label, width=_LONGEST)) for line, label in pairs if line.failed is None]
        return alive[: self._max_rows]

    def _table(self, *, bar: bool) -> Table:
        """Draw the table for a terminal; the chosen k are bright."""
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        rank, checkpoint, *others = self._columns()
        for name in (rank, checkpoint, *([""] if bar else []), *others):
            left = name in ("checkpoint", "")
            table.add_column(
                name, justify="left" if left else "right", no_wrap=name != "checkpoint", overflow="fold", min_width=1
            )
        for line, name in self._shown():
            rank, label, *rest = self._cells(line, name)
            chosen = line.rank <= self.ranking.k
            value = line.shown.progress if self.ranking.by_progress else line.shown.success
            cells = [rank, label, *([_track(value)] if bar else []), *rest]
            table.add_row(
                *(Text(c) for c in cells), style="" if chosen else "dim", end_section=line.rank == self.ranking.k
            )
        return table

    def _remarks(self) -> list[Text]:
        """Say how the table is ordered and what it leaves out: policies below, and policies that crashed."""
        alive = [p for p in self.ranking.policies if p.failed is None]
        order = "Sorted by score, the posterior mean of success over all rollouts; equal success by progress."
        cut = self.ranking.censoring
        if cut is not None and cut.by_progress:
            order = (
                f"Sorted by score, the posterior mean of progress after {cut.steps} of {cut.length} actions. There is no ranking by "
                f"success: {100 * cut.share:.0f} % of rollouts are undecided then."
            )
        elif self.ranking.same_success is not None:
            order = "Success is the same for all: sorted by progress alone."
        ties = " Ranks with = are ties." if any(p.endswith("=") for p in self.ranking.places.values()) else ""
        if any(p.audit for p in alive):
            ties += " Success, interval and progress are of the fresh episodes, after the +, where there are any."
        found = [Text(f"{order}{ties}", style="dim")] if alive else []
        found += (
            [Text(f"... and {len(alive) - self._max_rows} more", style="dim")] if len(alive) > self._max_rows else []
        )
        for line, name in zip(
            self.ranking.policies, strip_common_parts([p.name for p in self.ranking.policies]), strict=True
        ):
            if line.failed is not None:
                reason = printable(" ".join(line.failed.split()))
                found.append(Text(f"crashed: {shorten(name, width=_LONGEST)}: {reason}", style="red"))
        return found


def _corrected(line: RankedPolicy) -> str:
    """The corrected rate and its interval."""
    rate = line.corrected
    if rate is None:
        return "-"
    return f"{100 * rate.value:.1f}% [{100 * rate.interval.low:.0f}, {100 * rate.interval.high:.0f}]"


def _track(share: float | None) -> str:
    """A bar of a share in eighths of a cell."""
    if share is None:
        return ""
    eighths = round(share * _TRACK * 8)
    return "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")
