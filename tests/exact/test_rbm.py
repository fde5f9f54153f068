"""The restricted Boltzmann machine against enumeration: free energy, gradient, Gibbs sampling, training."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.estimators.enumeration import log_partition
from dgmbench.models.boltzmann import rbm
from dgmbench.training.session import Session


def states(bits: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=bits)), dtype=torch.float64)


def machine(visible: int, hidden: int, scale: float = 1.0, seed: int = 0, **spec) -> rbm.Model:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    model = rbm.Model(rbm.Spec(hidden=hidden, **spec), visible)
    state = {"weights": normal(visible, hidden), "visible_bias": normal(visible), "hidden_bias": normal(hidden)}
    model.load_state({**state, "base_bias": normal(visible)})
    return model


def dataset(x: np.ndarray) -> Dataset:
    splits = {name: Split(x) for name in ("train", "validation", "test")}
    return Dataset("small", "small", "binary", x.shape[1:], splits, {})


def two_modes(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Examples that are mostly ones or mostly zeros: independent pixels model them badly."""
    rng = np.random.default_rng(seed)
    rate = np.where(rng.random((n, 1)) < 0.5, 0.85, 0.15)
    return (rng.random((n, d)) < rate).astype(np.uint8)


def test_free_energy_is_the_sum_over_hidden_states():
    model = machine(5, 4, scale=2.0)
    v, h = states(5), states(4)
    joint = (v @ model.visible_bias)[:, None] + h @ model.hidden_bias + v @ model.weights @ h.T
    torch.testing.assert_close(model.log_unnormalised(v), torch.logsumexp(joint, 1), rtol=0, atol=1e-12)


def test_float32_parameters_lose_little():
    model = machine(40, 30)
    x = torch.randint(0, 2, (50, 40), generator=torch.Generator().manual_seed(1)).double()
    exact = model.log_unnormalised(x)
    model.load_state({name: value.float() for name, value in model.state().items()})
    assert (model.log_unnormalised(x) - exact).abs().max() < 1e-4


def exact_gradient(model: rbm.Model, x: Tensor) -> dict[str, Tensor]:
    """Of the mean log-likelihood, by automatic differentiation of the enumerated one."""
    leaves = {name: value.clone().requires_grad_(True) for name, value in model.state().items()}
    copy = rbm.Model(model.spec, model.dimension)
    copy.load_state(leaves)
    (copy.log_unnormalised(x).mean() - log_z(copy)).backward()
    return {name: leaves[name].grad for name in model.parameters()}


def log_z(model: rbm.Model) -> Tensor:
    enumeration = model.enumeration()
    return torch.logsumexp(enumeration.log_term(states(enumeration.bits)), 0)


def expected_direction(model: rbm.Model, x: Tensor, chains: Tensor) -> dict[str, Tensor]:
    """The learning rule's direction, with chains at state v with the given probabilities: both phases enumerated."""
    visible = torch.cat([x, states(model.dimension)])
    sign = torch.cat([torch.full((len(x),), 1 / len(x), dtype=torch.float64), -chains])
    velocity = {name: torch.zeros_like(value) for name, value in model.parameters().items()}
    mean = torch.sigmoid(model.hidden_input(visible))
    model.accumulate(velocity, 0.0, visible, mean * sign[:, None], sign)
    return velocity


@pytest.mark.parametrize(("visible", "hidden"), [(5, 3), (3, 5)])
def test_the_learning_rule_has_the_exact_gradient_as_its_expectation(visible, hidden):
    model = machine(visible, hidden)
    x = torch.from_numpy(two_modes(64, visible)).double()
    of_model = torch.exp(model.log_unnormalised(states(visible)) - log_z(model))
    expected = expected_direction(model, x, of_model)
    for name, gradient in exact_gradient(model, x).items():
        torch.testing.assert_close(expected[name], gradient, rtol=0, atol=1e-12)


def test_contrastive_divergence_tends_to_the_exact_gradient_as_its_chains_grow_longer():
    model = machine(5, 3)
    x = torch.from_numpy(two_modes(64, 5)).double()
    matrix = exact_transition(model, model.annealed_path(dataset(two_modes(64, 5))), 1.0)
    code = torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    start = torch.bincount((x @ code).long(), minlength=32) / 64.0
    gradient, gaps = exact_gradient(model, x), []
    for sweeps in (1, 2, 4, 8, 30):
        chains = start.double() @ torch.linalg.matrix_power(matrix, sweeps)
        direction = expected_direction(model, x, chains)
        gaps.append(max(float((direction[name] - gradient[name]).abs().max()) for name in gradient))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.01
    assert gaps[-1] < 1e-10


