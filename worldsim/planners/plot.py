"""One picture of a planner at work: the futures it imagined, how its search went, and what was promised and came.

Matplotlib is imported when something is drawn, never before.

Shape legend: N candidates, h steps that a plan looks ahead, T steps of the episode, I iterations.
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from worldsim.core import WorldState
from worldsim.errors import InvalidInputError
from worldsim.planners.objective import Objective, Scores, unrolled
from worldsim.planners.search import Plan
from worldsim.planners.world_objective import predict_rollout
from worldsim.protocols import Filterable, World

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 64  # candidates beyond this many hide each other; the best are kept
_INK, _MUTED, _REAL, _PROMISED, _MARK = "#1f2430", "#8a90a0", "#1f2430", "#d1495b", "#ff2bd6"
_STYLE: dict[str, object] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "text.parse_math": False,
    "svg.hashsalt": "worldsim",
}


class Witness:
    """Passes an objective on and remembers what it was asked, to draw it.

    Args:
        objective: What is minimised.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._asked: list[tuple[Tensor, Tensor]] = []

    def __call__(self, actions: Tensor) -> Scores:
        """The objective's answer, costs [B, N] of actions [B, N, H, A]."""
        scores = self._objective(actions)
        cost = scores[0] if isinstance(scores, tuple) else scores
        self._asked.append((actions.detach().cpu().clone(), cost.detach().cpu()))
        return scores

    def candidates(self, episode: int = 0) -> tuple[Tensor, Tensor]:
        """Every candidate [N, H, A] of an episode that was evaluated, and its cost [N]."""
        actions, costs = zip(*self._asked, strict=True)
        return torch.cat([a[episode] for a in actions]), torch.cat([c[episode] for c in costs])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Futures:
    """Imagined continuations of one episode.

    Attributes:
        cost: [N].
        progress: [N, h].
        place: [N, h + 1, 2], where the body would go, from where it stands; None where a body has no place in a plane.
    """

    cost: Tensor
    progress: Tensor
    place: Tensor | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backdrop:
    """A frame and where its edges lie in the plane of the body.

    Attributes:
        frame: uint8 [H, W, 3].
        extent: Left, right, bottom and top edge, in the units of the body's place.
    """

    frame: Tensor
    extent: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ride:
    """What an executed episode promised and brought.

    Attributes:
        real: [T], progress after each step.
        promised: (steps done before the plan, progress [h] that it predicted), one per plan shown.
    """

    real: Tensor
    promised: Sequence[tuple[int, Tensor]]


@torch.no_grad()
def imagine(
    world: World,
    state: WorldState,
    actions: Tensor,
    cost: Tensor,
    *,
    repeat: int = 1,
    block: int = 1,
    in_plane: bool = False,
) -> Futures:
    """Roll candidates out once more, to draw where they lead.

    Args:
        world: The world that was planned in.
        state: Where the episode stands, one row.
        actions: [N, H, A], physical units.
        cost: [N].
        repeat: Control steps for which each action is held.
        block: Distinct actions in each planned step.
        in_plane: The proprioception is the body's place in a plane, so that paths can be drawn.

    Raises:
        InvalidInputError: More than one episode, or none; or places of a body that has no two coordinates.
    """
    if state.batch != 1 or len(cost) != len(actions):
        raise InvalidInputError(
            f"One episode's candidates can be drawn; got {state.batch} episodes, {len(actions)} candidates and "
            f"{len(cost)} costs."
        )
    path = predict_rollout(world, state.repeat(len(actions)), unrolled(actions, block=block, repeat=repeat))
    place = None
    if in_plane and world.spec.proprio_dim != 2:
        raise InvalidInputError(
            f"A place in a plane is two numbers; this world's proprioception has {world.spec.proprio_dim}."
        )
    if in_plane and isinstance(world, Filterable):
        here = world.present(state).proprio[:, None].expand(len(actions), 1, -1)
        place = torch.cat([here, path.proprio], dim=1).cpu()
    return Futures(cost=cost.cpu(), progress=path.progress.cpu(), place=place)


