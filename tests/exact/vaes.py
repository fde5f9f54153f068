"""Random autoencoders in float64, their likelihood by quadrature, and small data to train them on."""

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.models.variational import vae


def network(dimension: int, latent: int, seed: int = 0, scale: float = 1.0, **spec) -> vae.Model:
    """A random machine in float64, whose posterior approximation is poor."""
    generator = torch.Generator().manual_seed(seed)
    model = vae.Model(vae.Spec(latent=latent, hidden=[5, 4], **spec), dimension)
    model.load_state(
        {
            name: scale * torch.randn(value.shape, generator=generator, dtype=torch.float64)
            for name, value in model.state().items()
        }
    )
    return model


def every_x(d: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=d)), dtype=torch.float64)


def log_prob_by_quadrature(model: vae.Model, x: Tensor) -> Tensor:
    """log of the integral of N(z; 0, I) p(x given z), by the trapezium rule on [-9, 9] in each dimension."""
    axis = torch.linspace(-9, 9, 20_001 if model.spec.latent == 1 else 301, dtype=torch.float64)
    z = torch.cartesian_prod(*[axis] * model.spec.latent).reshape(-1, model.spec.latent)
    log_cell = model.spec.latent * math.log(axis[1] - axis[0])
    log_prior = -0.5 * (z**2).sum(1) - 0.5 * model.spec.latent * math.log(2 * math.pi) + log_cell
    logits = model.decode(z)
    log_p_x_given_z = x @ logits.T - torch.nn.functional.softplus(logits).sum(1)
    return torch.logsumexp(log_p_x_given_z + log_prior, 1)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def blobs(n: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    rate = np.where(rng.random((n, 1)) < 0.5, 0.9, 0.1)
    return (rng.random((n, d)) < rate).astype(np.uint8)


def dataset(x: np.ndarray) -> Dataset:
    third = len(x) // 3
    parts = {"train": x[:third], "validation": x[third : 2 * third], "test": x[2 * third :]}
    return Dataset("small", "small", "binary", x.shape[1:], {k: Split(v) for k, v in parts.items()}, {})
