"""Planners as policies: their settings in one value, and references ``planner:NAME?option=value&...`` to them.

A reference holds everything, the world to plan in included, so that any process can make the policy from it. A module
of one's own called ``planner`` is named by its file, ``planner.py:name``.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import torch

from worldsim import planners, storage
from worldsim.actions import ActionSpec
from worldsim.core import WorldSpec, WorldState, is_image
from worldsim.errors import InvalidInputError, unknown_name
from worldsim.planners import EnsembleCheck, Planner, make_planner
from worldsim.planners.costs import LatentGoal, failure, judged, progress, uncertainty, weigh
from worldsim.planners.limits import Limits
from worldsim.planners.mpc import MPC
from worldsim.planners.objective import Objective, StepCost, Terminal
from worldsim.planners.world_objective import world_objective
from worldsim.protocols import World
from worldsim.reason.critic import SHIPPED_NAME, ReasonCritic
from worldsim.triage.request import Ref
from worldsim.worlds import load_world, world_folder, world_spec
from worldsim.worlds.latent import LearnedWorld

PREFIX = "planner:"
COSTS = {"progress": progress, "success": failure}
GOAL = "goal"
_MAX_ACTIONS = 10**8  # in one iteration: more do not fit the memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannerSettings:
    """A planner and how it drives; the defaults solve the push task.

    Attributes:
        planner: A name that `make_planner` knows.
        horizon: Actions in a plan.
        repeat: Control steps for which each of them is held.
        samples: Candidates per iteration.
        iterations: Iterations per plan.
        receding: Planned actions executed before planning again.
        cost: ``"progress"`` still missing, ``"success"`` still unlikely, or the distance to a ``"goal"``.
        risk: Weight of the world's uncertainty, added to the cost.
        judge: A critic's folder, ``"reason"`` for the shipped one: each future also costs what its chance of success, as
            the critic sees it, falls short of 1. Empty for none.
        caution: Weight of what the members of the world's ensemble disagree about, when ranking the finalists of
            every search; 0 is none.

    Raises:
        UnknownNameError: No such planner or cost; the closest is named.
        InvalidInputError: A number out of its range.
    """

    planner: str = "weighted"
    horizon: int = 16
    repeat: int = 2
    samples: int = 64
    iterations: int = 3
    receding: int = 1
    cost: str = "progress"
    risk: float = 0.0
    judge: str = ""
    caution: float = 0.0

    def __post_init__(self) -> None:
        if self.cost not in (*COSTS, GOAL):
            raise unknown_name("cost", self.cost, [*COSTS, GOAL])
        for name in ("risk", "caution"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidInputError(f"The weight of {name} is at least 0; got {getattr(self, name)}.")
        counts = {name: getattr(self, name) for name in ("horizon", "repeat", "samples", "iterations")}
        if (
            min(counts.values()) < 1
            or self.horizon * self.samples > _MAX_ACTIONS
            or max(counts.values()) > _MAX_ACTIONS
        ):
            raise InvalidInputError(
                f"horizon, repeat, samples and iterations are at least 1, and horizon x samples at most {_MAX_ACTIONS}; got "
                f"{counts}."
            )
        if self.repeat < 1 or not 1 <= self.receding <= self.horizon:
            raise InvalidInputError(
                f"repeat is at least 1 and receding between 1 and the horizon {self.horizon}; got {self.repeat} and "
                f"{self.receding}."
            )
        self.search()

    def search(self) -> Planner:
        """How it searches."""
        return make_planner(self.planner, horizon=self.horizon, samples=self.samples, iterations=self.iterations)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides how it drives, the critic's version included; nothing of it where there is none."""
        values = {k: v for k, v in dataclasses.asdict(self).items() if k != "judge"}
        return values | ({"judge": critic_of(self.judge).version} if self.judge else {})

    @property
    def span(self) -> int:
        """Control steps that a plan looks ahead."""
        return self.horizon * self.repeat

    def within(self, spec: WorldSpec) -> "PlannerSettings":
        """The same settings with plans that look no farther ahead than a world of this spec is valid; at least one action."""
        if spec.validity is None:
            return self
        horizon = spec.validity.plan_steps(self.horizon, actions=self.repeat * spec.actions_per_step)
        return dataclasses.replace(self, horizon=horizon, receding=min(self.receding, horizon))

    def controller(
        self,
        world: World,
        *,
        goal: LatentGoal | None = None,
        limits: Limits | None = None,
        watch: Callable[[Objective], Objective] = lambda objective: objective,
    ) -> MPC:
        """The policy; its plans look no farther ahead than the world is valid, see `within`.

        Args:
            world: Where it plans.
            goal: What the cost ``"goal"`` measures the distance to.
            limits: What each search may cost.
            watch: Put around every objective, to see what is asked of it.

        Raises:
            InvalidInputError: The cost needs a goal and there is none, the critic needs pictures, caution has to keep a
                deadline, or the planner cannot search the world's actions.
        """
        within = self.within(world.spec)
        if within != self:
            return within.controller(world, goal=goal, limits=limits, watch=watch)
        self._require_searchable(world.spec.action)
        cost: StepCost | None = goal if self.cost == GOAL else COSTS[self.cost]
        if cost is None:
            raise InvalidInputError("The cost 'goal' needs a goal. Give a picture of it: --goal IMAGE.png.")
        if self.judge and not image_world(world):
            raise InvalidInputError(
                "This world draws no pictures, and a critic watches them. Plan in a world of pixels."
            )
        terminal = judged(critic_of(self.judge, device=world.spec.device).with_world(world)) if self.judge else None
        searched = weigh((1.0, cost), (self.risk, uncertainty)) if self.risk else cost
        return MPC(
            self.search(),
            world,
            objective=lambda w, s: watch(
                world_objective(w, s, searched, terminal=terminal, repeat=self.repeat, block=w.spec.actions_per_step)
            ),
            receding=self.receding,
            repeat=self.repeat,
            limits=limits,
            rerank=self._second(world, cost, terminal) if self.caution else None,
        )

    def _require_searchable(self, action: ActionSpec) -> None:
        """Refuse planners that search another kind of action than a world takes."""
        if self.planner == "categorical":
            raise InvalidInputError(
                "The planner 'categorical' searches one-hot choices, and worlds take numbers. Use 'cem' or 'weighted'."
            )
        if all(action.choices) and all(stage.rule.gradient for stage in self.search().stages):
            raise InvalidInputError(
                f"The planner {self.planner!r} follows gradients, and every action of this world is a choice, which no "
                "gradient reaches. Use 'cem' or 'weighted'."
            )

    def remarks(self, spec: WorldSpec) -> tuple[str, ...]:
        """What to know of a search in a world: how far it is valid, and that its choices are searched as numbers."""
        found, within = list[str](), self.within(spec)
        if spec.validity is not None and spec.validity.usable is False:
            found.append(f"Plans rest on a world that fails on its own held-out episodes. {spec.validity.verdict}")
        elif spec.validity is not None and within != self:
            found.append(
                f"This world is valid {spec.validity.extent}, so plans look {within.span * spec.actions_per_step} actions ahead "
                f"instead of {self.span * spec.actions_per_step}."
            )
        chosen = [name for name, n in zip(spec.action.names, spec.action.choices, strict=True) if n]
        if chosen:
            stuck = any(stage.rule.gradient for stage in self.search().stages)
            found.append(
                f"{', '.join(chosen)} in this world: a choice. {self.planner} searches it as a number and rounds to the nearest, "
                f"so it takes neighbouring choices to be alike{'; its gradients do not reach it' if stuck else ''}."
            )
        return tuple(found)

    def _second(
        self, world: World, cost: StepCost, terminal: Terminal | None
    ) -> Callable[[World, WorldState], Objective]:
        """What ranks the finalists of a search."""
        check = EnsembleCheck.of(world)
        return lambda w, s: check.objective(
            s, cost, weight=self.caution, terminal=terminal, repeat=self.repeat, block=w.spec.actions_per_step
        )


