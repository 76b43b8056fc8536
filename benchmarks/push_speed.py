"""What the ground truth costs: frames by ray casting and steps of the pushing task, on one core.

    python -m benchmarks.push_speed

Core-seconds of one process with one thread, the least of some repeats; frames follow a scripted push, so what moves is
redrawn each time.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.record import Figure, run, write
from worldsim.envs.push.env import PushEnv
from worldsim.envs.render.renderer import RayRenderer
from worldsim.envs.simulator import SimulatorWorld

STEPS = 50
REPEATS = 15
BATCH = 16


def core_ms(call: Callable[[], object], *, per: int) -> float:
    """Least core-milliseconds of a call over some repeats, divided by `per`."""
    spent = []
    for _ in range(REPEATS):
        began = time.process_time()
        call()
        spent.append(time.process_time() - began)
    return min(spent) / per * 1e3


def main() -> None:
    """Measure and write benchmarks/results/push_speed.json."""
    torch.set_num_threads(1)
    env, blind = PushEnv(), PushEnv("environment_state_agent_pos")
    env.reset(seed=0)
    aim = np.zeros(2, np.float32)
    poses = []
    for _ in range(STEPS):
        aim[:] = 3 * (env.environment_state()[:2] - env.agent_pos())
        env.step(aim)
        poses.append(env.get_state())

    def frames(draw: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for pose in poses:
                env.set_state(pose)
                draw()

        return run

    def steps(one: PushEnv) -> Callable[[], None]:
        def run() -> None:
            one.reset(seed=0)
            for _ in range(STEPS):
                aim[:] = 3 * (one.environment_state()[:2] - one.agent_pos())
                one.step(aim)

        return run

    world = SimulatorWorld("worldsim/Push-v0")
    state = world.reset(world.starts(torch.arange(BATCH)), torch.arange(BATCH))
    actions = (torch.rand(BATCH, STEPS, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 0.4
    restore = core_ms(frames(lambda: None), per=STEPS)
    scene, data = env._model, env._data
    cost = {
        "RGB frame, 64x64": core_ms(frames(env.pixels), per=STEPS) - restore,
        "RGB frame, nothing kept from the last": core_ms(
            frames(lambda: RayRenderer(scene, "top").render(data)), per=STEPS
        )
        - restore,
        "depth frame": core_ms(frames(lambda: env._renderer.depth(data)), per=STEPS) - restore,
        "segmentation frame": core_ms(frames(lambda: env._renderer.segmentation(data)), per=STEPS) - restore,
        "step without pixels": core_ms(steps(blind), per=STEPS),
        "step with pixels": core_ms(steps(env), per=STEPS),
        "SimulatorWorld step": core_ms(lambda: world.rollout(state, actions), per=BATCH * STEPS),
    }
    figures = [Figure(name=k, value=v, unit="ms") for k, v in cost.items()]
    write("push_speed", figures=figures, seeds=[0])


if __name__ == "__main__":
    run(main)
