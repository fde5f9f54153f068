"""Test error of a classifier that starts as a model's pass up, with a softmax layer on it, fine-tuned on some labels.

    u_0 = x,   u_l = sigmoid(u_(l-1) W_l + b_l),   p(y given x) = softmax(u_L V + c),   loss = -mean log p(y given x)

W and b start at the model's recognition weights, learnt without labels, V and c at zero. `start: random` takes the same
network with random weights: what pre-training is worth is the difference. `labels` are those that weights are fitted
to: the update to stop at is chosen with the labels of the whole validation split, for every start alike. Few labels
are passed over more often, `least_updates` times at least: a pass over 100 of them is two updates, over 50,000 a
thousand.

References: Hinton, Osindero and Teh, "A fast learning algorithm for deep belief nets", Neural Computation 18, 2006;
Erhan et al., "Why does unsupervised pre-training help deep learning?", JMLR 11, 2010; random weights: Glorot and
Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010, equation 16, four
times as wide for sigmoid units as for tanh.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import Features
from dgmbench.progress import Task

REQUIRES = Features
METRICS = {
    "error_rate": Metric("percent", "score", "lower", "Share of examples given a wrong label after fine-tuning.")
}

# Of the order of the labelled examples, draw by draw: the same for all models, which learn from the same ones.
_LABELLED_SEED = 20061801
_EXAMPLES_AT_ONCE = 5000

SMOKE = {"epochs": 2, "batch_size": 20, "least_updates": 4, "validations": 2}


class Settings(EstimatorSettings):
    labels: int | None = Field(
        None, ge=1, description="Labelled training examples, the same ones for all models; null for all."
    )
    label_draws: int = Field(
        1, ge=1, description="Draws of which examples have the labels; where all have them, there is one."
    )
    start: Literal["features", "random"] = Field(
        "features", description="Where the network starts: the model's pass up, or random weights of the same shape."
    )
    tune: Literal["all", "softmax"] = Field(
        "all", description="What is trained: all layers, or the softmax layer only."
    )
    epochs: int = Field(50, ge=1, description="Passes over the labelled examples, where these are enough updates.")
    least_updates: int = Field(
        2000, ge=1, description="Updates at least: where the passes are fewer, they are repeated until they are."
    )
    validations: int = Field(
        50,
        ge=1,
        description="Measurements of the validation error, at equal distances, the last after the last update.",
    )
    batch_size: int = Field(50, ge=1, description="Examples in a minibatch; the last may be smaller.")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's step size; it falls linearly to zero.")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty (decay / 2) |W|^2 on all weights.")


def scorings(settings: Settings, examples: int) -> float:
    fitted = max(settings.epochs * (settings.labels or 10 * examples), settings.least_updates * settings.batch_size)
    return settings.label_draws * (3.0 * fitted + settings.validations * examples)


def estimate(model: Features, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """The error rate after the update with the least validation error (the first of equals), in percent.

    `per_example` is 0 or 100, or the mean of these over the draws of labels. The standard error is that of the mean
    over draws; of a single fit, whose start and minibatches are one draw too, it is not known: None. The evidence holds
    how many labels and updates there were, and of each draw its error, the validation error, and the update that this
    was least after.

    Raises:
        CannotBeDone: the dataset has no labels.
    """
    labelled = {name: split for name, split in data.splits.items() if split.labels is not None}
    if not {"train", "validation", settings.split} <= labelled.keys():
        raise CannotBeDone(
            f"'{data.name}' has no labels to fine-tune on: choose a dataset with some, such as mnist-dynamic or "
            "digits-binary."
        )
    classes = int(max(int(split.labels.max()) for split in labelled.values())) + 1
    labels = min(settings.labels or len(data.train), len(data.train))
    draws = settings.label_draws if labels < len(data.train) else 1
    updates = max(settings.epochs * math.ceil(labels / settings.batch_size), settings.least_updates)
    wrong, found = [], []
    with bench.progress.task("fine-tune", total=draws * updates, unit="update") as task:
        for index in range(draws):
            x, y = _labelled_examples(data.train, labels, index, bench)
            layers = _layers(model.up_pass(), classes, settings, bench.generator)
            validation_error, update, fitted = _fitted(layers, x, y, updates, data.validation, settings, bench, task)
            wrong.append(_wrong(data.splits[settings.split], settings.examples, fitted, bench))
            found.append(
                {"error_rate": float(wrong[-1].mean()), "validation_error_rate": validation_error, "update": update}
            )
    per_example = np.mean(wrong, axis=0)
    se = float(np.std([draw["error_rate"] for draw in found], ddof=1)) / math.sqrt(draws) if draws > 1 else None
    evidence = {"labels": labels, "classes": classes, "updates": updates, "validation_labels": len(data.validation)}
    number = Estimate("error_rate", float(per_example.mean()), per_example, se, evidence=evidence | {"draws": found})
    return Estimates([number])


def _fitted(
    layers: list[tuple[Tensor, Tensor]],
    x: Tensor,
    y: Tensor,
    updates: int,
    validation: Split,
    settings: Settings,
    bench: Workbench,
    task: Task,
) -> tuple[float, int, list[tuple[Tensor, ...]]]:
    """The least validation error in percent, the update that it was measured after, and the layers of then."""
    optimiser = _optimiser(layers if settings.tune == "all" else layers[-1:], settings)
    measured = {math.ceil(updates * part / settings.validations) for part in range(1, settings.validations + 1)}
    best: tuple[float, int, list[tuple[Tensor, ...]]] = (math.inf, 0, [])
    for update, rows in enumerate(_minibatches(len(x), settings.batch_size, updates, bench.generator), 1):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * (1 - (update - 1) / updates)
        loss = F.cross_entropy(_logits(x[rows], layers), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if update in measured:
            error = float(_wrong(validation, None, layers, bench).mean())
            if error < best[0]:
                best = error, update, [tuple(tensor.detach().clone() for tensor in layer) for layer in layers]
        task.advance()
    return best


def _minibatches(n: int, size: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of so many minibatches: pass after pass over n examples, each in an order of its own."""
    passes = (torch.randperm(n, generator=generator, device=generator.device).split(size) for _ in itertools.count())
    return itertools.islice(itertools.chain.from_iterable(passes), count)


