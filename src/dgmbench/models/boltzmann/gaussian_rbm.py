"""Restricted Boltzmann machine with real visible units (Gaussian-Bernoulli).

    E(v, h) = sum_i (v_i - b_i)^2 / (2 s_i^2) - h.c - sum_ij (v_i / s_i^2) W_ij h_j,    v in R^d, h in {0, 1}^m
    log p*(v) = -sum_i (v_i - b_i)^2 / (2 s_i^2) + sum_j softplus(x_j),    x_j = c_j + sum_i v_i W_ij / s_i^2
    p(h_j = 1 given v) = sigmoid(x_j),    p(v given h) = N(b + W h, diag(s^2))

Variances are parametrised by z_i = log s_i^2: one, those of the training data, or learned for each unit. With
p_j = p(h_j = 1 given v), the gradient of log p* is

    d/dW_ij = v_i p_j / s_i^2,    d/db_i = (v_i - b_i) / s_i^2,    d/dc_j = p_j
    d/dz_i = ((v_i - b_i)^2 / 2 - v_i (W p)_i) / s_i^2

It is a mixture of 2^m Gaussians of equal covariance: summing v out,

    Z = prod_i (2 pi s_i^2)^(1/2) sum_h exp(h.(c + W'S b) + h.(W'S W) h / 2),    S = diag(1 / s^2)

References: Welling, Rosen-Zvi and Hinton, "Exponential family harmoniums with an application to information
retrieval", NIPS 2005; with this energy and log s^2: Cho, Ilin and Raiko, "Improved learning of Gaussian-Bernoulli
restricted Boltzmann machines", ICANN 2011, section 3; trained as `_training` says.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.models import base
from dgmbench.models.base import Energy, Sampler
from dgmbench.models.boltzmann._binary import Draws
from dgmbench.models.boltzmann._gaussian_path import GaussianPath
from dgmbench.models.boltzmann._training import TrainingSpec, Velocity, passes, train
from dgmbench.models.enumerated import StateEnumeration
from dgmbench.training.session import Session

MAX_ENUMERATED_BITS = 20
SMOKE = {"hidden": 3, "epochs": 3, "batch_size": 20, "chains": 20, "sample_sweeps": 20}

_EXACT_BITS = 12  # up to 4,096 states of the hidden units, an exact sample costs less than its chain would
_ROUNDING = 1e-12  # of the squared mean
_CHUNK = 65_536  # examples whose moments are summed at once


class Spec(TrainingSpec):
    learning_rate: float = Field(0.01, gt=0, description="Initial step size; it falls linearly to zero.")
    variance: Literal["one", "fixed", "learned"] = Field(
        "fixed",
        description="s_i^2: one, in the data's units; fixed at a share of the training data's variance of each unit; "
        "or learned from there.",
    )
    variance_share: float = Field(
        1.0, gt=0, description="fixed and learned: s_i^2, or where it starts, over the training data's variance."
    )


class Model(base.Model, Energy, Sampler):
    """Parameters: `weights` (d, m), `visible_bias` (d,), `hidden_bias` (m,), `log_variance` (d,).

    `base_mean` and `base_variance` (d,) are the normal distribution that chains start from.
    """

    Spec = Spec
    accepts = frozenset({"unit", "real"})

    @classmethod
    def operations(cls, spec: Spec, dimension: int) -> float:
        return float(spec.hidden * dimension)

    @classmethod
    def passes(cls, spec: Spec) -> float:
        return passes(spec)

    def __init__(self, spec: Spec, dimension: int):
        super().__init__(spec, dimension)
        self.weights = torch.zeros(dimension, spec.hidden)
        self.visible_bias = torch.zeros(dimension)
        self.hidden_bias = torch.zeros(spec.hidden)
        self.log_variance = torch.zeros(dimension)
        self.base_mean = torch.zeros(dimension)
        self.base_variance = torch.ones(dimension)

    def state(self) -> dict[str, Tensor]:
        names = ("weights", "visible_bias", "hidden_bias", "log_variance", "base_mean", "base_variance")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for name in self.state():
            setattr(self, name, state[name])

    @property
    def free_parameters(self) -> int:
        """Weights and biases, and the variances where they are learned."""
        return sum(value.numel() for value in self.parameters().values())

    def fit(self, data: Dataset, session: Session) -> None:
        """`_training.train` on v minus the training mean, over the training sd unless `variance` is one.

        In those coordinates hidden units start even, whatever the data's units are. Beside its history:
        `reconstruction_error` once an epoch.

        Raises:
            CannotBeDone: a unit is constant in the training data, and `variance` is not one.
        """
        mean, variance = _moments(data, session.device)
        one = self.spec.variance == "one"
        scale = torch.ones_like(variance) if one else variance.sqrt()
        if not bool((scale > 0).all()):
            raise CannotBeDone(
                f"dimension {int((scale <= 0).nonzero()[0])} is constant in the training data: set variance to one, or "
                "leave such dimensions out of the data."
            )
        working = Model(self.spec, self.dimension)
        noise = torch.randn(self.dimension, self.spec.hidden, generator=session.generator, device=session.device)
        zeros = torch.zeros(self.dimension, device=session.device)
        working.load_state(
            {
                "weights": self.spec.weight_sd * noise,
                "visible_bias": zeros,
                "hidden_bias": torch.zeros(self.spec.hidden, device=session.device),
                "log_variance": torch.full_like(zeros, 0.0 if one else math.log(self.spec.variance_share)),
                "base_mean": zeros.clone(),
                "base_variance": (variance / scale**2).float(),
            }
        )
        centre, spread = mean.float(), scale.float()
        train(working, data, session, lambda x: (x - centre) / spread)
        self.load_state(working.moved(mean, scale))

    def moved(self, mean: Tensor, scale: Tensor) -> dict[str, Tensor]:
        """The state of the machine of mean + scale v, where v is this one's: log p* is the same number."""
        weights, precision = self.weights.double(), torch.exp(-self.log_variance.double())
        state = {
            "weights": scale[:, None] * weights,
            "visible_bias": mean + scale * self.visible_bias,
            "hidden_bias": self.hidden_bias - (mean / scale * precision) @ weights,
            "log_variance": self.log_variance + 2 * scale.log(),
            "base_mean": mean + scale * self.base_mean,
            "base_variance": scale**2 * self.base_variance,
        }
        return {name: value.to(self.weights.dtype) for name, value in state.items()}

    def parameters(self) -> dict[str, Tensor]:
        """What training changes."""
        learned = {"log_variance"} if self.spec.variance == "learned" else set()
        return {n: v for n, v in self.state().items() if n in {"weights", "visible_bias", "hidden_bias"} | learned}

    def first_chains(self, n: int, generator: torch.Generator) -> Tensor:
        return self.base_mean + self.base_variance.sqrt() * self._noise(n, generator)

    def hidden_input(self, visible: Tensor) -> Tensor:
        """c + (v / s^2) W: (n, d) -> (n, m)."""
        return torch.addmm(self.hidden_bias, visible * torch.exp(-self.log_variance), self.weights)

    def visible_mean(self, hidden: Tensor) -> Tensor:
        """b + W h: (n, m) -> (n, d)."""
        return torch.addmm(self.visible_bias, hidden, self.weights.T)

    def log_visible(self, x: Tensor) -> Tensor:
        """-sum_i (v_i - b_i)^2 / (2 s_i^2), nats: (n, d) -> (n,), float64."""
        return (x - self.visible_bias).double().square() @ (-0.5 * torch.exp(-self.log_variance.double()))

    def log_unnormalised(self, x: Tensor) -> Tensor:
        x = x.to(self.weights)
        return self.log_visible(x) + F.softplus(self.hidden_input(x)).sum(1, dtype=torch.float64)

    def gibbs(self, hidden_mean: Tensor, sweeps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Block Gibbs from states whose p(h = 1 given v) is `hidden_mean`: (n, m) -> v (n, d), h (n, m)."""
        draws, sd = Draws(generator), torch.exp(0.5 * self.log_variance)
        for sweep in range(1, sweeps + 1):
            hidden = draws.of(hidden_mean)
            visible = torch.addcmul(self.visible_mean(hidden), sd, self._noise(len(hidden), generator))
            if sweep < sweeps:
                hidden_mean = self.hidden_input(visible).sigmoid_()
        return visible, hidden

    def accumulate(self, velocity: Velocity, keep: float, visible: Tensor, slope: Tensor, sign: Tensor) -> None:
        """velocity <- keep velocity + d/dtheta [sum_r sign_r log_visible(v_r) + sum_rj slope_rj x_rj], in place.

        With slope_rj = sign_r p(h_j = 1 given v_r) that is sum_r sign_r d log p*(v_r)/dtheta.
        """
        precision, centred = torch.exp(-self.log_variance), visible - self.visible_bias
        velocity["weights"].addmm_((visible * precision).T, slope, beta=keep)
        velocity["visible_bias"].mul_(keep).add_(precision * (centred.T @ sign))
        velocity["hidden_bias"].mul_(keep).add_(slope.sum(0))
        if "log_variance" in velocity:
            spread = 0.5 * (centred.square_().T @ sign) - (visible * (slope @ self.weights.T)).sum(0)
            velocity["log_variance"].mul_(keep).add_(precision * spread)

    def monitors(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """`reconstruction_error`: squared difference of v and b + W E[h given v], mean over units and examples, in the
        coordinates of training."""
        residual = x - self.visible_mean(self.hidden_input(x).sigmoid_())
        return {"reconstruction_error": residual.square().mean()}

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws: exact where few hidden units can be enumerated, else ends of `sample_sweeps` sweeps: (n, d)."""
        if self.spec.hidden <= _EXACT_BITS:
            return self._exact_sample(n, generator)
        hidden_mean = self.hidden_input(self.first_chains(n, generator)).sigmoid_()
        return self.gibbs(hidden_mean, self.spec.sample_sweeps, generator)[0]

    def annealed_path(self, data: Dataset) -> GaussianPath:
        """From independent normal units with the training data's means and variances (1 where constant)."""
        mean, variance = _moments(data, self.weights.device)
        variance = torch.where(variance > 0, variance, 1.0)
        return GaussianPath(self, mean.to(self.weights), variance.to(self.weights))

    def enumeration(self) -> StateEnumeration:
        """Z as the sum over the hidden units, v integrated out."""
        bits = self.spec.hidden
        if bits > MAX_ENUMERATED_BITS:
            raise CannotBeDone(f"there are {bits} hidden units; at most {MAX_ENUMERATED_BITS} can be enumerated")
        weights, precision = self.weights.double(), torch.exp(-self.log_variance.double())
        volume = 0.5 * (math.log(2 * math.pi) + self.log_variance.double()).sum()
        linear = self.hidden_bias.double() + (self.visible_bias.double() * precision) @ weights
        coupling = 0.5 * weights.T @ (precision[:, None] * weights)

        def log_term(hidden: Tensor) -> Tensor:
            return volume + hidden @ linear + ((hidden @ coupling) * hidden).sum(1)

        def state_given(hidden: Tensor, generator: torch.Generator) -> Tensor:
            sd = torch.exp(0.5 * self.log_variance)
            return self.visible_mean(hidden.to(self.weights)) + sd * self._noise(len(hidden), generator)

        return StateEnumeration(bits, log_term, state_given)

    def _exact_sample(self, n: int, generator: torch.Generator) -> Tensor:
        """h from its enumerated marginal, then v given h: (n, d)."""
        enumeration, device = self.enumeration(), self.weights.device
        places = torch.arange(enumeration.bits, device=device)
        parts = torch.arange(2**enumeration.bits, device=device).split(_CHUNK)
        log_p = torch.cat([enumeration.log_term((part[:, None] >> places & 1).double()) for part in parts])
        chosen = torch.multinomial(log_p.softmax(0), n, replacement=True, generator=generator)
        return enumeration.state_given((chosen[:, None] >> places & 1).double(), generator)

    def _noise(self, n: int, generator: torch.Generator) -> Tensor:
        like = self.visible_bias
        return torch.randn(n, self.dimension, generator=generator, dtype=like.dtype, device=like.device)


def _moments(data: Dataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and variance of each unit over the training examples, 0 where rounding is all of it: (d,), (d,), float64."""
    starts = range(0, len(data.train), _CHUNK)
    mean = sum(data.train.take(slice(i, i + _CHUNK)).double().sum(0) for i in starts) / len(data.train)
    squares = ((data.train.take(slice(i, i + _CHUNK)).double() - mean).square().sum(0) for i in starts)
    variance = sum(squares) / len(data.train)
    variance[variance <= _ROUNDING * mean.square()] = 0.0
    return mean.to(device), variance.to(device)
