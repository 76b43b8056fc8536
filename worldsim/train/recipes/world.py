"""`worldsim train world`: a dataset in, a world folder out, in stages that each survive a kill.

Stages: tokenizer (closed form, then its learned pixels), latents, predictor, heads, held-out figures, folder.
The running state lives beside the result in `<out>.training`; the same command continues from it. Held-out figures need no
simulator; those that do (millimetres and degrees of an object) are `benchmarks/world_fidelity.py`.
"""

import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from worldsim import storage
from worldsim.compute import find_device
from worldsim.data.faults.screen import Screening, screen
from worldsim.data.guess import Described, describe_episodes
from worldsim.data.labels import Agreed
from worldsim.data.latents import EncodedEpisodes
from worldsim.data.lerobot.read import Dataset
from worldsim.data.starts import Starts
from worldsim.data.survey import survey_dataset
from worldsim.errors import InvalidInputError
from worldsim.evaluate.validity import PICTURE, Measured, measure_coverage, measure_validity
from worldsim.optimize import Schedule, fit
from worldsim.progress import Progress, ignore, silent
from worldsim.runs import open_run
from worldsim.text import command_text
from worldsim.tokenizers.base import LatentSpace
from worldsim.train.recipes.assemble import assemble_world
from worldsim.train.recipes.choice import TRIALS, Prospect, Prospects, find_prospects, try_prospects
from worldsim.train.recipes.cost import FRAMES, Cost, TrainingPlan
from worldsim.train.recipes.encode import encode_some
from worldsim.train.recipes.errors import learn_errors
from worldsim.train.recipes.heads import predict_episodes, prepare_heads
from worldsim.train.recipes.labels import (
    LOOKED_AT,
    encode_dreams,
    read_dreams,
    read_labels,
    share_of_positives,
    unlabelled,
    weigh_labels,
)
from worldsim.train.recipes.parts import Begun, begin_parts, keep_rows, rehearse_parts, train_parts
from worldsim.train.recipes.rehearsal import shorten_all
from worldsim.train.recipes.settings import (
    FAMILIES,
    TrainWorld,
    explain_schedules,
    leaves_family_open,
    open_data,
    settle_schedules,
    split_episodes,
    with_family,
)
from worldsim.train.recipes.structured.settings import FAMILY
from worldsim.worlds.heads import Heads
from worldsim.worlds.latent import LearnedWorld

__all__ = ["TrainWorld", "plan_world", "train_world"]
PLAN = "plan.json"


def train_world(config: TrainWorld, *, progress: Progress = silent, say: Callable[[str], None] = ignore) -> Path:
    """Train a world, continuing where an earlier run of the same command stopped.

    Args:
        config: What to do.
        progress: Called as it advances.
        say: Takes lines for people: before training what is chosen, why and at what cost; afterwards what it came to.

    Returns:
        The world folder.

    Raises:
        StorageError: The dataset cannot be read, or another run holds the folder.
        InvalidInputError: The data does not fit, there is no such device, `minutes` is too short, or `<out>.training` was
            begun with another config.
    """
    find_device(config.device)
    out = Path(config.out)
    work = out.with_name(out.name + ".training")
    dataset = open_data(config)
    split_episodes(dataset)  # before anything is made
    labels, dreams = read_labels(config.labels, config.data), read_dreams(config.dreams)
    asked = {"config": config, "data_digest": dataset.digest}
    asked |= {"labels": labels} if labels else {}
    asked |= {"dreams": dreams[1]} if dreams else {}
    with open_run(work, asked):
        prepared = _plan(dataset, config, work, progress, labelled=bool(labels))
        say(str(prepared.plan))
        measured = _train(prepared, config, labels, dreams, progress)
    shutil.rmtree(work, ignore_errors=True)
    say(_conclude(out, measured))
    return out


