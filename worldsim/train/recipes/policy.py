"""`worldsim train policy`: behaviour cloning from a dataset into checkpoints at chosen steps.

One command can make a bank of policies: every combination of data size, data quality and seed is a run, and each run leaves a
policy folder at every step asked for. A killed command continues where it stopped and ends with the same weights.

Shape legend: N examples, M of a batch, H W image, K chunk, A action.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldsim import __version__, storage
from worldsim.compute import find_device
from worldsim.core import STATE, TRUE_STATE, is_image
from worldsim.data.faults.screen import FaultRule, screen
from worldsim.data.lerobot.join import Data, open_datasets
from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError, unknown_name
from worldsim.evaluate.policies import load_policy
from worldsim.optimize import LossAt, Schedule, fit
from worldsim.policies import POLICIES
from worldsim.policies.degraded import Degradation
from worldsim.policies.discovery import KIND
from worldsim.policies.trained import TrainedPolicy
from worldsim.progress import Progress, ignore, silent
from worldsim.runs import open_run, require_same_request
from worldsim.text import command_text
from worldsim.train.recipes.imitation import Demonstrations, Examples, read_demonstrations


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainPolicy:
    """Request of `train_policy`. The defaults clone the push expert in about a minute of one core per run.

    Attributes:
        data: Dataset (LeRobotDataset v3 or v2.1): a folder, or ``hf://datasets/OWNER/NAME``; or several of the same cameras and
            actions.
        out: Folder to fill with ``<run>/<step>`` policy folders.
        kind: ``pixel`` or ``state``.
        options: Fields of the policy's config that differ from its defaults, for example ``{"hidden": 128}``.
        teacher: Reference of a policy whose actions are imitated instead of the recorded ones (``module:name`` or a
            folder); empty for the recorded. For the push task: ``worldsim.policies.scripted:PushExpert``.
        cameras: Image features that a pixel policy looks through, the main one first; empty for all that can be read.
        action: Features that are joined to the actions, in this order; empty for `action`, or all of `action.*`.
        proprio: Features that are joined to the proprioception, in this order; empty for `observation.state`, or all of
            `observation.state.*`.
        episodes: Data sizes; 0 stands for all. Each seed draws its own episodes.
        seeds: Of weights, batches and choice of episodes.
        qualities: What is done to the imitated actions.
        checkpoints: Steps at which a policy is left; the last step always is.
        schedule: Steps, batch and learning rate of each run.
        shift_px: Each frame is shifted by up to this much in x and y, edges repeated.
        half: Store weights as float16.
        faults: What is done about episodes with faults: ``say`` (named and used all the same), ``leave_out``, or ``refuse``.
        device: Where to train.

    Raises:
        InvalidInputError: A list is empty or repeats itself, or a checkpoint lies beyond the last step.
    """

    data: Data
    out: str
    kind: str = "pixel"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    teacher: str = ""
    cameras: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    proprio: tuple[str, ...] = ()
    episodes: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (0,)
    qualities: tuple[Degradation, ...] = (Degradation(),)
    checkpoints: tuple[int, ...] = ()
    schedule: Schedule = dataclasses.field(default_factory=lambda: Schedule(steps=1200, batch=128, lr=2e-3))
    shift_px: int = 2
    half: bool = True
    faults: FaultRule = "say"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("episodes", "seeds", "qualities"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InvalidInputError(f"TrainPolicy.{name} must not be empty or repeat itself; got {values}.")
        if any(not 0 < step <= self.schedule.steps for step in self.checkpoints):
            raise InvalidInputError(f"checkpoints must be in 1..{self.schedule.steps}; got {self.checkpoints}.")
        if self.shift_px < 0 or any(n < 0 for n in self.episodes):
            raise InvalidInputError("shift_px and episodes must be >= 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run of a bank."""

    episodes: int
    seed: int
    quality: int

    def name(self, config: TrainPolicy) -> str:
        """Folder name: data size, seed, and quality where there are several."""
        size = f"n{self.episodes}" if self.episodes else "all"
        return f"{size}_s{self.seed}" + (f"_q{self.quality}" if len(config.qualities) > 1 else "")


