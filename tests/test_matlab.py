"""MATLAB files that nobody has checked: numeric matrices come out whole, everything else gives one sentence."""

import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from dgmbench.data import matlab
from dgmbench.data.archives import Limits
from dgmbench.data.matlab import arrays
from dgmbench.errors import UserError

RNG = np.random.default_rng(0)
VARIABLES = {
    "fea": RNG.random((7, 5)),
    "gnd": np.arange(7, dtype=np.uint8)[:, None],
    "cube": RNG.integers(-9, 9, (2, 3, 4)).astype(np.int16),
    "a_rather_long_name_of_a_variable": np.float32([[1.5]]),
    "text": "abc",
}
NUMERIC = [name for name in VARIABLES if name != "text"]


def save(path, compressed=False, **variables):
    scipy.io.savemat(path, variables, do_compression=compressed, long_field_names=True)
    return path


def element(kind, content, order="<"):
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)


def file(*elements, order="<"):
    version = b"\x00\x01IM" if order == "<" else b"\x01\x00MI"
    return b"MATLAB 5.0 MAT-file, made by a test".ljust(124) + version + b"".join(elements)


def matrix(name, rows, columns, content, kind=6, item=9, order="<", flags=0):
    return element(
        14,
        element(6, struct.pack(f"{order}II", kind | flags, 0), order)
        + element(5, struct.pack(f"{order}ii", rows, columns), order)
        + element(1, name.encode(), order)
        + element(item, content, order),
        order,
    )


@pytest.mark.parametrize("compressed", [False, True])
def test_matrices_come_out_as_they_were_saved(tmp_path, compressed):
    found = arrays(save(tmp_path / "a.mat", compressed, **VARIABLES), *NUMERIC)
    assert sorted(found) == sorted(NUMERIC)
    for name, array in found.items():
        assert array.dtype == VARIABLES[name].dtype
        np.testing.assert_array_equal(array, VARIABLES[name])


def test_the_other_byte_order_is_read(tmp_path):
    (tmp_path / "a.mat").write_bytes(file(matrix("x", 1, 2, struct.pack(">dd", 1, 2), order=">"), order=">"))
    np.testing.assert_array_equal(arrays(tmp_path / "a.mat", "x")["x"], [[1.0, 2.0]])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("text", "is text"),
        ({"a": 1}, "is a structure"),
        (np.array([[1, "a"]], dtype=object), "is a cell array"),
        (scipy.sparse.eye_array(3).tocsc(), "is a sparse matrix"),
        (np.array([[1j]]), "is complex"),
    ],
)
def test_everything_but_full_matrices_of_real_numbers_is_refused(tmp_path, value, what, compressed):
    with pytest.raises(UserError, match=rf"a\.mat: variable 'x' {what}"):
        arrays(save(tmp_path / "a.mat", compressed, x=value), "x")


def test_objects_beside_a_matrix_are_passed_over(tmp_path):
    opaque = element(14, element(6, struct.pack("<II", 17, 0)) + bytes(64))
    (tmp_path / "a.mat").write_bytes(file(opaque, matrix("x", 1, 1, struct.pack("<d", 3))))
    assert arrays(tmp_path / "a.mat", "x")["x"] == 3


def test_a_missing_variable_and_one_that_is_there_twice_are_told(tmp_path):
    with pytest.raises(UserError, match=r"a\.mat has no variable 'y'"):
        arrays(save(tmp_path / "a.mat", x=1.0), "x", "y")
    one = matrix("x", 1, 1, struct.pack("<d", 3))
    (tmp_path / "b.mat").write_bytes(file(one, one))
    with pytest.raises(UserError, match=r"b\.mat holds the variable 'x' twice"):
        arrays(tmp_path / "b.mat", "x")


