"""The main job: rank policies inside a world, durably.

`run` is the one door. It settles a plan in the run folder, rolls out what the plan needs and the store lacks, and
writes the ranking. Running it again with the same request continues, and does nothing but write the ranking again
once all is done. Worlds and policies come from loaders, so this room knows neither. Not for the report or the
terminal: they read `Results`.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from worldsim import storage
from worldsim.errors import InvalidInputError, PolicyError, StorageError
from worldsim.runs import hold_folder
from worldsim.triage.engine.batches import Scope, Wave
from worldsim.triage.engine.bench import JudgeLoader, Loaders, PolicyLoader, WorldLoader
from worldsim.triage.engine.plan import PLAN, ArenaPlan, Plan, read_plan, versions
from worldsim.triage.engine.replay import WORLD, Course, Results
from worldsim.triage.engine.store import DATABASE, Store
from worldsim.triage.engine.workers import InProcess, Pool, make_executor
from worldsim.triage.ranking.ranking import Ranking
from worldsim.triage.request import Ref, TriageRequest, differences

RANKING = "ranking.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arena:
    """Another world in which every policy is tried, for comparison: the simulator, bare or seen through a tokenizer.

    Attributes:
        kind: Short name, kept with every rollout; ``"truth"`` is what a ranking is compared with.
        world: Which world.
        load: Loads it; picklable when there is more than one worker.
        episodes: How many episodes of each policy.
        paired: Use the first episodes of the triage block, same starts and noise keys, so that outcomes can be compared
            one by one; the loaded world must then give the same starts. False uses episodes of its own.
    """

    kind: str
    world: Ref
    load: WorldLoader
    episodes: int
    paired: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """News of a run, after each wave.

    Attributes:
        kind: ``"world"``, or the kind of an arena.
        block: Name of the episodes' block.
        done: Rollouts finished in this kind of world, earlier runs included.
        planned: Rollouts it will come to, at most.
        crashed: Names of the policies that crashed in the wave.
        seconds: Since the run began.
    """

    kind: str
    block: str
    done: int
    planned: int
    crashed: tuple[str, ...]
    seconds: float


def run(
    request: TriageRequest,
    *,
    load_world: WorldLoader,
    load_policy: PolicyLoader,
    out: Path,
    load_judge: JudgeLoader | None = None,
    arenas: Sequence[Arena] = (),
    progress: Callable[[Progress], None] | None = None,
    retry_crashed: bool = False,
) -> Results:
    """Rank policies inside a world.

    Args:
        request: What is wanted.
        load_world: Loads the world; with several workers it must be picklable, as the other loaders.
        load_policy: Loads a policy by its `Ref`.
        out: The run folder; made if it is missing, continued if it is not.
        load_judge: Loads a judge of one's own, given the world; `request.judge` then holds its version. It judges the
            triage; arenas are judged by their own heads.
        arenas: Other worlds to try the policies in. May be added to a run that is finished.
        progress: Called after each wave, in this process.
        retry_crashed: Try policies again that crashed in an earlier run of this folder.

    Returns:
        What was learned; the ranking is also in the folder, as JSON.

    Raises:
        StorageError: The folder is in use, damaged or full. Every wave finished so far is kept.
        InvalidInputError: The folder holds a run of another request, or the request cannot be met.
        PolicyError: Every policy crashed.
    """
    if bool(request.judge) != (load_judge is not None):
        raise InvalidInputError("A judge needs both its loader and its version (request.judge); only one was given.")
    kinds = [arena.kind for arena in arenas]
    if len({*kinds, WORLD}) != len(kinds) + 1:
        raise InvalidInputError(f"Arenas need kinds of their own, other than {WORLD!r}; got {kinds}.")
    worlds = {WORLD: load_world} | {a.kind: a.load for a in arenas}
    loaders = Loaders(worlds=worlds, policy=load_policy, judge=load_judge)
    with hold_folder(out), Store.open(out / DATABASE) as store, make_executor(request, loaders=loaders) as executor:
        plan = _settle(request, arenas, out, executor)
        if retry_crashed:
            store.forget_crashes()
        hands = _Hands(plan=plan, store=store, executor=executor, progress=progress)
        results = Course(plan, store=store, execute=hands.work).run()
        _refuse_nothing(results)
        storage.write_json(out / RANKING, results.ranking.to_json())
    return results


def read_results(out: Path) -> Results:
    """Read what a run has learned so far, without its world or its policies; the run may be going on.

    Raises:
        StorageError: The folder is not that of a run, or is damaged.
    """
    plan = read_plan(out)
    if not (out / DATABASE).is_file():
        raise StorageError(f"{out} has a plan but no {DATABASE} yet. Start the run again to continue it.")
    with Store.open(out / DATABASE) as store:
        return Course(plan, store=store).run()


def read_ranking(out: Path) -> Ranking:
    """Read the ranking that a finished run wrote.

    Raises:
        StorageError: There is none yet, or it is damaged.
    """
    return Ranking.from_json(storage.read_json(out / RANKING))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Hands:
    """Rolls out what a course lacks, and commits it wave by wave."""

    plan: Plan
    store: Store
    executor: InProcess | Pool
    progress: Callable[[Progress], None] | None
    began: float = dataclasses.field(default_factory=time.perf_counter)

    def work(self, waves: Sequence[Wave], scope: Scope) -> None:
        """See `course.Execute`."""
        planned = self.plan.request.budget
        if scope.kind != WORLD:
            planned = len(scope.policies) * self.plan.arena(scope.kind).episodes
        for result in self.executor.run(waves):
            self.store.commit(result, scope)
            if self.progress is not None:
                news = Progress(
                    kind=scope.kind,
                    block=result.wave.block,
                    done=min(len(self.store.known(scope)), planned),
                    planned=planned,
                    crashed=tuple(scope.policies[c.policy].name for c in result.crashes),
                    seconds=time.perf_counter() - self.began,
                )
                self.progress(news)


def _settle(request: TriageRequest, arenas: Sequence[Arena], out: Path, executor: InProcess | Pool) -> Plan:
    """Make the plan, or find it in the folder; it is on disk before the first rollout."""
    for leftover in out.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    old = read_plan(out) if (out / PLAN).exists() else None
    if old is not None and (changed := differences(old.request, request)):
        raise InvalidInputError(
            f"{out} holds a run of another request. It differs in: {'; '.join(changed)}. Ask the same again to "
            "continue it, or choose another folder. (A larger budget continues it too.)"
        )
    world = old.world if old else executor.describe(WORLD)
    found = [_settle_arena(a, old, world.num_starts, executor) for a in arenas]
    kept = [a for a in (old.arenas if old else ()) if a.kind not in {f.kind for f in found}]
    plan = Plan(request=request, world=world, arenas=(*kept, *found), versions=old.versions if old else versions())
    for arena in found:
        if arena.paired and arena.episodes > len(plan.triage):
            raise InvalidInputError(
                f"The {arena.kind} world is to be paired over {arena.episodes} episodes, but the triage block has "
                f"{len(plan.triage)}. Ask for at most that many, or for episodes of its own."
            )
    if plan != old:
        storage.write_json(out / PLAN, plan.to_json())
    return plan


def _settle_arena(arena: Arena, old: Plan | None, num_starts: int, executor: InProcess | Pool) -> ArenaPlan:
    """Plan another world."""
    before = [a for a in (old.arenas if old else ()) if a.kind == arena.kind and a.world.digest == arena.world.digest]
    there = before[0].num_starts if before else executor.describe(arena.kind).num_starts
    if arena.paired and there != num_starts:
        raise InvalidInputError(
            f"The {arena.kind} world has {there} starts and the triage world {num_starts}; pairing needs the same "
            "starts. Let the loader give it the triage world's starts, or ask for episodes of its own (paired=False)."
        )
    return ArenaPlan(kind=arena.kind, world=arena.world, episodes=arena.episodes, paired=arena.paired, num_starts=there)


def _refuse_nothing(results: Results) -> None:
    """Refuse to rank when no policy is left."""
    reasons = [f"{results.plan.request.policies[i].name} {c.reason}" for i, c in sorted(results.failures.items())]
    if len(reasons) == len(results.plan.request.policies):
        shown = "; ".join(reasons[:5]) + ("; ..." if len(reasons) > 5 else "")
        raise PolicyError(f"Every one of the {len(reasons)} policies crashed, so there is nothing to rank: {shown}.")
