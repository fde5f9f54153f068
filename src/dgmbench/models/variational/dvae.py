"""Discrete variational autoencoder: Boltzmann prior, spike-and-exponential smoothing.

    ELBO = E_q[log p(x given zeta)] + sum_g E_q[H(q(z_g given x, zeta_<g))] + E_q[log p(z)] <= log p(x)
    r(zeta given 0) = delta(zeta),    r(zeta given 1) = beta e^(beta (zeta - 1)) / (1 - e^-beta)

r is in prior and posterior alike and cancels (p(z) and q: `_discrete`). z_i = 1 where zeta_i > 0, so that E[z_s W z_o]
jumps where zeta_s leaves 0, which no derivative of a draw sees. With rho the uniform number that zeta_s comes from,

    d/dq_s E[z_s h(zeta_s)] = d/dq_s (integral of h(zeta_s(rho)) over rho from 1 - q_s to 1)
                            = E[h given zeta_s = 0] + E[z_s h'(zeta_s) d zeta_s / dq_s],    h = (W z_o)_s

whose first term is E[(1 - z_s) / (1 - q_s) h]: unbiased. With one group h does not depend on zeta and E[log p(z)] is in
closed form. k draws are averaged: log p(z, zeta) and log q(z, zeta given x) as such do not weigh draws that have
gradients, so that there is no importance-weighted bound of this model.

References: Rolfe, "Discrete variational autoencoders", ICLR 2017, equations 11 and 12; Vahdat, Andriyash and Macready,
"DVAE#", NeurIPS 2018, equations 1 and 2. `formulas: code` clips q where zeta is drawn, as the code beside the latter
does; that it clips q where it divides by 1 - q too, and puts means q_o in place of z_o for the last group alone, is not
repeated.
"""

import torch
from torch import Tensor

from dgmbench.models.variational._boltzmann_prior import JointPrior
from dgmbench.models.variational._discrete import DiscreteAutoencoder
from dgmbench.models.variational._discrete_training import DiscreteSpec
from dgmbench.models.variational.smoothing.as_in_code import ClippedSpikeAndExponential
from dgmbench.models.variational.smoothing.spike_and_exponential import SpikeAndExponential

SMOKE = {"latent": 4, "hidden": [8], "iterations": 12, "batch_size": 20, "chains": 20, "sweeps": 2} | {
    "validations": 3,
    "validation_temperatures": 20,
    "sample_sweeps": 20,
}


class Spec(DiscreteSpec):
    """Every hyper-parameter is one that discrete variational autoencoders share."""


class Model(DiscreteAutoencoder):
    Spec = Spec
    method = "dvae/spike-exp"

    @property
    def smoothing(self) -> SpikeAndExponential:
        return ClippedSpikeAndExponential(self.beta) if self.slipped else SpikeAndExponential(self.beta)

    def objective(self, x: Tensor, generator: torch.Generator, weight: float) -> tuple[Tensor, Tensor]:
        zeta, logits, _ = self.relaxed(x, self.spec.samples_k, generator)
        if self.spec.groups == 1:
            logits = logits[:1]
            log_prior = JointPrior(self.machine, self.smoothing).expected_log_unnormalised(logits)
        else:
            log_prior = self.log_prior(zeta, logits)
        return self.averaged(x, zeta, logits, log_prior, weight)

    def log_prior(self, zeta: Tensor, logits: Tensor) -> Tensor:
        """-E(z) at z_s = 1[zeta_s > 0] and means q_o of z_o, with the gradient above: (..., D) twice -> (...).

        The terms that are linear in z_s are averaged too: a.q_s + b.q_o.
        """
        machine, sides = self.machine, list(self.machine.weights.shape)
        q_own, q_other = torch.sigmoid(logits).split(sides, -1)
        z_own = (zeta[..., : sides[0]] > 0).to(zeta)
        field = q_other @ machine.weights.T
        on_the_step = ((1 - z_own) * field * (1 + torch.exp(logits[..., : sides[0]]))).detach()
        pairs = (z_own * field).sum(-1) + (on_the_step * (q_own - q_own.detach())).sum(-1)
        return q_own @ machine.own + q_other @ machine.other + pairs
