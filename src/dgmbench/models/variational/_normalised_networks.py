"""Fully connected networks whose hidden layers are normalised over the minibatch.

    u_0 = x,  v_i = W_i u_{i-1},  u_i = tanh(scale_i (v_i - m_i) / sqrt(s_i + 0.01) + shift_i),
    output W_L u_{L-1} + b_L

In training m and s are mean and variance of v over all n rows at hand, over draws of latent variables as well as over
examples; each such pass moves running statistics a fifth of the way to m and to s n / (n - 1), the unbiased variance.
Otherwise the running statistics take their place, and a row's output depends on that row alone. On a batch that has
exactly the running statistics both ways agree. A network without hidden layers is linear and has no normalisation.

References: Ioffe and Szegedy, "Batch normalization", ICML 2015; the constants 0.01 and 1/5, and variances of 2 / fan-in
for initial weights (He et al., "Delving deep into rectifiers", ICCV 2015, drawn normal and cut at two standard
deviations), are those of the code beside Vahdat, Andriyash and Macready, "DVAE#", NeurIPS 2018.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_ADDED_VARIANCE = 1e-2
_NEW_SHARE = 0.2
_SD_OF_CUT_NORMAL = 0.8796256610342398  # of a standard normal variable, given that it is between -2 and 2


class NormalisedNetworks:
    """Fitted state, by name:

    `parameters`: `<net>.<i>.weight` (out, in); of hidden layers `<net>.<i>.scale`, `<net>.<i>.shift` (out,), or where
    nothing is normalised `<net>.<i>.bias`; of output layers `<net>.<i>.bias`.
    `statistics`: `<net>.<i>.mean` and `<net>.<i>.variance` (out,), the running ones of hidden layers.

    Args: widths, of the layers of each net from its input to its output; normalise, whether hidden layers are.
    """

    def __init__(self, widths: Mapping[str, list[int]], normalise: bool):
        self.widths, self.normalise = dict(widths), normalise
        self.parameters: dict[str, Tensor] = {}
        self.statistics: dict[str, Tensor] = {}
        for net, layers in self.widths.items():
            for i, (fan_in, fan_out) in enumerate(itertools.pairwise(layers)):
                self.parameters[f"{net}.{i}.weight"] = torch.zeros(fan_out, fan_in)
                if i == len(layers) - 2 or not normalise:
                    self.parameters[f"{net}.{i}.bias"] = torch.zeros(fan_out)
                    continue
                self.parameters[f"{net}.{i}.scale"] = torch.ones(fan_out)
                self.parameters[f"{net}.{i}.shift"] = torch.zeros(fan_out)
                self.statistics[f"{net}.{i}.mean"] = torch.zeros(fan_out)
                self.statistics[f"{net}.{i}.variance"] = torch.ones(fan_out)

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights; scales and variances of one, all else zero."""
        device = generator.device
        for name, value in self.parameters.items():
            if name.endswith("weight"):
                uniform = torch.rand(value.shape, generator=generator, device=device)
                edge = math.erf(math.sqrt(2))  # 2 Phi(2) - 1
                cut = torch.special.ndtri(0.5 + edge * (uniform - 0.5)) / _SD_OF_CUT_NORMAL
                self.parameters[name] = cut * math.sqrt(2 / value.shape[1])
            else:
                self.parameters[name] = value.to(device).clone()
        self.statistics = {name: value.to(device).clone() for name, value in self.statistics.items()}

    def last(self, net: str) -> int:
        """Index of a net's output layer."""
        return len(self.widths[net]) - 2

    def apply(self, net: str, inputs: Sequence[Tensor], training: bool = False, layers: int | None = None) -> Tensor:
        """The first `layers` layers of a net (all by default): (..., in) -> (..., out).

        `inputs` are the parts of u_0 side by side, whose leading dimensions broadcast: x (n, d) beside k draws of
        latent variables (k, n, m) is multiplied by its weights once.
        """
        u = inputs[0]
        for i in range(self.last(net) + 1 if layers is None else layers):
            weight, bias = self.parameters[f"{net}.{i}.weight"], self.parameters.get(f"{net}.{i}.bias")
            if i < self.last(net) and self.normalise and not training:
                weight, bias = self._folded(f"{net}.{i}", weight)
            if i == 0:
                first, *others = weight.split([part.shape[-1] for part in inputs], 1)
                u = F.linear(u, first, bias)
                for part, piece in zip(inputs[1:], others, strict=True):
                    u = u + F.linear(part, piece)
            else:
                u = F.linear(u, weight, bias)
            if i < self.last(net):
                u = torch.tanh(self._normalised(f"{net}.{i}", u) if self.normalise and training else u)
        return u

    def _folded(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of the layer as the running statistics normalise it: one pass over its output less."""
        mean, variance = (self.statistics[f"{name}.{which}"] for which in ("mean", "variance"))
        factor = self.parameters[f"{name}.scale"] * torch.rsqrt(variance + _ADDED_VARIANCE)
        return factor[:, None] * weight, self.parameters[f"{name}.shift"] - factor * mean

    def _normalised(self, name: str, v: Tensor) -> Tensor:
        u = F.batch_norm(
            v.flatten(0, -2),
            self.statistics[f"{name}.mean"],
            self.statistics[f"{name}.variance"],
            self.parameters[f"{name}.scale"],
            self.parameters[f"{name}.shift"],
            True,
            _NEW_SHARE,
            _ADDED_VARIANCE,
        )
        return u.view(v.shape)
