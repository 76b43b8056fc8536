"""Deterministic replay of a run: derives every allocation decision again from stored outcomes, and goes on from there.

The run is replayed from the beginning each time: ask the allocator, cut its answer into batches, look up what is known,
roll out what is not, and only then ask again. Decisions so see full rounds in the table's order and never which
rollouts happened to finish first; a run that was killed takes the same decisions again.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from worldsim.errors import InvalidInputError
from worldsim.progress import Progress, silent
from worldsim.rollout.episodes import TRIAGE, Block
from worldsim.rollout.episodes import block as make_block
from worldsim.triage.engine.batches import Batch, Crash, RolloutResult, Scope, compose
from worldsim.triage.engine.plan import TRUTH, WORLD, ArenaPlan, Plan
from worldsim.triage.engine.store import Record, Store
from worldsim.triage.engine.workers import Workers
from worldsim.triage.ranking.censoring import Censoring, deciding
from worldsim.triage.ranking.evidence import Evidence, Outcome
from worldsim.triage.ranking.judge_correction import Corrected, correct_rates
from worldsim.triage.ranking.posterior import order
from worldsim.triage.ranking.ranking import Ranking

Pairs = Sequence[tuple[int, int]]


class UnfinishedRun(Exception):  # noqa: N818  (not a failure: a replay without workers ends here)
    """Rollouts are missing and there are no workers to compute them."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """All that a run has found out.

    Attributes:
        plan: What was asked.
        ranking: The leaderboard.
        triage: Evidence [K, N] on the triage block.
        audit: Evidence [K, M] on the audit block, the finalists' rows only; None without an audit.
        arenas: Evidence by kind of every other world; where it is paired, column j is episode j of the triage block.
        failures: Why policies crashed in the world, by index.
        arena_failures: The same for other worlds, by kind.
        finished: Nothing is left to roll out.
        rollouts: Every rollout in the world, by policy index, triage and audit together.
        acted_unseen: Policies that chose actions in the world on frames that they had seen before, by index.
    """

    plan: Plan
    ranking: Ranking
    triage: Evidence
    audit: Evidence | None
    arenas: Mapping[str, Evidence]
    failures: Mapping[int, Crash]
    arena_failures: Mapping[str, Mapping[int, Crash]]
    finished: bool
    acted_unseen: frozenset[int] = frozenset()
    rollouts: Mapping[int, Sequence[Record]] = dataclasses.field(default_factory=dict)


class Replay:
    """Replays a run, and continues it where workers are given."""

    def __init__(
        self,
        plan: Plan,
        *,
        store: Store,
        workers: Workers | None = None,
        progress: Progress = silent,
    ) -> None:
        """Set up.

        Args:
            plan: What was asked.
            store: What is known; takes what is rolled out.
            workers: Roll out what is not; None stops the replay at the first gap.
            progress: Called after each batch with the rollouts of its kind of world; its values name the episodes'
                block and the policies that crashed.
        """
        self._plan = plan
        self._store = store
        self._workers = workers
        self._progress = progress
        self._failures: dict[str, dict[int, Crash]] = {WORLD: {}}
        self._finished = True

    def run(self) -> Results:
        """Go through triage, audit and arenas, and draw up the ranking.

        Raises:
            InvalidInputError: The allocator asks for what it knows already.
        """
        request = self._plan.request
        triage = self._triage()
        audit = self._audit(triage)
        if audit is not None:
            for policy in self._failures[WORLD]:
                triage = triage.fail(policy)
        arenas = {arena.kind: self._arena(arena, triage) for arena in self._plan.arenas}
        rollouts = self._rollouts()
        ranking = Ranking.from_evidence(
            triage,
            names=[p.name for p in request.policies],
            k=request.k,
            alpha=1 - request.confidence,
            audit=audit,
            failures={i: crash.reason for i, crash in self._failures[WORLD].items()},
            corrected=self._corrected(triage, audit, arenas) if request.judge or request.judge_rates else None,
            censoring=self._censoring(triage if audit is None else triage.beside(audit)),
            outside=average(rollouts, lambda result: result.outside),
        )
        return Results(
            plan=self._plan,
            ranking=ranking,
            triage=triage,
            audit=audit,
            arenas=arenas,
            failures=dict(self._failures[WORLD]),
            arena_failures={kind: found for kind, found in self._failures.items() if kind != WORLD},
            finished=self._finished,
            acted_unseen=self._acted_unseen(),
            rollouts=rollouts,
        )

    def _censoring(self, evidence: Evidence) -> Censoring | None:
        """How many of these rollouts are undecided, where episodes are not played to their end."""
        return Censoring.count(evidence, steps=self._plan.steps, length=self._plan.world.horizon)

    def _rollouts(self) -> dict[int, list[Record]]:
        """What is stored of the rollouts in the world, by policy."""
        scope, found = scope_of(self._plan), dict[str, list[Record]]()
        for record in self._store.records(scope):
            found.setdefault(record.policy, []).append(record)
        return {i: found[ref.digest] for i, ref in enumerate(scope.policies) if ref.digest in found}

    def _acted_unseen(self) -> frozenset[int]:
        """Policies that acted several times on one frame, where a step of the world is several actions."""
        if self._plan.world.actions_per_step == 1:
            return frozenset()
        scope = scope_of(self._plan)
        digests = {record.policy for record in self._store.records(scope) if record.result.unseen}
        return frozenset(i for i, ref in enumerate(scope.policies) if ref.digest in digests)

    def _corrected(
        self, triage: Evidence, audit: Evidence | None, arenas: Mapping[str, Evidence]
    ) -> list[Corrected | None]:
        """What the judge said, corrected by the paired truth or by its known rates."""
        request = self._plan.request
        paired = any(a.kind == TRUTH and a.paired for a in self._plan.arenas)
        return correct_rates(
            triage,
            audit=audit,
            truth=arenas[TRUTH] if paired else None,
            names=[p.name for p in request.policies],
            rates=request.judge_rates,
            alpha=1 - request.confidence,
        )

    def _triage(self) -> Evidence:
        """Let the allocator spend the budget."""
        request, block = self._plan.request, self._plan.triage
        allocator = request.make_allocator()
        evidence = Evidence.empty(len(request.policies), episodes=len(block))
        while pairs := allocator.next(
            deciding(evidence, self._censoring(evidence)), request.triage_budget - evidence.rollouts
        ):
            if any(evidence.done[p, e] or evidence.failed[p] for p, e in pairs):
                raise InvalidInputError(
                    f"The allocator {request.allocator!r} asked for rollouts that it knows, or of a policy that "
                    "crashed. It must return pairs that are blank in the evidence, and nothing when there are none."
                )
            try:
                evidence = self._round(evidence, pairs, block, scope_of(self._plan))
            except UnfinishedRun:
                return self._partial(evidence, pairs, block, scope_of(self._plan))
        return evidence

    def _audit(self, triage: Evidence) -> Evidence | None:
        """Try the winners a second time, on fresh episodes."""
        request, block = self._plan.request, self._plan.audit
        if not len(block) or not self._finished:
            return None
        best_first = order(deciding(triage, self._censoring(triage)))
        finalists = [int(i) for i in best_first[: request.finalists] if not triage.failed[i]]
        blank = dataclasses.replace(Evidence.empty(triage.policies, episodes=len(block)), failed=triage.failed)
        return self._all_pairs(blank, finalists, block, scope_of(self._plan))

    def _arena(self, arena: ArenaPlan, triage: Evidence) -> Evidence:
        """Try every policy in another world."""
        self._failures[arena.kind] = {}
        block = arena_block(self._plan, arena)
        blank = Evidence.empty(triage.policies, episodes=len(block))
        policies = [i for i in range(triage.policies) if not triage.failed[i]]
        return self._all_pairs(blank, policies, block, scope_of(self._plan, arena))

    def _all_pairs(self, evidence: Evidence, policies: Sequence[int], block: Block, scope: Scope) -> Evidence:
        """Roll out a block with every one of `policies`."""
        pairs = [(p, e) for p in policies for e in range(len(block))]
        try:
            return self._round(evidence, pairs, block, scope) if pairs else evidence
        except UnfinishedRun:
            return self._partial(evidence, pairs, block, scope)

    def _round(self, evidence: Evidence, pairs: Pairs, block: Block, scope: Scope) -> Evidence:
        """Make sure that all pairs are known, and enter them.

        A policy that crashed anywhere in the round leaves with what it knew before: how far it got in the round could
        depend on timing.
        """
        request = self._plan.request
        batches = compose(
            pairs, scope=scope, block=block, width=request.width, policies_per_batch=request.policies_per_batch
        )
        missing = [part for batch in batches if (part := self._store.missing_part(batch, scope)) is not None]
        if missing:
            self._roll_out(missing, scope)
        first = scope.first_of()
        crashed: dict[int, Crash] = {}
        for batch in batches:
            for crash in self._store.crashes(batch, scope):
                crashed.setdefault(crash.policy, crash)
        for policy in {p for p, _ in pairs if first[p] in crashed}:
            evidence = evidence.fail(policy)
            self._failures[scope.kind][policy] = dataclasses.replace(crashed[first[policy]], policy=policy)
        return self._enter(evidence, [pair for pair in pairs if first[pair[0]] not in crashed], block, scope)

    def _roll_out(self, batches: Sequence[Batch], scope: Scope) -> None:
        """Compute batches and commit each as it comes.

        Raises:
            UnfinishedRun: There are no workers.
        """
        if self._workers is None:
            raise UnfinishedRun
        planned = self._plan.request.budget
        if scope.kind != WORLD:
            planned = len(scope.policies) * self._plan.arena(scope.kind).episodes
        for result in self._workers.run(batches):
            self._store.commit(result, scope)
            crashed = ", ".join(scope.policies[c.policy].name for c in result.crashes)
            values = {"block": result.batch.block} | ({"crashed": crashed} if crashed else {})
            self._progress(f"{scope.kind} rollouts", min(len(self._store.known(scope)), planned), planned, values)

    def _partial(self, evidence: Evidence, pairs: Pairs, block: Block, scope: Scope) -> Evidence:
        """Enter what is known of an unfinished round."""
        self._finished = False
        return self._enter(evidence, pairs, block, scope)

    def _enter(self, evidence: Evidence, pairs: Pairs, block: Block, scope: Scope) -> Evidence:
        known = self._store.known(scope)
        outcomes = []
        for policy, episode in pairs:
            key = (scope.policies[policy].digest, int(block.start[episode]), int(block.key[episode]))
            if key in known:
                success, progress = known[key]
                outcomes.append(Outcome(policy=policy, episode=episode, success=success, progress=progress))
        return evidence.add(outcomes)


def average(rollouts: Mapping[int, Sequence[Record]], read: Callable[[RolloutResult], float]) -> dict[int, float]:
    """Mean of a figure over each policy's rollouts; those of which it is not known (below 0) are left out, and so are policies."""
    known = {policy: [v for r in rows if (v := read(r.result)) >= 0] for policy, rows in rollouts.items()}
    return {policy: sum(values) / len(values) for policy, values in known.items() if values}


def scope_of(plan: Plan, arena: ArenaPlan | None = None) -> Scope:
    """Return the scope of the run's world, or of another world, which is always judged by its own heads."""
    if arena is None:
        return Scope(kind=WORLD, world=plan.request.world.digest, judge=plan.judge, policies=plan.request.policies)
    return Scope(kind=arena.kind, world=arena.world.digest, judge=plan.rule, policies=plan.request.policies)


def arena_block(plan: Plan, arena: ArenaPlan) -> Block:
    """Return the episodes of another world."""
    if arena.paired:
        return plan.block(TRIAGE, arena.episodes)
    return make_block(arena.kind, seed=plan.request.seed, episodes=arena.episodes, num_starts=arena.num_starts)
