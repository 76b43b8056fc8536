"""The actor layer: the robot's picture as a function of proprioception alone, in front of a canvas.

No masks are needed: a robust error leaves out what is not a function of proprioception, as it leaves out outliers, so that
things that the robot moves stay behind as the residual from which they are found.

The drawing hangs on anchors, points of the image that follow proprioception; what is near one is drawn from where it lies
relative to it, so that a fine tip stays sharp wherever it goes.

Shape legend: N rows, P proprio and then S numbers of the canvas code, F features, J anchors, H W frame, h w grid of the drawing.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.tokenizers.structured.compose import over

MOST_JOINTS = 4
"""Joints whose products are features: three to that power."""
GRID_PX = 32
"""About the shorter side of the grid on which the actor is drawn; finer pixels come from its last convolution."""
_COARSE = 8
_SPOT = 0.1
_CANVAS_RATE = 0.15
"""The canvas is known well from the start, and learns this much more slowly than the rest."""
_SOLVED_PX = 48
"""About the shorter side of the pictures that are solved on."""
_EPS = 0.03
"""Errors far below this count as squares."""
_POWERS = (0, 1, 1, 1, 1, 1, 2, 2, 2)
"""Of each round: errors far above count as squares, then by their size, then hardly."""
_CODE_RIDGE = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorConfig:
    """Shape of an actor layer.

    Attributes:
        image_size: H, W in pixels.
        proprio_dim: P.
        joints: Which numbers of proprioception are joint angles; the first four count.
        degrees: Whether they are in degrees, not in radians.
        anchors: J.
        width: Channels of the drawing.
        canvas_dim: S; 0 where the canvas is the same in every episode.
    """

    image_size: tuple[int, int]
    proprio_dim: int
    joints: tuple[int, ...] = ()
    degrees: bool = False
    anchors: int = 10
    width: int = 24
    canvas_dim: int = 0

    def __post_init__(self) -> None:
        if min(self.image_size) < 16 or any(not 0 <= j < self.proprio_dim for j in self.joints):
            raise InvalidInputError(
                f"An actor layer needs frames of 16 pixels or more and joints among its {self.proprio_dim} numbers of "
                f"proprioception; got {self.image_size} and {self.joints}."
            )


class ProprioFeatures(nn.Module):
    """Standardised proprioception without joint angles, and the products of 1, cosine and sine over joints.

    Every point of a serial arm is linear in these products (forward kinematics), before perspective. Angles themselves would make the
    picture of a joint that goes round another one after each turn.
    """

    mean_P: Tensor
    scale_P: Tensor
    product_mean_F: Tensor
    product_scale_F: Tensor

    def __init__(self, config: ActorConfig) -> None:
        """Make features of unit scale; `measure` or loaded weights set it."""
        super().__init__()
        self.joints, self.unit_rad = list(config.joints[:MOST_JOINTS]), math.radians(1) if config.degrees else 1.0
        self.products = 3 ** len(self.joints) - 1
        self.others = [i for i in range(config.proprio_dim) if i not in self.joints]
        self.size = len(self.others) + self.products
        for name, count in (("P", config.proprio_dim), ("F", self.products)):
            prefix = "" if name == "P" else "product_"
            self.register_buffer(f"{prefix}mean_{name}", torch.zeros(count))
            self.register_buffer(f"{prefix}scale_{name}", torch.ones(count))

    @torch.no_grad()
    def measure(self, proprio_NP: Tensor) -> None:
        """Measure location and scale on rows in physical units."""
        for mean, scale, rows in (
            (self.mean_P, self.scale_P, proprio_NP),
            (self.product_mean_F, self.product_scale_F, self._products(proprio_NP)),
        ):
            mean.copy_(rows.mean(0))
            spread = (rows - rows.mean(0)).square().mean(0).sqrt()
            scale.copy_(torch.where(spread > 1e-6 * (1 + rows.abs().mean(0)), spread, torch.ones_like(spread)))

    @torch.no_grad()
    def measure_both(self, p_NP: Tensor, proprio_NP: Tensor) -> None:
        """Take location and scale from rows both standardised and in physical units."""
        self.measure(proprio_NP)
        self.scale_P.copy_(proprio_NP.std(0) / p_NP.std(0).clamp_min(1e-6))
        self.mean_P.copy_((proprio_NP - p_NP * self.scale_P).mean(0))

    def normalize(self, proprio: Tensor) -> Tensor:
        """Physical units [..., P] -> standardised."""
        return (proprio - self.mean_P) / self.scale_P

    def denormalize(self, p: Tensor) -> Tensor:
        """Standardised [..., P] -> physical units."""
        return p * self.scale_P + self.mean_P

    def forward(self, p: Tensor) -> Tensor:
        """Standardised proprioception [..., P] -> features [..., F] that image positions are nearly linear in."""
        if not self.joints:
            return p
        products = self._products(self.denormalize(p))
        return torch.cat([p[..., self.others], (products - self.product_mean_F) / self.product_scale_F], -1)

    def _products(self, proprio: Tensor) -> Tensor:
        return joint_products(proprio[..., self.joints] * self.unit_rad)


def joint_products(angle_NJ: Tensor) -> Tensor:
    """Products of 1, cosine and sine over J joint angles, rad, without the constant one: [..., J] -> [..., 3^J - 1]."""
    made = angle_NJ.new_ones(*angle_NJ.shape[:-1], 1)
    for angle in angle_NJ.unbind(-1):
        each = torch.stack([torch.ones_like(angle), angle.cos(), angle.sin()], -1)
        made = (made[..., :, None] * each[..., None, :]).flatten(-2)
    return made[..., 1:]


class Actor(nn.Module):
    """Draws the robot, RGBA, from standardised proprioception, and holds the canvas behind it."""

    base_CHW: Tensor
    basis_SCHW: Tensor

    def __init__(self, config: ActorConfig) -> None:
        """Make an untrained actor with an empty canvas; `begin` gives it a picture."""
        super().__init__()
        self.config = config
        height, width = config.image_size
        self.factor = max(2, round(min(height, width) / GRID_PX))  # frame pixels per grid cell
        self.grid = (-(-height // self.factor), -(-width // self.factor))
        self.features = ProprioFeatures(config)
        self.register_buffer("base_CHW", torch.zeros(3, height, width))
        self.shift_CHW = nn.Parameter(torch.zeros(3, height, width))
        canvases = config.canvas_dim
        self.register_buffer("basis_SCHW", torch.zeros(canvases, 3, height, width), persistent=canvases > 0)
        size, hidden, ch, j = self.features.size, 128, config.width, config.anchors
        self.trunk = nn.Sequential(nn.Linear(5 * size, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.linear, self.bend = nn.Linear(size, 2 * j), nn.Linear(hidden, 2 * j)
        self.depth = nn.Linear(size, j)
        self.light = nn.Linear(canvases, hidden, bias=False) if canvases else None
        self.reach_J = nn.Parameter(torch.linspace(math.log(0.12), math.log(0.5), j))
        self.coarse, self.film = nn.Linear(hidden, _COARSE * _COARSE * ch), nn.Linear(hidden, 2 * ch)
        self.up, self.mix = nn.Conv2d(ch, 4 * ch, 3, padding=1), nn.Conv2d(ch, ch, 3, padding=1)
        self.entry = nn.Conv2d(4 * j + ch, ch, 1)
        self.body = nn.Conv2d(ch, ch, 3, padding=1)
        self.paint = nn.Conv2d(ch, 4 * self.factor**2, 3, padding=1)
        self._initialise()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on processors

    @torch.no_grad()
    def _initialise(self) -> None:
        """Anchors begin spread over the frame and nearly straight, the robot nearly transparent."""
        nn.init.normal_(self.linear.weight, std=0.3 / math.sqrt(max(self.features.products, 1)))
        nn.init.normal_(self.linear.bias, std=0.3)
        for layer in (self.bend, self.depth):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        if self.light is not None:
            nn.init.zeros_(self.light.weight)
        self.paint.weight.mul_(0.3)
        nn.init.zeros_(self.paint.bias)  # type: ignore[arg-type]
        self.paint.bias[3 * self.factor**2 :].fill_(-2.0)  # type: ignore[index]

    def canvas(self, p_NP: Tensor) -> Tensor:
        """What is behind everything, [N, 3, H, W] in 0..1."""
        canvas = self._canvas
        if not self.config.canvas_dim:
            return canvas.expand(len(p_NP), -1, -1, -1)
        return canvas + torch.einsum("ns,schw->nchw", self._split(p_NP)[1], self.basis_SCHW)

    @torch.no_grad()
    def describe(self, frames_NCHW: Tensor, proprio_NP: Tensor) -> Tensor:
        """Frames in 0..1 and proprioception in physical units -> what everything but things is drawn from, [N, P + S]."""
        p_NP = self.features.normalize(proprio_NP)
        if not self.config.canvas_dim:
            return p_NP
        return torch.cat([p_NP, solve_code(frames_NCHW, self._canvas, self.basis_SCHW)], -1)

    @property
    def _canvas(self) -> Tensor:
        """The canvas whose code is zero, [3, H, W]."""
        return self.base_CHW + _CANVAS_RATE * self.shift_CHW

    def _split(self, p_NP: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised proprioception and the code of the canvas."""
        count = self.config.proprio_dim
        return p_NP[..., :count], p_NP[..., count:]

    @torch.no_grad()
    def begin(self, frames_NCHW: Tensor, proprio_NP: Tensor, basis_SCHW: Tensor | None = None) -> None:
        """Take the median of frames in 0..1 for the canvas, and measure proprioception [N, P] in physical units.

        Args:
            frames_NCHW: Of many episodes.
            proprio_NP: All that is learned from.
            basis_SCHW: Pictures in which canvases differ, where they do.
        """
        self.base_CHW.copy_(frames_NCHW.median(0).values)
        self.features.measure(proprio_NP)
        if basis_SCHW is not None:
            self.basis_SCHW.copy_(basis_SCHW)

    @torch.no_grad()
    def begin_anchor(self, anchor: int, weight_F2: Tensor, offset_2: Tensor) -> None:
        """Let an anchor of an untrained actor begin at a place in [-1, 1], linear in features, with a spot of the robot around it.

        A channel of the drawing is set apart for the spot, which is opaque within `_SPOT` of the anchor.
        """
        self.linear.weight[2 * anchor : 2 * anchor + 2] = weight_F2.T
        self.linear.bias[2 * anchor : 2 * anchor + 2] = offset_2
        self.reach_J[anchor] = math.log(_SPOT)
        self.entry.weight[anchor] = 0
        self.entry.weight[anchor, anchor] = 3.0  # the first channels of its input are closeness to anchors
        self.entry.bias[anchor] = 0  # type: ignore[index]
        self.paint.weight[:, anchor] = 0
        self.paint.weight[3 * self.factor**2 :, anchor, 1, 1] = 1.3

    def anchors(self, p_NP: Tensor) -> Tensor:
        """Where the anchors are, [N, J, 2] in [-1, 1]."""
        return self._anchors(*self._hidden(p_NP))

    def _hidden(self, p_NP: Tensor) -> tuple[Tensor, Tensor]:
        p_NP, code_NS = self._split(p_NP)
        f = self.features(p_NP)
        periodic = [f, (1.5 * f).sin(), (1.5 * f).cos(), (3 * f).sin(), (3 * f).cos()]
        hidden: Tensor = self.trunk(torch.cat(periodic, -1))
        return f, hidden if self.light is None else hidden + self.light(code_NS)

    def _anchors(self, f: Tensor, hidden: Tensor) -> Tensor:
        depth = 1 + 0.5 * torch.tanh(self.depth(f))
        at: Tensor = (self.linear(f) + self.bend(hidden)).unflatten(-1, (-1, 2)) / depth[..., None]
        return at

    def forward(self, p_NP: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised proprioception -> colour [N, 3, H, W] in 0..1 and opacity [N, 1, H, W]."""
        f, hidden = self._hidden(p_NP)
        near, far = self.entry.weight.tensor_split([4 * self.config.anchors], 1)
        drawn = F.linear(self._near(self._anchors(f, hidden)), near[..., 0, 0], self.entry.bias)
        scale, shift = self.film(hidden)[..., None, None].chunk(2, 1)
        x = drawn.movedim(-1, 1) + self._grown(F.conv2d(self._far(hidden), far))
        x = F.silu(torch.addcmul(shift, x, 1 + scale))
        x = x + F.silu(self.body(x))
        height, width = self.config.image_size
        rgba = torch.sigmoid(2 * F.pixel_shuffle(self.paint(x), self.factor)[..., :height, :width])
        return rgba[:, :3], rgba[:, 3:]

    def _near(self, at_NJ2: Tensor) -> Tensor:
        """What each grid cell knows of each anchor: closeness and relative place, [N, h, w, 4 J]."""
        (h, w), reach_J = self.grid, self.reach_J.exp()
        xs = (torch.arange(w, device=at_NJ2.device) * 2 + 1) / w - 1
        ys = (torch.arange(h, device=at_NJ2.device) * 2 + 1) / h - 1
        dx = ((xs.to(at_NJ2)[:, None] - at_NJ2[:, None, :, 0]) / reach_J)[:, None]
        dy = ((ys.to(at_NJ2)[:, None] - at_NJ2[:, None, :, 1]) / reach_J)[:, :, None]
        across, down = dx.square(), dy.square()
        wide = 1 / (1 + (across + down) / 4)
        return torch.cat([(-across / 2).exp() * (-down / 2).exp(), wide, dx * wide, dy * wide], -1)

    def _far(self, hidden: Tensor) -> Tensor:
        """The coarse picture that needs no anchor, not yet as large as the grid."""
        x = F.silu(self.coarse(hidden).view(len(hidden), -1, _COARSE, _COARSE))
        x = F.silu(F.pixel_shuffle(self.up(x), 2))
        return x + F.silu(self.mix(x))

    def _grown(self, x: Tensor) -> Tensor:
        """Maps as large as the grid."""
        return F.interpolate(x, size=self.grid, mode="bilinear", align_corners=False)

    def scene(self, p_NP: Tensor) -> Tensor:
        """Robot and canvas without things, [N, 3, H, W] in 0..1."""
        color, alpha = self(p_NP)
        return over(self.canvas(p_NP), color, alpha)


@torch.no_grad()
def solve_code(frames_NCHW: Tensor, base_CHW: Tensor, basis_SCHW: Tensor) -> Tensor:
    """Code [N, S] of the canvas behind what frames in 0..1 show, in closed form.

    What covers it (robot, things) is left out as an outlier: least squares, solved again and again with weights of the errors that
    were left (Holland and Welsch, 1977).

    Args:
        frames_NCHW: What is seen.
        base_CHW: The canvas whose code is zero.
        basis_SCHW: What each number of the code adds.
    """
    shrink = max(1, min(base_CHW.shape[-2:]) // _SOLVED_PX)
    small = [F.avg_pool2d(x, shrink, ceil_mode=True).flatten(1) for x in (frames_NCHW - base_CHW, basis_SCHW)]
    miss_NX, basis_SX = small
    count = len(basis_SX)
    pairs_X = (basis_SX[:, None] * basis_SX[None]).flatten(0, 1).T
    ridge = _CODE_RIDGE * pairs_X.sum(0).view(count, count).trace() * torch.eye(count).to(basis_SX)
    code_NS = miss_NX.new_zeros(len(miss_NX), count)
    for power in _POWERS:
        left = ((miss_NX - code_NS @ basis_SX) / _EPS).abs()
        weight = 2 / (1 + left.pow(power))
        weight = weight / weight.mean(1, keepdim=True)
        gram = (weight @ pairs_X).unflatten(1, (count, count))
        code_NS = torch.linalg.solve(gram + ridge, (weight * miss_NX) @ basis_SX.T)
    return code_NS
