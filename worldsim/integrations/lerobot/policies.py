"""LeRobot checkpoints as worldsim policies: one queue per episode, in the open, and noise from episode keys.

LeRobot keeps one queue of actions and observations inside the module, shared by whatever batch comes next. Here the
network is only ever asked for a chunk; queues, histories and temporal ensembles live in the carry.

Shape legend: n episodes, T observations of history, E executed actions, K chunk, A action, P proprio, H W image.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from worldsim import noise
from worldsim.core import IMAGE, STATE, TRUE_STATE, Observation
from worldsim.errors import PolicyError, StorageError
from worldsim.integrations.lerobot.checkpoint import Checkpoint, lerobot, read_checkpoint
from worldsim.noise import fold
from worldsim.policies.checks import checked_action, require

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


_WITH_HISTORY = ("diffusion",)  # types whose predict_action_chunk takes a history [n, T, ...] in the batch
_VECTORS = (STATE, TRUE_STATE)


def load(
    path: Path | str,
    *,
    task: str = "",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> "LeRobotPolicy":
    """Load a LeRobot checkpoint folder.

    Args:
        path: The folder (``.../checkpoints/<step>/pretrained_model``).
        task: Instruction for language-conditioned policies.
        device: Where the network computes; None leaves it to the checkpoint.
        dtype: Computed in, by autocast; None computes as the weights are stored.

    Raises:
        StorageError: Incomplete or corrupt, or it asks for what worlds cannot give (several cameras, other inputs).
        MissingExtraError: LeRobot is not installed.
    """
    return LeRobotPolicy(read_checkpoint(Path(path), device=device), task=task, dtype=dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeRobotCarry:
    """Memory of n episodes that started together."""

    queue: Tensor  # float32 [n, E, A], physical units; the next action is first
    left: int  # how many of them are valid
    step: int  # steps taken
    history: Mapping[str, Tensor]  # preprocessed observations by key, [n, T, ...]; empty before the first step
    ensemble: Tensor | None = None  # [n, K - 1, A] running mean of overlapping chunks, for ACT's temporal ensemble
    counts: Tensor | None = None  # int64 [K - 1, 1], chunks in each mean


class LeRobotPolicy:
    """A LeRobot network as a `worldsim.protocols.Policy`.

    ACT and Diffusion are covered by tests; other types that look at one observation and predict chunks take the same
    way.

    Args:
        checkpoint: What `read_checkpoint` gave.
        task: Instruction for language-conditioned policies.
        dtype: Computed in, by autocast; None computes as the weights are stored.

    Raises:
        StorageError: It asks for several cameras, for inputs that no world gives, or for a history that this adapter
            cannot drive.
    """

    def __init__(self, checkpoint: Checkpoint, *, task: str = "", dtype: torch.dtype | None = None) -> None:
        self.name, self._dtype = str(checkpoint.path), dtype
        self.task = task
        self._checkpoint, config = checkpoint, checkpoint.config
        self._keys = _input_keys(checkpoint)
        shapes = {ours: tuple(config.input_features[theirs].shape) for ours, theirs in self._keys.items()}
        self.image_size = shapes[IMAGE][1:] if IMAGE in shapes else None
        self.proprio_dim = shapes[STATE][0] if STATE in shapes else None
        self.action_dim = int(config.action_feature.shape[0])
        self._shapes = {IMAGE: (*self.image_size, 3)} if self.image_size else {}
        self._shapes |= {key: shapes[key] for key in _VECTORS if key in shapes}
        self._history = int(getattr(config, "n_obs_steps", 1) or 1)
        if self._history > 1 and checkpoint.kind not in _WITH_HISTORY:
            raise StorageError(
                f"{self.name} is a {checkpoint.kind!r} policy that looks at {self._history} observations; of such "
                f"types only {', '.join(_WITH_HISTORY)} can be run here. Wrap it as a `module:function` policy."
            )
        self._ensemble = getattr(config, "temporal_ensemble_coeff", None)
        self._executed = int(getattr(config, "n_action_steps", 1) or 1)

    @property
    def needs(self) -> frozenset[str]:
        """IMAGE, STATE and TRUE_STATE, as far as the checkpoint declares inputs for them."""
        return frozenset(self._keys)

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
                queue, left, ensemble, counts = carry.queue, carry.left, carry.ensemble, carry.counts
            else:
                chunk = self._chunk(history, keys, carry.step)
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
        if IMAGE in self._keys:
            batch[self._keys[IMAGE]] = observation[IMAGE].permute(0, 3, 1, 2).float().div(255).contiguous()
        batch["task"] = [self.task] * len(next(iter(observation.values())))
        ready = self._checkpoint.before(batch)
        now = {
            key: value for key, value in ready.items() if key.startswith("observation.") and isinstance(value, Tensor)
        }
        if self._history == 1:
            return now
        if not carry.history:
            return {key: value[:, None].repeat_interleave(self._history, dim=1) for key, value in now.items()}
        return {key: torch.cat([carry.history[key][:, 1:], value[:, None]], dim=1) for key, value in now.items()}

    def _chunk(self, batch: Mapping[str, Tensor], keys: Tensor, step: int) -> Tensor:
        """Ask the network for a chunk [n, K, A], not yet in physical units."""
        network = self._checkpoint.network
        network.reset()  # its own queues stay empty: what they would hold is in the batch
        device = torch.device(str(self._checkpoint.config.device))
        with (
            KeyedRandomness(fold(keys, step)),
            torch.autocast(device.type, self._dtype, enabled=self._dtype is not None),
        ):
            chunk = network.predict_action_chunk(dict(batch))
        checked_action(chunk.flatten(1), policy=self.name, n=keys.shape[0], dim=chunk.shape[1] * self.action_dim)
        actions: Tensor = chunk.float()
        return actions

    def _executable(self, chunk: Tensor, carry: LeRobotCarry) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The actions to execute [n, E, A] in physical units, and the ensemble to remember."""
        ensemble = counts = None
        if self._ensemble is not None:
            first, ensemble, counts = self._blend(chunk, carry)
            chunk = first[:, None]
        chunk = chunk[:, : self._executed]
        action = self._checkpoint.after(chunk.flatten(0, 1))
        action = checked_action(action, policy=self.name, n=chunk.shape[0] * chunk.shape[1], dim=self.action_dim)
        return action.reshape(chunk.shape).cpu(), ensemble, counts

    def _blend(self, chunk: Tensor, carry: LeRobotCarry) -> tuple[Tensor, Tensor, Tensor]:
        """ACT's temporal ensemble (Zhao et al. 2023, algorithm 2) on a state of our own."""
        ensembler = lerobot("policies.act.modeling_act").ACTTemporalEnsembler(self._ensemble, chunk.shape[1])
        if carry.ensemble is not None and carry.counts is not None:
            ensembler.ensembled_actions = carry.ensemble.clone()
            ensembler.ensembled_actions_count = carry.counts.clone()
        first: Tensor = ensembler.update(chunk)
        return first, ensembler.ensembled_actions, ensembler.ensembled_actions_count


def _input_keys(checkpoint: Checkpoint) -> dict[str, str]:
    """The checkpoint's input names by our key."""
    config, path = checkpoint.config, checkpoint.path
    cameras = sorted(config.image_features)
    others = sorted(config.input_features.keys() - set(cameras) - set(_VECTORS))
    if len(cameras) > 1:
        raise StorageError(
            f"{path} looks through {len(cameras)} cameras ({', '.join(cameras)}), but a world gives one image. Use a "
            "policy that was trained on one camera."
        )
    if others or config.action_feature is None:
        raise StorageError(
            f"{path} declares inputs {sorted(config.input_features)} and outputs {sorted(config.output_features)}; "
            f"worlds give one image, {STATE} and {TRUE_STATE}, and take 'action'."
        )
    keys = {key: key for key in _VECTORS if key in config.input_features}
    return keys | ({IMAGE: cameras[0]} if cameras else {})
