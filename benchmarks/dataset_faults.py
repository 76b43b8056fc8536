"""Recordings of other people: planted faults of 20 kinds are read as LeRobot reads them, or named; none is silently wrong.

Twenty random recordings are written by LeRobot, and each kind of fault is planted in a copy of each. What worldsim then reads
must equal what LeRobot's own reader gives, or, where LeRobot shows it wrongly or not at all, what was recorded; or worldsim
must refuse it by a typed error that says what is wrong. Some kinds are no faults and must be read. Then 40 other random
recordings (cameras, sizes, rates, codecs, pictures and video, one file or several, tasks, thinned rows) are compared with
LeRobot's reader in every row and pixel. Last, rows and frames are taken out of made-up recordings of smooth, jerky and mostly idle motion.

    python -m benchmarks.dataset_faults
"""

import contextlib
import dataclasses
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import av
import numpy as np
import typer

from benchmarks import dataset_plants as plants
from benchmarks import motions, record, recordings
from benchmarks.record import Figure
from benchmarks.recordings import Recording
from worldsim import decode
from worldsim.data.lerobot.read import open_dataset
from worldsim.errors import WorldsimError

Outcome = Literal["read", "named", "silently wrong", "refused though sound", "other error"]
RANDOM = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of fault.

    Attributes:
        plant: Plants it in a copy, and returns the folder to open.
        words: What a refusal must say, one of these; none where it must be read.
        video: How the recording's first camera must be stored; None for either.
        truth: Says what is read wrongly, where LeRobot's reader is no help.
    """

    plant: Callable[[Path, np.random.Generator], Path]
    words: tuple[str, ...] = ()
    video: bool | None = None
    truth: Callable[[Path, Path], str] | None = None


KINDS = {
    "rows thinned, fps adapted": Kind(plant=plants.thin, video=True),
    "rows thinned, fps as before": Kind(plant=plants.thin_only, words=("apart by their timestamps",)),
    "first rows cut off": Kind(plant=plants.cut_first, video=True),
    "video of twice the rate": Kind(plant=plants.double_rate, video=True),
    "video of four fifths of the rate": Kind(
        plant=plants.other_rate, words=("nearest frame", "ends after"), video=True
    ),
    "timestamps between frames": Kind(plant=plants.shift_times, words=("nearest frame", "ends after"), video=True),
    "video turned by the container": Kind(
        plant=plants.turn, words=("pixels, expected",), video=True, truth=plants.upright
    ),
    "pictures of 16 bits": Kind(plant=plants.deepen, words=("depth map",), video=False),
    "camera declared as depth map": Kind(plant=plants.declare_depth, words=("depth map",)),
    "shape with channels first": Kind(plant=plants.channels_first),
    "tasks change between episodes": Kind(plant=plants.shuffle_tasks),
    "frame_index repeated": Kind(plant=plants.repeat_index, words=("frame_index",)),
    "actions of uneven width": Kind(plant=plants.ragged, words=("numbers in row",)),
    "state column missing": Kind(plant=plants.drop_state, words=("no column 'observation.state'",)),
    "NaN in actions or state": Kind(plant=plants.not_a_number, words=("holds nan", "holds inf")),
    "picture size changes midway": Kind(plant=plants.resize_midway, words=("pixels in row",), video=False),
    "links of the hub cache": Kind(plant=plants.hub_cache),
    "action in two features": Kind(plant=plants.split_action, truth=plants.joined),
    "files of a camera missing": Kind(
        plant=plants.lose_camera, words=("no video files",), video=True, truth=plants.left_out
    ),
    "file cut short": Kind(plant=plants.cut_file, words=("cannot be read", "not a readable", "does not hold")),
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Encoders and progress bars of other libraries write to standard error."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def try_kind(kind: Kind, lerobot: Any, original: Path, copy: Path, seed: int) -> tuple[Outcome, str]:
    """Plant a fault, read every episode, and judge what came of it."""
    shutil.copytree(original, copy)
    path = kind.plant(copy, np.random.default_rng(seed))
    try:
        ours = open_dataset(path)
        for index in range(ours.episodes):
            ours.episode(index)
    except WorldsimError as error:
        if not kind.words:
            return "refused though sound", str(error)
        return ("named" if any(word in str(error) for word in kind.words) else "other error"), str(error)
    except Exception as error:  # what users would see as a traceback
        return "other error", f"{type(error).__name__}: {error}"
    try:
        wrong = kind.truth(path, original) if kind.truth else recordings.difference(lerobot, path, ours)
    except Exception as error:  # LeRobot refuses what worldsim reads
        wrong = f"LeRobot: {type(error).__name__}: {error}"
    return ("silently wrong", wrong) if wrong else ("read", "")


def plant_all(lerobot: Any, place: Path, seeds: int) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Outcomes by kind, and what was not right."""
    table: dict[str, dict[str, int]] = {name: {} for name in KINDS}
    wrong: list[str] = []
    for seed in range(seeds):
        for video in (False, True):
            rng = np.random.default_rng([seed, video])
            Recording.draw(rng, video=video).write(lerobot, place / f"{seed}-{video}", rng)
        for number, (name, kind) in enumerate(KINDS.items()):
            video = bool((seed + number) % 2) if kind.video is None else kind.video
            copy = place / "copy"
            outcome, words = try_kind(kind, lerobot, place / f"{seed}-{video}", copy, seed)
            table[name][outcome] = table[name].get(outcome, 0) + 1
            if outcome not in ("read", "named"):
                wrong.append(f"{name}, seed {seed}: {outcome}: {words}")
            for folder in place.glob("copy*"):
                shutil.rmtree(folder)
        for video in (False, True):
            shutil.rmtree(place / f"{seed}-{video}")
    return table, wrong


