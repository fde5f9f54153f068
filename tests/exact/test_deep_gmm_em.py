"""Training of the Deep GMM by EM: objectives, searches, weights of paths, minibatches and resumption."""

import math

import deep_gmms as made
import numpy as np
import pytest
import torch

from dgmbench.models.mixtures import _deep_em, _network, deep_gmm
from dgmbench.models.mixtures._search import PathSearch
from dgmbench.training.session import Session

D, clusters, fit, random_model, rng = made.D, made.clusters, made.fit, made.random_model, made.rng


# Training


@pytest.mark.parametrize("weights", ["joint", "factorised"])
@pytest.mark.parametrize("assignment", ["soft", "hard", "heuristic"])
@pytest.mark.parametrize("start", ["layerwise", "scales", "random"])
def test_the_objective_of_em_never_falls(assignment, weights, start):
    session = Session(rng(3))
    spec = {"assignment": assignment, "weights": weights, "start": start, "start_examples": 600}
    fit(clusters(), session, components=(3, 2, 2), iterations=15, tolerance=0.0, precision="float64", **spec)
    name = "log_likelihood" if assignment == "soft" else "best_path_log_likelihood"
    curve = np.array([row[name] for row in session.history])
    assert len(curve) == 15
    assert all(row["reseeded_nodes"] == 0 for row in session.history)
    assert np.diff(curve).min() > -1e-9
    assert curve[-1] > curve[0] + 0.05


def test_the_recorded_likelihood_is_that_of_the_parameters_in_data_space():
    x = clusters()
    spec = {"components": (3, 2), "tolerance": 0.0, "precision": "float64"}
    session = Session(rng(3))
    fit(x, session, iterations=6, **spec)
    reached = fit(x, Session(rng(3)), iterations=5, **spec).log_prob(torch.from_numpy(x)).mean()
    assert session.history[-1]["log_likelihood"] == pytest.approx(float(reached), abs=1e-9)
    assert session.history[-1]["validation_log_likelihood"] == pytest.approx(float(reached), abs=1e-9)


def test_the_best_path_is_a_lower_bound_and_is_what_hard_em_records():
    x = clusters()
    spec = {"components": (3, 2), "tolerance": 0.0, "precision": "float64", "assignment": "hard"}
    session = Session(rng(3))
    fit(x, session, iterations=6, **spec)
    model = fit(x, Session(rng(3)), iterations=5, **spec)
    best = float(model.best_paths(torch.from_numpy(x))[0].mean())
    assert session.history[-1]["best_path_log_likelihood"] == pytest.approx(best, abs=1e-9)
    assert best < float(model.log_prob(torch.from_numpy(x)).mean())


@pytest.mark.parametrize(("assignment", "gap"), [("soft", 0.02), ("hard", 0.05)])
def test_it_recovers_a_known_deep_gmm_from_its_own_samples(assignment, gap):
    truth, *_ = random_model((3, 2), d=2, seed=4, spread=3.0)
    x, unseen = truth.sample(20_000, rng(1)), truth.sample(20_000, rng(2))
    found = []
    for seed in range(4):  # EM has local optima: the best training likelihood of four starts is taken
        model = fit(
            x.numpy(),
            Session(rng(seed)),
            components=(3, 2),
            iterations=60,
            assignment=assignment,
            solver_iterations=50,
            start="random",
            precision="float64",
            tolerance=1e-6,
        )
        found.append((float(model.log_prob(x).mean()), model))
    best = max(found, key=lambda pair: pair[0])[1]
    divergence = float((truth.log_prob(unseen) - best.log_prob(unseen)).mean())
    assert -0.01 < divergence < gap


def test_the_heuristic_counts_its_path_evaluations_and_is_never_better_than_the_full_search():
    x = clusters()
    session = Session(rng())
    model = fit(x, session, components=(4, 3, 2), assignment="heuristic", iterations=5, pseudo_count=1.0)
    assert all(row["path_evaluations"] == 3 * (4 + 3 + 2) for row in session.history)
    assert all(0 <= row["switch_rate"] <= 1 for row in session.history)
    probe = torch.from_numpy(x).double()
    full, best = model.best_paths(probe)
    scores = model._scores(probe)
    joint = torch.cat(list(scores), 1)
    previous = None
    for passes, repeats in ((1, 1), (3, 1), (3, 20)):
        found, paths, evaluations = model.search_paths(probe, passes, repeats, rng(5))
        assert evaluations == passes * repeats * 9
        assert (found <= full + 1e-6).all()
        torch.testing.assert_close(joint[paths, torch.arange(len(probe))], found, rtol=1e-7, atol=1e-7)
        assert previous is None or (found >= previous - 1e-9).all()
        previous = found
    assert float((paths == best).double().mean()) > 0.95


def test_a_pass_never_lowers_the_score_and_a_single_layer_needs_one():
    model, *_ = random_model((5, 4))
    theta = _network.natural_parameters(model._inverse, model.state()["log_weights"])
    x = 2 * torch.randn(300, D, generator=rng(), dtype=torch.float64)
    search, start = PathSearch((5, 4), theta, D, 64), torch.zeros(300, dtype=torch.int64)
    reached = [search.ascend(x, start, passes)[0] for passes in (1, 2, 3)]
    # The same path scored in another group of examples may differ in the last bit.
    assert (reached[1] >= reached[0] - 1e-12).all()
    assert (reached[2] >= reached[1] - 1e-12).all()
    flat, *_ = random_model((7,))
    alone = PathSearch((7,), _network.natural_parameters(flat._inverse, flat.state()["log_weights"]), D, 64)
    assert torch.equal(alone.ascend(x, start, 1)[1], alone.every(x)[1])


