"""The discrete graphical model of DVAE, DVAE++ and DVAE# against enumeration of all z, and what training makes of it."""

import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.models.boltzmann._bipartite import Bipartite
from dgmbench.models.variational import dvae, dvae_pp, dvae_sharp
from dgmbench.models.variational._discrete_training import (
    divergence_weight,
    learning_rate,
    measured_after,
    sharpness,
)
from dgmbench.models.variational._negative_phase import NegativePhase, annealed_log_z
from dgmbench.training.session import Session

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


@pytest.mark.parametrize("method", ["pcd", "population"])
def test_chains_that_have_the_prior_keep_it(method):
    machine = network("dvae/spike-exp", scale=1.0).machine
    exact = torch.log_softmax(log_joint_of_prior(machine), 0)
    negative = NegativePhase(machine, method, 20_000, 1, rng(5))
    start = every(4)[torch.multinomial(exact.exp(), 20_000, replacement=True, generator=rng(6))]
    negative.kept["chains"].copy_(start[:, :2])
    if method == "population":
        negative.kept["log_weight_from"].copy_(machine.log_unnormalised(start[:, :2]))
    own, other = negative.samples(machine, rng(7))
    # 15 degrees of freedom: P(chi-squared > 49) = 2e-5.
    assert_frequencies(torch.cat((own, other), 1), exact, 49)
    assert torch.equal(negative.kept["chains"], own)


def test_a_population_follows_an_update_at_once_and_chains_lag_behind():
    then, now = (network("dvae/spike-exp", seed=seed, scale=scale).machine for seed, scale in ((0, 1.2), (3, 2.4)))
    exact, before = (torch.log_softmax(log_joint_of_prior(machine), 0) for machine in (now, then))
    start = every(4)[torch.multinomial(before.exp(), 20_000, replacement=True, generator=rng(6))][:, :2]
    found = {}
    for method in ("pcd", "population"):
        negative = NegativePhase(then, method, 20_000, 1, rng(5))
        negative.kept["chains"].copy_(start)
        if method == "population":
            negative.kept["log_weight_from"].copy_(then.log_unnormalised(start))
        found[method] = chi_squared(torch.cat(negative.samples(now, rng(7)), 1), exact)
    # Copies of one chain make the population's counts a few times more variable than independent ones.
    assert found["population"] < 120 < 5 * 120 < found["pcd"]


def log_joint_of_prior(machine: Bipartite) -> Tensor:
    own, other = every(4).split([2, 2], 1)
    return own @ machine.own + other @ machine.other + torch.einsum("ni,ij,nj->n", own, machine.weights, other)


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


@pytest.mark.parametrize("method", METHODS)
def test_training_raises_the_exact_likelihood(method):
    module, options = METHODS[method]
    options = {**options, "groups": 2, "latent": 2, "chains": 50, "sweeps": 3, "negative_phase": "population"}
    spec = module.Spec(
        **options,
        hidden=[8],
        samples_k=3 if module is dvae_sharp else 1,
        iterations=200,
        batch_size=100,
        learning_rate=0.03,
        validations=6,
        validation_temperatures=50,
    )
    data = dataset(blobs(1500, 6))
    model, session = module.Model(spec, 6), Session(rng(0))
    model.fit(data, session)
    x = data.test.all().double()
    rates = x.mean(0)
    independent = (rates * rates.log() + (1 - rates) * (1 - rates).log()).sum().item()
    model.load_state({name: value.double() for name, value in model.state().items()})
    # Independent pixels: -4.16; the source itself: -2.64.
    assert independent + 1 < log_prob(model, x).mean().item() < -2.5
    seen = [row["validation_bound"] for row in session.history if "validation_bound" in row]
    assert len(seen) == 6
    assert seen[0] < max(seen)


class Killed(Exception):
    pass


