"""Fine-tuning: the network starts at the model's features, learns from the labels that it may see, and no others."""

import dataclasses

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import fine_tuning
from dgmbench.estimators.base import Workbench
from dgmbench.models.base import Features


class Projections(Features):
    """Features that tell the classes apart, or that know nothing."""

    def __init__(self, d: int, useful: bool = True):
        g = torch.Generator().manual_seed(0)
        self.layers = [(2 * torch.eye(d) if useful else torch.zeros(d, d), torch.zeros(d))]
        self.layers.append((torch.randn(d, 30, generator=g) if useful else torch.zeros(d, 30), torch.zeros(30)))

    def up_pass(self):
        return self.layers


def clusters(labels: bool = True, n: int = 600, d: int = 12) -> Dataset:
    """Three prototypes, every pixel turned over with probability 0.1."""
    g = np.random.default_rng(3)
    prototypes, y = g.random((3, d)) < 0.5, g.integers(0, 3, n)
    x = (prototypes[y] ^ (g.random((n, d)) < 0.1)).astype(np.uint8)
    cuts = {"train": slice(0, 300), "validation": slice(300, 400), "test": slice(400, n)}
    splits = {name: Split(x[cut], y[cut] if labels else None) for name, cut in cuts.items()}
    return Dataset("clusters", "clusters", "binary", (d,), splits, {})


def error(model: Features, data: Dataset, **settings):
    bench = Workbench(torch.Generator().manual_seed(1))
    chosen = fine_tuning.Settings(**{"epochs": 20, "least_updates": 1, "learning_rate": 0.01, **settings})
    (number,) = fine_tuning.estimate(model, data, chosen, bench).numbers
    return number


def test_logits_start_as_the_features_and_a_softmax_that_knows_nothing():
    model, x = Projections(12), clusters().test.all()
    layers = fine_tuning._layers(model.up_pass(), 3, fine_tuning.Settings(), torch.Generator())
    assert not fine_tuning._logits(x, layers).any()
    layers[-1] = (torch.ones_like(layers[-1][0]), layers[-1][1])
    torch.testing.assert_close(fine_tuning._logits(x, layers)[:, 0], model.features(x).sum(1))


def test_useful_features_are_learnt_from_and_useless_ones_guess():
    data = clusters()
    learnt, guessed = error(Projections(12), data), error(Projections(12, useful=False), data, tune="softmax")
    # The prototypes differ in 4 to 7 of 12 pixels: the best classifier errs on a few in a hundred.
    assert learnt.value < 10
    assert guessed.value > 50
    assert set(np.unique(learnt.per_example)) <= {0.0, 100.0}
    assert learnt.evidence["labels"] == 300
    assert learnt.evidence["validation_labels"] == 100


def test_fewer_labels_are_the_first_of_more_and_cost_errors():
    data = clusters()
    few, many = error(Projections(12), data, labels=3, epochs=40), error(Projections(12), data)
    assert few.evidence["labels"] == 3
    assert few.value > many.value
    bench = Workbench(torch.Generator())
    rows = [fine_tuning._labelled_examples(data.train, count, 0, bench)[0].tolist() for count in (10, 40)]
    assert all(row in rows[1] for row in rows[0])


