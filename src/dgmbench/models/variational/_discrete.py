"""What the discrete variational autoencoders share: model, approximate posterior, evaluation, sampling and training.

    p(x, z) = p(z) p(x given z),    p(z) = exp(a.z_s + b.z_o + z_s W z_o) / Z,    z = (z_s, z_o) in {0, 1}^D
    q(z given x) = prod_g q(z_g given x, z_<g),    p(x given z) and each unit of q(z_g given ...) Bernoulli by networks
    log p(x) >= E[log (1/k) sum_i w_i],    w = p(x, z) / q(z given x)

That is the discrete graphical model, the one that is evaluated. Training replaces every z_i by a continuous zeta_i with
density r(zeta_i given z_i), whose draws have gradients, in the networks' inputs; how the prior enters, tells the
methods apart (`dvae`, `dvae_pp`, `dvae_sharp`). As r sharpens, zeta tends to z. log Z and the negative phase of its
gradient come from Markov chains: see `_negative_phase`.

The encoder sees x less the training data's mean; the decoder's output starts at that mean's log-odds.

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, sections 2 and 4.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.models import base
from dgmbench.models.base import BinaryLatents, Encoder, Sampler, VariationalBound
from dgmbench.models.boltzmann._binary import block_gibbs, draw
from dgmbench.models.boltzmann._bipartite import Bipartite, Path
from dgmbench.models.enumerated import StateEnumeration
from dgmbench.models.variational import _discrete_training as training
from dgmbench.models.variational._boltzmann_prior import bernoulli_entropy, log_unnormalised, mean_log_unnormalised
from dgmbench.models.variational._discrete_training import DiscreteSpec
from dgmbench.models.variational._negative_phase import NegativePhase, annealed_log_z
from dgmbench.models.variational._outputs import Bernoulli, bernoulli_log_normaliser
from dgmbench.models.variational._training import VALIDATION_SEED, log_mean_exp, validation_examples
from dgmbench.models.variational.smoothing.base import Smoothing
from dgmbench.training.session import Session

_ROWS_AT_ONCE = 2000


class DiscreteAutoencoder(base.Model, VariationalBound, BinaryLatents, Encoder, Sampler):
    """`parameters`: those of the networks (`_normalised_networks`), `prior.weights` (D/2, D - D/2), `prior.own` and
    `prior.other`, and whatever a method adds. `mean` (d,) is what the encoder subtracts from x.

    `outputs`: numbers that an encoder gives for each unit, the first of which is the log-odds of z_i.
    """

    accepts = frozenset({"binary"})
    outputs = 1
    method: str

    @classmethod
    def operations(cls, spec: DiscreteSpec, dimension: int) -> float:
        return training.operations(spec, dimension)

    @classmethod
    def passes(cls, spec: DiscreteSpec) -> float:
        return training.passes(spec)

    def __init__(self, spec: DiscreteSpec, dimension: int):
        super().__init__(spec, dimension)
        self.networks = training.networks(spec, dimension, self.outputs)
        units = spec.groups * spec.latent
        own, other = units // 2, units - units // 2
        self.others = {
            "prior.weights": torch.zeros(own, other),
            "prior.own": torch.zeros(own),
            "prior.other": torch.zeros(other),
            **self.further_parameters(units),
        }
        self.mean = torch.zeros(dimension)
        self.beta = math.nan  # of training alone, where `fit` sets it

    def further_parameters(self, units: int) -> dict[str, Tensor]:
        """What a method learns beside networks and prior, at first."""
        return {}

    @property
    def slipped(self) -> bool:
        """Whether the formulas are those of the published code."""
        return self.spec.formulas == "code"

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {**self.networks.parameters, **self.others}

    @property
    def machine(self) -> Bipartite:
        """The prior on z."""
        return Bipartite(*self.couplings())

    def couplings(self) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(self.others[f"prior.{name}"] for name in ("weights", "own", "other"))

    def state(self) -> dict[str, Tensor]:
        fitted = {**self.parameters, **self.networks.statistics, "mean": self.mean}
        return {name: value.detach() for name, value in fitted.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for group in (self.networks.parameters, self.networks.statistics, self.others):
            group.update({name: state[name] for name in group})
        self.mean = state["mean"]

    def fit(self, data: Dataset, session: Session) -> None:
        """Adam on the negative objective; the state with the best validation bound is kept, or that of `stop_after`.

        The history holds `bound_and_log_z`, the relaxed bound of the minibatch without the -log Z in it, of every
        step, and `validation_bound` and `log_z`, of the discrete model, where they are measured. All in nats.
        """
        spec, generator = self.spec, session.generator
        self.beta = training.sharpness(spec, self.method, data.name)
        self._initialise(data, session)
        optimiser = training.optimiser(spec, self.parameters)
        negative = NegativePhase(self.machine, spec.negative_phase, spec.chains, spec.sweeps, generator)
        batch = min(spec.batch_size, len(data.train))
        batches = len(data.train) // batch
        order = torch.zeros(len(data.train), dtype=torch.int64, device=session.device)
        state = self.state()
        best = {f"best.{name}": value.clone() for name, value in state.items()}
        kept = {"order": order, "best_bound": -math.inf, **best}
        session.track(state=state, optimiser=optimiser, negative=negative.kept, kept=kept)
        validation = validation_examples(spec, data, session.device)

        for step in session.steps(spec.stop_after or spec.iterations):
            place = step % batches
            if place == 0:
                order.copy_(torch.randperm(len(order), generator=generator, device=session.device))
            x = data.train.take(order[place * batch : (place + 1) * batch], generator).to(session.device)
            for group in optimiser.param_groups:
                group["lr"] = training.learning_rate(spec, step)
            weight = training.divergence_weight(spec, step)
            chains = negative.samples(self.machine, generator)
            objective, bound = self.objective(x, generator, weight)
            optimiser.zero_grad()
            (weight * mean_log_unnormalised(self.machine, *chains) - objective.mean()).backward()
            optimiser.step()
            session.record(bound_and_log_z=bound.detach().mean())
            if training.measured_after(spec, step):
                log_z, value = self.validation_bound(validation)
                session.record(log_z=log_z, validation_bound=value)
                if value > kept["best_bound"]:
                    kept["best_bound"] = value
                    for name, now in state.items():
                        kept[f"best.{name}"].copy_(now)
        if spec.stop_after is None:
            self.load_state({name: kept[f"best.{name}"] for name in state})

    @abstractmethod
    def objective(self, x: Tensor, generator: torch.Generator, weight: float) -> tuple[Tensor, Tensor]:
        """The bound with its divergence multiplied by `weight`, and the bound, both plus log Z: (n, d) -> (n,) twice.

        A draw of them in training: hidden layers are normalised over this batch. Nats.
        """

    def smoothed(self, outputs: Tensor, units: slice) -> tuple[Smoothing, Tensor]:
        """r of some units and their log-odds, from what the encoder says of them: (..., outputs m) -> (..., m)."""
        return self.smoothing, outputs

    def relaxed(self, x: Tensor, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor, list[Smoothing]]:
        """k draws of zeta from q: zeta and log-odds of z given x and earlier groups (k, n, D), each group's r."""
        m, seen, logits, smoothings = self.spec.latent, [self._typed(x) - self.mean], [], []
        for g in range(self.spec.groups):
            outputs = self.networks.apply(f"encoder{g}", seen, training=True)
            smoothing, log_odds = self.smoothed(outputs, slice(g * m, (g + 1) * m))
            log_odds = log_odds.expand(k, len(x), m)
            seen.append(smoothing.sample(log_odds, generator))
            logits.append(log_odds)
            smoothings.append(smoothing)
        return torch.cat(seen[1:], -1), torch.cat(logits, -1), smoothings

    def averaged(
        self, x: Tensor, zeta: Tensor, logits: Tensor, log_prior: Tensor, weight: float
    ) -> tuple[Tensor, Tensor]:
        """`objective` where it is a mean over k draws of log p(x given zeta) + H(q(z given x, ...)) + E[log p(z)]."""
        divergence = -bernoulli_entropy(logits) - log_prior
        log_likelihood = self.log_prob_x(x, zeta, training=True)
        return (log_likelihood - weight * divergence).mean(0), (log_likelihood - divergence).mean(0)

    def log_prob_x(self, x: Tensor, latent: Tensor, training: bool = False) -> Tensor:
        """log p(x given z) or p(x given zeta), nats: (n, d), (k, n, D) -> (k, n).

        x.(W u + b) is taken in the last hidden layer u, as (x W).u + x.b: one pass over k n rows of d less.
        """
        x, last = self._typed(x), self.networks.last("decoder")
        weight, bias = (self.parameters[f"decoder.{last}.{name}"] for name in ("weight", "bias"))
        hidden = self.networks.apply("decoder", [latent], training, layers=last)
        return (hidden * (x @ weight)).sum(-1) + x @ bias - bernoulli_log_normaliser(hidden, weight, bias)

    def posterior_log_odds(self, x: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            seen, found = [self._typed(x) - self.mean], []
            for g in range(self.spec.groups):
                found.append(self._logits(g, seen))
                seen.append(draw(torch.sigmoid(found[-1]), generator))
            return torch.cat(found, -1)

    def log_prob_x_given_units(self, x: Tensor, zeta: Tensor) -> Tensor:
        return self.log_prob_x(x, self._typed(zeta)[None])[0]

    def discrete(self, x: Tensor, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """k draws of z from q(z given x), with running statistics: z (k, n, D), log q(z given x) (k, n), nats."""
        seen, log_q = [self._typed(x) - self.mean], 0.0
        for g in range(self.spec.groups):
            logits = self._logits(g, seen)
            z = draw(torch.sigmoid(logits).expand(k, len(x), self.spec.latent), generator)
            seen.append(z)
            log_q = log_q + (z * logits).sum(-1) - F.softplus(logits).sum(-1)
        return torch.cat(seen[1:], -1), log_q

    def log_weights_unnormalised(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """-E(z) + log p(x given z) - log q(z given x) for k draws of z: (n, d) -> (k, n), nats."""
        with torch.no_grad():
            z, log_q = self.discrete(x, k, generator)
            sides = z.split(list(self.machine.weights.shape), -1)
            return log_unnormalised(self.machine, *sides) + self.log_prob_x(x, z) - log_q

    def bound_unnormalised(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        return self.log_weights_unnormalised(x, k, generator)

    def annealed_path(self, data: Dataset) -> Path:
        """From fair coins to the prior on z: Z is the prior's, whatever the data are."""
        return Path(self.machine, *(torch.zeros_like(self.others[f"prior.{side}"]) for side in ("own", "other")))

    def enumeration(self) -> StateEnumeration:
        return self.machine.enumeration()

    def posterior_means(self, x: Tensor, draws: int, generator: torch.Generator) -> list[Tensor]:
        """q(z_i = 1 given x) group after group, later ones as means over draws of those before."""
        with torch.no_grad():
            seen = [self._typed(x) - self.mean]
            means = [torch.sigmoid(self._logits(0, seen))]
            later = [torch.zeros_like(means[0], dtype=torch.float64) for _ in range(self.spec.groups - 1)]
            for _ in range(draws if later else 0):
                given = [*seen, draw(means[0], generator)]
                for g, total in enumerate(later, start=1):
                    mean = torch.sigmoid(self._logits(g, given))
                    total += mean
                    given.append(draw(mean, generator))
            return [*means, *(total / draws for total in later)]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws, z from its own chain of `sample_sweeps` sweeps from fair coins, x from p(x given z): (n, d)."""
        with torch.no_grad():
            machine = self.machine
            fair = torch.full((n, len(machine.other)), 0.5, dtype=machine.own.dtype, device=machine.own.device)
            own, other = block_gibbs(
                fair, machine.weights, machine.own, machine.other, self.spec.sample_sweeps, generator
            )
            return draw(torch.sigmoid(self.networks.apply("decoder", [torch.cat((own, other), -1)])), generator)

    def validation_bound(self, x: Tensor) -> tuple[float, float]:
        """log Z and the mean importance-weighted bound, under the same noise whenever they are asked. Nats."""
        spec, generator = self.spec, torch.Generator(x.device).manual_seed(VALIDATION_SEED)
        log_z = annealed_log_z(self.machine, spec.validation_temperatures, spec.chains, generator)
        k, rows = spec.validation_k, max(1, _ROWS_AT_ONCE // spec.validation_k)
        parts = [self.log_weights_unnormalised(block, k, generator) for block in x.split(rows)]
        return log_z, log_mean_exp(torch.cat(parts, 1).double()).mean().item() - log_z

    def _logits(self, group: int, seen: list[Tensor]) -> Tensor:
        return self.networks.apply(f"encoder{group}", seen)[..., : self.spec.latent]

    def _typed(self, values: Tensor) -> Tensor:
        return values.to(self.mean)

    def _initialise(self, data: Dataset, session: Session) -> None:
        """Random networks, a prior of fair coins, the decoder's last bias at the data's log-odds."""
        x = np.asarray(data.train.x)
        self.mean = torch.from_numpy(x.mean(axis=0, dtype=np.float64)).to(session.device, torch.float32)
        self.networks.initialise(session.generator)
        bias = torch.from_numpy(Bernoulli().first_bias(x)).to(session.device, torch.float32)
        self.networks.parameters[f"decoder.{self.networks.last('decoder')}.bias"] = bias
        self.others = {name: value.to(session.device) for name, value in self.others.items()}
        for value in self.parameters.values():
            value.requires_grad_(True)
