"""A mixture of Gaussians as a latent-variable model: its sum over z, its encoder, its coordinates and its estimates."""

import functools

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dgmbench.data.prepared import Dataset, Split
from dgmbench.estimators import importance_weighted, latent_ais, prior_sampling
from dgmbench.estimators.base import Workbench
from dgmbench.models.variational import latent_gmm
from dgmbench.training.session import Session

K = 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache
def data() -> Dataset:
    """Overlapping clusters in the plane, of different widths."""
    g = np.random.default_rng(0)
    centres, widths = np.array([[0, 0], [2, 0.5], [0.5, 2.5], [-2, 1]]), np.array([0.5, 1.0, 0.7, 0.4])
    z = g.integers(K, size=1600)
    x = (centres[z] + widths[z, None] * g.normal(size=(1600, 2))).astype(np.float32)
    parts = {"train": x[:1000], "validation": x[1000:1300], "test": x[1300:]}
    return Dataset("plane", "plane", "real", (2,), {name: Split(part) for name, part in parts.items()}, {})


@functools.cache
def fitted(**spec) -> latent_gmm.Model:
    model = latent_gmm.Model(latent_gmm.Spec(components=K, iterations=30, **spec), 2)
    model.fit(data(), Session(generator()))
    return model


def log_joint(model: latent_gmm.Model, x: torch.Tensor) -> torch.Tensor:
    """log p(x, z) from the stored parameters alone: (K, n)."""
    state = model.state()
    covariances = state["factors"] @ state["factors"].mT
    found = [
        log_weight + torch.distributions.MultivariateNormal(mean, covariance).log_prob(x.double())
        for log_weight, mean, covariance in zip(state["log_weights"], state["means"], covariances, strict=True)
    ]
    return torch.stack(found)


def divergence(model: latent_gmm.Model, x: torch.Tensor) -> torch.Tensor:
    """KL(q || p(z given x)): (n,)."""
    log_q = model.log_posterior(x)
    return (log_q.exp() * (log_q - torch.log_softmax(log_joint(model, x), 0))).sum(0)


def test_the_sum_over_z_is_the_density_and_every_weight_is_one_of_its_terms():
    model, x = fitted(), data().test.all()
    joint = log_joint(model, x)
    torch.testing.assert_close(joint.logsumexp(0), model.log_prob(x))
    ratios = joint - model.log_posterior(x)
    weights = model.log_weights(x, 50, generator())
    assert weights.shape == (50, len(x))
    assert float((weights[:, None] - ratios[None]).abs().min(1).values.max()) < 1e-9
    # E[w] under q is p(x), with q as it is and not as it was meant.
    torch.testing.assert_close((model.log_posterior(x) + ratios).logsumexp(0), model.log_prob(x))


def test_draws_of_z_follow_q():
    model, x = fitted(), torch.tensor([[0.9, 1.2]])
    joint, log_q = log_joint(model, x), model.log_posterior(x)
    weights = model.log_weights(x, 40_000, generator(1))[:, 0]
    for k in range(K):
        share = float(((weights - (joint - log_q)[k, 0]).abs() < 1e-9).double().mean())
        q = float(log_q[k, 0].exp())
        assert abs(share - q) < 5 * (q * (1 - q) / 40_000) ** 0.5 + 1e-9


def test_with_the_posterior_as_proposal_every_weight_is_the_likelihood():
    model, x = fitted(proposal="posterior"), data().test.all()
    weights = model.log_weights(x, 7, generator())
    torch.testing.assert_close(weights, model.log_prob(x).expand(7, -1), rtol=0, atol=1e-9)


def test_the_encoder_of_equal_covariances_is_the_posterior_before_any_step():
    model, x = fitted(covariance="tied", encoder_iterations=0), data().test.all()
    assert float(divergence(model, x).max()) < 1e-9


def test_the_encoder_is_at_a_minimum_of_its_divergence():
    start, model, x = fitted(encoder_iterations=0), fitted(), data().train.all()
    reached = float(divergence(model, x).mean())
    assert 1e-3 < reached < float(divergence(start, x).mean())
    for name in ("weight", "bias"):
        value = getattr(model, name)
        for place in range(value.numel()):
            for step in (-1e-2, 1e-2):
                moved = value.clone()
                moved.view(-1)[place] += step
                other = fitted.__wrapped__()
                other.load_state({**model.state(), f"encoder.{name}": moved})
                assert float(divergence(other, x).mean()) >= reached - 1e-9


def test_coordinates_give_each_component_its_share():
    model, x = fitted(), data().test.all()[:20]
    levels = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    u = torch.special.ndtri(levels)[:, None]
    share = torch.bincount(model.component(u), minlength=K).double() / len(u)
    torch.testing.assert_close(share, model.state()["log_weights"].exp(), rtol=0, atol=1e-5)
    table = model.log_prob_table(x, u)
    torch.testing.assert_close(
        table.logsumexp(0) - torch.tensor(float(len(u))).log().double(), model.log_prob(x), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(model.log_prob_x_given_u(x, u[::10_000]), table[::10_000].diagonal())
    torch.testing.assert_close(model.mean_x_given_u(u[:3]), model.state()["means"][model.component(u[:3])])


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (prior_sampling, {"k": 20_000}),
        (importance_weighted, {"k": 2000}),
        (latent_ais, {"temperatures": 300, "chains": 40}),
    ],
)
def test_estimators_find_the_sum(module, settings):
    model = fitted()
    bench = Workbench(generator(3))
    found = module.estimate(model, data(), module.Settings(**settings), bench).numbers[0]
    truth = float(model.log_prob(data().test.all()).mean())
    assert found.estimator_se < 0.05
    assert abs(found.value - truth) < 5 * found.estimator_se + 0.01


def test_a_setting_that_is_not_read_is_refused():
    with pytest.raises(ValidationError, match="'encoder_iterations' is read with proposal: encoder only: leave it out"):
        latent_gmm.Spec(proposal="posterior", encoder_iterations=7)
