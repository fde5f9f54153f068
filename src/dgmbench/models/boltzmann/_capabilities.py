"""What machines of several hidden layers can do, beside the capabilities of `models/base.py`."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.models.base import AnnealedPath, Enumeration


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
    def annealed_path(self, data: Dataset) -> AnnealedPath:
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
