"""Deep belief network on binary data: directed sigmoid layers below a restricted Boltzmann machine.

    p(v) = sum_{h1 .. h(L-1)} p(v given h1) p(h1 given h2) ... p*_top(h(L-1)) / Z_top
    p(h(l-1) given hl) = Bernoulli(sigmoid(g + G_l hl)),    log p*_top(h) = h.a + sum_j softplus(b_j + h.W_j)

With the recognition pass q(h given v) = prod_l Bernoulli(hl; sigmoid(r_l + h(l-1) R_l)), whose weights R_l are G_l
until the up-down algorithm unties them,

    log p(v) >= E_q[log p(v given h1) + ... + log p*_top(h(L-1))] + H(q) - log Z_top,

equality where q is the posterior. Layers are trained one by one, each as a restricted Boltzmann machine on draws of q
from the layers below. A new layer that starts as the transpose of the one below leaves p(v) as it is: W^T, with the two
biases exchanged, gives h the marginal that the machine below gives it, and q is still the posterior. From there on,
training the new layer raises the bound. Where the new layer has more units than that needs, the others start with
weights near zero, and where it has fewer, it starts at random.

The up-down algorithm then fine-tunes all layers: in the wake phase the generative weights learn to undo the recognition
pass of data; the machine at the top learns from that pass by contrastive divergence; in the sleep phase the recognition
weights learn to undo the generative pass that starts where the top's Gibbs chains end.

References: Hinton, Osindero and Teh, "A fast learning algorithm for deep belief nets", Neural Computation 18, 2006,
sections 4 and 5 and appendix B; Baumann, "An introduction to deep generative models", 2018, equations 13 to 22; the
estimate of log p(v): Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008.
"""

import itertools
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.models import base
from dgmbench.models.base import Enumeration, Features, Reconstruction, Sampler, VariationalBound
from dgmbench.models.boltzmann._binary import base_rate_log_odds, draw
from dgmbench.models.boltzmann._bipartite import Bipartite, Path
from dgmbench.models.boltzmann._layers import NAMES, Layer
from dgmbench.models.boltzmann._training import (
    BinarySpec,
    Rule,
    Velocity,
    centres_of,
    energies_and_changes,
    passes,
    rule_at,
    update,
)
from dgmbench.training.session import Session

SMOKE = {
    "hidden": [4, 6],
    "epochs": 3,
    "batch_size": 20,
    "chains": 20,
    "learning_rate": 0.1,
    "centred": True,
    "up_down_epochs": 2,
    "sample_sweeps": 20,
}

_MEANS_OF = 10_000  # training examples that a layer's base rates are measured on
_PSEUDO_COUNT = 5.0


class Spec(BinarySpec):
    """Each layer is trained by itself with what restricted Boltzmann machines share; its defaults differ in places."""

    hidden: list[int] = Field([500, 2000], min_length=1, description="Binary units of each hidden layer, upwards.")
    epochs: int = Field(50, ge=1, description="Passes over the training data for each layer.")
    training: Literal["pcd", "cd", "cd_growing"] = Field(
        "cd",
        description="Chains of a layer's training. pcd: persistent ones; cd: gibbs_steps sweeps from the data at every "
        "update; cd_growing: one sweep more after every grow_every epochs.",
    )
    momentum: float = Field(0.5, ge=0, lt=1, description="Share of the last update's direction that is kept.")
    weight_decay: float = Field(2e-4, ge=0, description="L2 penalty (decay / 2) |W|^2 on the weights, not on biases.")
    transposed: bool = Field(
        True, description="Start a layer as the transpose of the one below, where it has at least as many units."
    )
    up_down_epochs: int = Field(0, ge=0, description="Passes over the training data of the up-down algorithm.")
    up_down_learning_rate: float = Field(
        0.01, gt=0, description="Initial step size of the up-down algorithm; it falls linearly to zero."
    )
    up_down_gibbs_steps: int = Field(
        5, ge=1, description="Sweeps of the machine at the top between the wake and the sleep phase."
    )
    sample_sweeps: int = Field(
        1000, ge=1, description="Gibbs sweeps of the machine at the top, from its base rates, before the pass down."
    )


