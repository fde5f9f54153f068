"""What every model is, and the capabilities that it may have.

A model is one file: its docstring opens with the equation and the reference; then come `Spec` (its
hyper-parameters) and `Model`. A capability is declared by implementing it; estimators ask for capabilities
and never for a model by name. Shapes: n examples, d dimensions. Log-probabilities are in nats.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from dgmbench.models.variational.smoothing.base import Smoothing

if TYPE_CHECKING:
    from dgmbench.data.prepared import Dataset
    from dgmbench.training.session import Session


class ModelSpec(BaseModel):
    """Hyper-parameters of a model: unknown keys are refused, every field has a description and a range."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(ABC):
    """One trained (or untrained) model on d-dimensional data.

    `accepts` names the kinds of values that the model is defined on: `binary` {0, 1}, `unit` [0, 1], `real`.
    """

    Spec: ClassVar[type[ModelSpec]]
    accepts: ClassVar[frozenset[str]]

    def __init__(self, spec: ModelSpec, dimension: int):
        self.spec = spec
        self.dimension = dimension

    @classmethod
    def operations(cls, spec: ModelSpec, dimension: int) -> float:
        """Multiplications to score one example once, leading term: what predicted times are scaled by."""
        return float(dimension)

    @classmethod
    def passes(cls, spec: ModelSpec) -> float:
        """How often training scores each of its examples, leading term: the other factor of predicted times."""
        return 1.0

    @abstractmethod
    def fit(self, data: "Dataset", session: "Session") -> None:
        """Train on `data.train`, choosing anything that must be chosen on `data.validation`.

        Randomness comes from `session.generator` alone, progress and checkpoints go through `session`.
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors: what is stored, and all that the capabilities need."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""


class Density(ABC):
    """A normalised density (real values) or mass function (binary values) that can be evaluated exactly."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, exact: (n, d) -> (n,)."""


