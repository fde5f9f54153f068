"""Restricted Boltzmann machine on binary data.

    E(v, h) = -v.a - h.b - v W h,    p(v, h) = exp(-E(v, h)) / Z,    v in {0, 1}^d, h in {0, 1}^m
    log p*(v) = v.a + sum_j softplus(b_j + v.W_j)                    (the hidden units summed out)

Trained by contrastive divergence with a fixed or a growing number of sweeps, or by persistent contrastive divergence:
see `_training`.

References: Smolensky, "Information processing in dynamical systems", 1986; Tieleman, "Training restricted
Boltzmann machines using approximations to the likelihood gradient", ICML 2008; the annealed path is that of
Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.models import base
from dgmbench.models.base import BinaryLatents, Energy, Features, Reconstruction, Sampler
from dgmbench.models.boltzmann._binary import base_rate_log_odds, block_gibbs, draw
from dgmbench.models.boltzmann._bipartite import Bipartite, Path
from dgmbench.models.boltzmann._training import BinarySpec, Velocity, passes, train
from dgmbench.models.enumerated import StateEnumeration
from dgmbench.training.session import Session

SMOKE = {"hidden": 3, "epochs": 3, "batch_size": 20, "chains": 20, "learning_rate": 0.1, "sample_sweeps": 20}


class Spec(BinarySpec):
    """Every hyper-parameter is one of training, which all restricted Boltzmann machines share."""


class Model(base.Model, Energy, BinaryLatents, Sampler, Reconstruction, Features):
    """Parameters: `weights` (d, m), `visible_bias` (d,), `hidden_bias` (m,); `base_bias` (d,) is where chains start."""

    Spec = Spec
    accepts = frozenset({"binary"})

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
        self.base_bias = torch.zeros(dimension)

    def state(self) -> dict[str, Tensor]:
        names = ("weights", "visible_bias", "hidden_bias", "base_bias")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for name in self.state():
            setattr(self, name, state[name])

    def fit(self, data: Dataset, session: Session) -> None:
        """`_training.train` from small random weights and visible biases at the base rates.

        Beside its history: `pseudo_log_likelihood` and `reconstruction_error`, nats, once an epoch.
        """
        self._initialise(data, session)
        train(self, data, session, is_centred=self.spec.centred)

    def parameters(self) -> dict[str, Tensor]:
        """What training changes."""
        return {name: value for name, value in self.state().items() if name != "base_bias"}

    def first_chains(self, n: int, generator: torch.Generator) -> Tensor:
        """Independent pixels at the base rates: (n, d)."""
        return draw(torch.sigmoid(self.base_bias).expand(n, -1), generator)

    def gibbs(self, hidden_mean: Tensor, sweeps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Block Gibbs from states whose p(h = 1 given v) is `hidden_mean`: (n, m) -> v (n, d), h (n, m)."""
        return block_gibbs(hidden_mean, self.weights, self.visible_bias, self.hidden_bias, sweeps, generator)

    def accumulate(self, velocity: Velocity, keep: float, visible: Tensor, slope: Tensor, sign: Tensor) -> None:
        """velocity <- keep velocity + d/dtheta [sum_r sign_r v_r.a + sum_rj slope_rj x_rj], in place.

        x_rj is the input of hidden unit j; with slope_rj = sign_r p(h_j = 1 given v_r) that is
        sum_r sign_r d log p*(v_r)/dtheta.
        """
        velocity["weights"].addmm_(visible.T, slope, beta=keep)
        velocity["visible_bias"].mul_(keep).addmv_(visible.T, sign)
        velocity["hidden_bias"].mul_(keep).add_(slope.sum(0))

    def hidden_input(self, visible: Tensor) -> Tensor:
        """b + v W: (n, d) -> (n, m)."""
        return torch.addmm(self.hidden_bias, visible, self.weights)

    def visible_input(self, hidden: Tensor) -> Tensor:
        """a + W h: (n, m) -> (n, d)."""
        return torch.addmm(self.visible_bias, hidden, self.weights.T)

    def log_unnormalised(self, x: Tensor) -> Tensor:
        """-F(v) = v.a + sum_j softplus(b_j + v.W_j) in nats, summed in float64: (n, d) -> (n,)."""
        x = x.to(self.weights)
        return self._log_unnormalised(x, self.hidden_input(x))

    def pseudo_log_likelihood(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Mean of d log p(v_i given the others), one random pixel i for each example, in nats: (n, d) -> ().

        An unbiased estimate of the mean log pseudo-likelihood (Besag 1975).
        """
        rows = torch.arange(len(x), device=x.device)
        pixel = torch.randint(self.dimension, (len(x),), generator=generator, device=x.device)
        flipped = x.clone()
        flipped[rows, pixel] = 1 - flipped[rows, pixel]
        gap = self.log_unnormalised(x) - self.log_unnormalised(flipped)
        return self.dimension * F.logsigmoid(gap).mean()

    def reconstruction_error(self, x: Tensor) -> Tensor:
        """Mean of -log p(v given h) at h = E[h given v], in nats: (n, d) -> ()."""
        logits = self.visible_input(torch.sigmoid(self.hidden_input(x)))
        return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1).mean()

    def monitors(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            "pseudo_log_likelihood": self.pseudo_log_likelihood(x, generator),
            "reconstruction_error": self.reconstruction_error(x),
        }

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n binary draws, each the end of its own chain of `sample_sweeps` sweeps from the base rates: (n, d)."""
        hidden_mean = self.hidden_input(self.first_chains(n, generator)).sigmoid_()
        return self.gibbs(hidden_mean, self.spec.sample_sweeps, generator)[0]

    def annealed_path(self, data: Dataset) -> Path:
        """From independent pixels at the training data's base rates, hidden units as fair coins, to the machine."""
        return Path(self._bipartite(), base_rate_log_odds(data).to(self.weights), torch.zeros_like(self.hidden_bias))

    def enumeration(self) -> StateEnumeration:
        return self._bipartite().enumeration()

    def reconstruct(self, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        machine, state = self._bipartite(), x.to(self.weights)
        for _ in range(steps - 1):
            state = machine.sweep(state, generator)
        return machine.sweep_mean(state, generator)

    def filters(self) -> Tensor:
        return self.weights.T

    def up_pass(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.weights, self.hidden_bias)]

    def couplings(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.weights, self.visible_bias, self.hidden_bias

    def posterior_log_odds(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Of z = (v, h) by one pass of the machine's own means: b + x W up, a + W sigmoid(b + x W) down again."""
        machine, x = self._bipartite(), x.to(self.weights)
        up = machine.other_input(x)
        return torch.cat([machine.own_input(torch.sigmoid(up)), up], 1)

    def log_prob_x_given_units(self, x: Tensor, zeta: Tensor) -> Tensor:
        return zeta.new_zeros(len(x))

    def _bipartite(self) -> Bipartite:
        return Bipartite(*self.couplings())

    def _initialise(self, data: Dataset, session: Session) -> None:
        device = session.device
        self.base_bias = base_rate_log_odds(data).to(device, torch.float32)
        self.visible_bias = self.base_bias.clone()
        self.hidden_bias = torch.zeros(self.spec.hidden, device=device)
        noise = torch.randn(self.dimension, self.spec.hidden, generator=session.generator, device=device)
        self.weights = self.spec.weight_sd * noise

    def _log_unnormalised(self, visible: Tensor, hidden_input: Tensor) -> Tensor:
        return visible.double() @ self.visible_bias.double() + F.softplus(hidden_input).sum(1, dtype=torch.float64)
