"""Ensembles evaluated in one go: M x L small networks as batched matrix products.

Shape legend: M members, L layers (or 1), B batch, F features.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MemberMLP(nn.Module):
    """M x L independent multilayer perceptrons evaluated as batched matrix products: [M, L, B, F] -> [M, L, B, out]."""

    def __init__(self, members: int, layers: int, sizes: tuple[int, ...]) -> None:
        """Make the weights; `sizes` lists input, hidden and output widths. The last layer starts near zero."""
        super().__init__()
        self.layers, self.sizes = layers, sizes
        self.weight = nn.ParameterList()
        self.bias = nn.ParameterList()
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            gain = 0.01 if i == len(sizes) - 2 else math.sqrt(2)
            self.weight.append(torch.randn(members * layers, fan_in, fan_out) * gain / math.sqrt(fan_in))
            self.bias.append(torch.zeros(members * layers, 1, fan_out))

    def only(self, member: int) -> "MemberMLP":
        """One member as an ensemble of one; its weights are shared, not copied."""
        with torch.device("meta"):  # no memory, and no random numbers
            alone = MemberMLP(1, self.layers, self.sizes)
        rows = slice(member * self.layers, (member + 1) * self.layers)
        for own, every in ((alone.weight, self.weight), (alone.bias, self.bias)):
            for i, value in enumerate(every):
                own[i] = nn.Parameter(value.detach()[rows], requires_grad=value.requires_grad)
        return alone

    def forward(self, x_MLBF: Tensor) -> Tensor:
        """Apply each member's network of each layer to its own features."""
        h = x_MLBF.flatten(0, 1)
        for i, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if i < len(self.weight) - 1:
                h = F.silu(h)
        return h.unflatten(0, x_MLBF.shape[:2])
