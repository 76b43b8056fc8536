"""The rollout loop: chunks of actions, tasks as text, what is kept, and failures with and without a fence."""

import dataclasses

import pytest
import torch

from benchmarks.toy import ToyPolicy, ToyWorld
from worldsim.core import IMAGE, STATE, TASK, row_texts
from worldsim.errors import InvalidInputError
from worldsim.rollout import Actor, play, policy_keys, rollout
from worldsim.rollout.fence import Fence, TorchSettings

KEYS = torch.arange(6) + 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkWorld(ToyWorld):
    """A toy world that takes four actions a step and shows the last of four frames."""

    @property
    def spec(self):
        return dataclasses.replace(super().spec, actions_per_step=4)

    def step(self, state, action):
        assert action.shape[1:] == (4, 2)
        for i in range(4):
            state, step = super().step(state, action[:, i])
        return state, step

    def decode(self, latent, camera=None):
        frame = super().decode(latent)
        return frame[..., None, :, :, :].expand(*frame.shape[:-3], 4, *frame.shape[-3:])

    def starts(self, indices):
        return ToyWorld().starts(indices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Looking(ToyPolicy):
    """Notes what it is shown."""

    seen: list = dataclasses.field(default_factory=list)
    per_look: int = 1

    @property
    def needs(self):
        return frozenset({STATE, TASK})

    @property
    def actions_per_look(self):
        return self.per_look

    def act(self, observation, carry, keys):
        self.seen.append((observation[STATE], row_texts(observation[TASK]), keys))
        return super().act(observation, carry, keys)


def test_a_world_that_takes_chunks_is_given_them():
    world, policy = ChunkWorld(horizon=12, wind=0.0), Looking()
    actor = Actor(name="it", policy=policy, rows=slice(None))
    recording = play(world, [actor], world.starts(KEYS), KEYS, keep="latents")
    assert (len(recording), recording.actions) == (3, 12)
    assert recording.rollout().action.shape == (6, 3, 4, 2) and recording.heads()[0].shape == (6, 3)
    shown = [seen[0] for seen in policy.seen]
    assert all(torch.equal(shown[t], shown[t - t % 4]) for t in range(12)) and not torch.equal(shown[0], shown[4])
    assert torch.equal(torch.stack([seen[2] for seen in policy.seen]), policy_keys(KEYS, 12))
    assert {seen[1] for seen in policy.seen} == {(world.spec.task,) * 6}


@pytest.mark.parametrize(("per_look", "unseen"), [(1, 9), (2, 3), (3, 3), (4, 0), (8, 0)])
def test_decisions_on_old_frames_are_counted(per_look, unseen):
    world = ChunkWorld(horizon=12)
    actors = [Actor(name="it", policy=Looking(per_look=per_look), rows=slice(0, 3))]
    assert play(world, actors, world.starts(KEYS), KEYS, keep="heads").unseen == {"it": unseen}
    plain = ToyWorld(horizon=12)
    assert play(plain, actors, plain.starts(KEYS), KEYS, keep="heads").unseen == {"it": 0}


def test_what_a_world_of_chunks_cannot_do_is_refused():
    world = ChunkWorld(horizon=12)
    actor = Actor(name="it", policy=ToyPolicy(), rows=slice(None))
    with pytest.raises(InvalidInputError, match="4 actions a step; 6 is no multiple"):
        play(world, [actor], world.starts(KEYS), KEYS, steps=6, keep="heads")
    with pytest.raises(InvalidInputError, match="cannot be recorded frame by frame"):
        play(world, [actor], world.starts(KEYS), KEYS)


def test_rows_that_belong_to_no_policy_idle_and_rows_may_lie_anywhere():
    world = ToyWorld(horizon=5)
    together = play(world, [Actor(name="a", policy=ToyPolicy(), rows=slice(None))], world.starts(KEYS), KEYS).played()
    rows = torch.tensor([4, 1])
    scattered = play(world, [Actor(name="a", policy=ToyPolicy(), rows=rows)], world.starts(KEYS), KEYS).played()
    assert torch.equal(scattered.action[rows], together.action[rows])
    assert torch.equal(scattered.frames[IMAGE][rows], together.frames[IMAGE][rows])
    assert (scattered.action[[0, 2, 3, 5]] == 0).all() and scattered.frames[IMAGE].shape == (6, 6, 8, 8, 3)


def test_without_a_fence_a_failure_names_the_policy_and_with_one_the_others_go_on():
    world = ToyWorld(horizon=5)
    actors = [
        Actor(name="good", policy=ToyPolicy(), rows=slice(0, 3)),
        Actor(name="bad", policy=ToyPolicy(fault="shape"), rows=slice(3, 6)),
    ]
    with pytest.raises(InvalidInputError, match="Policy 'bad' returned actions of shape"):
        play(world, actors, world.starts(KEYS), KEYS)
    fenced = [dataclasses.replace(a, fence=Fence()) for a in actors]
    recording = play(world, fenced, world.starts(KEYS), KEYS, keep="heads")
    assert fenced[0].fence.failure is None and len(recording) == 5
    failure = fenced[1].fence.failure
    assert (failure.stage, failure.step) == ("act", 3) and isinstance(failure.error, InvalidInputError)
    alone = [dataclasses.replace(actors[1], fence=Fence())]
    assert len(play(world, alone, world.starts(KEYS), KEYS, keep="heads")) == 3


LEFT_OPEN = []


def leave_inference_mode_open():
    LEFT_OPEN.append(torch.inference_mode())
    LEFT_OPEN[-1].__enter__()


SETTINGS = {
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "device": lambda: torch.set_default_device("meta"),
    "threads": lambda: torch.set_num_threads(3),
    "grad": lambda: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "inference": leave_inference_mode_open,
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("raises", [False, True])
def test_a_fence_puts_torch_back(setting, raises):
    def change():
        SETTINGS[setting]()
        changed.append(getattr(TorchSettings.read(), setting) != getattr(before, setting))
        if raises:
            raise KeyboardInterrupt

    before, fence, changed = TorchSettings.read(), Fence(), []
    with fence.guard("act", 0):
        change()
    assert changed == [True] and TorchSettings.read() == before
    assert isinstance(fence.failure.error, KeyboardInterrupt) if raises else fence.failure is None


def test_a_fence_seeds_each_call_by_its_number():
    def draw(fence, step):
        with fence.guard("act", step):
            return torch.rand(2)

    first = [[draw(fence, t) for t in range(2)] for fence in (Fence(seed=3), Fence(seed=3), Fence(seed=4))]
    assert torch.equal(first[0][0], first[1][0]) and torch.equal(first[0][1], first[1][1])
    assert not torch.equal(first[0][0], first[0][1]) and not torch.equal(first[0][0], first[2][0])


def test_stepping_and_stacking_is_what_a_world_promises():
    world, actions = ToyWorld(horizon=5), torch.rand(6, 5, 2) / 10
    state, stacked = rollout(world, world.reset(world.starts(KEYS), KEYS), actions)
    there, promised = world.rollout(world.reset(world.starts(KEYS), KEYS), actions)
    assert torch.equal(state.point, there.point) and torch.equal(stacked.proprio, promised.proprio)
