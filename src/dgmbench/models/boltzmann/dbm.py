"""Deep Boltzmann machine on binary data: two or more hidden layers, every connection undirected.

    E(v, h1, .., hL) = -v.a - sum_l hl.b_l - sum_l h(l-1) W_l hl,    h0 = v,    p = exp(-E) / Z

The posterior is approximated by q(h given v) = prod_l prod_j Bernoulli(hlj; mu_lj), for which

    log p(v) >= v.a + sum_l mu_l.b_l + sum_l mu_(l-1) W_l mu_l + H(mu) - log Z,    mu_0 = v

(Baumann's equation 28). In one unit's mean the right side is mu x + H(mu), x = the unit's input from the layers on both
sides; its derivative x - log(mu / (1 - mu)) is zero at mu = sigmoid(x). Hence the fixed points, for two hidden layers

    mu_1 = sigmoid(v W_1 + W_2 mu_2 + b_1),    mu_2 = sigmoid(mu_1 W_2 + b_2)

and for more, each hidden layer gets mu_(l-1) W_l + W_(l+1) mu_(l+1) + b_l. (Printed as equation 30, mu_2 depends on
itself, through a W_3 that two layers do not have, with the bias of layer 1.) Given the others, the bound is concave in
the means of one layer, and strictly: setting a layer to its fixed point, or moving it a share of the way (damping),
never lowers the bound.

Learning follows <h(l-1) hl> under q less the same under the model, the latter from persistent chains that alternate
between odd and even layers (equations 25 and 31). Layers are first trained one by one, with the copies of a layer that
another one will stand next to (see `_layers`): each of the two machines that meet in a layer then gives it half of its
input, and their biases there are averaged. The chains start at independent units: where layers by themselves have left
the machine a mode that is far from the data, they stay there, and training lowers the energy of the data without end.
`bound_gap` in the history says so. From small weights (`pretraining_epochs: 0`) `centred` machines need no layers
first; their gradient is taken in the coordinates of units less their mean activities lambda_l under the data, that is,
with V the velocity of the ordinary gradient, in the machine's own coordinates

    W_l: D_l = V_Wl - V_b(l-1) lambda_l' - lambda_(l-1) V_bl',    b_l: V_bl - D_l' lambda_(l-1) - D_(l+1) lambda_(l+1)

References: Salakhutdinov and Hinton, "Deep Boltzmann machines", AISTATS 2009, sections 2 and 3; Baumann, "An
introduction to deep generative models", 2018, equations 23 to 31; the estimate of log Z: Salakhutdinov, "Learning and
evaluating Boltzmann machines", technical report UTML TR 2008-002; centring: Melchior, Fischer and Wiskott, "How to
center deep Boltzmann machines", Journal of Machine Learning Research 17, 2016.
"""

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.models import base
from dgmbench.models.base import Enumeration, ModelSpec, Reconstruction, Sampler, VariationalBound
from dgmbench.models.boltzmann._binary import base_rate_log_odds, draw
from dgmbench.models.boltzmann._bipartite import Path
from dgmbench.models.boltzmann._layered import Layered
from dgmbench.models.boltzmann._layers import NAMES, Layer
from dgmbench.models.boltzmann._training import Rule, energies_and_changes, update
from dgmbench.training.session import Session

_CENTRING = 0.01  # share of a minibatch's means in the running ones

SMOKE = {
    "hidden": [4, 3],
    "pretraining_epochs": 2,
    "epochs": 3,
    "batch_size": 20,
    "chains": 20,
    "learning_rate": 0.05,
    "sample_sweeps": 20,
}


