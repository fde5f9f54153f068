"""Mixture of Gaussians with full or structured covariances, by expectation maximisation.

    p(x) = sum_k pi_k N(x; mu_k, Sigma_k)
    E:  r_nk = pi_k N(x_n; mu_k, Sigma_k) / p(x_n), or hard: 1 for the most probable k of each example, else 0
    M:  pi_k = mean_n r_nk,  mu_k = sum_n r_nk x_n / sum_n r_nk,
        Sigma_k = sum_n r_nk (x_n - mu_k)(x_n - mu_k)^T / sum_n r_nk + ridge I, or what its structure keeps of it
        (`_covariances`: full, tied, diagonal, spherical, low_rank)

With minibatches (stepwise EM) the M-step is taken after each of them, of running averages of the statistics:

    s <- (1 - rho_t) s + rho_t mean_batch r phi(x),    rho_t = (t + 2)^-decay,  s_0 what the first parameters imply

where a last batch with a share f of the others' size takes that part of a step, 1 - (1 - rho_t)^f. For 1/2 < decay <= 1
it converges to a stationary point of the likelihood with probability one under conditions that Cappe and Moulines
state; it is not monotone. With decay 0 and a batch of all examples it is EM.

References: Dempster, Laird and Rubin, "Maximum likelihood from incomplete data via the EM algorithm", Journal of the
Royal Statistical Society B 39(1), 1977; Bishop, "Pattern Recognition and Machine Learning", 2006, section 9.2; Cappe
and Moulines, "On-line expectation-maximization algorithm for latent data models", Journal of the Royal Statistical
Society B 71(3), 2009. As a prior of image patches: Zoran and Weiss, "From learning models of natural image patches to
whole image restoration", ICCV 2011, section 4.2.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.models.mixtures import _em, _fitting
from dgmbench.models.mixtures._components import Components
from dgmbench.models.mixtures._covariances import STRUCTURES, Full
from dgmbench.training.distributed import Group
from dgmbench.training.session import Session

SMOKE: dict = {"components": 3, "iterations": 6, "tolerance": 0.0, "start_examples": 200}


class Spec(_fitting.Spec, _fitting.Stepwise):
    components: int = Field(10, ge=1, description="Number of Gaussians.")
    covariance: Literal["full", "tied", "diagonal", "spherical", "low_rank"] = Field(
        "full", description="One covariance each; one for all; axis-aligned; a multiple of I; low rank plus diagonal."
    )
    rank: int = Field(5, ge=1, description="Factors of each component where covariance is low_rank.")
    assignment: Literal["soft", "hard"] = Field(
        "soft", description="E-step: responsibilities, or each example wholly to its most probable component."
    )


class Model(_fitting.Mixture):
    Spec = Spec

    @property
    def free_parameters(self) -> int:
        """Weights, means and covariances that the structure leaves free."""
        k, d = self.spec.components, self.dimension
        return k - 1 + k * d + STRUCTURES[self.spec.covariance](self.spec.rank).free(k, d)

    def fit(self, data: Dataset, session: Session) -> None:
        """EM in working coordinates that keep the structure and make float32 features precise.

        Each iteration records, of the parameters that it starts from: the mean `log_likelihood` of the training data
        (with minibatches: each batch's before its step, averaged over the pass) and `validation_log_likelihood` of at
        most 20,000 evenly spaced validation examples (nats of the data's own space); `rounding` (mean absolute
        difference between the E-step's log p and float64, nats); how many `empty_components` it re-seeded: one with
        fewer examples than its covariance needs starts again as a half of the largest; for hard assignments
        `best_log_likelihood`, the mean of log pi_k N of the component chosen; with several processes
        `exchanged_share`, bytes put into collective operations over the bytes of the training data.

        Raises:
            CannotBeDone: too few examples; a singular covariance (says which ridge to set); float32 too coarse.
        """
        spec, d, group = self.spec, self.dimension, Group()
        if spec.covariance == "low_rank" and spec.rank >= d:
            raise CannotBeDone(f"low-rank covariances of {d} dimensions need a rank below {d}, not {spec.rank}.")
        structure = STRUCTURES[spec.covariance](spec.rank)
        work = _fitting.working(
            data, spec, structure.scaling, spec.components, structure.least(d), session.device, group
        )
        workspace = structure.workspace(spec.components, d, _fitting.CHUNK, work.z.dtype, session.device)
        em = _fitting.blank(spec, d, session.device)
        em |= structure.extras(spec.components, d, em["factors"])
        if spec.minibatch is not None:
            em |= {"averages": torch.zeros_like(structure.implied(em, work.ridge)), "batches": 0}
        if not session.resumable:
            covariances = _fitting.first_covariances(em, spec, data, work, session.generator)
            em["factors"].copy_(torch.linalg.cholesky(structure.begin(em, covariances, session.generator)))
            if spec.minibatch is not None:
                em["averages"].copy_(structure.implied(em, work.ridge))
        session.track(em=em)
        for _ in session.steps(spec.iterations, unit="iteration"):
            if em["stop"]:
                break
            exchanged = group.exchanged
            theta = structure.natural_parameters(em)
            rounding = self._rounding(em, work, workspace, theta)
            validation = float(workspace.log_prob(work.validation, theta).mean(dtype=torch.float64))
            reached, empty = self._pass(em, work, workspace, structure, session.generator, group)
            row = {name: value - work.log_volume for name, value in reached.items()}
            row |= {"validation_log_likelihood": validation - work.log_volume}
            row |= {"rounding": rounding, "empty_components": empty}
            session.record(**row, **_fitting.exchanged_share(group, exchanged, work))
            # Stopping is noted for the next step to see, so that this one still closes its row of the history.
            objective = reached.get("best_log_likelihood", reached["log_likelihood"])
            em["stop"] = empty == 0 and abs(objective - em["previous"]) < spec.tolerance
            em["previous"] = objective
        self._rounding(em, work, workspace, structure.natural_parameters(em))
        self.load_state(
            {
                "log_weights": em["log_weights"],
                "means": work.mean + em["means"] @ work.scale.T,
                "factors": work.scale @ em["factors"],
            }
        )

    def _rounding(self, em: dict[str, Any], work: _fitting.Working, workspace: _em.Workspace, theta: Tensor) -> float:
        exact = Components(em["log_weights"], em["means"], em["factors"]).scores(work.probe.double()).logsumexp(0)
        return _fitting.check_rounding(self.spec, workspace.log_prob(work.probe, theta), exact)

    def _pass(
        self,
        em: dict[str, Any],
        work: _fitting.Working,
        workspace: _em.Workspace,
        structure: Full,
        generator: torch.Generator,
        group: Group,
    ) -> tuple[dict[str, float], int]:
        """Every example once: mean objectives along the way in working coordinates, and how many were re-seeded."""
        spec, totals, empty = self.spec, {}, 0
        for batch in _fitting.minibatches(work, spec.minibatch, generator):
            theta = structure.natural_parameters(em)
            reached, sums = self._statistics(batch.z, batch.count, workspace, theta, group)
            if spec.minibatch is not None:
                sums = _fitting.remembered(em, batch, sums, spec.decay, work.count)
            for pair in self._maximise(em, sums, work, structure, generator):
                empty += 1
                if spec.minibatch is not None:
                    # What is remembered of both halves is what their new parameters imply.
                    em["averages"][list(pair)] = structure.implied(em, work.ridge)[list(pair)]
            for name, value in reached.items():
                totals[name] = totals.get(name, 0.0) + value * batch.count
        return {name: total / work.count for name, total in totals.items()}, empty

    def _statistics(
        self, z: Tensor, count: int, workspace: _em.Workspace, theta: Tensor, group: Group
    ) -> tuple[dict[str, float], Tensor]:
        """Mean objectives over `count` examples of all processes, and the weighted sums of features (k, F)."""
        if self.spec.assignment == "soft":
            log_likelihood, sums = workspace.accumulate(z, theta)
            totals = [log_likelihood]
        else:
            totals, sums = _hard_sums(z, workspace, theta)
        tally = torch.tensor(totals, dtype=torch.float64, device=z.device)
        group.sum(tally, sums)
        return dict(zip(("log_likelihood", "best_log_likelihood"), (tally / count).tolist())), sums

    def _maximise(
        self,
        em: dict[str, Any],
        sums: Tensor,
        work: _fitting.Working,
        structure: Full,
        generator: torch.Generator,
    ) -> list[tuple[int, int]]:
        """The M-step, in place; returns the pairs (re-seeded component, the one that it is now a half of)."""
        counts, means, covariances = structure.moments(sums, self.dimension)
        covariances = covariances + work.ridge
        empty = counts < structure.least(self.dimension)
        pairs = _fitting.split_the_largest(empty, counts, means, covariances, generator, scales=structure.scales)
        for target, source in pairs:
            structure.copy(em, target, source)
        constrained = structure.constrained(em, counts, covariances)
        factors = _fitting.factors_of(constrained, means, self.spec, work.advice, "covariance")
        em["log_weights"].copy_((counts / counts.sum()).log())
        em["means"].copy_(means)
        em["factors"].copy_(factors)
        return pairs

    def state(self) -> dict[str, Tensor]:
        """`log_weights` (k,), `means` (k, d), and `factors` (k, d, d) with Sigma_k = factor factor^T, in float64."""
        return self._components._asdict()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._components = Components(state["log_weights"], state["means"], state["factors"])

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.cat([scores.logsumexp(0) for _, scores in self._components.chunked_scores(x)])

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self._components.sample(n, generator)

    def assign(self, x: Tensor) -> Tensor:
        """The component of largest responsibility."""
        return torch.cat([scores.argmax(0) for _, scores in self._components.chunked_scores(x)])

    def complete(self, x: Tensor, known: Tensor, generator: torch.Generator) -> Tensor:
        """x with its unknown values drawn from p(x_unknown given x_known): (n, d), (d,) bool -> (n, d)."""
        return self._components.complete(x, known, generator)

    def posterior_mean(self, y: Tensor, noise_sd: float) -> Tensor:
        """E[x given y], in closed form: the components' Wiener estimates, weighted by p(k given y)."""
        return self._components.posterior_mean(y, noise_sd)

    def posterior_mode(self, y: Tensor, noise_sd: float) -> Tensor:
        """An approximation: the Wiener estimate of the component most probable given y (Zoran and Weiss, 4.2)."""
        return self._components.posterior_mode(y, noise_sd)


def _hard_sums(z: Tensor, workspace: _em.Workspace, theta: Tensor) -> tuple[list[float], Tensor]:
    """Sums over the examples of log p(z) and of log pi_k N of the best component, and the sums of its features."""
    theta = theta.to(z.dtype)
    totals, sums = torch.zeros(2, dtype=torch.float64, device=z.device), torch.zeros_like(theta, dtype=torch.float64)
    for part in z.split(workspace.chunk):
        features = workspace.expand(part)
        responsibilities, log_prob = workspace.posterior(theta, features)
        most, best = responsibilities.max(0)
        totals += torch.stack([log_prob.sum(dtype=torch.float64), (log_prob + most.log()).sum(dtype=torch.float64)])
        responsibilities.zero_().scatter_(0, best[None], 1.0)
        sums += responsibilities @ features.T
    return totals.tolist(), sums
