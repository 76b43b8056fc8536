"""Recordings of what policies do, in an environment, a learned world or its true environment, found by name."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldsim.compute import find_device, find_dtype
from worldsim.data.collect.env_adapter import EnvView
from worldsim.data.collect.fill import RecordingCost, RecordingSummary
from worldsim.data.collect.record import LONGEST
from worldsim.data.collect.rollouts import RolloutOptions, estimate_rollouts, record_rollouts
from worldsim.envs.simulator import SimulatorWorld
from worldsim.errors import InvalidInputError, unknown_name
from worldsim.evaluate import loaders
from worldsim.evaluate.environments import MakeEnv
from worldsim.evaluate.policies import load_policy, policy_refs
from worldsim.evaluate.true_env import TrueEnv
from worldsim.progress import Progress, silent
from worldsim.protocols import Policy, Startable
from worldsim.rollout.wrappers import BorrowedStarts
from worldsim.worlds import load_world

_REPLAYED = 24
"""Episodes of a batch, about, in an environment of which every episode needs a copy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyRecording:
    """Policies that act in a world, ready to be recorded.

    Attributes:
        world: Where they act; it brings the starts.
        policies: By name.
        options: How to record, with the digests of both.
        remarks: What the user should know before.
    """

    world: Startable
    policies: Mapping[str, Policy]
    options: RolloutOptions
    remarks: tuple[str, ...] = ()

    def estimate(self, *, episodes: int) -> RecordingCost:
        """What recording so many episodes would cost, from a few."""
        return estimate_rollouts(self.world, self.policies, episodes=episodes, options=self.options)

    def run(self, out: Path, *, episodes: int, progress: Progress = silent) -> RecordingSummary:
        """Record until the dataset holds so many episodes; the same call continues; see `record_rollouts`."""
        return record_rollouts(
            self.world, self.policies, episodes=episodes, out=out, options=self.options, progress=progress
        )


def policies_in_environment(
    env: str | MakeEnv,
    policies: Sequence[str],
    *,
    options: RolloutOptions,
    view: EnvView | None = None,
    device: str = "cpu",
    dtype: str = "",
) -> PolicyRecording:
    """Policies in an environment, each episode from a start of its own.

    Args:
        env: The environment, or its name as for `MakeEnv`; see `worldsim.envs.simulator` for how episodes are kept.
        policies: As for `worldsim triage`, or "bank".
        options: How to record.
        view: How the environment is looked at.
        device: Where the policies compute.
        dtype: Of their weights; empty keeps the stored one.

    Raises:
        WorldsimError: The environment cannot be used, or a policy cannot be found or loaded.
    """
    make = MakeEnv(env) if isinstance(env, str) else env
    view = view or EnvView()
    place = SimulatorWorld(make, horizon=options.steps, longest=LONGEST, view=view)
    source: dict[str, Any] = {"env": make.name}
    source |= {} if view.success is None else {"success": view.success.text}
    source |= {} if view.image_px is None else {"image_px": view.image_px}
    source |= {} if view.cameras is None else {"camera": list(view.cameras)}
    options = _labelled(options, place, rule="" if view.success is None else view.success.text)
    return _prepare(place, policies, None, options, source, make.name, device=device, dtype=dtype)


def policies_in_world(
    world: str,
    policies: Sequence[str],
    *,
    simulator: bool,
    options: RolloutOptions,
    env: TrueEnv | None = None,
    device: str = "cpu",
    dtype: str = "",
) -> PolicyRecording:
    """Policies in a learned world, or from its starts in its true environment.

    Args:
        world: Folder or shipped name.
        policies: As for `worldsim triage`, or "bank"; planners plan in this world where they name none.
        simulator: Play in the true environment instead; episodes pair by number.
        options: How to record.
        env: The world's true environment, or parts of it; what is missing is what the world says of its data.
        device: Where world and policies compute.
        dtype: Of their weights; empty keeps the stored one.

    Raises:
        WorldsimError: The world or a policy cannot be found or loaded, or the world has no simulator here.
    """
    ref = loaders.world_ref(world)
    loaded = load_world(ref.source, device=find_device(device), dtype=find_dtype(dtype))
    source = {"world_digest": ref.digest}
    if not simulator:
        return _prepare(loaded, policies, ref.source, options, source, ref.name, device=device, dtype=dtype)
    env, said = loaders.find_true_env(ref.source, env)
    if env is None and not loaders.has_simulator(ref.source):
        raise InvalidInputError(f"{loaders.no_simulator(ref)} Leave --simulator out otherwise.")
    like = dataclasses.replace(loaded.spec, horizon=options.steps or loaded.spec.horizon, actions_per_step=1)
    seeded = loaders.starts_width(ref.source) == 1
    there = (env or TrueEnv(env=loaded.spec.task_id)).world(like, seeded=seeded)
    source |= {} if env is None else {"env": env.env} | ({"success": env.success} if env.success else {})
    options = _labelled(options, there, rule="" if env is None else env.success)
    made = _prepare(there, policies, ref.source, options, source, there.spec.task_id, device=device, dtype=dtype)
    return dataclasses.replace(made, world=BorrowedStarts(there, lender=loaded), remarks=said)


def _labelled(options: RolloutOptions, place: SimulatorWorld, *, rule: str) -> RolloutOptions:
    """The options with what an environment can say of success and progress.

    Raises:
        UnknownNameError: The rule names what is not there in all of an episode.
    """
    has_success = place.tells_success
    if rule and not has_success:
        raise unknown_name("name in the success rule", rule, place.names)
    return dataclasses.replace(options, has_success=has_success, has_progress=place.tells_progress)


def _prepare(
    place: Startable,
    policies: Sequence[str],
    planned_in: str | None,
    options: RolloutOptions,
    source: Mapping[str, Any],
    name: str,
    *,
    device: str,
    dtype: str,
) -> PolicyRecording:
    """Load the policies, and keep what they and the place are made of, so that a continuation cannot mix."""
    refs = policy_refs(policies, world=planned_in)
    where, kept = find_device(device), find_dtype(dtype)
    acting = {ref.name: load_policy(ref.source, device=where, dtype=kept, spec=place.spec) for ref in refs}
    if isinstance(place, SimulatorWorld) and place.is_replayed and options.batch is None:
        options = dataclasses.replace(options, batch=max(1, _REPLAYED // len(refs)) * len(refs))
    known = {**source, "digests": [ref.digest for ref in refs], **({"dtype": dtype} if dtype else {})}
    return PolicyRecording(world=place, policies=acting, options=dataclasses.replace(options, name=name, source=known))
