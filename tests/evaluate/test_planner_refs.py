import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.cli.test_cli import worldsim
from tests.reason.critics import critic
from worldsim.errors import InvalidInputError, StorageError, UnknownNameError
from worldsim.evaluate.planner_refs import (
    PlannerSettings,
    load_planner,
    parse,
    planner_refs,
    planner_remarks,
    shared_world,
)
from worldsim.evaluate.policies import SHIPPED_FOLDER, load_ref, policy_refs
from worldsim.planners import EnsembleCheck, Limits, Objective
from worldsim.triage.run import read_ranking
from worldsim.worlds import load_world, world_folder

BANK = SHIPPED_FOLDER


def test_a_reference_is_complete_and_makes_the_policy_anywhere() -> None:
    ref = policy_refs(["planner:hybrid?samples=16&iterations=2&receding=2"], world="push_state")[0]
    assert ref.name == "planner:hybrid?samples=16&iterations=2&receding=2"
    settings, world = parse(ref.source)
    assert (settings.planner, settings.samples, settings.receding, settings.horizon) == ("hybrid", 16, 2, 16)
    assert world == str(world_folder("push_state"))
    policy = load_ref(ref)
    first = load_world("push_state").starts(torch.arange(2))
    action, _ = policy.act({k: first[k] for k in policy.needs}, policy.initial(2), torch.arange(2))
    assert action.shape == (2, 2)


def test_the_digest_follows_options_and_the_worlds_weights(tmp_path: Path) -> None:
    def digest(ref: str, world: str) -> str:
        return planner_refs([ref], world=world)[0].digest

    plain = digest("planner:weighted", "push_state")
    assert digest("planner:weighted?samples=64", "push_state") == plain  # a default spelt out
    shutil.copytree(world_folder("push_state"), tmp_path / "copy")
    assert digest("planner:weighted", str(tmp_path / "copy")) == plain  # the same world elsewhere
    others = [
        f"planner:weighted?{o}"
        for o in ("samples=65", "horizon=11", "repeat=3", "risk=0.5", "caution=1", "cost=success")
    ]
    others += ["planner:icem", "planner:weighted?world=push"]
    digests = [digest(o, "push_state") for o in others]
    weights = tmp_path / "copy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    digests.append(digest("planner:weighted", str(tmp_path / "copy")))
    assert len({plain, *digests}) == len(digests) + 1


def test_plans_look_no_farther_than_the_world_is_valid(tmp_path: Path) -> None:
    folder = tmp_path / "short"
    shutil.copytree(world_folder("push_state"), folder)
    manifest = json.loads((folder / "manifest.json").read_text())

    def state(horizon: int) -> None:
        manifest["validity"]["horizon"] = horizon
        (folder / "manifest.json").write_text(json.dumps(manifest))

    before = planner_refs(["planner:weighted"], world=str(folder))[0]
    assert planner_remarks([before]) == []  # 32 actions of 50
    state(10)
    ref = planner_refs(["planner:weighted?receding=6"], world=str(folder))[0]
    assert ref.digest == planner_refs(["planner:weighted?horizon=5&receding=5"], world=str(folder))[0].digest
    assert (
        "is valid up to 10 actions ahead" in planner_remarks([ref])[0]
        and "10 actions ahead instead of 32" in planner_remarks([ref])[0]
    )
    policy = PlannerSettings(receding=6).controller(load_world(folder))
    assert (policy.planner.horizon, policy.receding, policy.repeat) == (5, 5, 2)
    state(0)
    assert "fails on its own held-out episodes" in planner_remarks([ref])[0]


def test_a_critic_adds_what_it_finds_missing_to_success(tmp_path: Path) -> None:
    made = critic(task="Push.")
    made.save_pretrained(tmp_path / "critic")
    plain = planner_refs(["planner:cem?samples=4&horizon=2"], world="push")[0]
    ref = planner_refs([f"planner:cem?samples=4&horizon=2&judge={tmp_path / 'critic'}"], world="push")[0]
    assert ref.digest != plain.digest and "judge" not in plain.source
    settings, _ = parse(ref.source)
    assert settings.judge == str(tmp_path / "critic") and settings.identity["judge"] == made.version
    assert "judge" not in PlannerSettings().identity
    world = load_world("push")
    first, actions = world.starts(torch.arange(2)), torch.zeros(2, 2, 3, 2)
    actions[:, 1] = 0.05
    state = world.reset(first, torch.arange(2))
    costs = []
    for own in (settings, dataclasses.replace(settings, judge="")):
        asked: list[Objective] = []
        controller = own.controller(world, watch=lambda o, asked=asked: asked.append(o) or o)
        controller.act({k: first[k] for k in controller.needs}, controller.initial(2), torch.arange(2))
        costs.append(asked[0](actions))
    rollout = world.rollout(state.repeat(2), actions.repeat_interleave(2, dim=2).flatten(0, 1))[1]
    seen = made.with_world(world)(rollout)
    torch.testing.assert_close((costs[0] - costs[1]).flatten(), 1 - seen.success, atol=1e-5, rtol=0)
    with pytest.raises(InvalidInputError, match="draws no pictures"):
        settings.controller(load_world("push_state"))


