"""The stages that learn dynamics: the body's, then the contact model; and what they come to on held-out episodes.

Shape legend: E episodes, T frames, F frames of an episode, K things, D latent channels.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from worldsim.actions import ActionSpec
from worldsim.conditions import Conditions
from worldsim.data.latents import EncodedEpisodes
from worldsim.data.windows import ClipSampler
from worldsim.noise import seeded
from worldsim.optimize import LossAt, Schedule, fit
from worldsim.predict.base import Context
from worldsim.predict.structured.predictor import StructuredPredictor, StructuredPredictorConfig
from worldsim.progress import Progress
from worldsim.tokenizers.base import LatentSpace
from worldsim.tokenizers.cameras import CamerasTokenizer
from worldsim.tokenizers.structured.state import SceneState, things_move
from worldsim.tokenizers.structured.tokenizer import SURE, StructuredTokenizer
from worldsim.train.recipes.structured.pictures import StageReport
from worldsim.train.recipes.structured.settings import StructuredRecipe

CONTEXT = 4
HORIZONS = (1, 8, 16, 32)
"""Frames that are seen before a rollout is measured, and how far."""
EVENTFUL = 0.8
"""Share of the contact model's windows in which a thing moves."""
_LOOKED_AT, _STAYS = 200, 0.06
_CHANGES = 0.4
"""Share of a thing's picture, opacity and colours, that a look as it was at first misses in the middle episode, above which looks are
predicted: .55 of a spinner, .05 of a cube that is pushed, .28 of one that is gripped and half hidden."""
_LOOK_FAR = 0.1
"""How far a thing goes, in halves of the frame's shorter side, that counts as much as a change of one in a code."""
_BODY_STEPS = 4
"""Steps of the body's model that take as long as one of the contact model's (4.3 on FetchPush)."""
_PX = 32.0
_MOVED_PX = 1.5


def train_dynamics(
    tokenizer: LatentSpace,
    trained: EncodedEpisodes,
    action: ActionSpec,
    recipe: StructuredRecipe,
    *,
    seed: int,
    folder: Path,
    progress: Progress,
    report: StageReport,
) -> StructuredPredictor:
    """Train body and contact model, continuing from `folder`.

    Args:
        tokenizer: What made the latents.
        trained: Episodes to learn from.
        action: Meaning of their actions.
        recipe: How.
        seed: Of weights and batches.
        folder: Working folder.
        progress: Called as it advances.
        report: Gets the core-seconds.
    """
    predictor = begin_predictor(tokenizer, trained, action, seed=seed)
    for stage, module, loss_at, schedule in dynamics_losses(predictor, trained, action, recipe, seed=seed):
        report.core_s[stage] = fit(module, loss_at, schedule, folder=folder / stage, stage=stage, progress=progress)
    return predictor


def begin_predictor(
    tokenizer: LatentSpace, trained: EncodedEpisodes, action: ActionSpec, *, seed: int
) -> StructuredPredictor:
    """An untrained predictor that suits the tokenizer of one camera or several."""
    cameras = tokenizer.tokenizers if isinstance(tokenizer, CamerasTokenizer) else [tokenizer]
    parts = [part for part in cameras if isinstance(part, StructuredTokenizer)]
    config = StructuredPredictorConfig(
        latent_shape=tokenizer.latent_shape,
        proprio_dim=trained.proprio_dim,
        action_dim=action.encoded_dim,
        orders=tuple(order for part in parts for order in part.orders),
        things=tuple(part.config.things for part in parts),
        kinds=_kinds(parts),
        joints=parts[0].config.joints,
        degrees=parts[0].config.degrees,
        code_dim=parts[0].config.code_dim,
        canvases=tuple(part.config.canvas_dim for part in parts),
    )
    states, first, changes = (
        [config.layout.split(e.z_FCHW[..., 0, 0]) for e in trained.episodes[:_LOOKED_AT]],
        0,
        list[bool](),
    )
    for part in parts:
        changes += [looks_change(part, states, k, first + k) for k in range(part.config.things)]
        first += part.config.things
    with seeded(seed):
        return StructuredPredictor(dataclasses.replace(config, changes=tuple(changes) if any(changes) else ()))