class LatentVariable(ABC):
    """p(x) = integral of p(x, z) over z, with a proposal q(z given x)."""

    @abstractmethod
    def log_weights(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """log p(x, z) - log q(z given x) for k draws of z from q(. given x): (n, d) -> (k, n), nats."""


class Encoder(ABC):
    """Latent units u whose distribution q(u given x) an encoder gives, in one or more layers."""

    @abstractmethod
    def posterior_means(self, x: Tensor, draws: int, generator: torch.Generator) -> list[Tensor]:
        """E[u given x] under q, layer after layer from the data upwards: (n, d) -> (n, m_l) each.

        Exact where it has a closed form, else a mean over so many independent draws of the layers below.
        """


class Decoder(ABC):
    """p(x) = integral of N(u; 0, I) p(x given u) over u: the latent variables in standard normal coordinates."""

    @property
    @abstractmethod
    def latent_dimension(self) -> int:
        """m, the number of coordinates of u."""

    @abstractmethod
    def mean_x_given_u(self, u: Tensor) -> Tensor:
        """E[x given u]: (n, m) -> (n, d)."""

    @abstractmethod
    def log_prob_x_given_u(self, x: Tensor, u: Tensor) -> Tensor:
        """log p(x given u), row by row, differentiable in u: (n, d), (n, m) -> (n,), nats."""

    @abstractmethod
    def log_prob_table(self, x: Tensor, u: Tensor) -> Tensor:
        """log p of every example given every u: (n, d), (k, m) -> (k, n), nats."""


class AnnealedPath(ABC):
    """Unnormalised densities p*_beta(x), beta in [0, 1], from a base of known log Z to the target at beta = 1.

    A state is an (n, d) tensor, one chain for each row.
    """

    log_z_base: float

    @abstractmethod
    def sample_base(self, n: int, generator: torch.Generator) -> Tensor:
        """n exact draws from the normalised p_0: (n, d)."""

    @abstractmethod
    def log_unnormalised(self, state: Tensor, beta: float) -> Tensor:
        """log p*_beta: (n, d) -> (n,), nats."""

    @abstractmethod
    def step(self, state: Tensor, beta: float, generator: torch.Generator) -> Tensor:
        """One transition that leaves p_beta invariant: (n, d) -> (n, d)."""

    def log_ratio(self, state: Tensor, beta_from: float, beta_to: float) -> Tensor:
        """log p*_{beta_to} - log p*_{beta_from} at the same state: (n, d) -> (n,), nats."""
        return self.log_unnormalised(state, beta_to) - self.log_unnormalised(state, beta_from)


@dataclass(frozen=True)
class Enumeration:
    """A partition function as a sum over all binary states of `bits` units: Z = sum_s exp(log_term(s)).

    `models.enumerated.StateEnumeration` leads from s to states of the annealed path as well, for reverse annealing.
    """

    bits: int
    log_term: Callable[[Tensor], Tensor]  # (m, bits) of {0, 1} in float64 -> (m,) in nats


class Smoothed(ABC):
    """Binary variables z, each with a continuous zeta beside it that a network sees in its place."""

    @abstractmethod
    def smoothings(self) -> dict[float, Smoothing]:
        """beta -> r(zeta given z) at that inverse temperature, the sharpest last."""


class BinaryLatents(ABC):
    """Binary units z whose p(z) is a machine of two sides, z = (z_s, z_o), and a posterior q(z given x) on them."""

    @abstractmethod
    def couplings(self) -> tuple[Tensor, Tensor, Tensor]:
        """W (S, O), a (S,) and b (O,) of p(z) = exp(a.z_s + b.z_o + z_s W z_o) / Z."""

    @abstractmethod
    def posterior_log_odds(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Log-odds of q(z_i = 1 given x), of later groups of units given a draw of those before: (n, d) -> (n, S + O).

        The units of z_s come first.
        """

    @abstractmethod
    def log_prob_x_given_units(self, x: Tensor, zeta: Tensor) -> Tensor:
        """log p(x given zeta), a continuous zeta in place of z, differentiable in it: (n, d), (n, S + O) -> (n,), nats.

        0 where x is itself among the units.
        """


class Energy(ABC):
    """p(x) = exp(log_unnormalised(x)) / Z with Z unknown."""

    @abstractmethod
    def log_unnormalised(self, x: Tensor) -> Tensor:
        """log p*(x) = -F(x), the negative free energy: (n, d) -> (n,), nats."""

    @abstractmethod
    def annealed_path(self, data: "Dataset") -> AnnealedPath:
        """A path from a base of known log Z, which may use the training data's base rates, to this model."""

    @abstractmethod
    def enumeration(self) -> Enumeration:
        """Z as a sum over the smaller side; raises `CannotBeDone` where the model has no such form."""


class VariationalBound(ABC):
    """p(x) = p*(x) / Z where neither p*(x) = sum_h p*(x, h) nor Z can be summed.

    log p*(x) = log E_q[w] >= E_q[log w],   w = p*(x, h) / q(h given x),
    up to hidden units that are summed out exactly.
    """

    @abstractmethod
    def bound_unnormalised(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """A lower bound on log p*(x): (n, d) -> (k, n) independent draws of mean the bound, or (1, n) where it has a
        closed form. Nats."""

    @abstractmethod
    def log_weights_unnormalised(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """log p*(x, h) - log q(h given x) for k draws of h from q(. given x): (n, d) -> (k, n), nats."""

    @abstractmethod
    def annealed_path(self, data: "Dataset") -> AnnealedPath:
        """A path from a base of known log Z to unnormalised probabilities whose sum is the model's Z."""

    @abstractmethod
    def enumeration(self) -> Enumeration:
        """Z as a sum over the states of some units; raises `CannotBeDone` where there are too many."""


class Reconstruction(ABC):
    """Gibbs sampling that starts at an example."""

    @abstractmethod
    def reconstruct(self, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """p(x_i = 1 given the hidden units) in the last of `steps` Gibbs steps from each example: (n, d) -> (n, d)."""

    @abstractmethod
    def filters(self) -> Tensor:
        """Weights between the data and each unit of the first hidden layer, its receptive field: (m, d)."""


class Features(ABC):
    """A deterministic pass from an example to its features, layer after layer of sigmoid units."""

    @abstractmethod
    def up_pass(self) -> list[tuple[Tensor, Tensor]]:
        """Weights (m_{l-1}, m_l) and biases (m_l,) of every layer, from the data upwards."""

    def features(self, x: Tensor) -> Tensor:
        """Means of the highest layer: u_0 = x, u_l = sigmoid(u_{l-1} W_l + b_l): (n, d) -> (n, m_L)."""
        for weights, bias in self.up_pass():
            x = torch.sigmoid(torch.addmm(bias, x.to(weights), weights))
        return x


class Sampler(ABC):
    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws from the model, in the data's space: (n, d)."""


class Clusterer(ABC):
    @abstractmethod
    def assign(self, x: Tensor) -> Tensor:
        """Index of the cluster of each example: (n, d) -> (n,), int64."""


class PatchPrior(ABC):
    """A prior for patches x observed as y = x + noise_sd * N(0, I)."""

    @abstractmethod
    def posterior_mode(self, y: Tensor, noise_sd: float) -> Tensor:
        """argmax_x p(x given y), or its stated approximation: (n, d) -> (n, d)."""

    @abstractmethod
    def posterior_mean(self, y: Tensor, noise_sd: float) -> Tensor:
        """E[x given y]: (n, d) -> (n, d)."""


CAPABILITIES: dict[str, type] = {
    c.__name__: c
    for c in (
        *(Density, LatentVariable, Encoder, Decoder, Smoothed, BinaryLatents, Energy, VariationalBound),
        *(Sampler, Reconstruction, Features, Clusterer, PatchPrior),
    )
}


def capabilities(model: type[Model]) -> list[str]:
    """The names of the capabilities that a model class implements, in the order of `CAPABILITIES`."""
    return [name for name, capability in CAPABILITIES.items() if issubclass(model, capability)]
