"""A triage by names: references to worlds, policies and a critic become a run, its films and its report."""

import dataclasses
import datetime
import functools
import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldsim import storage, worlds
from worldsim.compute import find_device, find_dtype
from worldsim.core import WorldSpec
from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.evaluate.dreams import rates_of_run
from worldsim.evaluate.loaders import Judging, arenas, find_true_env, has_simulator, judge_of, starts_width, world_ref
from worldsim.evaluate.planner_refs import draws_what_it_sees, is_planner_ref, planner_remarks, shared_world
from worldsim.evaluate.policies import SHIPPED, load_ref, policy_refs
from worldsim.evaluate.true_env import TrueEnv
from worldsim.policies.discovery import left_out
from worldsim.progress import Progress, silent
from worldsim.rollout.judge import WorldJudge
from worldsim.stats.judge_rates import JudgeRates
from worldsim.triage.engine.replay import Results
from worldsim.triage.engine.rollouts import ArenaLoader, JudgeLoader, PolicyLoader, WorldLoader
from worldsim.triage.estimate import Forecast, forecast
from worldsim.triage.film import film
from worldsim.triage.report import Clip, ReportData, assemble, choose
from worldsim.triage.request import Ref, TriageRequest
from worldsim.triage.run import run
from worldsim.worlds import world_spec
from worldsim.worlds.labelling import describe_labels, label_rates
from worldsim.worlds.latent import LearnedWorld

_TRUTH = 12
"""Paired simulator episodes per policy where nothing else is said."""
_MOST_WORKERS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Triage:
    """A triage that is ready to run.

    Attributes:
        request: What decides the result.
        judging: A critic as the judge; None takes the world's own heads.
        truth: Paired simulator episodes per policy.
        roundtrip: Simulator episodes per policy on encoded and decoded frames.
        env: The true environment, where the user named one.
        device: Where world and policies compute.
        dtype: Of their weights; empty keeps the stored one.
        remarks: What the user should know before, for example which folders were left out.
    """

    request: TriageRequest
    judging: Judging | None
    truth: int
    roundtrip: int
    device: str
    dtype: str
    env: TrueEnv | None = None
    remarks: tuple[str, ...] = ()

    def estimate(self) -> Forecast:
        """What the run will cost and can tell, from a few timed steps."""
        return forecast(
            self.request, load_world=self.load_world, load_policy=self.load_policy, load_judge=self._load_judge
        )

    def run(
        self, out: Path, *, videos: int = 2, command: str = "", progress: Progress = silent, retry_crashed: bool = False
    ) -> ReportData:
        """Run it, and film a few episodes; the same call continues it.

        Args:
            out: The run folder.
            videos: Films of each kind.
            command: How the run was asked for, for the report.
            progress: Called with how many rollouts are done.
            retry_crashed: Try policies again that crashed in an earlier run of the folder.

        Raises:
            WorldsimError: As `worldsim.triage.run.run`.
        """
        labelled = rates_of_run(out)  # people said of the run's dreams how they ended
        results = run(
            dataclasses.replace(self.request, judge_rates=labelled) if labelled else self.request,
            load_world=self.load_world,
            load_policy=self.load_policy,
            out=out,
            load_judge=self._load_judge,
            arenas=arenas(self.request.world, truth=self.truth, roundtrip=self.roundtrip, env=self.env),
            progress=progress,
            retry_crashed=retry_crashed,
        )
        return report_of(
            results,
            remarks=self.remarks,
            load_world=self.load_world,
            load_policy=self.load_policy,
            load_judge=self._load_judge,
            videos=videos,
            command=command,
            here=True,
            env=self.env,
        )

    @property
    def warning(self) -> str:
        """Why nothing should be concluded from the world, by its own figures; empty where they do not say so."""
        validity = world_spec(self.request.world.source).validity
        return validity.verdict if validity is not None and validity.usable is False else ""

    @property
    def load_world(self) -> "functools.partial[LearnedWorld]":
        """Loads the world; picklable."""
        return functools.partial(
            shared_world, self.request.world.source, device=self.device, dtype=find_dtype(self.dtype)
        )

    @property
    def load_policy(self) -> PolicyLoader:
        """Loads a policy by its reference; picklable. The code among them was named by the caller."""
        code = tuple(ref.source for ref in self.request.policies)
        spec = world_spec(self.request.world.source)
        return functools.partial(load_ref, code=code, device=self.device, dtype=find_dtype(self.dtype), spec=spec)

    @property
    def _load_judge(self) -> JudgeLoader | None:
        return None if self.judging is None else self.judging.load


