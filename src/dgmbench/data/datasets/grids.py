"""Tiny binary images whose distribution is known exactly, generated: no files.

    bars      rows or columns, each with probability 1/2; every row (column) is 1 or 0 with probability 1/2
    shifter   a first row of fair bits; the second row is the first, shifted cyclically by -1, 0 or 1 pixels
    ising     p(x) proportional to exp(coupling * sum over neighbours of s_i s_j), s = 2 x - 1, free edges

with at most 16 pixels, so that sums over all images are short. `probabilities` gives every image and its
probability; a model's mean log-likelihood cannot exceed minus the entropy beyond the noise of the sample. The label is
0 for rows and 1 for columns (bars), the shift plus one (shifter), and the number of ones (ising).

References: bars and stripes: G. E. Hinton and T. J. Sejnowski, "Learning and Relearning in Boltzmann Machines" (1986),
which has the shifter too; D. J. C. MacKay, "Information Theory, Inference, and Learning Algorithms" (2003), chapter 43.
"""

import math
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import PCG64
from pydantic import Field, model_validator

from dgmbench.data.draws import below, stream
from dgmbench.data.loading import SPLITS, Description, LoaderOptions, Writer

_MOST_PIXELS = 16
_TOTAL = 1 << 32  # the weights of the Ising levels are integers that sum to this


class Options(LoaderOptions):
    kind: Literal["bars", "shifter", "ising"] = Field("bars", description="Which distribution.")
    height: int = Field(4, ge=1, le=_MOST_PIXELS, description="Rows of an image; 2 for the shifter.")
    width: int = Field(4, ge=1, le=_MOST_PIXELS, description="Columns of an image; height * width is at most 16.")
    coupling: float = Field(0.4, ge=-2, le=2, description="Coupling of neighbours, of the Ising grid alone.")
    train: int = Field(10_000, ge=1, le=10_000_000, description="Images of the training split.")
    validation: int = Field(2_000, ge=1, le=10_000_000, description="Images of the validation split.")
    test: int = Field(10_000, ge=1, le=10_000_000, description="Images of the test split.")
    seed: int = Field(0, ge=0, description="Seed of the images.")

    @model_validator(mode="after")
    def _small(self) -> "Options":
        if self.height * self.width > _MOST_PIXELS:
            raise ValueError(f"height * width is {self.height * self.width}, and at most {_MOST_PIXELS} are counted")
        if self.kind == "shifter" and (self.height != 2 or self.width < 3):
            raise ValueError("the shifter has height 2 and a width of 3 ... 8")
        return self


def describe(options: Options) -> Description:
    return Description("binary", (options.height, options.width))


def prepare(files: dict[str, Path], options: Options, writer: Writer) -> None:
    states, p = probabilities(options)
    log_p = dict(zip(_codes(states).tolist(), np.log(p).tolist()))
    scores = {}
    for number, split in enumerate(SPLITS):
        x, labels = _draw(options, getattr(options, split), stream(options.seed, number, 1))
        codes, counts = np.unique(_codes(x), return_counts=True)
        terms = [log_p[code] * count for code, count in zip(codes.tolist(), counts.tolist())]
        scores[split] = round(math.fsum(terms) / len(x), 9)
        writer.write(split, x, labels=labels)
    writer.note(
        order="independent draws",
        binarization="the images are binary by nature",
        duplicates=f"there are only {len(p):,} images of positive probability, so that splits share most of theirs",
        labels={"bars": "0 rows, 1 columns", "shifter": "shift + 1", "ising": "number of ones"}[options.kind],
        images_of_positive_probability=len(p),
        # Rounded, so that the certificate does not depend on the last bits of a logarithm.
        entropy_nats=round(entropy(p), 9),
        truth_log_likelihood_nats=scores,
    )


