"""A two-dimensional density on a grid, for people to look at, and how much of its mass lies on the grid.

    mass = sum_ij p(u_i, v_j) du dv,    u_i, v_j: midpoints of points x points cells over the data's range with a margin

Reference: van den Oord and Schrauwen, "Factoring variations in natural images with deep Gaussian mixture models", NIPS
2014, figure 1 (a Gaussian, a mixture, a deep mixture in the plane, with one sampling path). The midpoint rule: Davis
and Rabinowitz, "Methods of Numerical Integration", 1984, section 2.1. A mass above 1 tells of cells wider than the
density's features, a mass below 1 of density beyond the grid or between its points.
"""

import numpy as np
import torch
from pydantic import Field

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import Density, Sampler

REQUIRES = Density
METRICS = {
    "mass": Metric("probability", "score", "neither", "quadrature of p(x) over the plotted rectangle, near 1 if right")
}


class Settings(EstimatorSettings):
    points: int = Field(240, ge=2, le=4000, description="Cells of the grid along each axis.")
    margin: float = Field(
        0.3, ge=0, le=10, description="How far the grid goes beyond the data on each side, as a share of their range."
    )
    samples: int = Field(500, ge=1, description="How many samples are drawn, where the model can.")


def scorings(settings: Settings, examples: int) -> float:
    """How often the model is evaluated at a point."""
    return float(settings.points**2)


def estimate(model: Density, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """p on the grid and its mass, with what a picture of it needs.

    Arrays, in the data's units: `density` (points, points), rows along the second coordinate from its lower end, per
    unit area; `extent` (4,): left, right, lower and upper edge; `data` (n, 2), the examples scored; `layers` (k,), the
    components of each layer that the model's spec names, one layer of one where it names none. Of a `Sampler` also
    `samples` (samples, 2). Of a model with `sample_path(n, generator) -> (x (n, d), paths (n, k), trail (k + 1, n, d))`
    also one path, the first drawn: `path` (k,), the component in each layer, and `trail` (k + 1, 2), from z to x.

    Raises:
        CannotBeDone: the data have not two dimensions, or no extent; p is not finite somewhere on the grid.
    """
    if data.dimension != 2:
        raise CannotBeDone(
            f"a density is drawn in the plane, and the examples of '{data.name}' have {data.dimension} values: choose "
            "a dataset with two, such as toys-two-moons."
        )
    split = data.splits[settings.split]
    points = split.take(slice(0, settings.examples), bench.generator).double()
    low, high = points.amin(0), points.amax(0)
    if not bool((high > low).all()):
        raise CannotBeDone(f"the {len(points)} {settings.split} examples span no area: raise the setting 'examples'.")
    low, high = low - settings.margin * (high - low), high + settings.margin * (high - low)
    steps = (high - low) / settings.points
    axes = [low[i] + steps[i] * (torch.arange(settings.points, dtype=torch.float64) + 0.5) for i in (0, 1)]
    density = np.empty((settings.points, settings.points))
    with bench.progress.task("density on a grid", total=settings.points, unit="row") as task:
        for row, v in enumerate(axes[1]):
            x = torch.stack([axes[0], v.expand(settings.points)], 1).to(bench.device)
            density[row] = model.log_prob(x).detach().double().exp().cpu().numpy()
            task.advance()
    not_finite = int((~np.isfinite(density)).sum())
    if not_finite:
        raise CannotBeDone(f"p(x) is not finite at {not_finite:,} of the grid's {density.size:,} points.")
    arrays = {
        "density": density.astype(np.float32),
        "extent": torch.stack([low[0], high[0], low[1], high[1]]).numpy(),
        "data": points.numpy().astype(np.float32),
        "layers": np.atleast_1d(np.asarray(getattr(model.spec, "components", 1), dtype=np.int64)),
        **_drawn(model, settings.samples, bench.generator),
    }
    evidence = {"step_first": float(steps[0]), "step_second": float(steps[1]), "largest_density": float(density.max())}
    mass = float(density.sum() * steps.prod())
    return Estimates([Estimate("mass", mass, evidence=evidence)], arrays)


def _drawn(model: Density, samples: int, generator: torch.Generator) -> dict[str, np.ndarray]:
    """Samples and one sampling path, of a model that has them; the first ones drawn, none of them chosen."""
    drawn = {}
    if isinstance(model, Sampler):
        drawn["samples"] = model.sample(samples, generator).detach().float().cpu().numpy()
    if hasattr(model, "sample_path"):
        _, paths, trail = model.sample_path(1, generator)
        drawn["path"] = paths[0].cpu().numpy().astype(np.int64)
        drawn["trail"] = trail[:, 0].detach().double().cpu().numpy()
    return drawn