def prepare(
    policies: Sequence[str] = (),
    *,
    world: str = "push",
    k: int | None = None,
    budget: int | None = None,
    judge: str | None = None,
    truth: int | None = None,
    roundtrip: int = 0,
    env: TrueEnv | None = None,
    steps: int | None = None,
    workers: int | None = None,
    device: str = "cpu",
    dtype: str = "",
    **options: Any,
) -> Triage:
    """Find everything that is named, and check that it goes together; nothing is rolled out.

    Args:
        policies: As for `worldsim.evaluate.policies.policy_refs`.
        world: A folder or a shipped name.
        k: How many best are wanted; None is 10, or a sixth of the policies.
        budget: Rollouts in the world; None is 40 per policy.
        judge: A critic's folder, ``"reason"`` for the shipped one; None takes the world's own heads.
        truth: Paired simulator episodes per policy; None is 12 where there is a simulator.
        roundtrip: Simulator episodes per policy on encoded and decoded frames.
        env: The world's true environment, or parts of it; what is missing is what the world says of its data.
        steps: Actions that are played of each episode; None is as far as the world is valid.
        workers: Processes; None is one per core, at most 8.
        device: Where world and policies compute.
        dtype: Of their weights; empty keeps the stored one.
        options: Further fields of `TriageRequest`.

    Raises:
        WorldsimError: Something cannot be found or read, a number is out of range, or parts do not go together.
    """
    find_device(device)
    where = world_ref(world)
    if find_dtype(dtype) is not None:
        where = dataclasses.replace(where, digest=storage.digest_bytes(f"{where.digest} {dtype}".encode()))
    refs, spec = policy_refs(policies, world=where.source), world_spec(where.source)
    judging = None if judge is None else judge_of(judge, device=device)
    request = TriageRequest(
        policies=refs,
        world=where,
        k=max(1, min(10, len(refs) // 6)) if k is None else k,
        budget=40 * len(refs) if budget is None else budget,
        steps=_choose_steps(spec, steps),
        workers=min(_MOST_WORKERS, os.cpu_count() or 1) if workers is None else workers,
        judge="" if judging is None else judging.version,
        judge_rates=_rates_of_labels(where.source) if judging is None else judging.rates,
        **options,
    )
    _require_judgeable(where, judged=judging is not None)
    env, said = find_true_env(where.source, env)
    if truth is None:
        truth = _TRUTH if env is not None or has_simulator(where.source) else 0
    truth = min(truth, request.triage_episodes)
    arenas(where, truth=truth, roundtrip=roundtrip, env=env)  # what cannot be had is refused before work begins
    if truth + roundtrip:
        true = env or TrueEnv(env=spec.task_id)
        true.require_success(spec, seeded=starts_width(where.source) == 1)
    folders = [p for p in policies if not is_planner_ref(p) and p != SHIPPED]
    remarks = [*_remarks_on_folders(folders), *(said if truth + roundtrip else ())]
    remarks += [*planner_remarks(refs), *_remarks_on_steps(spec, request.steps)]
    remarks += _remarks_on_labels(where.source, judged=judging is not None)
    return Triage(
        request=request,
        judging=judging,
        truth=truth,
        roundtrip=roundtrip,
        device=device,
        dtype=dtype,
        env=env,
        remarks=tuple(remarks),
    )


def _require_judgeable(world: Ref, *, judged: bool) -> None:
    """Refuse a world whose rollouts cannot be judged, by its own heads or by a critic."""
    spec = world_spec(world.source)
    if not judged:
        WorldJudge.require_labels(spec, name=world.name)
    elif not draws_what_it_sees(spec):
        raise InvalidInputError(
            f"World {world.name!r} draws no pictures, and a critic watches them. Use a world of pixels."
        )


def _choose_steps(spec: WorldSpec, asked: int | None) -> int | None:
    """Actions that are played of each episode: what is asked for, else as far as the world is valid; None for all.

    Raises:
        InvalidInputError: More are asked for than an episode has, or steps of the world are cut in two.
    """
    if asked is None:
        return None if spec.validity is None else spec.validity.steps(spec.horizon, per_step=spec.actions_per_step)
    if not 1 <= asked <= spec.horizon or asked % spec.actions_per_step:
        many = f", and a multiple of {spec.actions_per_step}" if spec.actions_per_step > 1 else ""
        raise InvalidInputError(
            f"--steps lies in 1..{spec.horizon}, the actions of an episode in this world{many}; got {asked}."
        )
    return None if asked == spec.horizon else asked


def _remarks_on_steps(spec: WorldSpec, steps: int | None) -> list[str]:
    """That episodes are played no farther than the world is valid, or that they are."""
    valid = None if spec.validity is None else spec.validity.steps(spec.horizon, per_step=spec.actions_per_step)
    if spec.validity is None or valid is None:
        return []
    played, said = steps or spec.horizon, f"This world is valid {spec.validity.extent}"
    if played > valid:
        return [f"{said}, and episodes are played for {played}: what happens later in them is not to be relied on."]
    return [f"{said}, so episodes are played for {played} of {spec.horizon}."] if steps == valid else []


def _remarks_on_folders(folders: Sequence[str]) -> list[str]:
    """Which folders were left out, one sentence per reason."""
    alike: dict[str, list[str]] = {}
    for folder, reason in left_out(folders):
        alike.setdefault(reason, []).append(folder)
    return [
        f"{', '.join(found)} {'was' if len(found) == 1 else 'were'} left out: {why}." for why, found in alike.items()
    ]


def _rates_of_labels(world: str) -> tuple[JudgeRates, ...]:
    """How often a world's heads were right on labels of people; none where its data had labels of its own."""
    rates = label_rates(world)
    return () if rates is None else (rates,)


def _remarks_on_labels(world: str, *, judged: bool) -> list[str]:
    """What to know of a world whose success rests on labels of people, or on none."""
    if judged and "success" in world_spec(world).unlabelled:
        return ["The world was trained without success labels: only the judge says which episodes are solved."]
    return [] if judged or label_rates(world) is None else describe_labels(world).splitlines()


def report_of(
    results: Results,
    *,
    load_policy: PolicyLoader,
    load_world: WorldLoader | None = None,
    load_judge: JudgeLoader | None = None,
    videos: int = 2,
    command: str = "",
    here: bool = False,
    env: TrueEnv | None = None,
    remarks: Sequence[str] = (),
) -> ReportData:
    """What a report shows of a run, with a few episodes filmed again.

    Args:
        results: Of the run.
        load_policy: Loads the policies that are filmed; one that it refuses leaves the report without films.
        load_world: As given to the run; None loads the folder that the run names, on the CPU.
        load_judge: As given to the run.
        videos: Films of each kind; 0 for none.
        command: How the report was asked for.
        here: The run was computed by this process and its children, so their processor time is its cost.
        env: The world's true environment, or parts of it, as given to the run.
        remarks: Further cautions, one sentence each.
    """
    clips: list[Clip] = []
    remarks = list(remarks)
    try:
        load = load_world or functools.partial(worlds.load_world, results.plan.request.world.source)
        real, why = _true_world(results, env) if videos else (None, [])
        clips = _film(results, load, load_policy, load_judge, real, each=videos) if videos else []
        remarks += why
    except WorldsimError as error:  # a state world draws nothing; the ranking stands
        remarks.append(f"Episodes could not be filmed: {error}")
    made = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    cost = _core_seconds() if here else None
    try:
        validity = world_spec(results.plan.request.world.source).validity
    except WorldsimError:  # the world has gone, or is none of a folder
        validity = None
    return assemble(results, command=command, made=made, core_s=cost, clips=clips, remarks=remarks, validity=validity)


def _true_world(results: Results, env: TrueEnv | None) -> tuple[ArenaLoader | None, list[str]]:
    """What builds the true environment of a run, None where there is none or it is another one here; and why, for people."""
    where: Ref = results.plan.request.world
    truth = next((a for a in results.plan.arenas if a.kind == "truth"), None)
    if truth is None:
        return None, []
    env, _ = find_true_env(where.source, env)
    if env is not None or has_simulator(where.source):
        place = arenas(where, truth=truth.episodes, roundtrip=0, env=env)[0]
        if place.world.digest == truth.world.digest:
            return place.load, []
    return None, [
        f"Films show the world alone: the run's true environment {truth.world.name} was named by its command. Name it in the "
        "same words (--env, --import, --success) to see it beside the world."
    ]


def _film(
    results: Results,
    load: WorldLoader,
    load_policy: PolicyLoader,
    load_judge: JudgeLoader | None,
    real: ArenaLoader | None,
    *,
    each: int,
) -> list[Clip]:
    """Film a few episodes of a finished run, beside the true environment where it is at hand."""
    pairs = choose(results.ranking, world=results.triage, truth=results.arenas.get("truth"), each=each)
    return film(results, pairs, load_world=load, load_policy=load_policy, load_truth=real, load_judge=load_judge)


def _core_seconds() -> float:
    """Processor time of this process and its finished children."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)
