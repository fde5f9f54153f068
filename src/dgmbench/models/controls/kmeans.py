"""k-means centroids: a clustering baseline, and "samples" that beat real ones under a Parzen window.

    c_1 ... c_k = argmin sum_n min_j |x_n - c_j|^2

Centroids are no draws from anything: as a sampler this model is a control of the estimator, not a generative model.

Reference: Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory 28(2), 1982; the use as
a sampler: Theis, van den Oord and Bethge, "A note on the evaluation of generative models", ICLR 2016, table 1.
"""

import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.models import base
from dgmbench.models._kmeans import Start, draw_seed, kmeans
from dgmbench.training.session import Session

SMOKE: dict = {"centroids": 5, "iterations": 10, "restarts": 2}

_ROWS_AT_ONCE = 2048


class Spec(base.ModelSpec):
    centroids: int = Field(10, ge=1, description="Number of centroids.")
    iterations: int = Field(100, ge=1, description="Most iterations of Lloyd's algorithm in each restart.")
    restarts: int = Field(1, ge=1, description="Independent starts; the one with the least distortion is kept.")
    start: Start = Field(
        "kmeans++", description="Where centroids start: kmeans++, or random examples (many centroids)."
    )
    batch: int | None = Field(None, ge=1, description="Examples of a minibatch step; null for full passes.")


class Model(base.Model, base.Sampler, base.Clusterer):
    Spec = Spec
    accepts = frozenset({"binary", "unit", "real"})  # centroids of binary data are grey

    @classmethod
    def operations(cls, spec: Spec, dimension: int) -> float:
        return float(spec.centroids * dimension)

    @classmethod
    def passes(cls, spec: Spec) -> float:
        return float(spec.iterations * spec.restarts)

    def fit(self, data: Dataset, session: Session) -> None:
        """Every restart is one step of the session; records its mean squared distance to the nearest centroid.

        Raises:
            CannotBeDone: where there are fewer training examples than centroids.
        """
        spec = self.spec
        if len(data.train) < spec.centroids:
            raise CannotBeDone(f"{spec.centroids} centroids need as many training examples, not {len(data.train)}.")
        best = {
            "centroids": torch.zeros(spec.centroids, self.dimension),
            "distortion": math.inf,
            "binarization": draw_seed(session.generator),
        }
        session.track(best=best)
        # One binarization for all restarts, and the same one after a kill.
        x = data.train.all(torch.Generator().manual_seed(best["binarization"])).numpy()
        for _ in session.steps(spec.restarts, unit="restart"):
            seed = draw_seed(session.generator)
            centroids, _, distortion = kmeans(x, spec.centroids, spec.iterations, seed, spec.start, spec.batch)
            if distortion < best["distortion"]:
                # A mean lies between its examples, but for rounding.
                best["centroids"] = torch.from_numpy(centroids.clip(x.min(0), x.max(0))).float()
                best["distortion"] = distortion
            session.record(distortion=distortion)
        self._centroids = best["centroids"].to(session.device)

    def state(self) -> dict[str, Tensor]:
        return {"centroids": self._centroids}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._centroids = state["centroids"]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Each centroid as often as any other (Theis et al.), whatever its cluster's size: (n, d)."""
        stored = len(self._centroids)
        # Whole copies first: which ones are missing or doubled would be noise in a control.
        copies = torch.arange(n // stored * stored, device=generator.device) % stored
        rest = torch.randperm(stored, generator=generator, device=generator.device)[: n % stored]
        order = torch.randperm(n, generator=generator, device=generator.device)
        return self._centroids[torch.cat([copies, rest])[order]]

    def assign(self, x: Tensor) -> Tensor:
        # cdist without its matrix-product shortcut: that one loses the nearest centroid to cancellation.
        parts = x.to(self._centroids).split(_ROWS_AT_ONCE)
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cat([torch.cdist(part, self._centroids, compute_mode=exact).argmin(1) for part in parts])
