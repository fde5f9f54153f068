"""Cost of Boltzmann machines: every number is there, ratios are those of the times, refusals say what to write."""

import math

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import _boltzmann_timing, _timing, boltzmann_cost
from dgmbench.estimators._timing import Timing
from dgmbench.estimators.base import Workbench
from dgmbench.models.boltzmann import gaussian_rbm, rbm
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
    assert found["speed_ratio"].value == pytest.approx(
        found["peer_seconds_per_epoch"].value / found["seconds_per_epoch"].value
    )


def test_shares_are_operations_over_seconds_over_the_rate(model, data):
    found = estimate(model, data)

    def share(operations, metric):
        return operations / found[metric].value / (found[metric].evidence["gemm_gigaflops"] * 1e9)

    # Four updates of 20 examples and 20 chains: five products of 20 x 8 x 5, at two operations each.
    assert found["epoch_rate_share"].value == pytest.approx(share(4 * 20 * 5 * 2 * 8 * 5, "seconds_per_epoch"))
    assert found["gibbs_rate_share"].value == pytest.approx(share(2 * 20 * 2 * 10 * 10, "seconds_per_sweep"))
    assert found["ais_rate_share"].value == pytest.approx(share(2 * 20 * 2 * 8 * 3, "seconds_per_temperature"))
    sweeps = found["seconds_per_sweep"]
    assert sweeps.evidence["chain_sweeps_per_second"] == pytest.approx(20 / sweeps.value)
    temperatures = found["seconds_per_temperature"]
    assert temperatures.evidence["temperatures_per_second"] == pytest.approx(1 / temperatures.value)


def test_epochs_after_the_first_are_timed(data):
    spec = rbm.Spec(hidden=4, epochs=5, batch_size=20, chains=20)
    assert len(_boltzmann_timing.time_epochs(data, spec, torch.Generator().manual_seed(1)).all_seconds) == 4
    assert len(_boltzmann_timing.time_peer_epochs(data, spec, torch.Generator().manual_seed(1)).all_seconds) == 4


def test_the_median_of_readings_and_its_standard_error():
    assert Timing((3.0, 1.0, 2.0)).seconds == 2
    assert Timing((3.0, 1.0, 2.0)).standard_error == pytest.approx(math.sqrt(math.pi / 2) / math.sqrt(3))
    assert Timing((3.0,)).standard_error is None


def test_the_first_reading_of_every_program_warms_up_and_they_take_turns():
    called = []
    found = _timing.readings({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 2)
    assert called == ["a", "b"] * 3
    assert all(len(timing.all_seconds) == 2 for timing in found.values())


def test_annealing_gives_the_weights_of_independent_units_exactly(model, data):
    """A machine without weights whose biases are the base rates is its own base: every weight is 1."""
    path = model.annealed_path(data)
    base = rbm.Model(rbm.Spec(hidden=3), 8)
    base.visible_bias = path.base_own.clone()
    log_weights = _boltzmann_timing.annealing(base.annealed_path(data), 5, 7, torch.Generator().manual_seed(1))()
    torch.testing.assert_close(log_weights, torch.zeros(7, dtype=torch.float64), rtol=0, atol=1e-6)


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
        _boltzmann_timing.time_peer_epochs(data, spec, torch.Generator().manual_seed(1))
