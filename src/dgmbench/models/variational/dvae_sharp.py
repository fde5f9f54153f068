"""DVAE#: a discrete variational autoencoder whose Boltzmann prior is relaxed, for importance-weighted bounds.

    L_k(x) = E[log (1/k) sum_i w_i],   w_i = p(x given zeta_i) p(zeta_i) / q(zeta_i given x),   zeta_i from q(. given x)
    p(zeta) = sum_z p(z) r(zeta given z),    q(zeta given x) = sum_z q(z given x) r(zeta given z) within each group

`exp`, `uniform-exp`, `power`, `gaussian`: r has overlapping densities, the same in p and q, and the sum over z of p is
by mean field (`OverlappingRelaxation`). `gaussian-integral`: r of p is N(zeta; z, (W + beta I)^-1), whose sum over z is
exact (`GaussianIntegralRelaxation`), and q's is N(zeta_i; z_i + shift_i, sd_i^2) with

    shift_i = (sigmoid(u_i) - 1/2) / 2,  u_i an output of the encoder,    sd_i = 0.2 |t_i| + 0.05,  t_i learnt from 1 on

With k = 1 this is the ELBO, its divergence by the draw. p(z), q and the networks: `_discrete`.

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, equations 3, 4 and 7; ranges of shift and sd are those of the code beside it, whose slips `formulas: code`
repeats (`smoothing.as_in_code`, and a norm of W that is renewed with the validation bound alone).
"""

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.models.variational._boltzmann_prior import GaussianIntegralRelaxation, OverlappingRelaxation
from dgmbench.models.variational._discrete import DiscreteAutoencoder
from dgmbench.models.variational._discrete_training import DiscreteSpec
from dgmbench.models.variational._training import log_mean_exp
from dgmbench.models.variational.smoothing.as_in_code import OffsetPowerFunction, SlippedShiftedGaussian
from dgmbench.models.variational.smoothing.base import Smoothing
from dgmbench.models.variational.smoothing.exponential import Exponential
from dgmbench.models.variational.smoothing.gaussian import Gaussian
from dgmbench.models.variational.smoothing.power_function import PowerFunction
from dgmbench.models.variational.smoothing.shifted_gaussian import ShiftedGaussian
from dgmbench.models.variational.smoothing.uniform_exponential import UniformExponential
from dgmbench.training.session import Session

SMOKE = {"latent": 4, "hidden": [8], "iterations": 12, "batch_size": 20, "chains": 20, "sweeps": 2} | {
    "samples_k": 2,
    "validations": 3,
    "validation_temperatures": 20,
    "sample_sweeps": 20,
}


class Spec(DiscreteSpec):
    relaxation: Literal["exp", "uniform-exp", "power", "gaussian", "gaussian-integral"] = Field(
        "power", description="How prior and posterior become continuous: a smoothing, or the Gaussian integral."
    )
    epsilon: float = Field(0.05, gt=0, lt=1, description="Of uniform-exp: the weight of the uniform density.")
    mean_field_sweeps: int = Field(5, ge=1, description="Mean-field rounds for log p(zeta); not of gaussian-integral.")
    margin: float = Field(
        5.0, gt=0, description="Of gaussian-integral: how far beta stays above a bound on the norm of W, at least."
    )

    @model_validator(mode="after")
    def _settings_are_read(self) -> Self:
        integral = self.relaxation == "gaussian-integral"
        for name, read, when in (
            ("formulas", integral or self.relaxation == "power", "with relaxation: power or gaussian-integral"),
            ("epsilon", self.relaxation == "uniform-exp", "with relaxation: uniform-exp"),
            ("mean_field_sweeps", not integral, "without relaxation: gaussian-integral"),
            ("margin", integral, "with relaxation: gaussian-integral"),
        ):
            if not read and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"'{name}' is read only {when}: leave it out")
        return self


class Model(DiscreteAutoencoder):
    """With `gaussian-integral`, `parameters` has `posterior.sd` (D,) too, the t of the module's docstring."""

    Spec = Spec

    def __init__(self, spec: Spec, dimension: int):
        self.outputs = 2 if spec.relaxation == "gaussian-integral" else 1
        super().__init__(spec, dimension)
        self.norm = torch.zeros(())  # of W, as it was when the validation bound was last measured

    def further_parameters(self, units: int) -> dict[str, Tensor]:
        return {"posterior.sd": torch.ones(units)} if self.spec.relaxation == "gaussian-integral" else {}

    @property
    def method(self) -> str:
        return f"dvae#/{self.spec.relaxation}"

    @property
    def smoothing(self) -> Smoothing:
        """r of an overlapping relaxation."""
        if self.spec.relaxation == "uniform-exp":
            return UniformExponential(self.beta, self.spec.epsilon)
        power = OffsetPowerFunction if self.slipped else PowerFunction
        return {"exp": Exponential, "power": power, "gaussian": Gaussian}[self.spec.relaxation](self.beta)

    def smoothed(self, outputs: Tensor, units: slice) -> tuple[Smoothing, Tensor]:
        if self.spec.relaxation != "gaussian-integral":
            return super().smoothed(outputs, units)
        logits, u = outputs.chunk(2, -1)
        sd = 0.2 * self.others["posterior.sd"][units].abs() + 0.05
        family = SlippedShiftedGaussian if self.slipped else ShiftedGaussian
        return family(sd**-2, 0.5 * (torch.sigmoid(u) - 0.5)), logits

    def objective(self, x: Tensor, generator: torch.Generator, weight: float) -> tuple[Tensor, Tensor]:
        zeta, logits, smoothings = self.relaxed(x, self.spec.samples_k, generator)
        m = self.spec.latent
        log_q = sum(
            smoothing.mixture_log_prob(part, log_odds).sum(-1)
            for smoothing, part, log_odds in zip(smoothings, zeta.split(m, -1), logits.split(m, -1), strict=True)
        )
        divergence = log_q - self.log_prior(zeta)
        log_likelihood = self.log_prob_x(x, zeta, training=True)
        return log_mean_exp(log_likelihood - weight * divergence), log_mean_exp(log_likelihood - divergence)

    def _initialise(self, data: Dataset, session: Session) -> None:
        super()._initialise(data, session)
        self.norm = self.norm.to(session.device)

    def state(self) -> dict[str, Tensor]:
        return super().state() | ({"norm": self.norm} if self.slipped else {})

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        self.norm = state.get("norm", self.norm)

    def validation_bound(self, x: Tensor) -> tuple[float, float]:
        if self.slipped:
            self.norm.copy_(torch.linalg.matrix_norm(self.machine.weights.detach(), 2))
        return super().validation_bound(x)

    def log_prior(self, zeta: Tensor) -> Tensor:
        """log p(zeta) + log Z in nats: (..., D) -> (...)."""
        if self.spec.relaxation == "gaussian-integral":
            norm = self.norm if self.slipped else None
            return GaussianIntegralRelaxation(self.machine, self.beta, self.spec.margin, norm).log_unnormalised(zeta)
        return OverlappingRelaxation(self.machine, self.smoothing, self.spec.mean_field_sweeps).log_unnormalised(zeta)
