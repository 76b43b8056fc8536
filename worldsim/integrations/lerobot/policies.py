"""LeRobot checkpoints as worldsim policies: one queue per episode, in the open, and noise from episode keys.

LeRobot keeps one queue of actions and observations inside the module, shared by whatever batch comes next. Here the
network is only ever asked for a chunk; queues, histories and temporal ensembles live in the carry.

Shape legend: n episodes, T observations of history, E executed actions, K chunk, A action, P proprio, H W image.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from worldsim import noise
from worldsim.core import IMAGE, STATE, TASK, TRUE_STATE, Camera, Observation, is_image, row_texts
from worldsim.errors import PolicyError, StorageError
from worldsim.integrations.lerobot.checkpoint import Checkpoint, lerobot, read_checkpoint
from worldsim.integrations.lerobot.kinds import KINDS, ask, executed
from worldsim.integrations.lerobot.statistics import constant_channels
from worldsim.noise import fold
from worldsim.policies.checks import checked_action, require
from worldsim.policies.contract import Contract
from worldsim.storage import read_json

_STREAM = 0x7A5D


class KeyedRandomness(TorchFunctionMode):
    """Inside this context, torch.randn, randn_like, rand, rand_like and normal draw from episode keys.

    A draw whose leading size is n, the number of keys, gets row i from key i, whatever the other rows are; this is how
    diffusion and flow policies draw. Any other draw (multinomial, dropout, another leading size) comes from the global
    generator, seeded by all keys together for the length of the context: repeatable for the same batch, but not
    independent of it. The global generator is left as it was.

    Args:
        keys: int64 [n], one per episode.
    """

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self._keys = keys.cpu()
        self._drawn = 0
        self._fork = torch.random.fork_rng(devices=range(torch.cuda.device_count()))

    def __enter__(self) -> "KeyedRandomness":
        """Seed the global generator by all keys; start counting draws."""
        self._fork.__enter__()
        seed = 0
        for key in noise.fold(self._keys, _STREAM).tolist():
            seed = (seed * 31 + key) & 0x7FFFFFFFFFFFFFFF
        torch.manual_seed(seed)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the global generator back."""
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._fork.__exit__(kind, error, trace)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace the draws that have one row per key; let everything else pass."""
        kwargs = kwargs or {}
        draw = _DRAWS.get(func)
        if draw is None:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            template = func(*args, **kwargs)  # settles shape, type and device as torch would
            if template.ndim == 0 or template.shape[0] != len(self._keys):
                return template
            self._drawn += 1
            fresh = draw(self._keys, self._drawn, template.shape[1:], stream=_STREAM).to(template)
            if func is torch.normal:
                fresh = _located(args, kwargs, fresh)
            return template.copy_(fresh)


_DRAWS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    torch.randn: noise.normal,
    torch.randn_like: noise.normal,
    torch.normal: noise.normal,
    torch.rand: noise.uniform,
    torch.rand_like: noise.uniform,
}


def _located(args: Sequence[Any], kwargs: dict[str, Any], unit: Tensor) -> Tensor:
    """Apply torch.normal's mean and standard deviation to unit noise."""
    mean = args[0] if args else kwargs.get("mean", 0.0)
    std = args[1] if len(args) > 1 else kwargs.get("std", 1.0)
    located: Tensor = mean + std * unit
    return located


_VECTORS = (STATE, TRUE_STATE)


