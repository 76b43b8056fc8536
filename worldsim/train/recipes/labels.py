"""Labels of people as success labels of a world's heads, and what they are worth on episodes that were left out.

Shape legend: F frames of an episode (latent frames, where the tokenizer compresses time), P proprio, A action.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from worldsim.data.guess import Described, guess_outcomes
from worldsim.data.labels import Agreed, LabelFile, Outcome, agree, compare
from worldsim.data.latents import EncodedEpisodes
from worldsim.data.lerobot.join import Data, open_datasets
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.data.windows import EncodedEpisode
from worldsim.errors import InvalidInputError
from worldsim.evaluate.dreams import FOLDER, LABELS
from worldsim.rollout.judge import WorldJudge
from worldsim.stats.judge_rates import JudgeRates, Proportion
from worldsim.storage import to_json
from worldsim.worlds.heads import Heads

SHARE = 0.25
"""Of each batch of the heads that labelled frames fill, half of them solved."""
_FOLDS = 5
_SURE = 0.9
LOOKED_AT = 400
"""Episodes to which labels are spread at most."""
Rule = Literal["end", "any"]
TrainHeads = Callable[[Mapping[int, Agreed], str], Heads]
"""Labels and the name of a stage -> heads that were trained with them."""


def read_labels(path: str, data: Data) -> dict[int, Agreed]:
    """What people agree on, by episode; unclear ones are left in, with that outcome.

    Args:
        path: The file of labels; empty for none.
        data: The dataset folder that it labels.

    Raises:
        StorageError, InvalidInputError: As `LabelFile`, or the labels hold no solved or no failed episode.
    """
    if not path:
        return {}
    if not Path(path).is_file():
        raise InvalidInputError(f"There is no file of labels at {path}. Make one: worldsim label {data}")
    found = agree(LabelFile.of(Path(path), open_datasets(data)).labels)
    counts = count(found)
    if not counts["solved"] or not counts["failed"]:
        raise InvalidInputError(
            f"{path} holds {counts['solved']} solved and {counts['failed']} failed episodes, and heads learn from both. "
            f"Label more: worldsim label {data}"
        )
    return found


def read_dreams(run: str) -> tuple[Dataset, dict[int, Agreed]] | None:
    """The dreams of a triage run, and what people agree on of them; None where no run is named.

    Args:
        run: The run folder; empty for none.

    Raises:
        StorageError, InvalidInputError: As `LabelFile`, or its dreams are not labelled.
    """
    if not run:
        return None
    data, file = Path(run) / FOLDER, Path(run) / LABELS
    if not file.is_file():
        raise InvalidInputError(f"The dreams of {run} are not labelled. Label some: worldsim label {run}")
    dataset = open_dataset(data)
    said = {e: a for e, a in agree(LabelFile.of(file, dataset).labels).items() if a.outcome != "unclear"}
    if not said:
        raise InvalidInputError(f"{file} calls no dream solved or failed. Label more: worldsim label {run}")
    return dataset, said


def encode_dreams(
    found: tuple[Dataset, dict[int, Agreed]] | None,
    like: Dataset,
    encode: Callable[[Dataset, Sequence[int]], EncodedEpisodes],
) -> EncodedEpisodes | None:
    """Latents of labelled dreams, with the success that people said.

    Args:
        found: As `read_dreams`; None where no run is named.
        like: The dataset of the training, which the dreams must resemble.
        encode: Encodes some episodes of a dataset.

    Raises:
        InvalidInputError: The dreams have other cameras, actions or proprioception.
    """
    if found is None:
        return None
    dreams, said = found
    if [c for c in like.cameras if c not in dreams.cameras] or dreams.action_spec.names != like.action_spec.names:
        raise InvalidInputError(
            f"{dreams.name} dreams of other cameras or actions than {like.name}. Name a run in a world of it."
        )
    chosen = sorted(said)
    encoded = dataclasses.replace(encode(dreams, chosen), indices=tuple(chosen))
    stride = max(1, round((dreams.length(chosen[0]) - 1) / max(1, len(encoded.episodes[0].z_FCHW) - 1)))
    return put_labels(encoded, said, success_at=like.success_at, stride=stride)


def count(labels: Mapping[int, Agreed]) -> dict[str, int]:
    """How many episodes have each outcome."""
    said = [label.outcome for label in labels.values()]
    return {outcome: said.count(outcome) for outcome in ("solved", "failed", "unclear")}


def put_labels(
    encoded: EncodedEpisodes,
    labels: Mapping[int, Agreed],
    *,
    success_at: Rule,
    stride: int,
    spread: Mapping[int, Tensor] = MappingProxyType({}),
) -> EncodedEpisodes:
    """The episodes of which something is said, their success labels those of people; unclear ones have none.

    A solved episode is solved from the marked frame on, or at its last. A failed one is unsolved from the marked frame on,
    or at its last; all along where any solved step would have counted. All else is unknown, or as `spread` has it.

    Args:
        encoded: Some or all episodes of the dataset.
        labels: By index in the dataset.
        success_at: Whether an episode is solved at its last step or at any.
        stride: Frames per latent frame.
        spread: Success labels of other frames, [F] by index in the dataset (`spread_labels`).
    """
    chosen = [(e, i) for e, i in zip(encoded.episodes, encoded.indices, strict=True) if i in labels or i in spread]
    episodes = []
    for episode, i in chosen:
        frames = len(episode.z_FCHW)
        success_F = spread[i][:frames].clone() if i in spread else torch.full((frames,), torch.nan)
        if i in labels:
            said_F = _success(frames, labels[i], success_at, stride)
            success_F = torch.where(said_F.isfinite(), said_F, success_F)
        episodes.append(dataclasses.replace(episode, success_F=success_F))
    return EncodedEpisodes(episodes=tuple(episodes), indices=tuple(i for _, i in chosen))


def spread_labels(labels: Mapping[int, Agreed], looked: Described, *, stride: int) -> dict[int, Tensor]:
    """What the labels say of frames that have none: success labels [F] by episode, unknown below 90 % of certainty.

    A few dozen labels teach a network little. A Gaussian process on the labelled episodes' last frames says of many other
    frames whether the task stands solved, and of those that look like none of them nothing.

    Args:
        labels: By index in the dataset; nothing follows for an unclear episode.
        looked: What is known of all frames (`worldsim.data.guess`).
        stride: Frames per latent frame.
    """
    episodes = list(looked.frames)
    ends = dict(zip(episodes, np.cumsum([len(f) for f in looked.frames.values()]) - 1, strict=True))
    said: dict[int, Outcome] = {int(ends[i]): label.outcome for i, label in labels.items() if i in ends}
    chance_R = guess_outcomes(np.concatenate(list(looked.frames.values())), said)
    if chance_R is None:
        return {}
    success_R = np.where(np.abs(chance_R - 0.5) >= _SURE - 0.5, chance_R > 0.5, np.nan).astype(np.float32)
    found = {i: success_R[ends[i] + 1 - len(looked.frames[i]) : ends[i] + 1 : stride] for i in episodes}
    unclear = {i for i, label in labels.items() if label.outcome == "unclear"}
    return {i: torch.from_numpy(success_F.copy()) for i, success_F in found.items() if i not in unclear}


def drop_success(encoded: EncodedEpisodes) -> EncodedEpisodes:
    """The same episodes without the success that their dataset holds."""
    episodes = tuple(
        dataclasses.replace(e, success_F=torch.full_like(e.success_F, torch.nan)) for e in encoded.episodes
    )
    return dataclasses.replace(encoded, episodes=episodes)


def _success(frames: int, label: Agreed, success_at: Rule, stride: int) -> Tensor:
    """Success labels [F]."""
    success_F = torch.full((frames,), torch.nan)
    if label.outcome == "unclear":
        return success_F
    success_F[0] = 0.0  # as datasets are read: an episode does not begin solved
    everywhere = label.outcome == "failed" and success_at == "any"
    first = frames - 1 if label.frame is None else min(-(-label.frame // stride), frames - 1)
    success_F[0 if everywhere else first :] = float(label.outcome == "solved")
    return success_F


def share_of_positives(encoded: EncodedEpisodes) -> dict[str, float]:
    """Share of frames that are solved, and of those with progress above one half; without what has no labels."""
    labels = {name: torch.cat([getattr(e, f"{name}_F") for e in encoded.episodes]) for name in ("success", "progress")}
    known = {name: label_N[label_N.isfinite()] for name, label_N in labels.items()}
    return {name: round(float((label_N > 0.5).float().mean()), 5) for name, label_N in known.items() if len(label_N)}


def unlabelled(encoded: EncodedEpisodes, labels: Mapping[int, Agreed]) -> tuple[Literal["success", "progress"], ...]:
    """Which heads have nothing to learn from: no frame after an episode's first has a label."""
    known = {
        "success": bool(labels) or any(bool(e.success_F[1:].isfinite().any()) for e in encoded.episodes),
        "progress": any(bool(e.progress_F[1:].isfinite().any()) for e in encoded.episodes),
    }
    return tuple(name for name in ("success", "progress") if not known[name])  # type: ignore[misc]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelWorth:
    """What the labels of a world are worth.

    Attributes:
        solved: Episodes labelled solved.
        failed: Episodes labelled failed.
        unclear: Episodes left out.
        agreements: How far people agree, one line for every two of them.
        accuracy: Labelled episodes that heads trained without them judged as labelled; None where too few are labelled.
        rates: Of the same, how often they were right on solved and on failed ones.
        sources: Labels among them that a source gave, not a person.
    """

    solved: int
    failed: int
    unclear: int
    agreements: tuple[str, ...]
    accuracy: Proportion | None
    rates: JudgeRates | None
    sources: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON values for a manifest; None is left out."""
        interval = None if self.accuracy is None else [round(x, 4) for x in self.accuracy.interval]
        values = {**to_json(self), "interval": interval}
        values["accuracy"] = None if self.accuracy is None else round(self.accuracy.value, 4)
        return {name: value for name, value in values.items() if value is not None}


def weigh_labels(
    encoded: EncodedEpisodes,
    labels: Mapping[int, Agreed],
    *,
    path: str,
    data: Data,
    success_at: Rule,
    train: TrainHeads,
) -> LabelWorth:
    """Measure the labels by cross-validation: heads learn from most of them and judge the others, in five parts.

    Args:
        encoded: All episodes.
        labels: By index in the dataset.
        path: The file they are from.
        data: The dataset folder.
        success_at: Whether an episode is solved at its last step or at any.
        train: Trains heads.
    """
    rates = _cross_validate(encoded, labels, success_at=success_at, train=train)
    right = None if rates is None else rates.solved_right + rates.unsolved_right
    people = compare(LabelFile.of(Path(path), open_datasets(data)).labels)
    return LabelWorth(
        **count(labels),
        sources=sum(label.automatic for label in labels.values()),
        agreements=tuple(map(str, people)),
        accuracy=None
        if rates is None or right is None
        else Proportion(hits=right, count=rates.solved + rates.unsolved),
        rates=rates,
    )


def _cross_validate(
    encoded: EncodedEpisodes, labels: Mapping[int, Agreed], *, success_at: Rule, train: TrainHeads
) -> JudgeRates | None:
    """Counts of right verdicts on labelled episodes that were left out; None where a part would lack an outcome."""
    usable = {i: e for e, i in zip(encoded.episodes, encoded.indices, strict=True) if i in labels}
    sides = [sorted(i for i in usable if labels[i].outcome == o) for o in ("solved", "failed")]
    folds = min(_FOLDS, *map(len, sides))
    if folds < 2:
        return None
    parts = [[i for side in sides for i in side[fold::folds]] for fold in range(folds)]
    hidden = Agreed(outcome="unclear", frame=None, disputed=False)  # nothing follows for it either
    judged, solved = list[bool](), list[bool]()
    for fold, part in enumerate(parts):
        heads = train({**labels, **dict.fromkeys(part, hidden)}, f"labels-{fold}")
        judged += judge_episodes(heads, [usable[i] for i in part], success_at=success_at)
        solved += [labels[i].outcome == "solved" for i in part]
    return JudgeRates.of(np.array(judged), np.array(solved))


@torch.no_grad()
def judge_episodes(heads: Heads, episodes: Sequence[EncodedEpisode], *, success_at: Rule) -> list[bool]:
    """Whether heads call recorded episodes solved, by the rule that triage uses."""
    judge, heads = WorldJudge(success_at=success_at), heads.cpu().eval()
    found = []
    for episode in episodes:
        z_FCHW = episode.z_FCHW[1:]
        start_FCHW = episode.z_FCHW[:1].expand_as(z_FCHW)
        _, progress_F, success_F = heads(z_FCHW, start_FCHW, episode.proprio_FP[:-1], episode.action_FA)
        verdict = judge.read(success_F.sigmoid()[None], progress_F.sigmoid()[None])
        found.append(bool(verdict.success[0] > 0))
    return found
