"""Calibrating a critic by names: videos of policies that it did not learn from, found, judged and fitted."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldsim import storage
from worldsim.compute import find_device
from worldsim.errors import InvalidInputError
from worldsim.progress import Progress, silent
from worldsim.reason.calibration.fit import calibrate, judge_sources, summary
from worldsim.reason.critic import ReasonCritic, critic_folder
from worldsim.reason.items.sources import JoinedSource, Source, SourceSubset, skip_unreadable, split
from worldsim.reason.train.items import open_videos
from worldsim.storage import digest_bytes


def calibrate_critic(
    model: str,
    out: Path,
    *,
    data: Sequence[str] = (),
    labels: str = "",
    videos: int = 0,
    settings: Mapping[str, Any] | None = None,
    bias: bool = True,
    seed: int = 0,
    batch: int = 16,
    device: str = "cpu",
    command: str = "",
    progress: Progress = silent,
) -> tuple[ReasonCritic, int]:
    """Calibrate a critic on labelled videos and write its folder.

    Args:
        model: Folder of a critic or of any image-text-to-text model; ``"reason"`` is the shipped critic.
        out: Folder of the calibrated critic; replaced atomically.
        data: Datasets of policies that the model did not learn from; empty takes what its training held out.
        labels: File of labels of the one dataset in `data`; empty for the outcomes that are recorded.
        videos: Videos of each dataset at most; 0 for all.
        settings: Fields of the critic's settings to change; None keeps one.
        bias: Fit a bias beside the temperature.
        seed: Splits the policies into those that fit and those that test.
        batch: Episodes judged at once.
        device: Where the model computes.
        command: How the calibration was asked for, kept in the folder.
        progress: Called as episodes are judged.

    Returns:
        The critic, and how many videos were left out since they have no outcome.

    Raises:
        WorldsimError: The model or the data cannot be read, or tell too little.
    """
    critic = ReasonCritic.from_pretrained(model, device=find_device(device), batch=batch)
    changed = {k: v for k, v in (settings or {}).items() if v is not None}
    critic = critic.with_settings(dataclasses.replace(critic.settings, **changed))
    paths, sources = open_data(data, labels) if data or labels else open_held_out(model)
    judged = judge_sources(critic, sources, most=videos, progress=progress)
    digests = {n: digest_data(p) for n, p in zip(sources, paths, strict=True)}
    made = calibrate(critic, judged, bias=bias, seed=seed, data=digests, command=command)
    _save(made, out, origin=model)
    return made, judged.unlabelled


def open_data(data: Sequence[str], labels: str = "") -> tuple[list[str], dict[str, Source]]:
    """Datasets and folders of videos, and their paths; each by its folder's name, one with labels of people if there are any.

    Raises:
        WorldsimError: One cannot be read, or is given twice.
        InvalidInputError: There are labels and not exactly one dataset.
    """
    if labels and len(data) != 1:
        raise InvalidInputError(f"Labels are of one dataset; name it with --data. Got {len(data)}.")
    return list(data), {
        name: skip_unreadable(open_videos([path], labels=labels)) for name, path in zip(_names(data), data, strict=True)
    }


def open_held_out(model: str) -> tuple[list[str], dict[str, Source]]:
    """The videos that a model's training held out, as its manifest tells; otherwise as `open_data`.

    Raises:
        InvalidInputError: The folder does not say what its model was trained on.
    """
    path = critic_folder(model) / storage.MANIFEST
    manifest = storage.read_json(path) if path.is_file() else {}
    config = manifest.get("config") if isinstance(manifest, dict) else None
    data, items = (config.get("data"), config.get("items")) if isinstance(config, dict) else (None, None)
    if not data or not isinstance(items, dict) or not {"by", "share"} <= items.keys():
        raise InvalidInputError(
            f"{path.parent} does not say what its model was trained on, so what it has not seen is unknown. Name data of "
            "other policies: --data FOLDER."
        )
    paths = [p.strip() for p in data.split(",")] if isinstance(data, str) else list(data)
    sources = [open_videos([p]) for p in paths]
    held = split(JoinedSource(sources) if len(sources) > 1 else sources[0], by=items["by"], share=items["share"])[
        1
    ].indices
    found: dict[str, Source] = {}
    begin = 0
    for name, source in zip(_names(paths), sources, strict=True):
        rows = [i - begin for i in held if begin <= i < begin + len(source)]
        found[name] = skip_unreadable(SourceSubset(source, rows))
        begin += len(source)
        if not rows:
            raise InvalidInputError(
                f"Training held out no video of {name}. Name data of other policies: --data FOLDER."
            )
    return paths, found


def _names(paths: Sequence[str]) -> list[str]:
    """Short names of folders, each its own."""
    found: list[str] = []
    for path in paths:
        name = Path(path).name if Path(path).name not in found else path
        if name in found:
            raise InvalidInputError(f"{path} was given twice. Name each dataset once.")
        found.append(name)
    return found


def digest_data(path: str) -> str:
    """Digest of a folder's file names and sizes: tells datasets apart without reading all of them."""
    files = sorted(p for p in Path(path).rglob("*") if p.is_file())
    return digest_bytes("\n".join(f"{p.relative_to(path).as_posix()} {p.stat().st_size}" for p in files).encode())


def _save(critic: ReasonCritic, out: Path, *, origin: str) -> None:
    """Write the folder; what the model's manifest knew is kept."""
    path = critic_folder(origin) / storage.MANIFEST
    known = storage.read_json(path) if path.is_file() else {}
    kept = {k: v for k, v in known.items() if k not in ("sha256", "kind")}
    critic.save_pretrained(out, manifest={**kept, "judge": summary(critic)})
