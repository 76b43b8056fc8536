"""Dreams of a triage run, to be labelled: some of its rollouts drawn again as a dataset, and what labels say of its judge.

A run keeps outcomes, not pictures; an episode repeats itself from its start and its key. Episodes are drawn by lot, and the
dataset holds them in that order, so that its first episodes are a random sample however many are labelled.

Shape legend: B episodes of a batch, T frames after the first.
"""

import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from worldsim import storage
from worldsim.arrays import Float64s
from worldsim.core import STATE, TASK, Observation, Rollout, row_texts
from worldsim.data.episode import Episode
from worldsim.data.labels import LabelFile, agree
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.read import open_dataset
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError, StorageError, WorldsimError
from worldsim.evaluate.policies import load_ref
from worldsim.progress import Progress, silent
from worldsim.protocols import Policy
from worldsim.rollout import Actor, play
from worldsim.rollout.episodes import TRIAGE
from worldsim.rollout.judge import WorldJudge
from worldsim.stats.judge_rates import JudgeRates
from worldsim.triage.engine.plan import PLAN
from worldsim.triage.engine.replay import Results
from worldsim.triage.run import read_results
from worldsim.worlds import load_world, world_spec
from worldsim.worlds.latent import LatentWorld

FOLDER, LIST, LABELS = "dreams", "dreams.json", "labels.jsonl"
"""In the run folder: the dataset, which rollouts it holds, and the labels."""
FEWEST = 4
"""Labelled dreams of each outcome from which a run's rates are corrected by them."""
_SALT = 0xD4EA
_TOLERANCE = 0.02  # rounding, where other episodes share a batch
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dream:
    """One rollout of a run.

    Attributes:
        policy: Index of the policy.
        episode: Of the triage block.
        success: As the run judged it, 0..1.
        probability: By the world's own heads.
    """

    policy: int
    episode: int
    success: float
    probability: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class DreamList:
    """Which rollouts are drawn, in the order in which they were drawn by lot."""

    world: str
    dreams: tuple[Dream, ...]


def is_run(path: str | Path) -> bool:
    """Whether a path is the folder of a triage run."""
    return (Path(path) / PLAN).is_file()


def record_dreams(
    run: Path, *, most: int = 200, code: Collection[str] = (), device: str = "cpu", progress: Progress = silent
) -> tuple[Path, list[str]]:
    """Draw rollouts of a run again, as a dataset in its folder; what is drawn already stays.

    Args:
        run: The run folder.
        most: Rollouts to draw, by lot from all that are finished.
        code: The ``module:function`` policies that may be imported; those of others are left out.
        device: Where world and policies compute.
        progress: Called as it advances.

    Returns:
        The dataset, and what was left out, in sentences.

    Raises:
        StorageError: The run or its world cannot be read, or the world has changed.
        InvalidInputError: The world draws no pictures, or no rollout can be drawn.
    """
    results = read_results(run)
    ref = results.plan.request.world
    world = load_world(ref.source, device=device)
    if not isinstance(world, LatentWorld):
        raise InvalidInputError(f"World {ref.name!r} draws no pictures, so its dreams cannot be looked at.")
    policies, remarks = _Policies(results, code=code, device=device), list[str]()
    listed = _list(run, results, most, policies, remarks)
    request = {"world": listed.world, "dreams": storage.to_json(listed.dreams)}
    with episode_writer(run / FOLDER, _spec(world, ref.name), request=request) as writer:
        drawn = {(str(row["behaviour"]), int(row["seed"])) for row in writer.rows}
        for part in _batches(listed.dreams, results):
            todo = [d for d in part if (policies.name(d.policy), d.episode) not in drawn]
            for dream, episode in _draw(world, part, results, policies) if todo else ():
                if dream in todo:
                    writer.write(episode)
                    progress("dreams", writer.count, len(listed.dreams), {})
        if not writer.count:
            raise InvalidInputError(f"No rollout of {run} could be drawn again. {' '.join(remarks)}")
    return run / FOLDER, remarks


