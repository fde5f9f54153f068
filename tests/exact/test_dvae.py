"""The discrete graphical model of DVAE, DVAE++ and DVAE# against enumeration of all z."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.models.boltzmann._bipartite import Bipartite
from dgmbench.models.variational import dvae, dvae_pp, dvae_sharp
from dgmbench.models.variational._negative_phase import annealed_log_z

METHODS = {
    "dvae/spike-exp": (dvae, {}),
    "dvae++/exp": (dvae_pp, {"smoothing": "exp"}),
    "dvae++/power": (dvae_pp, {"smoothing": "power"}),
    **{
        f"dvae#/{name}": (dvae_sharp, {"relaxation": name})
        for name in ("gaussian-integral", "gaussian", "exp", "uniform-exp", "power")
    },
}
TWO_GROUPS = {"groups": 2, "latent": 2, "hidden": [5, 3]}


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(method: str, dimension: int = 6, seed: int = 0, scale: float = 0.6, **spec):
    """A random machine in float64, whose posterior approximation is poor."""
    module, options = METHODS[method]
    model = module.Model(module.Spec(**{"latent": 4, **options, **spec}), dimension)
    generator, state = rng(seed), {}
    for name, value in model.state().items():
        drawn = scale * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        state[name] = drawn.exp() if name.endswith(("variance", "scale")) else drawn
    model.load_state(state)
    return model


def every(bits: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=bits)), dtype=torch.float64)


def log_joint(model, x: Tensor) -> Tensor:
    """-E(z) + log p(x given z) of every z, by their definitions: (n, d) -> (n, 2^D)."""
    z, machine = every(sum(model.machine.weights.shape)), model.machine
    own, other = z.split(list(machine.weights.shape), 1)
    energy = -(own @ machine.own) - other @ machine.other - torch.einsum("ni,ij,nj->n", own, machine.weights, other)
    mean = torch.sigmoid(model.networks.apply("decoder", [z]))
    return torch.distributions.Bernoulli(mean).log_prob(x[:, None]).sum(-1) - energy


def log_z(machine: Bipartite) -> Tensor:
    own, other = every(sum(machine.weights.shape)).split(list(machine.weights.shape), 1)
    terms = own @ machine.own + other @ machine.other + torch.einsum("ni,ij,nj->n", own, machine.weights, other)
    return torch.logsumexp(terms, 0)


def log_joint_of_prior(machine: Bipartite) -> Tensor:
    own, other = every(4).split([2, 2], 1)
    return own @ machine.own + other @ machine.other + torch.einsum("ni,ij,nj->n", own, machine.weights, other)


def log_prob(model, x: Tensor) -> Tensor:
    return torch.logsumexp(log_joint(model, x.double()), 1) - log_z(model.machine)


def log_posterior(model, x: Tensor, z: Tensor) -> Tensor:
    """log q(z given x), unit after unit of each group: (n, d), (n, D) -> (n,)."""
    total, m = torch.zeros(len(x), dtype=torch.float64), model.spec.latent
    for g in range(model.spec.groups):
        seen = torch.cat([x - model.mean, z[:, : g * m]], 1)
        mean = torch.sigmoid(model.networks.apply(f"encoder{g}", [seen])[:, :m])
        total += torch.distributions.Bernoulli(mean).log_prob(z[:, g * m : (g + 1) * m]).sum(1)
    return total


def log_mean_exp(log_weights: Tensor) -> Tensor:
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def blobs(n: int, d: int) -> np.ndarray:
    generator = np.random.default_rng(1)
    rate = np.where(generator.random((n, 1)) < 0.5, 0.9, 0.1)
    return (generator.random((n, d)) < rate).astype(np.uint8)


def dataset(x: np.ndarray) -> Dataset:
    third = len(x) // 3
    parts = {"train": x[:third], "validation": x[third : 2 * third], "test": x[2 * third :]}
    return Dataset("small", "small", "binary", x.shape[1:], {k: Split(v) for k, v in parts.items()}, {})


def assert_frequencies(states: Tensor, log_probability: Tensor, limit: float) -> None:
    """Pearson's chi-squared over binary states is below `limit`."""
    assert chi_squared(states, log_probability) < limit


def chi_squared(states: Tensor, log_probability: Tensor) -> float:
    places = 2.0 ** torch.arange(states.shape[1] - 1, -1, -1, dtype=torch.float64)
    observed = torch.bincount((states.double() @ places).long(), minlength=len(log_probability))
    expected = len(states) * log_probability.exp()
    return ((observed - expected).square() / expected).sum().item()


