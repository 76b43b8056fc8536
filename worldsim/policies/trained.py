"""What all trained policies share: chunk queues in the carry, checks of what comes in, saving and loading.

Shape legend: n episodes, M of them that need a new chunk, K chunk length, A action, E encoded action, P proprio, S true
state, H W image.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from worldsim import storage
from worldsim.actions import ActionSpec
from worldsim.core import STATE, Observation, Rows
from worldsim.errors import InvalidInputError, PolicyError, StorageError
from worldsim.policies.checks import checked_action, require
from worldsim.policies.contract import Contract
from worldsim.policies.discovery import KIND

NAME_FIELD = "policy"
"""Field of config.json that holds the registered name of the class."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedPolicyConfig:
    """What every trained policy needs to know.

    Attributes:
        action: Meaning and limits of its actions; the network works in [-1, 1].
        proprio_mean: Mean of the proprioception it was trained on, one number per dimension P, physical units.
        proprio_std: Its spread, positive.
        chunk: Actions predicted at once, K.
        executed: How many of them are executed before the next look, E <= K.

    Raises:
        InvalidInputError: Statistics of unequal length or without spread, or a chunk out of range.
    """

    action: ActionSpec
    proprio_mean: tuple[float, ...]
    proprio_std: tuple[float, ...]
    chunk: int = 1
    executed: int = 1

    def __post_init__(self) -> None:
        check_statistics("proprio", mean=self.proprio_mean, std=self.proprio_std)
        if not 1 <= self.executed <= self.chunk:
            raise InvalidInputError(
                f"A policy executes 1..chunk actions of a chunk; got executed {self.executed} and chunk {self.chunk}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkCarry(Rows):
    """Actions planned and not yet executed."""

    queue: Tensor  # float32 [n, executed, A], physical units; the next action is first
    left: Tensor  # int64 [n], how many of them are valid


class TrainedPolicy(nn.Module):
    """A network from observations to a chunk of actions, one queue per episode.

    Subclasses set `kind` and `config_class`, and give `reads`, `needs` and `forward`.

    Args:
        config: Sizes, statistics and action meaning.
        name: For messages; the folder it was loaded from, as a rule.
    """

    kind: ClassVar[str]
    config_class: ClassVar[type[TrainedPolicyConfig]]

    def __init__(self, config: TrainedPolicyConfig, *, name: str = "") -> None:
        super().__init__()
        self.config = config
        self.name = name or type(self).__name__
        self.register_buffer("proprio_mean", torch.tensor(config.proprio_mean), persistent=False)
        self.register_buffer("proprio_std", torch.tensor(config.proprio_std), persistent=False)

    @classmethod
    def reads(cls, cameras: Sequence[str]) -> frozenset[str]:
        """Observation keys that a policy of this kind reads, if it looks through these cameras (their keys)."""
        raise NotImplementedError

    @property
    def needs(self) -> frozenset[str]:
        """Observation keys that this policy reads."""
        return self.reads(())

    @property
    def action_dim(self) -> int:
        """Action width A."""
        return self.config.action.dim

    @property
    def proprio_dim(self) -> int:
        """Proprioception width P."""
        return len(self.config.proprio_mean)

    @property
    def actions_per_look(self) -> int:
        """Actions executed of a chunk E."""
        return self.config.executed

    @property
    def contract(self) -> Contract:
        """What it was trained for."""
        action = self.config.action
        return Contract(proprio_dim=self.proprio_dim, action_dim=action.dim, rate_hz=action.rate_hz)

    def initial(self, n: int) -> ChunkCarry:
        """Return the carry of n fresh episodes."""
        device = self.get_buffer("proprio_mean").device
        queue = torch.zeros(n, self.config.executed, self.action_dim, device=device)
        return ChunkCarry(queue=queue, left=torch.zeros(n, dtype=torch.int64, device=device))

    @torch.no_grad()
    def act(self, observation: Observation, carry: ChunkCarry, keys: Tensor) -> tuple[Tensor, ChunkCarry]:
        """Choose actions; see `worldsim.protocols.Policy.act`. Needs no randomness.

        Raises:
            PolicyError: A key is missing or of another shape than trained on, or the network gave NaN or infinity.
        """
        require(observation, self.needs, policy=self.name)
        n = keys.shape[0]
        self.check_observation(observation, n)
        queue, left = carry.queue, carry.left
        empty = left == 0
        if bool(empty.any()):
            rows: Tensor | slice = slice(None) if bool(empty.all()) else empty.nonzero().flatten()
            queue, left = queue.clone(), left.clone()
            queue[rows] = self._plan({k: observation[k].to(queue.device)[rows] for k in self.needs})
            left[rows] = self.config.executed
        return queue[:, 0].to(keys.device, copy=True), ChunkCarry(queue=queue.roll(-1, dims=1), left=left - 1)

    def check_observation(self, observation: Observation, n: int) -> None:
        """Check shapes; subclasses add their own inputs.

        Raises:
            PolicyError: Another shape than trained on.
        """
        self.expect(observation, STATE, (n, self.proprio_dim))

    def expect(
        self, observation: Observation, key: str, shape: tuple[int, ...], *, dtype: torch.dtype | None = None
    ) -> None:
        """Check one input.

        Raises:
            PolicyError: It has another shape or type.
        """
        given = observation[key]
        if tuple(given.shape) != shape or (dtype is not None and given.dtype != dtype):
            raise PolicyError(
                f"Policy {self.name} got {key!r} of shape {tuple(given.shape)} ({given.dtype}), expected {shape}"
                f"{f' ({dtype})' if dtype else ''} as in its training. Use a world with the same camera and robot, or "
                "train the policy for this one."
            )

    def _plan(self, observation: Mapping[str, Tensor]) -> Tensor:
        """The next actions [M, executed, A] in physical units, within the limits."""
        encoded_MKE: Tensor = self(observation).float()[:, : self.config.executed]
        checked_action(encoded_MKE.flatten(1), policy=self.name, n=encoded_MKE.shape[0])
        return self.config.action.check(self.config.action.denormalize(encoded_MKE))

    def normalized_proprio(self, observation: Observation) -> Tensor:
        """Proprioception [M, P] in units of its training spread, of the weights' dtype."""
        mean, std = self.get_buffer("proprio_mean"), self.get_buffer("proprio_std")
        return ((observation[STATE].float() - mean) / std).to(mean.dtype)

    def save_pretrained(
        self, path: Path | str, *, half: bool = False, manifest: Mapping[str, Any] | None = None
    ) -> None:
        """Write the policy as a folder.

        Args:
            path: The folder; replaced if it exists.
            half: Store weights as float16, which halves the size; they are float32 in memory either way.
            manifest: Provenance to keep: training step, data digest, seed.

        Raises:
            StorageError: It cannot be written.
            InvalidInputError: A weight is not finite, or too large for float16.
        """
        tensors = {k: v.detach().to(torch.float16 if half else torch.float32) for k, v in self.state_dict().items()}
        broken = sorted(k for k, v in tensors.items() if not bool(v.isfinite().all()))
        if broken:
            raise InvalidInputError(
                f"Weights {broken[:5]} of {self.name} are not finite{' in float16' if half else ''}; it was not saved."
            )
        config = {NAME_FIELD: self.kind, **storage.to_json(self.config)}
        storage.save_folder(Path(path), kind=KIND, config=config, tensors=tensors, manifest=manifest)

    @classmethod
    def from_pretrained(
        cls, path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> Self:
        """Read a folder that `save_pretrained` wrote; strict keys.

        Args:
            path: The folder.
            device: Where the network computes.
            dtype: Of its weights; None is float32, also where they are stored as float16.

        Raises:
            StorageError: Missing, corrupt, another kind of folder, another policy class, or weights that do not fit.
        """
        config, tensors, _ = storage.load_folder(Path(path), kind=KIND)
        found = config.pop(NAME_FIELD, None) if isinstance(config, dict) else None
        if found != cls.kind:
            raise StorageError(f"{path} holds a {found!r} policy, expected {cls.kind!r}. Use load_policy for any kind.")

        def make() -> TrainedPolicy:
            return cls(storage.from_json(cls.config_class, config), name=str(path))

        weights = {k: v.float() for k, v in tensors.items()}
        try:
            policy = storage.build_module(make, weights, config=config, source=path)
        except (InvalidInputError, LookupError) as error:
            raise StorageError(
                f"{Path(path) / storage.CONFIG} does not describe a {cls.kind!r} policy: {error}"
            ) from error
        return cast("Self", policy.to(device=device, dtype=dtype).eval())


def check_statistics(name: str, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Check the statistics of one input.

    Raises:
        InvalidInputError: None given, of unequal length, or a spread that is not positive.
    """
    if not mean or len(mean) != len(std) or not all(s > 0 for s in std):
        raise InvalidInputError(
            f"{name}_mean and {name}_std must have one number per dimension, the spread positive; got {mean} and {std}."
        )


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for width_in, width_out in itertools.pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
