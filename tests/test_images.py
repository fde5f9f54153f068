"""Images of any kind: what is decoded, what is refused rather than changed unseen, fitting, and whole images."""

import io
import struct
import zlib
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from PIL import Image

from dgmbench.data import images
from dgmbench.data.catalogue import DatasetRef
from dgmbench.data.certificate import FILE, build
from dgmbench.data.images import decode, fitted, whole, write_whole
from dgmbench.data.loading import Description, Writer
from dgmbench.data.prepare import open_dataset
from dgmbench.errors import UserError
from dgmbench.files import write_json

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
ALPHA = np.where(np.arange(8) < 3, 0, 255) * np.ones((6, 1), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image.astype(np.uint8))
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def deep_png(channels):
    """A PNG of 2 x 2 pixels with 16 bits a channel: such colour is opened as if it had 8."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = zlib.compress((b"\0" + bytes(range(4 * channels))) * 2)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, kind, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def luma(rgb):
    """ITU-R 601 in the fixed point of 16 bits that is usual for it."""
    return ((rgb.astype(np.int64) @ [19595, 38470, 7471] + 0x8000) >> 16).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_grey_of_every_lossless_kind_comes_out_as_it_is(kind):
    found = decode("a", encoded(GREY, kind), colour=False)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, GREY)
    np.testing.assert_array_equal(decode("a", encoded(GREY, kind), colour=True), np.repeat(GREY[..., None], 3, axis=2))


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_colour_is_kept_or_becomes_luma(kind, options):
    content = encoded(RGB, kind, **options)
    np.testing.assert_array_equal(decode("a", content, colour=True), RGB)
    np.testing.assert_array_equal(decode("a", content, colour=False), luma(RGB))


def test_one_bit_and_palettes_are_opened_as_what_they_show():
    bits = GREY > 127
    np.testing.assert_array_equal(decode("a", encoded(Image.fromarray(bits)), colour=False), np.where(bits, 255, 0))
    few = (RGB // 128) * 255
    palette = Image.fromarray(few).quantize(8)
    np.testing.assert_array_equal(decode("a", encoded(palette), colour=True), few)
    np.testing.assert_array_equal(decode("a", encoded(palette), colour=False), luma(few))


def test_cmyk_is_ink_on_white():
    ink = np.zeros((1, 4, 4), dtype=np.uint8)
    ink[0, 1, 0] = ink[0, 2, 3] = ink[0, 3, 1] = 255
    content = encoded(Image.fromarray(ink, "CMYK"), "TIFF")
    shown = [[255, 255, 255], [0, 255, 255], [0, 0, 0], [255, 0, 255]]
    np.testing.assert_array_equal(decode("a", content, colour=True)[0], shown)
    np.testing.assert_array_equal(decode("a", content, colour=False)[0], luma(np.array(shown)))


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_orientation_tag_turns_the_image_upright(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    as_stored = {
        1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1],
        5: GREY.T, 6: np.rot90(GREY), 7: GREY[::-1, ::-1].T, 8: np.rot90(GREY, -1),
    }[turn]  # fmt: skip
    stored = encoded(np.ascontiguousarray(as_stored), exif=exif)
    np.testing.assert_array_equal(decode("a", stored, colour=False), GREY)


def test_the_photograph_of_a_camera_with_a_preview_is_taken():
    content = encoded(GREY, "MPO", save_all=True, append_images=[Image.fromarray(255 - GREY)], quality=95)
    found = decode("a", content, colour=False).astype(int)
    assert np.abs(found - GREY).mean() < np.abs(255 - found - GREY).mean()


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "colour key"])
def test_transparent_pixels_need_a_background(kind):
    if kind == "palette":
        paint = Image.fromarray(np.where(ALPHA == 0, 0, 1).astype(np.uint8), "P")
        paint.putpalette([9, 9, 9, 200, 200, 200])
        content = encoded(paint, transparency=0)
        shown = np.where(ALPHA == 0, 77, 200)
    elif kind == "colour key":
        content = encoded(np.where(ALPHA == 0, 9, 200)[..., None].repeat(3, axis=2), transparency=(9, 9, 9))
        shown = np.where(ALPHA == 0, 77, 200)
    else:
        content = encoded(np.dstack([RGB if kind == "RGBA" else GREY, ALPHA]))
        shown = np.where(ALPHA == 0, 77, luma(RGB) if kind == "RGBA" else GREY)
    with pytest.raises(UserError, match=r"^a has transparent pixels: .*`background`"):
        decode("a", content, colour=False)
    np.testing.assert_array_equal(decode("a", content, colour=False, background=77), shown)


def test_an_opaque_alpha_channel_changes_nothing():
    content = encoded(np.dstack([RGB, np.full_like(GREY, 255)]))
    np.testing.assert_array_equal(decode("a", content, colour=True), RGB)
    np.testing.assert_array_equal(decode("a", content, colour=True, background=9), RGB)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        *((deep_png(channels), "8 bits a channel") for channels in (1, 2, 3, 4)),
        (b"P6 2 2 65535\n" + bytes(24), "with more than 8 bits"),
        (b"P5 2 2 65535\n" + bytes(8), "8 bits a channel"),
        (encoded(Image.fromarray(RGB.astype(np.float32)[..., 0]), "TIFF"), "8 bits a channel"),
        (encoded(Image.new("LAB", (2, 2)), "TIFF"), "kind 'LAB'"),
        *(
            (encoded(GREY, kind, save_all=True, append_images=[Image.fromarray(255 - GREY)]), "has 2 frames")
            for kind in ("GIF", "PNG", "TIFF", "WEBP")
        ),
        (encoded(RGB)[:-40], "cannot|not an image that can be read"),
        (encoded(np.repeat(RGB, 30, axis=0), "JPEG")[:-300], "not an image that can be read"),
        (encoded(GREY, "PCX"), "not an image that can be read"),  # decoders of other formats are not tried
        (b"", "not an image that can be read"),
        (b"text", "not an image that can be read"),
    ],
)
def test_what_cannot_be_taken_as_it_is_is_refused_with_its_name(content, told):
    with pytest.raises(UserError, match=rf"^own\.zip: a\.png .*({told})"):
        decode("own.zip: a.png", content, colour=True)


def test_a_large_image_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 47)
    with pytest.raises(UserError, match=r"a has 8 x 6 pixels, more than 47"):
        decode("a", encoded(GREY), colour=False)


@pytest.mark.parametrize(
    ("size", "target", "part"),
    [
        ((5, 12), (1, 2), (5, 10)),
        ((10, 4), (1, 2), (2, 4)),
        ((4, 1), (1, 2), (1, 1)),
        ((11, 17), (3, 5), (10, 17)),
        ((9, 7), (4, 3), (9, 6)),
        ((2, 3), (5, 4), (2, 1)),
        ((3, 3), (7, 7), (3, 3)),
    ],
)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_area_takes_the_middle_of_the_right_proportions_and_averages_exactly(size, target, part, channels):
    """Against sums over pixels in fractions, rounded once."""
    image = np.random.default_rng(1).integers(0, 256, (*size, *channels), dtype=np.uint8)
    top, left = (size[0] - part[0]) // 2, (size[1] - part[1]) // 2
    middle = image[top : top + part[0], left : left + part[1]]

    def overlaps(axis, cell):
        side = Fraction(part[axis], target[axis])
        low, high = cell * side, (cell + 1) * side
        return [max(Fraction(0), min(high, x + 1) - max(low, x)) / side for x in range(part[axis])]

    found = fitted("a", image, *target, "area")
    assert found.shape == (*target, *channels)
    assert found.dtype == np.uint8
    for place in np.ndindex(found.shape):
        channel = middle if not channels else middle[:, :, place[2]]
        rows, columns = overlaps(0, place[0]), overlaps(1, place[1])
        mean = sum(a * b * int(channel[y, x]) for y, a in enumerate(rows) for x, b in enumerate(columns))
        assert found[place] == floor(mean + Fraction(1, 2))


def test_crop_takes_the_middle_and_exact_only_the_size():
    image = np.arange(35, dtype=np.uint8).reshape(5, 7)
    np.testing.assert_array_equal(fitted("a", image, 3, 3, "crop"), image[1:4, 2:5])
    for fit in ("area", "crop", "exact"):
        assert fitted("a", image, 5, 7, fit) is image
    with pytest.raises(UserError, match="a is 5 x 7, smaller than 6 x 2: set option `fit` to area"):
        fitted("a", image, 6, 2, "crop")
    with pytest.raises(UserError, match="a is 5 x 7, not 5 x 6: set option `fit` to area or crop"):
        fitted("a", image, 5, 6, "exact")


@pytest.mark.parametrize("channels", [(), (3,)])
def test_images_of_several_sizes_come_back_whole(tmp_path, channels):
    rng, description = np.random.default_rng(3), Description("unit", (6, 8, *channels))
    writer = Writer(tmp_path, description)
    made = {
        split: [rng.integers(0, 256, (*size, *channels), dtype=np.uint8) for size in sizes]
        for split, sizes in (("train", [(6, 2), (1, 8)]), ("test", [(3, 3)]))
    }
    for split, some in made.items():
        write_whole(writer, split, some)
    about = {"notes": writer.notes}
    write_json(tmp_path / FILE, build(tmp_path, DatasetRef("made", {}, "0"), description, about=about))
    data = open_dataset(tmp_path)
    for split, some in made.items():
        for image, found in zip(some, whole(data, split), strict=True):
            np.testing.assert_array_equal(found, image / np.float32(255))
        assert data.splits[split].x.sum(dtype=float) == pytest.approx(sum(i.sum(dtype=float) for i in some) / 255)
    assert data.certificate["shared_groups"] == {"train-test": 0}


def test_an_image_that_does_not_lie_on_the_canvas_is_refused(tmp_path):
    for number, size in enumerate([(7, 2), (2, 9), (2, 2, 3)]):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(UserError, match=r"test: image 1 is .* does not lie on the canvas"):
            write_whole(Writer(tmp_path / str(number), Description("unit", (6, 8))), "test", [np.zeros(size, np.uint8)])


def test_vectors_are_no_images():
    from dgmbench.data.prepared import Dataset

    with pytest.raises(UserError, match="dataset 'made' holds vectors of 63 values"):
        whole(Dataset("made", "0", "real", (63,), {}, {}), "test")
