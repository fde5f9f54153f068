"""The Gaussian-Bernoulli machine against quadrature and its mixture of Gaussians: Z, gradient, samplers, training."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.enumeration import log_partition
from dgmbench.models.boltzmann import gaussian_rbm
from dgmbench.models.boltzmann.gaussian_rbm import Model, Spec
from dgmbench.training.session import Session


def states(bits: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=bits)), dtype=torch.float64)


def machine(visible: int, hidden: int, seed: int = 0, dtype=torch.float64, **spec) -> Model:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    model = Model(Spec(hidden=hidden, **{"variance": "learned", **spec}), visible)
    state = {"weights": 1.5 * normal(visible, hidden), "visible_bias": normal(visible), "hidden_bias": normal(hidden)}
    state |= {
        "log_variance": 0.5 * normal(visible),
        "base_mean": normal(visible),
        "base_variance": normal(visible).exp(),
    }
    model.load_state({name: value.to(dtype) for name, value in state.items()})
    return model


def dataset(x: np.ndarray) -> Dataset:
    splits = {name: Split(x.astype(np.float32)) for name in ("train", "validation", "test")}
    return Dataset("small", "small", "real", x.shape[1:], splits, {})


def clusters(n: int, seed: int = 0) -> np.ndarray:
    """Four well separated groups in the plane, far from the origin and of unequal scales."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 2, size=(n, 2)) * 4.0
    return (corners + rng.normal(size=(n, 2))) * np.array([1.0, 5.0]) + np.array([3.0, -20.0])


