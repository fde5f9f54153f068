"""E-step, degrees of freedom and scale quadrature of a mixture of Student-t distributions.

    delta_nk = (z_n - mu_k)^T S_k^-1 (z_n - mu_k),    v_nk = delta_nk / nu_k = theta_k . phi(z_n)
    log pi_k t(z_n) = log c_k - (nu_k + d) / 2 log(1 + v_nk)
    u_nk = (nu_k + d) / (nu_k + delta_nk) = (1 + d / nu_k) / (1 + v_nk)

phi is the Gaussian mixture's (1, z, upper triangle of z z^T): an iteration is the same two matrix products, one
logarithm and a few elementwise passes over k numbers for each example of a chunk.
"""

import math

import numpy as np
import torch
from scipy.special import betaln, gammaln
from torch import Tensor

from dgmbench.models.mixtures import _em

# Below 1/2 a draw may leave float32 (its scale is near U^(-1/nu), U >= 2^-54). At 1e5 it is a Gaussian
# to 1e-6 nats on average in 63 dimensions, and float32 sums hardly tell one value from another.
LEAST_DEGREES, MOST_DEGREES = 0.5, 1e5

# What quadrature over the latent scale leaves out of a tail, as a share: e^-35 is the rounding of float64.
_TAIL = 35.0


def log_gamma_ratio(degrees: Tensor, dimension: int) -> Tensor:
    """log Gamma((nu + d) / 2) - log Gamma(nu / 2): (k,) -> (k,), without the cancellation at large nu."""
    half = degrees.cpu().numpy() / 2
    return torch.from_numpy(np.asarray(gammaln(dimension / 2) - betaln(half, dimension / 2))).to(degrees)


def log_constants(log_weights: Tensor, factors: Tensor, degrees: Tensor) -> Tensor:
    """log c_k = log pi_k + log Gamma ratio - d/2 log(pi nu_k) - log |L_k|: (k,)."""
    dimension = factors.shape[1]
    volume = factors.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * dimension * (math.pi * degrees).log()
    return log_weights + log_gamma_ratio(degrees, dimension) - volume


def log_mixture(x: Tensor, log_weights: Tensor, means: Tensor, factors: Tensor, degrees: Tensor) -> Tensor:
    """log pi_k t(x_n; mu_k, L_k L_k^T, nu_k): (m, d) -> (k, m), nats."""
    identity = torch.eye(x.shape[1]).to(factors)
    constants = log_constants(log_weights, factors, degrees)
    scores = x.new_empty(len(means), len(x))
    for k, factor in enumerate(factors):
        whitened = torch.linalg.solve_triangular(factor, identity, upper=False) @ (x - means[k]).T
        excess = torch.log1p(whitened.square_().sum(0) / degrees[k])
        scores[k] = constants[k] - 0.5 * (degrees[k] + x.shape[1]) * excess
    return scores


def solve_degrees(target: Tensor) -> Tensor:
    """The nu of log(nu / 2) - psi(nu / 2) = target, (k,) -> (k,), within [LEAST_DEGREES, MOST_DEGREES].

    The left side falls strictly, from infinity to 0, and is nearly 1 / nu: Newton's method in log nu, where a step out
    of the bracket is replaced by the bracket's middle. Where the root lies beyond a limit (targets of zero or less,
    which only rounding makes, lie beyond the upper one) the answer is that limit, which is then the maximum of the
    likelihood's bound within the limits, because the bound has one peak.
    """
    low = torch.full_like(target, math.log(LEAST_DEGREES))
    high = torch.full_like(target, math.log(MOST_DEGREES))
    position = (-target.clamp(min=torch.finfo(target.dtype).tiny).log()).clamp(low, high)
    for _ in range(60):
        half = position.exp() / 2
        excess = half.log() - torch.digamma(half) - target
        low, high = torch.where(excess > 0, position, low), torch.where(excess > 0, high, position)
        newton = position - excess / (1 - half * torch.polygamma(1, half))
        inside = (newton > low) & (newton < high)
        moved = torch.where(inside, newton, 0.5 * (low + high))
        settled = (moved - position).abs() <= 1e-13
        position = moved
        if bool(settled.all()):
            break
    return position.exp().clamp(LEAST_DEGREES, MOST_DEGREES)


