"""More data like a dataset's, with more contact: its own actions replayed in its environment, and how the data changed by it.

Shape legend: P proprio.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from worldsim.data.collect import record
from worldsim.data.collect.env_adapter import EnvAdapter, EnvObservation, EnvView
from worldsim.data.collect.fill import RecordingCost, RecordingSummary
from worldsim.data.collect.goal_exploration import contact_seeking
from worldsim.data.collect.random_exploration import Behaviour, Corrupted
from worldsim.data.collect.record import RecordingOptions
from worldsim.data.collect.replay import PERTURBED, RecordedActions, Replay
from worldsim.data.collect.success import success_rule
from worldsim.data.episode import Episode
from worldsim.data.faults.screen import SCREENED_BYTES, sample_episodes
from worldsim.data.latents import HELD_OUT_EVERY, hold_out
from worldsim.data.lerobot.join import open_datasets
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.data.survey import survey_dataset
from worldsim.errors import InvalidInputError, StorageError
from worldsim.evaluate.environments import MakeEnv
from worldsim.evaluate.true_env import TrueEnv
from worldsim.progress import Progress, silent
from worldsim.text import align

EPISODES = 100
"""Episodes that are replayed, at most, evenly spread."""
REPLAYED = 0.75
"""Share of the episodes that replay; the others drive what moves in the picture at what stands out in it."""
_TRIED = 3
_CLOSE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Extension:
    """A recording of more data, ready to be made.

    Attributes:
        dataset: What it shall be like.
        make: Makes its environment.
        behaviours: What acts.
        options: How it is recorded.
        remarks: What the user should know before.
    """

    dataset: Dataset
    make: MakeEnv
    behaviours: tuple[Behaviour, ...]
    options: RecordingOptions
    remarks: tuple[str, ...]

    def estimate(self, *, episodes: int, seed: int) -> RecordingCost:
        """What so many episodes would cost, from two; errors as `worldsim.data.collect.record.collect`."""
        return record.estimate_collect(self.make, self.behaviours, episodes=episodes, seed=seed, options=self.options)

    def run(self, out: Path, *, episodes: int, seed: int, progress: Progress = silent) -> RecordingSummary:
        """Record until the folder holds so many episodes; the same call continues; see `worldsim.data.collect.record.collect`."""
        return record.collect(
            self.make, self.behaviours, episodes=episodes, out=out, seed=seed, options=self.options, progress=progress
        )


def prepare_extension(
    data: str | Path, *, named: TrueEnv | None = None, options: RecordingOptions | None = None
) -> Extension:
    """Find the environment of a dataset, see that it gives what the dataset holds, and choose what acts.

    Args:
        data: The dataset, as `open_dataset` takes it.
        named: The environment, what is imported first, or the success rule; what is not named is what the dataset says. Code
            that it says is not run.
        options: Length of episodes, their storage and how long a call may take; the rest is as in the dataset.

    Raises:
        StorageError: The dataset cannot be read.
        InvalidInputError: It does not say its environment, or that gives something else; both are named.
        WorldsimError: As `MakeEnv` and `EnvAdapter`.
    """
    dataset = open_dataset(data)
    there = _environment(dataset, named or TrueEnv())
    episodes = _replayed(dataset)
    given = options or RecordingOptions()
    sizes = {camera.size for camera in dataset.cameras}
    options = dataclasses.replace(
        given,
        cameras=tuple(camera.key for camera in dataset.cameras),
        image_px=sizes.pop() if len(sizes) == 1 else None,
        action=dataset.action_spec,
        steps=given.steps or max(dataset.lengths) - 1,
        success=success_rule(there.success) if there.success else None,
        env=there.env,
        source={"like": dataset.digest},
    )
    make = MakeEnv(there.env, imports=there.imports)
    repeats = _check_environment(make, options.view, dataset, episodes)
    recorded = RecordedActions.of_episodes(episodes, dataset.cameras[0].key)
    replay = Replay(recorded, dataset.action_spec, at_start=repeats)
    seek = Corrupted(contact_seeking(dataset.action_spec, camera=dataset.cameras[0].key), dataset.action_spec)
    share = REPLAYED if recorded.moving else 1 - REPLAYED
    behaviours = (
        Behaviour(name="replay", policy=replay, weight=share, start_seed=replay.start_seed),
        Behaviour(name="contact", policy=seek, weight=1 - share),
    )
    said = tuple(_describe(make, recorded, repeats=repeats, share=share))
    return Extension(dataset=dataset, make=make, behaviours=behaviours, options=options, remarks=said)


def compare_data(before: str | Path, after: str | Path) -> str:
    """A table of what a dataset, another one and both together show, as `worldsim.data.survey` sees them, and whether contact fell.

    Raises:
        StorageError: One of them cannot be read.
        InvalidInputError: They do not hold the same.
    """
    names = [Path(before).name, Path(after).name]
    names = names if names[0] != names[1] else [str(before), str(after)]
    both = (str(before), str(after))
    surveys = [survey_dataset(open_datasets(data)) for data in (*both, both)]
    shares = {
        "moments from which a thing moves": [one.moving for one in surveys],
        "episodes that begin with things out of view": [one.out_of_view for one in surveys],
        "episodes that end solved": [one.solved for one in surveys],
        **{f"covered of the range of {name}": [one.covered[name] for one in surveys] for name in surveys[0].covered},
    }
    rows = [(what, *("not known" if math.isnan(x) else f"{x:.0%}" for x in values)) for what, values in shares.items()]
    table = align([("", *names, "both"), *rows])
    old, new = surveys[0].moving, surveys[1].moving
    if new < old:  # False where one of them is not known
        table += (
            f"\nThings move less often in {names[1]} than in {names[0]}: replays that are disturbed miss what policies reach. Record more "
            "with what recorded the old data, or with policies: worldsim collect --policies."
        )
    return table


def _environment(dataset: Dataset, named: TrueEnv) -> TrueEnv:
    """The environment that is named, or the registered one that the dataset says, and the rule likewise.

    Raises:
        InvalidInputError: There is none.
    """
    task_id = "" if ":" in dataset.task_id else dataset.task_id
    rule = "" if ":" in dataset.success_rule else dataset.success_rule
    if not named.env and not task_id:
        said = (
            f"says {dataset.env}, which is code, and code is not run because data says so"
            if dataset.env
            else "does not say in which environment it was recorded"
        )
        example = dataset.env or "PACKAGE:ID"
        raise InvalidInputError(
            f"{dataset.name} {said}. Name the environment: --env {example}. Recordings of a robot are extended with the robot."
        )
    return TrueEnv(env=named.env or task_id, imports=named.imports, success=named.success or rule)


def _replayed(dataset: Dataset) -> list[Episode]:
    """A sample of the episodes, none of those that training holds out: their starts stay unseen.

    Raises:
        StorageError: None of them can be read.
    """
    aside = hold_out(dataset.lengths, every=HELD_OUT_EVERY, source=dataset.name)
    trained = dataset.without(aside)
    wanted = [
        i for i in sample_episodes(dataset, most_bytes=SCREENED_BYTES, most=EPISODES * 10 // 9) if i in {*trained.used}
    ]
    found = list[Episode]()
    for index in wanted:
        try:
            found.append(dataset.episode(index))
        except (StorageError, InvalidInputError):
            continue  # training counts and names them
    if not found:
        raise StorageError(f"None of the {len(wanted)} episodes of {dataset.name} that were tried can be read.")
    return found


def _check_environment(make: MakeEnv, view: EnvView, dataset: Dataset, episodes: list[Episode]) -> bool:
    """Whether the environment begins as recorded when it is reset with recorded seeds.

    Raises:
        InvalidInputError: It gives other cameras or proprioception than the dataset holds.
        WorldsimError: As `EnvAdapter`.
    """
    env = make()
    try:
        adapter = EnvAdapter(env, view)
        tried = [one for one in episodes if one.seed >= 0][:_TRIED]
        seen = [adapter.read(*adapter.reset(one.seed)) for one in tried or episodes[:1]]
        _require_alike(make.name, seen[0], dataset, episodes[0])
        return bool(tried) and all(
            np.allclose(a.proprio, one.proprio[0], rtol=_CLOSE, atol=_CLOSE) for a, one in zip(seen, tried, strict=True)
        )
    finally:
        env.close()


def _require_alike(name: str, seen: EnvObservation, dataset: Dataset, episode: Episode) -> None:
    """Refuse an environment that gives something else than the dataset holds."""
    given = {"cameras": {key: x.shape[:2] for key, x in seen.frames.items()}, "proprioception": len(seen.proprio)}
    wanted = {"cameras": {c.key: c.size for c in dataset.cameras}, "proprioception": episode.proprio.shape[1]}
    for what, value in wanted.items():
        if given[what] != value:
            raise InvalidInputError(
                f"The environment {name} gives {what} {given[what]}; {dataset.name} holds {value}. Name the environment that it was "
                "recorded in, made in the same way: --env."
            )


def _describe(make: MakeEnv, recorded: RecordedActions, *, repeats: bool, share: float) -> Iterator[str]:
    """What will be done, in sentences."""
    starts = (
        "recorded starts, most where things move" if repeats else "fresh starts (it does not repeat the recorded ones)"
    )
    yield (
        f"In {make.name}, from {starts}: {share:.0%} of the episodes replay {len(recorded.first)} recorded "
        f"ones{', exactly until something moves' if repeats else ''}, change to moments of others before things move, and act at random in "
        f"{PERTURBED:.0%} of the steps; the others seek contact in the picture."
    )
    if not recorded.moving:
        yield "In none of the recorded moments that were looked at does anything but the robot move: contact is sought from nothing."