def load(
    path: Path | str,
    *,
    task: str = "",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    cameras: Sequence[Camera] | None = None,
) -> "LeRobotPolicy":
    """Load a LeRobot checkpoint folder.

    Args:
        path: The folder (``.../checkpoints/<step>/pretrained_model``).
        task: Instruction for language-conditioned policies; empty reads each episode's own.
        device: Where the network computes; None leaves it to the checkpoint.
        dtype: Computed in, by autocast; None computes as the weights are stored.
        cameras: Of the world it will act in; None for one that has the checkpoint's own.

    Raises:
        StorageError: Incomplete or corrupt, or it asks for what worlds cannot give (other cameras, other inputs).
        MissingExtraError: LeRobot is not installed.
    """
    return LeRobotPolicy(read_checkpoint(Path(path), device=device), task=task, dtype=dtype, cameras=cameras)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeRobotCarry:
    """Memory of n episodes that started together."""

    queue: Tensor  # float32 [n, E, A], physical units; the next action is first
    left: int  # how many of them are valid
    step: int  # steps taken
    history: Mapping[str, Tensor]  # preprocessed observations by key, [n, T, ...]; empty before the first step
    plan: Tensor | None = None  # float32 [n, H, A], the mean from which TD-MPC plans on, normalised
    ensemble: Tensor | None = None  # [n, K - 1, A] running mean of overlapping chunks, for ACT's temporal ensemble
    counts: Tensor | None = None  # int64 [K - 1, 1], chunks in each mean