def chance_of_judges(run: Path) -> Float64s:
    """Probability of success of each drawn dream [N]: the mean of what the run's judge and the world's heads say.

    Raises:
        StorageError: Its dreams are not drawn.
    """
    listed, names = _read_list(run), _names(run)
    known = {(names[d.policy], d.episode): (d.success + d.probability) / 2 for d in listed.dreams}
    dataset = open_dataset(run / FOLDER)
    return np.array([known[who, seed] for who, seed in zip(dataset.behaviours, dataset.seeds, strict=True)])


def dream_rates(run: Path) -> JudgeRates | None:
    """How often a run's judge was right on its dreams, by people; of those that were drawn by lot and labelled without a gap.

    Args:
        run: The run folder.

    Returns:
        None where there are no labels.

    Raises:
        StorageError: The labels or the dreams are damaged.
        InvalidInputError: The labels are of something else.
    """
    if not (run / LABELS).is_file() or not (run / LIST).is_file():
        return None
    dataset, listed, names = open_dataset(run / FOLDER), _read_list(run), _names(run)
    said = {e: a.outcome for e, a in agree(LabelFile.of(run / LABELS, dataset).labels).items() if not a.automatic}
    judged = {(names[d.policy], d.episode): d.success >= 0.5 for d in listed.dreams}
    pairs = list(zip(dataset.behaviours, dataset.seeds, strict=True))
    first = next((e for e in range(dataset.episodes) if e not in said), dataset.episodes)
    rows = [e for e in range(first) if said[e] != "unclear"]
    if not rows:
        return None
    return JudgeRates.of(
        np.array([judged[pairs[e]] for e in rows]), np.array([said[e] == "solved" for e in rows], dtype=bool)
    )


def rates_of_run(run: Path) -> tuple[JudgeRates, ...]:
    """The rates of `dream_rates` where they are enough to correct a ranking by; else none."""
    rates = dream_rates(run)
    return () if rates is None or min(rates.solved, rates.unsolved) < FEWEST else (rates,)


class _Policies:
    """Loads policies as they are needed; those that cannot be loaded are left out."""

    def __init__(self, results: Results, *, code: Collection[str], device: str) -> None:
        self._request = results.plan.request
        self._loaded: OrderedDict[int, Policy] = OrderedDict()
        self._code, self._device, self._spec = code, device, world_spec(self._request.world.source)

    def name(self, index: int) -> str:
        """Of a policy."""
        return self._request.policies[index].name

    def get(self, index: int) -> Policy:
        """A policy; the least recently used ones make room.

        Raises:
            WorldsimError: It cannot be loaded, or is code that the user did not name.
        """
        if index not in self._loaded:
            ref = self._request.policies[index]
            self._loaded[index] = load_ref(ref, code=self._code, device=self._device, spec=self._spec)
            while len(self._loaded) > self._request.policies_per_batch:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(index)
        return self._loaded[index]


def _list(run: Path, results: Results, most: int, policies: _Policies, remarks: list[str]) -> DreamList:
    """The rollouts to draw: those that the folder lists already, else some by lot, without policies that cannot be loaded."""
    if (run / LIST).is_file():
        return _read_list(run)
    probability = {
        (policy, r.episode): r.result.probability
        for policy, records in results.rollouts.items()
        for r in records
        if r.block == TRIAGE
    }
    pairs = np.argwhere(results.triage.done & ~results.triage.failed[:, None])
    order = np.random.default_rng([_SALT, results.plan.request.seed]).permutation(len(pairs))
    found, bad = list[Dream](), set[int]()
    for policy, episode in pairs[order].tolist():
        if len(found) == most:
            break
        if policy in bad:
            continue
        try:
            policies.get(policy)
        except WorldsimError as error:
            bad.add(policy)
            remarks.append(f"{policies.name(policy)} was left out: {error}")
            continue
        success = float(results.triage.success[policy, episode])
        likely = probability.get((policy, episode), success)
        found.append(Dream(policy=policy, episode=episode, success=success, probability=likely))
    if not found:
        raise InvalidInputError(f"No rollout of {run} can be drawn again. {' '.join(remarks)}")
    listed = DreamList(world=results.plan.request.world.digest, dreams=tuple(found))
    storage.write_json(run / LIST, storage.to_json(listed))
    return listed


