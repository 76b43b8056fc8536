"""The tokenizer of structured scenes: a frame and proprioception become poses, and poses become a frame.

A canvas, an actor layer drawn from proprioception alone, and object layers found in what these leave unexplained; nothing is
labelled. It is trained in stages (`worldsim.train.recipes.structured`): actor, things, then both painters together.

For a fixed camera. What canvas, proprioception and a few sprites do not explain (cables, cloth, other people) is not drawn.

Shape legend: B batch, T time, N rows, P proprio (and then the canvas code, in what pictures are drawn from), K things, d code,
H W frame, D latent channels, C=3 colour, Q codes kept.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.tokenizers.base import LatentFamily
from worldsim.tokenizers.structured.actor import Actor, ActorConfig
from worldsim.tokenizers.structured.compose import Gain, faded, over, windows
from worldsim.tokenizers.structured.looks import COLOR, KeptLooks, mean_color
from worldsim.tokenizers.structured.state import POSE, SceneLayout, SceneState
from worldsim.tokenizers.structured.things import ThingEncoder, ThingPainter, ThingsConfig, limit_code
from worldsim.tokenizers.structured.tracking import LOST, track

SURE = 0.6
"""Things seen at least this well are learned from."""
NOWHERE = 0.1
"""Things seen worse than this are not in the frame, and are not drawn."""
_IN_VIEW = 0.3
"""Things seen at least this well are in view."""
_COVERED = 0.2
"""Opacity above which a pixel belongs to a thing."""
_AT_ONCE = 64
"""Frames that are encoded together, with all that is drawn of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StructuredConfig:
    """Shape of the tokenizer.

    Attributes:
        image_size: H, W in pixels.
        proprio_dim: P.
        things: K, object layers.
        kinds: Of which kind each thing is, counted from 0, in order: things of one kind look alike. Empty where all differ.
        orders: Rotational symmetry of each thing, as in `LayersConfig`; 0 where it does not turn.
        joints: Which numbers of proprioception are joint angles.
        degrees: Whether they are in degrees, not in radians.
        code_dim: d, 3 or more.
        kept: Q, looks of each thing that are kept with their angles.
        canvas_dim: Numbers that say how an episode's canvas differs from the mean of all.
    """

    image_size: tuple[int, int]
    proprio_dim: int
    things: int = 1
    kinds: tuple[int, ...] = ()
    orders: tuple[int, ...] = ()
    joints: tuple[int, ...] = ()
    degrees: bool = False
    code_dim: int = 4
    kept: int = 1024
    canvas_dim: int = 0

    @property
    def kind_of(self) -> tuple[int, ...]:
        """Of which kind each thing is, K numbers."""
        return self.kinds or tuple(range(self.things))

    @property
    def layout(self) -> SceneLayout:
        """Where the latent holds what."""
        return SceneLayout(
            proprio_dim=self.proprio_dim, things=(self.things,), code_dim=self.code_dim, canvases=(self.canvas_dim,)
        )


