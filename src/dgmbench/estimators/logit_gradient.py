"""How noisy the gradient is that one draw of zeta gives the log-odds of the approximate posterior.

    L(l; zeta) = log p(x given zeta) + log p(zeta) - log q(zeta; l),    zeta = F^-1(rho; l),    q = sigmoid(l)
    g = d L / d l at fixed rho: through zeta (implicitly, whatever the smoothing) and through log q itself
    variance = mean over units and examples of Var_rho[g_i]

L is the bound with one draw; log p(x given zeta) is a decoder's, 0 of a machine that has none. log p(zeta) is that of
mean field, whose gradient is the one that training takes. The log-odds l are held where `_relaxed_prior` has them: that
those of a later group of units move with the zeta of an earlier one is not in g.

Reference: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, equations 5 and 9 and figure 2 (c).
"""

import math

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators._relaxed_prior import RelaxedMachine, RelaxedSettings, relaxed_machine
from dgmbench.estimators.base import Estimate, Estimates, Metric, Workbench
from dgmbench.models.base import BinaryLatents

REQUIRES = BinaryLatents
METRICS = {
    "gradient_variance": Metric(
        "nats^2", "score", "lower", "variance over draws of d L / d logit, mean over units and examples"
    )
}
SMOKE: dict = {"draws": 5}


class Settings(RelaxedSettings):
    draws: int = Field(100, ge=2, description="Draws of zeta for each example.")


def scorings(settings: Settings, examples: int) -> float:
    return float(examples * settings.draws * 2 * (settings.rounds + 2))


def estimate(model: BinaryLatents, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """The variance, with the standard error of its own draws.

    Raises:
        CannotBeDone: a gradient is not finite.
    """
    x = data.splits[settings.split].take(slice(0, settings.examples), bench.generator).to(bench.device)
    relaxed = relaxed_machine(model, x, settings, bench.generator)
    drawn = []
    with bench.progress.task("gradients", total=settings.draws, unit="draw") as task:
        for _ in range(settings.draws):
            drawn.append(gradient(model, x, relaxed, bench.generator))
            task.advance()
    gradients = torch.stack(drawn)
    if not bool(gradients.isfinite().all()):
        raise CannotBeDone("a gradient of the bound is not finite: lower beta, or train the machine more gently.")
    deviation = (gradients - gradients.mean(0)).square() * settings.draws / (settings.draws - 1)
    of_examples = deviation.mean((0, 2)).cpu().numpy()
    # Each draw's share of the variance; that the mean is estimated too is of higher order.
    se = (deviation.mean((1, 2)).std() / math.sqrt(settings.draws)).item()
    return Estimates([Estimate("gradient_variance", float(of_examples.mean()), of_examples, se)])


def gradient(model: BinaryLatents, x: Tensor, relaxed: RelaxedMachine, generator: torch.Generator) -> Tensor:
    """d L / d logit for one draw of zeta: (n, D)."""
    with torch.enable_grad():
        logits = relaxed.logits.detach().requires_grad_(True)
        one = RelaxedMachine(relaxed.prior, logits)
        zeta = one.draw(generator)
        bound = one.prior.log_unnormalised(zeta) - one.prior.smoothing.mixture_log_prob(zeta, logits).sum(-1)
        bound = bound + model.log_prob_x_given_units(x, zeta)
        return torch.autograd.grad(bound.sum(), logits)[0]