@functools.cache
def critic_of(folder: str, *, device: str = "cpu") -> ReasonCritic:
    """A critic that computes on `device`, loaded once per process.

    Raises:
        StorageError: There is none.
    """
    return ReasonCritic.from_pretrained(folder, device=device)


def is_planner_ref(ref: str) -> bool:
    """Whether `ref` reads as ``planner:...``."""
    return ref.startswith(PREFIX)


def planner_refs(refs: Sequence[str], *, world: str | None = None) -> list[Ref]:
    """References for a triage, complete: every setting and the world's folder are written out in `Ref.source`.

    Args:
        refs: As users write them, ``planner:hybrid?horizon=12&world=push``.
        world: Where those plan that name no world of their own.

    Raises:
        UnknownNameError: No such planner, option or world; the closest is named.
        InvalidInputError: An option that is no number, or no world.
    """
    return [_completed(ref, world) for ref in dict.fromkeys(refs)]


def load_planner(source: str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> MPC:
    """The policy of a complete reference; `device` and `dtype` are those of the world it plans in."""
    settings, world = parse(source)
    return settings.controller(shared_world(_world(source, world), device=device, dtype=dtype))


def shared_world(name: str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> LearnedWorld:
    """A world for reading, loaded once per process for the triage and for all planners that plan in it.

    Raises:
        UnknownNameError: No such folder or shipped world.
        StorageError: The folder is corrupt or holds something else.
    """
    folder = world_folder(name)
    return _load_version(str(folder), storage.folder_digest(folder), str(device), dtype)


@functools.lru_cache(maxsize=2)
def _load_version(folder: str, digest: str, device: str, dtype: torch.dtype | None) -> LearnedWorld:
    return load_world(folder, device=device, dtype=dtype)


def planner_remarks(refs: Sequence[Ref]) -> list[str]:
    """What the user should know of the planners among complete references; their worlds' specs are read, no weights."""
    found = [(ref.name, *parse(ref.source)) for ref in refs if is_planner_ref(ref.source)]
    return [
        f"{name}: {text}"
        for name, settings, world in found
        for text in settings.remarks(world_spec(_world(name, world)))
    ]


def parse(ref: str) -> tuple[PlannerSettings, str | None]:
    """Settings and the world's name of a reference, strictly."""
    name, _, query = ref.removeprefix(PREFIX).partition("?")
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if query else {}
    except ValueError as error:
        raise InvalidInputError(f"{ref!r}: options read planner:NAME?option=value&option=value. {error}.") from error
    world = options.pop("world", None)
    fields = {k: type(v) for k, v in dataclasses.asdict(PlannerSettings()).items() if k != "planner"}
    values: dict[str, Any] = {"planner": name} if name else {}
    for key, text in options.items():
        if key not in fields:
            raise unknown_name("option of a planner", key, [*fields, "world"])
        try:
            values[key] = fields[key](text)
        except ValueError as error:
            raise InvalidInputError(f"{ref!r}: {key} is of type {fields[key].__name__}; got {text!r}.") from error
    settings = PlannerSettings(**values)
    if settings.cost == GOAL:
        raise InvalidInputError(f"{ref!r}: a goal picture cannot be given here; choose cost among {', '.join(COSTS)}.")
    return settings, world


def image_world(world: World) -> bool:
    """Whether a world begins from pictures, so that it can draw and a picture can be its goal."""
    return draws_what_it_sees(world.spec)


def draws_what_it_sees(spec: WorldSpec) -> bool:
    """Whether a world of this spec begins from pictures, so that it can draw and a picture can be its goal."""
    return bool(spec.cameras) and any(is_image(key) for key in spec.observes)


def _completed(ref: str, world: str | None) -> Ref:
    settings, own = parse(ref)
    folder = world_folder(_world(ref, own or world))
    values = {k: v for k, v in dataclasses.asdict(settings).items() if k != "judge" or v}
    if settings.judge not in ("", SHIPPED_NAME):
        values["judge"] = str(Path(settings.judge).resolve())
    identity = {
        **settings.within(world_spec(folder)).identity,
        "world": storage.folder_digest(folder),
        "code": _code_digest(),
    }
    options = {**{k: v for k, v in values.items() if k != "planner"}, "world": str(folder)}
    return Ref(
        name=ref,
        digest=storage.digest_bytes(json.dumps(identity, sort_keys=True).encode()),
        source=f"{PREFIX}{settings.planner}?{urlencode(options)}",
    )


def _world(ref: str, world: str | None) -> str:
    if world is None:
        raise InvalidInputError(f"{ref!r} does not say in which world to plan. Append ?world=NAME or a folder.")
    return world


@functools.cache
def _code_digest() -> str:
    """Digest of the planners' own source: another version is another policy."""
    folder = Path(planners.__file__).parent
    lines = [f"{p.relative_to(folder).as_posix()} {storage.digest_file(p)}" for p in sorted(folder.rglob("*.py"))]
    return storage.digest_bytes("\n".join(lines).encode())
