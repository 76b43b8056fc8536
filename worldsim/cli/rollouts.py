"""`worldsim collect --policies ...`: what policies do, in an environment or in a learned world, as a dataset.

Wires policies, worlds and the simulator for `worldsim.data.collect.rollouts`. Not for behaviours (`worldsim.cli.collect`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
from rich.console import Console

from worldsim.data.collect.rollouts import RolloutOptions, estimate_rollouts, record_rollouts
from worldsim.errors import InvalidInputError
from worldsim.evaluate import loaders
from worldsim.evaluate.policies import load_policy, policy_refs
from worldsim.protocols import Policy, Startable
from worldsim.worlds import load_world


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """Who plays where.

    Attributes:
        world: Where, starts included.
        policies: Who, by name.
        options: How, digests of both included.
    """

    world: Startable
    policies: Mapping[str, Policy]
    options: RolloutOptions

    def record(self, console: Console, *, episodes: int, out: Path, dry_run: bool) -> None:
        """Record the episodes, or say what they would cost."""
        if dry_run:
            cost = estimate_rollouts(self.world, self.policies, episodes=episodes, options=self.options)
            console.print(
                f"{episodes} episodes of {len(self.policies)} policies: {cost.frames} frames, {cost.bytes / 1e6:.0f} MB, "
                f"about {cost.seconds:.0f} core-seconds."
            )
            return
        made = record_rollouts(self.world, self.policies, episodes=episodes, out=out, options=self.options)
        console.print(
            f"{made.episodes} episodes of {len(made.behaviours)} policies, {made.frames} frames, {made.solved:.0%} "
            f"solved, in {out}",
            highlight=False,
        )
        console.print(f"Next: worldsim train reason-sft data={out} out=critics/{out.name}", highlight=False)


def in_environment(
    make: Callable[[], gymnasium.Env[Any, Any]], policies: Sequence[str], *, name: str, options: RolloutOptions
) -> Scene:
    """Policies in an environment, each episode from a start of its own.

    Args:
        make: Makes the environment; its state must be restorable (see `worldsim.envs.simulator_state`).
        policies: As for `worldsim triage`, or "bank".
        name: The environment's.
        options: How to record.

    Raises:
        WorldsimError: The environment cannot be restored, or a policy cannot be found or loaded.
    """
    from worldsim.envs.simulator import SimulatorWorld

    return _scene(SimulatorWorld(make(), horizon=options.steps), policies, None, options, {"env": name}, name)


def in_world(world: str, policies: Sequence[str], *, simulator: bool, options: RolloutOptions) -> Scene:
    """Policies in a learned world, or from its starts in its true environment.

    Args:
        world: Folder or shipped name.
        policies: As for `worldsim triage`, or "bank"; planners plan in this world where they name none.
        simulator: Play in the true environment instead; episodes pair by number.
        options: How to record.

    Raises:
        WorldsimError: The world or a policy cannot be found or loaded, or the world has no simulator here.
    """
    ref = loaders.world_ref(world)
    loaded = load_world(ref.source)
    source = {"world_digest": ref.digest}
    if not simulator:
        return _scene(loaded, policies, ref.source, options, source, ref.name)
    if not loaders.has_simulator(ref.source):
        raise InvalidInputError(
            f"World {ref.name!r} has no simulator here (its task is {loaded.spec.task_id or 'unknown'!r}), or its starts "
            "lack simulator states. Leave --simulator out, or name an environment: --env."
        )
    from worldsim.envs.simulator import SimulatorWorld

    horizon = options.steps or loaded.spec.horizon
    there = SimulatorWorld(loaded.spec.task_id, horizon=horizon, starts=loaded.first_observations)
    return _scene(there, policies, ref.source, options, source, loaded.spec.task_id)


def _scene(
    place: Startable,
    policies: Sequence[str],
    planned_in: str | None,
    options: RolloutOptions,
    source: Mapping[str, Any],
    name: str,
) -> Scene:
    """Load the policies, and keep what they and the place are made of, so that a continuation cannot mix."""
    refs = policy_refs(policies, world=planned_in)
    acting = {ref.name: load_policy(ref.source) for ref in refs}
    known = {**source, "digests": [ref.digest for ref in refs]}
    return Scene(world=place, policies=acting, options=dataclasses.replace(options, name=name, source=known))