def test_momentum_enters_the_direction():
    model = machine(4, 3)
    visible, sign = states(4), torch.linspace(-1, 1, 16, dtype=torch.float64)
    mean = torch.sigmoid(model.hidden_input(visible))
    velocity = {name: torch.ones_like(value) for name, value in model.parameters().items()}
    model.accumulate(velocity, 0.5, visible, mean * sign[:, None], sign)
    by_hand = sum(s * torch.outer(v, h) for s, v, h in zip(sign, visible, mean))
    torch.testing.assert_close(velocity["weights"], 0.5 + by_hand)
    torch.testing.assert_close(velocity["visible_bias"], 0.5 + visible.T @ sign)
    torch.testing.assert_close(velocity["hidden_bias"], 0.5 + mean.T @ sign)


def test_zero_weights_give_the_base_rates():
    data = dataset(two_modes(200, 6))
    model = machine(6, 4, scale=0.0)
    model.visible_bias = rbm.base_rate_log_odds(data)
    every = states(6)
    p = torch.exp(model.log_unnormalised(every) - log_z(model))
    np.testing.assert_allclose((p @ every).numpy(), (data.train.x.sum(0) + 5) / 210, rtol=0, atol=1e-10)
    independent = -torch.nn.functional.binary_cross_entropy_with_logits(
        model.visible_bias.expand(64, -1), every, reduction="none"
    ).sum(1)
    torch.testing.assert_close(p.log(), independent, rtol=0, atol=1e-10)


def test_reconstruction_error_is_the_cross_entropy_of_the_mean_field_reconstruction():
    model, x = machine(4, 3), states(4)
    mean = torch.sigmoid(model.visible_input(torch.sigmoid(model.hidden_input(x))))
    by_hand = -(x * mean.log() + (1 - x) * (1 - mean).log()).sum(1).mean()
    torch.testing.assert_close(model.reconstruction_error(x), by_hand)


def exact_transition(model: rbm.Model, path: rbm.Path, beta: float) -> Tensor:
    """T[v, v'] = sum_h p_beta(h given v) p_beta(v' given h), by enumeration."""
    v, h = states(model.dimension), states(model.spec.hidden)

    def bernoulli(outcomes: Tensor, logits: Tensor) -> Tensor:
        log_p = outcomes @ logits.T - torch.nn.functional.softplus(logits).sum(1)
        return log_p.T.exp()  # (given, outcome)

    h_given_v = bernoulli(h, beta * (model.hidden_bias + v @ model.weights))
    bias = (1 - beta) * path.base_own + beta * model.visible_bias
    return h_given_v @ bernoulli(v, bias + beta * h @ model.weights.T)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_transition_is_the_enumerated_one_and_leaves_the_tempered_distribution_invariant(beta):
    model = machine(4, 3, scale=1.2)
    path = model.annealed_path(dataset(two_modes(50, 4)))
    every = states(4)
    tempered = torch.softmax(path.log_unnormalised(every, beta), 0)
    matrix = exact_transition(model, path, beta)
    torch.testing.assert_close(tempered @ matrix, tempered, rtol=0, atol=1e-12)

    draws, code = 20_000, torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    for start in (0, 6, 15):
        after = path.step(every[start].expand(draws, -1).clone(), beta, generator) @ code
        observed = torch.bincount(after.long(), minlength=16)
        expected = draws * matrix[start]
        chi_square = ((observed - expected) ** 2 / expected).sum().item()
        # 15 degrees of freedom: P(chi-square > 49) = 2e-5; 9 comparisons: a false alarm in 6,000 seeds.
        assert chi_square < 49, (beta, start)


@pytest.mark.parametrize("sweeps", [1, 2, 5])
def test_block_gibbs_in_float32_follows_the_enumerated_transition(sweeps):
    exact = machine(4, 3, scale=1.2)
    matrix = exact_transition(exact, exact.annealed_path(dataset(two_modes(50, 4))), 1.0)
    matrix = torch.linalg.matrix_power(matrix, sweeps)
    model = machine(4, 3, scale=1.2)
    model.load_state({name: value.float() for name, value in exact.state().items()})
    draws, code = 100_000, torch.tensor([8.0, 4.0, 2.0, 1.0])
    generator = torch.Generator().manual_seed(15)
    for start in (0, 6, 15):
        mean = torch.sigmoid(model.hidden_input(states(4)[start].float().expand(draws, -1)))
        visible, hidden = model.gibbs(mean, sweeps, generator)
        assert set(hidden.unique().tolist()) == {0.0, 1.0}
        observed, expected = torch.bincount((visible @ code).long(), minlength=16), draws * matrix[start]
        # P(chi-square with 15 degrees of freedom > 49) = 2e-5; 9 comparisons: a false alarm in 6,000 seeds.
        assert ((observed - expected) ** 2 / expected).sum() < 49, start


