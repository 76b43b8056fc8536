"""Which source of labels a command line names, made ready to label a dataset."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from worldsim.arrays import Bytes, Float32s
from worldsim.data.episode import Episode
from worldsim.data.guess import mean_colours
from worldsim.data.labels import LabelFile
from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError
from worldsim.integrations.lerobot.rewards import read_reward_model
from worldsim.label.goal import Look, goal_source
from worldsim.label.sources import UNCLEAR, Rewards, RewardSource, Said, Source, rewards_of_file, source_name
from worldsim.reason.critic import ReasonCritic
from worldsim.worlds.latent import LatentWorld


@dataclasses.dataclass(frozen=True, kw_only=True)
class Automatic:
    """What is to label instead of a person; one of goal, success or rewards, and judge.

    Attributes:
        goal: A picture of the goal.
        within: How near it an episode must end; None finds that from labels of people.
        success: A rule on rewards or states.
        rewards: What the rewards are instead of those recorded: a progress file or a reward classifier of LeRobot.
        judge: A critic's folder, ``"reason"`` for the shipped one.

    Raises:
        InvalidInputError: They do not go together.
    """

    goal: Path | None = None
    within: float | None = None
    success: str | None = None
    rewards: Path | None = None
    judge: str | None = None

    def __post_init__(self) -> None:
        given = {"--goal": self.goal, "--success or --rewards": self.success or self.rewards, "--judge": self.judge}
        named = [name for name, value in given.items() if value]
        if len(named) > 1:
            raise InvalidInputError(
                f"One source labels at a time; got {' and '.join(named)}. Run the command once for each."
            )
        if self.within is not None and self.goal is None:
            raise InvalidInputError(
                "--within says how near the goal is near enough; give the goal's picture: --goal PNG."
            )

    def __bool__(self) -> bool:
        """Whether any is named."""
        return bool(self.goal or self.success or self.rewards or self.judge)

    def open(
        self, dataset: Dataset, file: LabelFile, *, world: LatentWorld | None = None, device: str = "cpu"
    ) -> Source:
        """Make the source ready.

        Args:
            dataset: What it is to label, opened with all cameras.
            file: The labels so far; a goal's distance follows from those of people.
            world: Whose latents tell how like frames are; None takes their colours.
            device: Where critics and reward models compute.

        Raises:
            WorldsimError: It cannot be read, or does not fit the dataset.
        """
        if self.goal is not None:
            return goal_source(self.goal, dataset, file, within=self.within, look=_look_of(world, dataset))
        if self.judge is not None:
            return CriticSource(self.judge, dataset.cameras[0].key, device=device)
        if self.rewards is None:
            return RewardSource(self.success or "", success_at=dataset.success_at)
        is_folder = self.rewards.is_dir()
        rewards = _classified(self.rewards, dataset, device) if is_folder else rewards_of_file(self.rewards, dataset)
        rule = self.success or ("reward >= 0.5" if is_folder else "reward >= 0.9")
        return RewardSource(rule, success_at=dataset.success_at, rewards=rewards, name=self.rewards.name)


class CriticSource:
    """A critic that watches every episode; where it abstains, the episode is unclear.

    Args:
        judge: Its folder, ``"reason"`` for the shipped one.
        camera: What it watches.
        device: Where it computes.

    Raises:
        StorageError, MissingExtraError: As `ReasonCritic.from_pretrained`.
    """

    def __init__(self, judge: str, camera: str, *, device: str = "cpu") -> None:
        self._critic, self._camera = ReasonCritic.from_pretrained(judge, device=device), camera
        self.who = source_name("judge", Path(judge).name or judge)

    def __call__(self, index: int, episode: Episode) -> Said:
        """What it says of one episode."""
        verdict = self._critic.frames([torch.from_numpy(np.ascontiguousarray(episode.frames[self._camera]))])
        if bool(verdict.abstain[0]):
            return UNCLEAR
        return Said(outcome="solved" if float(verdict.success[0]) >= 0.5 else "failed")


def _classified(path: Path, dataset: Dataset, device: str) -> Rewards:
    """Rewards by a classifier of frames; its cameras are found by the dataset's own names."""
    model, names = read_reward_model(path, device=device), dict(zip(dataset.features, dataset.cameras, strict=True))
    return lambda index, episode: model({name: episode.frames[camera.key] for name, camera in names.items()})


def _look_of(world: LatentWorld | None, dataset: Dataset) -> Look:
    """What describes frames of the main camera: a world's latents where it sees that camera alone, else mean colours."""
    if world is None or world.spec.cameras != dataset.cameras[:1]:
        return mean_colours
    key = dataset.cameras[0].key

    def look(frames_FHWC: Bytes) -> Float32s:
        z_FCHW = world.encode({key: torch.from_numpy(np.ascontiguousarray(frames_FHWC))})
        return np.asarray(z_FCHW.flatten(1).float().cpu().numpy())

    return look
