"""Scripted policies of the pushing scenes, which read the true state: explorers that seek contact, and graded ones to rank.

Shape legend: n episodes, A action, P proprio, E true state.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.scene_wander import Area, Arm, Wanderer
from worldsim.core import STATE, TRUE_STATE, Observation
from worldsim.data.collect.random_exploration import Behaviour
from worldsim.noise import normal, uniform
from worldsim.protocols import Policy

_DRAW, _NOISE = 0x5CE0, 0x5CE1
_AIM, _LOWER, _PUSH, _GRIP = 0, 1, 2, 3
"""What a pusher is doing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """How a pusher pushes.

    Attributes:
        way_rad: Direction of all its pushes in the thing's plane; None draws one per push, rather towards the middle.
        turn_rad: Constant error of that direction.
        beside: Distance beside the thing's centre, in its radii, drawn up to this per push.
        gain: Of all actions.
        noise: Standard deviation of correlated noise, in the action's half range.
        random: Share of actions that are uniformly random.
    """

    way_rad: float | None = None
    turn_rad: float = 0.0
    beside: float = 0.0
    gain: float = 1.0
    noise: float = 0.0
    random: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reach:
    """What a scene asks of a pusher, in the units of its plane.

    Attributes:
        middle: Of the plane where things are, [2].
        radius: Of the thing.
        behind: Distance from the thing at which a push begins.
        far: How long a push is, at most.
        done: How far a push with a fixed direction goes.
    """

    middle: tuple[float, float]
    radius: float
    behind: float
    far: float
    done: float


