"""A picture of any mode is shown to the network, and in the report, as a person sees it."""

from __future__ import annotations

import io
import re
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from alignprune_pl.core.pictures import in_colour
from alignprune_pl.data import DataFileError, ImageFiles
from alignprune_pl.training.thumbnails import picture, thumbnails

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
GREY = np.stack([RAMP] * 3)


def read(folder, image, name="a.png", **options):
    """An image's pixels once it is saved, uint8[3, H, W]."""
    image.save(folder / name, **options)
    return ImageFiles(folder, [name])[0].numpy()


# ---- 16 and 32 bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (RAMP.astype(np.uint16) * 257, "a.png"),
        (RAMP.astype(np.uint16) * 257, "a.tif"),
        (RAMP.astype(np.uint16) * 257, "a.jp2"),
        (RAMP.astype(np.int32) * 257, "a.tif"),
        (RAMP.astype(np.int32), "a.tif"),
        ((RAMP / 255).astype(np.float32), "a.tif"),
        (RAMP.astype(np.float32), "a.tif"),
        (RAMP.astype(np.float32) * 257, "a.tif"),
    ],
    ids=["16 PNG", "16 TIFF", "16 JPEG 2000", "int32 of 16", "int32 of 8", "fractions", "float of 8", "float of 16"],
)
def test_more_bits_than_eight_are_scaled_to_eight(tmp_path, values, name):
    assert np.array_equal(read(tmp_path, Image.fromarray(values), name), GREY)


@pytest.mark.parametrize("most", [65535, 4095])
def test_a_portable_greymap_of_16_bits_is_scaled_by_its_own_white(tmp_path, most):
    values = np.rint(RAMP * (most / 255)).astype(">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 16 16 %d\n" % most + values.tobytes())
    assert np.array_equal(ImageFiles(tmp_path, ["a.pgm"])[0], GREY)


def test_a_dark_picture_of_16_bits_stays_dark(tmp_path):
    for name in ("a.png", "a.tif"):
        assert read(tmp_path, Image.fromarray(RAMP.astype(np.uint16)), name).max() == 1
    (tmp_path / "a.pgm").write_bytes(b"P5 16 16 65535\n" + RAMP.astype(">u2").tobytes())
    assert ImageFiles(tmp_path, ["a.pgm"])[0].max() == 1


def test_values_that_are_rounded_are_rounded_to_the_nearest(tmp_path):
    values = np.array([[0, 128, 129, 32767, 32768, 65406, 65407]], np.uint16)
    assert read(tmp_path, Image.fromarray(values))[0].tolist() == [[0, 0, 1, 127, 128, 254, 255]]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (np.array([[-1, 5]], np.int32), "-1 to 5"),
        (np.array([[0, 70000]], np.int32), "0 to 70000"),
        (np.array([[0.5, 1.5]], np.float32), "0.5 to 1.5"),
        (np.array([[-0.5, 0.5]], np.float32), "-0.5 to 0.5"),
        (np.array([[0, np.nan]], np.float32), "nan to nan"),
        (np.array([[0, np.inf]], np.float32), "0 to inf"),
    ],
)
def test_values_without_a_white_are_refused_by_name(tmp_path, values, shown):
    Image.fromarray(values).save(tmp_path / "a.tif")
    sentence = (
        f"{tmp_path / 'a.tif'} has grey values from {shown} with 32 bits, but fractions from 0 to 1, or whole numbers"
    )
    with pytest.raises(DataFileError, match=re.escape(sentence)):
        ImageFiles(tmp_path, ["a.tif"])[0]
    with pytest.raises(ValueError, match=rf"images\[0\] has grey values from {shown} .* are expected; scale them"):
        picture([Image.fromarray(values)], 0)


# ---- transparency and colour --------------------------------------------------------------------------------


