"""Mixture of multivariate Student-t distributions with full scale matrices, by expectation maximisation.

    p(x) = sum_k pi_k t(x; mu_k, S_k, nu_k),    delta_k(x) = (x - mu_k)^T S_k^-1 (x - mu_k)
    t(x; mu, S, nu) = Gamma((nu + d) / 2) / (Gamma(nu / 2) (pi nu)^(d/2) |S|^(1/2)) (1 + delta(x) / nu)^(-(nu + d) / 2)
    as a mixture over a latent scale:  u ~ Gamma(nu / 2, rate nu / 2),  x given u ~ N(mu, S / u)

    E:  r_nk = pi_k t(x_n; mu_k, S_k, nu_k) / p(x_n),    u_nk = E[u given x_n, k] = (nu_k + d) / (nu_k + delta_nk),
        l_nk = E[log u given x_n, k] = psi((nu_k + d) / 2) - log((nu_k + delta_nk) / 2)
    M:  pi_k = mean_n r_nk,    mu_k = sum_n r_nk u_nk x_n / sum_n r_nk u_nk,
        S_k = sum_n r_nk u_nk (x_n - mu_k)(x_n - mu_k)^T / sum_n r_nk u_nk + ridge I,
        nu_k:  log(nu_k / 2) - psi(nu_k / 2) = log u_k - l_k,   u_k, l_k: means of u_nk, l_nk with weights r_nk

This is EM with one parameter more, alpha_k (parameter expansion, PX-EM): u ~ Gamma(nu / 2, rate nu / (2 alpha)),
x given u ~ N(mu, C / u). Since u / alpha has the scale's own distribution, p(x) is the mixture above with
S = C / alpha: alpha changes nothing that is observed. The E-step is taken at alpha = 1; the M-step maximises the
expected complete log-likelihood over everything, alpha included, exactly. For component k, divided by sum_n r_nk, it is

    -1/2 log |C| - 1/2 mean r u (x - mu)^T C^-1 (x - mu)
    + nu/2 log(nu / (2 alpha)) - log Gamma(nu / 2) + nu/2 l_k - nu u_k / (2 alpha)  + terms without parameters,

whose maximum is C = sum r u (x - mu)(x - mu)^T / sum r, alpha = u_k (for every nu), and, that put in, the derivative
1/2 (log(nu / 2) - psi(nu / 2) - log u_k + l_k) = 0 for nu. Hence S = C / alpha as above, and the likelihood never
falls (ridge 0): EM never lowers that of the expanded model, which is the mixture's own. The left side of nu's equation
falls strictly, from infinity to zero, so the bound has one peak in nu: the root, clamped to the limits, is the
constrained maximum, and monotonicity survives the limits. The right side is positive by Jensen's inequality, so the
root is finite. Plain EM divides S by sum r instead of sum r u and has 1 - u_k + ... in place of -log u_k + ...; where
the ridge is 0 both have the same fixed points, since sum_n r u = sum_n r at any of them (the trace of S_k^-1 times the
equation of S_k, with u delta = nu + d - nu u), but PX-EM reaches them in fewer iterations (Liu, Rubin and Wu).
As nu grows every u tends to 1, and the iteration to the Gaussian mixture's.

Limits: 0.5 <= nu <= 1e5 where it is fitted (`_student.solve_degrees`). Below 2 a component has no covariance, below 1
(or at it) no mean: S is its scale matrix.

References: van den Oord and Schrauwen, "The Student-t mixture as a natural image patch prior with application to image
compression", Journal of Machine Learning Research 15, 2014; Peel and McLachlan, "Robust mixture modelling using the t
distribution", Statistics and Computing 10, 2000, section 3 (plain EM); Liu, Rubin and Wu, "Parameter expansion to
accelerate EM: the PX-EM algorithm", Biometrika 85(4), 1998, section 4 (one t distribution).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.models.density._gaussian import chunk_rows
from dgmbench.models.mixtures import _em, _fitting
from dgmbench.models.mixtures._student import (
    LEAST_DEGREES,
    MOST_DEGREES,
    NoisyComponent,
    Workspace,
    log_mixture,
    solve_degrees,
)
from dgmbench.training.distributed import Group
from dgmbench.training.session import Session

SMOKE: dict = {"components": 3, "iterations": 6, "tolerance": 0.0, "start_examples": 200}

# Quadrature over u holds about a hundred float64 numbers for each example: fewer examples at once.
_RESTORED_AT_ONCE = 4096
_PARAMETERS = ("log_weights", "means", "factors", "degrees")


class Spec(_fitting.Spec):
    components: int = Field(10, ge=1, description="Number of Student-t distributions.")
    degrees: float | None = Field(
        None,
        ge=LEAST_DEGREES,
        le=1e10,
        description="Degrees of freedom of every component, held there; null fits them, one for each component.",
    )
    start_degrees: float = Field(
        5.0, ge=LEAST_DEGREES, le=MOST_DEGREES, description="Degrees of freedom that the fit of them starts from."
    )


class Model(_fitting.Mixture):
    Spec = Spec

    @property
    def free_parameters(self) -> int:
        """Weights, means, scale matrices and, where they are fitted, degrees of freedom."""
        k, d = self.spec.components, self.dimension
        return k - 1 + k * d + k * d * (d + 1) // 2 + (k if self.spec.degrees is None else 0)

    def fit(self, data: Dataset, session: Session) -> None:
        """PX-EM on data whitened by their own mean and covariance (the model goes along with affine changes).

        Each iteration records, of the parameters that it starts from: the mean `log_likelihood` of the training data
        and `validation_log_likelihood` of at most 20,000 evenly spaced validation examples (nats of the data's own
        space), `rounding` (mean absolute difference between the E-step's log p and float64, nats), the least and the
        median of the `degrees` of freedom, and how many `empty_components` it re-seeded: one with fewer than d + 1
        examples starts again as a half of the largest, with the degrees of freedom of the start.

        Raises:
            CannotBeDone: too few examples; a singular covariance (says which ridge to set); float32 too coarse.
        """
        spec, group = self.spec, Group()
        work = _fitting.working(data, spec, "whitened", spec.components, self.dimension + 1, session.device, group)
        workspace = Workspace(spec.components, self.dimension, _fitting.CHUNK, work.z.dtype, session.device)
        em = _fitting.blank(spec, self.dimension, session.device)
        em["degrees"] = torch.full_like(em["log_weights"], self._first_degrees)
        if not session.resumable:
            covariances = _fitting.first_covariances(em, spec, data, work, session.generator)
            em["factors"].copy_(torch.linalg.cholesky(covariances))
        session.track(em=em)
        for _ in session.steps(spec.iterations, unit="iteration"):
            if em["stop"]:
                break
            exchanged, coefficients = group.exchanged, workspace.coefficients(em)
            rounding = self._rounding(em, work, workspace, coefficients)
            log_likelihood, sums, tallies = workspace.accumulate(work.z, coefficients)
            total = torch.tensor([log_likelihood], dtype=torch.float64, device=session.device)
            group.sum(total, sums, tallies)
            log_likelihood = float(total) / work.count
            validation = float(workspace.log_prob(work.validation, coefficients).mean(dtype=torch.float64))
            least, median = em["degrees"].min(), em["degrees"].median()
            empty = self._maximise(em, sums, tallies, work, session.generator)
            row = {
                "log_likelihood": log_likelihood - work.log_volume,
                "validation_log_likelihood": validation - work.log_volume,
                "rounding": rounding,
                "least_degrees": least,
                "median_degrees": median,
                "empty_components": empty,
            }
            session.record(**row, **_fitting.exchanged_share(group, exchanged, work))
            # Stopping is noted for the next step to see, so that this one still closes its row of the history.
            em["stop"] = empty == 0 and abs(log_likelihood - em["previous"]) < spec.tolerance
            em["previous"] = log_likelihood
        self._rounding(em, work, workspace, workspace.coefficients(em))
        self.load_state(
            {
                "log_weights": em["log_weights"],
                "means": work.mean + em["means"] @ work.scale.T,
                "factors": work.scale @ em["factors"],
                "degrees": em["degrees"],
            }
        )

    def _rounding(
        self, em: dict[str, Any], work: _fitting.Working, workspace: Workspace, coefficients: tuple[Tensor, ...]
    ) -> float:
        exact = log_mixture(work.probe.double(), *(em[name] for name in _PARAMETERS)).logsumexp(0)
        return _fitting.check_rounding(self.spec, workspace.log_prob(work.probe, coefficients), exact)

    @property
    def _first_degrees(self) -> float:
        return self.spec.start_degrees if self.spec.degrees is None else self.spec.degrees

    def _maximise(
        self,
        em: dict[str, Any],
        sums: Tensor,
        tallies: Tensor,
        work: _fitting.Working,
        generator: torch.Generator,
    ) -> int:
        """The M-step, in place; returns how many components were re-seeded."""
        counts, logs = tallies.unbind(1)
        weight, tiny = sums[:, 0], torch.finfo(sums.dtype).tiny
        empty = counts < self.dimension + 1
        if self.spec.degrees is None:
            degrees, d = em["degrees"], self.dimension
            # u_nk = (1 + d / nu) / (1 + v_nk): logarithms of the mean of u and means of log u, log(1 + d / nu) apart.
            log_mean = (weight.clamp(min=tiny) / counts.clamp(min=tiny)).log()
            mean_log = -logs / counts.clamp(min=tiny)
            half = 0.5 * (degrees + d)
            updated = solve_degrees(log_mean - mean_log + half.log() - torch.digamma(half))
            em["degrees"].copy_(torch.where(empty, self._first_degrees, updated))
        # Means and scales are averages with the weights r u: the Gaussian's, once their total is the count again.
        rescaled = sums * (counts / weight.clamp(min=tiny))[:, None]
        counts, means, scales = _em.moments(rescaled, self.dimension)
        scales = scales + work.ridge
        _fitting.split_the_largest(empty, counts, means, scales, generator)
        factors = _fitting.factors_of(scales, means, self.spec, work.advice, "scale matrix")
        em["log_weights"].copy_((counts / counts.sum()).log())
        em["means"].copy_(means)
        em["factors"].copy_(factors)
        return int(empty.sum())

    def state(self) -> dict[str, Tensor]:
        """`log_weights` (k,), `means` (k, d), `factors` (k, d, d), S_k = factor factor^T, `degrees` (k,): float64."""
        return dict(zip(_PARAMETERS, (self._log_weights, self._means, self._factors, self._degrees)))

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._log_weights, self._means, self._factors, self._degrees = (state[name] for name in _PARAMETERS)

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.cat([scores.logsumexp(0) for scores in self._scores(x)])

    def assign(self, x: Tensor) -> Tensor:
        """The component of largest responsibility."""
        return torch.cat([scores.argmax(0) for scores in self._scores(x)])

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws, by x = mu + L z / sqrt(u); u by the inverse of its distribution function."""
        from scipy.special import gammaincinv

        options = {"generator": generator, "device": generator.device, "dtype": torch.float64}
        component = torch.searchsorted(self._log_weights.exp().cumsum(0), torch.rand(n, **options))
        component = component.clamp(max=len(self._log_weights) - 1)
        noise, uniform = torch.randn((n, self.dimension), **options), torch.rand(n, **options).clamp(min=2.0**-54)
        x = torch.empty(n, self.dimension, device=generator.device)
        for k in component.unique():
            own, half = component == k, float(self._degrees[k]) / 2
            u = torch.from_numpy(gammaincinv(half, uniform[own].cpu().numpy()) / half).to(noise)
            x[own] = (self._means[k] + (noise[own] / u.sqrt()[:, None]) @ self._factors[k].T).float()
        return x

    def posterior_mean(self, y: Tensor, noise_sd: float) -> Tensor:
        """E[x given y]: Wiener estimates averaged over components and, by quadrature, over the latent scale."""
        return self._restored(y, noise_sd)[0].to(y.dtype)

    def posterior_mode(self, y: Tensor, noise_sd: float) -> Tensor:
        """An approximation: argmax_x of p(x given k) p(y given x) for the component k most probable given y.

        With p(k given y) from the quadrature over the latent scale. As degrees of freedom grow it tends to the
        Gaussian mixture's approximation, the Wiener estimate of that component.
        """
        component = self._restored(y, noise_sd)[1]
        exact = y.to(self._means)
        mode = torch.empty_like(exact)
        for k in component.unique():
            own = component == k
            mode[own] = self._noisy(k, noise_sd).mode(exact[own])
        return mode.to(y.dtype)

    def _noisy(self, k: int | Tensor, noise_sd: float) -> NoisyComponent:
        return NoisyComponent(self._means[k], self._factors[k], self._degrees[k], noise_sd)

    def _restored(self, y: Tensor, noise_sd: float) -> tuple[Tensor, Tensor]:
        """E[x given y] in float64 and the component most probable given y: (n, d) -> (n, d), (n,)."""
        components = [self._noisy(k, noise_sd) for k in range(len(self._means))]
        means, assigned = [], []
        for part in y.split(_RESTORED_AT_ONCE):
            part = part.to(self._means)
            top = torch.full((len(part),), -math.inf).to(part)
            total, mean = torch.zeros_like(top), torch.zeros_like(part)
            best = torch.zeros(len(part), dtype=torch.int64, device=part.device)
            for k, component in enumerate(components):
                score, estimate = component.posterior(part)
                score = score + self._log_weights[k]
                best = torch.where(score > top, k, best)
                # A running softmax: what was summed so far is rescaled wherever the largest score moves.
                raised = torch.maximum(top, score)
                old, new = (top - raised).exp(), (score - raised).exp()
                total, top = total * old + new, raised
                mean.mul_(old[:, None]).add_(estimate * new[:, None])
            means.append(mean / total[:, None])
            assigned.append(best)
        return torch.cat(means), torch.cat(assigned)

    def _scores(self, x: Tensor) -> Iterator[Tensor]:
        """log pi_k t(x; mu_k, S_k, nu_k), chunk by chunk of examples: (k, m) each, in float64."""
        for part in x.split(chunk_rows(self.dimension)):
            yield log_mixture(part.to(self._means), self._log_weights, self._means, self._factors, self._degrees)
