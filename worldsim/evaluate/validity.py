"""Measures what a world is good for: recorded actions from held-out starts, and what was recorded beside what it predicts.

Shape legend: E episodes, T actions, S steps of the world, J horizons, K things, H W pixels, P proprio, A action, D any numbers.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.data.latents import EncodedEpisodes
from worldsim.data.lerobot.read import Dataset
from worldsim.evaluate.open_loop import (
    HORIZONS,
    MEDIAN_FRAMES,
    MOST_EPISODES,
    ROBOT,
    Errors,
    Recorded,
    Rolled,
    combine_errors,
    draw_step,
    drawn_share,
    label_errors,
    picture_errors,
    place_errors,
    proprio_errors,
    read_recorded,
    roll,
    state_errors,
)
from worldsim.evaluate.validity_picture import MOST_SHOWN, SHOWN, draw_sheet
from worldsim.stats.correlation import spearman
from worldsim.validity.coverage import Coverage
from worldsim.validity.curve import valid_horizon
from worldsim.validity.validity import Outcomes, Response, Spread, Validity
from worldsim.worlds.latent import LearnedWorld
from worldsim.worlds.state import StateWorld

PICTURE = "held_out.png"
_RANKED = (8, 16, 32)
"""Actions ahead at which the spread is compared with errors."""
_FEW_RANKED = 8
"""Episodes of which a rank correlation is taken at least."""
_CHANGES = 0.1
"""Share of episodes in which something must change to be what outcomes are read from."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What was measured.

    Attributes:
        validity: Of the world.
        picture: Truth above prediction as PNG; None where nothing is drawn.
        outside: Share of the recorded moments that lie outside of the training data; None where that is not known.
        errors: Of every episode, by quantity, at the horizons.
        horizons: Actions ahead.
    """

    validity: Validity
    picture: bytes | None
    outside: float | None = None
    errors: tuple[Errors, ...] = ()
    horizons: tuple[int, ...] = ()


def measure_validity(
    world: LearnedWorld, held_out: Sequence[int], dataset: Dataset, *, coverage: Coverage | None = None
) -> Measured:
    """Measure a world on episodes that it was not trained on.

    Args:
        world: What was trained.
        held_out: Episodes of the dataset; at most `MOST_EPISODES` are used.
        dataset: Where they are from.
        coverage: Of the training data, see `measure_coverage`.

    Raises:
        StorageError: An episode cannot be read.
    """
    recorded = read_recorded(world.spec, held_out, dataset)
    if recorded is None:
        return Measured(validity=Validity(coverage=coverage), picture=None)
    rolled = roll(world, recorded, recorded.actions)
    every = measure_errors(world, recorded, rolled)
    curves = {e.quantity: c for e in every if (c := e.curve(recorded.horizons)) is not None}
    read_from = choose_read_from(world, every, recorded.horizons)
    longest = max(dataset.length(i) for i in dataset.used) - 1
    chosen = [curves[name] for name in read_from]
    outcomes = count_outcomes(
        rolled.success_ES,
        recorded.success,
        success_at=world.spec.success_at,
        per_step=world.spec.actions_per_step,
    )
    validity = Validity(
        curves=tuple(curves.values()),
        read_from=read_from,
        horizon=valid_horizon(chosen, recorded=longest, horizon=world.spec.horizon) if chosen else None,
        episodes=len(recorded.keys),
        response=_response(world, recorded, rolled),
        spread=compare_spread(recorded, rolled, [e for e in every if e.quantity in read_from]),
        coverage=coverage,
        outcomes=outcomes,
        drawn=drawn_share(world, recorded),
    )
    return Measured(
        validity=validity,
        picture=_picture(world, recorded, rolled) if world.spec.cameras else None,
        outside=None if coverage is None else _outside(coverage, recorded),
        errors=tuple(every),
        horizons=recorded.horizons,
    )


def measure_errors(world: LearnedWorld, recorded: Recorded, rolled: Rolled, *, pictures: bool = True) -> list[Errors]:
    """Errors of everything that can be compared: pictures where they are asked for, places, proprioception, states, labels."""
    return [
        *(picture_errors(world, recorded, rolled) if pictures and world.spec.cameras else []),
        *place_errors(world, recorded, rolled),
        *proprio_errors(recorded, rolled),
        *state_errors(recorded, rolled),
        *label_errors(recorded, rolled, world.spec),
    ]


def measure_coverage(trained: EncodedEpisodes, action: ActionSpec) -> Coverage:
    """What proprioception and actions the episodes hold that a world is trained on."""
    proprio_NP = torch.cat([e.proprio_FP[: len(e.action_FA)] for e in trained.episodes]).double()
    unit_NE = torch.cat([e.action_FA for e in trained.episodes])[:, : action.encoded_dim]
    return Coverage.measure(proprio_NP.numpy(), action.denormalize(unit_NE).double().numpy())


def _outside(coverage: Coverage, recorded: Recorded) -> float:
    """Share of moments at the start and the horizons, before the last action, that lie outside of the training data."""
    at = torch.tensor([0, *recorded.horizons])
    known = at < recorded.lengths[:, None]
    action_EJA = recorded.actions[:, at.clamp_max(recorded.actions.shape[1] - 1)]
    return float(coverage.outside(recorded.proprio[known].double().numpy(), action_EJA[known].double().numpy()).mean())


def choose_read_from(world: LearnedWorld, errors: Sequence[Errors], horizons: Sequence[int]) -> tuple[str, ...]:
    """Quantities that the outcome of a rollout is read from: places or states that change, else labels, else pictures."""
    curves = {e.quantity: c for e in errors if (c := e.curve(horizons)) is not None}
    moving = [name for name, c in curves.items() if c.unit == "px" and c.changes >= _CHANGES and ROBOT not in name]
    states = ["states"] if isinstance(world, StateWorld) and "states" in curves else []
    labels = [n for n in ("progress", "success") if n in curves and curves[n].changes >= _CHANGES][:1]
    pictures = [name for name, c in curves.items() if c.unit == "grey levels"]
    return tuple(next(filter(None, (states, moving, labels, pictures)), []))


def _response(world: LearnedWorld, recorded: Recorded, rolled: Rolled) -> Response | None:
    """How much errors grow under other actions; None where nothing can be compared."""
    if len(recorded.keys) < 2:
        return None
    idle = torch.tensor(world.spec.action.idle, dtype=torch.float32).expand_as(recorded.actions)
    others = [roll(world, recorded, actions) for actions in (recorded.actions.roll(1, 0), idle)]
    for measure in (proprio_errors, state_errors):
        found = [measure(recorded, r) for r in (rolled, *others)]
        if found[0] and bool(found[0][0].world.isfinite().any()):
            true, shuffled, still = (float(f[0].world[f[0].world.isfinite()].mean()) for f in found)
            return Response(
                quantity=found[0][0].quantity, true=round(true, 5), shuffled=round(shuffled, 5), idle=round(still, 5)
            )
    if not world.spec.cameras:
        return None
    pictures = [picture_errors(world, recorded, r)[0] for r in (rolled, *others)]
    true, shuffled, still = (round(float(f.world[f.world.isfinite()].mean()), 5) for f in pictures)
    return Response(quantity=pictures[0].quantity, true=true, shuffled=shuffled, idle=still)


def compare_spread(recorded: Recorded, rolled: Rolled, errors: Sequence[Errors]) -> Spread | None:
    """The spread to every horizon, and its rank correlation with the errors; None for a world that states none.

    Args:
        recorded: Held-out episodes.
        rolled: What the world predicts of them.
        errors: Of what outcomes are read from, as far as they are known of an episode: not every thing is seen in all.
    """
    if not errors or not bool(rolled.spread_EJ.any()):
        return None
    error_EJ = combine_errors([e.world for e in errors])
    mean, rank = list[float](), list[float | None]()
    for j, h in enumerate(recorded.horizons):
        known = error_EJ[:, j].isfinite()
        mean.append(round(float(rolled.spread_EJ[recorded.lasts[:, j], j].mean()), 6))
        r = math.nan
        if h in _RANKED and int(known.sum()) >= _FEW_RANKED:
            r = spearman(truth=error_EJ[known, j].numpy(), world=rolled.spread_EJ[known, j].numpy())
        rank.append(None if math.isnan(r) else round(r, 4))
    return Spread(
        quantity=" and ".join(e.quantity for e in errors),
        horizons=recorded.horizons,
        mean=tuple(mean),
        rank=tuple(rank),
    )


def count_outcomes(
    said_ES: Tensor, success: Sequence[Tensor], *, success_at: Literal["end", "any"], per_step: int = 1
) -> Outcomes | None:
    """How many episodes end solved, and how many do not, and the shares of both that a world ends alike.

    Args:
        said_ES: Whether the world calls them solved after each step, bool [E, S].
        success: Of each episode what was recorded at its start and after each action; nan where it is not known.
        success_at: An episode is solved at its end, or anywhere.
        per_step: Actions of a step.

    Returns:
        The counts; None where no episode is known to its end.
    """
    found: dict[bool, list[bool]] = {True: [], False: []}
    for said_S, recorded in zip(said_ES, success, strict=True):
        reported, truth = said_S[: (len(recorded) - 1) // per_step], recorded[1:]
        if not len(truth) or not bool(truth.isfinite().all()):
            continue
        at_end = success_at == "end"
        solved = bool(truth[-1] > 0.5) if at_end else bool((truth > 0.5).any())
        found[solved].append((bool(reported[-1]) if at_end else bool(reported.any())) == solved)
    right = {k: round(sum(alike) / len(alike), 4) if alike else None for k, alike in found.items()}
    if not found[True] and not found[False]:
        return None
    return Outcomes(
        solved=len(found[True]), unsolved=len(found[False]), solved_right=right[True], unsolved_right=right[False]
    )


def _picture(world: LearnedWorld, recorded: Recorded, rolled: Rolled) -> bytes:
    """Truth above prediction for the episodes that last longest."""
    shown = [j for j, h in enumerate(recorded.horizons) if h in SHOWN] or [0]
    rows = recorded.lasts[:, shown[-1]].nonzero()[:MOST_SHOWN, 0]
    columns = [(recorded.horizons[j], rolled.at[j].rows(rows.to(rolled.at[j].latent.device))) for j in shown]
    true = {c.key: recorded.frames[c.key][rows][:, [0, *(j + 1 for j in shown)]] for c in world.spec.cameras}
    drawn = {c.key: [draw_step(world, step, c.key) for _, step in columns] for c in world.spec.cameras}
    return draw_sheet(true, drawn, [h for h, _ in columns])


def figure_bytes(dataset: Dataset, held_out: int) -> int:
    """Memory that the frames take which a world is measured on, where so many episodes are held out."""
    pixels = sum(3 * camera.height * camera.width for camera in dataset.cameras)
    horizons = sum(h <= max(dataset.lengths) for h in HORIZONS) + 2
    return pixels * (min(MOST_EPISODES, held_out) * horizons + 5 * MEDIAN_FRAMES)
