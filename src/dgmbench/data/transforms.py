"""Transforms of pixels with exact inverses and Jacobians: nats of a prepared space, bits of the original pixels.

For y = f(x) with density p_Y the density of x is

    log p_X(x) = log p_Y(f(x)) + log |det df/dx|

and `log_abs_det` is the last term. Every transform maps (n, D) float64 to (n, D) float64:

    forward(x, noise=None) -> y        noise (n, D) in [0, 1), of which only `Dequantize` makes use
    inverse(y) -> x
    log_abs_det(x, noise=None) -> (n,), nats     at x before the transform; the same for all x where `constant`

References: L. Theis, A. van den Oord and M. Bethge, "A note on the evaluation of generative models" (2016), on
dequantisation; L. Dinh, J. Sohl-Dickstein and S. Bengio, "Density estimation using Real NVP" (2017), on the logit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator


class Transform(Protocol):
    """The shape of a transform (for readers and type checkers)."""

    constant: bool

    def forward(self, x: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray: ...
    def inverse(self, y: np.ndarray) -> np.ndarray: ...
    def log_abs_det(self, x: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class Dequantize:
    """Integers 0 ... levels - 1 -> x + e, e uniform on [0, 1); the inverse is the floor. log |det| = 0.

    With the probability P(x) = integral of p(x + e) over e, Jensen's inequality gives log P(x) >= E_e log p(x + e):
    the mean log density of dequantised pixels is a lower bound on the log-likelihood of the integers.
    """

    levels: int
    constant = True

    def forward(self, x: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        if noise is None:
            raise ValueError("dequantisation needs noise, uniform on [0, 1), of the shape of x")
        x = np.asarray(x, dtype=np.float64)
        if x.size and not (x.min() >= 0 and x.max() <= self.levels - 1):
            raise ValueError(f"pixels from {x.min():g} to {x.max():g} are not of 0 ... {self.levels - 1}")
        # 32 bits of noise: more would round x + e up to the next integer.
        return x + np.floor(np.asarray(noise) * 2.0**32) * 2.0**-32

    def inverse(self, y: np.ndarray) -> np.ndarray:
        return np.floor(y)

    def log_abs_det(self, x: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        return np.zeros(len(x))


@dataclass(frozen=True)
class Scale:
    """x -> x / by. log |det| = -D log by. The inverse is exact where `by` is a power of two."""

    by: float
    constant = True

    def forward(self, x: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(x, dtype=np.float64) / self.by

    def inverse(self, y: np.ndarray) -> np.ndarray:
        return y * self.by

    def log_abs_det(self, x: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        return np.full(len(x), -x.shape[1] * math.log(self.by))


@dataclass(frozen=True)
class RemoveMean:
    """u -> (m, y_1, ..., y_{D-1}), m = (1/D) sum_i u_i, y_i = u_i - m. log |det| = -log D.

    The inverse is u_i = m + y_i for i < D and u_D = m - sum_i y_i, as the D differences from the mean sum to zero.
    Its matrix, in the order (m, y_1, ..., y_{D-1}), has the rows (1, e_i) for i < D and (1, -1, ..., -1). Adding all
    other rows to the last one, which leaves the determinant as it is, turns it into (D, 0, ..., 0). Expanding along
    it leaves the identity of order D - 1: the inverse has |det| = D, and the transform itself |det| = 1 / D.
    """

    constant = True

    def forward(self, x: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        x = np.asarray(x, dtype=np.float64)
        mean = x.mean(axis=1, keepdims=True)
        return np.concatenate([mean, x[:, :-1] - mean], axis=1)

    def inverse(self, y: np.ndarray) -> np.ndarray:
        mean, rest = y[:, :1], y[:, 1:]
        return np.concatenate([mean + rest, mean - rest.sum(axis=1, keepdims=True)], axis=1)

    def log_abs_det(self, x: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        return np.full(len(x), -math.log(x.shape[1]))


@dataclass(frozen=True)
class Logit:
    """x in [0, 1] -> log(s / (1 - s)), s = alpha + (1 - 2 alpha) x, 0 <= alpha < 1/2.

    log |det| = sum_i [log(1 - 2 alpha) - log s_i - log(1 - s_i)]. With alpha = 0, x must lie inside (0, 1).
    """

    alpha: float
    constant = False

    def forward(self, x: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        s = self._squeezed(x)
        return np.log(s) - np.log1p(-s)

    def inverse(self, y: np.ndarray) -> np.ndarray:
        s = 0.5 * (1 + np.tanh(0.5 * y))
        return (s - self.alpha) / (1 - 2 * self.alpha)

    def log_abs_det(self, x: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        s = self._squeezed(x)
        return (math.log1p(-2 * self.alpha) - np.log(s) - np.log1p(-s)).sum(axis=1)

    def _squeezed(self, x: np.ndarray) -> np.ndarray:
        return self.alpha + (1 - 2 * self.alpha) * np.asarray(x, dtype=np.float64)


@dataclass(frozen=True)
class Chain:
    """Transforms one after another; their log |det| add up. Every dequantisation in it takes the same noise."""

    transforms: tuple[Transform, ...]

    @property
    def constant(self) -> bool:
        return all(transform.constant for transform in self.transforms)

    def forward(self, x: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        for transform in self.transforms:
            x = transform.forward(x, noise)
        return np.asarray(x, dtype=np.float64)

    def inverse(self, y: np.ndarray) -> np.ndarray:
        for transform in reversed(self.transforms):
            y = transform.inverse(y)
        return y

    def log_abs_det(self, x: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        total = np.zeros(len(x))
        if self.constant and noise is None:
            noise = np.zeros(np.shape(x))
        for transform in self.transforms:
            total = total + transform.log_abs_det(x, noise)
            x = transform.forward(x, noise)
        return total


class Step(BaseModel):
    """One step from the original pixels to a prepared space: `dequantize: 256`, `scale: 256` or `remove_mean`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dequantize: int | None = Field(None, ge=2, description="Grey levels; uniform noise on [0, 1) is added.")
    scale: float | None = Field(None, gt=0, description="What pixels are divided by.")
    remove_mean: bool = Field(False, description="Whether the mean is removed and the last pixel dropped.")

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"remove_mean": True} if value == "remove_mean" else value

    @model_validator(mode="after")
    def _one(self) -> "Step":
        if (self.dequantize is not None) + (self.scale is not None) + self.remove_mean != 1:
            raise ValueError("write one of 'dequantize: <levels>', 'scale: <divisor>' and 'remove_mean'")
        return self

    @property
    def transform(self) -> Transform:
        if self.dequantize is not None:
            return Dequantize(self.dequantize)
        return RemoveMean() if self.scale is None else Scale(self.scale)