def train_policy(config: TrainPolicy, *, progress: Progress = silent, say: Callable[[str], None] = ignore) -> Path:
    """Train every run of `config`, continuing where an earlier run of the same command stopped.

    Args:
        config: What to do.
        progress: Called as it advances.
        say: Takes lines for people: the faults of the data.

    Returns:
        `config.out`; `worldsim.policies.discovery.discover` lists what it holds.

    Raises:
        StorageError: The dataset cannot be read, or another run holds the folder.
        InvalidInputError: The data does not fit, there is no such device, or the folder was begun with another config.
        UnknownNameError: There is no such kind of policy, or no such option.
    """
    if config.kind not in POLICIES:
        raise unknown_name("kind of policy", config.kind, POLICIES)
    find_device(config.device)
    dataset = open_datasets(config.data, cameras=config.cameras, action=config.action, proprio=config.proprio)
    work = Path(config.out) / ".training"
    with open_run(work, {"config": config, "data_digest": dataset.digest}):
        screening = screen(dataset, rule=config.faults, progress=progress)
        say(str(screening))
        dataset = dataset.without(screening.indices)
        for quality, how in enumerate(config.qualities):
            recorded = _read(config, dataset, how)
            for episodes in config.episodes:
                for seed in config.seeds:
                    _train_run(Run(episodes=episodes, seed=seed, quality=quality), recorded, dataset, config, progress)
    shutil.rmtree(work, ignore_errors=True)
    return Path(config.out)


def _read(config: TrainPolicy, dataset: Dataset, how: Degradation) -> Demonstrations:
    """The data of one quality."""
    teacher = load_policy(config.teacher) if config.teacher else None
    return read_demonstrations(dataset, needs=_needs(config, dataset), teacher=teacher, quality=how)


def _needs(config: TrainPolicy, dataset: Dataset) -> frozenset[str]:
    """What the policies read."""
    return POLICIES[config.kind].reads([camera.key for camera in dataset.cameras])


def _train_run(run: Run, recorded: Demonstrations, dataset: Dataset, config: TrainPolicy, progress: Progress) -> None:
    """Train one run and leave its checkpoints."""
    name = run.name(config)
    folder, work = Path(config.out) / name, Path(config.out) / ".training" / name
    last = _place(folder, config.schedule.steps)
    recipe = _recipe(run, config, dataset)
    if last.exists():  # the last checkpoint is written last
        require_same_request(folder, storage.read_manifest(last, kind=KIND).get("recipe"), recipe)
        return
    total = len(recorded.actions)
    if run.episodes > total:
        raise InvalidInputError(f"Run {name} asks for {run.episodes} episodes; {dataset.name} has {total}.")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(run.seed)).tolist()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        chunk = int(config.options.get("chunk", 1))
        examples = recorded.examples(order[: run.episodes or total], chunk=chunk)
        policy = _build(config, dataset, examples).to(config.device)

        def leave(step: int, core_seconds: float | None = None) -> None:
            manifest = {"step": step, "core_seconds": core_seconds, "recipe": recipe, **_origin()}
            manifest |= {"left_out": dataset.left_out} if dataset.left_out else {}
            policy.save_pretrained(_place(folder, step), half=config.half, manifest=manifest)

        loss_at = cloning_loss(policy, examples, batch=config.schedule.batch, seed=run.seed, shift_px=config.shift_px)
        spent = fit(
            policy, _with_exports(loss_at, config, leave), config.schedule, folder=work, stage=name, progress=progress
        )
    leave(config.schedule.steps, round(spent, 1))


