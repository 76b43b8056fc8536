"""Ranking of policies that look at pixels, in a learned world of a third-party scene, against the simulator.

    python -m benchmarks.scenes fetch_push --episodes 800 --out data/fetch_push        # in an environment with extra `scenes`
    worldsim train world data=data/fetch_push out=worlds/fetch_push family=structured
    python -m benchmarks.scene_checkpoints fetch_push --out runs/any_triage/fetch_push
    python -m benchmarks.any_triage fetch_push --data data/fetch_push --world worlds/fetch_push

Checkpoints see frames and proprioception and nothing else: the simulator's in truth, the world's own in the world, which begins
from the first frame of the same episodes. Solved means, as the scene has it and as it was fixed before anything was ranked:
FetchPush's cube lies 10 cm along y, PushT's block 60 along x of where it began, after the last of 36 actions.
Outcomes in the world are read twice: by its own heads, and off the place of the thing in its latents (`benchmarks.scene_places`).
Episodes whose thing is hidden at the beginning are counted apart: nothing says where it is.
The truth is the world of one run, the learned worlds are added to it: another world costs its own rollouts only.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks import scene_places
from benchmarks.record import Figure, run, write
from benchmarks.scene_places import FAR, read_places
from benchmarks.scenes import SCENES
from worldsim import storage
from worldsim.arrays import Bools, Float64s
from worldsim.data.lerobot.join import open_datasets
from worldsim.data.starts import Starts
from worldsim.envs.simulator import SimulatorWorld
from worldsim.evaluate.loaders import world_ref
from worldsim.evaluate.policies import load_ref, policy_refs
from worldsim.policies.discovery import discover
from worldsim.progress import progress_bars
from worldsim.protocols import Startable
from worldsim.rollout import Actor, play
from worldsim.rollout.wrappers import BorrowedStarts, RoundTripWorld, ShortWorld
from worldsim.stats.agreement import Agreement, measure_agreement
from worldsim.tokenizers.base import ProprioTokenizer
from worldsim.tokenizers.cameras import camera_tokenizer
from worldsim.train.recipes.settings import split_episodes
from worldsim.triage import run as triage
from worldsim.triage.request import Ref, TriageRequest
from worldsim.video import encode_png
from worldsim.worlds import load_world
from worldsim.worlds.latent import LatentWorld

HORIZON, TOP, WIDTH = 36, 5, 16
STARTS, HIDDEN = 300, 0.1
FIRST_SEED = 10**6
"""Of the episodes: none that a world or policy learned from."""
_SHOWN = 6
"""Episodes of the checkpoint that differs most."""
READERS = ("places", "heads")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truth:
    """Makes a scene's simulator, which begins from a table of starts; picklable.

    Attributes:
        scene: Its name.
        starts: File of the table.
        size_px: Side of frames.
    """

    scene: str
    starts: Path
    size_px: int

    def __call__(self) -> SimulatorWorld:
        """The simulator."""
        return simulator(self.scene, self.size_px, Starts.load(self.starts))


def simulator(scene: str, size_px: int, starts: Starts | None = None) -> SimulatorWorld:
    """A scene as a world; episodes are replayed from their seeds."""
    return SimulatorWorld(functools.partial(SCENES[scene], size_px), horizon=HORIZON, starts=starts, seeded=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned:
    """Makes a learned world that begins where the simulator does; picklable.

    Attributes:
        scene: Its name.
        world: Folder.
        data: What it was trained on.
        reader: How outcomes are read, one of `READERS`.
    """

    scene: str
    world: Path
    data: Path
    reader: str

    def __call__(self, truth: Startable) -> Startable:
        """The world."""
        return ShortWorld(BorrowedStarts(self.load(), lender=truth), horizon=HORIZON)

    def load(self) -> LatentWorld:
        """The world without the simulator's starts."""
        loaded = load_world(self.world)
        assert isinstance(loaded, LatentWorld)
        if self.reader == "heads":
            return loaded
        dataset = open_datasets(str(self.data))
        learned = split_episodes(dataset)[0]
        return read_places(loaded, self.scene, dataset, learned)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Through:
    """Makes the simulator as policies see it through a learned world's pictures; picklable.

    Attributes:
        world: Folder.
    """

    world: Path

    def __call__(self, truth: Startable) -> Startable:
        """The simulator, whose frames are encoded and decoded."""
        loaded = load_world(self.world)
        assert isinstance(loaded, LatentWorld)
        reads = isinstance(camera_tokenizer(loaded.tokenizer, loaded.spec.camera().key), ProprioTokenizer)
        return RoundTripWorld(truth, roundtrip=loaded.roundtrip, reads_proprio=reads)


def learned_worlds(
    scene: str, data: Path, worlds: Sequence[Path], readers: Sequence[str], *, episodes: int
) -> list[triage.Arena]:
    """Every world, once for each way of reading its outcomes."""
    return [
        triage.Arena(
            kind=f"{reader}_{number}",
            world=Ref(name=f"{folder.name} by {reader}", digest=_digest(folder, reader), source=str(folder)),
            load=Learned(scene=scene, world=folder, data=data, reader=reader),
            episodes=episodes,
        )
        for number, folder in enumerate(worlds)
        for reader in readers
    ]