def grid(width: float = 16.0, points: int = 321) -> tuple[Tensor, float]:
    """Points of the plane around the origin, and the area of a cell: sums over it converge geometrically."""
    axis = torch.linspace(-width, width, points, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2


def log_z(model: Model) -> Tensor:
    return torch.logsumexp(model.enumeration().log_term(states(model.spec.hidden)), 0)


def test_free_energy_sums_the_hidden_states_of_the_stated_energy():
    model = machine(3, 4)
    v = torch.randn(10, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    h, variance = states(4), model.log_variance.exp()
    energy = ((v - model.visible_bias) ** 2 / (2 * variance)).sum(1)[:, None] - h @ model.hidden_bias
    energy = energy - (v / variance) @ model.weights @ h.T
    torch.testing.assert_close(model.log_unnormalised(v), torch.logsumexp(-energy, 1), rtol=0, atol=1e-12)


def test_the_partition_function_by_enumeration_is_that_of_quadrature():
    model, (points, area) = machine(2, 3), grid()
    quadrature = torch.logsumexp(model.log_unnormalised(points), 0) + math.log(area)
    # torch's softplus(x) is x beyond 20: 2e-9 of it are lost there.
    torch.testing.assert_close(log_z(model), quadrature, rtol=0, atol=1e-8)


@pytest.mark.parametrize("variance", ["fixed", "learned"])
def test_the_learning_rule_has_the_exact_gradient_as_its_expectation(variance):
    """The model's phase by quadrature over the plane, the data's by summing over the examples."""
    model, (points, area) = machine(2, 3, variance=variance), grid()
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaves = {name: value.clone().requires_grad_(True) for name, value in model.state().items()}
    copy = Model(model.spec, 2)
    copy.load_state(leaves)
    (copy.log_unnormalised(x).mean() - log_z(copy)).backward()
    of_model = area * torch.exp(model.log_unnormalised(points) - log_z(model))
    visible = torch.cat([x, points])
    sign = torch.cat([torch.full((30,), 1 / 30, dtype=torch.float64), -of_model])
    velocity = {name: torch.zeros_like(value) for name, value in model.parameters().items()}
    mean = torch.sigmoid(model.hidden_input(visible))
    model.accumulate(velocity, 0.0, visible, mean * sign[:, None], sign)
    assert ("log_variance" in velocity) == (variance == "learned")
    for name, direction in velocity.items():
        torch.testing.assert_close(direction, leaves[name].grad, rtol=0, atol=1e-8)


def test_momentum_keeps_its_share_of_every_direction():
    model, x = machine(2, 3), torch.ones(1, 2, dtype=torch.float64)
    velocity = {name: torch.ones_like(value) for name, value in model.parameters().items()}
    model.accumulate(velocity, 0.5, x, torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    assert all(torch.equal(value, torch.full_like(value, 0.5)) for value in velocity.values())


def test_moving_and_scaling_the_data_moves_the_machine_with_them():
    model = machine(3, 4)
    mean, scale = torch.tensor([5.0, -2.0, 0.1]).double(), torch.tensor([0.2, 3.0, 10.0]).double()
    moved = Model(model.spec, 3)
    moved.load_state(model.moved(mean, scale))
    v = torch.randn(10, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(moved.log_unnormalised(mean + scale * v), model.log_unnormalised(v), rtol=0, atol=1e-11)
    torch.testing.assert_close(log_z(moved), log_z(model) + scale.log().sum(), rtol=0, atol=1e-11)
    generators = torch.Generator().manual_seed(2), torch.Generator().manual_seed(2)
    first, second = model.first_chains(5, generators[0]), moved.first_chains(5, generators[1])
    torch.testing.assert_close(second, mean + scale * first)


def test_zero_weights_give_independent_normal_units():
    model = machine(2, 3)
    model.weights = torch.zeros(2, 3, dtype=torch.float64)
    v = torch.randn(10, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    normal = torch.distributions.Normal(model.visible_bias, (0.5 * model.log_variance).exp())
    found = model.log_unnormalised(v) - log_z(model)
    torch.testing.assert_close(found, normal.log_prob(v).sum(1), rtol=0, atol=1e-10)


def tempered(model: Model, path, beta: float) -> Model:
    """p_beta is a Gaussian machine itself: equate the coefficients of v^2, v, v h and h."""
    of_base, of_target = (1 - beta) / path.variance, beta * torch.exp(-model.log_variance)
    variance = 1 / (of_base + of_target)
    same = Model(model.spec, model.dimension)
    same.load_state(
        {
            **model.state(),
            "weights": (variance * of_target)[:, None] * model.weights,
            "visible_bias": variance * (of_base * path.mean + of_target * model.visible_bias),
            "hidden_bias": beta * model.hidden_bias,
            "log_variance": variance.log(),
        }
    )
    return same


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_path_at_every_temperature_is_the_machine_with_its_coefficients(beta):
    model = machine(2, 3)
    path = model.annealed_path(dataset(clusters(100)))
    v = 3 * torch.randn(10, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    difference = path.log_unnormalised(v, beta) - tempered(model, path, beta).log_unnormalised(v)
    assert difference.max() - difference.min() < 1e-10
    if beta == 1.0:
        torch.testing.assert_close(path.log_unnormalised(v, 1.0), model.log_unnormalised(v))
    if beta == 0.0:
        x = torch.from_numpy(clusters(100).astype(np.float32)).double()
        normal = torch.distributions.Normal(x.mean(0), x.std(0, correction=0))
        log_p = path.log_unnormalised(v, 0.0) - path.log_z_base
        torch.testing.assert_close(log_p, normal.log_prob(v).sum(1), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("beta_from", "beta_to"), [(0.2, 0.2001), (0.5, 0.51), (0.3, 0.9), (1.0, 0.995)])
def test_log_ratio_is_the_difference_of_the_two_ends(beta_from, beta_to):
    model = machine(2, 3)
    path = model.annealed_path(dataset(clusters(100)))
    v = 3 * torch.randn(10, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    difference = path.log_unnormalised(v, beta_to) - path.log_unnormalised(v, beta_from)
    torch.testing.assert_close(path.log_ratio(v, beta_from, beta_to), difference, rtol=1e-9, atol=1e-10)


def cells(model: Model) -> tuple[Tensor, Tensor]:
    """Inner edges of four intervals of each coordinate, near quartiles (2, 3), and the 16 cells' probabilities (16,).

    Given the hidden units the coordinates are independent and normal.
    """
    h = states(model.spec.hidden)
    weights = torch.softmax(model.enumeration().log_term(h), 0)
    mean, sd = model.visible_mean(h), (0.5 * model.log_variance).exp()
    axis = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    marginal = torch.einsum("h,ahi->ia", weights, torch.special.ndtr((axis[:, None, None] - mean) / sd))
    edges = axis[torch.searchsorted(marginal, torch.tensor([[0.25, 0.5, 0.75]] * 2, dtype=torch.float64))]
    ends = torch.cat([torch.full((2, 1), -math.inf), edges, torch.full((2, 1), math.inf)], 1).double()
    inside = torch.special.ndtr((ends.T[:, None] - mean) / sd).diff(dim=0)  # (4, states, 2)
    return edges, torch.einsum("h,ah,bh->ab", weights, inside[..., 0], inside[..., 1]).flatten()


def assert_cells(x: Tensor, model: Model) -> None:
    from scipy.stats import chi2

    edges, probability = cells(model)
    place = (x[:, :, None].double() > edges).sum(2)
    observed, expected = torch.bincount(4 * place[:, 0] + place[:, 1], minlength=16), len(x) * probability
    often = expected > 5
    assert often.sum() > 5
    statistic = ((observed - expected) ** 2 / expected)[often].sum()
    # The cells of fewer than five draws are left out, which makes the statistic smaller: a false alarm in 50,000 seeds.
    assert chi2.sf(statistic.item(), int(often.sum())) > 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_samples_follow_the_mixture_and_gibbs_leaves_it_invariant(dtype):
    exact, model, generator = machine(2, 3), machine(2, 3, dtype=dtype), torch.Generator().manual_seed(3)
    x = model._exact_sample(20_000, generator)
    assert x.dtype == dtype
    assert_cells(x, exact)
    moved, hidden = model.gibbs(torch.sigmoid(model.hidden_input(x)), 3, generator)
    assert_cells(moved, exact)
    assert set(hidden.unique().tolist()) == {0.0, 1.0}


def test_long_chains_from_the_base_reach_the_mixture():
    model = machine(2, 3)
    model.weights *= 0.4  # modes that chains cross within tens of sweeps
    start = model.first_chains(20_000, torch.Generator().manual_seed(4))
    moved, _ = model.gibbs(torch.sigmoid(model.hidden_input(start)), 200, torch.Generator().manual_seed(5))
    assert_cells(moved, model)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_a_transition_leaves_its_temperature_invariant(beta):
    model = machine(2, 3)
    path = model.annealed_path(dataset(clusters(100) / 5 - 1))
    same = tempered(model, path, beta)
    x = same._exact_sample(20_000, torch.Generator().manual_seed(6))
    assert_cells(x, same)
    assert_cells(path.step(x, beta, torch.Generator().manual_seed(7)), same)


def test_annealing_along_the_path_finds_the_partition_function():
    model, generator = machine(2, 3), torch.Generator().manual_seed(8)
    path = model.annealed_path(dataset(clusters(100) / 5))
    betas = torch.linspace(0, 1, 101).tolist()
    state, log_w = path.sample_base(2000, generator), torch.zeros(2000, dtype=torch.float64)
    for before, after in itertools.pairwise(betas):
        log_w += path.log_ratio(state, before, after)
        state = path.step(state, after, generator)
    w = torch.exp(path.log_z_base + log_w - log_z(model))
    # The mean of unbiased weights is 1; five standard errors.
    assert abs(w.mean() - 1) < 5 * w.std() / math.sqrt(2000)
    assert w.std() < 3


@pytest.mark.parametrize(
    ("training", "variance", "share"),
    [("pcd", "fixed", 0.2), ("cd", "learned", 0.2), ("pcd", "learned", 0.2), ("cd", "one", 1.0)],
)
def test_training_raises_the_exact_likelihood(training, variance, share):
    x = clusters(1000) if variance != "one" else clusters(1000) / np.array([1.0, 5.0])
    data = dataset(x)
    chosen = {"training": training, "variance": variance, "variance_share": share, "gibbs_steps": 3}
    # Weights that start near 0 would let learned variances swallow the two modes before the weights find them.
    model = Model(Spec(hidden=5, epochs=30, batch_size=50, learning_rate=0.05, weight_sd=0.5, **chosen), 2)
    session = Session(torch.Generator().manual_seed(0))
    model.fit(data, session)
    train = data.train.all().double()
    log_likelihood = (model.log_unnormalised(train).mean() - log_partition(model.enumeration())).item()
    sd = train.std(0, correction=0)
    independent = -0.5 * (2 + (2 * math.pi * sd**2).log().sum()).item()
    assert log_likelihood > independent + 0.2
    if variance == "one":
        assert torch.equal(model.log_variance, torch.zeros(2))
    if variance == "fixed":
        torch.testing.assert_close(model.log_variance.exp(), (share * sd**2).float(), rtol=1e-4, atol=0)


def test_constant_dimensions_are_refused_with_a_way_out():
    x = clusters(50).astype(np.float32)
    x[:, 1] = 0.1
    session = Session(torch.Generator().manual_seed(0))
    with pytest.raises(CannotBeDone, match="dimension 1 is constant in the training data: set variance to one"):
        Model(Spec(hidden=2, epochs=1), 2).fit(dataset(x), session)
    model = Model(Spec(hidden=2, epochs=1, variance="one"), 2)
    model.fit(dataset(x), session)
    assert math.isfinite(model.annealed_path(dataset(x)).log_z_base)


def test_many_hidden_units_are_sampled_by_chains_and_not_enumerated():
    model = machine(2, gaussian_rbm.MAX_ENUMERATED_BITS + 1, sample_sweeps=3)
    with pytest.raises(CannotBeDone, match="there are 21 hidden units; at most 20 can be enumerated"):
        model._exact_sample(1, torch.Generator())
    x = model.sample(10, torch.Generator().manual_seed(1))
    assert x.shape == (10, 2)
    assert bool(x.isfinite().all())