def probabilities(options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Every image of positive probability, (s, d) uint8, and its probability (s,) float64; they sum to 1.

    The draws follow them to a relative 2^-16: `draws.below` has a bias of at most its bound in 2^32.
    """
    height, width = options.height, options.width
    if options.kind == "ising":
        states, energies = _ising_states(height, width)
        levels, which, counts = np.unique(energies, return_inverse=True, return_counts=True)
        p = (_ising_weights(levels, counts, options.coupling) / counts)[which] / _TOTAL
        return states[p > 0], p[p > 0]
    if options.kind == "shifter":
        first = _bits(np.arange(2**width), width)
        images = np.concatenate([_shifted(first, np.full(len(first), shift)) for shift in range(3)])
        weight = np.full(len(images), 1 / len(images))
    else:
        rows, columns = _bits(np.arange(2**height), height), _bits(np.arange(2**width), width)
        images = np.concatenate([np.repeat(rows, width, axis=1), np.tile(columns, (1, height))])
        weight = np.concatenate([np.full(2**height, 0.5 / 2**height), np.full(2**width, 0.5 / 2**width)])
    _, index, which = np.unique(_codes(images), return_index=True, return_inverse=True)
    return images[index], np.bincount(which, weights=weight)


def entropy(p: np.ndarray) -> float:
    """-sum p log p in nats: minus the mean log-likelihood of the truth."""
    return -math.fsum((p * np.log(p)).tolist())


def _draw(options: Options, n: int, bits: PCG64) -> tuple[np.ndarray, np.ndarray]:
    """n images (n, d) uint8 and their labels (n,)."""
    height, width = options.height, options.width
    if options.kind == "ising":
        states, energies = _ising_states(height, width)
        levels, counts = np.unique(energies, return_counts=True)
        weights = _ising_weights(levels, counts, options.coupling)
        level = np.searchsorted(np.cumsum(weights), below(bits, _TOTAL, n), side="right")
        # States in the order of their energy: those of a level are neighbours.
        order, first = np.argsort(energies, kind="stable"), np.cumsum(counts) - counts
        x = states[order[first[level] + below(bits, counts[level], n)]]
        return x, x.sum(axis=1, dtype=np.int64)
    if options.kind == "shifter":
        first, label = _bits(below(bits, 2**width, n), width), below(bits, 3, n)
        return _shifted(first, label), label
    label = below(bits, 2, n)
    rows, columns = _bits(below(bits, 2**height, n), height), _bits(below(bits, 2**width, n), width)
    return np.where((label == 0)[:, None], np.repeat(rows, width, axis=1), np.tile(columns, (1, height))), label


def _shifted(first: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Rows (n, w) and shifts plus one (n,) -> images (n, 2 w): column j of the second row is column j - shift."""
    width = first.shape[1]
    source = (np.arange(width) - (label - 1)[:, None]) % width
    return np.concatenate([first, np.take_along_axis(first, source, axis=1)], axis=1)


def _ising_states(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """All 2^d images (2^d, d) and sum over neighbours of s_i s_j for each (2^d,)."""
    states = _bits(np.arange(2 ** (height * width)), height * width)
    s = 2 * states.reshape(-1, height, width).astype(np.int64) - 1
    vertical, horizontal = s[:, 1:] * s[:, :-1], s[:, :, 1:] * s[:, :, :-1]
    return states, vertical.sum(axis=(1, 2)) + horizontal.sum(axis=(1, 2))


def _ising_weights(levels: np.ndarray, counts: np.ndarray, coupling: float) -> np.ndarray:
    """Probability of each energy level in units of 2^-32, integers that sum to 2^32: (l,), int64.

    These integers are the distribution: within 2^-32 of the Boltzmann one, and within 2^-27 for the likeliest of
    the at most 49 levels, which takes what rounding leaves. A level below half a unit is never drawn. The last bits
    of `exp` can change nothing but how a level rounds.
    """
    log_weight = coupling * (levels - levels.max())
    boltzmann = counts * np.exp(log_weight - log_weight.max())
    weights = np.rint(boltzmann * (_TOTAL / math.fsum(boltzmann.tolist()))).astype(np.int64)
    weights[np.argmax(weights)] += _TOTAL - weights.sum()
    return weights


def _bits(numbers: np.ndarray, width: int) -> np.ndarray:
    """Integers (n,) -> their lowest `width` bits, lowest first: (n, width), uint8."""
    return ((numbers[:, None] >> np.arange(width)) & 1).astype(np.uint8)


def _codes(x: np.ndarray) -> np.ndarray:
    """Binary rows (n, d) -> the integers (n,) whose bits they are."""
    return x.astype(np.int64) @ (1 << np.arange(x.shape[1], dtype=np.int64))