def test_path_runs_from_the_base_rates_to_the_machine():
    model, data = machine(5, 3), dataset(two_modes(80, 5))
    path = model.annealed_path(data)
    every = states(5)
    torch.testing.assert_close(path.log_unnormalised(every, 1.0), model.log_unnormalised(every))
    assert torch.logsumexp(path.log_unnormalised(every, 0.0), 0).item() == pytest.approx(path.log_z_base, abs=1e-12)
    rates = (data.train.x.sum(0) + 5) / (80 + 10)
    p_0 = torch.softmax(path.log_unnormalised(every, 0.0), 0)
    np.testing.assert_allclose((p_0 @ every).numpy(), rates, atol=1e-12)


@pytest.mark.parametrize(("beta_from", "beta_to"), [(0.2, 0.2001), (0.5, 0.51), (0.3, 0.9), (1.0, 0.995)])
def test_log_ratio_is_the_difference_of_the_two_ends(beta_from, beta_to):
    model = machine(5, 3, scale=20.0)
    path = model.annealed_path(dataset(two_modes(80, 5)))
    every = states(5)
    difference = path.log_unnormalised(every, beta_to) - path.log_unnormalised(every, beta_from)
    torch.testing.assert_close(path.log_ratio(every, beta_from, beta_to), difference, rtol=1e-10, atol=1e-10)


def test_samples_follow_the_enumerated_distribution():
    model = machine(4, 3, sample_sweeps=100)
    p = torch.softmax(model.log_unnormalised(states(4)), 0)
    drawn = model.sample(20_000, torch.Generator().manual_seed(8))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    observed = torch.bincount((drawn @ torch.tensor([8.0, 4, 2, 1]).double()).long(), minlength=16)
    # P(chi-square with 15 degrees of freedom > 49) = 2e-5.
    assert ((observed - 20_000 * p) ** 2 / (20_000 * p)).sum() < 49


def test_pseudo_log_likelihood_is_unbiased():
    model = machine(5, 3)
    x = torch.from_numpy(two_modes(1, 5)).double()
    exact = 0.0
    for i in range(5):
        flipped = x.clone()
        flipped[0, i] = 1 - flipped[0, i]
        exact += torch.nn.functional.logsigmoid(model.log_unnormalised(x) - model.log_unnormalised(flipped)).item()
    n = 40_000
    estimates = [
        model.pseudo_log_likelihood(x.expand(n // 10, -1), torch.Generator().manual_seed(i)).item() for i in range(10)
    ]
    # Student's t with 9 degrees of freedom beyond 8 standard errors: a false alarm in 40,000 seeds.
    assert abs(np.mean(estimates) - exact) < 8 * np.std(estimates, ddof=1) / math.sqrt(10)


TRAININGS = {
    "pcd": {},
    "pcd, three sweeps": {"gibbs_steps": 3},
    "pcd, centred": {"centred": True},
    "cd": {"training": "cd", "gibbs_steps": 5},
    "cd_growing": {"training": "cd_growing", "grow_every": 5},
}


@pytest.mark.parametrize("training", TRAININGS)
def test_training_beats_independent_pixels_and_nears_the_best_likelihood(training):
    data = dataset(two_modes(1000, 6))
    spec = rbm.Spec(
        hidden=5, epochs=60, batch_size=50, chains=100, learning_rate=0.1, momentum=0.5, **TRAININGS[training]
    )
    model, session = rbm.Model(spec, 6), Session(torch.Generator().manual_seed(0))
    model.fit(data, session)
    x = data.train.all()
    log_likelihood = (model.log_unnormalised(x).mean() - log_partition(model.enumeration())).item()
    rates = x.double().mean(0)
    independent = (rates * rates.log() + (1 - rates) * (1 - rates).log()).sum().item()
    _, counts = np.unique(data.train.x, axis=0, return_counts=True)
    empirical = (counts / 1000 * np.log(counts / 1000)).sum()  # no model gives its own training data more
    # The margins are an order wider than the scatter over six seeds (0.006 nats), so no seed is special.
    assert independent + 0.7 < log_likelihood < empirical
    assert log_likelihood > empirical - 0.15
    assert session.history[-1].keys() == {
        "step",
        "hidden_activity",
        "free_energy_gap",
        "validation_free_energy_gap",
        "change_rate",
        "pseudo_log_likelihood",
        "reconstruction_error",
    }


def test_base_rates_are_finite_for_constant_pixels():
    log_odds = rbm.base_rate_log_odds(dataset(np.array([[0, 1], [0, 1]], dtype=np.uint8)))
    torch.testing.assert_close(log_odds, torch.log(torch.tensor([5 / 7, 7 / 5], dtype=torch.float64)))