def plan_picture(
    plan: Plan,
    futures: Futures,
    chosen: Futures,
    ride: Ride,
    *,
    backdrop: Backdrop | None = None,
    rate_hz: float = 1.0,
    kind: Literal["png", "svg"] = "png",
) -> bytes:
    """Draw a plan: candidate futures by cost, cost by iteration, progress promised and real.

    Args:
        plan: The search whose candidates are shown; its first episode.
        futures: The candidates.
        chosen: The plan's own actions, as futures of N = 1.
        ride: The episode that followed.
        backdrop: What the body moves over; without it, or without places, plain axes.
        rate_hz: Control steps per second, for the axes of time.
        kind: Of file.

    Returns:
        The file; the same values give the same bytes.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(13.5, 4.1), layout="constrained")
        FigureCanvasAgg(figure)
        left, middle, right = figure.subplots(1, 3)
        _futures(figure, left, futures, chosen, backdrop, rate_hz)
        _search(middle, plan)
        _ride(right, ride, rate_hz)
        out = io.BytesIO()
        still: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(out, format=kind, dpi=120, metadata=still)
        return out.getvalue()


def _futures(
    figure: "Figure", axes: "Axes", futures: Futures, chosen: Futures, backdrop: Backdrop | None, rate_hz: float
) -> None:
    """Candidates as thin lines coloured by cost, the worst drawn first, and the chosen one bold."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    order = futures.cost.argsort(descending=True)
    order = order[futures.cost[order].isfinite()][-_SHOWN:]
    if futures.place is not None and chosen.place is not None:
        lines, bold = futures.place[order], chosen.place[0]
        _plane(axes, backdrop, torch.cat([lines.flatten(0, 1), bold]))
    else:
        steps = (torch.arange(futures.progress.shape[1]) + 1) / rate_hz
        lines = torch.stack([steps.expand(len(order), -1), futures.progress[order]], dim=2)
        bold = torch.stack([steps, chosen.progress[0]], dim=1)
        axes.set(xlabel="time ahead, s", ylabel="imagined progress", ylim=(0, 1.02), xlim=(0, float(steps[-1])))
    cost = futures.cost[order]
    scale = Normalize(float(cost.min()), float(cost.max())) if len(cost) else Normalize(0, 1)
    drawn = LineCollection(list(lines.numpy()), cmap="viridis_r", norm=scale, linewidths=0.9, alpha=0.75)
    drawn.set_array(cost.numpy())
    axes.add_collection(drawn)
    axes.plot(*bold.T.numpy(), color="white", linewidth=5, solid_capstyle="round")
    axes.plot(*bold.T.numpy(), color=_MARK, linewidth=2.6, label="chosen", solid_capstyle="round")
    axes.legend(loc="upper right", fontsize=9, framealpha=0.85)
    figure.colorbar(drawn, ax=axes, label="cost", shrink=0.8, pad=0.02)
    axes.set_title(f"first plan: {len(order)} best of {len(futures.cost)} imagined futures")


def _plane(axes: "Axes", backdrop: Backdrop | None, points: Tensor) -> None:
    """A plane of places, over a frame where there is one."""
    axes.set_aspect("equal")
    axes.set(xlabel="x", ylabel="y")
    if backdrop is not None:
        axes.imshow(backdrop.frame.numpy(), extent=backdrop.extent, interpolation="nearest")
        axes.set(xlim=backdrop.extent[:2], ylim=backdrop.extent[2:])
        return
    low, high = points.amin(0).tolist(), points.amax(0).tolist()
    margin = 0.05 * max(high[0] - low[0], high[1] - low[1]) + 1e-6
    axes.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin))


def _search(axes: "Axes", plan: Plan) -> None:
    """Best cost so far, and mean and spread of each iteration."""
    best, spread = plan.stats.best[0].cpu(), plan.stats.spread[0].cpu()
    known = [c[0][c[0].isfinite()] for c in plan.stats.costs]
    mean = torch.stack([k.mean() if len(k) else k.new_tensor(torch.nan) for k in known]).cpu() if known else best
    x = torch.arange(1, len(best) + 1)
    few: Any = {"marker": "o", "markersize": 4} if len(best) <= 12 else {}
    axes.fill_between(
        x.numpy(), (mean - spread).numpy(), (mean + spread).numpy(), color=_MUTED, alpha=0.25, linewidth=0
    )
    axes.plot(x.numpy(), mean.numpy(), color=_MUTED, label="candidates, mean and spread", **few)
    axes.plot(x.numpy(), best.numpy(), color=_MARK, linewidth=2, label="best so far", **few)
    if len(best) <= 12:
        axes.set_xticks(x.numpy())
    axes.set(xlabel="iteration", ylabel="cost")
    axes.legend(loc="upper right", fontsize=9, framealpha=0.85)
    axes.set_title(f"search: {plan.stats.evaluations} evaluations")


def _ride(axes: "Axes", ride: Ride, rate_hz: float) -> None:
    """Progress as it came, and as plans along the way predicted it."""
    steps = (torch.arange(len(ride.real)) + 1) / rate_hz
    for number, (begin, predicted) in enumerate(ride.promised):
        x = (begin + 1 + torch.arange(len(predicted))) / rate_hz
        label = "predicted by a plan" if number == 0 else None
        few: Any = {"marker": "."} if len(predicted) < 3 else {}
        axes.plot(x.numpy(), predicted.cpu().numpy(), color=_PROMISED, linestyle="--", label=label, **few)
        axes.axvline(begin / rate_hz, color=_MUTED, linewidth=0.6, alpha=0.5)
    axes.plot(steps.numpy(), ride.real.cpu().numpy(), color=_REAL, linewidth=2, label="real")
    axes.set(xlabel="time, s", ylabel="progress", ylim=(0, 1.02), xlim=(0, float(steps[-1])))
    axes.legend(loc="lower right", fontsize=9, frameon=False)
    axes.set_title("executed episode")
