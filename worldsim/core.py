"""The values that cross packages: batched rows, observations, cameras, world specs, states, steps, rollouts, verdicts.

Shape legend: B episodes in a batch, T steps, s frames per step, c h w latent, H W image, P proprio, A action,
E true state, L bytes of text. Frames at this boundary are uint8 HWC in 0..255; the rest is float32 unless said otherwise.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.errors import InvalidInputError, StorageError, unknown_name
from worldsim.json_values import parse_json
from worldsim.validity.validity import Validity

IMAGE = "observation.image"
"""uint8 [B, H, W, 3]: the frame of a world's only camera, where the data names none (LeRobot's key)."""
IMAGES = "observation.images."
"""Prefix of the key of a named camera, ``observation.images.NAME``: uint8 [B, H, W, 3] (LeRobot's key)."""
STATE = "observation.state"
"""float32 [B, P]: proprioception, in physical units (LeRobot's key)."""
TRUE_STATE = "observation.environment_state"
"""float32 [B, E]: the simulator's own task state; only simulators and state worlds have it (LeRobot's key)."""
SIMULATOR = "simulator.state"
"""float64 [B, S]: everything a simulator needs to resume exactly here; only starts carry it."""
TASK = "task"
"""uint8 [B, L]: what each episode is to achieve, in words; UTF-8 padded with zeros, see `text_rows` and `row_texts`."""

Observation = Mapping[str, Tensor]
"""Arrays by LeRobot key, each with leading B; the keys above."""


def is_image(key: str) -> bool:
    """Whether an observation key names a camera's frames."""
    return key == IMAGE or key.startswith(IMAGES)


def camera_name(key: str) -> str:
    """What people call the camera of an observation key; ``image`` for the only camera of data that names none."""
    return key.removeprefix(IMAGES).removeprefix("observation.")


def text_rows(texts: Sequence[str]) -> Tensor:
    """Texts as UTF-8 bytes padded with zeros, uint8 [B, L] with L >= 1, so that they batch like everything else."""
    encoded = [text.encode("utf8") for text in texts]
    rows = torch.zeros(len(texts), max([1, *map(len, encoded)]), dtype=torch.uint8)
    for row, raw in zip(rows, encoded, strict=True):
        row[: len(raw)] = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else row[:0]
    return rows


def row_texts(rows: Tensor) -> tuple[str, ...]:
    """The texts that `text_rows` packed into uint8 [B, L]."""
    return tuple(bytes(row.tolist()).rstrip(b"\0").decode("utf8", errors="replace") for row in rows.cpu())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Base of frozen dataclasses whose fields hold one row per episode, along a leading batch axis B.

    A field may be a tensor [B, ...], nested Rows, a tuple or mapping of such values, a tuple of B strings (or none), or
    None. A field made with `constant` is the same for all rows. Anything else is refused by the methods below,
    naming the field: nothing is ever left unbatched silently.
    """

    @property
    def batch(self) -> int:
        """Number of rows B, as the first field has it; see `check`.

        Raises:
            InvalidInputError: No field holds rows.
        """
        for field in dataclasses.fields(self):
            size = None if field.metadata.get("constant") else _size(getattr(self, field.name))
            if size is not None:
                return size
        raise InvalidInputError(f"This {type(self).__name__} holds no rows: all its fields are empty.")

    def check(self) -> Self:
        """Return this value if every field can be batched and all have the same number of rows.

        Raises:
            InvalidInputError: They have not; the message names the sizes or the field.
        """
        sizes: set[int] = set()

        def look(tensor: Tensor) -> Tensor:
            sizes.add(len(tensor))
            return tensor

        def look_at_texts(texts: tuple[str, ...]) -> tuple[str, ...]:
            sizes.add(len(texts))
            return texts

        self._map(look, look_at_texts)
        if len(sizes) != 1:
            raise InvalidInputError(f"The fields of a {type(self).__name__} must share one batch; got {sorted(sizes)}.")
        return self

    def rows(self, index: Tensor | slice | Sequence[int]) -> Self:
        """Return the rows at `index`, in that order.

        Args:
            index: int64 [N] positions, a slice, or a bool [B] mask.
        """
        chosen = index if isinstance(index, slice | Tensor) else torch.as_tensor(index, dtype=torch.int64)
        return self._map(lambda tensor: tensor[_on(chosen, tensor)], lambda texts: _texts_at(texts, chosen))

    def repeat(self, n: int) -> Self:
        """Repeat every row `n` times in place order: [B] -> [B * n], for branching. `SharedRows` are not copied."""
        return self._map(
            lambda tensor: tensor.repeat_interleave(n, dim=0), lambda texts: tuple(t for t in texts for _ in range(n))
        )

    def to(self, device: torch.device | str) -> Self:
        """Return the same rows on `device`."""
        return self._map(lambda tensor: tensor.to(device), lambda texts: texts, everything=True)

    def put(self, index: Tensor, part: Self) -> Self:
        """Return these rows with those of `part` [N] in the places `index`, int64 [N]."""
        return self._zip(
            [self, part],
            _Operation(
                lambda a: a[0].index_copy(0, index.to(a[0].device), a[1].to(a[0])),
                lambda a: tuple(_put_texts(a[0], index.tolist(), a[1])),
            ),
        )

    def merge(self, other: Self, mask: Tensor) -> Self:
        """Return the rows of `other` where bool [B] `mask` is set, and these elsewhere."""
        return self._zip(
            [self, other],
            _Operation(
                lambda a: torch.where(mask.to(a[0].device).view(-1, *[1] * (a[0].ndim - 1)), a[1].to(a[0]), a[0]),
                lambda a: tuple(b if m else c for c, b, m in zip(*a, mask.tolist(), strict=True)),
            ),
        )

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Concatenate along the batch axis. All parts must be of one class and structure."""
        if not parts:
            raise InvalidInputError("cat needs at least one part; got an empty sequence.")
        return parts[0]._zip(list(parts), _Operation(torch.cat, lambda texts: tuple(t for part in texts for t in part)))

    def to_bytes(self) -> bytes:
        """Write all tensors and texts as bytes (safetensors); `from_bytes` of the same class reads them back."""
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            tensors[f"t{len(tensors)}"] = tensor.detach().cpu().contiguous().clone()
            return tensor

        def keep_texts(texts: tuple[str, ...]) -> tuple[str, ...]:
            raw = json.dumps(texts).encode("utf8")
            tensors[f"t{len(tensors)}"] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
            return texts

        self._map(keep, keep_texts, everything=True)
        return save(tensors)

    def from_bytes(self, data: bytes) -> Self:
        """Read rows of this value's structure; this value itself is only the pattern (any batch will do).

        Raises:
            InvalidInputError: The bytes were written from another structure.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors = load(data)
        except SafetensorError as error:
            raise InvalidInputError(f"Not rows of a {type(self).__name__}: {error}") from error
        position = iter(range(len(tensors) + 1))

        def read(like: Tensor) -> Tensor:
            found = tensors.get(f"t{next(position)}")
            if found is None or found.dtype != like.dtype or found.shape[1:] != like.shape[1:]:
                raise InvalidInputError(
                    f"Not rows of this {type(self).__name__}: expected {like.dtype} {like.shape[1:]}."
                )
            return found

        def read_texts(texts: tuple[str, ...]) -> tuple[str, ...]:
            found = tensors.get(f"t{next(position)}")
            return () if found is None else _texts_from(bytes(found.tolist()), type(self).__name__)

        same = self._map(read, read_texts, everything=True)
        if next(position) != len(tensors):
            raise InvalidInputError(f"Not rows of this {type(self).__name__}: {len(tensors)} values were written.")
        return same

    def _map(self, tensor: "OnTensor", texts: "OnTexts", *, everything: bool = False) -> Self:
        return self._zip([self], _Operation(lambda a: tensor(a[0]), lambda a: texts(a[0]), everything))

    @classmethod
    def _zip(cls, parts: "list[Self]", operation: "_Operation") -> Self:
        """Combine the same field of every part, leaf by leaf."""
        first, values = parts[0], dict[str, Any]()
        for field in dataclasses.fields(first):
            if not field.metadata.get("constant"):
                leaves = [getattr(part, field.name) for part in parts]
                values[field.name] = _combined(f"{cls.__name__}.{field.name}", leaves, operation)
        return dataclasses.replace(first, **values)


OnTensor = Callable[[Tensor], Tensor]
OnTexts = Callable[[tuple[str, ...]], tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class _Operation:
    """What to do with the leaves of several parts; `everything` reaches what is shared between rows, too."""

    tensor: Callable[[list[Tensor]], Tensor]
    texts: Callable[[list[tuple[str, ...]]], tuple[str, ...]]
    everything: bool = False


def constant(**options: Any) -> Any:
    """A dataclass field of `Rows` that is one value for all rows, for example a count; takes `dataclasses.field`'s options."""
    return dataclasses.field(metadata={"constant": True}, **options)


def _combined(name: str, leaves: list[Any], operation: _Operation) -> Any:
    """One value from the same leaf of several parts, or a refusal that names it."""
    first = leaves[0]
    if any(not isinstance(leaf, type(first)) for leaf in leaves):
        raise InvalidInputError(f"{name} is of different kinds: {', '.join(type(v).__name__ for v in leaves)}.")
    if first is None:
        return None
    if isinstance(first, Tensor) and first.ndim:
        return operation.tensor(leaves)
    if isinstance(first, Rows):
        return first._zip(leaves, operation)
    if isinstance(first, tuple):
        return _combined_tuples(name, leaves, operation)
    if isinstance(first, Mapping):
        if any(leaf.keys() != first.keys() for leaf in leaves):
            raise InvalidInputError(f"{name} has different keys: {[sorted(leaf) for leaf in leaves]}.")
        return {k: _combined(f"{name}[{k!r}]", [leaf[k] for leaf in leaves], operation) for k in first}
    raise InvalidInputError(
        f"{name} is a {type(first).__name__} that has no rows. Rows hold tensors with a batch axis, Rows, and tuples or "
        "mappings of them; declare a value that is the same for all rows with worldsim.core.constant()."
    )


def _combined_tuples(name: str, leaves: list[tuple[Any, ...]], operation: _Operation) -> tuple[Any, ...]:
    first = leaves[0]
    if all(isinstance(item, str) for leaf in leaves for item in leaf):
        return operation.texts(leaves) if any(leaves) else first
    if len({len(leaf) for leaf in leaves}) != 1:
        raise InvalidInputError(f"{name} has different lengths: {[len(leaf) for leaf in leaves]}.")
    items = [_combined(f"{name}[{i}]", list(group), operation) for i, group in enumerate(zip(*leaves, strict=True))]
    return type(first)(*items) if hasattr(first, "_fields") else tuple(items)


def _on(index: Tensor | slice, tensor: Tensor) -> Tensor | slice:
    """An index where its tensor lives."""
    return index.to(tensor.device) if isinstance(index, Tensor) else index


def _texts_at(texts: tuple[str, ...], index: Tensor | slice) -> tuple[str, ...]:
    if isinstance(index, slice):
        return texts[index]
    where = index.nonzero()[:, 0] if index.dtype == torch.bool else index
    return tuple(texts[i] for i in where.tolist())


def _put_texts(texts: tuple[str, ...], index: list[int], part: tuple[str, ...]) -> list[str]:
    changed = list(texts)
    for i, text in zip(index, part, strict=True):
        changed[i] = text
    return changed


def _texts_from(data: bytes, owner: str) -> tuple[str, ...]:
    """Texts as `Rows.to_bytes` writes them."""
    try:
        found = parse_json(data, source=owner)
    except StorageError as error:
        raise InvalidInputError(f"Not rows of this {owner}: {error}") from error
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise InvalidInputError(f"Not rows of this {owner}: expected a list of texts.")
    return tuple(found)


def _size(leaf: Any) -> int | None:
    """Number of rows of a leaf; None where it holds none."""
    if isinstance(leaf, Tensor):
        return len(leaf) if leaf.ndim else None
    if isinstance(leaf, Rows):
        return leaf.batch
    if isinstance(leaf, tuple) and leaf and all(isinstance(item, str) for item in leaf):
        return len(leaf)
    items = leaf.values() if isinstance(leaf, Mapping) else leaf if isinstance(leaf, tuple) else ()
    return next((size for size in map(_size, items) if size is not None), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedRows[R: Rows](Rows):
    """Rows that several episodes share, for example the prefix of a key/value cache under branching.

    Indexing and repeating touch `index` alone, so that N branches of one episode hold its prefix once.
    """

    index: Tensor  # int64 [B], which row of `value` each episode has
    value: R  # [D, ...], the distinct rows

    @classmethod
    def of(cls, value: R) -> "SharedRows[R]":
        """Each row once."""
        return cls(index=torch.arange(value.batch), value=value)

    def gather(self) -> R:
        """The rows themselves, [B, ...], copied."""
        return self.value.rows(self.index)

    @classmethod
    def _zip(cls, parts: "list[Self]", operation: _Operation) -> Self:
        """Combine the indices; the rows of all parts are kept once, and those without an index are dropped."""
        if operation.everything:
            return super()._zip(parts, operation)
        distinct = list({id(part.value): part.value for part in parts}.values())
        starts = dict(
            zip(map(id, distinct), torch.tensor([0, *(v.batch for v in distinct)]).cumsum(0).tolist(), strict=False)
        )
        index = operation.tensor([part.index + starts[id(part.value)] for part in parts])
        if len(distinct) == 1:
            return dataclasses.replace(parts[0], index=index)
        used, index = index.unique(return_inverse=True)
        return dataclasses.replace(parts[0], index=index, value=distinct[0].cat(distinct).rows(used))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldState(Rows):
    """Where B imagined episodes stand. Implementations subclass it and add rows of their own."""

    key: Tensor  # int64 [B], the episode's noise key
    step: Tensor  # int64 [B], steps taken since reset


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldStep(Rows):
    """What one step of a world yields; where a step is several frames, the numbers are those of the last."""

    latent: Tensor  # [B, c, h, w], for `Drawable.decode`
    proprio: Tensor  # [B, P], physical units
    progress: Tensor  # [B], task progress in 0..1
    success: Tensor  # [B], probability in 0..1 that the task stands solved now
    uncertainty: Tensor  # [B], >= 0, what the world expects to be off by, or its members' spread; 0 for a simulator
    true_state: Tensor | None = None  # [B, E], only simulators and state worlds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout(Rows):
    """T consecutive steps of B episodes, and the actions that led to them."""

    latent: Tensor  # [B, T, c, h, w]
    proprio: Tensor  # [B, T, P]
    progress: Tensor  # [B, T]
    success: Tensor  # [B, T]
    uncertainty: Tensor  # [B, T]
    action: Tensor  # [B, T, A], or [B, T, s, A] where a step takes s actions
    true_state: Tensor | None = None  # [B, T, E]

    @classmethod
    def stack(cls, steps: Sequence[WorldStep], action: Tensor) -> "Rollout":
        """Stack T world steps [B, ...] into one rollout [B, T, ...]."""
        names = ["latent", "proprio", "progress", "success", "uncertainty"]
        if steps[0].true_state is not None:
            names.append("true_state")
        return cls(action=action, **{k: torch.stack([getattr(s, k) for s in steps], dim=1) for k in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Camera:
    """One camera of a world or a dataset.

    Attributes:
        key: Observation key of its frames: `IMAGE`, or `IMAGES` followed by its name.
        height: H, pixels.
        width: W, pixels.
        intrinsics: Rows of the 3x3 pinhole matrix in pixels, where known.

    Raises:
        InvalidInputError: Not a camera's key, or a size below 1.
    """

    key: str = IMAGE
    height: int
    width: int
    intrinsics: tuple[tuple[float, float, float], ...] | None = None

    def __post_init__(self) -> None:
        if not is_image(self.key) or min(self.height, self.width) < 1:
            raise InvalidInputError(
                f"A camera has the key {IMAGE!r} or {IMAGES + 'NAME'!r} and at least one pixel; got {self.key!r}, "
                f"{self.height}x{self.width}."
            )

    @property
    def name(self) -> str:
        """What people call it, see `camera_name`."""
        return camera_name(self.key)

    @property
    def size(self) -> tuple[int, int]:
        """H, W in pixels."""
        return (self.height, self.width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """What a world promises: everything a policy, planner or triage must know before the first step.

    Attributes:
        action: Meaning of the actions.
        cameras: What `Drawable.decode` draws, the main camera first; empty where a world has no pixels.
        latent_shape: (c, h, w) of `WorldStep.latent`.
        proprio_dim: P.
        horizon: Actions in an episode, a multiple of `actions_per_step`.
        actions_per_step: s. A step takes [B, A] where it is 1, else [B, s, A], and predicts s frames at once.
        observes: Keys that `World.reset` reads from first observations.
        success_at: An episode is solved at its last step, or at any step.
        task: One sentence, for people and language-conditioned policies, where starts carry no `TASK` of their own.
        task_id: Gymnasium id of the true environment, where there is one.
        unlabelled: Heads that had no labels to learn from; what they say of success or progress means nothing.
        device: Where the world computes now; a folder always says ``cpu``.
        validity: Its errors on held-out episodes and how many actions ahead it is to be believed; None where that was not
            measured. It is kept in the manifest of a folder, so that measuring changes no digest.

    Raises:
        InvalidInputError: The horizon is no positive multiple of `actions_per_step`, or two cameras share a key.
    """

    action: ActionSpec
    cameras: tuple[Camera, ...] = ()
    latent_shape: tuple[int, int, int]
    proprio_dim: int
    horizon: int
    actions_per_step: int = 1
    observes: tuple[str, ...] = (IMAGE, STATE)
    success_at: Literal["end", "any"] = "end"
    task: str = ""
    task_id: str = ""
    unlabelled: tuple[Literal["success", "progress"], ...] = ()
    device: str = "cpu"
    validity: Validity | None = None

    def __post_init__(self) -> None:
        if self.actions_per_step < 1 or self.horizon < 1 or self.horizon % self.actions_per_step:
            raise InvalidInputError(
                f"horizon must be a positive multiple of actions_per_step; got {self.horizon} and {self.actions_per_step}."
            )
        keys = [camera.key for camera in self.cameras]
        if len(set(keys)) != len(keys):
            raise InvalidInputError(f"Cameras must have different keys; got {keys}.")

    @property
    def steps(self) -> int:
        """World steps in an episode: horizon / actions_per_step."""
        return self.horizon // self.actions_per_step

    @property
    def image_size(self) -> tuple[int, int]:
        """H, W of the main camera in pixels.

        Raises:
            InvalidInputError: The world has no camera.
        """
        return self.camera().size

    def camera(self, key: str | None = None) -> Camera:
        """The camera of an observation key, the main camera by default.

        Raises:
            InvalidInputError: The world has no camera.
            UnknownNameError: The world has no such camera.
        """
        found = {camera.key: camera for camera in self.cameras}
        if not found:
            raise InvalidInputError(
                "This world has no camera, so nothing can be drawn. Use a world learned from pixels."
            )
        if key is None:
            return self.cameras[0]
        if key not in found:
            raise unknown_name("camera of this world", key, list(found))
        return found[key]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict(Rows):
    """What a judge says of B rollouts."""

    success: Tensor  # [B], probability in 0..1 that the episode solved its task
    progress: Tensor  # [B], how far it got, 0..1
    abstain: Tensor  # bool [B], the judge declines to say
    failed_at: Tensor  # int64 [B], first failing step, -1 where none
    text: tuple[str, ...] = ()  # one rationale per row, or empty
