"""Cost of an EM iteration: both programs do the same EM, refusals say why, exponents of known powers are recovered."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import linregress, multivariate_normal

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import _em_timing, em_cost, em_scaling
from dgmbench.estimators.base import Workbench
from dgmbench.models.density.gaussian import Model as Gaussian
from dgmbench.models.mixtures import _fitting, gmm, student_t_mixture
from dgmbench.training.session import Session

COMPONENTS, DIMENSION, TRAIN = 4, 5, 1500


@pytest.fixture(scope="module")
def data():
    g = np.random.default_rng(8)
    mixing = np.tril(g.normal(size=(DIMENSION, DIMENSION))) + 2 * np.eye(DIMENSION)
    centres = 2.5 * g.normal(size=(COMPONENTS, DIMENSION))
    x = centres[g.integers(COMPONENTS, size=2000)] + g.normal(size=(2000, DIMENSION)) @ mixing.T
    x = (x + 7).astype(np.float32)
    splits = {"train": Split(x[:TRAIN]), "validation": Split(x[TRAIN:1750]), "test": Split(x[1750:])}
    return Dataset("made-up", "made-up", "real", (DIMENSION,), splits, {})


def train(module, data, **spec):
    model = module.Model(module.Spec(components=COMPONENTS, iterations=5, start="random", **spec), data.dimension)
    model.fit(data, Session(torch.Generator().manual_seed(2)))
    return model


@pytest.fixture(scope="module")
def model(data):
    return train(gmm, data)


def bench():
    return Workbench(torch.Generator().manual_seed(0))


def estimate(model, data, module=em_cost, **settings):
    found = module.estimate(model, data, module.Settings(split="train", **settings), bench())
    return {number.metric: number for number in found.numbers}


def log_likelihood(mixture, z):
    terms = [
        float(w) + multivariate_normal(m.numpy(), (f @ f.T).numpy()).logpdf(z.numpy())
        for w, m, f in zip(mixture.log_weights, mixture.means, mixture.factors, strict=True)
    ]
    return np.logaddexp.reduce(terms).mean()


def test_readings_of_a_busy_machine_say_so(model, data, monkeypatch):
    products = {"slow": _em_timing.Timing((9.0, 9.0, 9.0)), "fast": _em_timing.Timing((1e-9, 1e-9, 1e-9))}
    for name, quiet in (("slow", False), ("fast", True)):
        monkeypatch.setattr(em_cost, "time_products", lambda *_, found=products[name]: found)
        for metric, number in estimate(model, data, iterations=3).items():
            assert number.converged is (False if metric in em_cost.CLOCK_READINGS and not quiet else None)
            assert ("not_converged_because" in number.evidence) == (number.converged is False)


@pytest.mark.parametrize("covariance", ["tied", "diagonal", "spherical"])
def test_other_covariances_are_not_timed_as_full_ones(data, covariance):
    with pytest.raises(CannotBeDone, match=f"this run's are {covariance}"):
        estimate(train(gmm, data, covariance=covariance), data, iterations=3)


def test_every_declared_number_is_there_finite_and_times_are_positive(model, data):
    found = estimate(model, data, iterations=4)
    assert list(found) == list(em_cost.METRICS)
    for metric, number in found.items():
        assert math.isfinite(number.value)
        if metric in em_cost.CLOCK_READINGS:
            assert number.value > 0
            assert number.estimator_se >= 0
        else:
            assert number.estimator_se == 0
    assert found["seconds_per_iteration"].evidence["threads"] == torch.get_num_threads()
    assert len(found["seconds_per_iteration"].evidence["seconds"]) == 4
    assert len(found["peer_seconds_per_iteration"].evidence["seconds"]) == 4
    ratio = found["peer_seconds_per_iteration"].value / found["seconds_per_iteration"].value
    assert found["speed_ratio"].value == pytest.approx(ratio)


def test_the_first_iteration_is_not_timed_and_one_reading_has_no_standard_error():
    timing = _em_timing.Timing((100.0, 3.0, 1.0, 2.0))
    assert timing.seconds == 2
    assert timing.standard_error == pytest.approx(math.sqrt(math.pi / 2) / math.sqrt(3))
    assert _em_timing.Timing((100.0, 3.0)).standard_error is None


def test_two_iterations_give_times_without_standard_errors(model, data):
    found = estimate(model, data, iterations=2)
    assert all(found[metric].estimator_se is None for metric in em_cost.CLOCK_READINGS)


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-8), ("float32", 0.01)])
@pytest.mark.parametrize("sizes", [{}, {"components": 2}, {"dimensions": 3}, {"examples": 400, "ridge": 0.01}])
def test_both_programs_reach_the_same_log_likelihood(model, data, precision, tolerance, sizes):
    found = estimate(model, data, precision=precision, iterations=6, **sizes)
    assert abs(found["log_likelihood_gap"].value) < tolerance
    assert 0 < abs(found["float32_gap"].value) < 0.01
    evidence = found["log_likelihood_gap"].evidence
    assert evidence["log_likelihood"] == found["float32_gap"].evidence[f"log_likelihood_{precision}"]


def test_ours_is_the_em_of_the_model(model, data):
    """From its state after five iterations, three more give what eight give."""
    start, z = _em_timing.common_start(model, data, em_cost.Settings(split="train"), torch.device("cpu"))
    more = _em_timing.time_ours(z, start, "float64", em_cost.Settings(iterations=3, ridge=0.0))
    longer = gmm.Model(gmm.Spec(components=COMPONENTS, iterations=8, start="random", tolerance=0.0), DIMENSION)
    longer.fit(data, Session(torch.Generator().manual_seed(2)))
    log_volume = float(_covariance_factor(data).diagonal().log().sum())
    expected = float(longer.log_prob(data.train.all()).mean()) + log_volume
    assert more.log_likelihood == pytest.approx(expected, abs=1e-4)


def test_the_common_start_is_the_trained_mixture_of_whitened_data(model, data):
    start, z = _em_timing.common_start(model, data, em_cost.Settings(split="train"), torch.device("cpu"))
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-10)
    np.testing.assert_allclose(np.cov(z.T, ddof=0), np.eye(DIMENSION), atol=1e-10)
    log_volume = float(_covariance_factor(data).diagonal().log().sum())
    expected = float(model.log_prob(data.train.all()).mean()) + log_volume
    assert log_likelihood(start, z) == pytest.approx(expected, abs=1e-8)


def test_fewer_dimensions_are_the_marginal_of_the_first(model, data):
    whole, z = _em_timing.common_start(model, data, em_cost.Settings(split="train"), torch.device("cpu"))
    part, shorter = _em_timing.common_start(
        model, data, em_cost.Settings(split="train", dimensions=2, components=3, examples=100), torch.device("cpu")
    )
    np.testing.assert_allclose(shorter, z[:100, :2], atol=1e-12)
    for k in range(3):
        covariance = whole.factors[k] @ whole.factors[k].T
        np.testing.assert_allclose(part.factors[k] @ part.factors[k].T, covariance[:2, :2], atol=1e-12)
    weights = whole.log_weights.exp()[:3]
    np.testing.assert_allclose(part.log_weights.exp(), weights / weights.sum(), atol=1e-12)


def _covariance_factor(data):
    x = data.train.all().double()
    return torch.linalg.cholesky(torch.cov(x.T, correction=0))


def test_a_cap_gives_both_programs_the_same_fewer_examples(model, data):
    found = estimate(model, data, precision="float64", peer_examples=300, iterations=4)
    assert found["seconds_per_iteration"].evidence["examples"] == TRAIN
    assert found["peer_seconds_per_iteration"].evidence["examples"] == 300
    assert abs(found["log_likelihood_gap"].value) < 1e-8
    capped = found["log_likelihood_gap"].evidence["log_likelihood"]
    few = estimate(model, data, precision="float64", examples=300, iterations=4)
    assert capped == few["log_likelihood_gap"].evidence["log_likelihood"]


def test_the_gaps_repeat_to_the_bit(model, data):
    first, second = estimate(model, data, iterations=3), estimate(model, data, iterations=3)
    for metric in set(em_cost.METRICS) - em_cost.CLOCK_READINGS:
        assert first[metric].value == second[metric].value


def test_the_peer_does_not_warn_and_leaves_the_threads_as_they_were(model, data, recwarn):
    before = torch.get_num_threads()
    estimate(model, data, iterations=2)
    assert torch.get_num_threads() == before
    assert not recwarn.list


def test_the_features_held_at_once_are_those_of_training():
    assert em_cost.Settings().chunk == _fitting.CHUNK


@pytest.mark.parametrize("module", [em_cost, em_scaling])
def test_other_densities_are_refused_with_a_reason(data, module):
    gaussian = Gaussian(Gaussian.Spec(), DIMENSION)
    gaussian.fit(data, Session(torch.Generator()))
    for other in (gaussian, train(student_t_mixture, data)):
        with pytest.raises(CannotBeDone, match="only mixtures whose state is log_weights, means and factors"):
            module.estimate(other, data, module.Settings(split="train"), bench())


@pytest.mark.parametrize("name", ["examples", "components", "dimensions"])
def test_sizes_that_the_run_does_not_have_are_refused(model, data, name):
    with pytest.raises(CannotBeDone, match=f"{name}, not 100,000: set {name} to"):
        estimate(model, data, **{name: 100_000})


def test_too_few_examples_and_too_small_a_ridge_are_refused(model, data):
    with pytest.raises(CannotBeDone, match=r"4 components in 5 dimensions need 24 examples, not 20"):
        estimate(model, data, examples=20)
    start, _ = _em_timing.common_start(model, data, em_cost.Settings(split="train"), torch.device("cpu"))
    flat = torch.zeros(100, DIMENSION, dtype=torch.float64)
    settings = em_cost.Settings(ridge=0.0, iterations=3)
    with pytest.raises(CannotBeDone, match="not positive definite in float64 with ridge 0: set a larger ridge"):
        _em_timing.time_ours(flat, start, "float64", settings)
    with pytest.raises(CannotBeDone, match="scikit-learn in float64 with ridge 0 says"):
        _em_timing.time_peer(flat, start, "float64", settings)


def test_times_on_an_accelerator_are_refused(model, data):
    with pytest.raises(CannotBeDone, match="set device to cpu"):
        _em_timing.common_start(model, data, em_cost.Settings(split="train"), torch.device("cuda"))


def test_exponents_and_their_standard_errors_are_those_of_a_regression():
    sizes = [10, 30, 100, 300, 1000]
    slope, error = em_scaling.fit_exponent(sizes, [3e-4 * size**1.7 for size in sizes])
    assert slope == pytest.approx(1.7, abs=1e-12)
    assert error < 1e-12
    noisy = [3e-4 * size**1.7 * math.exp(e) for size, e in zip(sizes, (0.1, -0.2, 0.05, 0.15, -0.1), strict=True)]
    known = linregress(np.log(sizes), np.log(noisy))
    assert em_scaling.fit_exponent(sizes, noisy) == pytest.approx((known.slope, known.stderr), rel=1e-9)


@pytest.mark.parametrize(("axis", "sizes"), [("examples", [100, 300, 900]), ("dimensions", [2, 3, 5])])
def test_scaling_measures_every_size_of_its_axis(model, data, monkeypatch, axis, sizes):
    """With clocks that follow known powers, the powers come back: 1.5 for ours, 2.5 for the peer."""

    def clock(power):
        def timed(z, start, precision, settings):
            size = {"examples": z.shape[0], "components": len(start.means), "dimensions": z.shape[1]}[axis]
            return _em_timing.Timing((9.0, 1e-3 * size**power))

        return timed

    monkeypatch.setattr(em_scaling, "time_ours", clock(1.5))
    monkeypatch.setattr(em_scaling, "time_peer", clock(2.5))
    found = estimate(model, data, em_scaling, axis=axis, sizes=sizes)
    assert found["exponent"].value == pytest.approx(1.5, abs=1e-9)
    assert found["peer_exponent"].value == pytest.approx(2.5, abs=1e-9)
    assert found["exponent"].estimator_se < 1e-9
    assert found["exponent"].evidence["sizes"] == sizes


def test_scaling_of_real_clocks_is_finite(model, data):
    found = estimate(model, data, em_scaling, axis="components", sizes=[1, 2, 4], iterations=3)
    assert list(found) == list(em_scaling.METRICS)
    for number in found.values():
        assert math.isfinite(number.value)
        assert number.estimator_se >= 0
        assert len(number.evidence["seconds"]) == 3
        assert min(number.evidence["seconds"]) > 0


@pytest.mark.parametrize("sizes", [[10, 20], [10, 10, 20], [0, 1, 2], [30, 20, 10]])
def test_sizes_that_fit_no_exponent_are_refused(sizes):
    with pytest.raises(ValidationError):
        em_scaling.Settings(sizes=sizes)


def test_a_scikit_learn_that_steps_otherwise_gives_no_numbers(model, data, monkeypatch):
    import sklearn.mixture

    start, z = _em_timing.common_start(model, data, em_cost.Settings(split="train"), torch.device("cpu"))

    class Other(sklearn.mixture.GaussianMixture):
        def fit(self, x):
            return SimpleNamespace(means_=x)

    monkeypatch.setattr(sklearn.mixture, "GaussianMixture", Other)
    with pytest.raises(CannotBeDone, match="made 0 E-steps in 5 iterations"):
        _em_timing.time_peer(z, start, "float64", em_cost.Settings())
