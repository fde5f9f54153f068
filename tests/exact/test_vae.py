"""The variational autoencoder against quadrature over its latent variables, and its gradients by differences."""

import itertools
import math

import numpy as np
import pytest
import torch
import vaes as made
from pydantic import ValidationError
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.models.variational import vae
from dgmbench.models.variational._training import learning_rate
from dgmbench.training.session import Session

blobs, dataset, every_x, log_mean_exp = made.blobs, made.dataset, made.every_x, made.log_mean_exp
log_prob_by_quadrature, network = made.log_prob_by_quadrature, made.network


TWO_LAYERS = {"upper_latent": 2, "upper_hidden": [3]}


@pytest.mark.parametrize("latent", [1, 2])
def test_probabilities_of_all_x_sum_to_one(latent):
    log_prob = log_prob_by_quadrature(network(6, latent), every_x(6))
    assert torch.logsumexp(log_prob, 0).item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("latent", [1, 2])
def test_weights_are_unbiased_for_the_likelihood(latent):
    model, x = network(6, latent, scale=0.4), every_x(6)[::9]
    log_weights = model.log_weights(x, 200_000, torch.Generator().manual_seed(3))
    ratio = torch.exp(log_weights - log_prob_by_quadrature(model, x))
    standard_error = ratio.std(0) / math.sqrt(len(ratio))
    # 16 means of 200,000 draws of small variance, each beyond 5 standard errors in 1.7 million.
    assert standard_error.max() < 0.02
    assert ((ratio.mean(0) - 1).abs() < 5 * standard_error).all()


def test_bound_rises_with_k_towards_the_likelihood():
    model, x = network(6, 1, scale=0.7), every_x(6)[::9]
    log_weights = model.log_weights(x, 100_000, torch.Generator().manual_seed(4))
    bounds = []
    for k in (1, 10, 100, 1000, 100_000):
        groups = log_weights.reshape(-1, k, len(x))
        bounds.append((torch.logsumexp(groups, 1) - math.log(k)).mean(0))
    # Deterministic: over disjoint groups of the same draws the mean of L_k can only rise (Jensen).
    assert all((after >= before).all() for before, after in itertools.pairwise(bounds))
    assert (bounds[-1] - log_prob_by_quadrature(model, x)).abs().max() < 0.05


def test_bound_with_closed_form_divergence_is_the_mean_log_weight():
    model, x = network(6, 3, scale=0.5), every_x(6)[5:6]
    n = 200_000
    generator = torch.Generator().manual_seed(5)
    closed = model.objective(x.expand(n, -1), generator, 1.0)[1]
    sampled = model.log_weights(x, n, generator)[:, 0]
    standard_error = math.hypot(closed.std().item(), sampled.std().item()) / math.sqrt(n)
    # Beyond 4.5 standard errors in 150,000 seeds.
    assert abs(closed.mean() - sampled.mean()) < 4.5 * standard_error