def seen_worlds(scene: str, worlds: Sequence[Path], *, episodes: int) -> list[triage.Arena]:
    """The simulator seen through the pictures of every world; none where no episodes are asked for."""
    return [
        triage.Arena(
            kind=f"drawn_{number}",
            world=Ref(name=f"{scene} through {folder.name}", digest=_digest(folder, "drawn"), source=str(folder)),
            load=Through(world=folder),
            episodes=episodes,
        )
        for number, folder in enumerate(worlds if episodes else [])
    ]


def make_starts(scene: str, size_px: int, count: int, path: Path) -> Bools:
    """Write a table of first observations, unless it is there; in which of them the thing is in view, [count].

    One in ten is of an episode whose thing is hidden, where the scene has such, so that most can be compared.
    """
    kept = path.with_suffix(".json")
    if not kept.exists():
        env, hidden, shown = SCENES[scene](size_px), list[int](), list[int]()
        for seed in range(FIRST_SEED, FIRST_SEED + 2 * count):
            env.reset(seed=seed)
            (shown if env.thing_in_view() else hidden).append(seed)
            if len(shown) == count:
                break
        hidden = hidden[: int(HIDDEN * count)]
        seeds = shown[: count - len(hidden)] + hidden
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Starts(simulator(scene, size_px).starts(torch.tensor(seeds))).to_bytes())
        storage.write_json(kept, [seed not in hidden for seed in seeds])
    return np.array(storage.read_json(kept), bool)


def compared(truth: Float64s, world: Float64s, quantity: Any) -> Agreement:
    """Agreement of outcomes [K, N] of the same policies and episodes."""
    return measure_agreement(truth, world=world, k=min(TOP, len(truth)), matched=True, quantity=quantity)


def figures_of(name: str, found: triage.Results, kind: str, view: Bools) -> list[Figure]:
    """How outcomes in a world agree with those in truth: starts in view, the others, and the sides' means."""
    figures = []
    for where, mask in (("", view), ("hidden, ", ~view)):
        if not mask.any():
            continue
        for quantity in ("success", "progress"):
            truth, world = (getattr(e, quantity)[:, mask] for e in (found.triage, found.arenas[kind]))
            agreement = compared(truth, world, quantity)
            for estimate in ("pearson", "spearman", "bias", "mean_absolute_error", "mmrv", "noise_ceiling"):
                figures.append(Figure(name=f"{name}: {where}{quantity} {estimate}", value=agreement[estimate].value))
            if quantity == "success":
                bias = agreement["bias"].value
                figures.append(Figure(name=f"{name}: {where}absolute bias", value=None if bias is None else abs(bias)))
    return figures


