"""Every command on six tasks of other packages: explore, record policies, train a world, rank six graded policies, compare.

    pip install -e ".[scenes]" in an environment of its own, apt-get install libegl1, then
    python -m benchmarks.third_party [--seconds 600] [--only reacher ...] [--out runs/third_party]

The order of the policies is known only roughly; what counts is the true environment's. A task that is done is kept in the
folder and not done again, and the record is made of all that are there, so that tasks may be run one by one. Time is
processor time of a command and all that it starts; a training is fitted to its time as `minutes=` does, by the processor
time of its steps on a rehearsal. The extra pins MuJoCo 3.5.0.
"""

import contextlib
import ctypes
import dataclasses
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.record import ROOT, Figure, commit, run, write
from benchmarks.third_party_policies import levels
from worldsim import storage
from worldsim.data.lerobot.read import open_dataset
from worldsim.errors import WorldsimError
from worldsim.evaluate.validity import measure_validity
from worldsim.stats.agreement import Agreement
from worldsim.train.recipes.settings import split_episodes
from worldsim.triage.report import assemble
from worldsim.triage.report.conclusion import conclude
from worldsim.triage.report.trust import assess_reliance
from worldsim.triage.run import read_results
from worldsim.validity.validity import Validity
from worldsim.worlds import load_world
from worldsim.worlds.latent import LearnedWorld

_POLICIES = "benchmarks.third_party_policies"
_TRIED, _MOST = 6, 240
"""Episodes that show how long one takes, and most episodes of a dataset; a multiple of the policies."""
_SHOWN = ("pearson", "spearman", "mmrv", "bias")
_CLEAR = 0.1
"""Success by which a policy is clearly better than another."""
_SUBREAPER = 36
"""Linux: what a command leaves behind becomes a child of this process, so that its time is counted."""
_LINGER_S = 20.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """A task of another package.

    Attributes:
        name: Of its controller in `benchmarks.third_party_policies`.
        env: As for ``--env``.
        success: As for ``--success``; empty where the environment tells.
        steps: Actions in an episode.
        task: What its success says, in words.
    """

    name: str
    env: str
    success: str
    steps: int
    task: str

    @property
    def options(self) -> list[str]:
        """What names the environment on a command line."""
        return ["--env", self.env, *(["--success", self.success] if self.success else [])]

    @property
    def policies(self) -> dict[str, str]:
        """References of its graded policies, by level."""
        return {level: f"{_POLICIES}:{self.name}_{level}" for level in levels(self.name)}

    @property
    def taught(self) -> list[str]:
        """The policies whose episodes a world learns from: the best, a bad one, random actions."""
        known = [*self.policies.values()]
        return [known[0], known[2], self.policies["random"]]


