"""Cost of Boltzmann machines: every number is there, ratios are those of the times, refusals say what to write."""

import itertools
import math
import time

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import _boltzmann_timing, _timing, boltzmann_cost
from dgmbench.estimators._timing import Timing
from dgmbench.estimators.base import Workbench
from dgmbench.models.boltzmann import gaussian_rbm, rbm
from dgmbench.progress import NoProgress
from dgmbench.training.session import Session

LITTLE = {**boltzmann_cost.SMOKE, "chains": 20, "temperatures": 5}


@pytest.fixture(scope="module")
def data():
    x = (np.random.default_rng(1).random((110, 8)) < 0.4).astype(np.uint8)
    splits = {"train": Split(x[:90]), "validation": Split(x[90:100]), "test": Split(x[100:])}
    return Dataset("made-up", "made-up", "binary", (8,), splits, {})


@pytest.fixture(scope="module")
def model(data):
    machine = rbm.Model(rbm.Spec(**rbm.SMOKE), 8)
    machine.fit(data, Session(torch.Generator().manual_seed(1)))
    return machine


def bench():
    return Workbench(torch.Generator().manual_seed(0))


def estimate(model, data, **settings):
    found = boltzmann_cost.estimate(model, data, boltzmann_cost.Settings(**LITTLE | settings), bench())
    return {number.metric: number for number in found.numbers}


def test_every_declared_number_is_there_finite_and_positive(model, data):
    found = estimate(model, data)
    assert list(found) == list(boltzmann_cost.METRICS)
    for number in found.values():
        assert math.isfinite(number.value)
        assert number.value > 0
        assert number.estimator_se >= 0
        assert number.evidence["threads"] == torch.get_num_threads()
        assert number.evidence["gemm_gigaflops"] > 0


SECONDS = {
    "ours": (2.0, 4.0, 3.0),
    "peer": (4.0, 4.0, 9.0),
    "gibbs": (0.3, 0.2, 0.4),
    "products": (0.2, 0.2, 0.2),
    "bits": (0.05, 0.02, 0.04),
    "annealing": (0.8, 0.6, 0.4),
    "exact": (5.0, 7.0, 6.0),
    "square": (0.01, 0.011, 0.012),
}


def of_given_times(monkeypatch, model, data, **seconds):
    given = SECONDS | seconds
    monkeypatch.setattr(boltzmann_cost, "turns", lambda programs, *_: {name: Timing(given[name]) for name in programs})
    return estimate(model, data)


def test_ratios_and_shares_are_medians_of_the_turns(model, data, monkeypatch):
    found = of_given_times(monkeypatch, model, data)
    expected = {"seconds_per_epoch": 3, "peer_seconds_per_epoch": 4, "speed_ratio": 2, "gibbs_over_products": 1.5}
    expected |= {"bits_over_products": 0.2, "seconds_per_sweep": 0.3 / 2, "seconds_per_temperature": 0.6 / 4}
    expected |= {"chain_sweeps_per_second": 20 * 2 / 0.3, "temperatures_per_second": 4 / 0.6}
    expected["seconds_of_enumeration"] = 6
    rate = 2 * 1024**3
    # Four updates of 20 examples and 20 chains: five products of 20 x 8 x 5, at two operations each.
    expected["epoch_rate_share"] = 4 * 20 * 5 * 2 * 8 * 5 / rate * 0.004
    # 4, 4 and 9 seconds of the peer, with square products of 0.01, 0.011 and 0.012 seconds.
    expected["speed_limit"] = 4 / (4 * 20 * 5 * 2 * 8 * 5 / rate * 0.01)
    expected["gibbs_rate_share"] = 2 * 2 * 20 * 2 * 10 * 10 / rate * (0.01 / 0.3)
    expected["ais_rate_share"] = 2 * 4 * 20 * 2 * 8 * 3 / rate * (0.011 / 0.6)
    assert {metric: number.value for metric, number in found.items()} == pytest.approx(expected)
    # Standard error of the median of 0.3, 0.2, 0.4, carried over to the rate.
    assert found["chain_sweeps_per_second"].estimator_se == pytest.approx(
        20 * 2 / 0.3 * math.sqrt(math.pi / 2) * 0.1 / math.sqrt(3) / 0.3
    )
    assert all(number.converged is None for number in found.values())