def main(
    scene: Annotated[str, typer.Argument(help=f"One of {', '.join(FAR)}.")],
    data: Annotated[Path, typer.Option(help="What the worlds were trained on.")],
    world: Annotated[list[Path] | None, typer.Option(help="World folders, one for each seed; repeatable.")] = None,
    episodes: Annotated[int, typer.Option(help="Paired episodes of every checkpoint.")] = 226,
    size: Annotated[int, typer.Option(help="Side of frames, px.")] = 64,
    most: Annotated[int, typer.Option(help="Checkpoints, evenly spread; 0 for all.")] = 0,
    drawn: Annotated[int, typer.Option(help="Of them played in the simulator, seen through the world's pictures.")] = 0,
    reader: Annotated[
        list[str] | None, typer.Option(help="How outcomes are read: places, heads; by default both.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of checkpoints and of the run; continued.")] = Path(
        "runs/any_triage"
    ),
    record: Annotated[bool, typer.Option(help="Write benchmarks/results/any_triage_SCENE.json.")] = True,
) -> None:
    """Play all checkpoints in the simulator and in the worlds, and compare."""
    torch.set_num_threads(1)
    readers = reader or READERS
    table = out / scene / "starts.npz"
    view = make_starts(scene, size, STARTS, table)
    folders = discover([str(out / scene / "policies")])
    refs = policy_refs(folders[:: -(-len(folders) // most)] if most else folders)
    there = Ref(name=scene, digest=storage.digest_file(table), source=scene)
    request = TriageRequest(
        policies=refs,
        world=there,
        k=min(TOP, len(refs)),
        budget=episodes * len(refs),
        allocator="uniform",
        audit=0.0,
        width=WIDTH,
        workers=workers,
    )
    arenas = learned_worlds(scene, data, world or [], readers, episodes=episodes)
    arenas += seen_worlds(scene, world or [], episodes=drawn)
    with progress_bars() as show:
        found = triage.run(
            request,
            load_world=Truth(scene=scene, starts=table, size_px=size),
            load_policy=load_ref,
            out=out / scene / f"run_{len(refs)}",
            arenas=arenas,
            progress=show,
        )
    shown = view[found.plan.triage.start]
    rows = summary(found, shown, [a.kind for a in arenas])
    for row in rows:
        print(row)
    figures = [*overall(scene, found, shown, worlds=len(world or []), readers=readers), *seen_through(scene, found)]
    print(*(f"{f.name}: {f.value}" for f in figures), sep="\n")
    for arena in arenas:
        if isinstance(arena.load, Learned):
            truth = Truth(scene=scene, starts=table, size_px=size)
            path = out / scene / f"{arena.kind}.png"
            show_worst(scene, found, arena.kind, view=shown, truth=truth, world=arena.load, path=path)
    if record and world:
        details = {"checkpoints": rows, "worlds": [str(a.world.digest) for a in arenas], "horizon": HORIZON}
        write(f"any_triage_{scene}", module="any_triage", figures=figures, seeds=[request.seed], details=details)


def overall(scene: str, found: triage.Results, view: Bools, *, worlds: int, readers: Sequence[str]) -> list[Figure]:
    """What was ranked on how much, and for each reader the median of the worlds."""
    rates = found.triage.success[:, view].mean(1)
    figures = [
        Figure(name=f"{scene}: checkpoints", value=len(rates)),
        Figure(name=f"{scene}: checkpoints of .2 to .8", value=int(((rates >= 0.2) & (rates <= 0.8)).sum())),
        Figure(name=f"{scene}: paired episodes in view", value=int(view.sum())),
        Figure(name=f"{scene}: paired episodes hidden", value=int((~view).sum())),
    ]
    for reader in readers:
        each = [figures_of(f"{scene}, {reader}", found, f"{reader}_{number}", view) for number in range(worlds)]
        for same in zip(*each, strict=True):
            known = [f.value for f in same if f.value is not None]
            figures.append(Figure(name=same[0].name, value=float(np.median(known)) if known else None))
    return figures


def seen_through(scene: str, found: triage.Results) -> list[Figure]:
    """What policies lose in the simulator where they see the world's pictures of it: mean success over checkpoints, and the worst."""
    figures = []
    for kind, seen in found.arenas.items():
        if kind.startswith("drawn"):
            gap = found.triage.success[:, : seen.episodes].mean(1) - seen.success.mean(1)
            figures.append(Figure(name=f"{scene}: {kind}, success lost to pictures, mean", value=float(gap.mean())))
            figures.append(Figure(name=f"{scene}: {kind}, the most lost", value=float(gap.max())))
    return figures


def summary(found: triage.Results, view: Bools, kinds: list[str]) -> list[dict[str, Any]]:
    """Mean outcomes of every checkpoint on starts in view, in truth and in the worlds."""
    sides = {"truth": found.triage, **{kind: found.arenas[kind] for kind in kinds}}
    return [
        {
            "checkpoint": ref.name,
            **{
                f"{side} {quantity}": round(
                    float(getattr(evidence, quantity)[i, : evidence.episodes][view[: evidence.episodes]].mean()), 3
                )
                for side, evidence in sides.items()
                for quantity in ("success", "progress")
            },
        }
        for i, ref in enumerate(found.plan.request.policies)
    ]


def sheet(policy: Ref, truth: SimulatorWorld, world: Startable, starts: Tensor, keys: Tensor) -> bytes:
    """Episodes of a policy in truth and below them in the world, a column for every sixth action; PNG."""
    films = []
    for place in (truth, world):
        actor = Actor(name=policy.name, policy=load_ref(policy), rows=slice(0, len(starts)))
        (frames, *_) = play(place, [actor], truth.starts(starts), keys).played().frames.values()
        films.append(frames[:, ::6])
    rows = torch.stack(films, 1).flatten(0, 1)  # truth and world in turn
    picture = torch.cat([torch.cat(list(row), 1) for row in rows])
    return encode_png(picture.numpy().repeat(2, 0).repeat(2, 1))


def show_worst(
    scene: str, found: triage.Results, kind: str, *, view: Bools, truth: Truth, world: Learned, path: Path
) -> None:
    """Draw episodes of the checkpoint whose success differs most, those first that end differently."""
    real, said = found.triage.success, found.arenas[kind].success
    worst = int(np.abs((real - said)[:, view].mean(1)).argmax())
    block, sim = found.plan.triage, truth()
    chosen = np.argsort(-np.abs(real[worst] - said[worst]) * view, kind="stable")[:_SHOWN]
    starts, keys = (torch.from_numpy(each[chosen]) for each in (block.start, block.key))
    path.write_bytes(sheet(found.plan.request.policies[worst], sim, world(sim), starts, keys))
    print(f"{scene}: {found.plan.request.policies[worst].name} differs most by {kind}: {path}")


def _digest(folder: Path, reader: str) -> str:
    """Of a world and of how it is read, the code included."""
    code = storage.digest_file(Path(scene_places.__file__))
    return storage.digest_bytes(f"{world_ref(str(folder)).digest} {reader} {code}".encode())


if __name__ == "__main__":
    run(main)