def test_log_weights_by_hand():
    """log N(z; 0, I) + log p(x given z) - log N(z; mu, sd^2), with the noise drawn as the model draws it."""
    model, x = network(6, 2), every_x(6)[:10]
    weights = model.log_weights(x, 7, torch.Generator().manual_seed(9))
    mean, log_sd = model.encode(x)
    noise = torch.randn(7, 10, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    z = mean + log_sd.exp() * noise
    log_p_z = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_q = torch.distributions.Normal(mean, log_sd.exp()).log_prob(z).sum(-1)
    log_p_x = -torch.nn.functional.binary_cross_entropy_with_logits(
        model.decode(z), x.expand(7, -1, -1), reduction="none"
    ).sum(-1)
    torch.testing.assert_close(weights, log_p_z + log_p_x - log_q, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.log_prob_x_given_z(x, z[0]), log_p_x[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spec", [{}, {"samples_k": 3}, {"divergence": "sampled"}, TWO_LAYERS])
def test_gradient_by_finite_differences(spec):
    model, x = network(6, 2, scale=0.5, **spec), every_x(6)[::4]

    def objective() -> Tensor:
        return model.objective(x, torch.Generator().manual_seed(7), 1.0)[0].mean()

    for value in model.parameters.values():
        value.requires_grad_(True)
    objective().backward()
    step = 1e-6
    for name, value in model.parameters.items():
        place = tuple(side // 2 for side in value.shape)
        with torch.no_grad():
            value[place] += step
            above = objective()
            value[place] -= 2 * step
            below = objective()
            value[place] += step
        assert ((above - below) / (2 * step)).item() == pytest.approx(value.grad[place].item(), rel=1e-6, abs=1e-8), (
            name
        )


def test_samples_follow_the_density():
    model = network(4, 1, seed=2, scale=0.7)
    n = 40_000
    drawn = model.sample(n, torch.Generator().manual_seed(8))
    expected = n * log_prob_by_quadrature(model, every_x(4)).exp()
    observed = torch.bincount((drawn @ torch.tensor([8.0, 4, 2, 1]).double()).long(), minlength=16)
    # 15 degrees of freedom: P(chi-square > 49) = 2e-5.
    assert ((observed - expected) ** 2 / expected).sum() < 49


def test_training_nears_the_best_likelihood():
    spec = vae.Spec(latent=2, hidden=[16], epochs=60, batch_size=50, learning_rate=1e-2, validate_every=5)
    data = dataset(blobs(3000, 6))
    model, session = vae.Model(spec, 6), Session(torch.Generator().manual_seed(0))
    model.fit(data, session)
    log_likelihood = log_mean_exp(model.log_weights(data.test.all(), 300, torch.Generator().manual_seed(1)))
    x = data.test.all().double()
    rates = x.mean(0)
    independent = (rates * rates.log() + (1 - rates) * (1 - rates).log()).sum()
    ones = x.sum(1)
    source = torch.log(0.5 * 0.9**ones * 0.1 ** (6 - ones) + 0.5 * 0.1**ones * 0.9 ** (6 - ones)).mean()
    # Independent pixels: -4.16; the source itself: -2.64; fitted models: within 0.05 of the source over seeds.
    assert independent + 1 < log_likelihood.mean() < source + 0.05
    assert log_likelihood.mean() > source - 0.15


def test_the_best_validation_parameters_are_kept():
    """Overfitting a few examples: what is kept is as good as the best bound that was seen, not as the last."""
    x = blobs(90, 8)
    spec = vae.Spec(latent=2, hidden=[32], epochs=200, batch_size=30, learning_rate=1e-2, schedule="constant")
    model, session = vae.Model(spec, 8), Session(torch.Generator().manual_seed(0), history_rows=600)
    data = dataset(x)
    model.fit(data, session)
    seen = [row["validation_bound"] for row in session.history if "validation_bound" in row]
    assert len(seen) == 40
    assert model.validation_bound(data.validation.all()) == pytest.approx(max(seen), abs=1e-6)
    assert max(seen) > seen[-1]


def test_published_schedule():
    spec = vae.Spec(epochs=3280)
    steps = [0, 1, 3, 4, 12, 13, 1092, 1093, 3279]
    stages = [0, 1, 1, 2, 2, 3, 6, 7, 7]
    rates = [learning_rate(spec, step, 3280) for step in steps]
    assert rates == pytest.approx([1e-3 * 10 ** (-stage / 7) for stage in stages])
    assert learning_rate(vae.Spec(schedule="constant", learning_rate=0.5), 99, 100) == 0.5


def test_inference_and_training_networks_agree():
    model = network(6, 2)
    x = every_x(6)
    without = model.encode(x)[0]
    for value in model.parameters.values():
        value.requires_grad_(True)
    torch.testing.assert_close(model.encode(x)[0].detach(), without, rtol=1e-12, atol=1e-12)


def test_warm_up_weighs_the_divergence_and_records_the_bound():
    x, halves = every_x(6)[::4], {}
    for epochs in (0.0, 1.0, 4.0, 9.0):
        model = network(6, 2, warm_up_epochs=4, samples_k=2)
        halves[epochs] = model.objective(x, torch.Generator().manual_seed(1), epochs)
    plain = network(6, 2, samples_k=2).objective(x, torch.Generator().manual_seed(1), 0.0)
    torch.testing.assert_close(plain[0], plain[1])
    for objective, bound in halves.values():
        torch.testing.assert_close(bound, plain[1])
        assert objective.shape == (len(x),)
    mean, log_sd = network(6, 2).encode(x)
    gaussians = [torch.distributions.Normal(m, s) for m, s in ((mean, log_sd.exp()), (0 * mean, 1 + 0 * mean))]
    divergence = torch.distributions.kl_divergence(*gaussians).sum(1)
    for epochs, weight in ((0.0, 0.0), (1.0, 0.25), (4.0, 1.0), (9.0, 1.0)):
        torch.testing.assert_close(halves[epochs][0] - plain[1], (1 - weight) * divergence)


@pytest.mark.parametrize("values", ["unit", "real"])
def test_continuous_data_are_fitted_better_than_independent_dimensions(values):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1800, 1)) @ np.array([[1.0, -1.0, 0.5]]) + 0.2 * rng.normal(size=(1800, 3))
    x = (1 / (1 + np.exp(-x)) if values == "unit" else x).astype(np.float32)
    parts = {name: Split(x[600 * i : 600 * i + 600]) for i, name in enumerate(("train", "validation", "test"))}
    data = Dataset("small", "small", values, (3,), parts, {})
    spec = vae.Spec(latent=1, hidden=[12], epochs=60, batch_size=50, learning_rate=1e-2)
    model = vae.Model(spec, 3)
    model.fit(data, Session(torch.Generator().manual_seed(0)))
    found = log_mean_exp(model.log_weights(data.test.all(), 300, torch.Generator().manual_seed(1))).mean().item()
    test = x[1200:].astype(np.float64)
    gaussian = torch.distributions.MultivariateNormal(torch.from_numpy(test.mean(0)), torch.from_numpy(np.cov(test.T)))
    independent = torch.distributions.Normal(torch.from_numpy(test.mean(0)), torch.from_numpy(test.std(0)))
    test = torch.from_numpy(test)
    # Independent dimensions: 1.0 and -4.1 nats; the Gaussian with full covariance: 3.1 and -1.2.
    halfway = (independent.log_prob(test).sum(1).mean() + gaussian.log_prob(test).mean()) / 2
    assert found > halfway.item()


def test_refusals_say_what_to_write():
    continuous = Dataset("c", "c", "unit", (4,), {n: Split(np.full((6, 4), 0.5)) for n in ("train", "validation")}, {})
    binary = dataset(blobs(30, 4))
    session = Session(torch.Generator().manual_seed(0))
    with pytest.raises(CannotBeDone, match="set decoder to gaussian or squared_error"):
        vae.Model(vae.Spec(decoder="bernoulli"), 4).fit(continuous, session)
    with pytest.raises(CannotBeDone, match="set decoder to bernoulli"):
        vae.Model(vae.Spec(decoder="squared_error"), 4).fit(binary, session)
    for spec in (
        {"upper_hidden": [3]},
        {"decoder": "bernoulli", "output_sd": 1.0},
        {"output_sd": 1.0, "least_sd": 0.1},
    ):
        with pytest.raises(ValidationError, match="leave it out"):
            vae.Spec(**spec)


class Watched(Session):
    """A session that keeps the parameters after every step."""

    def __init__(self, model: vae.Model):
        super().__init__(torch.Generator().manual_seed(4))
        self.model, self.seen = model, []

    def steps(self, total, unit="step"):
        for step in super().steps(total, unit):
            yield step
            self.seen.append({name: value.detach().clone() for name, value in self.model.parameters.items()})


@pytest.mark.parametrize("averaging", [None, 0.1, 1.0, 1.4, 100.0])
def test_the_model_is_the_average_of_its_parameters_along_training(averaging):
    x = blobs(60, 6)
    data = Dataset("small", "small", "binary", (6,), {name: Split(x) for name in ("train", "validation")}, {})
    spec = {"latent": 2, "hidden": [4], "batch_size": 20, "epochs": 3, "validate_every": 3, "learning_rate": 0.02}
    model = vae.Model(vae.Spec(**spec, averaging=averaging), 6)
    session = Watched(model)
    model.fit(data, session)
    steps = {None: 1, 0.1: 1, 1.0: 3, 1.4: 4, 100.0: 300}[averaging]  # of an epoch's three
    average = session.seen[0]
    for t, seen in enumerate(session.seen[1:], start=2):
        average = {name: value + (seen[name] - value) / min(t, steps) for name, value in average.items()}
    for name, value in model.state().items():
        torch.testing.assert_close(value, average[name])
        if steps == 1:
            assert torch.equal(value, session.seen[-1][name])
    if averaging == 100.0:
        mean = {name: torch.stack([seen[name] for seen in session.seen]).mean(0) for name in average}
        torch.testing.assert_close(model.state(), mean)
        assert (session.seen[-1]["decoder.0.weight"] - mean["decoder.0.weight"]).abs().max() > 1e-3
    # The validation bound is the average's.
    assert session.history[-1]["validation_bound"] == model.validation_bound(torch.from_numpy(x).float())
    assert not any(value.requires_grad for value in model.state().values())