def test_a_busy_machine_is_told_by_its_square_products(model, data, monkeypatch):
    for number in of_given_times(monkeypatch, model, data, square=(0.01, 0.011, 0.03)).values():
        assert number.converged is False
        assert "took 1.86 times their median" in number.evidence["not_converged_because"]


def test_the_last_epoch_is_timed(data):
    spec = rbm.Spec(hidden=4, epochs=3, batch_size=20, chains=20)
    for timed in (_boltzmann_timing.time_epoch, _boltzmann_timing.time_peer_epoch):
        began = time.perf_counter()
        found = timed(data, spec, torch.Generator().manual_seed(1))
        assert 0 < found < time.perf_counter() - began


def test_the_median_of_readings_and_its_standard_error():
    assert Timing((3.0, 1.0, 2.0)).seconds == 2
    assert Timing((3.0, 1.0, 2.0)).standard_error == pytest.approx(math.sqrt(math.pi / 2) / math.sqrt(3))
    assert Timing((3.0,)).standard_error is None


def test_the_first_reading_of_every_program_warms_up_and_they_take_turns():
    called = []
    programs = {name: _timing.clocked(lambda name=name: called.append(name), 2) for name in "ab"}
    with NoProgress().task("time", total=3, unit="turn") as task:
        found = _timing.turns(programs, 2, task)
    assert called == list("aabb") * 3
    assert all(len(timing.all_seconds) == 2 for timing in found.values())
    assert all(0 < seconds < 1 for timing in found.values() for seconds in timing.all_seconds)


def test_annealing_gives_the_weights_of_independent_units_exactly(model, data):
    """A machine without weights whose biases are the base rates is its own base: every weight is 1."""
    path = model.annealed_path(data)
    base = rbm.Model(rbm.Spec(hidden=3), 8)
    base.visible_bias = path.base_own.clone()
    log_weights = _boltzmann_timing.annealing(base.annealed_path(data), 5, 7, torch.Generator().manual_seed(1))()
    torch.testing.assert_close(log_weights, torch.zeros(7, dtype=torch.float64), rtol=0, atol=1e-6)


def test_what_is_enumerated_is_log_z():
    program = _boltzmann_timing.enumeration(3, 2, torch.Generator().manual_seed(4))
    again = torch.Generator().manual_seed(4)
    weights = 0.1 * torch.randn(3, 2, generator=again)
    visible, hidden = torch.randn(3, generator=again), torch.randn(2, generator=again)
    v = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
    h = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2)))
    log_z = torch.logsumexp(((v @ visible)[:, None] + h @ hidden + v @ weights @ h.T).double().flatten(), 0)
    assert program() == pytest.approx(log_z.item(), rel=1e-6)


def test_other_machines_other_devices_and_larger_minibatches_are_refused(model, data):
    real = Dataset("real", "real", "real", (8,), {k: Split(s.x + 0.5) for k, s in data.splits.items()}, {})
    other = gaussian_rbm.Model(gaussian_rbm.Spec(**gaussian_rbm.SMOKE), 8)
    with pytest.raises(CannotBeDone, match="only machines whose state is weights, visible_bias, hidden_bias and base"):
        boltzmann_cost.estimate(other, real, boltzmann_cost.Settings(**LITTLE), bench())
    with pytest.raises(CannotBeDone, match="there are 90 training examples, not 91: set batch_size to 90 or fewer"):
        estimate(model, data, batch_size=91)

    class Elsewhere(Workbench):
        device = torch.device("cuda")

    with pytest.raises(CannotBeDone, match="set device to cpu"):
        boltzmann_cost.estimate(model, data, boltzmann_cost.Settings(**LITTLE), Elsewhere(torch.Generator()))


def test_a_scikit_learn_that_steps_otherwise_gives_no_numbers(data, monkeypatch):
    import sklearn.neural_network

    class Other(sklearn.neural_network.BernoulliRBM):
        def fit(self, x):
            self.components_ = x

    monkeypatch.setattr(sklearn.neural_network, "BernoulliRBM", Other)
    spec = rbm.Spec(hidden=4, epochs=5, batch_size=20)
    with pytest.raises(CannotBeDone, match="updated 0 times in float32, not 20 times in float32"):
        _boltzmann_timing.time_peer_epoch(data, spec, torch.Generator().manual_seed(1))