def drawn(mode, alpha=255):
    """A black left half on nothing."""
    image = Image.new("LA", (4, 2), (0, 0))
    image.paste((0, alpha), (0, 0, 2, 2))
    return image if mode == "LA" else image.convert("RGBA") if mode == "RGBA" else image.convert("RGBA").convert(mode)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (drawn("RGBA"), "a.png"),
        (drawn("LA"), "a.png"),
        (drawn("PA"), "a.tif"),
        (drawn("RGBA"), "a.webp"),
        (drawn("RGBA").quantize(), "a.png"),
        (drawn("RGBA"), "a.gif"),
    ],
    ids=["RGBA", "LA", "PA", "WebP", "palette PNG", "GIF"],
)
def test_what_is_transparent_is_white(tmp_path, image, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    seen = read(tmp_path, image, name, **options)
    assert (seen[:, :, :2] == 0).all()
    assert (seen[:, :, 2:] == 255).all()
    assert np.array_equal(picture([image], 0), seen)


@pytest.mark.parametrize(
    ("values", "nothing"),
    [(np.array([[0, 200]], np.uint8), 200), (np.array([[0, 51400]], np.uint16), 51400)],
    ids=["8 bits", "16 bits"],
)
def test_a_grey_that_stands_for_nothing_is_white(tmp_path, values, nothing):
    assert read(tmp_path, Image.fromarray(values), transparency=nothing)[0].tolist() == [[0, 255]]


def test_what_is_half_transparent_is_between_its_colour_and_white(tmp_path):
    assert read(tmp_path, drawn("RGBA", 51))[0, 0].tolist() == [204, 204, 255, 255]


def test_alpha_that_is_multiplied_already_is_taken_out_again():
    seen = [np.array(in_colour(drawn("RGBA", 51).convert("RGBa"))), np.array(in_colour(drawn("LA", 51).convert("La")))]
    assert all(image[0, :, 0].tolist() == [204, 204, 255, 255] for image in seen)


RED = Image.new("RGB", (4, 2), (200, 30, 30))


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "YCbCr", "HSV", "P", "RGBX"])
def test_a_colour_is_that_colour_in_every_mode(mode):
    image = RED.quantize(2) if mode == "P" else RED.convert(mode)
    assert np.abs(np.array(in_colour(image)).astype(int) - (200, 30, 30)).max() <= 2


def test_lab_and_bits_are_shown_in_colour(tmp_path):
    assert np.array(in_colour(Image.new("LAB", (1, 1), (255, 128, 128)))).min() >= 254
    assert read(tmp_path, Image.fromarray(RAMP > 127)).max() == 255


def test_a_mode_that_pillow_does_not_convert_is_refused_by_name(tmp_path, monkeypatch):
    def refuse(self, mode):
        raise ValueError("conversion not supported")

    RED.save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(DataFileError, match=r"a\.png is a picture of mode RGB, which Pillow does not convert to RGB;"):
        ImageFiles(tmp_path, ["a.png"])[0]


# ---- how it is turned ---------------------------------------------------------------------------------------

ARROW = Image.fromarray(np.arange(2 * 3, dtype=np.uint8).reshape(2, 3) * 40)


def turned(orientation):
    """The arrow as a camera stores it, with the EXIF that says how it was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's names of the turns back, by number
    return (ARROW.transpose(undo[orientation]) if orientation > 1 else ARROW), exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_an_image_stands_upright_as_its_exif_says(tmp_path, orientation, name):
    stored, exif = turned(orientation)
    options = {"lossless": True} if name.endswith("webp") else {}
    seen = read(tmp_path, stored, name, exif=exif, **options)
    assert seen.shape == (3, 2, 3)
    assert np.array_equal(seen[0], ARROW)


def test_training_probes_and_report_show_one_picture(tmp_path):
    stored, exif = turned(6)
    stored.save(tmp_path / "a.png", exif=exif)
    files = ImageFiles(tmp_path, ["a.png"])
    with Image.open(tmp_path / "a.png") as image:
        before = image.size
        opened = picture([(image, 0)], 0)
        assert image.size == before  # the user's own is left as it is
    assert np.array_equal(files[0], opened)
    assert np.array_equal(thumbnails(files, torch.tensor([0]))[0, 0, :2], ARROW)


def test_damaged_exif_costs_no_image(tmp_path):
    ARROW.save(tmp_path / "a.png", exif=b"Exif\0\0neither II nor MM")
    with Image.open(tmp_path / "a.png") as image, pytest.raises(SyntaxError):
        ImageOps.exif_transpose(image)
    assert np.array_equal(ImageFiles(tmp_path, ["a.png"])[0][0], ARROW)


# ---- what is no picture -------------------------------------------------------------------------------------


def test_an_image_of_too_many_pixels_is_told_as_that(tmp_path):
    header = io.BytesIO()
    ARROW.save(header, "BMP")
    whole = header.getvalue()
    (tmp_path / "a.bmp").write_bytes(whole[:18] + struct.pack("<ii", 20000, 10000) + whole[26:])
    with pytest.raises(
        DataFileError, match=r"a\.bmp has more pixels than Pillow opens \(.*200000000 pixels.*\); make it"
    ):
        ImageFiles(tmp_path, ["a.bmp"])[0]


def test_a_folder_and_a_link_to_itself_are_told_as_that(tmp_path):
    (tmp_path / "a.png").mkdir()
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    with pytest.raises(DataFileError, match=r"a\.png cannot be read \(Is a directory\)"):
        ImageFiles(tmp_path, ["a.png"])[0]
    with pytest.raises(DataFileError, match=r"b\.png cannot be read \(Too many levels of symbolic links\)"):
        ImageFiles(tmp_path, ["b.png"])[0]


def test_upright_is_what_pillow_calls_upright():
    stored, exif = turned(5)
    buffer = io.BytesIO()
    stored.save(buffer, "PNG", exif=exif)
    image = Image.open(buffer)
    assert np.array_equal(np.array(in_colour(image))[..., 0], np.array(ImageOps.exif_transpose(image)))