def test_the_settings_choose_what_is_minimised() -> None:
    world = load_world("push")
    first, keys = world.starts(torch.arange(2)), torch.arange(2)
    asked: list[torch.Tensor] = []

    def watch(objective: Objective) -> Objective:
        def seen(actions: torch.Tensor) -> torch.Tensor:
            state = world.reset(first, keys).repeat(actions.shape[1])
            held = actions.flatten(0, 1).repeat_interleave(2, dim=1)
            path = world.rollout(state, held)[1]
            asked.append((1 - path.success + 0.5 * path.uncertainty).mean(1) - objective(actions).flatten())
            return objective(actions)

        return seen

    settings = PlannerSettings(cost="success", risk=0.5, samples=8, iterations=1, horizon=3)
    settings.controller(world, watch=watch).act(first, settings.controller(world).initial(2), keys)
    assert asked
    assert max(float(a.abs().max()) for a in asked) < 1e-5


def test_caution_looks_twice_at_what_the_members_make_of_the_cost() -> None:
    world = load_world("push_state")
    first, keys = world.starts(torch.arange(2)), torch.arange(2)
    seen = {k: first[k] for k in ("observation.state", "observation.environment_state")}
    plans = []
    for caution in (0.0, 3.0):
        policy = PlannerSettings(caution=caution, samples=16, iterations=1, horizon=4).controller(world)
        _, carry = policy.act(seen, policy.initial(2), keys)
        plans.append(carry.plan)
    hasty, careful = (p.actions for p in plans)
    judge = EnsembleCheck.of(world).objective(world.reset(seen, keys), weight=3.0, repeat=2)
    both = judge(torch.stack([hasty, careful], dim=1))
    assert bool((both[:, 1] <= both[:, 0] + 1e-6).all())
    assert plans[1].stats.evaluations == plans[0].stats.evaluations + plans[0].state.elites.shape[1] + 2
    with pytest.raises(InvalidInputError, match="rerank"):
        PlannerSettings(caution=1.0).controller(world, limits=Limits(deadline_s=1.0))


@pytest.mark.parametrize(
    ("ref", "error", "words"),
    [
        ("planner:weigthed", UnknownNameError, "'weighted'"),
        ("planner:weighted?horizont=3", UnknownNameError, "'horizon'"),
        ("planner:weighted?horizon=far", InvalidInputError, "horizon is of type int"),
        ("planner:weighted?horizon", InvalidInputError, "option=value"),
        ("planner:weighted?world=pusch", UnknownNameError, "'push'"),
        ("planner:weighted?cost=goal", InvalidInputError, "progress"),
        ("planner:weighted?receding=20", InvalidInputError, "between 1 and the horizon"),
        ("planner:weighted?risk=-1", InvalidInputError, "risk is at least 0"),
        ("planner:weighted?caution=nan", InvalidInputError, "caution is at least 0"),
    ],
)
def test_mistakes_in_a_reference_are_named(ref: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        policy_refs([ref], world="push")
    with pytest.raises(InvalidInputError, match=r"\?world="):
        policy_refs(["planner:weighted"])


def test_a_planner_is_ranked_beside_checkpoints(tmp_path: Path) -> None:
    good, poor = str(BANK / "n100_s0" / "000600"), str(BANK / "all_s2" / "000060")
    planner = "planner:weighted?samples=12&iterations=1&horizon=8&repeat=6"
    few = ["--k", "1", "--budget", "6", "--workers", "2", "--truth", "1", "--videos", "0"]
    done = worldsim("triage", planner, good, poor, *few, "--out", "x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = {line.name: line for line in read_ranking(tmp_path / "x").policies}
    assert set(lines) == {planner, "000600", "000060"}
    assert not [line for line in lines.values() if line.failed]
    assert (lines[planner].triage.progress or 0) > (lines["000060"].triage.progress or 0)
    other = worldsim("triage", f"{planner}&risk=1", good, poor, *few, "--out", "x", cwd=tmp_path)
    assert other.returncode == 2
    assert "policies" in other.stderr


def test_a_world_without_pictures_is_ranked_in_without_films(tmp_path: Path) -> None:
    quick = "planner:random?samples=8&iterations=1&horizon=2"
    few = ["--world", "push_state", "--k", "1", "--budget", "4", "--workers", "1", "--truth", "0", "--videos", "1"]
    done = worldsim("triage", quick, f"{quick}&repeat=5", *few, "--out", "x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cannot draw frames" in (tmp_path / "x" / "report.html").read_text()


def test_the_triage_and_planners_share_one_world_per_process(tmp_path: Path) -> None:
    refs = planner_refs(["planner:cem?samples=8&iterations=1", "planner:weighted?samples=8"], world="push_state")
    loaded = shared_world("push_state")
    assert all(load_planner(ref.source).world is loaded for ref in refs)
    copy = tmp_path / "world"
    shutil.copytree(world_folder("push_state"), copy)
    first = shared_world(str(copy))
    assert first is shared_world(str(copy))
    weights = next(copy.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")  # changed since: not what was loaded before
    with pytest.raises(StorageError):
        shared_world(str(copy))