class Model(base.Model, VariationalBound, Sampler, Reconstruction, Features):
    """`parameters` maps names to tensors; layer l has m_l units, m_0 = d, and L layers are hidden.

    For l = 1 ... L - 1: `generative.l.weights` G_l (m_{l-1}, m_l), `generative.l.bias` (m_{l-1},),
    `recognition.l.weights` R_l (m_{l-1}, m_l), `recognition.l.bias` (m_l,). At the top: `top.weights` (m_{L-1}, m_L),
    `top.below` (m_{L-1},), `top.above` (m_L,), and `top.base` (m_{L-1},), the log-odds at which chains start.
    """

    Spec = Spec
    accepts = frozenset({"binary"})

    @classmethod
    def operations(cls, spec: Spec, dimension: int) -> float:
        return float(sum(a * b for a, b in itertools.pairwise([dimension, *spec.hidden])))

    @classmethod
    def passes(cls, spec: Spec) -> float:
        return passes(spec) + spec.up_down_epochs * (6 + 2 * spec.up_down_gibbs_steps)

    def __init__(self, spec: Spec, dimension: int):
        super().__init__(spec, dimension)
        self.widths = [dimension, *spec.hidden]
        self.parameters = {name: torch.zeros(shape) for name, shape in self._shapes().items()}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        *directed, top = list(itertools.pairwise(self.widths))
        for level, (below, above) in enumerate(directed, 1):
            shapes |= {f"generative.{level}.weights": (below, above), f"generative.{level}.bias": (below,)}
            shapes |= {f"recognition.{level}.weights": (below, above), f"recognition.{level}.bias": (above,)}
        return shapes | {"top.weights": top, "top.below": top[:1], "top.above": top[1:], "top.base": top[:1]}

    def state(self) -> dict[str, Tensor]:
        return dict(self.parameters)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.parameters = {name: state[name] for name in self.parameters}

    def layer(self, level: int) -> Layer:
        """The machine that layer `level` = 1 ... L is trained as, before its weights are untied."""
        p = self.parameters
        if level == len(self.spec.hidden):
            return Layer(p["top.weights"], p["top.below"], p["top.above"])
        return Layer(p[f"recognition.{level}.weights"], p[f"generative.{level}.bias"], p[f"recognition.{level}.bias"])

    def top(self) -> Bipartite:
        """The machine at the top; its own side is layer L - 1."""
        return Bipartite(self.parameters["top.weights"], self.parameters["top.below"], self.parameters["top.above"])

    def fit(self, data: Dataset, session: Session) -> None:
        """Layer by layer, then by the up-down algorithm where `up_down_epochs` says so.

        The history holds, for layer l by itself, `hidden_activity_l` of every step, the mean of p(h = 1), and of every
        epoch's end `free_energy_gap_l` and `change_rate_l` (see `_training`); in the up-down algorithm
        `wake_log_likelihood`, mean log p(v, h1 .. h(L-2) given what lies above) in nats.
        """
        spec, generator, device = self.spec, session.generator, session.device
        self.parameters = {name: torch.zeros(shape, device=device) for name, shape in self._shapes().items()}
        levels = range(1, len(spec.hidden) + 1)
        velocity = {f"{n}.{i}": torch.zeros_like(getattr(self.layer(i), n)) for i in levels for n in NAMES}
        chains = {f"{i}": torch.zeros(spec.chains, self.widths[i - 1], device=device) for i in levels}
        batch = min(spec.batch_size, len(data.train))
        batches = len(data.train) // batch
        order = torch.zeros(len(data.train), dtype=torch.int64, device=device)
        centres = {i: centres_of(self.layer(i).parameters()) for i in levels}
        kept = {f"{side}.{i}": centre for i in levels for side, centre in centres[i].items()}
        session.track(
            parameters=self.parameters, velocity=velocity, chains=chains, centres=kept, other={"order": order}
        )

        each, fine = spec.epochs * batches, spec.up_down_epochs * batches
        greedy = each * len(spec.hidden)
        for step in session.steps(greedy + fine):
            if step % batches == 0:
                order.copy_(torch.randperm(len(order), generator=generator, device=device))
            rows = order[(step % batches) * batch : (step % batches + 1) * batch]
            x = data.train.take(rows, generator).to(device)
            if step >= greedy:
                if step == greedy:
                    self._tie()
                rate = spec.up_down_learning_rate * (1 - (step - greedy) / fine)
                of_top = {name: velocity[f"{name}.{levels[-1]}"] for name in NAMES}
                session.record(wake_log_likelihood=self._up_down(x, of_top, rate, generator))
                continue
            level, done = step // each + 1, step % each
            if done == 0:
                self._start(level, chains[f"{level}"], data, generator)
            below = self.recognise(x, generator, level - 1)[-1]
            layer, own = self.layer(level), {name: velocity[f"{name}.{level}"] for name in NAMES}
            persistent = chains[f"{level}"] if spec.training == "pcd" else None
            rule = rule_at(spec, done, each, batches, spec.centred)
            moved = update(layer, own, below, persistent, rule, generator, centres[level])
            found = {"hidden_activity": moved.activity}
            if (step + 1) % batches == 0:
                found |= energies_and_changes(layer, below, moved)
            session.record(**{f"{name}_{level}": value for name, value in found.items()})
        if not fine:
            self._tie()

    def recognise(self, x: Tensor, generator: torch.Generator, levels: int | None = None) -> list[Tensor]:
        """v and draws of h1 ... h(levels) from q; up to layer L - 1 by default: a list of (n, m_l)."""
        states = [x]
        for level in range(1, len(self.spec.hidden) if levels is None else levels + 1):
            states.append(draw(torch.sigmoid_(self._recognition_input(level, states[-1])), generator))
        return states

    def generate(self, highest: Tensor, generator: torch.Generator) -> list[Tensor]:
        """The pass down from layer L - 1: draws of h(L-2) ... v given it, as a list from v to `highest`."""
        states = [highest]
        for level in reversed(range(1, len(self.spec.hidden))):
            states.insert(0, draw(torch.sigmoid_(self._generative_input(level, states[0])), generator))
        return states

    def log_weights_unnormalised(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """log p*(v, h1 .. h(L-1)) - log q(h given v), the highest layer summed out: (n, d) -> (k, n), nats.

        Their mean over draws is the variational bound plus log Z_top (Baumann's equation 19 with 20 and 21), the log
        of the mean of their exponentials an estimate of log p(v) + log Z_top. With one layer all are log p*(v).
        """
        states = [x.to(self.parameters["top.weights"]).expand(k, *x.shape).reshape(-1, x.shape[1])]
        log_weights = torch.zeros(len(states[0]), dtype=torch.float64, device=x.device)
        for level in range(1, len(self.spec.hidden)):
            inputs = self._recognition_input(level, states[-1])
            above = draw(torch.sigmoid(inputs), generator)
            log_weights -= _log_bernoulli(above, inputs)
            log_weights += _log_bernoulli(states[-1], self._generative_input(level, above))
            states.append(above)
        return (log_weights + self.top().log_unnormalised(states[-1])).unflatten(0, (k, len(x)))

    def bound_unnormalised(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """Draws of log p*(v, h) - log q(h given v): their mean is the variational bound on log p*(v)."""
        return self.log_weights_unnormalised(x, k, generator)

    def annealed_path(self, data: Dataset) -> Path:
        """Of the machine at the top, from independent units of layer L - 1 at their base rates under q."""
        base_rates = self.parameters["top.base"]
        return Path(self.top(), base_rates, torch.zeros_like(self.parameters["top.above"]))

    def enumeration(self) -> Enumeration:
        """Z_top as a sum over the smaller side of the machine at the top."""
        return self.top().enumeration()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n binary draws, each from its own chain of `sample_sweeps` sweeps at the top and a pass down: (n, d)."""
        state = draw(torch.sigmoid(self.parameters["top.base"]).expand(n, -1), generator)
        for _ in range(self.spec.sample_sweeps):
            state = self.top().sweep(state, generator)
        return self.generate(state, generator)[0]

    def reconstruct(self, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """The recognition pass, `steps` sweeps at the top, the pass down; the pixels' means at its end."""
        state = self.recognise(x.to(self.parameters["top.weights"]), generator)[-1]
        for _ in range(steps - 1):
            state = self.top().sweep(state, generator)
        mean = self.top().sweep_mean(state, generator)
        for level in reversed(range(1, len(self.spec.hidden))):
            mean = torch.sigmoid_(self._generative_input(level, draw(mean, generator)))
        return mean

    def filters(self) -> Tensor:
        """G_1 (or W, of one layer) as one row of d weights for each hidden unit."""
        return self.parameters["generative.1.weights" if len(self.spec.hidden) > 1 else "top.weights"].T

    def up_pass(self) -> list[tuple[Tensor, Tensor]]:
        p, directed = self.parameters, range(1, len(self.spec.hidden))
        below = [(p[f"recognition.{level}.weights"], p[f"recognition.{level}.bias"]) for level in directed]
        return [*below, (p["top.weights"], p["top.above"])]

    def generative_direction(self, states: list[Tensor]) -> dict[str, Tensor]:
        """Gradient of mean_n sum_l log p(h(l-1) given hl) in the generative parameters, at given states: wake."""
        found = {}
        for level, (below, above) in enumerate(itertools.pairwise(states), 1):
            wrong = below - torch.sigmoid_(self._generative_input(level, above))
            found[f"generative.{level}.weights"] = wrong.T @ above / len(below)
            found[f"generative.{level}.bias"] = wrong.mean(0)
        return found

    def recognition_direction(self, states: list[Tensor]) -> dict[str, Tensor]:
        """Gradient of mean_n sum_l log q(hl given h(l-1)) in the recognition parameters, at given states: sleep."""
        found = {}
        for level, (below, above) in enumerate(itertools.pairwise(states), 1):
            wrong = above - torch.sigmoid_(self._recognition_input(level, below))
            found[f"recognition.{level}.weights"] = below.T @ wrong / len(below)
            found[f"recognition.{level}.bias"] = wrong.mean(0)
        return found

    def _up_down(self, x: Tensor, of_top: Velocity, rate: float, generator: torch.Generator) -> Tensor:
        """One update of all layers, in place, without momentum; the mean log-likelihood of the wake phase, nats.

        The parameters of the top are in no other direction: it moves first, and the sleep phase starts where its chains
        ended.
        """
        awake = self.recognise(x, generator)
        rule = Rule(self.spec.up_down_gibbs_steps, rate)
        highest = update(self.layer(len(self.spec.hidden)), of_top, awake[-1], None, rule, generator).visible
        asleep = self.generate(highest, generator)
        directions = self.generative_direction(awake) | self.recognition_direction(asleep)
        score = sum(
            _log_bernoulli(below, self._generative_input(level, above)).mean()
            for level, (below, above) in enumerate(itertools.pairwise(awake), 1)
        )
        for name, direction in directions.items():
            self.parameters[name].add_(direction, alpha=rate)
        return torch.as_tensor(score)

    def _start(self, level: int, chains: Tensor, data: Dataset, generator: torch.Generator) -> None:
        """Initialise layer `level` and its chains in place: the transpose of the layer below, or near zero."""
        layer, spec = self.layer(level), self.spec
        log_odds = self._base_log_odds(level, data)
        layer.weights.normal_(0, spec.weight_sd, generator=generator)
        layer.below.copy_(log_odds)
        if spec.transposed and level > 1:
            beneath = self.layer(level - 1)
            mirrored = len(beneath.below)
            if mirrored <= len(layer.above):
                layer.weights[:, :mirrored] = beneath.weights.T
                layer.below.copy_(beneath.above)
                layer.above[:mirrored] = beneath.below
        chains.copy_(draw(torch.sigmoid(log_odds).expand(chains.shape), generator))
        if level == len(spec.hidden):
            self.parameters["top.base"].copy_(log_odds)

    def _base_log_odds(self, level: int, data: Dataset) -> Tensor:
        """Log-odds of the units below layer `level`: base rates of the data, or mean activations of q's means."""
        if level == 1:
            return base_rate_log_odds(data).to(self.parameters["top.weights"])
        means = torch.from_numpy(np.asarray(data.train.x[:_MEANS_OF], dtype=np.float32))
        means = means.to(self.parameters["top.weights"])
        for below in range(1, level):
            means = torch.sigmoid_(self._recognition_input(below, means))
        ones = means.double().sum(0)
        return torch.logit((ones + _PSEUDO_COUNT) / (len(means) + 2 * _PSEUDO_COUNT)).to(means)

    def _tie(self) -> None:
        """The generative weights become those of the recognition pass, with which the layers were trained."""
        for level in range(1, len(self.spec.hidden)):
            self.parameters[f"generative.{level}.weights"].copy_(self.parameters[f"recognition.{level}.weights"])

    def _recognition_input(self, level: int, below: Tensor) -> Tensor:
        p = self.parameters
        return torch.addmm(p[f"recognition.{level}.bias"], below, p[f"recognition.{level}.weights"])

    def _generative_input(self, level: int, above: Tensor) -> Tensor:
        p = self.parameters
        return torch.addmm(p[f"generative.{level}.bias"], above, p[f"generative.{level}.weights"].T)


def _log_bernoulli(x: Tensor, log_odds: Tensor) -> Tensor:
    """sum_i x_i l_i - softplus(l_i), in float64: (n, m) twice -> (n,), nats."""
    return (x * log_odds - F.softplus(log_odds)).sum(1, dtype=torch.float64)
