"""Bidirectional annealing against enumeration: the bounds, their bracket, and the states of the target."""

import itertools
import math

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import _target_states, bracket
from dgmbench.estimators._annealing import anneal, betas
from dgmbench.estimators._log_weights import log_mean_exp
from dgmbench.estimators._target_states import exact_states, target_states
from dgmbench.estimators._tempering import temper
from dgmbench.estimators.base import Workbench
from dgmbench.estimators.enumeration import log_partition, log_terms
from dgmbench.models.base import Enumeration
from dgmbench.models.boltzmann import rbm


def dataset(d: int) -> Dataset:
    x = (np.random.default_rng(0).random((100, d)) < np.linspace(0.1, 0.9, d)).astype(np.uint8)
    return Dataset("small", "small", "binary", (d,), {"train": Split(x), "test": Split(x)}, {})


def machine(visible: int, hidden: int, scale: float) -> rbm.Model:
    generator = torch.Generator().manual_seed(3)
    model = rbm.Model(rbm.Spec(hidden=hidden), visible)
    state = {
        "weights": scale * torch.randn(visible, hidden, generator=generator, dtype=torch.float64),
        "visible_bias": torch.randn(visible, generator=generator, dtype=torch.float64),
        "hidden_bias": torch.randn(hidden, generator=generator, dtype=torch.float64),
    }
    model.load_state({**state, "base_bias": state["visible_bias"]})
    return model


def bench(seed: int = 0) -> Workbench:
    return Workbench(torch.Generator().manual_seed(seed))


def every(bits: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=bits)), dtype=torch.float64)


def exact_draws(model: rbm.Model, n: int, work: Workbench) -> torch.Tensor:
    return exact_states(model.enumeration(), log_terms(model.enumeration()), n, work.generator)


