"""Names for interchangeable parts: a small typed table from a name to a config class and the class it builds.

Takes the place of importing by path from a config file, which would run whatever the file names.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from worldsim.errors import unknown_name
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
