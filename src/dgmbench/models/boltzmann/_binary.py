"""What every machine of binary units needs: independent draws, block Gibbs sweeps, and the base rates of its data.

    x_i = 1 where u_i < p_i, else 0,    u_i = (high_i + low_i) / 2^16,    high_i in {0, ..., 2^16 - 1},  low_i in [0, 1)

On the CPU, in float32, the bits come from SFC64, seeded by one draw of the generator for each `Draws`: torch's own
uniform numbers take as long as the matrix products of a sweep through 200 units. The 16 high bits are fresh for every
draw. The 16 low bits decide only where high_i equals the integer part of 2^16 p_i, once in 65,536 draws, so that a
plane of them serves `SHARED` draws: single probabilities keep all 32 bits, and of two draws that share a place of the
plane the joint probability is off by at most 2^-32. A probability is met to 2^-32 + 2^-24 p (`threshold`): 1e-6 to
three parts in ten thousand. In float64, and on an accelerator, the numbers are torch's own.

References: Geman and Geman, "Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of images", IEEE
Transactions on Pattern Analysis and Machine Intelligence 6, 1984; SFC64: Doty-Humphrey's PractRand, as numpy has it.
"""

import numpy as np
import torch
from torch import Tensor

from dgmbench.data.prepared import Dataset

SHARED = 16  # draws that one plane of low bits serves
_LEVELS = 2.0**16


class Draws:
    """Bernoulli draws from one stream of bits; no draw leaves anything behind in the generator but the stream's seed.

    A stream lives within a step of training or a call of a sampler: what a killed run continues from is the generator.
    """

    def __init__(self, generator: torch.Generator):
        self._generator = generator
        self._bits: np.random.SFC64 | None = None
        self._minus_low = self._levels = torch.empty(0)
        self._served = 0

    def of(self, probability: Tensor, out: Tensor | None = None) -> Tensor:
        """Independent 1.0 with the given probabilities, else 0.0, in their shape; in `out` where it is given."""
        shape, count = probability.shape, probability.numel()
        if out is None:
            out = torch.empty(shape, dtype=probability.dtype, device=probability.device)
        if probability.dtype != torch.float32 or probability.device.type != "cpu":
            return torch.lt(out.uniform_(generator=self._generator), probability, out=out)
        self._provide_low_bits(count)
        levels = self._levels[:count].view(shape)
        threshold(probability, self._minus_low[:count].view(shape), levels)
        out.copy_(self.random_integers(count).view(shape))
        return torch.lt(out, levels, out=out)

    def _provide_low_bits(self, count: int) -> None:
        if len(self._minus_low) < count:
            self._levels, self._served = torch.empty(count), 0
        if self._served % SHARED == 0:
            self._minus_low = self.random_integers(len(self._levels)).float().div_(-_LEVELS)
        self._served += 1

    def random_integers(self, count: int) -> Tensor:
        """Uniform on 0 ... 65,535: (count,), uint16."""
        if self._bits is None:
            self._bits = np.random.SFC64(int(torch.randint(2**63 - 1, (), generator=self._generator)))
        return torch.from_numpy(self._bits.random_raw((count + 3) // 4).view(np.uint16)[:count])


def threshold(probability: Tensor, minus_low: Tensor, out: Tensor | None = None) -> Tensor:
    """2^16 p - low, which integers are compared with; rounding moves it by at most 2^-24 of itself."""
    return torch.add(minus_low, probability, alpha=_LEVELS, out=out)


def draw(probability: Tensor, generator: torch.Generator) -> Tensor:
    """Independent Bernoulli draws of the given probabilities, as 0.0 and 1.0."""
    return Draws(generator).of(probability)


def block_gibbs(
    hidden_mean: Tensor,
    weights: Tensor,
    visible_bias: Tensor,
    hidden_bias: Tensor,
    sweeps: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """`sweeps` times h from its means and then v given h, for n chains at once: (n, m) -> v (n, d), h (n, m).

    `hidden_mean` is p(h = 1 given v) of the states that the chains start from, W is (d, m); the h that is returned is
    the one that v was drawn from.
    """
    draws = Draws(generator)
    hidden = draws.of(hidden_mean)
    visible_mean = torch.addmm(visible_bias, hidden, weights.T).sigmoid_()
    visible = draws.of(visible_mean)
    if sweeps > 1:
        hidden_mean = torch.empty_like(hidden)
    # In the same four arrays: memory that is asked for anew at each sweep costs a tenth of its time.
    for _ in range(sweeps - 1):
        draws.of(torch.addmm(hidden_bias, visible, weights, out=hidden_mean).sigmoid_(), hidden)
        draws.of(torch.addmm(visible_bias, hidden, weights.T, out=visible_mean).sigmoid_(), visible)
    return visible, hidden


def base_rate_log_odds(data: Dataset, pseudo_count: float = 5.0) -> Tensor:
    """log p_i / (1 - p_i) with p_i = (ones_i + c) / (N + 2 c) over the training examples: (d,), float64."""
    ones = np.asarray(data.train.x).sum(axis=0, dtype=np.float64)
    rate = torch.from_numpy((ones + pseudo_count) / (len(data.train) + 2 * pseudo_count))
    return torch.logit(rate)
