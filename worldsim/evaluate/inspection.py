"""What a dataset holds, what is wrong with it, and what worldsim can do with it: the facts behind `worldsim inspect`.

Shape legend: T actions, T + 1 observations, N sampled frames, H W image, P proprio, A action.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from worldsim import storage
from worldsim.arrays import Bytes, Float64s
from worldsim.data.episode import Episode
from worldsim.data.faults import Fault, Signals, find_faults, idle_shares, signals_of
from worldsim.data.faults.screen import sample_episodes
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.data.survey import Survey, survey_dataset
from worldsim.errors import InvalidInputError, StorageError
from worldsim.progress import Progress, silent
from worldsim.text import printable, shorten
from worldsim.tokenizers.layers.tokenizer import LayersTokenizer
from worldsim.video import to_model

SAMPLE = 20
"""Episodes whose pictures are looked at, evenly spread; all where there are no more, or all are asked for."""
SAMPLE_BYTES = 4 << 30
"""Pictures that are unpacked at most for a sample; one episode at least."""
LAYERS_FROM = 0.7
"""Share of a scene's changes from which ``train world`` tries layers; as `worldsim.train.recipes.choice`, by a test."""
_TRIAL_FRAMES, _TRIAL_PX, _TRIAL_LEAST = 240, 128, 64
_SHOWN_EPISODES = 3
_TASKS = 8
_NUMBERS = 4
_NUMBERS_OF = ("action", "observation.state", "observation.environment_state", "episode_index", "frame_index")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Channel:
    """One dimension of actions or proprioception in the episodes that were looked at.

    Attributes:
        name: What it is called.
        unit: Its unit, ``"unknown"`` where the data does not say.
        low: Least value.
        q01: Value that 1 % are below.
        median: Value in the middle.
        q99: Value that 1 % are above.
        high: Greatest value.
    """

    name: str
    unit: str
    low: float
    q01: float
    median: float
    q99: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelCount:
    """How well a label is known among the episodes that were looked at.

    Attributes:
        name: ``"success"`` or ``"progress"``.
        known: Episodes at whose end it is known.
        reached: Of these, episodes that end solved, or with progress above a half.
    """

    name: str
    known: int
    reached: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """Something that worldsim can do with a dataset, or cannot.

    Attributes:
        what: The use.
        possible: Whether it is.
        why: How, or why not and what to do.
    """

    what: str
    possible: bool
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a dataset holds.

    Attributes:
        path: Its folder.
        episodes: How many there are.
        looked_at: Numbers of those whose pictures and numbers were read.
        frames: Observations of all episodes.
        rate_hz: Observations per second.
        cameras: Name, height and width of each.
        actions: The A dimensions.
        states: The P dimensions; none where one zero stands for no proprioception.
        true_state: Whether the simulator's own state is there.
        labels: Success and progress.
        length: Least, median and greatest number of observations.
        tasks: Sentences, the most frequent first among the episodes that were looked at, with their number.
        idle: Share of steps in which nothing moves and nothing is asked for, over all that were looked at.
        dreamed_by: Name of the learned world that drew the frames, or empty.
        notes: What the reader left out, joined or assumed.
        unreadable: What is wrong with episodes that cannot be read, by episode.
        faults: What is wrong.
        uses: What worldsim can do with it.
        scene: What a sample shows of the scene (`worldsim.data.survey.Survey`), shares by name; None where it is not known.
        advice: What is doubtful about the data and what to record more of, as ``train world`` says it.
    """

    path: str
    episodes: int
    looked_at: tuple[int, ...]
    frames: int
    rate_hz: float
    cameras: tuple[tuple[str, int, int], ...]
    actions: tuple[Channel, ...]
    states: tuple[Channel, ...]
    true_state: bool
    labels: tuple[LabelCount, ...]
    length: tuple[int, int, int]
    tasks: tuple[tuple[str, int], ...]
    idle: float
    dreamed_by: str
    notes: tuple[str, ...]
    unreadable: Mapping[int, str]
    faults: tuple[Fault, ...]
    uses: tuple[Use, ...]
    scene: Mapping[str, float | None]
    advice: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """What a page shows beside the numbers.

    Attributes:
        frames: By camera key: number of the episode, and its first, middle and last frame, uint8 [3, H, W, 3].
        action: float64 [N, A], the actions of the episodes that were looked at.
    """

    frames: Mapping[str, tuple[tuple[int, Bytes], ...]]
    action: Float64s


def inspect_dataset(
    path: str | Path, *, everything: bool = False, progress: Progress = silent
) -> tuple[Inspection, Pictures]:
    """Look at a dataset.

    Args:
        path: A LeRobotDataset v3, as `open_dataset` takes it.
        everything: Look at all episodes instead of a sample.
        progress: Called after each episode.

    Returns:
        What was found, and arrays as `Pictures` says for a page.

    Raises:
        StorageError: There is no dataset, or none of its episodes can be read.
        InvalidInputError: It holds no camera or no action, or no episode.
    """
    dataset = open_dataset(path)
    if not dataset.episodes:
        raise InvalidInputError(f"{dataset.path} holds no episode. Record some, or check where it comes from.")
    everyone = list(range(dataset.episodes))
    chosen = everyone if everything else sample_episodes(dataset, most_bytes=SAMPLE_BYTES, most=SAMPLE)
    look = _Look(dataset)
    for number, index in enumerate(chosen):
        look.at(index)
        progress("episodes", number + 1, len(chosen), {})
    if not look.signals:
        index, reason = next(iter(look.unreadable.items()))
        raise StorageError(f"None of the {len(chosen)} episodes that were tried can be read; episode {index}: {reason}")
    return _summarise(look), Pictures(frames=look.shown, action=np.concatenate([s.action for s in look.signals]))


class _Look:
    """What has been read of a dataset so far; frames are not kept, but for a few."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.signals: list[Signals] = []
        self.labels: list[tuple[float, float]] = []
        self.tasks: list[str] = []
        self.true_state = True
        self.unreadable: dict[int, str] = {}
        self.shown: dict[str, tuple[tuple[int, Bytes], ...]] = {c.key: () for c in dataset.cameras}
        self.trial: list[Bytes] = []

    def at(self, index: int) -> None:
        """Read one episode, and keep what is wanted of it."""
        try:
            episode = self.dataset.episode(index)
        except (StorageError, InvalidInputError) as error:
            self.unreadable[index] = printable(error)
            return
        spec = self.dataset.action_spec
        self.signals.append(signals_of(index, episode, rate_hz=self.dataset.rate_hz, idle=spec.idle))
        self.labels.append((float(episode.success[-1]), float(episode.progress[-1])))
        self.tasks.append(episode.task or self.dataset.task)
        self.true_state &= episode.true_state is not None
        self._keep_frames(index, episode)

    def _keep_frames(self, index: int, episode: Episode) -> None:
        rows = len(episode.proprio)
        for key, frames in episode.frames.items():
            if len(self.shown[key]) < _SHOWN_EPISODES:
                self.shown[key] += ((index, frames[[0, rows // 2, rows - 1]]),)
        main = episode.frames[self.dataset.cameras[0].key]
        if max(main.shape[1:3]) <= _TRIAL_PX and sum(map(len, self.trial)) < _TRIAL_FRAMES:
            self.trial.append(main[:: max(1, rows // 24)])


def _summarise(look: _Look) -> Inspection:
    """Facts from what was read."""
    dataset, signals = look.dataset, look.signals
    lengths = {i: dataset.length(i) for i in range(dataset.episodes)}
    spec, names = dataset.action_spec, _state_names(dataset)
    proprio = np.concatenate([s.proprio for s in signals])
    has_state = proprio.shape[1] > 1 or bool(proprio.any())
    survey = survey_dataset(dataset)
    faults = find_faults(signals, lengths=lengths, action_names=spec.names, proprio_names=names)
    if look.unreadable:
        faults = (*_unreadable_numbers(dataset.path), *faults)
    labels = _labels(look.labels)
    actions = np.concatenate([s.action for s in signals])
    idle = idle_shares(signals)
    steps = np.array([len(s.action) for s in signals if len(s.action)])
    return Inspection(
        path=str(dataset.path),
        episodes=dataset.episodes,
        looked_at=tuple(s.episode for s in signals),
        frames=sum(lengths.values()),
        rate_hz=dataset.rate_hz,
        cameras=tuple((c.name, c.height, c.width) for c in dataset.cameras),
        actions=tuple(_channels(actions, spec.names, spec.units)),
        states=tuple(_channels(proprio, names, ())) if has_state else (),
        true_state=look.true_state,
        labels=labels,
        length=(min(lengths.values()), int(np.median(list(lengths.values()))), max(lengths.values())),
        tasks=tuple(Counter(look.tasks).most_common(_TASKS)),
        idle=_rounded(float(np.average(list(idle.values()), weights=steps))) if idle else 0.0,
        dreamed_by=dataset.dreamed_by,
        notes=dataset.notes,
        unreadable=look.unreadable,
        faults=faults,
        uses=tuple(_uses(look, labels, survey)),
        scene={name: None if math.isnan(x) else _rounded(x) for name, x in survey.shares().items()},
        advice=survey.advise(),
    )


def _state_names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the proprioception: those of meta/info.json, or of the features that are joined; none where there are none."""
    features = storage.read_json(dataset.path / "meta" / "info.json")["features"]
    several, found = len(dataset.proprio_features) > 1, list[str]()
    for feature, width in dataset.proprio_features:
        names, short = features.get(feature, {}).get("names"), feature.rpartition(".")[2]
        if isinstance(names, list) and len(names) == width and all(isinstance(n, str) for n in names):
            found += [] if str(names[0]).startswith("state_") else names
        elif several and width is not None:
            found += [short] if width == 1 else [f"{short} {i}" for i in range(width)]
        else:
            return ()
    return tuple(map(printable, found))


def _channels(values: Float64s, names: Sequence[str], units: Sequence[str]) -> Iterator[Channel]:
    """The dimensions of values [N, D]."""
    if not len(values):
        return
    table = np.quantile(values, [0, 0.01, 0.5, 0.99, 1], axis=0)
    for i in range(values.shape[1]):
        spread = dict(zip(("low", "q01", "median", "q99", "high"), map(_rounded, table[:, i].tolist()), strict=True))
        name, unit = (
            printable(texts[i]) if i < len(texts) else other for texts, other in ((names, str(i)), (units, "unknown"))
        )
        yield Channel(name=name, unit=unit, **spread)


def _rounded(value: float) -> float:
    """A number to as many figures as people read."""
    return float(f"{value:.{_NUMBERS}g}")


def _labels(ends: Sequence[tuple[float, float]]) -> tuple[LabelCount, ...]:
    """Counts of the labels at the ends of episodes: success and progress."""
    counts = []
    for name, values in zip(("success", "progress"), zip(*ends, strict=True), strict=True):
        known = [v for v in values if math.isfinite(v)]
        counts.append(LabelCount(name=name, known=len(known), reached=sum(v > 0.5 for v in known)))
    return tuple(counts)


def _unreadable_numbers(path: Path) -> Iterator[Fault]:
    """NaN and infinity in the columns of a dataset, which its episodes refuse to hold."""
    for file in sorted((path / "data").glob("*/*.parquet")):
        try:
            names = [name for name in pq.read_schema(file).names if name.startswith(_NUMBERS_OF)]
            table = pq.read_table(file, columns=names, partitioning=None)
        except (OSError, pa.ArrowException):
            continue  # the episode's own error says more
        for name in table.column_names:
            yield from _bad_rows(table, name)


def _bad_rows(table: pa.Table, name: str) -> Iterator[Fault]:
    """Rows of one column that hold NaN or infinity, by episode and channel."""
    column = table[name].combine_chunks()
    flat = column.flatten() if pa.types.is_nested(column.type) else column
    if not pa.types.is_floating(flat.type) or not len(column) or len(flat) % len(column):
        return
    values = pc.fill_null(flat, math.nan).to_numpy(zero_copy_only=False).reshape(len(column), -1)
    bad, episodes, rows = ~np.isfinite(values), table["episode_index"].to_numpy(), table["frame_index"].to_numpy()
    for episode in np.unique(episodes[bad.any(axis=1)]):
        for channel in np.flatnonzero(bad[episodes == episode].any(axis=0)):
            at = rows[(episodes == episode) & bad[:, channel]]
            yield Fault(
                kind="not_finite",
                episode=int(episode),
                frames=(int(at.min()), int(at.max())),
                where=f"{printable(name)}[{channel}]",
                value=len(at),
                threshold=1,
            )


def _uses(look: _Look, labels: Sequence[LabelCount], survey: Survey) -> Iterator[Use]:
    """What worldsim can do with the data."""
    steps = sum(len(s.action) for s in look.signals)
    enough = look.dataset.episodes > 1 and steps > 0
    yield Use(
        what="train world",
        possible=enough,
        why=_families(look, survey)
        if enough
        else "it takes at least two episodes of two frames: one to learn from, one to measure on",
    )
    if look.true_state:
        yield Use(what="train world state=true", possible=enough, why="a state world, from the simulator's own states")
    yield Use(
        what="train policy",
        possible=steps > 0,
        why="imitation of all its actions" if steps else "there is no action that leads to another frame",
    )
    success, progress = labels
    varied = [c for c in (success, progress) if 0 < c.reached < c.known]
    if varied:
        why = f"its world learns {' and '.join(c.name for c in varied)}"
    elif success.known or progress.known:
        why = "all labels say the same, from which a world learns nothing: add episodes that end otherwise, or give a judge"
    else:
        why = "it has no labels: make some (worldsim label), or give triage a judge"
    yield Use(what="rank policies in a world of it", possible=bool(varied), why=why)


def _families(look: _Look, survey: Survey) -> str:
    """What ``train world`` would try, from a trial on a few frames of the main camera and the survey."""
    layers = _layers(look)
    fitting = [
        *([] if layers.startswith("not ") else [layers]),
        *([] if survey.unstructured else ["structured"]),
        "grid",
    ]
    refused = [*([layers] if layers.startswith("not ") else [])]
    refused += [f"not structured: {survey.unstructured}"] if survey.unstructured else []
    what = "a short trial of each decides" if len(fitting) > 1 else "it is trained"
    return "; ".join([f"families that fit: {', '.join(fitting)}, and {what}", *refused])


def _layers(look: _Look) -> str:
    """Whether layers are tried, with the reason; begins with ``not`` where they are not."""
    camera = look.dataset.cameras[0]
    frames = np.concatenate(look.trial)[:_TRIAL_FRAMES] if look.trial else np.zeros((0, 1, 1, 3), np.uint8)
    if len(frames) < _TRIAL_LEAST:
        reason = "it is large" if max(camera.size) > _TRIAL_PX else "there are few frames"
        return f"layers where they explain {LAYERS_FROM:.0%} of the changes in {camera.name} (not looked at here: {reason})"
    x_NCHW = to_model(torch.from_numpy(frames))
    try:
        share = float(LayersTokenizer.fit(x_NCHW).explained(x_NCHW[:128]))
    except InvalidInputError as error:
        return f"not layers: none are found in {camera.name} ({shorten(printable(error), width=100)})"
    found = f"explain {share:.0%} of what changes in {len(frames)} frames of {camera.name}"
    return (
        f"layers (they {found})" if share >= LAYERS_FROM else f"not layers: they {found}, {LAYERS_FROM:.0%} is needed"
    )