class LeRobotPolicy:
    """A LeRobot network as a `worldsim.protocols.Policy`.

    Args:
        checkpoint: What `read_checkpoint` gave.
        task: Instruction for language-conditioned policies; empty reads each episode's own.
        dtype: Computed in, by autocast; None computes as the weights are stored.
        cameras: Of the world it will act in; None for one that has the checkpoint's own.

    Raises:
        StorageError: It asks for cameras or other inputs that the world does not give, or has a history that its type does not.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        task: str = "",
        dtype: torch.dtype | None = None,
        cameras: Sequence[Camera] | None = None,
    ) -> None:
        self.name, self._dtype = str(checkpoint.path), dtype
        self.task = task
        self._checkpoint, config = checkpoint, checkpoint.config
        self._kind, self._rate_hz = KINDS[checkpoint.kind], _recorded_rate(checkpoint.path)
        self._keys = _input_keys(checkpoint, cameras)
        shapes = {ours: tuple(config.input_features[theirs].shape) for ours, theirs in self._keys.items()}
        self._shapes = {key: (*shape[1:], 3) if is_image(key) else shape for key, shape in shapes.items()}
        self.image_size = next((shape[:2] for key, shape in self._shapes.items() if is_image(key)), None)
        self.proprio_dim = shapes[STATE][0] if STATE in shapes else None
        self.action_dim = int(config.action_feature.shape[0])
        self._reads_task = any(hasattr(step, "task_key") for step in checkpoint.before.steps)
        self._history = int(getattr(config, "n_obs_steps", 1) or 1)
        if self._history > 1 and not self._kind.history:
            raise StorageError(
                f"{self.name} is a {checkpoint.kind!r} policy that looks at {self._history} observations, which LeRobot's own "
                "policies of this type do not. Wrap it as a `module:function` policy."
            )
        self._ensemble = getattr(config, "temporal_ensemble_coeff", None)
        self._executed = executed(checkpoint.kind, config)
        self._constant = constant_channels(config, checkpoint.before)

    @property
    def needs(self) -> frozenset[str]:
        """Cameras, STATE and TRUE_STATE, as far as the checkpoint declares inputs for them; TASK if it reads instructions."""
        return frozenset(self._keys) | ({TASK} if self._reads_task and not self.task else set())

    @property
    def contract(self) -> Contract:
        """What it was trained for."""
        sizes = {key: shape for key, shape in self._shapes.items() if is_image(key)}
        cameras = tuple(Camera(key=key, height=shape[0], width=shape[1]) for key, shape in sizes.items())
        return Contract(
            cameras=cameras,
            proprio_dim=self.proprio_dim,
            action_dim=self.action_dim,
            rate_hz=self._rate_hz,
            reads_task=TASK in self.needs,
        )

    @property
    def actions_per_look(self) -> int:
        """Actions executed of a chunk E."""
        return self._executed

    def initial(self, n: int) -> LeRobotCarry:
        """Return the carry of n fresh episodes."""
        return LeRobotCarry(queue=torch.zeros(n, self._executed, self.action_dim), left=0, step=0, history={})

    @torch.no_grad()
    def act(self, observation: Observation, carry: LeRobotCarry, keys: Tensor) -> tuple[Tensor, LeRobotCarry]:
        """Choose actions; see `worldsim.protocols.Policy.act`.

        Raises:
            PolicyError: A key is missing or of another size than the checkpoint declares, the network raised, or it
                returned something else than finite actions.
        """
        require(observation, self.needs, policy=self.name)
        self._check_sizes(observation, keys.shape[0])
        try:
            history = self._remember(observation, carry) if self._history > 1 or not carry.left else carry.history
            if carry.left:
                queue, left, plan = carry.queue, carry.left, carry.plan
                ensemble, counts = carry.ensemble, carry.counts
            else:
                chunk, plan = self._chunk(history, carry.plan, keys, carry.step)
                queue, ensemble, counts = self._executable(chunk, carry)
                left = queue.shape[1]
        except PolicyError:
            raise
        except Exception as error:
            raise PolicyError(f"Policy {self.name} raised {type(error).__name__}: {error}") from error
        following = LeRobotCarry(
            queue=queue.roll(-1, dims=1),
            left=left - 1,
            step=carry.step + 1,
            history=history if self._history > 1 else {},
            plan=plan,
            ensemble=ensemble,
            counts=counts,
        )
        return queue[:, 0].to(keys.device, copy=True), following

    def _check_sizes(self, observation: Observation, n: int) -> None:
        """Compare what came with what the checkpoint declares."""
        for key, shape in self._shapes.items():
            if tuple(observation[key].shape) != (n, *shape):
                raise PolicyError(
                    f"Policy {self.name} got {key!r} of shape {tuple(observation[key].shape)}, but its checkpoint "
                    f"declares {self._keys[key]!r} so that {(n, *shape)} is expected. Use a world with the same camera "
                    "and robot."
                )

    def _remember(self, observation: Observation, carry: LeRobotCarry) -> Mapping[str, Tensor]:
        """Preprocess and append to the history; the first observation fills it, as LeRobot does."""
        batch: dict[str, object] = {self._keys[k]: observation[k].float() for k in _VECTORS if k in self._keys}
        for key, (places, values) in self._constant.items():
            vector = batch[key]
            assert isinstance(vector, Tensor)
            held = values.to(vector).expand(len(vector), -1)
            batch[key] = vector.index_copy(1, places.to(vector.device), held)
        for key in (key for key in self._keys if is_image(key)):
            batch[self._keys[key]] = observation[key].permute(0, 3, 1, 2).float().div(255).contiguous()
        n = len(next(iter(observation.values())))
        own = row_texts(observation[TASK]) if TASK in self.needs else (self.task,) * n
        batch["task"] = list(own)
        ready = self._checkpoint.before(batch)
        now = {
            key: value for key, value in ready.items() if key.startswith("observation.") and isinstance(value, Tensor)
        }
        if self._history == 1 and not self._kind.history:
            return now
        features = self._checkpoint.config.input_features
        before = carry.history
        return {
            key: value
            if key not in features
            else torch.cat([before[key][:, 1:], value[:, None]], dim=1)
            if before
            else value[:, None].repeat_interleave(self._history, dim=1)
            for key, value in now.items()
        }

    def _chunk(
        self, batch: Mapping[str, Tensor], plan: Tensor | None, keys: Tensor, step: int
    ) -> tuple[Tensor, Tensor | None]:
        """Ask the network for a chunk [n, K, A], not yet in physical units, and what it remembers [n, H, A]."""
        device = torch.device(str(self._checkpoint.config.device))
        rows = [slice(i, i + 1) for i in range(len(keys))] if self._kind.alone else [slice(None)]
        chunks, plans = [], []
        for row in rows:
            own = {key: value[row] for key, value in batch.items()}
            with (
                KeyedRandomness(fold(keys[row], step)),
                torch.autocast(device.type, self._dtype, enabled=self._dtype is not None),
            ):
                chunk, kept = ask(
                    self._checkpoint.kind, self._checkpoint.network, own, None if plan is None else plan[row]
                )
            n = len(keys[row])
            checked_action(chunk.flatten(1), policy=self.name, n=n, dim=chunk.shape[1] * self.action_dim)
            chunks.append(chunk.float())
            plans += [] if kept is None else [kept]
        return torch.cat(chunks), torch.cat(plans) if plans else None

    def _executable(self, chunk: Tensor, carry: LeRobotCarry) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The actions to execute [n, E, A] in physical units, and the ensemble to remember."""
        ensemble = counts = None
        if self._ensemble is not None:
            first, ensemble, counts = self._blend(chunk, carry)
            chunk = first[:, None]
        chunk = chunk[:, : self._executed]
        action = self._checkpoint.after(chunk)  # entire chunks: relative actions add the state in which one begins
        action = checked_action(
            action.flatten(0, 1), policy=self.name, n=len(chunk) * chunk.shape[1], dim=self.action_dim
        )
        return action.reshape(chunk.shape).cpu(), ensemble, counts

    def _blend(self, chunk: Tensor, carry: LeRobotCarry) -> tuple[Tensor, Tensor, Tensor]:
        """ACT's temporal ensemble (Zhao et al. 2023, algorithm 2) on a state of our own."""
        ensembler = lerobot("policies.act.modeling_act").ACTTemporalEnsembler(self._ensemble, chunk.shape[1])
        if carry.ensemble is not None and carry.counts is not None:
            ensembler.ensembled_actions = carry.ensemble.clone()
            ensembler.ensembled_actions_count = carry.counts.clone()
        first: Tensor = ensembler.update(chunk)
        return first, ensembler.ensembled_actions, ensembler.ensembled_actions_count


