"""Every command on six tasks of other packages: explore, record policies, train a world, rank six graded policies, compare.

    pip install -e ".[scenes]" in an environment of its own, apt-get install libegl1, then
    python -m benchmarks.third_party [--seconds 600] [--only reacher ...] [--out runs/third_party]

The order of the policies is known only roughly; what counts is the true environment's. The extra pins MuJoCo 3.5.0.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.record import ROOT, Figure, run, write
from benchmarks.third_party_policies import LEVELS
from worldsim import storage
from worldsim.errors import WorldsimError
from worldsim.triage.report import assemble
from worldsim.triage.report.trust import assess_reliance
from worldsim.triage.run import read_results

_POLICIES = "benchmarks.third_party_policies"
_TAUGHT = ("noise_0", "noise_60", "random")
"""Whose episodes a world learns from."""
_TRIED, _MOST = 6, 600
"""Episodes that show how long one takes, and most episodes of a dataset; a multiple of the policies."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """A task of another package.

    Attributes:
        name: Of its controller in `benchmarks.third_party_policies`.
        env: As for ``--env``.
        success: As for ``--success``; empty where the environment tells.
        steps: Actions in an episode.
    """

    name: str
    env: str
    success: str
    steps: int

    @property
    def options(self) -> list[str]:
        """What names the environment on a command line."""
        return ["--env", self.env, *(["--success", self.success] if self.success else [])]


SCENES = (
    Scene(name="pusht", env="gym_pusht:gym_pusht/PushT-v0", success="info.n_contacts > 0", steps=40),
    Scene(name="fetch_reach", env="gymnasium_robotics:FetchReach-v4", success="", steps=30),
    Scene(name="reacher", env="Reacher-v5", success="info.reward_dist > -0.03", steps=50),
    Scene(name="pusher", env="Pusher-v5", success="info.reward_near > -0.15", steps=60),
    Scene(name="dm_reacher", env="shimmy:dm_control/reacher-easy-v0", success="reward > 0.5", steps=60),
    Scene(name="mountain_car", env="MountainCar-v0", success="observation.0 >= 0.5", steps=150),
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
    commands: dict[str, str] = dataclasses.field(default_factory=dict)  # its error, or empty
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    agreement: dict[str, float | None] = dataclasses.field(default_factory=dict)
    rates: dict[str, tuple[float | None, float | None]] = dataclasses.field(default_factory=dict)  # world, truth
    verdict: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def works(self) -> bool:
        """Whether every command did what it was asked."""
        return all(error == "" for error in self.commands.values())


def try_scene(scene: Scene, budget: Budget, out: Path) -> Result:
    """Run every command on a task.

    Args:
        scene: The task.
        budget: What may be spent.
        out: Where everything goes.
    """
    result, data, world = Result(scene=scene.name), out / scene.name / "data", out / scene.name / "world"
    names = {level: f"{_POLICIES}:{scene.name}_{level}" for level in LEVELS}
    look = [*scene.options, "--image-px", str(budget.image_px), "--steps", str(scene.steps)]
    taught = [word for level in _TAUGHT for word in ("--policies", names[level])]
    record = ["collect", *look, *taught, "--batch", str(_TRIED), "--out", str(data)]
    explore = ["collect", *look, "--episodes", "2", "--out", str(out / scene.name / "explored")]
    fit = budget.settings or (f"minutes={budget.seconds / 60:g}",)
    rank = [
        *("triage", *names.values(), "--world", str(world), *scene.options, "--truth", str(budget.truth), "--k", "2"),
        *("--budget", str(budget.rollouts * len(names)), "--workers", "1", "--videos", "1"),
        *("--out", str(out / scene.name / "triage")),
    ]
    steps = [
        ("explore", explore),
        ("record", [*record, "--episodes", str(_TRIED)]),
        ("record more", []),
        ("train", ["train", "world", f"data={data}", f"out={world}", *fit]),
        ("triage", rank),
    ]
    for name, words in steps:
        if name == "record more":
            episodes = _affordable(result.seconds["record"], _TRIED, budget.seconds)
            words = [*record, "--episodes", str(episodes)]
        _command(name, words, result)
        if not result.works:
            return result
    _read(result, out / scene.name / "triage")
    return result


def _affordable(seconds: float, episodes: int, budget_s: float) -> int:
    """How many episodes the time is enough for, from how long some took."""
    return max(episodes, min(_MOST, int(episodes * budget_s / max(seconds, 1e-3))))


def _command(name: str, words: Sequence[str], result: Result) -> None:
    """Run one command, show what it says, and keep whether it worked."""
    started = time.monotonic()
    print(f"\n== {result.scene}: worldsim {' '.join(words)}", flush=True)
    script = "from worldsim.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout[-2500:], done.stderr[-1500:], sep="\n", flush=True)
    result.seconds[name] = time.monotonic() - started
    result.commands[name] = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]


def _read(result: Result, folder: Path) -> None:
    """Agreement, rates and what the report says of the world, from a triage's folder."""
    try:
        data = assemble(read_results(folder), command="", made="", core_s=None, clips=[], remarks=[])
    except WorldsimError as error:
        result.commands["read"] = str(error)
        return
    if data.truth is not None:
        found = data.truth.success
        result.agreement = {
            n: e.value for n in ("pearson", "spearman", "mmrv", "bias") if (e := found.get(n)) is not None
        }
        for policy in data.truth.policies:
            level = data.labels[policy.policy]
            result.rates[level] = (policy.world.success, policy.truth.success)
    result.verdict = {reliance.claim: reliance.answer for reliance in assess_reliance(data)}


def main(
    seconds: Annotated[float, typer.Option(help="Seconds of recording, and of training, for each task.")] = 600.0,
    image_px: Annotated[int, typer.Option(help="Side of the frames.")] = 64,
    truth: Annotated[int, typer.Option(help="Paired episodes of each policy.")] = 12,
    rollouts: Annotated[int, typer.Option(help="Rollouts of each policy in the world.")] = 40,
    only: Annotated[list[str] | None, typer.Option(help="Names of tasks; repeatable.")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="Settings of train world instead of its time.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything; removed first.")] = Path("runs/third_party"),
) -> None:
    """Try all tasks and write benchmarks/results/third_party.json."""
    budget = Budget(seconds=seconds, image_px=image_px, truth=truth, rollouts=rollouts, settings=tuple(setting or ()))
    shutil.rmtree(out, ignore_errors=True)
    chosen = [scene for scene in SCENES if not only or scene.name in only]
    results = [try_scene(scene, budget, out) for scene in chosen]
    for result in results:
        print(result)
    figures = [
        Figure(name="tasks on which all commands work", value=sum(r.works for r in results), unit=f"of {len(results)}"),
        *(
            Figure(name=f"{r.scene}: {name} of success", value=r.agreement.get(name), reason=_reason(r))
            for r in results
            for name in ("pearson", "spearman")
        ),
    ]
    details: dict[str, Any] = {r.scene: storage.to_json(r) for r in results}
    write("third_party", figures=figures, seeds=[0], details={"budget": storage.to_json(budget), **details})


def _reason(result: Result) -> str:
    """Why agreement may be undefined."""
    failed = [f"{name}: {error}" for name, error in result.commands.items() if error]
    return failed[0] if failed else "reported, not judged: it is undefined where all policies do alike"


if __name__ == "__main__":
    run(main)
