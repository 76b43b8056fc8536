"""One process's warm things: its worlds, its most recent policies, its judge, and a roller over them.

The same bench serves in the calling process and in every worker, so that both compute the same. Policies and worlds
come from the caller's loaders; nothing here knows what they are. Not for dividing work (`worldsim.triage.engine.workers`).
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from worldsim.errors import InvalidInputError, PolicyError
from worldsim.protocols import Judge, Policy, Startable
from worldsim.rollout.judge import WorldJudge
from worldsim.triage.engine.batches import Crash, Wave, WaveResult
from worldsim.triage.engine.group import NoWatch, Watch
from worldsim.triage.engine.plan import Description
from worldsim.triage.engine.replay import WORLD
from worldsim.triage.engine.roll import Roller
from worldsim.triage.request import Ref, TriageRequest

WorldLoader = Callable[[], Startable]
PolicyLoader = Callable[[Ref], Policy]
JudgeLoader = Callable[[Startable], Judge]
"""Loads a judge for the rollouts of a world, which it may need to draw them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaders:
    """How a process gets its things. All must be picklable when there is more than one process.

    Attributes:
        worlds: Loader by kind; ``"world"`` is the one of the triage.
        policy: Loads a policy.
        judge: Loads the judge of the triage's world; None takes its own heads, by which other worlds are judged always.
    """

    worlds: Mapping[str, WorldLoader]
    policy: PolicyLoader
    judge: JudgeLoader | None = None


class Bench:
    """Loads on first use and keeps warm."""

    def __init__(self, request: TriageRequest, *, loaders: Loaders, watch: Watch | None = None) -> None:
        """Set up an empty bench; nothing is loaded yet.

        Args:
            request: Whose policies are rolled out.
            loaders: Where things come from.
            watch: Told which policy runs.
        """
        self._request = request
        self._loaders = loaders
        self._watch = watch or NoWatch()
        self._worlds: dict[str, Startable] = {}
        self._policies: OrderedDict[int, Policy] = OrderedDict()
        self._unloadable: dict[int, Exception] = {}
        self._judge: Judge | None = None

    def describe(self, kind: str) -> Description:
        """Say what a plan must know of a world."""
        world = self.world(kind)
        spec = world.spec
        return Description(
            num_starts=int(world.num_starts),
            horizon=spec.horizon,
            success_at=spec.success_at,
            task=spec.task,
            task_id=spec.task_id,
        )

    def run(self, wave: Wave, *, lost: Mapping[int, Crash] | None = None) -> WaveResult:
        """Roll out a wave on one thread; see `Roller.run`."""
        roller = self.roller(wave.kind)
        with one_thread():
            return roller.run(wave, lost=lost)

    def roller(self, kind: str) -> Roller:
        """Return a roller in the world of this kind."""
        world = self.world(kind)
        judges = self._loaders.judge if kind == WORLD else None
        if judges is not None and self._judge is None:
            self._judge = judges(world)
        return Roller(
            world=world,
            policy_of=self.policy,
            rule=WorldJudge(success_at=world.spec.success_at, threshold=self._request.threshold),
            judge=None if judges is None else self._judge,
            watch=self._watch,
            timeout_s=self._request.timeout_s,
        )

    def world(self, kind: str) -> Startable:
        """Return a world, loaded on first use.

        Raises:
            InvalidInputError: What the loader returned is not a world with starts.
        """
        if kind not in self._worlds:
            world = self._loaders.worlds[kind]()
            if not isinstance(world, Startable):
                raise InvalidInputError(
                    f"The loader of the {kind} world returned a {type(world).__name__}, which is not a World with "
                    "num_starts and starts(indices). Check it with worldsim.testing.check_world."
                )
            self._worlds[kind] = world
        return self._worlds[kind]

    def policy(self, index: int) -> Policy:
        """Return a policy; the least recently used ones make room.

        Raises:
            Exception: Whatever the loader raised, again at every call, for a policy that does not load once.
        """
        if index in self._unloadable:
            raise self._unloadable[index]
        if index not in self._policies:
            try:
                policy = self._loaders.policy(self._request.policies[index])
                if not isinstance(policy, Policy):
                    raise PolicyError(
                        f"its loader returned a {type(policy).__name__}, which lacks needs, initial or act"
                    )
            except Exception as error:
                self._unloadable[index] = error
                raise
            while len(self._policies) >= self._request.policies_per_wave:
                self._policies.popitem(last=False)
            self._policies[index] = policy
        self._policies.move_to_end(index)
        return self._policies[index]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that sums come out the same in every process; the caller's setting comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
