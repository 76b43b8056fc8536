"""How well learned worlds keep the pushing task's block where the simulator has it, open loop, on held-out episodes.

    python -m benchmarks.world_fidelity [--worlds push runs/worlds/conv ...] [--episodes 200]

Poses are read from decoded frames by `benchmarks.push_meter`. Episodes count when the block truly moves more than 3 cm.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.push_meter import PushMeter, turn_deg
from benchmarks.record import Figure, run, write
from worldsim.core import IMAGE, STATE, TRUE_STATE
from worldsim.envs.push.env import PushEnv
from worldsim.noise import fold
from worldsim.policies.degraded import Degradation, DegradedPolicy
from worldsim.policies.scripted import PushExpert, PushExpertConfig
from worldsim.protocols import Policy, require_drawable
from worldsim.video import psnr_db
from worldsim.worlds import load_world

HORIZONS = (1, 4, 8, 16, 24, 32)
FIRST_SEED = 9_000_000
"""Seeds from here on are in no dataset."""
MOVED_M = 0.03


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded:
    """True episodes: frames uint8 [N, T+1, H, W, 3], proprio [N, T+1, 2], state [N, T+1, 4], action [N, T, 2]."""

    frames: Tensor
    proprio: Tensor
    state: Tensor
    action: Tensor

    def rows(self, index: Tensor) -> "Recorded":
        """Some of the episodes."""
        return Recorded(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})


def behaviours() -> list[Policy]:
    """Who pushes in the held-out episodes: the expert, its turning variant, random goals, and noisy versions."""
    plain = PushExpert()
    turning = PushExpert(PushExpertConfig(offset_m=0.035))
    wandering = PushExpert(PushExpertConfig(goal_spread_m=0.2, offset_m=0.02))
    noisy = [
        DegradedPolicy(p, action=PushEnv.action_spec, how=Degradation(noise=0.25)) for p in (plain, turning, wandering)
    ]
    return [plain, turning, wandering, *noisy]


def record(policies: list[Policy], *, episodes: int, steps: int, first_seed: int = FIRST_SEED) -> Recorded:
    """Run policies in the simulator, episode i by policy i modulo their number."""
    env = PushEnv("all")
    rows = []
    for i in range(episodes):
        policy = policies[i % len(policies)]
        seen, _ = env.reset(seed=first_seed + i)
        key = fold(torch.tensor([first_seed + i]), 0)
        carry = policy.initial(1)
        track = [seen]
        actions = []
        for t in range(steps):
            observation = {
                STATE: torch.from_numpy(seen["agent_pos"])[None],
                TRUE_STATE: torch.from_numpy(seen["environment_state"])[None],
            }
            action, carry = policy.act(observation, carry, fold(key, t + 1))
            seen = env.step(action[0].numpy())[0]
            track.append(seen)
            actions.append(action[0])
        parts = [
            torch.from_numpy(np.stack([s[k] for s in track])) for k in ("pixels", "agent_pos", "environment_state")
        ]
        rows.append((*parts, torch.stack(actions)))
    frames, proprio, state, action = (torch.stack(column) for column in zip(*rows, strict=True))
    return Recorded(frames=frames, proprio=proprio, state=state, action=action)


def moved(truth: Recorded, horizon: int) -> Tensor:
    """Which episodes move the block by more than 3 cm within the horizon: bool [N]."""
    shift: Tensor = (truth.state[:, horizon, :2] - truth.state[:, 0, :2]).norm(dim=-1) > MOVED_M
    return shift


def errors(meter: PushMeter, frames: Tensor, state: Tensor) -> tuple[float, float, float]:
    """Mean position error (mm), mean orientation error (deg) and the share of frames where no block is seen.

    An unseen block counts as 100 mm and 90 deg: dissolving it does not pay.
    """
    read = meter.read(frames)
    lost = read.isnan().any(1)
    position = ((read[:, :2] - state[:, :2]).norm(dim=1) * 1000).masked_fill(lost, 100.0)
    turn = turn_deg(read[:, 2], torch.atan2(state[:, 3], state[:, 2])).masked_fill(lost, 90.0)
    return float(position.mean()), float(turn.mean()), float(lost.float().mean())


def curve(name: str, truth: Recorded, meter: PushMeter) -> dict[int, dict[str, float]]:
    """One world's errors over the horizons; a state world, which draws nothing, is read directly."""
    world = load_world(name)
    starts = {IMAGE: truth.frames[:, 0], STATE: truth.proprio[:, 0], TRUE_STATE: truth.state[:, 0]}
    state = world.reset(starts, torch.arange(len(truth.frames)))
    _, rollout = world.rollout(state, truth.action)
    rows = moved(truth, max(HORIZONS))
    found = {}
    for h in HORIZONS:
        there = truth.state[rows, h]
        if rollout.true_state is not None:
            position, turn = state_errors(rollout.true_state[rows, h - 1], there)
            found[h] = {"block_mm": position, "turn_deg": turn}
        else:
            drawn = require_drawable(world).decode(rollout.latent[:, h - 1])[rows]
            position, turn, lost = errors(meter, drawn, there)
            found[h] = {"block_mm": position, "turn_deg": turn, "lost": lost}
            found[h]["psnr_db"] = psnr_db(drawn, truth.frames[rows, h])
        body = (rollout.proprio[rows, h - 1] - truth.proprio[rows, h]).norm(dim=-1)
        found[h]["pusher_mm"] = float(body.mean()) * 1000
    return found