def test_other_versions_are_told(tmp_path):
    for name, content, told in (
        ("hdf.mat", b"\x89HDF\r\n\x1a\n" + bytes(600), "7.3"),
        ("new.mat", b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(600), "7.3"),
        ("no.mat", b"\x1f\x8b" + bytes(600), "not a MATLAB 5 file"),
        ("empty.mat", b"", "not a MATLAB 5 file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} .*{told}"):
            arrays(tmp_path / name, "x")
    scipy.io.savemat(tmp_path / "old.mat", {"x": np.eye(50)}, format="4")
    with pytest.raises(UserError, match=r"old\.mat is not a MATLAB 5 file"):
        arrays(tmp_path / "old.mat", "x")


HUGE = 1 << 30
LIES = {
    "more rows than values": matrix("x", HUGE, 1, bytes(8)),
    "negative sides": matrix("x", -1, -1, bytes(8)),
    "more bytes than there are": struct.pack("<II", 14, HUGE) + matrix("x", 1, 1, bytes(8))[8:],
    "values that go on after the matrix": matrix("x", 1, 1, bytes(8)).replace(
        struct.pack("<II", 9, 8), struct.pack("<II", 9, HUGE)
    ),
    "a small element of 60,000 bytes": matrix("x", 1, 1, bytes(8)).replace(
        struct.pack("<II", 6, 8), struct.pack("<HHI", 6, 60_000, 8)
    ),
    "values of an unknown type": matrix("x", 1, 1, bytes(8), item=99),
    "an element that is no matrix": element(7, bytes(64)),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("lie", LIES)
def test_a_size_that_is_not_there_allocates_nothing(tmp_path, lie, compressed):
    content = LIES[lie]
    if compressed:
        packed = zlib.compress(content)
        content = struct.pack("<II", 15, len(packed)) + packed
    (tmp_path / "a.mat").write_bytes(file(content))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"a\.mat is truncated or damaged"):
            arrays(tmp_path / "a.mat", "x")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    path = save(tmp_path / "a.mat", compressed=True, x=np.zeros((1 << 10, 1 << 10)))
    monkeypatch.setattr(matlab, "_LIMITS", Limits(total=1 << 30, ratio=50, free=1 << 20))
    with pytest.raises(UserError, match=r"a\.mat is truncated or damaged .* more than there can be"):
        arrays(path, "x")
    monkeypatch.setattr(matlab, "_LIMITS", Limits(total=100))
    with pytest.raises(UserError, match=r"a\.mat has .* bytes, more than"):
        arrays(path, "x")


def test_endless_variables_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a.mat").write_bytes(file(*[matrix(f"y{n}", 1, 1, bytes(8)) for n in range(11)]))
    monkeypatch.setattr(matlab, "_LIMITS", Limits(total=1 << 20, members=10))
    with pytest.raises(UserError, match=r"a\.mat has more than 10 variables"):
        arrays(tmp_path / "a.mat", "x")


def test_a_compressed_element_with_a_wrong_checksum_or_a_tail_is_damaged(tmp_path):
    inner = matrix("x", 1, 1, bytes(8))
    packed = zlib.compress(inner)
    for made in (packed[:-1] + bytes([packed[-1] ^ 1]), packed[:-4], zlib.compress(inner + bytes(8))):
        (tmp_path / "a.mat").write_bytes(file(struct.pack("<II", 15, len(made)) + made))
        with pytest.raises(UserError, match=r"a\.mat is truncated or damaged"):
            arrays(tmp_path / "a.mat", "x")


@pytest.mark.parametrize("compressed", [False, True])
def test_any_damage_gives_a_sentence_or_matrices_but_never_another_exception(tmp_path, compressed):
    content = save(tmp_path / "a.mat", compressed, **VARIABLES).read_bytes()
    path, draw, refused = tmp_path / "b.mat", random.Random(1), 0
    for case in range(3000):
        damaged = bytearray(content)
        if case % 10 == 0:
            del damaged[draw.randrange(len(damaged)) :]
        for _ in range(draw.randint(1, 4)):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.choice((0, 1, 14, 15, 127, 255, draw.randrange(256)))
        path.write_bytes(damaged)
        try:
            found = arrays(path, *NUMERIC)
        except UserError as error:
            assert path.name in str(error)  # noqa: PT017
            refused += 1
        else:
            assert all(array.dtype.kind in "iuf" for array in found.values())
    assert refused > 500
