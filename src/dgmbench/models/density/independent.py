"""Independent dimensions: the control that every model of dependence must beat.

    binary data:        p(x) = prod_i mu_i^x_i (1 - mu_i)^(1 - x_i),  mu_i = (count_i + c) / (n + 2 c)
    unit or real data:  p(x) = prod_i N(x_i; mu_i, max(sigma_i^2, floor))

with mu_i and sigma_i^2 of the training data (maximum likelihood where c and floor are 0).

Reference: Bishop, "Pattern Recognition and Machine Learning", sections 2.1 and 2.3.4. As the base of annealing:
Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008, section 3.
"""

import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.models import base
from dgmbench.models.density._gaussian import chunks
from dgmbench.training.session import Session

SMOKE: dict = {}

_BERNOULLI, _GAUSSIAN = 0, 1


class Spec(base.ModelSpec):
    pseudo_count: float = Field(1.0, ge=0, description="Examples of each value added to every binary dimension.")
    variance_floor: float = Field(
        1e-6, ge=0, description="Least variance of a Gaussian dimension, in the data's units squared."
    )


class Model(base.Model, base.Density, base.Sampler):
    Spec = Spec
    accepts = frozenset({"binary", "unit", "real"})

    def fit(self, data: Dataset, session: Session) -> None:
        """Closed form. A split that is binarized at each draw contributes its grey values: their exact expectation.

        Raises:
            CannotBeDone: where a Gaussian dimension is constant and the floor is 0.
        """
        count = len(data.train)
        if data.values == "binary":
            total = torch.zeros(self.dimension, dtype=torch.float64, device=session.device)
            rows = max(1, (1 << 21) // self.dimension)
            for start in range(0, count, rows):
                grey = torch.from_numpy(data.train.x[start : start + rows].astype("float64"))
                total += grey.to(session.device).sum(0)
            pseudo_count = self.spec.pseudo_count
            self._family = _BERNOULLI
            self._mean = (total + pseudo_count) / (count + 2 * pseudo_count)
            self._variance = self._mean * (1 - self._mean)
        else:
            self._family = _GAUSSIAN
            self._mean = sum(chunk.sum(0) for chunk in chunks(data.train, session.device)) / count
            squares = sum((chunk - self._mean).square().sum(0) for chunk in chunks(data.train, session.device))
            self._variance = (squares / count).clamp(min=self.spec.variance_floor)
            if not bool((self._variance > 0).all()):
                raise CannotBeDone("a dimension of the training data is constant: set variance_floor above 0.")

    def state(self) -> dict[str, Tensor]:
        return {"family": torch.tensor(self._family), "mean": self._mean, "variance": self._variance}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._family = int(state["family"])
        self._mean, self._variance = state["mean"], state["variance"]

    def log_prob(self, x: Tensor) -> Tensor:
        x = x.to(self._mean)
        if self._family == _BERNOULLI:
            # xlogy keeps 0 log 0 = 0 where pseudo_count is 0.
            terms = torch.special.xlogy(x, self._mean) + torch.special.xlogy(1 - x, 1 - self._mean)
        else:
            terms = -0.5 * ((x - self._mean).square() / self._variance + (2 * math.pi * self._variance).log())
        return terms.sum(1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        size = (n, self.dimension)
        if self._family == _BERNOULLI:
            uniform = torch.rand(size, generator=generator, device=generator.device, dtype=torch.float64)
            return (uniform < self._mean).float()
        noise = torch.randn(size, generator=generator, device=generator.device, dtype=torch.float64)
        return (self._mean + self._variance.sqrt() * noise).float()