def compare_random(lerobot: Any, place: Path, count: int) -> tuple[int, list[str]]:
    """How many random recordings are read exactly as LeRobot reads them; every third has its rows thinned or cut."""
    equal, wrong = 0, list[str]()
    for seed in range(count):
        rng = np.random.default_rng([seed, 7])
        root = place / f"random-{seed}"
        recording = Recording.draw(rng)
        recording.write(lerobot, root, rng)
        if seed % 3 == 0:
            (plants.thin if seed % 2 else plants.cut_first)(root, rng)
        try:
            found = recordings.difference(lerobot, root, open_dataset(root))
        except WorldsimError as error:
            found = str(error)
        equal += not found
        wrong += [f"random {seed} ({recording}): {found}"] if found else []
        shutil.rmtree(root)
    return equal, wrong


def decode_ratio(place: Path) -> float:
    """Core time of decoding in the confined process to that of decoding here: the least of several, for 200 frames."""
    file, size = place / "long.mp4", (240, 320)
    rng = np.random.default_rng(0)
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for _ in range(200):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(recordings.picture(rng, size), format="rgb24")))
        container.mux(stream.encode())
    decode.read_video(file)
    confined, here = [], []
    for _ in range(5):
        began = _core_seconds()
        decode.read_video(file)
        between = _core_seconds()
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        confined.append(between - began)
        here.append(_core_seconds() - between)
    return min(confined) / min(here)


def _core_seconds() -> float:
    """Of this process and of the decoder, which is alive."""
    mine = resource.getrusage(resource.RUSAGE_SELF)
    total = mine.ru_utime + mine.ru_stime
    if decode._decoder is not None:
        fields = Path(f"/proc/{decode._decoder._process.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def main(
    seeds: Annotated[int, typer.Option(help="Recordings that every kind is planted in.")] = 20,
    others: Annotated[int, typer.Option(help="Random recordings that are compared.")] = RANDOM,
) -> None:
    """Plant, compare, and write the record."""
    with tempfile.TemporaryDirectory(prefix="worldsim-faults-") as folder:
        place = Path(folder)
        with quiet():
            lerobot = recordings.load_lerobot(place / "hf")
            table, wrong = plant_all(lerobot, place, seeds)
            equal, unlike = compare_random(lerobot, place, others)
            ratio = decode_ratio(place)
    gaps = motions.tally_all(range(seeds))
    for line in (*wrong, *unlike):
        print(line)
    counts = {outcome: sum(row.get(outcome, 0) for row in table.values()) for outcome in Outcome.__args__}  # type: ignore[attr-defined]
    tried = sum(counts.values())
    record.write(
        "dataset_faults",
        figures=[
            Figure(
                name="planted faults read as LeRobot reads them, or named",
                value=100 * (counts["read"] + counts["named"]) / tried,
                unit="%",
            ),
            Figure(name="planted faults that were read wrongly without a word", value=counts["silently wrong"]),
            Figure(name="random recordings equal to LeRobot's reader", value=100 * equal / others, unit="%"),
            *(
                Figure(name=f"gaps found ({name})", value=round(100 * t.found / max(t.planted, 1), 1), unit="%")
                for name, t in gaps.items()
            ),
            Figure(
                name="false alarms in a thousand clean episodes",
                value=round(
                    1000 * sum(t.false_alarms for t in gaps.values()) / sum(t.episodes for t in gaps.values()), 2
                ),
            ),
            Figure(name="core time of decoding in a process of its own, to decoding here", value=round(ratio, 2)),
        ],
        seeds=range(seeds),
        details={
            "outcomes": table,
            "gaps": {name: vars(t) for name, t in gaps.items()},
            "wrong": [*wrong, *unlike],
            "recordings": others,
        },
    )


if __name__ == "__main__":
    record.run(main)