def check_space(space: Sequence[Step]) -> None:
    """Raise `ValueError` where steps have no bits per pixel with the meaning of `bits_per_dimension`."""
    if not space or space[0].dequantize is None or any(step.dequantize is not None for step in space[1:]):
        raise ValueError("begins with 'dequantize', which stands there once: else pixels have no density to code with")
    if any(step.remove_mean for step in space[:-1]):
        raise ValueError("ends with 'remove_mean', where it removes the mean")
    if space[-1].remove_mean and math.prod(step.scale or 1 for step in space) != space[0].dequantize:
        raise ValueError("scales the levels to [0, 1) before 'remove_mean': the mean is coded as uniform on it")


def convention(space: Sequence[Step]) -> str:
    """What a person must know beside bits of `bits_per_dimension`."""
    said = "bits of the integer pixels, an upper bound by dequantisation"
    return f"{said}; the removed mean is coded as uniform on [0, 1)" if space[-1].remove_mean else said


def bits_per_dimension(nats: float, dimension: int, space: Sequence[Step]) -> float:
    """A mean log density of a prepared space -> bits per original pixel, an upper bound on those of the integers.

        bits = -(nats + log |det|) / (D log 2)

    Args:
        nats: log density of one prepared example.
        dimension: values of a prepared example: D, or D - 1 where the space removes the mean.
        space: steps from the original pixels, integers, to the prepared space.

    Where the mean was removed, its density is needed too, and is taken as uniform on [0, 1) whatever the rest:
    log 1 = 0 nats are added, and log |det| holds the -log D of `RemoveMean`. That is a code that anybody can decode,
    so that the bits are an upper bound: a model of the mean could only lower them.
    """
    check_space(space)
    original = dimension + space[-1].remove_mean
    chain = Chain(tuple(step.transform for step in space))
    return -(nats + float(chain.log_abs_det(np.zeros((1, original)))[0])) / (original * math.log(2))