def _read_list(run: Path) -> DreamList:
    path = run / LIST
    if not path.is_file():
        raise StorageError(f"The dreams of {run} are not drawn yet: worldsim label {run}")
    try:
        return storage.from_json(DreamList, storage.read_json(path))
    except (InvalidInputError, LookupError) as error:
        raise StorageError(f"{path} is damaged ({error}). Delete it with {FOLDER}, and label again.") from error


def _names(run: Path) -> list[str]:
    return [ref.name for ref in read_results(run).plan.request.policies]


def _batches(dreams: Sequence[Dream], results: Results) -> Iterator[list[Dream]]:
    """Dreams that are played together: as many as the run's batches hold, of no more policies than it keeps loaded."""
    request, part = results.plan.request, list[Dream]()
    for dream in dreams:
        policies = {d.policy for d in (*part, dream)}
        if part and (len(part) == request.width or len(policies) > request.policies_per_batch):
            yield part
            part = []
        part.append(dream)
    if part:
        yield part


@torch.no_grad()
def _draw(
    world: LatentWorld, dreams: Sequence[Dream], results: Results, policies: _Policies
) -> Iterator[tuple[Dream, Episode]]:
    """Play dreams again and draw them; those that do not end as recorded are left out with a warning."""
    plan = results.plan
    block, request = plan.triage, plan.request
    start, key = (torch.tensor([int(values[d.episode]) for d in dreams]) for values in (block.start, block.key))
    actors = [
        Actor(
            name=policies.name(p),
            policy=policies.get(p),
            rows=torch.tensor([i for i, d in enumerate(dreams) if d.policy == p]),
        )
        for p in dict.fromkeys(d.policy for d in dreams)
    ]
    starts = world.starts(start)
    rollout = play(world, actors, starts, key, steps=plan.steps, keep="latents").rollout()
    rule = WorldJudge(success_at=world.spec.success_at, threshold=None)
    likely = rule.probability(rollout.success.float().cpu()).tolist()
    for row, dream in enumerate(dreams):
        if abs(likely[row] - dream.probability) > _TOLERANCE:
            _LOG.warning(
                "%s, episode %d ended differently when drawn; left out.", policies.name(dream.policy), dream.episode
            )
            continue
        yield (
            dream,
            _episode(world, starts, rollout, row, seed=dream.episode, behaviour=request.policies[dream.policy].name),
        )


def _episode(
    world: LatentWorld, starts: Observation, rollout: Rollout, row: int, *, seed: int, behaviour: str
) -> Episode:
    """One row of a rollout, drawn by all cameras; its success and progress are for people to say."""
    each = world.spec.actions_per_step
    frames = {}
    for camera in world.spec.cameras:
        drawn = world.decode(rollout.latent[row], camera.key).flatten(0, -4).cpu()
        frames[camera.key] = torch.cat([starts[camera.key][row : row + 1].cpu(), drawn]).numpy()
    proprio = torch.cat([starts[STATE][row : row + 1].cpu(), rollout.proprio[row].cpu().repeat_interleave(each, dim=0)])
    action = rollout.action[row].cpu().reshape(-1, world.spec.action.dim)
    unknown = np.full(len(proprio), np.nan, np.float32)
    return Episode(
        frames=frames,
        proprio=proprio.float().numpy(),
        action=action.float().numpy(),
        success=unknown,
        progress=unknown.copy(),
        reward=unknown[1:].copy(),
        seed=seed,
        behaviour=behaviour,
        task=row_texts(starts[TASK][row : row + 1])[0] if TASK in starts else "",
    )


def _spec(world: LatentWorld, name: str) -> RecordSpec:
    """What the dreams have in common."""
    spec = world.spec
    return RecordSpec(
        action=spec.action,
        cameras=spec.cameras,
        proprio_dim=spec.proprio_dim,
        has_success=False,
        has_progress=False,
        success_at=spec.success_at,
        task=spec.task,
        task_id=spec.task_id,
        dreamed_by=name,
    )