class Spec(ModelSpec):
    hidden: list[int] = Field([500, 1000], min_length=2, description="Binary units of each hidden layer, upwards.")
    pretraining_epochs: int = Field(50, ge=0, description="Passes over the training data for each layer by itself.")
    pretraining_learning_rate: float = Field(
        0.05, gt=0, description="Initial step size of each layer by itself; it falls linearly to zero."
    )
    pretraining_gibbs_steps: int = Field(1, ge=1, description="Sweeps of contrastive divergence in each such update.")
    epochs: int = Field(200, ge=1, description="Passes over the training data of all layers together.")
    batch_size: int = Field(100, ge=1, description="Examples in a minibatch; the last, smaller one is left out.")
    learning_rate: float = Field(
        0.005, gt=0, description="Initial step size of all layers together; it falls linearly to zero."
    )
    momentum: float = Field(0.5, ge=0, lt=1, description="Share of the last update's direction that is kept.")
    centred: bool = Field(
        False, description="Of all layers together: take the gradient with respect to units less their mean activities."
    )
    weight_decay: float = Field(2e-4, ge=0, description="L2 penalty (decay / 2) |W|^2 on the weights, not on biases.")
    chains: int = Field(100, ge=1, description="Persistent Markov chains.")
    gibbs_steps: int = Field(5, ge=1, description="Sweeps of every chain between two updates.")
    weight_sd: float = Field(0.01, ge=0, description="Standard deviation of the initial weights.")
    training_mean_field_iterations: int = Field(
        10, ge=1, description="Mean-field passes over all layers in one update, at most."
    )
    mean_field_iterations: int = Field(
        200, ge=1, description="Mean-field passes over all layers where an example is scored, at most."
    )
    mean_field_tolerance: float = Field(
        1e-5, gt=0, description="Mean-field passes stop where no mean of a batch moves by more than this."
    )
    damping: float = Field(0.0, ge=0, lt=1, description="Share of its old mean that a unit keeps in one pass.")
    sample_sweeps: int = Field(1000, ge=1, description="Gibbs sweeps from independent units before a sample is taken.")


