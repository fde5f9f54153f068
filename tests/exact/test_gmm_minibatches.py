"""Minibatches of the Gaussian mixture of every covariance structure, and what the fit promises of any data."""

import gmm_structures as made
import numpy as np
import pytest
import torch

from dgmbench.errors import CannotBeDone
from dgmbench.models.mixtures import _covariances, _em, _fitting
from dgmbench.training.session import Session

D, K, STRUCTURES, clusters, fit = made.D, made.K, made.STRUCTURES, made.clusters, made.fit
parameters, rng = made.parameters, made.rng


# Minibatches


def test_one_batch_of_all_examples_without_memory_is_em():
    x = clusters()
    spec = {"components": K, "iterations": 5, "tolerance": 0.0, "precision": "float64", "start": "random"}
    plain, batched = parameters(fit(x, **spec)), parameters(fit(x, minibatch=len(x), decay=0.0, **spec))
    # The order of the examples is drawn anew, and with it every later draw; EM draws nothing after its start.
    for one, other in zip(plain, batched, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-8, atol=1e-9)


def test_a_smaller_last_minibatch_takes_its_share_of_a_step():
    assert _fitting.step_size(7, 0.5, 1.0) == pytest.approx(9**-0.5)
    # Two halves of a batch, at the same t, move as far as the whole one.
    half = _fitting.step_size(7, 0.5, 0.5)
    assert 1 - (1 - half) ** 2 == pytest.approx(_fitting.step_size(7, 0.5, 1.0))
    assert _fitting.step_size(0, 0.0, 0.3) == 1.0


def test_a_component_without_examples_takes_a_trace_of_none():
    x = torch.randn(300, D, generator=rng(), dtype=torch.float64)
    means = torch.tensor([[0.0] * D, [1e3] * D], dtype=torch.float64)
    theta = _em.natural_parameters(
        torch.tensor([0.5, 0.5]).double().log(), means, torch.eye(D).double().repeat(2, 1, 1)
    )
    _, sums = _em.Workspace(2, D, 128, torch.float64, x.device).accumulate(x, theta)
    assert torch.equal(sums[1], torch.zeros_like(sums[1]))
    assert sums[0, 0] == pytest.approx(300.0)
    nothing, none = _em.Workspace(2, D, 128, torch.float64, x.device).accumulate(x[:0], theta)
    assert nothing == 0.0
    assert not bool(none.any())


@pytest.mark.parametrize("covariance", STRUCTURES)
def test_what_parameters_imply_are_their_own_moments(covariance):
    model_spec = {"components": K, "covariance": covariance, "rank": 2, "iterations": 3, "precision": "float64"}
    log_weights, means, covariances = parameters(fit(clusters(), **model_spec))
    structure = _covariances.STRUCTURES[covariance](2)
    em = {"log_weights": torch.from_numpy(log_weights), "means": torch.from_numpy(means)}
    em["factors"] = torch.linalg.cholesky(torch.from_numpy(covariances))
    ridge = 0.01 * torch.eye(D, dtype=torch.float64)
    counts, again, scatter = structure.moments(structure.implied(em, ridge), D)
    np.testing.assert_allclose(counts, np.exp(log_weights), rtol=1e-12)
    np.testing.assert_allclose(again, means, rtol=1e-12)
    np.testing.assert_allclose(scatter + ridge, covariances, rtol=1e-9, atol=1e-10)  # the M-step adds it


@pytest.mark.parametrize("covariance", STRUCTURES)
def test_passes_of_minibatches_reach_what_more_passes_of_em_reach(covariance):
    x = clusters(9000, spread=3.0)
    probe = torch.from_numpy(x)
    options = {"components": K, "covariance": covariance, "rank": 2, "tolerance": 0.0}
    by_em = float(fit(x, iterations=100, **options).log_prob(probe).mean())
    by_batches = float(fit(x, iterations=10, minibatch=300, **options).log_prob(probe).mean())
    assert by_batches > by_em - 0.02


@pytest.mark.parametrize("options", [{"minibatch": 200}, {"covariance": "low_rank", "rank": 2}, {"assignment": "hard"}])
def test_interrupted_and_continued_the_bits_are_the_same(tmp_path, options):
    class Killed(Exception):
        pass

    x, spec = clusters(), {"components": K, "iterations": 6, "tolerance": 0.0} | options
    whole = Session(rng())
    expected = fit(x, whole, **spec).state()
    kept = {"checkpoint_path": tmp_path / "kept", "checkpoint_seconds": 0.0}
    first = Session(rng(), **kept)
    original = first.record

    def record(**values):
        if first.step == 3:
            raise Killed
        original(**values)

    first.record = record
    with pytest.raises(Killed):
        fit(x, first, **spec)
    again = Session(rng(), **kept)
    state = fit(x, again, **spec).state()
    assert again.history == whole.history
    assert all(torch.equal(state[name], value) for name, value in expected.items())


# Empty components, units and refusals


@pytest.mark.parametrize("minibatch", [None, 100])
@pytest.mark.parametrize("covariance", STRUCTURES)
def test_empty_components_are_reseeded_and_reported(covariance, minibatch):
    x = np.concatenate([clusters(300), np.full((1, D), 500.0, dtype=np.float32)])
    session = Session(rng(2))
    spec = {"components": 12, "covariance": covariance, "rank": 2, "minibatch": minibatch, "ridge": 0.01}
    model = fit(x, session, iterations=10, tolerance=0.0, **spec)
    if covariance not in ("tied", "diagonal", "spherical"):  # those are content with fewer examples than the outlier's
        assert sum(row["empty_components"] for row in session.history) > 0
    assert float(np.exp(parameters(model)[0]).sum()) == pytest.approx(1)
    assert np.isfinite(model.log_prob(torch.from_numpy(x)).numpy()).all()


@pytest.mark.parametrize("covariance", STRUCTURES)
def test_the_ridge_is_in_the_data_s_units_squared(covariance):
    x = clusters()
    spec = {"components": K, "covariance": covariance, "rank": 2, "iterations": 4, "precision": "float64"}
    plain = parameters(fit(x, ridge=0.2, **spec))
    scaled = parameters(fit(10 * x, ridge=0.2 * 100, **spec))
    np.testing.assert_allclose(scaled[1], 10 * plain[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scaled[2], 100 * plain[2], rtol=1e-4, atol=1e-3)


def test_what_cannot_be_done_says_what_to_set():
    x = clusters()
    with pytest.raises(CannotBeDone, match="rank below 4, not 4"):
        fit(x, covariance="low_rank", rank=4)
    with pytest.raises(CannotBeDone, match="fewer components"):
        fit(x[:5], components=3, covariance="diagonal")
    constant = x.copy()
    constant[:, 1] = 1.0
    with pytest.raises(CannotBeDone, match="set ridge"):
        fit(constant, components=2, covariance="diagonal")
    assert np.isfinite(parameters(fit(constant, components=2, covariance="diagonal", ridge=1e-3))[2]).all()
