import dataclasses

import pytest
import torch
from torch import nn

from worldsim.errors import InvalidInputError, StorageError, UnknownNameError
from worldsim.registry import Registry
from worldsim.storage import save_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    width: int
    sizes: tuple[int, ...] = (1, 2)


class Part(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.Linear(config.width, 2)


PARTS: Registry[Part] = Registry("gadget", {"plain": (Config, Part)})


def test_a_part_is_saved_and_read_back(tmp_path) -> None:
    part = Part(Config(width=3, sizes=(4, 5, 6)))
    PARTS.save(part, tmp_path / "part", manifest={"command": "made here"})
    again = PARTS.load(str(tmp_path / "part"))
    assert again.config == part.config and not again.training
    assert torch.equal(again.layer.weight, part.layer.weight)


def test_names_and_fields_are_checked(tmp_path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'plain'"):
        PARTS.build("plian", {"width": 3})
    with pytest.raises(UnknownNameError, match="Did you mean 'width'"):
        PARTS.build("plain", {"widht": 3})
    with pytest.raises(InvalidInputError, match="could not be built"):
        PARTS.build("plain", {})
    with pytest.raises(UnknownNameError, match="gadget 'Linear'"):
        PARTS.name_of(nn.Linear(1, 1))
    assert list(PARTS) == ["plain"] and PARTS.config("plain") is Config


def test_folders_of_other_things_are_refused(tmp_path) -> None:
    other: Registry[Part] = Registry("widget", PARTS.parts)
    other.save(Part(Config(width=3)), tmp_path / "widget")
    with pytest.raises(StorageError, match="'widget' folder, expected 'gadget'"):
        PARTS.load(tmp_path / "widget")
    save_folder(tmp_path / "bare", kind="gadget", config={"width": 3}, tensors={})
    with pytest.raises(StorageError, match="does not name a gadget"):
        PARTS.load(tmp_path / "bare")
    config = {"name": "plain", "config": {"width": 4}}
    save_folder(tmp_path / "odd", kind="gadget", config=config, tensors=Part(Config(width=3)).state_dict())
    with pytest.raises(StorageError, match="another shape"):
        PARTS.load(tmp_path / "odd")