def _input_keys(checkpoint: Checkpoint, cameras: Sequence[Camera] | None) -> dict[str, str]:
    """The checkpoint's input names by our key: cameras by their names, and the only one whatever it is called."""
    config, path = checkpoint.config, checkpoint.path
    theirs = sorted(key for key in config.image_features if ".empty_camera" not in key)
    others = sorted(config.input_features.keys() - config.image_features.keys() - set(_VECTORS))
    if others or config.action_feature is None:
        raise StorageError(
            f"{path} declares inputs {sorted(config.input_features)} and outputs {sorted(config.output_features)}; "
            f"worlds give pictures, {STATE} and {TRUE_STATE}, and take 'action'."
        )
    there = [IMAGE] if cameras is None else [camera.key for camera in cameras]
    raw = _raw_names(checkpoint)
    keys = {key: key for key in _VECTORS if key in config.input_features}
    for name in theirs:
        match = next((key for key in (raw.get(name, name), name) if key in there), None)
        if match is None and len(theirs) == len(there) == 1:
            match = there[0]
        if match is None and cameras is None and is_image(name):
            match = name
        if match is None:
            raise StorageError(
                f"{path} looks through {len(theirs)} cameras ({', '.join(theirs)}), the world draws "
                f"{', '.join(there) or 'nothing'}. Use a world with the same cameras."
            )
        keys[match] = name
    return keys


def _raw_names(checkpoint: Checkpoint) -> dict[str, str]:
    """By an input's name, what the data called it, where the checkpoint's own processor renames it."""
    maps = [step.rename_map for step in checkpoint.before.steps if hasattr(step, "rename_map")]
    return {new: old for renamed in maps for old, new in renamed.items()}


def _recorded_rate(path: Path) -> float | None:
    """Actions a second in LeRobot's record of the training, where the environment that it names says so."""
    file = path / "train_config.json"
    record = read_json(file) if file.is_file() else None
    env = record.get("env") if isinstance(record, dict) else None
    fps = env.get("fps") if isinstance(env, dict) else None
    good = isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps < math.inf
    return float(fps) if good and fps is not None else None
