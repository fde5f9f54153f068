"""Restricted Boltzmann machine on binary data.

    E(v, h) = -v.a - h.b - v W h,    p(v, h) = exp(-E(v, h)) / Z,    v in {0, 1}^d, h in {0, 1}^m
    log p*(v) = v.a + sum_j softplus(b_j + v.W_j)                    (the hidden units summed out)

Trained by persistent contrastive divergence: the gradient of the mean log-likelihood,
<v h> under the data minus <v h> under the model, with the model's term taken from Markov chains that are
carried from update to update and a learning rate that falls linearly to zero.

References: Smolensky, "Information processing in dynamical systems", 1986; Tieleman, "Training restricted
Boltzmann machines using approximations to the likelihood gradient", ICML 2008; the annealed path is that of
Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.models import base
from dgmbench.models.base import AnnealedPath, Energy, ModelSpec, Sampler
from dgmbench.models.boltzmann._binary import base_rate_log_odds, draw
from dgmbench.models.enumerated import StateEnumeration
from dgmbench.training.session import Session

MAX_ENUMERATED_BITS = 20
SMOKE = {"hidden": 3, "epochs": 3, "batch_size": 20, "chains": 20, "learning_rate": 0.1, "sample_sweeps": 20}


class Spec(ModelSpec):
    hidden: int = Field(500, ge=1, description="Number of binary hidden units.")
    epochs: int = Field(200, ge=1, description="Passes over the training data.")
    batch_size: int = Field(100, ge=1, description="Examples in a minibatch; the last, smaller one is left out.")
    learning_rate: float = Field(0.05, gt=0, description="Initial step size; it falls linearly to zero.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Share of the last update's direction that is kept.")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty (decay / 2) |W|^2 on the weights, not on biases.")
    chains: int = Field(100, ge=1, description="Persistent Markov chains.")
    gibbs_steps: int = Field(1, ge=1, description="Sweeps of every chain between two updates.")
    weight_sd: float = Field(0.01, ge=0, description="Standard deviation of the initial weights.")
    sample_sweeps: int = Field(1000, ge=1, description="Gibbs sweeps from the base rates before a sample is taken.")


class Model(base.Model, Energy, Sampler):
    """Parameters: `weights` (d, m), `visible_bias` (d,), `hidden_bias` (m,); `base_bias` (d,) is where chains start."""

    Spec = Spec
    accepts = frozenset({"binary"})

    @classmethod
    def operations(cls, spec: Spec, dimension: int) -> float:
        return float(spec.hidden * dimension)

    @classmethod
    def passes(cls, spec: Spec) -> float:
        return spec.epochs * (2 + 2 * spec.gibbs_steps * spec.chains / spec.batch_size)

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
        """Persistent contrastive divergence (Tieleman 2008).

        The chains that an update uses were moved under the parameters before it, so that one product with
        the weights serves both the data's and the chains' hidden units. The history holds `free_energy_gap`,
        mean F(data) - mean F(chains) in nats, at every step, and `pseudo_log_likelihood` once an epoch.
        """
        spec, generator = self.spec, session.generator
        self._initialise(data, session)
        batch = min(spec.batch_size, len(data.train))
        batches = len(data.train) // batch
        order = torch.zeros(len(data.train), dtype=torch.int64, device=session.device)
        chains = draw(torch.sigmoid(self.base_bias).expand(spec.chains, -1), generator)
        velocity = {name: torch.zeros_like(value) for name, value in self.state().items() if name != "base_bias"}
        session.track(parameters=self.state(), velocity=velocity, other={"chains": chains, "order": order})

        total = spec.epochs * batches
        visible = torch.empty(batch + spec.chains, self.dimension, device=session.device)
        visible[batch:] = chains
        # A product with `sign` is a mean over the data less a mean over the chains.
        sign = torch.full((len(visible),), -1 / spec.chains, device=session.device)
        sign[:batch] = 1 / batch
        for step in session.steps(total):
            if step % batches == 0:
                order.copy_(torch.randperm(len(order), generator=generator, device=session.device))
            rows = order[(step % batches) * batch : (step % batches + 1) * batch]
            visible[:batch] = data.train.take(rows, generator)
            hidden_input = self.hidden_input(visible)
            hidden_mean = torch.sigmoid(hidden_input)
            moved = self._sweep(hidden_mean[batch:], generator)
            for _ in range(spec.gibbs_steps - 1):
                moved = self._sweep(torch.sigmoid_(self.hidden_input(moved)), generator)

            energy_gap = -(visible.T @ sign) @ self.visible_bias - sign @ F.softplus(hidden_input).sum(1)
            session.record(free_energy_gap=energy_gap)
            self._accumulate(visible, hidden_mean, sign, velocity)
            for name, direction in velocity.items():
                getattr(self, name).add_(direction, alpha=spec.learning_rate * (1 - step / total))
            visible[batch:] = chains.copy_(moved)
            if (step + 1) % batches == 0:
                session.record(pseudo_log_likelihood=self.pseudo_log_likelihood(visible[:batch], generator))

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

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n binary draws, each the end of its own chain of `sample_sweeps` sweeps from the base rates: (n, d)."""
        state = draw(torch.sigmoid(self.base_bias).expand(n, -1), generator)
        for _ in range(self.spec.sample_sweeps):
            state = self._sweep(torch.sigmoid_(self.hidden_input(state)), generator)
        return state

    def annealed_path(self, data: Dataset) -> "Path":
        """From independent pixels at the training data's base rates to this machine."""
        return Path(self, base_rate_log_odds(data).to(self.weights))

    def enumeration(self) -> StateEnumeration:
        """Z = sum over the smaller side s of exp(s.c + sum_k softplus(e_k + s.W_k)), c and e its own and the other
        side's biases."""
        bits = min(self.dimension, self.spec.hidden)
        if bits > MAX_ENUMERATED_BITS:
            raise CannotBeDone(f"the smaller side has {bits} units; at most {MAX_ENUMERATED_BITS} can be enumerated")
        weights, own, other = self.weights.double(), self.visible_bias.double(), self.hidden_bias.double()
        hidden_side = self.spec.hidden < self.dimension
        if hidden_side:
            weights, own, other = weights.T, other, own

        def state_given(side: Tensor, generator: torch.Generator) -> Tensor:
            side = side.to(self.weights)
            return draw(torch.sigmoid_(self.visible_input(side)), generator) if hidden_side else side

        def log_term(side: Tensor) -> Tensor:
            return side @ own + F.softplus(torch.addmm(other, side, weights)).sum(1)

        return StateEnumeration(bits, log_term, state_given)

    def _initialise(self, data: Dataset, session: Session) -> None:
        device = session.device
        self.base_bias = base_rate_log_odds(data).to(device, torch.float32)
        self.visible_bias = self.base_bias.clone()
        self.hidden_bias = torch.zeros(self.spec.hidden, device=device)
        noise = torch.randn(self.dimension, self.spec.hidden, generator=session.generator, device=device)
        self.weights = self.spec.weight_sd * noise

    def _log_unnormalised(self, visible: Tensor, hidden_input: Tensor) -> Tensor:
        return visible.double() @ self.visible_bias.double() + F.softplus(hidden_input).sum(1, dtype=torch.float64)

    def _sweep(self, hidden_mean: Tensor, generator: torch.Generator) -> Tensor:
        """h from its means, then v given h: (n, m) -> (n, d)."""
        return draw(torch.sigmoid_(self.visible_input(draw(hidden_mean, generator))), generator)

    def _accumulate(self, visible: Tensor, hidden_mean: Tensor, sign: Tensor, velocity: dict[str, Tensor]) -> None:
        """velocity <- momentum velocity + gradient, in place; the gradient is sum_r sign_r v_r p(h_j = 1 given v_r)."""
        keep, signed = self.spec.momentum, hidden_mean * sign[:, None]
        velocity["weights"].addmm_(visible.T, signed, beta=keep)
        if self.spec.weight_decay:
            velocity["weights"].add_(self.weights, alpha=-self.spec.weight_decay)
        velocity["visible_bias"].mul_(keep).addmv_(visible.T, sign)
        velocity["hidden_bias"].mul_(keep).add_(signed.sum(0))