def state_errors(read: Tensor, state: Tensor) -> tuple[float, float]:
    """Mean position error (mm) and orientation error (deg) of predicted true states [N, 4]."""
    position = (read[:, :2] - state[:, :2]).norm(dim=1) * 1000
    turn = turn_deg(torch.atan2(read[:, 3], read[:, 2]), torch.atan2(state[:, 3], state[:, 2]))
    return float(position.mean()), float(turn.mean())


def main(
    worlds: Annotated[
        list[str] | None, typer.Option(help="World names or folders; the first is the one judged.")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Held-out episodes.")] = 240,
) -> None:
    """Measure and write benchmarks/results/world_fidelity.json."""
    torch.set_num_threads(1)
    names = worlds or ["push"]
    meter = PushMeter()
    truth = record(behaviours(), episodes=episodes, steps=max(HORIZONS))
    rows = moved(truth, max(HORIZONS))
    curves = {name: curve(name, truth, meter) for name in names}
    floor = {h: errors(meter, truth.frames[rows, h], truth.state[rows, h])[:2] for h in HORIZONS}
    copied = {h: errors(meter, truth.frames[rows, 0], truth.state[rows, h])[:2] for h in HORIZONS}
    judged = curves[names[0]]
    figures = [
        Figure(name="block error at 16 steps", value=judged[16]["block_mm"], unit="mm"),
        Figure(name="block error at 32 steps", value=judged[32]["block_mm"], unit="mm"),
        Figure(name="orientation error at 16 steps", value=judged[16]["turn_deg"], unit="deg"),
        *[
            Figure(name=f"{Path(n).name} {k} at {h} steps", value=v, unit=k.rsplit("_", 1)[-1])
            for n, c in curves.items()
            for h, at in c.items()
            for k, v in at.items()
        ],
        *[Figure(name=f"meter's own error at {h} steps", value=v[0], unit="mm") for h, v in floor.items()],
        *[Figure(name=f"copying the first frame, at {h} steps", value=v[0], unit="mm") for h, v in copied.items()],
    ]
    details = {"episodes": episodes, "moved_episodes": int(rows.sum()), "worlds": names}
    write("world_fidelity", figures=figures, seeds=[FIRST_SEED], details=details)


if __name__ == "__main__":
    run(main)