def test_factorised_weights_are_products_of_the_nodes_shares():
    spec = deep_gmm.Spec(components=(2, 3), weights="factorised")
    counts = torch.tensor([6.0, 1, 3, 2, 5, 3], dtype=torch.float64)
    expected = np.outer([0.5, 0.5], [0.4, 0.3, 0.3]).ravel()
    np.testing.assert_allclose(_deep_em.path_weights(spec, counts).exp(), expected)
    joint = _deep_em.path_weights(deep_gmm.Spec(components=(2, 3)), counts)
    np.testing.assert_allclose(joint.exp(), counts.numpy() / 20)


@pytest.mark.parametrize("minibatch", [None, 100])
def test_a_node_without_examples_is_reseeded_reported_and_used_again(minibatch):
    x = np.concatenate([clusters(300), np.full((1, D), 500.0, dtype=np.float32)])
    session = Session(rng(2))
    spec = {"components": (12, 2), "minibatch": minibatch, "ridge": 0.01, "start": "random"}
    model = fit(x, session, iterations=10, tolerance=0.0, **spec)
    assert sum(row["reseeded_nodes"] for row in session.history) > 0
    assert float(model.state()["log_weights"].exp().sum()) == pytest.approx(1)
    assert torch.isfinite(model.log_prob(torch.from_numpy(x))).all()


def test_float32_agrees_with_float64():
    x = clusters(4000)
    spec = {"components": (4, 2), "iterations": 15, "tolerance": 0.0}
    session = Session(rng())
    single, double = fit(x, session, **spec), fit(x, precision="float64", **spec)
    probe = torch.from_numpy(x)
    assert float(single.log_prob(probe).mean()) == pytest.approx(float(double.log_prob(probe).mean()), abs=1e-4)
    assert max(row["rounding"] for row in session.history) < 1e-4


def test_what_parameters_imply_are_the_moments_of_their_samples():
    model, *_ = random_model((2, 2))
    x, _, _ = model.sample_path(200_000, rng())
    extended = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)
    told = _deep_em.implied(model._inverse, model.state()["log_weights"], torch.zeros(D, D).double()).sum(0)
    products = extended[:, :, None] * extended[:, None, :]
    se = products.std(0) / math.sqrt(len(x))
    assert ((told - products.mean(0)).abs() <= 5 * se + 1e-12).all()


@pytest.mark.parametrize("assignment", ["soft", "hard"])
def test_one_batch_of_all_examples_without_memory_is_em(assignment):
    x = clusters()
    spec = {"components": (3, 2), "iterations": 2, "tolerance": 0.0, "precision": "float64", "assignment": assignment}
    spec |= {"solver_iterations": 500, "start": "layerwise"}  # a start whose nodes all have examples: nothing is drawn
    plain, batched = fit(x, **spec), fit(x, minibatch=len(x), decay=0.0, **spec)
    # The order of the examples is drawn anew; EM draws nothing after its start.
    probe = torch.from_numpy(x)
    torch.testing.assert_close(batched.log_prob(probe), plain.log_prob(probe), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("assignment", ["soft", "hard", "heuristic"])
def test_passes_of_minibatches_reach_what_more_passes_of_em_reach(assignment):
    x = clusters(6000)
    probe = torch.from_numpy(x)
    options = {"components": (4, 3), "assignment": assignment, "tolerance": 0.0, "pseudo_count": 1.0}
    by_em = float(fit(x, iterations=60, **options).log_prob(probe).mean())
    by_batches = float(fit(x, iterations=10, minibatch=600, **options).log_prob(probe).mean())
    assert by_batches > by_em - 0.05


@pytest.mark.parametrize("minibatch", [None, 300])
@pytest.mark.parametrize("assignment", ["soft", "heuristic"])
def test_interrupted_and_continued_the_bits_are_the_same(tmp_path, assignment, minibatch):
    class Killed(Exception):
        pass

    x = clusters()
    spec = {"components": (3, 2), "assignment": assignment, "minibatch": minibatch, "iterations": 7}
    whole = Session(rng())
    expected = fit(x, whole, tolerance=0.0, **spec).state()
    for at in (1, 3, 5):
        options = {"checkpoint_path": tmp_path / f"{at}", "checkpoint_seconds": 0.0}
        first = Session(rng(), **options)
        original, seen = first.record, []

        def record(original=original, seen=seen, at=at, **values):
            seen.append(values)
            if len(seen) > at:
                raise Killed
            original(**values)

        first.record = record
        with pytest.raises(Killed):
            fit(x, first, tolerance=0.0, **spec)
        again = Session(rng(), **options)
        state = fit(x, again, tolerance=0.0, **spec).state()
        assert again.history == whole.history
        assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_it_stops_where_the_objective_moves_less_than_the_tolerance():
    session = Session(rng())
    fit(clusters(), session, components=(3, 2), iterations=200, tolerance=0.01)
    curve = [row["log_likelihood"] for row in session.history]
    assert 2 <= len(curve) < 200
    assert abs(curve[-1] - curve[-2]) < 0.01 <= abs(curve[-2] - curve[-3])
