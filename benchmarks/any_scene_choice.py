"""Whether `train world` chooses the family that does best, and predicts what training costs: `python -m benchmarks.any_scene --choose`.

Of every scene: what is chosen with default settings and what choosing takes; then every family that fits the data is trained for the
same few minutes and measured. What is trained and measured is kept, and the same command goes on after it was stopped.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import Figure
from worldsim import storage
from worldsim.data.lerobot.join import open_datasets
from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError
from worldsim.train.config import resolve
from worldsim.train.recipes.cost import Cost
from worldsim.train.recipes.world import plan_world, train_world
from worldsim.worlds import load_world
from worldsim.worlds.latent import LearnedWorld

CLOSE = 0.05
"""Part by which the error of the chosen family may exceed the least."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Error:
    """How far a world is off on held-out episodes.

    Attributes:
        what: Is measured, in words.
        value: Of the world.
        least: Errors below it count as equal: the measure is no finer.
        more_is_better: As of a PSNR.
    """

    what: str
    value: float
    least: float = 0.0
    more_is_better: bool = False

    def close_to(self, best: "Error") -> bool:
        """Whether it is as good, or hardly worse."""
        if self.more_is_better:
            return self.value >= (1 - CLOSE) * best.value
        return self.value <= (1 + CLOSE) * max(best.value, best.least)


Measure = Callable[[str, LearnedWorld, Dataset], Error]
"""The error of a world of a scene on held-out episodes of a dataset."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A family that was trained for a short time; core-seconds.

    Attributes:
        error: What it comes to.
        predicted_s: What the plan says that training will take.
        stages_s: What the stages took.
        all_s: What everything took from the plan to the finished folder, held-out figures too.
    """

    error: Error
    predicted_s: float
    stages_s: float
    all_s: float

    @property
    def deviation(self) -> float:
        """Of the prediction from what everything took, a share of that."""
        return abs(self.predicted_s - self.all_s) / self.all_s


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """What is chosen with default settings; core-seconds.

    Attributes:
        family: That is trained.
        candidates: All that fit the data, and what each is said to cost.
        choosing_s: What choosing took.
        said: The plan, for people.
    """

    family: str
    candidates: dict[str, float]
    choosing_s: float
    said: str

    @property
    def share(self) -> float:
        """What choosing took, as a share of the training of what was chosen."""
        return self.choosing_s / self.candidates[self.family]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What came out for one scene."""

    scene: str
    chosen: Chosen
    trained: dict[str, Trained]

    @property
    def best(self) -> str:
        """The family that does best; empty where none was trained."""
        sign = {name: -1 if one.error.more_is_better else 1 for name, one in self.trained.items()}
        return min(self.trained, key=lambda name: sign[name] * self.trained[name].error.value, default="")

    @property
    def right(self) -> bool:
        """Whether the chosen family is the best, or close to it."""
        own = self.trained.get(self.chosen.family)
        return own is not None and own.error.close_to(self.trained[self.best].error)

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        shares = {"choosing_share": round(self.chosen.share, 4), "best": self.best, "right": self.right}
        return {**storage.to_json(self), **shares}


def choose(data: Mapping[str, Path], out: Path, *, settings: Sequence[str], measure: Measure) -> list[Found]:
    """Choose, train and measure on every scene, as far as that is not done yet.

    Args:
        data: Datasets by the name of the scene.
        out: Where results and worlds are kept, a folder for each scene.
        settings: Of the training of each family, as ``minutes=2``.
        measure: The error of a world of a scene on held-out episodes.
    """
    found = list[Found]()
    for scene, path in data.items():
        folder = out / scene
        folder.mkdir(parents=True, exist_ok=True)
        chosen = _chosen(path, folder)
        trained = dict[str, Trained]()
        for family in chosen.candidates:
            if one := _trained(scene, path, family, folder, settings, measure):
                trained[family] = one
        found.append(Found(scene=scene, chosen=chosen, trained=trained))
        print(scene, found[-1].to_json(), flush=True)
    return found


def _chosen(data: Path, folder: Path) -> Chosen:
    """What is chosen with default settings."""
    kept = folder / "chosen.json"
    if kept.exists():
        return storage.from_json(Chosen, storage.read_json(kept))
    plan = plan_world(resolve("world", [f"data={data}", f"out={folder / 'auto'}"]), choose=True)
    total_s = sum(plan.stages.values(), Cost()).core_s
    candidates = {one.family: one.cost.core_s for one in plan.candidates if one.cost.core_s}
    chosen = Chosen(
        family=plan.family,
        candidates=candidates | {plan.family: total_s},
        choosing_s=plan.choosing_s,
        said=str(plan),
    )
    print(chosen.said, f"Choosing took {chosen.choosing_s:.0f} core-seconds, {chosen.share:.0%}.", sep="\n", flush=True)
    storage.write_json(kept, storage.to_json(chosen))
    return chosen


def _trained(
    scene: str,
    data: Path,
    family: str,
    folder: Path,
    settings: Sequence[str],
    measure: Measure,
) -> Trained | None:
    """A family, trained and measured; None where the time does not reach for it."""
    kept = folder / f"{family}.json"
    if kept.exists():
        return storage.from_json(Trained, storage.read_json(kept))
    out, said = folder / family, list[tuple[str, Cost]]()
    if not (out / "cost.json").exists():
        for begun in (out, out.with_name(f"{family}.training")):
            shutil.rmtree(begun, ignore_errors=True)  # what was stopped begins again, so that its cost is known
        every = [f"data={data}", f"out={out}", f"family={family}", "num_starts=8", *settings]
        try:
            train_world(resolve("world", every), say=lambda text: said.append((text, Cost.now())))
        except InvalidInputError as error:
            print(f"{scene}, {family}: {error}", flush=True)
            return None
        took = Cost.since(said[0][1]).core_s
        print(scene, family, *(text for text, _ in said), sep="\n", flush=True)
        storage.write_json(out / "cost.json", {"all_s": took})
    world, manifest = load_world(out), storage.read_manifest(out, kind="world")
    assert isinstance(world, LearnedWorld)
    one = Trained(
        error=measure(scene, world, open_datasets(str(data))),
        predicted_s=sum(stage["core_s"] for stage in manifest["plan"]["stages"].values()),
        stages_s=sum(manifest["core_seconds"].values()),
        all_s=float(storage.read_json(out / "cost.json")["all_s"]),
    )
    storage.write_json(kept, storage.to_json(one))
    return one


def figures(found: Sequence[Found]) -> list[Figure]:
    """What all scenes come to, and each."""
    trained = [one for scene in found for one in scene.trained.values()]
    tried = [one for one in found if len(one.chosen.candidates) > 1]
    rows = [
        Figure(name="scenes", value=len(found)),
        Figure(name="scenes where several families fit", value=len(tried)),
        Figure(name="scenes where the chosen is the best, or within 5 %", value=sum(one.right for one in found)),
        Figure(name="choosing, largest share of the training", value=_most([o.chosen.share for o in tried]), unit="%"),
        Figure(name="cost predicted, largest deviation", value=_most([o.deviation for o in trained]), unit="%"),
        Figure(name="trainings whose cost is predicted within 20 %", value=sum(o.deviation <= 0.2 for o in trained)),
        Figure(name="trainings", value=len(trained)),
    ]
    for one in found:
        for name, family in (("chosen", one.chosen.family), ("best", one.best)):
            if family in one.trained:
                error = one.trained[family].error
                rows.append(Figure(name=f"{one.scene}: {name}, {error.what}", value=error.value))
    return rows


def _most(shares: Sequence[float]) -> float | None:
    return 100 * max(shares) if shares else None