def _with_exports(loss_at: LossAt, config: TrainPolicy, leave: Callable[[int], None]) -> LossAt:
    """Leave a checkpoint whenever the weights have had that many steps."""

    def wrapped(step: int) -> tuple[Tensor, dict[str, float]]:
        if step in config.checkpoints:
            leave(step)
        return loss_at(step)

    return wrapped


def cloning_loss(policy: TrainedPolicy, examples: Examples, *, batch: int, seed: int, shift_px: int) -> LossAt:
    """Mean squared error to the imitated actions, as a pure function of the step.

    Args:
        policy: The student.
        examples: What to imitate.
        batch: Examples per step, M.
        seed: Of the batches and shifts.
        shift_px: Largest shift of frames.
    """
    device = next(policy.parameters()).device

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(0, len(examples.action_NKA), (batch,), generator=generator)
        observation = {k: v[rows] for k, v in examples.observation.items()}
        for key in filter(is_image, observation if shift_px else ()):
            observation[key] = shift_frames(observation[key], shift_px, generator)
        action_MKA, valid = (
            policy({k: v.to(device) for k, v in observation.items()}),
            examples.valid_NK[rows].to(device),
        )
        error = (action_MKA - examples.action_NKA[rows].to(device)).square().mean(dim=-1)
        return (error * valid).sum() / valid.sum(), {}

    return loss_at


def shift_frames(image_MHWC: Tensor, most_px: int, generator: torch.Generator) -> Tensor:
    """Shift each picture by its own random whole number of pixels, repeating its edge (Yarats et al., "DrQ", 2021).

    Args:
        image_MHWC: uint8 [M, H, W, 3].
        most_px: Largest shift in x and in y.
        generator: Source of randomness.
    """
    m, height, width, _ = image_MHWC.shape
    dy, dx = torch.randint(-most_px, most_px + 1, (2, m, 1), generator=generator)
    y = (torch.arange(height) + dy).clamp(0, height - 1)[:, :, None]
    x = (torch.arange(width) + dx).clamp(0, width - 1)[:, None, :]
    return image_MHWC[torch.arange(m)[:, None, None], y, x]


def _build(config: TrainPolicy, dataset: Dataset, examples: Examples) -> TrainedPolicy:
    """A fresh policy with the statistics of its data."""
    kind = POLICIES[config.kind]
    values: dict[str, Any] = {"action": storage.to_json(dataset.action_spec), **config.options}
    values |= _statistics("proprio", examples.observation[STATE])
    needs = _needs(config, dataset)
    if TRUE_STATE in needs:
        values |= _statistics("state", examples.observation[TRUE_STATE])
    if any(map(is_image, needs)):
        main, *more = dataset.cameras
        values |= {"camera": main.key, "image_size": list(main.size), "more_cameras": storage.to_json(more)}
    return kind(storage.from_json(kind.config_class, values))


def _statistics(name: str, value: Tensor) -> dict[str, list[float]]:
    """Mean and spread per dimension; what never changes gets spread 1."""
    std = value.std(dim=0, correction=0)
    return {
        f"{name}_mean": value.mean(dim=0).tolist(),
        f"{name}_std": torch.where(std > 1e-6, std, torch.ones_like(std)).tolist(),
    }


def _place(folder: Path, step: int) -> Path:
    """Where the policy of a step goes."""
    return folder / f"{step:06d}"


def _recipe(run: Run, config: TrainPolicy, dataset: Dataset) -> dict[str, Any]:
    """All that decides the weights of a run, as JSON values."""
    settings = storage.to_json(config)
    for name in ("data", "out", "episodes", "seeds", "qualities", "device"):
        del settings[name]
    what = {"episodes": run.episodes, "seed": run.seed, "quality": config.qualities[run.quality]}
    recipe: dict[str, Any] = storage.to_json({**settings, **what, "data_digest": dataset.digest})
    return recipe


def _origin() -> dict[str, Any]:
    """The command and the versions that the weights were made with."""
    command = command_text()
    return {"command": command, "versions": {"torch": torch.__version__, "worldsim": __version__}}