class Model(Layered, base.Model, VariationalBound, Sampler, Reconstruction):
    """`parameters`: `weights.l` (m_{l-1}, m_l) for l = 1 ... L, `bias.l` (m_l,) for l = 0 ... L, m_0 = d, and `base`
    (d,), the pixels' log-odds at which chains start. States and means are lists over all layers, v the first."""

    Spec = Spec
    accepts = frozenset({"binary"})

    @classmethod
    def operations(cls, spec: Spec, dimension: int) -> float:
        return float(sum(a * b for a, b in itertools.pairwise([dimension, *spec.hidden])))

    @classmethod
    def passes(cls, spec: Spec) -> float:
        sweeps = 2 * spec.gibbs_steps * spec.chains / spec.batch_size
        joint = 2 * spec.training_mean_field_iterations + sweeps + 3
        return spec.pretraining_epochs * (4 + 2 * spec.pretraining_gibbs_steps) + spec.epochs * joint

    def __init__(self, spec: Spec, dimension: int):
        super().__init__(spec, dimension)
        self.widths = [dimension, *spec.hidden]
        self.parameters = {name: torch.zeros(shape) for name, shape in self._shapes().items()}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        weights = {f"weights.{i}": (self.widths[i - 1], self.widths[i]) for i in self.levels}
        return weights | {f"bias.{i}": (m,) for i, m in enumerate(self.widths)} | {"base": (self.dimension,)}

    def state(self) -> dict[str, Tensor]:
        return dict(self.parameters)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.parameters = {name: state[name] for name in self.parameters}

    def fit(self, data: Dataset, session: Session) -> None:
        """Layer by layer, then all layers together.

        The history holds, of every epoch's end, `free_energy_gap_l`, mean F(data) - mean F(chains) of layer l by itself
        in nats; then `reconstruction_log_likelihood`, mean log p(v given mu_1) in nats, and `bound_gap`, mean
        bound on log p*(v) of the minibatch less that of the chains, nats, of every epoch's end, and `mean_field_passes`
        of every update. The gap is some nats where the chains are examples of the same machine that the data are
        examples of, and grows without end where they are stuck.
        """
        spec, generator, device = self.spec, session.generator, session.device
        self.parameters = {name: torch.zeros(shape, device=device) for name, shape in self._shapes().items()}
        alone = {f"below.{i}": torch.zeros(self.widths[i - 1], device=device) for i in self.levels}
        alone |= {f"above.{i}": torch.zeros(self.widths[i], device=device) for i in self.levels}
        layers = [self._layer(level, alone) for level in self.levels]
        speeds = {f"{n}.{i}": torch.zeros_like(getattr(m, n)) for i, m in enumerate(layers, 1) for n in NAMES}
        velocity = {name: torch.zeros_like(value) for name, value in self.parameters.items() if name != "base"}
        chains = {f"{i}": torch.zeros(spec.chains, m, device=device) for i, m in enumerate(self.widths)}
        batch = min(spec.batch_size, len(data.train))
        batches = len(data.train) // batch
        other = {"order": torch.zeros(len(data.train), dtype=torch.int64, device=device)}
        centres = {f"{i}": torch.zeros(m, device=device) for i, m in enumerate(self.widths)}
        session.track(
            parameters=self.parameters,
            alone=alone,
            speeds=speeds,
            velocity=velocity,
            chains=chains,
            other=other,
            centres=centres,
        )

        each, joint = spec.pretraining_epochs * batches, spec.epochs * batches
        greedy = each * len(layers)
        for step in session.steps(greedy + joint):
            if step == 0:
                self._initialise(alone, data, generator)
            if step % batches == 0:
                other["order"].copy_(torch.randperm(len(data.train), generator=generator, device=device))
            rows = other["order"][(step % batches) * batch : (step % batches + 1) * batch]
            x = data.train.take(rows, generator).to(device)
            if step < greedy:
                level, done = step // each + 1, step % each
                for machine in layers[: level - 1]:
                    x = draw(machine.hidden_input(machine.tied(x)).sigmoid_(), generator)
                machine = layers[level - 1]
                rule = Rule(
                    sweeps=spec.pretraining_gibbs_steps,
                    rate=spec.pretraining_learning_rate * (1 - done / each),
                    momentum=spec.momentum,
                    weight_decay=spec.weight_decay,
                )
                own, x = {name: speeds[f"{name}.{level}"] for name in NAMES}, machine.tied(x)
                moved = update(machine, own, x, None, rule, generator)
                if (step + 1) % batches == 0:
                    gap = energies_and_changes(machine, x, moved)["free_energy_gap"]
                    session.record(**{f"free_energy_gap_{level}": gap})
                continue
            if step == greedy:
                self._compose(alone, chains, generator)
            rate = spec.learning_rate * (1 - (step - greedy) / joint)
            share = 0.0 if not spec.centred else 1.0 if step == greedy else _CENTRING
            means, passes = self._update(x, chains, velocity, rate, generator, centres, share)
            session.record(mean_field_passes=passes)
            if (step + 1) % batches == 0:
                session.record(reconstruction_log_likelihood=self._reconstruction_log_likelihood(x, means[1]))
                of_data, of_chains = (self.bound_unnormalised(v, 1, generator).mean() for v in (x, chains["0"]))
                session.record(bound_gap=of_data - of_chains)

    def mean_field(self, x: Tensor, iterations: int | None = None) -> tuple[list[Tensor], int]:
        """v and the means of all hidden layers, with the number of passes; `mean_field_iterations` of them at most."""
        spec = self.spec
        return self.fixed_point(x, iterations or spec.mean_field_iterations, spec.mean_field_tolerance, spec.damping)

    def bound_unnormalised(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """The mean-field bound on log p*(v), in closed form: (n, d) -> (1, n), nats."""
        return self.bound_of_means(self.mean_field(x.to(self.parameters["bias.0"]))[0])[None]

    def log_weights_unnormalised(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """log p*(v, h_S) - log q(h_S given v) for k mean-field draws: (n, d) -> (k, n), nats.

        S are the odd or the even hidden layers, whichever have fewer units; the others are summed out given them.
        """
        means, _ = self.mean_field(x.to(self.parameters["bias.0"]))
        drawn_layers, summed_out = self.smaller_parity(self.levels)
        states = [m.expand(k, *m.shape).reshape(-1, m.shape[1]) for m in means]
        found = states[0].double() @ self.parameters["bias.0"].double()
        for level in drawn_layers:
            mean, bias = states[level], self.parameters[f"bias.{level}"]
            states[level] = state = draw(mean, generator)
            # log p*(v, h_S) holds h_S.b once; W between h_S and v enters here, the rest through the summed layers.
            found += state.double() @ bias.double()
            if level == 1:
                found += ((states[0] @ self.parameters["weights.1"]) * state).sum(1, dtype=torch.float64)
            log_q = torch.where(state > 0, mean.log(), torch.log1p(-mean))
            found -= log_q.sum(1, dtype=torch.float64)
        for level in summed_out:
            found += F.softplus(self.input(level, states)).sum(1, dtype=torch.float64)
        return found.unflatten(0, (k, len(x)))

    def annealed_path(self, data: Dataset) -> Path:
        """Over the odd or the even layers, whichever have fewer units, the others summed out at every temperature.

        Summing out can only lower the variance of the importance weights, so that the larger part is summed out: v and
        h2, for 500 and 1,000 hidden units above 784 pixels. At beta = 0 pixels have the training data's base rates and
        hidden units are fair coins.
        """
        kept, summed_out = self.smaller_parity(range(len(self.widths)))
        log_odds = {0: base_rate_log_odds(data).to(self.parameters["bias.0"])}
        bases = [
            torch.cat([log_odds.get(i, torch.zeros_like(self.parameters[f"bias.{i}"])) for i in side])
            for side in (kept, summed_out)
        ]
        return Path(self.bipartite(kept, summed_out), *bases)

    def enumeration(self) -> Enumeration:
        """Z as a sum over the odd or the even layers; raises `CannotBeDone` where both have more than 20 units."""
        return self.bipartite(*self.smaller_parity(range(len(self.widths)))).enumeration()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n binary draws, each the end of its own chain of `sample_sweeps` sweeps from independent units: (n, d)."""
        return self.gibbs(self._independent(n, generator), self.spec.sample_sweeps, generator)[0]

    def reconstruct(self, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Mean-field draws of the hidden layers, `steps` sweeps from there; the pixels' means in the last one."""
        means, _ = self.mean_field(x.to(self.parameters["bias.0"]))
        states = [means[0], *(draw(mean, generator) for mean in means[1:])]
        states = self.gibbs(states, steps - 1, generator)
        for level in self.levels[::2]:
            states[level] = draw(torch.sigmoid_(self.input(level, states)), generator)
        return torch.sigmoid_(self.input(0, states))

    def filters(self) -> Tensor:
        return self.parameters["weights.1"].T

    def _update(
        self,
        x: Tensor,
        chains: dict[str, Tensor],
        velocity: dict[str, Tensor],
        rate: float,
        generator: torch.Generator,
        centres: dict[str, Tensor],
        share: float,
    ) -> tuple[list[Tensor], int]:
        """One update of all parameters and chains, in place; the means that it used, and their passes.

        `share` is that of the minibatch's means in the centres, 0 where the gradient is not centred.
        """
        spec = self.spec
        means, passes = self.mean_field(x, spec.training_mean_field_iterations)
        states = self.gibbs(list(chains.values()), spec.gibbs_steps, generator)
        self.accumulate(velocity, spec.momentum, means, states)
        for name, direction in velocity.items():
            if name.startswith("weights"):
                direction.add_(self.parameters[name], alpha=-spec.weight_decay)
        directions = velocity
        if share:
            for centre, mean in zip(centres.values(), means, strict=True):
                centre.lerp_(mean.mean(0), share)
            directions = self.centred(velocity, list(centres.values()))
        for name, direction in directions.items():
            self.parameters[name].add_(direction, alpha=rate)
        for chain, state in zip(chains.values(), states, strict=True):
            chain.copy_(state)
        return means, passes

    def _reconstruction_log_likelihood(self, x: Tensor, mean: Tensor) -> Tensor:
        """Mean log p(v given h1) at h1 = mu_1: (n, d), (n, m_1) -> ()."""
        log_odds = torch.addmm(self.parameters["bias.0"], mean, self.parameters["weights.1"].T)
        return (x * log_odds - F.softplus(log_odds)).sum(1).mean()

    def _layer(self, level: int, alone: dict[str, Tensor]) -> Layer:
        """Layer `level` by itself: two copies of a side, where the opposite one has another layer beyond it."""
        copies = 1 if level == self.levels[-1] else 2, 1 if level == 1 else 2
        return Layer(self.parameters[f"weights.{level}"], alone[f"below.{level}"], alone[f"above.{level}"], *copies)

    def _initialise(self, alone: dict[str, Tensor], data: Dataset, generator: torch.Generator) -> None:
        for level in self.levels:
            self.parameters[f"weights.{level}"].normal_(0, self.spec.weight_sd, generator=generator)
        self.parameters["base"].copy_(base_rate_log_odds(data))
        alone["below.1"].copy_(self.parameters["base"])

    def _compose(self, alone: dict[str, Tensor], chains: dict[str, Tensor], generator: torch.Generator) -> None:
        """The biases of the whole machine from those of its layers, averaged where two meet; chains start anew."""
        self.parameters["bias.0"].copy_(alone["below.1"])
        for level in self.levels[:-1]:
            self.parameters[f"bias.{level}"].copy_((alone[f"above.{level}"] + alone[f"below.{level + 1}"]) / 2)
        last = self.levels[-1]
        self.parameters[f"bias.{last}"].copy_(alone[f"above.{last}"])
        for chain, state in zip(chains.values(), self._independent(self.spec.chains, generator), strict=True):
            chain.copy_(state)

    def _independent(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """Pixels at the base rates, hidden units as fair coins: [(n, m_l)]."""
        rates = [torch.sigmoid(self.parameters["base"])]
        rates += [torch.full_like(self.parameters[f"bias.{level}"], 0.5) for level in self.levels]
        return [draw(rate.expand(n, -1), generator) for rate in rates]