def _labelled_examples(split: Split, count: int, draw: int, bench: Workbench) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(_LABELLED_SEED + draw))
    rows = order[:count].sort().values
    labels = torch.from_numpy(np.asarray(split.labels)[rows.numpy()].astype(np.int64))
    return split.take(rows, bench.generator).to(bench.device), labels.to(bench.device)


def _layers(
    up_pass: list[tuple[Tensor, Tensor]], classes: int, settings: Settings, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Weights (m_in, m_out) and biases of the network, the softmax layer last; copies, so that the model stays."""
    layers = [(weights.detach().clone(), bias.detach().clone()) for weights, bias in up_pass]
    if settings.start == "random":
        for weights, bias in layers:
            limit = 4 * math.sqrt(6 / sum(weights.shape))
            weights.uniform_(-limit, limit, generator=generator)
            bias.zero_()
    width = layers[-1][0].shape[1]
    return [*layers, (layers[-1][0].new_zeros(width, classes), layers[-1][0].new_zeros(classes))]


def _optimiser(tuned: list[tuple[Tensor, Tensor]], settings: Settings) -> torch.optim.Adam:
    """Adam on some layers, whose tensors it marks as trained; the penalty is on weights, not on biases."""
    weights, biases = ([tensor.requires_grad_(True) for tensor in kind] for kind in zip(*tuned, strict=True))
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": biases}]
    return torch.optim.Adam(groups, lr=settings.learning_rate)


def _logits(x: Tensor, layers: list[tuple[Tensor, ...]]) -> Tensor:
    for weights, bias in layers[:-1]:
        x = torch.sigmoid(torch.addmm(bias, x, weights))
    return torch.addmm(layers[-1][1], x, layers[-1][0])


def _wrong(split: Split, examples: int | None, layers: list[tuple[Tensor, ...]], bench: Workbench) -> np.ndarray:
    """100.0 where the most probable label is not the example's, else 0.0: (n,), float64."""
    x = split.take(slice(0, examples), bench.generator).to(bench.device)
    with torch.no_grad():
        guessed = torch.cat([_logits(part, layers).argmax(1) for part in x.split(_EXAMPLES_AT_ONCE)])
    return 100.0 * (guessed.cpu().numpy() != np.asarray(split.labels)[: len(x)])