class StructuredTokenizer(nn.Module):
    """Encode a frame with proprioception as [D, 1, 1], and draw it back."""

    family: LatentFamily = "structured"
    temporal_stride = 1

    full_K: Tensor

    def __init__(self, config: StructuredConfig) -> None:
        """Make an untrained tokenizer.

        Raises:
            InvalidInputError: The frames are too small, or there are joints or orders that do not fit.
        """
        super().__init__()
        if config.things and config.orders and len(config.orders) != config.things:
            raise InvalidInputError(f"{config.things} things need as many orders; got {config.orders}.")
        kinds = config.kind_of
        if len(kinds) != config.things or list(kinds) != sorted(kinds) or {*kinds} != {*range(len({*kinds}))}:
            raise InvalidInputError(f"Kinds of {config.things} things are counted from 0, in order; got {kinds}.")
        self.config = config
        self.actor = Actor(
            ActorConfig(
                image_size=config.image_size,
                proprio_dim=config.proprio_dim,
                joints=config.joints,
                degrees=config.degrees,
                canvas_dim=config.canvas_dim,
            )
        )
        self.shape = ThingsConfig(
            image_size=config.image_size, proprio_dim=config.proprio_dim, kinds=kinds, code_dim=config.code_dim
        )
        self.encoder = ThingEncoder(self.shape) if config.things else None
        self.painter = ThingPainter(self.shape) if config.things else None
        self.kept = KeptLooks(things=config.things, kept=config.kept, code_dim=config.code_dim)
        self.register_buffer("full_K", torch.ones(config.things))  # residual that a thing wholly in view explains

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(D, 1, 1)."""
        return (self.config.layout.size, 1, 1)

    @property
    def orders(self) -> tuple[int, ...]:
        """Rotational symmetry of each thing, 0 where it does not turn."""
        return self.config.orders or (0,) * self.config.things

    @property
    def axes(self) -> Tensor:
        """Halves of the shorter side per half of each axis, [2]: width, then height."""
        height, width = self.config.image_size
        return self.actor.base_CHW.new_tensor([width, height]) / min(height, width)

    def encode_with(self, x_BCTHW: Tensor, proprio_BTP: Tensor) -> Tensor:
        """Frames [B, 3, T, H, W] in [-1, 1] and proprioception in physical units -> latents [B, D, T, 1, 1]."""
        batch, _, time = x_BCTHW.shape[:3]
        frames = (x_BCTHW.transpose(1, 2).flatten(0, 1).float() + 1) / 2
        pairs = zip(frames.split(_AT_ONCE), proprio_BTP.flatten(0, 1).float().split(_AT_ONCE), strict=True)
        states = [self.encode_rows(some, self.actor.describe(some, proprio)) for some, proprio in pairs]
        z_ND = torch.cat([self.config.layout.join(state) for state in states]).to(x_BCTHW.dtype)
        return self.track(z_ND.reshape(batch, time, -1).transpose(1, 2)[..., None, None])

    def track(self, z_BCTHW: Tensor) -> Tensor:
        """Latents [B, D, T, 1, 1] of clips, whose frames were encoded alone, with things that are the same along each clip."""
        if z_BCTHW.shape[2] < 2 or not self.config.things:
            return z_BCTHW
        state = self.config.layout.split(z_BCTHW[..., 0, 0].transpose(1, 2))
        return self.config.layout.join(track(state, self.config.kind_of)).transpose(1, 2)[..., None, None]

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Latents [B, D, T, 1, 1] -> frames [B, 3, T, H, W] in [-1, 1]."""
        batch, _, time = z_BCTHW.shape[:3]
        z_ND = z_BCTHW[..., 0, 0].transpose(1, 2).flatten(0, 1)
        drawn = self.draw(self.config.layout.split(z_ND))
        return (drawn * 2 - 1).unflatten(0, (batch, time)).transpose(1, 2)

    def proprio(self, z_BCHW: Tensor) -> Tensor:
        """The proprioception [B, P] that a latent [B, D, 1, 1] holds, in physical units."""
        return self.actor.features.denormalize(z_BCHW[:, : self.config.proprio_dim, 0, 0])

    def places(self, z_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Where the things of latents [B, D, 1, 1] are; see `worldsim.tokenizers.base.Placed`."""
        state = self.config.layout.split(z_BCHW[..., 0, 0])
        return state.pose[..., :2] * min(self.config.image_size) / 2, state.seen > _IN_VIEW

    def encode_rows(self, frames_NCHW: Tensor, p_NP: Tensor) -> SceneState:
        """What frames in 0..1 show that were described by `Actor.describe`."""
        if self.encoder is None:
            nothing = p_NP.new_zeros(len(p_NP), 0, POSE + 1 + self.config.code_dim)
            return self._state(p_NP, nothing[..., :POSE], nothing[..., POSE], nothing[..., POSE + 1 :])
        color, alpha = self.actor(p_NP)
        xy, raw = self.encoder(frames_NCHW, over(self.actor.canvas(p_NP), color, alpha))
        code = limit_code(raw)
        gain = self.gain(frames_NCHW, color, alpha, p_NP, xy, code)
        taken = self._in_turn(frames_NCHW, color, alpha, p_NP, xy, code, gain)
        seen = (taken / self.full_K).clamp(0, 1) * self.kept.familiar(code)
        return _known(self._canonical(p_NP, xy, code, seen, gain.color_NK3))

    def draw(self, state: SceneState) -> Tensor:
        """Frames [N, 3, H, W] in 0..1."""
        p_NP = torch.cat([state.p, state.canvas], -1)
        color, alpha = self.actor(p_NP)
        if self.painter is None:
            return over(self.actor.canvas(p_NP), color, alpha)
        xy, code, color_NK3 = self.looks(state)
        shown = ((state.seen - NOWHERE) / (LOST - NOWHERE)).clamp(0, 1)
        return self.compose(p_NP, color, alpha, xy, code, shown, color_NK3)

    def compose(
        self,
        p_NP: Tensor,
        color: Tensor,
        alpha: Tensor,
        xy_NK2: Tensor,
        code_NKd: Tensor,
        shown_NK: Tensor | None = None,
        tint_NK3: Tensor | None = None,
    ) -> Tensor:
        """Things behind the robot, the robot, then things in front of it: [N, 3, H, W] in 0..1.

        Args:
            p_NP: Standardised proprioception and code of the canvas.
            color: Of the robot, [N, 3, H, W].
            alpha: Its opacity, [N, 1, H, W].
            xy_NK2: Places in [-1, 1].
            code_NKd: Looks.
            shown_NK: How opaque each thing is, 0..1; None for wholly.
            tint_NK3: What is added to each thing's colours.
        """
        assert self.painter is not None
        layers, front = self.painter.layers(xy_NK2, code_NKd), self.painter.in_front(p_NP, xy_NK2)
        if tint_NK3 is not None:
            colors = (layers[:, :, :3] + tint_NK3[..., None, None]).clamp(0, 1)
            layers = torch.cat([colors, layers[:, :, 3:]], 2)
        layers = layers if shown_NK is None else faded(layers, shown_NK)
        return self._stack(self.actor.canvas(p_NP), layers, front, color, alpha)

    def _stack(self, drawn: Tensor, layers_NK4HW: Tensor, front: Tensor, color: Tensor, alpha: Tensor) -> Tensor:
        colors, opacity = layers_NK4HW[:, :, :3], layers_NK4HW[:, :, 3:]
        for k in range(self.config.things):
            drawn = over(drawn, colors[:, k], opacity[:, k] * (1 - front[:, k]))
        drawn = over(drawn, color, alpha)
        for k in range(self.config.things):
            drawn = over(drawn, colors[:, k], opacity[:, k] * front[:, k])
        return drawn

    def gain(
        self, frames_NCHW: Tensor, color: Tensor, alpha: Tensor, p_NP: Tensor, xy_NK2: Tensor, code_NKd: Tensor
    ) -> Gain:
        """What drawing each thing explains, computed in its own window: exact where things do not overlap.

        Args:
            frames_NCHW: What is seen, 0..1.
            color: Of the robot, [N, 3, H, W].
            alpha: Its opacity, [N, 1, H, W].
            p_NP: Standardised proprioception and code of the canvas.
            xy_NK2: Places in [-1, 1].
            code_NKd: Looks.
        """
        assert self.painter is not None
        seen, robot, opaque, behind = (
            windows(x, xy_NK2, self.shape.side_px, self.shape.size).flatten(0, 1)
            for x in (frames_NCHW, color, alpha, self.actor.canvas(p_NP))
        )
        sprite = self.painter.sprites(xy_NK2, code_NKd).flatten(0, 1)
        front = self.painter.in_front(p_NP, xy_NK2).flatten(0, 1)
        drawn = over(behind, sprite[:, :3], sprite[:, 3:] * (1 - front))
        drawn = over(over(drawn, robot, opaque), sprite[:, :3], sprite[:, 3:] * front)
        missed, bare = drawn - seen, over(behind, robot, opaque) - seen
        covered = sprite[:, 3] > _COVERED
        taken = ((bare.abs().mean(1) - missed.abs().mean(1)) * covered).sum((-1, -2))
        shape, shown = xy_NK2.shape[:2], sprite[:, 3:] * (1 - opaque * (1 - front))
        return Gain(
            missed_NKCSS=missed.unflatten(0, shape),
            taken_NK=taken.unflatten(0, shape),
            bare_NKCSS=bare.unflatten(0, shape),
            color_NK3=mean_color(seen, shown).unflatten(0, shape),
            unlike_NK=(shown.detach() * (sprite[:, :3] - seen).abs()).mean((1, 2, 3)).unflatten(0, shape),
        )

    def _in_turn(
        self,
        frames_NCHW: Tensor,
        color: Tensor,
        alpha: Tensor,
        p_NP: Tensor,
        xy_NK2: Tensor,
        code_NKd: Tensor,
        gain: Gain,
    ) -> Tensor:
        """The absolute error [N, K] in sprite pixels that each thing takes away beside the others; arguments as of `gain`.

        Those that explain most are drawn first, and each counts for what it adds: two that were found at the same place do not
        both count.
        """
        if self.config.things < 2:
            return gain.taken_NK
        assert self.painter is not None
        layers, front = self.painter.layers(xy_NK2, code_NKd), self.painter.in_front(p_NP, xy_NK2)
        rank = gain.taken_NK.argsort(1, descending=True).argsort(1)
        covered = (layers[:, :, 3] > _COVERED).to(layers)
        canvas = self.actor.canvas(p_NP)
        missed = (over(canvas, color, alpha) - frames_NCHW).abs().mean(1)
        taken = torch.zeros_like(gain.taken_NK)
        for turn in range(self.config.things):
            left = (self._stack(canvas, faded(layers, rank <= turn), front, color, alpha) - frames_NCHW).abs().mean(1)
            own = (covered * (rank == turn)[..., None, None]).sum(1)
            taken = taken + ((missed - left) * own).sum((-1, -2))[:, None] * (rank == turn)
            missed = left
        return taken * (self.shape.size / self.shape.side_px) ** 2

    def _canonical(
        self, p_NP: Tensor, xy_NK2: Tensor, code_NKd: Tensor, seen_NK: Tensor, color_NK3: Tensor
    ) -> SceneState:
        """Poses by shape centre and angle: the angle of a look is that of the kept looks that are like it.

        The code of a thing that turns is its mean colour: its angle is in the pose.
        """
        spare = color_NK3.new_zeros(len(p_NP), self.config.code_dim - COLOR)
        poses, codes = [], []
        for k, order in enumerate(self.orders):
            phase, center = self.kept.pose(k, code_NKd[:, k])
            at = (xy_NK2[:, k] + self._offset(center)) * self.axes
            poses.append(torch.cat([at, phase if order else torch.tensor([1.0, 0.0]).to(at).expand_as(at)], -1))
            codes.append(torch.cat([color_NK3[:, k], spare], -1) if order else code_NKd[:, k])
        return self._state(p_NP, torch.stack(poses, 1), seen_NK, torch.stack(codes, 1))

    def _state(self, p_NP: Tensor, pose_NK4: Tensor, seen_NK: Tensor, code_NKd: Tensor) -> SceneState:
        count = self.config.proprio_dim
        return SceneState(p=p_NP[:, :count], canvas=p_NP[:, count:], pose=pose_NK4, seen=seen_NK, code=code_NKd)

    def looks(self, state: SceneState) -> tuple[Tensor, Tensor, Tensor]:
        """Places [N, K, 2] in [-1, 1], codes [N, K, d] and tints [N, K, 3] to draw things by.

        Of things that turn the code is that of the kept look at that angle, of a colour like the thing's where there are several,
        and the tint is what is still missing.
        """
        places, codes, tints = [], [], []
        for k, order in enumerate(self.orders):
            at, code = state.pose[:, k, :2] / self.axes, state.code[:, k]
            if order:
                code, center, tint = self.kept.turned(k, state.pose[:, k, 2:], code[:, :COLOR])
            else:
                center, tint = self.kept.center(k, code), torch.zeros_like(code[:, :COLOR])
            places.append(at - self._offset(center))
            codes.append(code)
            tints.append(tint)
        return torch.stack(places, 1), torch.stack(codes, 1), torch.stack(tints, 1)

    def _offset(self, center_N2: Tensor) -> Tensor:
        """Sprite half-sides -> halves of each axis."""
        height, width = self.config.image_size
        return center_N2 * center_N2.new_tensor([self.shape.side_px / width, self.shape.side_px / height])

    @torch.no_grad()
    def keep_looks(self, xy_NK2: Tensor, code_NKd: Tensor, taken_NK: Tensor) -> dict[str, float]:
        """Measure how well things are seen, and register the looks of things on each other; `orders` follow.

        Args:
            xy_NK2: Where things were found in frames that were trained on, in [-1, 1].
            code_NKd: How they looked.
            taken_NK: Absolute error that drawing them took away, as of `gain`.

        Returns:
            Figures by name.
        """
        assert self.painter is not None
        figures, orders = dict[str, float](), []
        for kind in sorted({*self.config.kind_of}):
            slots = [k for k, other in enumerate(self.config.kind_of) if other == kind]
            taken, code = taken_NK[:, slots].flatten(), code_NKd[:, slots].flatten(0, 1)
            full = taken.quantile(0.7).maximum(taken.quantile(0.98) / 2).clamp_min(1e-3)  # it may be out of view mostly
            sure = (taken > SURE * full).nonzero()[:, 0]
            sure = sure if len(sure) else taken.argmax()[None]
            sure = sure[self.kept.measure(slots, code[sure])]
            rows = sure[torch.linspace(0, len(sure) - 1, self.config.kept).long()]
            code = code[rows]
            every = code[:, None].expand(-1, self.config.things, -1)
            sprites = self.painter.sprites(torch.zeros_like(every[..., :2]), every)[:, slots[0]]
            found = self.kept.keep(slots, code, sprites)
            orders += [found.order] * len(slots)
            for k in slots:
                self.full_K[k] = full
                figures |= {f"thing_{k}_order": found.order, f"thing_{k}_overlap_turned": found.overlap}
                figures |= {f"thing_{k}_overlap_fixed": found.fixed, f"thing_{k}_code_std": float(code.std(0).max())}
        self.config = dataclasses.replace(self.config, orders=tuple(orders))
        return figures

    def resized(self, kinds: Sequence[int]) -> "StructuredTokenizer":
        """A tokenizer of other things, of these kinds: the same actor, fresh object layers."""
        made = StructuredTokenizer(dataclasses.replace(self.config, things=len(kinds), kinds=tuple(kinds), orders=()))
        made.actor = self.actor
        return made

    @torch.no_grad()
    def keep_things(self, kept: Sequence[int]) -> "StructuredTokenizer":
        """A tokenizer of some of the things, by their numbers in order, as they are."""
        of = [self.config.kind_of[k] for k in kept]
        kinds = sorted({*of})
        made = self.resized([kinds.index(kind) for kind in of])
        if not kept or self.encoder is None or self.painter is None:
            return made
        made.kept.keep_some(self.kept, kept)
        made.full_K.copy_(self.full_K[list(kept)])
        made.config = dataclasses.replace(made.config, orders=tuple(self.orders[k] for k in kept))
        assert made.encoder is not None and made.painter is not None
        for old, new in ((self.encoder, made.encoder), (self.painter, made.painter)):
            rows = {
                name: value[kinds] if value.shape != new.state_dict()[name].shape else value
                for name, value in old.state_dict().items()
            }
            new.load_state_dict(rows)
        return made.train(self.training)


def _known(state: SceneState) -> SceneState:
    """The state in which things that are nowhere to be seen have no place: that of all is the middle."""
    gone = (state.seen < NOWHERE)[..., None]
    pose = torch.where(gone, state.pose.new_tensor([0.0, 0.0, 1.0, 0.0]), state.pose)
    return dataclasses.replace(state, pose=pose, code=torch.where(gone, torch.zeros_like(state.code), state.code))