class KilledAtRecord(Session):
    """A session that is killed in the middle of a step, after so many records."""

    left = 9

    def record(self, **values):
        super().record(**values)
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("method", ["dvae/spike-exp", "dvae#/gaussian-integral"])
def test_populations_and_groups_resume_to_the_same_bits_after_a_kill(method, tmp_path):
    data, (module, options) = dataset(blobs(90, 6)), METHODS[method]
    options = {**options, **TWO_GROUPS, "iterations": 10, "batch_size": 10, "chains": 9, "sweeps": 2}
    spec = module.Spec(**options, negative_phase="population", validations=5, validation_temperatures=5)

    def trained(session: Session) -> dict[str, Tensor]:
        model = module.Model(spec, 6)
        model.fit(data, session)
        return model.state()

    checkpoints = {"checkpoint_path": tmp_path / "checkpoint", "checkpoint_seconds": 0.0}
    whole = trained(Session(rng(1)))
    with pytest.raises(Killed):
        trained(KilledAtRecord(rng(1), **checkpoints))
    resumed = trained(Session(rng(99), **checkpoints))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_published_schedules_stretch_with_the_iterations():
    for iterations in (1000, 1_000_000):
        spec = dvae.Spec(iterations=iterations)
        places = [0, 0.019, 0.02, 0.599, 0.6, 0.749, 0.75, 0.949, 0.95, 0.999]
        factors = [0.1, 0.1, 1, 1, 1 / 3, 1 / 3, 0.1, 0.1, 1 / 33, 1 / 33]
        rates = [learning_rate(spec, round(place * iterations)) for place in places]
        assert rates == pytest.approx([3e-3 * factor for factor in factors])
        weights = [divergence_weight(spec, round(place * iterations)) for place in (0, 0.15, 0.3, 0.9)]
        assert weights == pytest.approx([0, 0.5, 1, 1])
        assert sum(measured_after(spec, step) for step in range(iterations if iterations < 10_000 else 0)) in (0, 50)
    assert divergence_weight(dvae.Spec(warm_up=0), 0) == 1
    few = dvae.Spec(iterations=3, validations=50)
    assert [measured_after(few, step) for step in range(3)] == [True] * 3


def test_published_sharpness_by_method_structure_and_data():
    linear, nonlinear, groups = {}, {"hidden": [200, 200]}, {"hidden": [200, 200], "groups": 4, "latent": 100}
    for structure, mnist, omniglot in ((linear, 40, 40), (nonlinear, 40, 30), (groups, 30, 20)):
        spec = dvae_sharp.Spec(**structure)
        assert sharpness(spec, "dvae#/power", "mnist-static") == mnist
        assert sharpness(spec, "dvae#/power", "omniglot-28") == omniglot
    assert sharpness(dvae_sharp.Spec(beta=7.5), "dvae#/power", "omniglot-28") == 7.5
    for method, (module, options) in METHODS.items():
        assert module.Model(module.Spec(**options), 6).method == method
        assert sharpness(module.Spec(**options), method, "digits") > 1


@pytest.mark.parametrize(
    ("module", "spec", "says"),
    [
        (dvae, {"latent": 1}, "set 'latent' or 'groups' to 2 or more"),
        (dvae_pp, {"hidden": [0]}, "1 or more"),
        (dvae_pp, {"normalise": False}, "'normalise' is read only with hidden units: leave it out"),
        (dvae_sharp, {"epsilon": 0.1}, "'epsilon' is read only with relaxation: uniform-exp"),
        (dvae_sharp, {"margin": 1.0}, "'margin' is read only with relaxation: gaussian-integral"),
        (dvae_sharp, {"relaxation": "gaussian-integral", "mean_field_sweeps": 3}, "leave it out"),
        (dvae, {"relaxation": "power"}, "Extra inputs"),
    ],
)
def test_refusals_say_what_to_write(module, spec, says):
    with pytest.raises(ValidationError, match=says):
        module.Spec(**spec)
