import dataclasses
import io
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

from worldsim.core import WorldState
from worldsim.errors import InvalidInputError
from worldsim.planners import Plan, make_planner
from worldsim.planners.plot import Backdrop, Futures, Ride, Witness, imagine, plan_picture
from worldsim.planners.world_objective import world_objective
from worldsim.worlds import load_world
from worldsim.worlds.latent import LatentWorld

Scene = tuple[LatentWorld, WorldState, Plan, Witness]
RIDE = Ride(real=torch.linspace(0.2, 0.9, 50), promised=[(0, torch.linspace(0.2, 0.5, 12)), (24, torch.ones(1))])


@pytest.fixture(scope="module")
def scene() -> Scene:
    world = load_world("push_state")
    state = world.reset(world.starts(torch.arange(1)), torch.arange(1))
    witness = Witness(world_objective(world, state, repeat=2))
    planner = make_planner("weighted", horizon=6, samples=32, iterations=3)
    return world, state, planner.plan(witness, bounds=world.spec.action, batch=1), witness


def drawn(scene: Scene, *, place: bool = True, backdrop: Backdrop | None = None, kind: str = "png") -> bytes:
    world, state, plan, witness = scene
    futures = imagine(world, state, *witness.candidates(), repeat=2, in_plane=True)
    chosen = imagine(world, state, plan.actions, plan.cost, repeat=2, in_plane=True)
    if not place:
        futures, chosen = (Futures(cost=f.cost, progress=f.progress) for f in (futures, chosen))
    return plan_picture(plan, futures, chosen, RIDE, backdrop=backdrop, rate_hz=10, kind=kind)  # type: ignore[arg-type]


def test_a_witness_changes_nothing_and_sees_everything(scene: Scene) -> None:
    world, state, plan, witness = scene
    planner = make_planner("weighted", horizon=6, samples=32, iterations=3)
    alone = planner.plan(world_objective(world, state, repeat=2), bounds=world.spec.action, batch=1)
    assert torch.equal(alone.actions, plan.actions)
    actions, cost = witness.candidates()
    assert len(actions) == len(cost) == plan.stats.evaluations
    assert float(cost.min()) == pytest.approx(float(plan.cost[0]))


def test_futures_begin_where_the_body_stands(scene: Scene) -> None:
    world, state, _, witness = scene
    actions, cost = witness.candidates()
    futures = imagine(world, state, actions, cost, repeat=2, in_plane=True)
    assert futures.place is not None
    assert futures.place.shape == (len(actions), 13, 2)
    assert torch.equal(futures.place[:, 0], world.present(state).proprio.expand(len(actions), 2))
    again = 1 - futures.progress.mean(1)
    assert torch.allclose(again, cost, atol=1e-5)  # what is drawn is what was judged
    with pytest.raises(InvalidInputError, match="2 episodes"):
        imagine(world, state.repeat(2), actions, cost, repeat=2)


def test_the_picture_is_readable_and_the_same_each_time(scene: Scene) -> None:
    frame = torch.full((64, 64, 3), 255, dtype=torch.uint8)
    frame[:32, :32] = torch.tensor([200, 30, 30])
    backdrop = Backdrop(frame=frame, extent=(-0.32, 0.32, -0.32, 0.32))
    one = drawn(scene, backdrop=backdrop)
    assert one == drawn(scene, backdrop=backdrop)
    with Image.open(io.BytesIO(one)) as image:
        assert image.width > 1500
        assert image.height > 400
        colours = image.convert("RGB").getcolors(1 << 24) or []
    assert (255, 43, 214) in {c for n, c in colours if n > 200}  # the chosen one, bold
    assert (200, 30, 30) in {c for n, c in colours if n > 200}  # over the frame
    text = drawn(scene, kind="svg").decode()
    assert text == drawn(scene, kind="svg").decode()
    assert re.search(r"<svg", text)
    assert drawn(scene) != one


def test_without_places_progress_is_drawn_over_time(scene: Scene) -> None:
    flat = drawn(scene, place=False)
    assert flat.startswith(b"\x89PNG")
    assert flat != drawn(scene)


def test_costs_that_are_not_finite_do_not_spoil_the_picture(scene: Scene) -> None:
    world, state, plan, witness = scene
    actions, cost = witness.candidates()
    cost = torch.where(torch.arange(len(cost)) % 2 == 0, torch.nan, cost)
    futures = imagine(world, state, actions, cost, repeat=2, in_plane=True)
    chosen = imagine(world, state, plan.actions, plan.cost, repeat=2, in_plane=True)
    assert plan_picture(plan, futures, chosen, RIDE).startswith(b"\x89PNG")
    nothing = Futures(cost=torch.full_like(cost, torch.nan), progress=futures.progress, place=futures.place)
    assert plan_picture(plan, nothing, chosen, RIDE).startswith(b"\x89PNG")


def test_the_module_needs_no_matplotlib_until_something_is_drawn() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; import worldsim.planners.plot"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_places_are_drawn_only_where_the_caller_says_that_there_are_any(scene: Scene) -> None:
    world, state, plan, _ = scene
    assert imagine(world, state, plan.actions, plan.cost, repeat=2).place is None
    other = type("Arm", (), {"spec": dataclasses.replace(world.spec, proprio_dim=7), "rollout": world.rollout})()
    with pytest.raises(InvalidInputError, match="has 7"):
        imagine(other, state, plan.actions, plan.cost, repeat=2, in_plane=True)  # type: ignore[arg-type]
