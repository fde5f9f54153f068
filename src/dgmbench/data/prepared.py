"""Prepared datasets as models and estimators see them: memory-mapped splits with fixed rows."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")
VALUES = ("binary", "unit", "real")


@dataclass(frozen=True)
class Split:
    """One split: examples (n, d), optional labels (n,) and optional groups (n,).

    A group is the unit that was sampled independently (the image that a patch was cut from): uncertainty
    over examples is bootstrapped over groups where there are any.
    """

    x: np.ndarray
    labels: np.ndarray | None = None
    groups: np.ndarray | None = None
    binarize: bool = False  # grey values that are drawn anew as Bernoulli at every `take`

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Tensor | slice, generator: torch.Generator | None = None) -> Tensor:
        """Examples by row, as float32: (m,) -> (m, d). Stochastically binarized splits need the generator."""
        rows = self.x[index] if isinstance(index, slice) else self.x[index.cpu().numpy()]
        batch = torch.from_numpy(np.array(rows, dtype=np.float32))
        if not self.binarize:
            return batch
        if generator is None:
            raise ValueError("a split that is binarized at each draw needs a generator: take(index, generator)")
        return torch.bernoulli(batch.to(generator.device), generator=generator)

    def all(self, generator: torch.Generator | None = None) -> Tensor:
        """Every example, as float32: (n, d)."""
        return self.take(slice(None), generator)


@dataclass(frozen=True)
class Dataset:
    """Named, versioned arrays with fixed splits. `certificate` proves them (see data/certificate.py)."""

    name: str
    identity: str
    values: str  # one of VALUES
    shape: tuple[int, ...]  # of one example: (8, 8) for an image, (63,) for a vector
    splits: dict[str, Split]
    certificate: dict

    @cached_property
    def dimension(self) -> int:
        return int(np.prod(self.shape))

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @property
    def validation(self) -> Split:
        return self.splits["validation"]

    @property
    def test(self) -> Split:
        return self.splits["test"]
