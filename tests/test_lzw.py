"""Files of `compress`: what was packed comes out, within a bound, whatever somebody wrote into them."""

import random

import ncompress
import pytest

from dgmbench.data.archives import Limits
from dgmbench.data.lzw import expand, is_lzw
from dgmbench.errors import UserError

DRAW = random.Random(0)
TEXT = b"".join(b"%.4f, " % (2 * DRAW.random() - 1) for _ in range(20_000))
PACKED = ncompress.compress(TEXT)


def literals(content):
    """A .Z stream without a dictionary, written here bit by bit: only codes below 256, of nine bits each.

    Codes grow to ten bits after 256 of them (a dictionary of 512), so that shorter content needs nothing else.
    """
    assert len(content) <= 255
    bits = sum(byte << (9 * at) for at, byte in enumerate(content))
    return b"\x1f\x9d\x90" + bits.to_bytes(-(-9 * len(content) // 8), "little")


def test_what_was_packed_comes_out():
    assert expand("a.Z", PACKED) == TEXT
    assert expand("a.Z", literals(b"0.5000, 1.\n" * 20)) == b"0.5000, 1.\n" * 20


def test_a_file_is_told_by_its_bytes(tmp_path):
    for content, told in ((PACKED, True), (b"\x1f\x8b", False), (b"", False)):
        (tmp_path / "a").write_bytes(content)
        assert is_lzw(tmp_path / "a") is told


def test_a_bomb_is_refused_before_it_fills_the_memory():
    bomb = ncompress.compress(bytes(64 << 20))
    with pytest.raises(UserError, match=r"a\.Z expands to more than 1,048,576 bytes"):
        expand("a.Z", bomb, Limits(total=1 << 20))


def test_any_damage_gives_a_sentence_or_bytes_but_never_another_exception():
    draw, refused = random.Random(1), 0
    for case in range(2000):
        damaged = bytearray(PACKED)
        if case % 3 == 0:
            del damaged[draw.randrange(len(damaged)) :]
        for _ in range(draw.randint(1, 5) if damaged else 0):
            damaged[draw.randrange(len(damaged) if case % 2 else min(4, len(damaged)))] = draw.randrange(256)
        try:
            expand("a.Z", bytes(damaged), Limits(free=1 << 20))
        except UserError as error:
            assert "a.Z" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 500
