"""Small pictures out of images of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from alignprune_pl.training.thumbnails import picture, thumbnails

PIXELS = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)  # two images of 4 x 5


@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2),
        [Image.fromarray(image) for image in PIXELS],
        [(Image.fromarray(image), 7) for image in PIXELS],
        [[image, "a label"] for image in PIXELS],
    ],
    ids=["arrays", "tensors", "PIL", "tuples of PIL", "lists"],
)
def test_an_image_of_any_kind_is_taken_in_colour(images):
    assert picture(images, 1).dtype == torch.uint8
    assert np.array_equal(picture(images, 1), PIXELS[1].transpose(2, 0, 1))


@pytest.mark.parametrize("images", [PIXELS[..., 0], PIXELS[..., :1], PIXELS[:, None, ..., 0]], ids=["HW", "HWC", "CHW"])
def test_a_grey_image_is_grey_in_three_channels(images):
    assert np.array_equal(picture(images, 0), np.stack([PIXELS[0, ..., 0]] * 3))


@pytest.mark.parametrize("item", [torch.zeros(3, 4, 5), np.zeros((2, 4, 5), np.uint8), "a word", (), 5])
def test_what_is_no_image_is_refused(item):
    with pytest.raises(ValueError, match=r"images\[0\] is .*, but a PIL image or uint8\[C, H, W\]"):
        picture([item], 0)


def test_images_are_whole_in_squares_of_one_size_and_small_ones_keep_theirs():
    images = [np.full((400, 200), 200, np.uint8), np.full((30, 60, 3), 50, np.uint8)]
    shown = thumbnails(images, torch.tensor([1, 0]))
    assert shown.shape == (2, 3, 96, 96)
    assert shown[0, 0].count_nonzero() == 30 * 60
    assert shown[1].amax() == shown[1, 0, 48, 48] == 200
    assert (shown[1, 0] > 0).any(0).sum() == 48
    assert thumbnails(images, torch.tensor([1])).shape == (1, 3, 60, 60)
    assert thumbnails(images, torch.tensor([], dtype=torch.int64)).shape == (0, 3, 0, 0)
