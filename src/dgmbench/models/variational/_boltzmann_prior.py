"""Boltzmann priors of variational autoencoders: three ways from binary units z to continuous zeta.

    log p*(z) = -E(z) = a.z_s + b.z_o + z_s W z_o,    p(z) = p*(z) / Z    (a bipartite machine, z = (z_s, z_o))

- `OverlappingRelaxation`: p(zeta) = sum_z p(z) r(zeta given z), its sum over z by mean field.
- `GaussianIntegralRelaxation`: r(zeta given z) = N(zeta; z, P^-1) with P = W_full + shift I, its sum over z exact.
- `JointPrior`: p(z) r(zeta given z) with z kept, as the bound of DVAE++ has it.

Each leaves -log Z out: log Z is estimated apart, and has the gradient of `mean_log_unnormalised` over samples of the
machine. zeta is (..., S + O), the S units of the machine's own side first.

Source: Vahdat, Andriyash and Macready, "DVAE#: Discrete variational autoencoders with relaxed Boltzmann priors",
NeurIPS 2018, sections 2, 3.1 and 3.2; Vahdat et al., "DVAE++", ICML 2018, for the joint prior.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgmbench.errors import CannotBeDone
from dgmbench.models.boltzmann._bipartite import Bipartite
from dgmbench.models.variational.smoothing.base import Smoothing

_SQUARINGS = 3


def log_unnormalised(machine: Bipartite, own: Tensor, other: Tensor) -> Tensor:
    """-E(z) = a.z_s + b.z_o + z_s W z_o in nats: (..., S), (..., O) -> (...).

    Linear in every unit, so that at the means of independent units it is the mean of -E.
    """
    return own @ machine.own + ((own @ machine.weights + machine.other) * other).sum(-1)


def mean_log_unnormalised(machine: Bipartite, own: Tensor, other: Tensor) -> Tensor:
    """Mean of -E over n samples (n, S), (n, O) of the machine: its gradient estimates that of log Z, its value nothing.

    The negative phase of equation 5.
    """
    return log_unnormalised(machine, own.detach(), other.detach()).mean()


@dataclass(frozen=True)
class MeanField:
    """Means m_s (..., S) and m_o (..., O), without gradient, after `iterations` rounds.

    `change` (): the most that any mean moved by in the last round, read with a wait where it is on an accelerator.
    """

    own: Tensor
    other: Tensor
    iterations: int
    change: Tensor

    def entropy(self) -> Tensor:
        """H(m) = -sum_i m_i log m_i + (1 - m_i) log(1 - m_i), nats: (...)."""
        sides = (self.own, self.other)
        return sum((torch.special.entr(side) + torch.special.entr(1 - side)).sum(-1) for side in sides)


@dataclass(frozen=True)
class OverlappingRelaxation:
    """p(zeta) = sum_z p(z) prod_i r(zeta_i given z_i), equation 4, for a smoothing whose densities overlap.

        p(zeta) Z = e^c(zeta) sum_z e^(-E(z) + b(zeta).z),   b = log r(. given 1) - log r(. given 0),
                                                             c = sum_i log r(zeta_i given 0)

    The sum is the partition function of the machine with b added to its biases. Mean field bounds it from below by
    H(m) - E(m) + b.m, off by KL(m || that machine) (equation 6): the value that is returned is never too large, and
    exact where W = 0 or the units are saturated by b.

    Five rounds are the paper's (section 4). `tolerance` > 0 stops sooner, where no mean moves by more; reading
    that from an accelerator costs a wait, so that 0, which never stops, asks nothing.
    """

    machine: Bipartite
    smoothing: Smoothing
    max_iterations: int = 5
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if not self.smoothing.overlapping:
            raise CannotBeDone(
                "a relaxed prior needs a smoothing whose two densities overlap: take any but spike_and_exponential."
            )

    def mean_field(self, zeta: Tensor) -> MeanField:
        """m_o = sigmoid(b + b_o(zeta) + m_s W), m_s = sigmoid(a + b_s(zeta) + W m_o), in turn from 1/2 each.

        Either side's update minimises KL(m || machine) with the other side fixed, so that the bound rises at each.
        """
        with torch.no_grad():
            bias_own, bias_other = self._split(self.smoothing.log_ratio(zeta))
            bias_own, bias_other = bias_own + self.machine.own, bias_other + self.machine.other
            own, other = torch.full_like(bias_own, 0.5), torch.full_like(bias_other, 0.5)
            iterations, change = 0, torch.tensor(math.inf)
            while iterations < self.max_iterations and not (self.tolerance > 0 and change <= self.tolerance):
                last_own, last_other = own, other
                other = torch.sigmoid(bias_other + own @ self.machine.weights)
                own = torch.sigmoid(bias_own + other @ self.machine.weights.T)
                change = torch.maximum((own - last_own).abs().amax(), (other - last_other).abs().amax())
                iterations += 1
            return MeanField(own, other, iterations, change)

    def log_unnormalised(self, zeta: Tensor) -> Tensor:
        """log p(zeta) + log Z in nats, by mean field: (..., S + O) -> (...)."""
        return self.bound(zeta, self.mean_field(zeta))

    def bound(self, zeta: Tensor, means: MeanField) -> Tensor:
        """H(m) - E(m) + b(zeta).m + c(zeta) <= log p(zeta) + log Z, with equality at the true conditional of z.

        The gradient does not act on m (equation 5). At a fixed point that is the whole gradient of the value: the
        bound is stationary in m there, so that m's own dependence on zeta and the machine contributes nothing.
        """
        off, on = self.smoothing.log_densities(zeta)
        ratio_own, ratio_other = self._split(on - off)
        tilt = (ratio_own * means.own).sum(-1) + (ratio_other * means.other).sum(-1) + off.sum(-1)
        return means.entropy() + log_unnormalised(self.machine, means.own, means.other) + tilt

    def _split(self, units: Tensor) -> tuple[Tensor, Tensor]:
        return units.split(list(self.machine.weights.shape), -1)


@dataclass(frozen=True)
class GaussianIntegralRelaxation:
    """p(zeta) = sum_z p(z) N(zeta; z, P^-1), equation 7, with P = W_full + lambda I of W_full = [[0, W], [W', 0]].

        log p(zeta) + log Z = log det(P / 2 pi) / 2 - zeta P zeta / 2 + sum_i softplus(a_i + (P zeta)_i - lambda / 2)

    The eigenvalues of W_full are the singular values of W, their negatives, and zeros: P is positive definite where
    lambda > ||W||, its largest singular value. lambda = max(beta, U(W) + margin) with `spectral_bound` U >= ||W||
    keeps it so at every W that training passes through, at any step. The gradient acts on U too, where U + margin is
    what decides: it is that of the value. (The authors' code has lambda = max(beta, ||W|| + 5) from eigenvalues
    that are renewed at every estimate of log Z only, between which nothing ensures that P is positive definite: a
    `norm` that is given takes the place of U, and an indefinite P then ends the training.)

    With lambda much beyond ||W|| the components are round, of variance 1 / lambda: the sharper, the noisier.
    """

    machine: Bipartite
    beta: float
    margin: float = 5.0
    norm: Tensor | None = None

    def shift(self) -> Tensor:
        """lambda = max(beta, U(W) + margin)."""
        bound = spectral_bound(self.machine.weights) if self.norm is None else self.norm
        return torch.clamp(bound + self.margin, min=self.beta)

    def log_unnormalised(self, zeta: Tensor) -> Tensor:
        """log p(zeta) + log Z in nats, exact: (..., S + O) -> (...)."""
        weights, shift = self.machine.weights, self.shift()
        own, other = zeta.split(list(weights.shape), -1)
        field_own, field_other = shift * own + other @ weights.T, shift * other + own @ weights
        quadratic = (own * field_own).sum(-1) + (other * field_other).sum(-1)
        summed_out = F.softplus(field_own + self.machine.own - 0.5 * shift).sum(-1)
        summed_out = summed_out + F.softplus(field_other + self.machine.other - 0.5 * shift).sum(-1)
        log_det = self._log_determinant(shift) - zeta.shape[-1] * math.log(2 * math.pi)
        return 0.5 * log_det - 0.5 * quadratic + summed_out

    def _log_determinant(self, shift: Tensor) -> Tensor:
        """log det P = D log lambda + log det(I - W'W / lambda^2), on the smaller side."""
        weights = self.machine.weights / shift
        gram = weights.T @ weights if weights.shape[1] <= weights.shape[0] else weights @ weights.T
        identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        diagonal = torch.linalg.cholesky(identity - gram).diagonal()
        return sum(weights.shape) * torch.log(shift) + 2 * torch.log(diagonal).sum()


def spectral_bound(weights: Tensor) -> Tensor:
    """U >= ||W||, the largest singular value: (S, O) -> (), at most D^(1/32) ||W|| with D = min(S, O).

    The Schatten norm of order 32, U = (sum_i s_i^32)^(1/32) over the singular values s_i. With G = W'W, U^32 is
    ||G^8||_F^2: four products of matrices and no eigenvalues. G is divided by its Frobenius norm n_0 before it is
    squared, the square by n_1, and so on, so that nothing overflows: U = n_0^(1/2) n_1^(1/4) n_2^(1/8) n_3^(1/16). For
    D = 200 it is at most 18 % too large; the Frobenius norm of W, that of order 2, may be so by sqrt(D) = 14. Where
    squares of W vanish by rounding, it is near 0 with gradient 0.
    """
    gram = weights.T @ weights if weights.shape[1] <= weights.shape[0] else weights @ weights.T
    smallest = torch.finfo(gram.dtype).tiny
    norm = gram.square().sum().clamp(min=smallest).sqrt()
    log_bound = 0.5 * torch.log(norm)
    for i in range(_SQUARINGS):
        gram = gram / norm
        gram = gram @ gram
        norm = gram.square().sum().clamp(min=smallest).sqrt()
        log_bound = log_bound + torch.log(norm) * 0.25 / 2**i
    return torch.exp(log_bound)


@dataclass(frozen=True)
class JointPrior:
    """p(z) prod_i r(zeta_i given z_i), z kept: what the bound of DVAE++ (equation 2 of DVAE#) needs of it.

        log p(x) >= E_q[log p(x given zeta)] + H(q(z given x)) + E_q(zeta)[E_q(z given x, zeta)[log p(z)]]

    r is in prior and posterior alike and cancels. Tighter bounds by importance weights cannot be had from it: those
    need log p(zeta).
    """

    machine: Bipartite
    smoothing: Smoothing

    def posterior_logits(self, zeta: Tensor, logits: Tensor) -> Tensor:
        """Log-odds of z_i = 1 given x and zeta: those of q(z_i given x, earlier zeta) plus b(zeta_i)."""
        if not self.smoothing.overlapping:
            raise CannotBeDone(
                "z given zeta has no gradient where zeta tells z: with spike_and_exponential write an approximate "
                "posterior of one group, whose expectation is in closed form."
            )
        return logits + self.smoothing.log_ratio(zeta)

    def expected_log_unnormalised(self, logits: Tensor, zeta: Tensor | None = None) -> Tensor:
        """E[log p(z)] + log Z in nats: (..., S + O) -> (...).

        Without zeta, for a posterior of one group: the z_i are independent given x, and -E(q) is the mean, the average
        of equation 2's term over zeta. With zeta, for groups in turn that the own side precedes the other in: given
        all zeta z_s has mean sigmoid(logit + b(zeta)); z_o, averaged over its own zeta given the earlier ones, has
        mean q_o, an average that is taken here in place of the draw (so do the authors).
        """
        mean = torch.sigmoid(logits)
        own, other = mean.split(list(self.machine.weights.shape), -1)
        linear = own @ self.machine.own + other @ self.machine.other
        if zeta is not None:
            own = torch.sigmoid(self.posterior_logits(zeta, logits))[..., : own.shape[-1]]
        return linear + ((own @ self.machine.weights) * other).sum(-1)

    def log_unnormalised(self, z: Tensor, zeta: Tensor) -> Tensor:
        """log p(z, zeta) + log Z = -E(z) + log r(zeta given z) in nats: (..., S + O) twice -> (...)."""
        own, other = z.split(list(self.machine.weights.shape), -1)
        return log_unnormalised(self.machine, own, other) + self.smoothing.log_prob(zeta, z).sum(-1)


def bernoulli_entropy(logits: Tensor) -> Tensor:
    """H = sum_i softplus(l_i) - l_i sigmoid(l_i), nats: (..., D) -> (...)."""
    return (F.softplus(logits) - logits * torch.sigmoid(logits)).sum(-1)