class Path(AnnealedPath):
    """p*_beta(v) = exp((1 - beta) v.a0 + beta v.a) prod_j (1 + exp(beta (b_j + v.W_j))).

    At beta = 0 the pixels are independent with log-odds a0 and every hidden unit is a fair coin:
    log Z_0 = sum_i softplus(a0_i) + m log 2 (Salakhutdinov and Murray 2008).

    A state must not be changed in place: the product v W of the last one is kept, since the importance ratio
    and the transition that follows it both need it.
    """

    def __init__(self, machine: Model, base_bias: Tensor):
        self.machine, self.base_bias = machine, base_bias
        self.tilt = machine.visible_bias - base_bias
        hidden = machine.weights.shape[1]
        self.log_z_base = F.softplus(base_bias.double()).sum().item() + hidden * math.log(2)
        self._state: Tensor | None = None
        self._hidden_input: Tensor | None = None
        self._beta = math.nan
        self._hidden_mean: Tensor | None = None

    def sample_base(self, n: int, generator: torch.Generator) -> Tensor:
        return draw(torch.sigmoid(self.base_bias).expand(n, -1), generator)

    def log_unnormalised(self, state: Tensor, beta: float) -> Tensor:
        visible = state.double() @ (self.base_bias.double() + beta * self.tilt.double())
        return visible + F.softplus(beta * self._input(state)).sum(1, dtype=torch.float64)

    def log_ratio(self, state: Tensor, beta_from: float, beta_to: float) -> Tensor:
        """The difference is formed unit by unit, so that it stays accurate when the temperatures are close:
        softplus(beta' x) - softplus(beta x) = -log(1 + sigmoid(beta' x) (exp((beta - beta') x) - 1))."""
        change = beta_to - beta_from
        hidden_input = self._input(state)
        if abs(change) <= 0.01:  # exp(change x) stays in range for any |x| < 8000
            growth = torch.expm1(-change * hidden_input).mul_(self._mean(state, beta_to))
            hidden = -growth.log1p_().sum(1).double()
        else:
            hidden = F.softplus(beta_to * hidden_input).sum(1, dtype=torch.float64)
            hidden -= F.softplus(beta_from * hidden_input).sum(1, dtype=torch.float64)
        return hidden + change * torch.mv(state, self.tilt).double()

    def step(self, state: Tensor, beta: float, generator: torch.Generator) -> Tensor:
        """Block Gibbs: h given v, then v given h, both at `beta`."""
        hidden = draw(self._mean(state, beta), generator)
        bias = self.base_bias + beta * self.tilt
        return draw(torch.addmm(bias, hidden, self.machine.weights.T, alpha=beta).sigmoid_(), generator)

    def _input(self, state: Tensor) -> Tensor:
        if state is not self._state:
            self._state, self._hidden_input = state, self.machine.hidden_input(state)
            self._beta = math.nan
        return self._hidden_input

    def _mean(self, state: Tensor, beta: float) -> Tensor:
        hidden_input = self._input(state)
        if beta != self._beta:
            self._beta, self._hidden_mean = beta, torch.sigmoid_(beta * hidden_input)
        return self._hidden_mean