SCENES = (
    Scene(
        name="pusht",
        env="gym_pusht:gym_pusht/PushT-v0",
        success="info.coverage > 0.4",
        steps=60,
        task="the block covers 40 % of its goal (the package asks for 95 %, which the controller does not reach)",
    ),
    Scene(
        name="fetch_push",
        env="gymnasium_robotics:FetchPush-v4",
        success="",
        steps=50,
        task="the cube lies at its goal, as the package says",
    ),
    Scene(
        name="reacher", env="Reacher-v5", success="info.reward_dist > -0.02", steps=50, task="the tip is at the target"
    ),
    Scene(
        name="pusher",
        env="Pusher-v5",
        success="info.reward_near > -0.15",
        steps=60,
        task="the tip has reached the object (no controller here pushes it to its goal)",
    ),
    Scene(
        name="dm_reacher",
        env="shimmy:dm_control/reacher-easy-v0",
        success="reward > 0.5",
        steps=60,
        task="the tip is at the target, as the package says",
    ),
    Scene(
        name="mountain_car",
        env="MountainCar-v0",
        success="observation.0 >= 0.5",
        steps=150,
        task="the car is at the flag",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is spent on a task.

    Attributes:
        seconds: Of recording, and of training.
        image_px: Side of the frames.
        truth: Paired episodes of each policy.
        rollouts: Of each policy in the world.
        settings: Further settings of ``train world``; they replace its time limit.
    """

    seconds: float
    image_px: int
    truth: int
    rollouts: int
    settings: tuple[str, ...] = ()


@dataclasses.dataclass(kw_only=True)
class Result:
    """What came of a task; a command that failed leaves the rest empty."""

    scene: str
    task: str
    budget: Budget
    commit: str
    episodes: int = 0
    commands: dict[str, str] = dataclasses.field(default_factory=dict)  # its error, or empty
    core_s: dict[str, float] = dataclasses.field(default_factory=dict)
    wall_s: dict[str, float] = dataclasses.field(default_factory=dict)
    usable: bool | None = None
    why: list[str] = dataclasses.field(default_factory=list)
    held_out: list[list[str]] = dataclasses.field(default_factory=list)  # what, of the world, of copying
    beats_copying: list[int] = dataclasses.field(default_factory=list)  # actions ahead
    agreement: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)  # value, low, high
    rates: dict[str, tuple[float | None, float | None]] = dataclasses.field(default_factory=dict)  # world, truth
    verdict: dict[str, str] = dataclasses.field(default_factory=dict)
    conclusion: str = ""
    recommends: bool = False
    set_regret: float | None = None  # success in truth that the recommended lose on the best

    @property
    def misleads(self) -> bool:
        """Whether the report recommends policies that are clearly not the best in truth."""
        return self.recommends and (self.set_regret is None or self.set_regret > _CLEAR)

    @property
    def works(self) -> bool:
        """Whether every command did what it was asked."""
        return all(error == "" for error in self.commands.values())


def try_scene(scene: Scene, budget: Budget, out: Path) -> Result:
    """Run every command on a task.

    Args:
        scene: The task.
        budget: What may be spent.
        out: Where everything of it goes.
    """
    result = Result(scene=scene.name, task=scene.task, budget=budget, commit=commit())
    data, world = out / "data", out / "world"
    look = [*scene.options, "--image-px", str(budget.image_px), "--steps", str(scene.steps)]
    taught = [word for policy in scene.taught for word in ("--policies", policy)]
    record = ["collect", *look, *taught, "--batch", str(_TRIED), "--out", str(data)]
    _command("explore", ["collect", *look, "--episodes", "2", "--out", str(out / "explored")], result)
    _command("record", [*record, "--episodes", str(_TRIED)], result)
    result.episodes = _affordable(result.core_s.get("record", 0.0), _TRIED, budget.seconds)
    _command("record more", [*record, "--episodes", str(result.episodes)], result)
    fit = budget.settings or (f"minutes={budget.seconds / 60:g}",)
    _command("train", ["train", "world", f"data={data}", f"out={world}", *fit], result)
    rank = [
        *("triage", *scene.policies.values(), "--world", str(world), *scene.options, "--truth", str(budget.truth)),
        *("--budget", str(budget.rollouts * len(scene.policies)), "--k", "2", "--workers", "1", "--videos", "1"),
        *("--out", str(out / "triage")),
    ]
    _command("triage", rank, result)
    return result


def _affordable(seconds: float, episodes: int, budget_s: float) -> int:
    """How many episodes the time is enough for, from how long some took."""
    return max(episodes, min(_MOST, int(episodes * budget_s / max(seconds, 1e-3))))


def _command(name: str, words: Sequence[str], result: Result) -> None:
    """Run one command unless one before it failed, show what it says, and keep whether it worked and what it cost."""
    if not result.works:
        return
    started, before = time.monotonic(), _children_core_s()
    print(f"\n== {result.scene}: worldsim {' '.join(words)}", flush=True)
    script = "from worldsim.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout[-5000:], done.stderr[-1500:], sep="\n", flush=True)
    _await_orphans()
    result.core_s[name] = round(_children_core_s() - before, 1)
    result.wall_s[name] = round(time.monotonic() - started, 1)
    result.commands[name] = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]


def _await_orphans() -> None:
    """Wait for the processes that a command has left behind, so that their time is counted."""
    until = time.monotonic() + _LINGER_S
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.1)


def _children_core_s() -> float:
    """Processor time of all children that have ended, theirs included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _read(result: Result, out: Path) -> None:
    """What the world of a task says of itself, agreement, rates and what the report concludes."""
    try:
        validity = _measure(out)
        found = read_results(out / "triage")
        data = assemble(found, command="", made="", core_s=None, clips=[], remarks=[], validity=validity)
    except WorldsimError as error:
        result.commands["read"] = str(error)
        return
    result.usable, result.why = validity.usable, [*validity.reasons]
    result.held_out = [list(row) for row in validity.rows()]
    pictures = validity.curve("pictures")
    if pictures is not None:
        pairs = zip(pictures.horizons, pictures.world, pictures.copying, strict=True)
        result.beats_copying = [h for h, own, copied in pairs if own < copied]
    if data.truth is not None:
        result.agreement = _shown(data.truth.success)
        regret = data.truth.success.get("set_regret")
        result.set_regret = None if regret is None else regret.value
        for policy in data.truth.policies:
            level = data.labels[policy.policy].rpartition(f":{result.scene}_")[2]
            result.rates[level] = (policy.world.success, policy.truth.success)
    result.verdict = {reliance.claim: reliance.answer for reliance in assess_reliance(data)}
    result.conclusion = conclude(data).title
    result.recommends = result.conclusion.startswith("Try ")


def _measure(out: Path) -> Validity:
    """Figures of a task's world on the episodes that it was not trained on, measured as `train world` does it today."""
    dataset, world = open_dataset(out / "data"), load_world(out / "world")
    assert isinstance(world, LearnedWorld)
    return measure_validity(world, split_episodes(dataset)[1], dataset).validity


def _shown(found: Agreement) -> dict[str, list[float | None]]:
    """Value, low and high of the estimates that are shown."""
    return {name: [e.value, e.low, e.high] for name in _SHOWN if (e := found.get(name)) is not None}


def main(
    seconds: Annotated[float, typer.Option(help="Seconds of recording, and of training, for each task.")] = 600.0,
    image_px: Annotated[int, typer.Option(help="Side of the frames.")] = 64,
    truth: Annotated[int, typer.Option(help="Paired episodes of each policy.")] = 24,
    rollouts: Annotated[int, typer.Option(help="Rollouts of each policy in the world.")] = 48,
    only: Annotated[list[str] | None, typer.Option(help="Names of tasks; repeatable.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="Settings of train world instead of its time.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything; tasks done there are kept.")] = Path(
        "runs/third_party"
    ),
) -> None:
    """Try all tasks that are not done and write benchmarks/results/third_party.json."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    budget = Budget(seconds=seconds, image_px=image_px, truth=truth, rollouts=rollouts, settings=tuple(setting or ()))
    for scene in SCENES:
        if (not only or scene.name in only) and _done(scene, budget, out) is None:
            result = try_scene(scene, budget, out / scene.name)
            storage.write_json(out / scene.name / "result.json", storage.to_json(result))
    results = [found for scene in SCENES if (found := _done(scene, budget, out, failed=True)) is not None]
    for result in results:
        if result.works:
            _read(result, out / result.scene)
    _print(results)
    figures = [
        Figure(name="tasks on which all commands work", value=sum(r.works for r in results), unit=f"of {len(SCENES)}"),
        Figure(name="worlds that are usable by their own figures", value=sum(bool(r.usable) for r in results)),
        Figure(name="reports that recommend what is clearly not best in truth", value=sum(r.misleads for r in results)),
        *(
            Figure(name=f"{r.scene}: {name} of success", value=(r.agreement.get(name) or [None])[0], reason=_reason(r))
            for r in results
            for name in ("pearson", "spearman")
        ),
    ]
    details: dict[str, Any] = {r.scene: storage.to_json(r) for r in results}
    spent = round(sum(sum(r.core_s.values()) for r in results), 1)
    write("third_party", figures=figures, seeds=[0], details={"core_seconds of all commands": spent, **details})


def _done(scene: Scene, budget: Budget, out: Path, *, failed: bool = False) -> Result | None:
    """The result of a task in a folder, of the same budget; one that failed only if asked for."""
    path = out / scene.name / "result.json"
    found = storage.from_json(Result, storage.read_json(path)) if path.is_file() else None
    return found if found is not None and found.budget == budget and (found.works or failed) else None


def _print(results: Sequence[Result]) -> None:
    """One table of what came out."""
    table = Table(title="worlds of other people's tasks", title_justify="left")
    for column in (
        *("task", "commands", "record core-s", "train core-s", "triage core-s", "usable", "beats copying after"),
        *(*_SHOWN, "success, world / truth", "the report says"),
    ):
        table.add_column(column)
    for r in results:
        spent = (
            r.core_s.get("record", 0) + r.core_s.get("record more", 0),
            r.core_s.get("train"),
            r.core_s.get("triage"),
        )
        values = [(r.agreement.get(name) or [None])[0] for name in _SHOWN]
        table.add_row(
            r.scene,
            "all work" if r.works else _reason(r),
            *("-" if s is None else f"{s:.0f}" for s in spent),
            {True: "yes", False: "no", None: "unknown"}[r.usable],
            ", ".join(map(str, r.beats_copying)) or "never",
            *("undefined" if v is None else f"{v:.2f}" for v in values),
            "\n".join(f"{level} {_percent(a)} / {_percent(b)}" for level, (a, b) in r.rates.items()),
            r.conclusion,
        )
    Console(width=200).print(table)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _reason(result: Result) -> str:
    """Why agreement may be undefined."""
    failed = [f"{name}: {error}" for name, error in result.commands.items() if error]
    return failed[0] if failed else "reported, not judged: it is undefined where all policies do alike"


if __name__ == "__main__":
    run(main)
