"""What a decoder makes of the points of a square grid in a latent plane, for people to look at.

    picture_ij = E[x given u = (s_j, -s_i)],    s_1, ..., s_side evenly spaced from -reach to reach

Beside it, the share of examples whose posterior mean lies on the grid: what of the data the picture can show.

Reference: Baumann, "An introduction to deep generative models", 2018, section 5.2 and figure 12 (20 x 20 on [-2, 2]^2);
Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix A, figure 4.
"""

import numpy as np
import torch
from pydantic import Field

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.base import Estimate, Estimates, EstimatorSettings, Metric, Workbench
from dgmbench.models.base import Decoder, Encoder

REQUIRES = Decoder
METRICS = {
    "share_on_grid": Metric("share", "score", "neither", "Examples whose posterior mean lies in the plotted square.")
}


class Settings(EstimatorSettings):
    side: int = Field(20, ge=2, le=100, description="Pictures along each edge.")
    reach: float = Field(2.0, gt=0, description="The grid covers [-reach, reach] of both latent variables.")


def estimate(model: Decoder, data: Dataset, settings: Settings, bench: Workbench) -> Estimates:
    """The share, of a model that has an encoder too.

    Arrays: `pictures` (side^2, d), line by line from the upper left, where the second variable is highest; `reach`
    (1,); of a model with an encoder `means` (n, 2) of the examples, and their `labels` (n,) where there are any.

    Raises:
        CannotBeDone: the latent space has not two dimensions.
    """
    if model.latent_dimension != 2:
        raise CannotBeDone(
            f"a grid is drawn in a latent plane, and this model has {model.latent_dimension} latent variables: set "
            "latent to 2 and leave upper_latent out."
        )
    axis = torch.linspace(-settings.reach, settings.reach, settings.side)
    second, first = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    u = torch.stack([first.flatten(), second.flatten()], 1).to(bench.device)
    arrays = {
        "pictures": model.mean_x_given_u(u).detach().float().cpu().numpy(),
        "reach": np.array([settings.reach]),
    }
    if not isinstance(model, Encoder):
        return Estimates([], arrays)
    split = data.splits[settings.split]
    x = split.take(slice(0, settings.examples), bench.generator).to(bench.device)
    means = model.posterior_means(x, 1, bench.generator)[0].double().cpu().numpy()
    arrays["means"] = means.astype(np.float32)
    if split.labels is not None:
        arrays["labels"] = np.asarray(split.labels[slice(0, settings.examples)], dtype=np.int64)
    inside = (np.abs(means) <= settings.reach).all(1).astype(np.float64)
    return Estimates([Estimate("share_on_grid", float(inside.mean()), inside)], arrays)