class Workspace(_em.Workspace):
    """The Gaussian mixture's buffers, and two more of k numbers for each example of a chunk."""

    def __init__(self, components: int, dimension: int, chunk: int, dtype: torch.dtype, device: torch.device):
        super().__init__(components, dimension, chunk, dtype, device)
        self._relative = torch.empty_like(self._scores)
        self._logs = torch.empty_like(self._scores)

    def coefficients(self, em: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """What the E-step needs of the parameters: theta (k, F), -(nu + d) / 2 and log c, (k, 1) each."""
        means, factors, degrees = em["means"], em["factors"], em["degrees"]
        log_volume = factors.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * self.dimension * math.log(2 * math.pi)
        # With the volume for a weight, what is left of the Gaussian's exponent is -delta / 2.
        theta = _em.natural_parameters(log_volume, means, factors) * (-2 / degrees)[:, None]
        slope, constants = -0.5 * (degrees + self.dimension), log_constants(em["log_weights"], factors, degrees)
        dtype = self._scores.dtype
        return theta.to(dtype), slope[:, None].to(dtype), constants[:, None].to(dtype)

    def posterior(self, coefficients: tuple[Tensor, Tensor, Tensor], features: Tensor) -> tuple[Tensor, Tensor]:
        """Responsibilities (k, m), a view of a buffer, and log p(z) (m,). Leaves v and log(1 + v) in the others."""
        theta, slope, constants = coefficients
        scores, relative, logs = (b[:, : features.shape[1]] for b in (self._scores, self._relative, self._logs))
        # Rounding may take a distance below zero.
        torch.log1p(torch.mm(theta, features, out=relative).clamp_(min=0.0), out=logs)
        torch.mul(logs, slope, out=scores).add_(constants)
        top = scores.amax(0)
        _em.exponentials(scores.sub_(top))
        total = scores.sum(0)
        scores.div_(total)
        return scores, top + total.log()

    def accumulate(self, z: Tensor, coefficients: tuple[Tensor, Tensor, Tensor]) -> tuple[float, Tensor, Tensor]:
        """One pass: sum of log p(z) in nats; sum_n r phi / (1 + v), (k, F); sum_n r and sum_n r log(1 + v), (k, 2).

        The sums are float64. The second matrix product has the weights r / (1 + v) alone: the means and the scales
        need no other (their common factor 1 + d / nu cancels), and the counts are sums along rows.
        """
        sums = torch.zeros(self._part.shape, dtype=torch.float64, device=z.device)
        tallies = torch.zeros(len(self._part), 2, dtype=torch.float64, device=z.device)
        log_likelihood = torch.zeros((), dtype=torch.float64, device=z.device)
        for part in z.split(self.chunk):
            features = self.expand(part)
            responsibilities, log_prob = self.posterior(coefficients, features)
            log_likelihood += log_prob.sum(dtype=torch.float64)
            tallies[:, 0] += responsibilities.sum(1)
            tallies[:, 1] += self._logs[:, : len(part)].mul_(responsibilities).sum(1)
            weights = responsibilities.div_(self._relative[:, : len(part)].add_(1.0))
            sums += torch.mm(weights, features.T, out=self._part)
        return float(log_likelihood), sums, tallies

    def log_prob(self, z: Tensor, coefficients: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """log p(z) as the E-step sees it: (n, d) -> (n,)."""
        return torch.cat([self.posterior(coefficients, self.expand(part))[1] for part in z.split(self.chunk)])


class NoisyComponent:
    """One component seen through noise: x given u is N(mu, S / u), u is Gamma(nu / 2, nu / 2), y = x + s N(0, I).

    Given u everything is Gaussian, and diagonal in the eigenvectors of S (eigenvalues lambda_i, c = V^T (y - mu)):
    y has variances lambda_i / u + s^2 and E[x given y, u] has the coordinates c_i lambda_i / (lambda_i + u s^2).
    What is left is one integral over t = log u. Its integrand is analytic near the real line and falls at least
    exponentially, so that the trapezoidal rule is exact to rounding once its step is a fraction of the width
    sqrt(2 / (nu + d)) of the narrowest peak. Three matrix products do it for all examples and all u at once.
    """

    def __init__(self, mean: Tensor, factor: Tensor, degrees: Tensor, noise_sd: float):
        self._mean, self._noise = mean, noise_sd**2
        self._degrees = float(degrees)
        left, singular, _ = torch.linalg.svd(factor)  # S = factor factor^T: its precision is kept
        self._vectors, self._lambda = left, singular.square()

    def coordinates(self, y: Tensor) -> Tensor:
        """c = V^T (y - mu): (n, d) -> (n, d)."""
        return (y - self._mean) @ self._vectors

    def nodes(self, furthest: float) -> Tensor:
        """Values of t = log u for the trapezoidal rule, where delta of every example is at most `furthest`: (q,).

        Below first = log(nu / (nu + furthest)) the logarithm of every example's integrand rises in t at least as fast
        as `level`; above log(1 + d / nu) it falls at least as fast as that of a Gamma variable of shape (nu + d) / 2.
        """
        nu, d = self._degrees, len(self._mean)
        shape = 0.5 * (nu + d)
        step = min(0.8 / math.sqrt(shape), 0.3)
        first = -math.log1p(furthest / nu)
        tail = 2 * _TAIL / shape
        last = math.log1p(d / nu) + min(math.sqrt(tail), 1 + math.log1p(tail))

        def level(t: float) -> float:
            spread = self._lambda * math.exp(-t) + self._noise
            return 0.5 * nu * (t - math.exp(t - first)) - 0.5 * float(spread.log().sum())

        enough = level(first) - _TAIL
        reach = step
        while level(first - reach) > enough:
            reach *= 2
        short, long = reach / 2 if reach > step else 0.0, reach
        for _ in range(6):
            middle = 0.5 * (short + long)
            short, long = (middle, long) if level(first - middle) > enough else (short, middle)
        low = first - long
        return torch.arange(math.ceil((last - low) / step) + 1, dtype=torch.float64).to(self._mean) * step + low

    def log_joint(self, c: Tensor, t: Tensor) -> Tensor:
        """log p(y, t) for t = log u: (n, d), (q,) -> (n, q), nats."""
        half = 0.5 * self._degrees
        variances = self._lambda[:, None] * (-t).exp() + self._noise
        if half < 1e3:
            peak = half * (math.log(half) - 1) - math.lgamma(half)
        else:  # Stirling's series, where the terms would cancel
            peak = 0.5 * math.log(half / (2 * math.pi)) - 1 / (12 * half)
        log_prior = peak + half * (t - t.expm1())
        constants = log_prior - 0.5 * variances.log().sum(0) - 0.5 * len(self._mean) * math.log(2 * math.pi)
        return torch.addmm(constants, c.square(), (-0.5 / variances))

    def posterior(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """log p(y) of this component and E[x given y]: (n, d) -> (n,), (n, d)."""
        c = self.coordinates(y)
        t = self.nodes(float((c.square() / self._lambda).sum(1).max()))
        joint = self.log_joint(c, t)
        top = joint.amax(1, keepdim=True)
        weights = joint.sub_(top).exp_()  # the one costly pass: it serves both answers
        total = weights.sum(1, keepdim=True)
        shrinkage = self._lambda / (self._lambda + t.exp()[:, None] * self._noise)
        mean = self._mean + (c * (weights @ shrinkage) / total) @ self._vectors.T
        return (top + total.log()).squeeze(1) + math.log(float(t[1] - t[0])), mean

    def mode(self, y: Tensor) -> Tensor:
        """argmax_x of this component's p(x) p(y given x): (n, d) -> (n, d).

        A stationary point is the Wiener estimate x(u) of some u between those of x = y and of x = mu: the best of a
        grid of u, whose neighbourhood a golden section then narrows down.
        """
        if self._noise == 0:
            return y
        c = self.coordinates(y)
        nu, d = self._degrees, len(self._mean)
        low = -(((c.square() / self._lambda).sum(1) - d) / (nu + d)).log1p()
        high = torch.full_like(low, math.log1p(d / nu))

        def loss(t: Tensor) -> Tensor:
            u = t.exp()[:, None]
            x = c * self._lambda / (self._lambda + u * self._noise)
            penalty = torch.log1p((x.square() / self._lambda).sum(1) / nu)
            return (x - c).square().sum(1) / (2 * self._noise) + 0.5 * (nu + d) * penalty

        steps = 32
        grid = torch.stack([loss(low + (high - low) * i / steps) for i in range(steps + 1)])
        best, width = grid.argmin(0), (high - low) / steps
        low, high = low + width * (best - 1).clamp(min=0), low + width * (best + 1).clamp(max=steps)
        golden = (math.sqrt(5) - 1) / 2
        for _ in range(50):
            inner, outer = high - golden * (high - low), low + golden * (high - low)
            left = loss(inner) < loss(outer)
            low, high = torch.where(left, low, inner), torch.where(left, outer, high)
        u = (0.5 * (low + high)).exp()[:, None]
        return self._mean + (c * self._lambda / (self._lambda + u * self._noise)) @ self._vectors.T