def chi_square(states: torch.Tensor, model: rbm.Model) -> float:
    """Of the states' frequencies against the enumerated probabilities of all visible states."""
    d = model.dimension
    expected = len(states) * torch.softmax(model.log_unnormalised(every(d)), 0)
    code = 2.0 ** torch.arange(d - 1, -1, -1, dtype=torch.float64)
    observed = torch.bincount((states.double() @ code).long(), minlength=2**d)
    return float(((observed - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperatures", [2, 50, 51])
def test_exact_without_weights(temperatures):
    """With W = 0 and the base rates as visible biases every chain has the same weight, in either direction."""
    data, model = dataset(8), machine(8, 5, scale=0.0)
    model.visible_bias = rbm.base_rate_log_odds(data)
    found = bracket.estimate(model, data, bracket.Settings(temperatures=temperatures, chains=20), bench())
    exact = log_partition(model.enumeration())
    for number in found.numbers[:3]:
        assert number.value == pytest.approx(exact, abs=1e-10)
        assert number.estimator_se < 1e-10
        assert number.converged
    exact_mean = (model.log_unnormalised(data.test.all()) - exact).mean().item()
    assert found.numbers[3].value == pytest.approx(exact_mean, abs=1e-10)


@pytest.mark.parametrize("schedule", ["linear", "adaptive"])
@pytest.mark.parametrize(("visible", "hidden"), [(10, 6), (6, 10)])
def test_strong_machine_within_its_bracket(schedule, visible, hidden):
    data, model = dataset(visible), machine(visible, hidden, scale=2.0)
    settings = bracket.Settings(schedule=schedule, temperatures=1000, chains=400, tolerance=0.2)
    found = {n.metric: n for n in bracket.estimate(model, data, settings, bench(1)).numbers}
    exact = log_partition(model.enumeration())
    # 4 cases of 3 numbers beyond 4 standard errors: a false alarm in 1,300 seeds.
    for name in ("log_z_lower", "log_z_upper", "log_z"):
        assert abs(found[name].value - exact) < 4 * found[name].estimator_se
        assert found[name].converged
    assert found["log_z"].value == (found["log_z_lower"].value + found["log_z_upper"].value) / 2
    shift = exact - found["log_z"].value
    exact_mean = (model.log_unnormalised(data.test.all()) - exact).mean().item()
    assert found["log_likelihood"].value == pytest.approx(exact_mean + shift, abs=1e-9)


def test_bounds_hold_in_expectation():
    """5,000 repetitions with 4 chains and 6 temperatures, where either bound is off by tenths of a nat."""
    data, model = dataset(8), machine(8, 5, scale=1.5)
    path, work, shape = model.annealed_path(data), bench(3), (5000, 4)
    chosen = betas(path, bracket.Settings(temperatures=6), work.generator)
    up = anneal(path, chosen, path.sample_base(math.prod(shape), work.generator), 1, work).view(shape).numpy()
    start = exact_draws(model, math.prod(shape), work)
    down = anneal(path, chosen[::-1], start, 1, work).view(shape).numpy()
    exact = log_partition(model.enumeration()) - path.log_z_base
    for low, ratio in (
        (log_mean_exp(up) - exact, np.exp(up - exact)),
        (log_mean_exp(down) + exact, np.exp(down + exact)),
    ):
        # A mean of 5,000: below zero by 5 standard errors, where truth is not below, in 3 million seeds.
        assert low.mean() < -5 * low.std() / math.sqrt(len(low))
        # Weights of single chains are unbiased in both directions: beyond 4.5 standard errors in 150,000.
        assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / math.sqrt(ratio.size)
        # Markov's inequality: an estimate is off to the wrong side by 1 nat in at most exp(-1) of the runs.
        assert (low > 1).mean() < math.exp(-1)


def test_too_few_temperatures_are_reported_with_their_reasons():
    data, model = dataset(10), machine(10, 6, scale=6.0)
    found = bracket.estimate(model, data, bracket.Settings(temperatures=4, chains=50), bench(2)).numbers
    assert not any(number.converged for number in found)
    reasons = found[0].evidence["not_converged_because"]
    assert "bracket wider than tolerance" in reasons
    assert "forward: effective sample size too small" in reasons
    assert "reverse: " in reasons


def test_states_of_another_distribution_are_noticed(monkeypatch):
    """From the least probable state, not from the target, reverse weights bound nothing, and more so with less work."""
    data, model = dataset(8), machine(8, 5, scale=2.0)

    def unlikely(model, path, data, settings, n, work):
        states = every(8)
        return states[model.log_unnormalised(states).argmin()].expand(n, -1).clone(), [], {}

    monkeypatch.setattr(bracket, "target_states", unlikely)
    evidence = (
        bracket.estimate(model, data, bracket.Settings(temperatures=41, chains=500), bench(5)).numbers[0].evidence
    )
    assert evidence["width"] < 0
    assert "bounds cross" in evidence["not_converged_because"]
    half = bracket.estimate(model, data, bracket.Settings(temperatures=21, chains=500), bench(6)).numbers[2].value
    assert evidence["log_z_with_half_of_the_temperatures"] == pytest.approx(half, abs=0.2)
    assert "half of the temperatures move log Z" in evidence["not_converged_because"]


@pytest.mark.parametrize(("visible", "hidden"), [(6, 4), (4, 6)])
def test_exact_states_follow_the_enumerated_distribution(visible, hidden):
    model = machine(visible, hidden, scale=1.5)
    states = exact_draws(model, 20_000, bench(6))
    assert states.dtype == model.weights.dtype
    # 63 (15) degrees of freedom: P(chi-square > 130) = 1.3e-6 and P(> 53) = 4e-6.
    assert chi_square(states, model) < (130 if visible == 6 else 53)


@pytest.mark.parametrize("kind", ["gibbs", "tempering"])
def test_states_of_chains_follow_the_enumerated_distribution(kind):
    data, model = dataset(6), machine(6, 4, scale=2.5)
    settings = bracket.Settings(target_states=kind, target_sweeps=200, ladder=6)
    states, failing, evidence = target_states(model, model.annealed_path(data), data, settings, 4_000, bench(7))
    # 63 degrees of freedom: P(chi-square > 130) = 1.3e-6; expected counts below 1 make large values likelier.
    assert chi_square(states, model) < 150
    assert not failing
    assert evidence["target_sweeps"] == 200
    assert ("least_swap_rate" in evidence) == (kind == "tempering")


def test_tempering_leaves_the_enumerated_distribution_invariant_and_records_its_exchanges():
    """Ladders that start right stay right; the rate of exchange is that of the enumerated pair."""
    data, model = dataset(5), machine(5, 3, scale=2.0)
    path, ladder = model.annealed_path(data), np.array([0.0, 0.4, 1.0])
    generator = torch.Generator().manual_seed(8)
    *_, last = temper(path, ladder, path.sample_base(20_000, generator), 40, generator)
    # 31 degrees of freedom: P(chi-square > 85) = 6e-7.
    assert chi_square(last.state, model) < 85
    assert last.swap_rates.shape == (2,)
    p = [torch.softmax(path.log_unnormalised(every(5), beta), 0) for beta in ladder]
    for k in range(2):
        gain = path.log_ratio(every(5), ladder[k], ladder[k + 1])
        accept = torch.exp(torch.clamp(gain[:, None] - gain, max=0))
        rate = float(p[k] @ accept @ p[k + 1])
        # 20 attempts of 20,000 ladders, the first few not yet in equilibrium.
        assert last.swap_rates[k] == pytest.approx(rate, abs=0.02)


def test_chains_that_drift_are_reported():
    data, model = dataset(10), machine(10, 6, scale=6.0)
    settings = bracket.Settings(target_states="gibbs", target_sweeps=4, temperatures=10, chains=2000)
    found = bracket.estimate(model, data, settings, bench(9)).numbers
    assert _target_states.DRIFT in found[1].evidence["not_converged_because"]


def two_modes(share_of_ones: float) -> tuple[Dataset, rbm.Model]:
    """One hidden unit turns all of ten pixels on or off, and no chain at beta = 1 sees both; odds of the modes e^2."""
    model = rbm.Model(rbm.Spec(hidden=1), 10)
    state = {"weights": torch.full((10, 1), 8.0), "visible_bias": torch.full((10,), -4.0)}
    state |= {"hidden_bias": torch.tensor([-38.0]), "base_bias": torch.zeros(10)}
    model.load_state({name: value.double() for name, value in state.items()})
    x = np.repeat(np.arange(100)[:, None] < 100 * share_of_ones, 10, axis=1).astype(np.uint8)
    return Dataset("modes", "modes", "binary", (10,), {"train": Split(x), "test": Split(x)}, {}), model


def test_chains_that_never_mix_are_reported_and_ladders_that_mix_are_not():
    """Drift alone does not see it: every chain has long settled, in the mode where it started."""
    data, model = two_modes(0.3)
    path = model.annealed_path(data)
    exact = float(torch.softmax(model.log_unnormalised(every(10)), 0) @ (every(10).sum(1) > 5).double())
    assert exact == pytest.approx(math.exp(2) / (1 + math.exp(2)), abs=1e-3)
    for kind, failing in (("gibbs", [_target_states.START]), ("tempering", [])):
        settings = bracket.Settings(target_states=kind, target_sweeps=300, ladder=12)
        states, found, evidence = target_states(model, path, data, settings, 2000, bench(10))
        assert found == failing, evidence
        ones = float((states.sum(1) > 5).double().mean())
        # Of 2,000: 5 standard errors; stuck chains are at most at the examples' share.
        assert (abs(ones - exact) < 5 * 0.33 / math.sqrt(2000)) == (kind == "tempering")


def test_a_large_machine_is_told_what_to_write_instead():
    model = rbm.Model(rbm.Spec(hidden=21), 30)
    with pytest.raises(CannotBeDone, match=r"the smaller side has 21 units.*write target_states: gibbs or tempering"):
        bracket.estimate(model, dataset(30), bracket.Settings(temperatures=3), bench())
    small = rbm.Model(rbm.Spec(hidden=3), 4)
    small.enumeration = lambda: Enumeration(3, lambda s: s.sum(1))
    with pytest.raises(CannotBeDone, match=r"does not lead to states.*write target_states: gibbs or tempering"):
        bracket.estimate(small, dataset(4), bracket.Settings(temperatures=3), bench())