def test_draws_of_labels_are_averaged_and_their_spread_is_the_error():
    data = clusters()
    number = error(Projections(12), data, labels=6, label_draws=4)
    rates = [draw["error_rate"] for draw in number.evidence["draws"]]
    assert len(set(rates)) > 1
    assert number.value == pytest.approx(np.mean(rates))
    assert number.estimator_se == pytest.approx(np.std(rates, ddof=1) / 2)
    assert number.per_example.mean() == pytest.approx(number.value)
    bench = Workbench(torch.Generator())
    first, second = (fine_tuning._labelled_examples(data.train, 6, draw, bench)[0] for draw in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("labels", [None, 300])
def test_where_all_have_labels_there_is_one_draw(labels):
    number = error(Projections(12), clusters(), labels=labels, label_draws=4, epochs=2)
    assert len(number.evidence["draws"]) == 1
    assert number.estimator_se is None


def test_one_draw_of_labels_does_not_know_its_error():
    assert error(Projections(12), clusters(), labels=6, epochs=2).estimator_se is None


def test_few_labels_are_passed_over_until_the_updates_are_enough():
    data = clusters()
    settings = {"labels": 30, "batch_size": 20, "epochs": 3}
    assert error(Projections(12), data, **settings).evidence["updates"] == 6
    assert error(Projections(12), data, **settings, least_updates=101).evidence["updates"] == 101
    # 30 labels by 20: every pass is two minibatches, with each label once.
    rows = list(fine_tuning._minibatches(30, 20, 5, torch.Generator().manual_seed(0)))
    assert [len(part) for part in rows] == [20, 10, 20, 10, 20]
    assert torch.cat(rows[:2]).unique().tolist() == torch.cat(rows[2:4]).unique().tolist() == list(range(30))
    assert not torch.equal(torch.cat(rows[:2]), torch.cat(rows[2:4]))


def test_the_last_update_is_always_measured():
    """With one validation, what is kept is the network after the last update."""
    for updates in (7, 50):
        number = error(Projections(12), clusters(), epochs=1, least_updates=updates, validations=1)
        assert number.evidence["draws"][0]["update"] == number.evidence["updates"] == updates


def test_every_draw_of_labels_starts_at_the_features(monkeypatch):
    started = []

    def fitted(layers, *_):
        started.append([tensor.detach().clone() for layer in layers for tensor in layer])
        for weights, _ in layers:
            weights.add_(1.0)
        return 0.0, 1, layers

    monkeypatch.setattr(fine_tuning, "_fitted", fitted)
    error(Projections(12), clusters(), labels=6, label_draws=3)
    assert len(started) == 3
    assert all(torch.equal(*pair) for again in started[1:] for pair in zip(started[0], again, strict=True))


def test_the_step_falls_linearly_and_the_first_of_equal_errors_is_kept(monkeypatch):
    rates, measured = [], []
    step = torch.optim.Adam.step

    def recorded(optimiser):
        rates.append(optimiser.param_groups[0]["lr"])
        step(optimiser)

    def wrong(split, *_):
        measured.append(len(rates))
        return np.full(len(split), 50.0)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    monkeypatch.setattr(fine_tuning, "_wrong", wrong)
    number = error(Projections(12), clusters(), labels=300, epochs=1, batch_size=50, least_updates=7, validations=3)
    assert rates == pytest.approx([0.01 * (1 - i / 7) for i in range(7)])
    assert measured == [3, 5, 7, 7]  # three times on validation, once on test
    assert number.evidence["draws"][0]["update"] == 3


def test_training_leaves_the_model_as_it_was():
    model = Projections(12)
    before = [(weights.clone(), bias.clone()) for weights, bias in model.up_pass()]
    error(model, clusters(), epochs=2)
    for (weights, bias), (old_weights, old_bias) in zip(model.up_pass(), before, strict=True):
        assert torch.equal(weights, old_weights)
        assert torch.equal(bias, old_bias)
        assert not weights.requires_grad


def test_a_random_start_has_the_same_shape_and_other_weights():
    model = Projections(12)
    layers = fine_tuning._layers(model.up_pass(), 3, fine_tuning.Settings(start="random"), torch.Generator())
    for (weights, bias), (own, _) in zip(layers, model.up_pass()):
        limit = 4 * (6 / sum(own.shape)) ** 0.5
        assert weights.shape == own.shape
        assert 0.9 * limit < weights.abs().max() <= limit
        assert not bias.any()
    assert error(model, clusters(), start="random").value < 20


def test_the_penalty_is_on_weights_and_not_on_biases():
    layers = [(torch.full((3, 2), 0.5), torch.full((2,), 0.5))]
    optimiser = fine_tuning._optimiser(layers, fine_tuning.Settings(weight_decay=0.1, learning_rate=0.01))
    for tensor in layers[0]:
        tensor.grad = torch.zeros_like(tensor)
    optimiser.step()
    # Adam's first step has the length of the learning rate, whatever the gradient's is.
    torch.testing.assert_close(layers[0][0].detach(), torch.full((3, 2), 0.49))
    assert torch.equal(layers[0][1].detach(), torch.full((2,), 0.5))


def test_the_update_is_chosen_on_validation():
    """Where validation labels are all wrong, what is kept is the network that has learnt least."""
    right = clusters()
    validation = Split(right.validation.x, (right.validation.labels + 1) % 3)
    wrong = dataclasses.replace(right, splits={**right.splits, "validation": validation})
    good, bad = (error(Projections(12), data, epochs=30, learning_rate=0.001) for data in (right, wrong))
    assert bad.evidence["draws"][0]["update"] < good.evidence["draws"][0]["update"]
    assert bad.value > good.value + 10
    assert bad.evidence["draws"][0]["validation_error_rate"] > 50


def test_data_without_labels_are_refused():
    with pytest.raises(CannotBeDone, match="choose a dataset with some"):
        error(Projections(12), clusters(labels=False))
