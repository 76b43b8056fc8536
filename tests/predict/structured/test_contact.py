import math

import torch
from torch import Tensor

from worldsim.predict.structured.contact import ContactModel, Turn


def model() -> ContactModel:
    """One whose anchor is the first two numbers of proprioception, and whose weights are of ordinary size."""
    torch.manual_seed(0)
    made = ContactModel(members=2, orders=(1, 1), proprio_dim=3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
        for parameter in [*made.bend.parameters(), made.offset, made.linear]:
            parameter.zero_()
        made.linear[:, 0, 0] = made.linear[:, 1, 1] = 1
        made.tilt.zero_()
    return made


def turned(v: Tensor, angle: float) -> Tensor:
    """Vectors [..., 2] turned by an angle; further numbers stay."""
    c, s = math.cos(angle), math.sin(angle)
    x, y = v[..., 0], v[..., 1]
    return torch.cat([torch.stack([c * x - s * y, s * x + c * y], -1), v[..., 2:]], -1)


def test_a_push_holds_at_every_place_and_angle() -> None:
    contact, both = model().double(), (2, 4)  # in single precision processors differ by 1e-5 through random weights
    p, q = torch.randn(*both, 3).double() * 0.3, torch.randn(*both, 3).double() * 0.3
    phase = torch.nn.functional.normalize(torch.randn(*both, 2, 2).double(), dim=-1)
    pose = torch.cat([torch.randn(*both, 2, 2).double() * 0.3, phase], -1)
    motion = torch.zeros_like(pose)
    motion[..., :2] = 0.02
    withheld, angle, shift = torch.zeros(both).double(), 0.8, torch.tensor([0.2, -0.1]).double()

    def elsewhere(rows: Tensor, offset: Tensor) -> Tensor:
        moved = turned(rows, angle)
        moved[..., :2] += offset
        return moved

    def pose_elsewhere(rows: Tensor) -> Tensor:
        return torch.cat([elsewhere(rows[..., :2], shift), turned(rows[..., 2:], angle)], -1)

    after = contact(p, q, pose, motion, withheld)
    carried = turned(motion, angle)
    again = contact(elsewhere(p, shift), elsewhere(q, shift), pose_elsewhere(pose), carried, withheld)
    assert (after - pose).abs().max() > 1e-3
    assert torch.allclose(again, pose_elsewhere(after), atol=1e-9)
    given = contact(elsewhere(p, shift), elsewhere(q, shift), pose_elsewhere(pose), carried)
    assert not torch.allclose(given, pose_elsewhere(after), atol=1e-5)  # walls are where they are


def test_the_anchor_begins_where_things_are_when_they_move() -> None:
    contact = ContactModel(members=3, orders=(0,), proprio_dim=3)
    p = torch.randn(500, 3)
    xy = p[:, :2] * 0.2 + 0.1 + torch.randn(500, 2) * 0.01
    xy[:50] = torch.randn(50, 2)  # some were moved by something else
    off = contact.calibrate(p, xy, torch.randn(500, 2) * 0.03, torch.zeros(500))
    assert off < 0.03
    assert torch.allclose(contact.linear[:, :2, :2], 0.2 * torch.eye(2).expand(3, 2, 2), atol=0.02)
    assert torch.allclose(contact.scale_3, torch.tensor([0.03, 0.03, 0.02]), atol=0.004)


def test_what_does_not_turn_keeps_its_phase() -> None:
    contact = ContactModel(members=1, orders=(0,), proprio_dim=3)
    pose = torch.tensor([0.1, 0.2, 1.0, 0.0]).expand(1, 5, 1, 4)
    after = contact(torch.randn(1, 5, 3), torch.randn(1, 5, 3), pose, torch.zeros_like(pose))
    assert torch.equal(after[..., 2:], pose[..., 2:])


def test_the_learned_perspective_is_undone_for_what_is_not_touched() -> None:
    contact = model()
    with torch.no_grad():
        contact.tilt.fill_(0.4)
        for parameter in contact.net.parameters():
            parameter.zero_()
    pose = torch.tensor([0.3, -0.2, 1.0, 0.0]).expand(2, 4, 2, 4)
    after = contact(torch.randn(2, 4, 3), torch.randn(2, 4, 3), pose, torch.zeros_like(pose))
    torch.testing.assert_close(after, pose)


def test_a_thing_sees_where_others_go_and_of_which_kind_they_are() -> None:
    torch.manual_seed(0)
    contact = ContactModel(members=1, orders=(1, 1, 1), proprio_dim=3, kinds=(0, 1, 2))
    pose = torch.nn.functional.normalize(torch.randn(1, 5, 3, 4), dim=-1)
    motion = torch.zeros_like(pose)
    motion[..., 1, :2] = 0.05  # of the second alone
    turn = Turn(pose[..., 2:], contact.order_K)
    parts = contact._others(pose, motion, turn)
    gap, moved, _, _, kind, *second = parts
    assert not moved[..., 0, :].any() and not moved[..., 1, :].any() and moved[..., 2, :].any()  # of the one before it
    assert kind[0, 0].argmax(-1).tolist() == [2, 0, 1] and second[4][0, 0].argmax(-1).tolist() == [1, 2, 0]
    far = pose.clone()
    far[..., :2] += 0.4  # all of them: what lies between stays
    torch.testing.assert_close(contact._others(far, motion, turn)[0], gap)


def test_walls_are_where_places_end_at_once_and_felt_only_near_them() -> None:
    contact, both = model(), (2, 4)
    xy_NK2, motion_NK2 = 1.5 * torch.rand(8000, 2, 2) - 0.75, 0.1 * torch.randn(8000, 2, 2)  # within walls
    seen = torch.ones(8000, 2, dtype=torch.bool)
    xy_NK2[7, 0], seen[7, 0] = 3.0, False
    xy_NK2[:, 1] = 0.25 * torch.randn(8000, 2)  # pushes of this one only end somewhere
    contact.measure_walls(xy_NK2, motion_NK2, seen)
    assert (contact.high_K2[0] - 0.75).abs().max() < 0.01 and (contact.low_K2[0] + 0.75).abs().max() < 0.01
    assert contact.high_K2[1].min() > 1 and contact.low_K2[1].max() < -1
    other = model()
    other.measure_walls(xy_NK2, motion_NK2.abs(), seen)  # nothing ever comes to the low sides: there episodes begin
    assert other.low_K2.max() < -1 and (other.high_K2[0] - 0.75).abs().max() < 0.01
    other.measure_walls(xy_NK2[:50], motion_NK2[:50], seen[:50])  # of too few nothing is known
    assert other.high_K2.min() > 1

    def moves(x: float) -> Tensor:
        """How things move at x, where they are in the frame withheld, and a robot at rest beside them."""
        pose = torch.tensor([x, 0.0, 1.0, 0.0]).expand(*both, 2, 4)
        p = torch.tensor([x - 0.1, 0.0, 0.0]).expand(*both, 3)
        return contact(p, p, pose, torch.zeros_like(pose), torch.zeros(both)) - pose

    torch.testing.assert_close(moves(-0.2), moves(0.2), atol=1e-5, rtol=0)
    near = moves(0.7) - moves(0.2)
    assert near[..., 0, :].abs().max() > 1e-3
    assert near[..., 1, :].abs().max() < 1e-5
    with torch.no_grad():
        contact.net.bias[-1][..., 0] = 100.0  # whatever is pushed out of there
    gone = moves(0.7)[..., 0] + 0.7
    assert gone[..., 0].max() < 0.81 and gone[..., 1].max() > 1
