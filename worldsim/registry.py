"""Names for interchangeable parts: a small typed table from a name to a config class and the class it builds.

Takes the place of importing by path from a config file, which would run whatever the file names.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from worldsim import storage
from worldsim.errors import StorageError, unknown_name
from worldsim.storage import from_json


@dataclasses.dataclass(frozen=True)
class Registry[T]:
    """Parts of one kind by name.

    Attributes:
        kind: What the parts are, for error messages.
        parts: Name -> (config dataclass, class or function that takes the config).
    """

    kind: str
    parts: Mapping[str, tuple[type, Callable[[Any], T]]]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.parts)

    def config(self, name: str) -> type:
        """The config dataclass of a name.

        Raises:
            UnknownNameError: No such part; the closest is named.
        """
        if name not in self.parts:
            raise unknown_name(self.kind, name, self.parts)
        return self.parts[name][0]

    def build(self, name: str, values: Mapping[str, Any]) -> T:
        """Build a part from config values as JSON gives them; strict."""
        config = self.config(name)
        return self.parts[name][1](from_json(config, values))

    def name_of(self, part: object) -> str:
        """The registered name of a part's class.

        Raises:
            UnknownNameError: The class is not registered.
        """
        for name, (_, build) in self.parts.items():
            if type(part) is build:
                return name
        raise unknown_name(self.kind, type(part).__name__, self.parts)

    def save(self, part: T, path: str | Path, *, manifest: Mapping[str, Any] | None = None) -> None:
        """Write a part's folder: its name, config and weights.

        Args:
            part: An `nn.Module` with a `config`, of a registered class.
            path: The folder; replaced as a unit if it exists.
            manifest: Provenance to keep: command, data digest, figures.

        Raises:
            UnknownNameError: The class is not registered.
            StorageError: The folder could not be written.
        """
        config = {"name": self.name_of(part), "config": storage.to_json(getattr(part, "config"))}  # noqa: B009
        storage.save_folder(
            Path(path), kind=self.kind, config=config, tensors=_module(part).state_dict(), manifest=manifest
        )

    def load(self, path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> T:
        """Read a part's folder, strictly, in evaluation mode.

        Args:
            path: The folder.
            device: Where the part computes.
            dtype: Of its weights; None keeps the stored one.

        Raises:
            StorageError: Missing or corrupt, of another kind, or weights that do not fit the config.
            UnknownNameError: The part's name is not registered.
        """
        values, tensors, _ = storage.load_folder(Path(path), kind=self.kind)
        if not isinstance(values, Mapping) or not isinstance(values.get("name"), str) or "config" not in values:
            raise StorageError(
                f"{Path(path) / storage.CONFIG} does not name a {self.kind} and its config. Restore the folder."
            )
        config = self.config(values["name"])

        def make() -> nn.Module:
            return _module(self.parts[values["name"]][1](from_json(config, values["config"])))

        module = storage.build_module(make, tensors, config=values["config"], source=path)
        return cast("T", module.to(device=device, dtype=dtype).eval())


def _module(part: object) -> nn.Module:
    assert isinstance(part, nn.Module), "parts with weights are modules"
    return part
