"""Ranks policies inside a world, durably: `run`.

It makes a plan in the run folder, rolls out what the plan needs and the store lacks, and writes the ranking. Running it
again with the same request continues, and does nothing but write the ranking again once all is done. Worlds and policies
come from loaders, which run in worker processes.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from worldsim import storage
from worldsim.errors import InvalidInputError, PolicyError, StorageError
from worldsim.progress import Progress, silent
from worldsim.runs import hold_folder, refuse_differences
from worldsim.stats.judge_rates import JudgeRates
from worldsim.triage.engine.plan import PLAN, WORLD, ArenaPlan, Plan, read_plan, versions
from worldsim.triage.engine.replay import Replay, Results
from worldsim.triage.engine.rollouts import ArenaLoader, JudgeLoader, Loaders, PolicyLoader, WorldLoader
from worldsim.triage.engine.store import DATABASE, Store
from worldsim.triage.engine.workers import Workers
from worldsim.triage.ranking.ranking import Ranking
from worldsim.triage.request import Ref, TriageRequest, differences

__all__ = ["Arena", "Results", "read_ranking", "read_results", "run"]
RANKING = "ranking.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arena:
    """Another world in which every policy is tried, for comparison: the simulator, bare or seen through a tokenizer.

    Attributes:
        kind: Short name, kept with every rollout; ``"truth"`` is what a ranking is compared with.
        world: Which world.
        load: Builds it in a worker, given the loaded world of the run, which may lend it starts and a codec; picklable.
        episodes: How many episodes of each policy.
        paired: Use the first episodes of the triage block, same starts and noise keys, so that outcomes can be compared
            one by one; the loaded world must then give the same starts. False uses episodes of its own.
    """

    kind: str
    world: Ref
    load: ArenaLoader
    episodes: int
    paired: bool = True


def run(
    request: TriageRequest,
    *,
    load_world: WorldLoader,
    load_policy: PolicyLoader,
    out: Path,
    load_judge: JudgeLoader | None = None,
    arenas: Sequence[Arena] = (),
    progress: Progress = silent,
    retry_crashed: bool = False,
) -> Results:
    """Rank policies inside a world.

    Args:
        request: What is wanted.
        load_world: Loads the world in a worker, once; picklable, as the other loaders.
        load_policy: Loads a policy by its `Ref`.
        out: The run folder; made if it is missing, continued if it is not.
        load_judge: Loads an external judge, given the world; `request.judge` then holds its version. It judges the
            triage; arenas are judged by their own heads.
        arenas: Other worlds to try the policies in. May be added to a run that is finished.
        progress: Called after each batch, in this process, with the rollouts of its kind of world.
        retry_crashed: Try policies again that crashed in an earlier run of this folder.

    Returns:
        What was found out; the ranking is also in the folder, as JSON.

    Raises:
        StorageError: The folder is in use, damaged, full or was deleted. Every batch finished so far is kept, but for
            the last case.
        InvalidInputError: The folder holds a run of another request, or the request cannot be met.
        PolicyError: Every policy crashed.
    """
    if bool(request.judge) != (load_judge is not None):
        raise InvalidInputError("A judge needs both its loader and its version (request.judge); only one was given.")
    kinds = [arena.kind for arena in arenas]
    if len({*kinds, WORLD}) != len(kinds) + 1:
        raise InvalidInputError(f"Arenas need kinds of their own, other than {WORLD!r}; got {kinds}.")
    loaders = Loaders(world=load_world, policy=load_policy, arenas={a.kind: a.load for a in arenas}, judge=load_judge)
    with hold_folder(out), Store.open(out / DATABASE) as store, Workers(request, loaders=loaders) as workers:
        plan = _make_plan(request, arenas, out, workers)
        if retry_crashed:
            store.forget_crashes()
        results = Replay(plan, store=store, workers=workers, progress=progress).run()
        _require_survivor(results)
        store.check_present()
        storage.write_json(out / RANKING, results.ranking.to_json())
    return results


def read_results(out: Path, *, judge_rates: Sequence[JudgeRates] = ()) -> Results:
    """Read what a run has found out so far, without its world or its policies; the run may be going on.

    Args:
        out: The run folder.
        judge_rates: How often its judge is right, as is known meanwhile; empty for what the run knew.

    Raises:
        StorageError: The folder is not that of a run, or is damaged.
    """
    plan = read_plan(out)
    if judge_rates:
        plan = dataclasses.replace(plan, request=dataclasses.replace(plan.request, judge_rates=tuple(judge_rates)))
    if not (out / DATABASE).is_file():
        raise StorageError(f"{out} has a plan but no {DATABASE} yet. Start the run again to continue it.")
    with Store.read(out / DATABASE) as store:
        return Replay(plan, store=store).run()


def read_ranking(out: Path) -> Ranking:
    """Read the ranking that a finished run wrote.

    Raises:
        StorageError: There is none yet, or it is damaged.
    """
    return Ranking.from_json(storage.read_json(out / RANKING))


def _make_plan(request: TriageRequest, arenas: Sequence[Arena], out: Path, workers: Workers) -> Plan:
    """Make the plan, or find it in the folder; it is on disk before the first rollout."""
    for leftover in out.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    old = read_plan(out) if (out / PLAN).exists() else None
    if old is not None:
        refuse_differences(out, differences(old.request, request))
    world = old.world if old else workers.describe(WORLD)
    found = [_plan_arena(a, old, world.num_starts, workers) for a in arenas]
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


def _plan_arena(arena: Arena, old: Plan | None, num_starts: int, workers: Workers) -> ArenaPlan:
    """Plan another world."""
    before = [a for a in (old.arenas if old else ()) if a.kind == arena.kind and a.world.digest == arena.world.digest]
    there = before[0].num_starts if before else workers.describe(arena.kind).num_starts
    if arena.paired and there != num_starts:
        raise InvalidInputError(
            f"The {arena.kind} world has {there} starts and the triage world {num_starts}; pairing needs the same "
            "starts. Let the loader give it the triage world's starts, or ask for episodes of its own (paired=False)."
        )
    return ArenaPlan(kind=arena.kind, world=arena.world, episodes=arena.episodes, paired=arena.paired, num_starts=there)


def _require_survivor(results: Results) -> None:
    """Refuse to rank when no policy is left."""
    names = [ref.name for ref in results.plan.request.policies]
    reasons = [f"{names[i]} {c.reason.rstrip('.')}" for i, c in sorted(results.failures.items())]
    if len(reasons) == len(names):
        every = "the only policy" if len(names) == 1 else f"each of the {len(names)} policies"
        shown = "; ".join(reasons[:5]) + (" ..." if len(reasons) > 5 else ".")
        raise PolicyError(f"There is nothing to rank, since {every} crashed: {shown}")