@pytest.mark.parametrize("spec", [{}, TWO_GROUPS])
def test_probabilities_of_all_x_sum_to_one(spec):
    model = network("dvae#/power", **spec)
    assert torch.logsumexp(log_prob(model, every(6)), 0).item() == pytest.approx(0.0, abs=1e-12)
    terms = model.enumeration()
    assert torch.logsumexp(terms.log_term(every(terms.bits)), 0).item() == pytest.approx(log_z(model.machine).item())


@pytest.mark.parametrize("method", ["dvae/spike-exp", "dvae#/gaussian-integral"])
@pytest.mark.parametrize("spec", [{}, TWO_GROUPS, {"groups": 3, "latent": 1, "hidden": [4], "normalise": False}])
def test_draws_of_the_posterior_and_their_probabilities(method, spec):
    model, x = network(method, **spec), every(6)[11:12]
    z, log_q = model.discrete(x, 20_000, rng(1))
    torch.testing.assert_close(log_q[:, 0], log_posterior(model, x.expand(20_000, -1), z[:, 0]))
    states = every(z.shape[-1])
    exact = log_posterior(model, x.expand(len(states), -1), states)
    assert torch.logsumexp(exact, 0).item() == pytest.approx(0.0, abs=1e-12)
    # At most 15 degrees of freedom: P(chi-squared > 49) = 2e-5.
    assert_frequencies(z[:, 0], exact, 49)


@pytest.mark.parametrize("spec", [{}, TWO_GROUPS])
def test_the_bound_is_below_the_likelihood_and_rises_to_it_with_k(spec):
    model, x = network("dvae++/exp", scale=0.4, **spec), every(6)[::9]
    exact, states = log_prob(model, x), every(4)
    log_q = torch.stack([log_posterior(model, one.expand(len(states), -1), states) for one in x])
    elbo = (log_q.exp() * (log_joint(model, x) - log_q)).sum(1) - log_z(model.machine)
    assert (elbo < exact - 0.1).all()
    log_weights = model.log_weights_unnormalised(x, 60_000, rng(2)) - log_z(model.machine)
    standard_error = log_weights.std(0) / math.sqrt(len(log_weights))
    # 8 means, each beyond 5 standard errors in 1.7 million.
    assert ((log_weights.mean(0) - elbo).abs() < 5 * standard_error).all()
    ratio = torch.exp(log_weights - exact)
    assert ((ratio.mean(0) - 1).abs() < 5 * ratio.std(0) / math.sqrt(len(ratio))).all()
    bounds = [log_mean_exp(log_weights.reshape(-1, k, len(x)).transpose(0, 1)).mean(0) for k in (1, 10, 100, 60_000)]
    # Deterministic: over disjoint groups of the same draws the mean of L_k can only rise (Jensen).
    assert all((after >= before).all() for before, after in itertools.pairwise(bounds))
    assert (bounds[-1] - exact).abs().max() < 0.03


def test_samples_follow_the_density():
    model = network("dvae#/power", dimension=4, sample_sweeps=60)
    # 15 degrees of freedom: P(chi-squared > 49) = 2e-5.
    assert_frequencies(model.sample(20_000, rng(3)), log_prob(model, every(4)), 49)


def test_posterior_means_of_later_groups_are_means_over_earlier_ones():
    model, x = network("dvae#/gaussian-integral", **TWO_GROUPS), every(6)[:5]
    states = every(4)
    weight = torch.stack([log_posterior(model, one.expand(len(states), -1), states).exp() for one in x])
    first, second = model.posterior_means(x, 8000, rng(4))
    torch.testing.assert_close(first, (weight @ states)[:, :2])
    # 10 means of 8,000 numbers in [0, 1], of standard error 0.0056 at most: beyond 5 of them in 1.7 million.
    torch.testing.assert_close(second, (weight @ states)[:, 2:], rtol=0, atol=0.028)


def test_annealed_log_z_of_the_validation_bound():
    model = network("dvae#/power", scale=0.6, latent=10, validation_temperatures=200, chains=500, validation_k=300)
    exact, x = log_z(model.machine).item(), every(6)[::3]
    # AIS between 500 chains at 200 temperatures: standard errors of 0.01 nats.
    assert annealed_log_z(model.machine, 200, 500, rng(8)) == pytest.approx(exact, abs=0.05)
    measured_log_z, bound = model.validation_bound(x)
    assert measured_log_z == pytest.approx(exact, abs=0.05)
    truth = log_prob(model, x).mean().item()
    assert truth - 0.5 < bound < truth + 0.05
    assert model.validation_bound(x) == (measured_log_z, bound)