FETCH = Reach(middle=(1.33, 0.75), radius=0.025, behind=0.09, far=0.18, done=0.125)
PUSHT = Reach(middle=(256.0, 256.0), radius=40.0, behind=95.0, far=130.0, done=80.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PushCarry:
    """Memory of a pusher, one row per episode."""

    step: int
    stage: Tensor  # int64 [n]
    way: Tensor  # [n], direction of this push, rad
    beside: Tensor  # [n], distance beside the centre
    begin: Tensor  # [n, 2], where the thing was when the push began
    first: Tensor  # [n, 2], where it was when the episode began
    noise: Tensor  # [n, A]


class Pusher:
    """Goes behind the thing, pushes it, and begins again with another direction; subclasses know how the robot moves."""

    needs = frozenset({STATE, TRUE_STATE})

    def __init__(self, style: Style, reach: Reach, *, action_dim: int) -> None:
        self.style, self.reach, self.action_dim = style, reach, action_dim

    def initial(self, n: int) -> PushCarry:
        """The carry of n fresh episodes."""
        zeros, nowhere = torch.zeros(n), torch.full((n, 2), math.nan)
        return PushCarry(
            step=0,
            stage=torch.full((n,), _AIM),
            way=torch.full((n,), math.nan),
            beside=zeros,
            begin=nowhere,
            first=nowhere,
            noise=torch.zeros(n, self.action_dim),
        )

    def act(self, observation: Observation, carry: PushCarry, keys: Tensor) -> tuple[Tensor, PushCarry]:
        """Actions [n, A]; see `worldsim.protocols.Policy.act`."""
        thing, tip = observation[TRUE_STATE][:, 6:8].float(), observation[STATE].float()
        carry = self._aim(carry, thing, keys)
        towards = torch.stack([carry.way.cos(), carry.way.sin()], 1)
        across = torch.stack([-towards[:, 1], towards[:, 0]], 1)
        behind = thing - towards * self.reach.behind + across * carry.beside[:, None]
        action, stage = self._move(carry.stage, tip, thing, behind, towards, across * 1.0, carry.beside)
        noise = 0.8 * carry.noise + 0.6 * normal(keys, 0, (self.action_dim,), stream=_NOISE)
        draw = uniform(keys, 0, (1 + self.action_dim,), stream=_DRAW)
        action = action * self.style.gain + self.style.noise * noise
        action = torch.where(draw[:, :1] < self.style.random, draw[:, 1:] * 2 - 1, action).clamp(-1, 1)
        carry = dataclasses.replace(carry, step=carry.step + 1, stage=stage, noise=noise)
        return self._command(action, tip), carry

    def _aim(self, carry: PushCarry, thing: Tensor, keys: Tensor) -> PushCarry:
        """Choose direction and offset where a push is over, or none has begun."""
        gone = (thing - carry.begin).norm(dim=1)
        over = carry.way.isnan() | ((carry.stage == _PUSH) & (gone > self.reach.far))
        draw = normal(keys, 0, (2,), stream=_DRAW + 7)
        inwards = torch.tensor(self.reach.middle) - thing
        free = torch.atan2(inwards[:, 1], inwards[:, 0]) + 0.9 * draw[:, 0]
        way = free if self.style.way_rad is None else torch.full_like(free, self.style.way_rad)
        beside = draw[:, 1].clamp(-1, 1) * self.style.beside * self.reach.radius
        return dataclasses.replace(
            carry,
            stage=torch.where(over, _AIM, carry.stage),
            way=torch.where(over, way + self.style.turn_rad, carry.way),
            beside=torch.where(over, beside, carry.beside),
            begin=torch.where(over[:, None], thing, carry.begin),
            first=torch.where(carry.first.isnan(), thing, carry.first),
        )

    def _move(
        self, stage: Tensor, tip: Tensor, thing: Tensor, behind: Tensor, towards: Tensor, across: Tensor, beside: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Actions in [-1, 1], [n, A], and the next stage [n]."""
        raise NotImplementedError

    def _command(self, action: Tensor, tip: Tensor) -> Tensor:
        """Actions in [-1, 1] in physical units."""
        return action


class FetchPusher(Pusher):
    """Moves the gripper over the table, lowers it behind the cube, and pushes."""

    def __init__(self, style: Style) -> None:
        super().__init__(style, FETCH, action_dim=3)

    def _move(
        self, stage: Tensor, tip: Tensor, thing: Tensor, behind: Tensor, towards: Tensor, across: Tensor, beside: Tensor
    ) -> tuple[Tensor, Tensor]:
        gap, height = behind - tip[:, :2], tip[:, 2:3]
        sideways = ((tip[:, :2] - thing) * across).sum(1) - beside
        ahead = ((tip[:, :2] - thing) * towards).sum(1)
        over = torch.cat([gap * 10 * (height > 0.455), (0.50 - height) * 10], 1)
        down = torch.cat([gap * 8, (0.425 - height) * 10], 1)
        push = torch.cat([towards * 0.7 - across * sideways[:, None] * 10, (0.425 - height) * 10], 1)
        near, low = gap.norm(dim=1) < 0.02, height[:, 0] < 0.44
        lost = (sideways.abs() > 0.06) | (ahead > 0.03)
        after = torch.where((stage == _AIM) & near, _LOWER, stage)
        after = torch.where((stage == _LOWER) & low, _PUSH, after)
        after = torch.where((stage == _PUSH) & lost, _AIM, after)
        action = torch.where((stage == _AIM)[:, None], over, torch.where((stage == _LOWER)[:, None], down, push))
        return action.clamp(-1, 1), after


class DiscPusher(Pusher):
    """Moves the disc around the block to the far side, and pushes."""

    def __init__(self, style: Style) -> None:
        super().__init__(style, PUSHT, action_dim=2)

    def _move(
        self, stage: Tensor, tip: Tensor, thing: Tensor, behind: Tensor, towards: Tensor, across: Tensor, beside: Tensor
    ) -> tuple[Tensor, Tensor]:
        here, clear = tip[:, :2] - thing, self.reach.behind
        radius = here.norm(dim=1, keepdim=True).clamp_min(1e-6)
        out, gap = here / radius, behind - tip[:, :2]
        turn = out[:, 1] * towards[:, 0] - out[:, 0] * towards[:, 1]
        tangent = torch.stack([-out[:, 1], out[:, 0]], 1) * torch.where(turn >= 0, 1.0, -1.0)[:, None]
        around = (tangent + out * (clear - radius) / 30) * 0.9
        ahead, sideways = (here * towards).sum(1), (here * across).sum(1) - beside
        go = torch.where((ahead < -0.5 * clear)[:, None], gap / 60, around)
        push = towards * 0.55 - across * sideways[:, None] / 60
        after = torch.where((stage == _AIM) & (gap.norm(dim=1) < 18), _PUSH, stage)
        after = torch.where((stage == _PUSH) & ((sideways.abs() > 70) | (ahead > 30)), _AIM, after)
        return torch.where((stage == _PUSH)[:, None], push, go).clamp(-1, 1), after

    def _command(self, action: Tensor, tip: Tensor) -> Tensor:
        return (tip[:, :2] + 75 * action).clamp(0, 512)


class ClosedPusher(FetchPusher):
    """Pushes with a gripper that is kept closed."""

    def _command(self, action: Tensor, tip: Tensor) -> Tensor:
        return torch.cat([action, torch.full_like(action[:, :1], -1.0)], 1)


class Picker(Pusher):
    """Opens the gripper over the cube, lowers and closes it, carries the cube somewhere and lets it fall."""

    def __init__(self, style: Style) -> None:
        super().__init__(style, FETCH, action_dim=4)

    def _move(
        self, stage: Tensor, tip: Tensor, thing: Tensor, behind: Tensor, towards: Tensor, across: Tensor, beside: Tensor
    ) -> tuple[Tensor, Tensor]:
        at, height, fingers = thing + across * beside[:, None] * 0.5, tip[:, 2:3], tip[:, 3:5].sum(1)
        gap = at - tip[:, :2]
        opened, closed = torch.ones_like(height), -torch.ones_like(height)
        over = torch.cat([gap * 10, (0.50 - height) * 10, opened], 1)
        down = torch.cat([gap * 10, (0.425 - height) * 10, opened], 1)
        hold = torch.cat([torch.zeros_like(gap), 0 * height, closed], 1)
        carry = torch.cat([towards * 0.4, (0.53 - height) * 5, closed], 1)
        after = torch.where((stage == _AIM) & (gap.norm(dim=1) < 0.01) & (fingers > 0.07), _LOWER, stage)
        after = torch.where((stage == _LOWER) & (height[:, 0] < 0.432), _GRIP, after)
        after = torch.where((stage == _GRIP) & (fingers < 0.053), _PUSH, after)
        after = torch.where((stage == _PUSH) & (fingers < 0.03), _AIM, after)
        action = hold
        for number, one in ((_AIM, over), (_LOWER, down), (_PUSH, carry)):
            action = torch.where((stage == number)[:, None], one, action)
        return action.clamp(-1, 1), after


PUSHERS = {"fetch_push": FetchPusher, "fetch_colors": FetchPusher, "pusht": DiscPusher}
WAYS_RAD = {"fetch_push": math.pi / 2, "fetch_colors": math.pi / 2, "pusht": 0.0}
"""Where the thing is to go, in its plane."""
_RANDOM = (0.0, 0.0, 0.1, 0.3)
"""Shares of random actions, of as many kinds of explorers."""


def explorers(scene: str, *, variants: int = 24) -> tuple[Behaviour, ...]:
    """Explorers of every kind, by scene: through the thing's centre and beside it, slow and fast, disturbed by noise and random actions."""
    keys = torch.arange(variants)
    draw = uniform(keys, 0, (4,), stream=_DRAW)
    make = _explorer(scene)
    made = []
    for i, (gain, noise, random, beside) in enumerate(draw.tolist()):
        style = Style(
            beside=(0.0, 1.0, 1.6)[int(3 * beside)],
            gain=0.55 + 0.45 * gain,
            noise=(0.0, 0.1, 0.25, 0.5)[int(4 * noise)],
            random=_RANDOM[int(4 * random)],
        )
        made.append(Behaviour(name=f"push_{i}", policy=make(style, i)))
    return tuple(made)


def _explorer(scene: str) -> Callable[[Style, int], Policy]:
    """Makes a scene's explorers, from a style and a number."""
    if scene in PUSHERS:
        return lambda style, number: PUSHERS[scene](style)
    if scene == "fetch_pick":
        return lambda style, number: ClosedPusher(style) if number % 3 == 0 else Picker(style)
    return _arm_explorer(scene)


def _arm_explorer(scene: str) -> Callable[[Style, int], Policy]:
    from benchmarks.scene_arms import FingerScene, PusherScene, ReacherScene

    if scene == "pusher":
        area = Area(
            axes=(0, 1),
            middle=(0.35, -0.15),
            radius=0.3,
            gain=4.0,
            to_thing=0.6,
            through=0.12,
            height=-0.28,
            most_steps=16,
        )
        arm = Arm(PusherScene(16), speed=0.7, settle_s=0.1)
        return lambda style, number: _wanderer(style, area, arm)
    if scene == "reacher":
        area = Area(axes=(0, 1), middle=(0.0, 0.0), radius=0.2, gain=8.0, to_thing=0.4)
        arm = Arm(ReacherScene(16), speed=0.8, settle_s=0.02)
        return lambda style, number: _wanderer(style, area, arm)
    area = Area(axes=(0, 2), middle=(0.16, 0.4), radius=0.2, gain=8.0, inner=0.3, turn=(1.0, 5.3))
    arm = Arm(FingerScene(16), speed=2.0, settle_s=0.02)
    return lambda style, number: _wanderer(style, area, arm)


def _wanderer(style: Style, area: Area, arm: Arm) -> Wanderer:
    return Wanderer(area, arm, gain=style.gain, noise=style.noise, random=style.random)


def graded(scene: str) -> dict[str, Policy]:
    """Eight policies from good to bad, which push along the scene's task."""
    styles = {
        "straight": Style(),
        "noisy": Style(noise=0.3),
        "slow": Style(gain=0.6),
        "askew": Style(turn_rad=0.6),
        "random_30": Style(random=0.3),
        "far_askew": Style(turn_rad=1.2),
        "random_70": Style(random=0.7),
        "still": Style(gain=0.0),
    }
    return {name: PUSHERS[scene](dataclasses.replace(style, way_rad=WAYS_RAD[scene])) for name, style in styles.items()}