def plan_world(config: TrainWorld, *, progress: Progress = silent, choose: bool = False) -> TrainingPlan:
    """What `train_world` would choose and what it would cost, from a rehearsal of a few steps; nothing is left behind.

    Args:
        config: What to do.
        progress: Called as it advances.
        choose: Where the family is open, choose it by trials; else it is said what each would cost and what choosing costs.

    Raises:
        StorageError, InvalidInputError: As `train_world`.
    """
    find_device(config.device)
    dataset = open_data(config)
    with tempfile.TemporaryDirectory(prefix="worldsim-plan-") as scratch:
        return _plan(dataset, config, Path(scratch), progress, labelled=bool(config.labels), choose=choose).plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What a training begins with: the data that is used, tokenizers fitted to each camera, and the plan.

    `config` has a family, and steps in every schedule, as before they are fitted to a time; `work` is where its training is kept.
    """

    dataset: Dataset
    config: TrainWorld
    fitted: Begun
    plan: TrainingPlan
    work: Path


def _plan(
    dataset: Dataset, config: TrainWorld, work: Path, progress: Progress, *, labelled: bool, choose: bool = True
) -> _Prepared:
    """Screen the data, choose the family, and make the plan, by a rehearsal; the plan of a run that was begun is kept.

    `choose`: trials are run where the family is open; else the plan says what they would cost.
    """
    began, on_cpu = Cost.now(), find_device(config.device).type == "cpu"
    path = work / PLAN
    kept = storage.from_json(TrainingPlan, storage.read_json(path)) if path.exists() else None
    screenings = _screen(dataset, config, progress) if kept is None else kept.screenings
    dataset = dataset.without(screenings[0].indices)
    if kept is not None:
        config = settle_schedules(with_family(config, kept.family or config.family), dataset)
        folder = work / kept.family
        fitted = begin_parts(dataset, config, folder, progress)
        return _Prepared(dataset=dataset, config=config, fitted=fitted, plan=kept, work=folder)
    refused, advice = _look(dataset, config)
    try:
        if leaves_family_open(config):
            spent_s = Cost.since(began, on_cpu=on_cpu).wall_s
            found = find_prospects(dataset, config, work, progress, labelled=labelled, refused=refused)
            found = found.within(config.minutes, spent_s=spent_s + found.spent_s)
            prospect = _choose(dataset, config, found, work, progress, choose=choose)
        else:
            prospect = _rehearse(dataset, with_family(config, config.family), work, progress, labelled=labelled)
        reason = explain_schedules(with_family(config, prospect.config.family), dataset)
        plan = dataclasses.replace(prospect.plan, screenings=screenings, reason=reason, advice=advice)
        plan = plan.fit(config.minutes, spent_s=Cost.since(began, on_cpu=on_cpu).wall_s)
    except InvalidInputError:
        _forget_begun(work)  # so that another time may be asked for
        raise
    storage.write_json(path, storage.to_json(plan))
    return _Prepared(dataset=dataset, config=prospect.config, fitted=prospect.begun, plan=plan, work=prospect.folder)


def _look(dataset: Dataset, config: TrainWorld) -> tuple[dict[str, str], tuple[str, ...]]:
    """Families that the data does not suit, and why; and what is doubtful about it. A state world needs no pictures.

    Raises:
        InvalidInputError: The structured family is asked for, and there is no proprioception.
    """
    if config.state:
        return {}, ()
    found = survey_dataset(dataset)
    why = found.unstructured
    asked = bool(why) and config.family == FAMILY
    if asked and not found.has_proprio:
        raise InvalidInputError(f"family={FAMILY} does not fit: {why}. Record it, or leave family=auto.")
    warning = (f"family={FAMILY} was asked for, and {why}.",) if asked else ()
    return {FAMILY: why} if why else {}, (*found.advise(), *warning)


def _choose(
    dataset: Dataset, config: TrainWorld, found: Prospects, work: Path, progress: Progress, *, choose: bool
) -> Prospect:
    """The family that does best in its trial, or without trials the first that fits, its plan undecided."""
    began = Cost.now()
    if not choose and len(found.fit) > 1:
        first = next(iter(found.fit.values()))
        return dataclasses.replace(
            first, plan=dataclasses.replace(first.plan, candidates=found.listed({}, config.minutes))
        )
    tried = try_prospects(dataset, found, work, progress, minutes=config.minutes)
    for name in FAMILIES:
        shutil.rmtree(work / name if name != tried.best else work / name / "trial", ignore_errors=True)
    best = found.fit[tried.best]
    listed = found.listed(tried.spent_s, config.minutes, failed=tried.failed)
    plan = dataclasses.replace(best.plan, candidates=listed, family=tried.best, compared=tried.compared)
    return dataclasses.replace(
        best, plan=dataclasses.replace(plan, choosing_s=found.spent_s + Cost.since(began).core_s)
    )


def _rehearse(dataset: Dataset, config: TrainWorld, work: Path, progress: Progress, *, labelled: bool) -> Prospect:
    """What the settings say, and what it will cost."""
    config = settle_schedules(config, dataset)
    begun = begin_parts(dataset, config, work, progress)
    progress("rehearsal", 0, 1, {})
    plan = rehearse_parts(dataset, begun, config, labelled=labelled)
    progress("rehearsal", 1, 1, {})
    return Prospect(config=config, begun=begun, plan=plan, folder=work)


def _forget_begun(work: Path) -> None:
    """Remove what was made before a training could be planned."""
    for name in ("tokenizer", *FAMILIES):
        shutil.rmtree(work / name, ignore_errors=True)
    (work / TRIALS).unlink(missing_ok=True)


def _screen(dataset: Dataset, config: TrainWorld, progress: Progress) -> tuple[Screening, ...]:
    """Faults of the data, and of the dataset that the starts come from where there is one."""
    others = [_starts_of(config)] if config.starts else []
    screenings = tuple(screen(one, rule=config.faults, progress=progress) for one in (dataset, *others))
    split_episodes(dataset.without(screenings[0].indices))  # before anything is made
    return screenings


def _train(
    prepared: _Prepared,
    asked: TrainWorld,
    labels: Mapping[int, Agreed],
    dreams: tuple[Dataset, dict[int, Agreed]] | None,
    progress: Progress,
) -> Measured:
    """Train every stage as planned, and write the world folder."""
    dataset, plan, work = prepared.dataset, prepared.plan, prepared.work
    fitted = keep_rows(prepared.fitted, share=plan.shares.get(FRAMES, 1.0))
    config = shorten_all(prepared.config, plan.shares)
    parts = train_parts(dataset, fitted, config, work, progress)
    tokenizer, encoded = parts.tokenizer, parts.encoded
    trained, held_out = encoded.split(split_episodes(dataset)[1])
    known = _read_labelled(labels, dreams, tokenizer, dataset, config, work, progress)
    predicted, spent = predict_episodes(
        parts.predictor, trained, dataset.action_spec, seed=config.seed, progress=progress
    )
    both = (trained, predicted)
    train_heads = functools.partial(_train_heads, both, encoded, known, tokenizer, dataset, config, work, progress)
    heads, last = train_heads(labels, config.heads, "heads")
    without = unlabelled(trained, labels if dreams is None else {**labels, **dreams[1]})
    starts = _starts(dataset, config, [*held_out.indices, *trained.indices], plan.screenings)
    world = assemble_world(
        tokenizer, parts.predictor, heads, dataset, config, encoded, starts=starts, unlabelled=without
    )
    world, learned = _learn_errors(world, trained, dataset, config, work, progress)
    measured = measure_validity(
        world, held_out.indices, dataset, coverage=measure_coverage(trained, dataset.action_spec)
    )
    cost = {**parts.core_s, "heads": last + spent, "errors": learned}
    manifest = {
        "command": command_text(),
        "data_digest": dataset.digest,
        **_recorded(dataset),
        "config": storage.to_json(asked),
        "plan": storage.to_json(plan),
        "core_seconds": {k: round(v, 1) for k, v in cost.items()},
        "held_out": list(held_out.indices),
        **parts.notes,
        "positives": share_of_positives(trained),
        "left_out": _left_out(dataset, encoded, plan.screenings[0]),
        "labels": _weigh(encoded, labels, dataset, config, train_heads),
        "versions": {"torch": torch.__version__},
    }
    pictures = {} if measured.picture is None else {PICTURE: measured.picture}
    world.with_validity(measured.validity).save_pretrained(Path(config.out), manifest=manifest, files=pictures)
    return measured


def _learn_errors(
    world: LearnedWorld, trained: EncodedEpisodes, dataset: Dataset, config: TrainWorld, work: Path, progress: Progress
) -> tuple[LearnedWorld, float]:
    """The world with an error model where there are episodes enough, and the core-seconds."""
    began, steps = Cost.now(), config.heads.steps
    world = learn_errors(
        world, trained.indices, dataset, folder=work / "errors", steps=steps, seed=config.seed, progress=progress
    )
    return world, Cost.since(began).core_s


def _recorded(dataset: Dataset) -> dict[str, Any]:
    """Where and by which success rule the data was recorded, for the manifest; nothing where the data does not say."""
    said = {"env": dataset.env, "success": dataset.success_rule}
    return {"recorded": known} if (known := {k: v for k, v in said.items() if v}) else {}


def _left_out(dataset: Dataset, encoded: EncodedEpisodes, screening: Screening) -> dict[str, str]:
    """Why episodes were not learned from, by their numbers; those that are not screened show when they are encoded."""
    missing = sorted({*dataset.used} - {*encoded.indices})
    return {**{str(i): "cannot be read" for i in missing}, **{str(o.episode): o.why for o in screening.left_out}}


def _conclude(out: Path, measured: Measured) -> str:
    """The table of held-out figures, where the picture is, and the verdict."""
    lines = [measured.validity.table()] if measured.validity.curves else []
    lines += [f"Truth above, prediction below: {out / PICTURE}"] if measured.picture is not None else []
    return "\n".join([*lines, measured.validity.verdict])


def _read_labelled(
    labels: Mapping[int, Agreed],
    dreams: tuple[Dataset, dict[int, Agreed]] | None,
    tokenizer: LatentSpace,
    dataset: Dataset,
    config: TrainWorld,
    work: Path,
    progress: Progress,
) -> tuple[Described | None, EncodedEpisodes | None]:
    """The frames to which labels spread, and labelled dreams; None where there are no such labels."""
    looked = describe_episodes(dataset, most=LOOKED_AT, all_frames=True, progress=progress) if labels else None
    return looked, encode_dreams(
        dreams, dataset, lambda data, some: encode_some(data, tokenizer, config, some, work / "dreams", key=data.digest)
    )


def _train_heads(
    trained: tuple[EncodedEpisodes, EncodedEpisodes],
    encoded: EncodedEpisodes,
    known: tuple[Described | None, EncodedEpisodes | None],
    tokenizer: LatentSpace,
    dataset: Dataset,
    config: TrainWorld,
    work: Path,
    progress: Progress,
    labels: Mapping[int, Agreed],
    schedule: Schedule,
    stage: str,
) -> tuple[Heads, float]:
    """Train the heads on encoded and predicted latents, with labels and what follows from them; the core-seconds come along."""
    heads, loss_at = prepare_heads(
        trained[0],
        encoded,
        tokenizer,
        dataset,
        schedule,
        predicted=trained[1],
        labels=labels,
        looked=known[0],
        dreamed=known[1],
        seed=config.seed,
        device=config.device,
    )
    return heads, fit(heads, loss_at, schedule, folder=work / stage, stage=stage, progress=progress)


def _weigh(
    encoded: EncodedEpisodes,
    labels: Mapping[int, Agreed],
    dataset: Dataset,
    config: TrainWorld,
    train: Callable[[Mapping[int, Agreed], Schedule, str], tuple[Heads, float]],
) -> dict[str, Any]:
    """What the labels of people are worth, for the manifest; nothing where there are none."""
    if not labels:
        return {}
    return weigh_labels(
        encoded,
        labels,
        path=config.labels,
        data=config.data,
        success_at=dataset.success_at,
        train=lambda some, stage: train(some, config.heads, stage)[0],
    ).to_json()


def _starts(dataset: Dataset, config: TrainWorld, episodes: Sequence[int], screenings: Sequence[Screening]) -> Starts:
    """The first observations of other data, less what was left out of it, or of these episodes in order."""
    if not config.starts:
        return dataset.starts(episodes[: config.num_starts])
    source = _starts_of(config).without(screenings[1].indices)
    if source.cameras != dataset.cameras:
        raise InvalidInputError(f"Cameras of {source.name} are {source.cameras}, of {dataset.name} {dataset.cameras}.")
    return source.starts(source.used[: config.num_starts])


def _starts_of(config: TrainWorld) -> Dataset:
    """The dataset that the starts come from."""
    return open_data(dataclasses.replace(config, data=config.starts, weights=()))
