"""Seeded draws whose bits do not depend on the numpy version, the machine or the size of a chunk.

Everything is integer arithmetic on the raw 64-bit output of PCG64 (O'Neill, "PCG: a family of simple fast
space-efficient statistically good algorithms for random number generation"), which numpy promises to keep;
the streams of numpy's `Generator` methods carry no such promise.
"""

import numpy as np
from numpy.random import PCG64, SeedSequence


def stream(seed: int, *key: int) -> PCG64:
    """The random stream that belongs to a seed and a key; different keys of one length give independent streams.

    Of different lengths they need not: a key and the same key with zeros after it are one.
    """
    return PCG64(SeedSequence([seed, *key]))


def below(bits: PCG64, bound: int | np.ndarray, n: int) -> np.ndarray:
    """n integers uniform on {0, ..., bound - 1}, `bound` at most 2^32: (n,), int64.

    Multiply and shift, floor(u * bound / 2^32) with u uniform on 32 bits: the bias is at most bound / 2^32.
    """
    u = bits.random_raw(n) >> np.uint64(32)
    return ((u * np.asarray(bound, dtype=np.uint64)) >> np.uint64(32)).astype(np.int64)


def permutation(bits: PCG64, n: int) -> np.ndarray:
    """A uniform permutation of 0 ... n - 1, the order of n random 64-bit keys: (n,), int64."""
    return np.argsort(bits.random_raw(n), kind="stable")


def uniform(bits: PCG64, n: int) -> np.ndarray:
    """n draws, uniform on the multiples of 2^-53 in [0, 1): (n,), float64."""
    return (bits.random_raw(n) >> np.uint64(11)) * 2.0**-53


def normal(bits: PCG64, n: int) -> np.ndarray:
    """n standard normal draws by Box and Muller: (n,), float64."""
    radius = np.sqrt(-2.0 * np.log1p(-uniform(bits, n)))
    return radius * np.cos(2.0 * np.pi * uniform(bits, n))


def noise24(bits: PCG64, n: int) -> np.ndarray:
    """n integers uniform on {0, ..., 2^24 - 1}: (n,), int64; divided by 2^24 they are uniform noise on [0, 1)."""
    return (bits.random_raw(n) >> np.uint64(40)).astype(np.int64)