@torch.no_grad()
def looks_change(tokenizer: StructuredTokenizer, episodes: Sequence[SceneState], k: int, slot: int) -> bool:
    """Whether a thing looks otherwise later in an episode than at first, at the same place, beyond turning.

    What looks otherwise elsewhere only is seen from another side, or in another light.

    Args:
        tokenizer: Of the camera that sees it.
        episodes: What the frames of each show, [F, ...].
        k: Its number among the things of that camera.
        slot: And among those of all.
    """
    if tokenizer.orders[k] or tokenizer.painter is None:
        return False
    xy, first, later = list[Tensor](), list[Tensor](), list[Tensor]()
    for state in episodes:
        sure = (state.seen[:, slot] > SURE).nonzero()[:, 0]
        stays = (state.pose[sure, slot, :2] - state.pose[sure[:1], slot, :2]).norm(dim=-1) < _STAYS
        sure = sure[stays]
        for t in sure[[len(sure) // 2, -1]] if len(sure) > 1 else sure[:0]:
            xy.append(state.pose[t, slot, :2] / tokenizer.axes)
            first.append(state.code[sure[0], slot])
            later.append(state.code[t, slot])
    if not xy:
        return False
    count = tokenizer.config.things
    pictures = list[Tensor]()
    for code in (torch.stack(first), torch.stack(later)):
        at, every = (x[:, None].expand(-1, count, -1) for x in (torch.stack(xy), code))
        sprite = tokenizer.painter.sprites(at, every)[:, k]
        pictures.append(torch.cat([sprite[:, :3] * sprite[:, 3:], sprite[:, 3:]], 1))
    differs_N = (pictures[0] - pictures[1]).abs().mean((1, 2, 3)) / pictures[1][:, 3].mean((1, 2)).clamp_min(1e-6)
    return float(differs_N.median()) > _CHANGES


def _kinds(parts: Sequence[StructuredTokenizer]) -> tuple[int, ...]:
    """Kinds of the things of all cameras: what one camera sees is of another kind than what another sees."""
    kinds = list[int]()
    for part in parts:
        first = max(kinds, default=-1) + 1
        kinds += [first + kind for kind in part.config.kind_of]
    return tuple(kinds)


def dynamics_losses(
    predictor: StructuredPredictor, trained: EncodedEpisodes, action: ActionSpec, recipe: StructuredRecipe, *, seed: int
) -> list[tuple[str, nn.Module, LossAt, Schedule]]:
    """Name, module, loss and schedule of each stage; the predictor is calibrated.

    Where there is no thing, the body learns for as long as the contact model would have too.
    """
    history, longest = predictor.config.history, trained.longest - 1
    surprise = [_motion(predictor, e.z_FCHW) for e in trained.episodes]
    idle_E = action.normalize(torch.tensor(action.idle))
    clips = ClipSampler(trained.episodes, history=history, idle_A=idle_E, surprise=surprise)
    first = clips.windows(history + 1)
    predictor.calibrate(clips.batch(first, history + 1, 8192, seed=seed, step=-1, eventful=0.6))
    predictor.measure_walls([e.z_FCHW for e in trained.episodes])
    tables = {u: clips.windows(history + min(u, longest)) for u, _ in recipe.unrolls}
    noise = torch.Generator()

    def loss_of(stage: str, schedule: Schedule, eventful: float) -> LossAt:
        def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
            unroll = next(u for u, end in recipe.unrolls if step / schedule.steps < end)
            length = history + min(unroll, longest)
            clip = clips.batch(tables[unroll], length, schedule.batch, seed=seed, step=step, eventful=eventful)
            noise.manual_seed(seed * 1_000_003 + step)
            if stage == "body":
                return predictor.body_loss(clip, length - history)
            return predictor.contact_loss(clip, length - history, noise)

        return loss_at

    body = recipe.body
    if not predictor.config.orders:
        body = dataclasses.replace(body, steps=body.steps + _BODY_STEPS * recipe.contact.steps)
    stages: list[tuple[str, nn.Module, LossAt, Schedule]] = [("body", predictor.body, loss_of("body", body, 0.3), body)]
    if predictor.config.orders:
        stages.append(("contact", predictor.contact, loss_of("contact", recipe.contact, EVENTFUL), recipe.contact))
    return stages


def _motion(predictor: StructuredPredictor, z_FCHW: Tensor) -> Tensor:
    """How far things move into each frame, where they are seen in both; the body's motion where there are none: [F]."""
    state = predictor.config.layout.split(z_FCHW[..., 0, 0])
    if not predictor.config.orders:
        change = (state.p[1:] - state.p[:-1]).norm(dim=-1)
        return torch.cat([change.new_zeros(1), change])
    moves, motion = things_move(state, predictor.config.changes)
    far = (motion[..., :2].norm(dim=-1) * moves).amax(-1)
    if any(predictor.config.changes):
        look = (state.code[1:] - state.code[:-1]).norm(dim=-1) * moves * torch.tensor(predictor.config.changes)
        far = far.maximum(look.amax(-1) * _LOOK_FAR)
    return torch.cat([far.new_zeros(1), far])


@torch.no_grad()
def measure_dynamics(
    predictor: StructuredPredictor, held_out: EncodedEpisodes, action: ActionSpec, report: StageReport
) -> None:
    """Errors of open-loop rollouts on latents of held-out episodes: of the body, in its standard deviations, and of things that move."""
    last = CONTEXT - 1 + HORIZONS[-1]
    episodes = [e for e in held_out.episodes if len(e.z_FCHW) > last]
    if not episodes:
        return
    z_ETCHW = torch.stack([e.z_FCHW[: last + 1] for e in episodes])
    action_ETA = torch.stack([e.action_FA[:last] for e in episodes])
    proprio = episodes[0].proprio_FP.new_zeros(len(episodes), held_out.proprio_dim)
    idle = action.normalize(torch.tensor(action.idle)).expand(len(episodes), -1)
    carry = predictor.start(Context(z=z_ETCHW[:, 0], proprio=proprio, action=idle))
    for t in range(1, CONTEXT):
        carry = predictor.observe(carry, z_ETCHW[:, t], action_ETA[:, t - 1], proprio)
    layout, begin = predictor.config.layout, CONTEXT - 1
    true = layout.split(z_ETCHW[..., 0, 0])
    for h in range(1, HORIZONS[-1] + 1):
        carry, made = predictor.step(carry, action_ETA[:, begin + h - 1], proprio, Conditions(), None)
        if h not in HORIZONS:
            continue
        said = layout.split(made.z[:, 0, :, 0, 0])
        report.figures[f"body_error_h{h}"] = float((said.p - true.p[:, begin + h]).abs().mean())
        if not predictor.config.orders:
            continue
        gone = (true.pose[:, begin + h] - true.pose[:, begin])[..., :2].norm(dim=-1) * _PX
        count = (gone > _MOVED_PX) & (true.seen[:, begin + h] > 0.5) & (true.seen[:, begin] > 0.5)
        if bool(count.any()):
            off = (said.pose - true.pose[:, begin + h])[..., :2].norm(dim=-1) * _PX
            report.figures[f"thing_px_h{h}"] = float(off[count].median())
            report.figures[f"thing_mean_px_h{h}"] = float(off[count].mean())
            report.figures[f"copy_thing_px_h{h}"] = float(gone[count].median())
