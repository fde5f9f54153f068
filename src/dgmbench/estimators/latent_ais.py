"""The log-likelihood of a decoder by annealed importance sampling over its latent variables.

    p*_beta(u) = N(u; 0, I) p(x given u)^beta,    beta from 0 to 1,    Z_0 = 1,  Z_1 = p(x)
    log p(x) estimated by log (1/c) sum_i w_i over c independent chains of each example

Transitions are Hamiltonian: `leapfrog` steps of a size drawn anew for each chain, then accepted or refused, so that
every p_beta is left invariant. w is unbiased for p(x), its logarithm too low in expectation (Jensen).

References: Neal, "Annealed importance sampling", 2001, section 2; of decoders: Wu, Burda, Salakhutdinov and Grosse, "On
the quantitative analysis of decoder-based generative models", ICLR 2017, section 3; Hamiltonian transitions: Neal,
"MCMC using Hamiltonian dynamics", 2011, sections 3.2 and 4.2 (random step sizes).
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators._annealing import AnnealingSettings, anneal, betas
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.estimators.importance_weighted import effective_sample_size, jackknife_variance, log_mean_exp
from dgmbench.models.base import AnnealedPath, Decoder

REQUIRES = Decoder
METRICS = {
    "log_likelihood": Metric(
        "nats", "lower-bound", "higher", "Mean log p(x) by annealing the latent variables; too low in expectation."
    )
}
_STEP_RANGE = math.log(4)  # step sizes are drawn between a quarter of the largest and the largest


class Settings(EstimatorSettings):
    schedule: Literal["linear", "sigmoid"] = Field("sigmoid", description="Spacing of the inverse temperatures.")
    temperatures: int = Field(500, ge=2, description="Inverse temperatures, both ends counted.")
    chains: int = Field(16, ge=2, description="Independent chains of each example.")
    leapfrog: int = Field(5, ge=1, description="Leapfrog steps of a transition.")
    step_size: float = Field(
        0.3, gt=0, description="Largest leapfrog step, in prior standard deviations; each is log-uniform down to a 4th."
    )
    tolerance: float = Field(0.1, gt=0, description="Largest gain from c/2 to c chains that counts as converged, nats.")


class PosteriorPath(AnnealedPath):
    """From the prior to the posterior, one row for each pair of chain and example. Args: x (rows, d), one for each.

    `accepted` and `proposed` count transitions.
    """

    log_z_base = 0.0

    def __init__(self, model: Decoder, x: Tensor, leapfrog: int, step_size: float):
        self.model, self.x, self.leapfrog, self.step_size = model, x, leapfrog, step_size
        self.accepted, self.proposed = 0, 0

    def sample_base(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, self.model.latent_dimension, generator=generator, device=self.x.device)

    def log_unnormalised(self, state: Tensor, beta: float) -> Tensor:
        log_prior = -0.5 * (state.square() + math.log(2 * math.pi)).sum(1)
        return log_prior + beta * self._log_likelihood(state)

    def log_ratio(self, state: Tensor, beta_from: float, beta_to: float) -> Tensor:
        return (beta_to - beta_from) * self._log_likelihood(state).double()

    def step(self, state: Tensor, beta: float, generator: torch.Generator) -> Tensor:
        """One Hamiltonian transition of unit mass."""
        options = {"generator": generator, "device": state.device}
        size = self.step_size * torch.exp(-_STEP_RANGE * torch.rand(len(state), 1, **options)).to(state)
        momentum = torch.randn(state.shape, **options).to(state)
        log_p, gradient = self._with_gradient(state, beta)
        before = log_p - 0.5 * momentum.square().sum(1)
        u = state
        for _ in range(self.leapfrog):
            momentum = momentum + 0.5 * size * gradient
            u = u + size * momentum
            log_p, gradient = self._with_gradient(u, beta)
            momentum = momentum + 0.5 * size * gradient
        change = log_p - 0.5 * momentum.square().sum(1) - before
        # A trajectory that ran off to infinity compares as not a number, and is refused.
        accepted = torch.rand(len(state), **options).to(state).log() < change
        self.accepted, self.proposed = self.accepted + int(accepted.sum()), self.proposed + len(state)
        return torch.where(accepted[:, None], u, state)

    def _log_likelihood(self, state: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model.log_prob_x_given_u(self.x, state)

    def _with_gradient(self, state: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            u = state.detach().requires_grad_(True)
            log_p = beta * self.model.log_prob_x_given_u(self.x, u) - 0.5 * u.square().sum(1)
            (gradient,) = torch.autograd.grad(log_p.sum(), u)
        return log_p.detach(), gradient


def scorings(settings: Settings, examples: int) -> float:
    return 2.0 * settings.chains * settings.temperatures * (settings.leapfrog + 1) * examples


def estimate(model: Decoder, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """The mean over the split of the logarithm of each example's mean weight.

    `estimator_se` is the jackknife's over the chains. Converged means that the gain from half of the chains to all is
    below `tolerance`. ESS is (sum w)^2 / sum w^2 of each example's chains.
    """
    x = data.splits[settings.split].take(slice(0, settings.examples), bench.generator).to(bench.device)
    path = PosteriorPath(model, x.repeat(settings.chains, 1), settings.leapfrog, settings.step_size)
    spacing = AnnealingSettings(schedule=settings.schedule, temperatures=settings.temperatures)
    schedule = betas(path, spacing, bench.generator)
    state = path.sample_base(len(path.x), bench.generator)
    log_weights = anneal(path, schedule, state, 1, bench).reshape(settings.chains, len(x))
    if not bool(log_weights.isfinite().all()):
        raise CannotBeDone("annealed importance weights are not finite: lower step_size or raise temperatures.")
    value = log_mean_exp(log_weights).cpu().numpy()
    half = settings.chains // 2
    parts = [log_mean_exp(part).mean().item() for part in (log_weights[:half], log_weights[half:])]
    gain = float(value.mean()) - sum(parts) / 2
    effective = effective_sample_size(log_weights).cpu().numpy()
    evidence = {
        "chains": settings.chains,
        "temperatures": settings.temperatures,
        "acceptance": path.accepted / max(1, path.proposed),
        "effective_sample_size_mean": float(effective.mean()),
        "effective_sample_size_min": float(effective.min()),
        "gain_of_doubling": gain,
        "tolerance": settings.tolerance,
    }
    se = math.sqrt(float(jackknife_variance(log_weights).sum())) / len(x)
    return Estimates([Estimate("log_likelihood", float(value.mean()), value, se, gain < settings.tolerance, evidence)])
