"""One binary unit and its smoothing, at several inverse temperatures: known, not trained.

    q(zeta) = (1 - q) r_beta(zeta given 0) + q r_beta(zeta given 1),    q = q(z = 1)

What a discrete variational autoencoder's units are made of, by themselves. The data are not looked at.

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, equation 1, section 3.3 and figure 1; the defaults of beta and epsilon are those of section 4.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.models import base
from dgmbench.models.variational.smoothing.base import Smoothing
from dgmbench.models.variational.smoothing.families import Family, smoothing
from dgmbench.training.session import Session

SMOKE: dict = {"betas": [8.0]}


class Spec(base.ModelSpec):
    smoothing: Family = Field("exponential", description="The family of r(zeta given z).")
    betas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (8.0, 10.0, 12.0, 16.0), min_length=1, description="Inverse temperatures; above 1 for the power function."
    )
    epsilon: float = Field(
        0.05, gt=0, lt=1, description="Of uniform_exponential alone: the weight of the uniform density."
    )
    shift: float = Field(0.0, description="Of shifted_gaussian alone: how far both densities are moved.")

    @model_validator(mode="after")
    def _each_can_be_formed(self) -> "Spec":
        self.formed()
        if len(set(self.betas)) < len(self.betas):
            raise ValueError("betas: write each inverse temperature once")
        return self

    def formed(self) -> dict[float, Smoothing]:
        return {beta: smoothing(self.smoothing, beta, self.epsilon, self.shift) for beta in sorted(self.betas)}


class Model(base.Model, base.Smoothed):
    Spec = Spec
    accepts = frozenset({"binary"})

    @classmethod
    def operations(cls, spec: Spec, dimension: int) -> float:
        return 1.0

    def fit(self, data: Dataset, session: Session) -> None:
        """Nothing: the spec says it all."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing is stored."""

    def smoothings(self) -> dict[float, Smoothing]:
        return self.spec.formed()
