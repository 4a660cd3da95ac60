"""What is done to an image before the network sees it, one by one and as a batch."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad

from alignprune_pl.data.views import CropFlip, Views, crops_of_resized, random_resized_crops

SIZE, PADDING = 8, 2


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count):
    return torch.randint(256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=g())


def all_crops(image):
    """Every crop of the reflect-padded image, plain and flipped, by (row, column, flip)."""
    padded = pad(image[None].float(), (PADDING,) * 4, mode="reflect")[0].to(torch.uint8)
    crops = {}
    for row in range(2 * PADDING + 1):
        for column in range(2 * PADDING + 1):
            crop = padded[:, row : row + SIZE, column : column + SIZE]
            crops[row, column, 0], crops[row, column, 1] = crop, crop.flip(2)
    return crops


def test_a_batch_is_cropped_and_flipped_as_drawn():
    view, batch = CropFlip(SIZE, PADDING), images(200)
    draws = view.draws(200, g(1))
    out = view.batch(batch, draws)
    assert out.dtype == torch.uint8
    for image, drawn, result in zip(batch, draws.tolist(), out, strict=True):
        assert torch.equal(result, all_crops(image)[tuple(drawn)])


def test_every_crop_and_flip_is_drawn_equally_often():
    draws = CropFlip(SIZE, PADDING).draws(50_000, g(2)).long()
    kinds = draws[:, 0] * 10 + draws[:, 1] * 2 + draws[:, 2]
    counts = torch.bincount(kinds, minlength=50)
    assert len(counts) == 50
    expected, sigma = 1000, (1000 * 0.98) ** 0.5
    assert ((counts - expected).abs() < 5 * sigma).all()


def test_one_image_gets_the_same_crops_from_torchvision():
    view, image = CropFlip(SIZE, PADDING), images(1)[0]
    crops = all_crops(image)
    torch.manual_seed(3)
    seen = set()
    for _ in range(600):
        out = view(image)
        seen |= {kind for kind, crop in crops.items() if torch.equal(out, crop)}
    assert len(seen) == len(crops) == 50


def test_images_that_are_not_square_are_cropped_along_each_side():
    view = CropFlip(8, 2)
    wide = torch.arange(5 * 12, dtype=torch.uint8).view(1, 1, 5, 12)
    out = view.batch(wide, torch.tensor([[4, 1, 1]], dtype=torch.uint8))
    padded = pad(wide.float(), (2,) * 4, mode="reflect").to(torch.uint8)
    assert torch.equal(out, padded[:, :, 4:9, 1:13].flip(3))


def test_pixels_are_normalised_by_each_channels_own_statistics():
    views = Views((0.5, 0.2, 0.1), (0.5, 0.4, 0.3))
    out = views.normalised(images(4))
    mean, std = torch.tensor([0.5, 0.2, 0.1]).view(3, 1, 1), torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    torch.testing.assert_close(out, (images(4) / 255 - mean) / std)
    assert out.dtype == torch.float32


@pytest.mark.parametrize("make", [random_resized_crops, crops_of_resized])
@pytest.mark.parametrize("shape", [(3, 40, 90), (3, 90, 40), (3, 10, 10)])
def test_files_of_any_size_become_images_of_one_size(make, shape):
    views = make(28)
    image = torch.randint(256, shape, dtype=torch.uint8, generator=g())
    assert views.train(image).shape == views.evaluate(image).shape == (3, 28, 28)
    assert torch.equal(views.evaluate(image), views.evaluate(image))


def test_evaluation_looks_at_the_centre_of_the_image_at_eight_sevenths_of_the_size():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, 4:60, 4:60] = 200  # at 32 pixels for 28, just what the centre crop keeps
    seen = random_resized_crops(28).evaluate(image)
    assert (seen[:, 1:-1, 1:-1] == 200).all()
    assert (random_resized_crops(28).evaluate(200 - image)[:, 1:-1, 1:-1] == 0).all()


@pytest.mark.parametrize("make", [random_resized_crops, crops_of_resized])
def test_half_of_the_training_images_are_flipped(make):
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 1, 64).expand(3, 64, 64)
    torch.manual_seed(0)
    flipped = sum(bool(crop[0, 14, 4] > crop[0, 14, 24]) for crop in (make(28).train(ramp) for _ in range(200)))
    assert 70 < flipped < 130


def test_random_resized_crops_are_of_eight_to_a_hundred_percent_of_the_image():
    ramp = torch.arange(128, dtype=torch.uint8).view(1, 1, 128).expand(3, 128, 128)
    torch.manual_seed(0)
    seen = [
        abs(int(crop[0, 0, 0]) - int(crop[0, 0, -1])) / 128
        for crop in map(random_resized_crops(28).train, [ramp] * 200)
    ]
    assert min(seen) < 0.45
    assert max(seen) > 0.9


def test_clothing1ms_crops_keep_the_scale_and_move():
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 1, 64).expand(3, 64, 64)
    torch.manual_seed(0)
    crops = [crops_of_resized(28).train(ramp) for _ in range(20)]
    steps = {int((crop[0, 5, 20].int() - crop[0, 5, 10].int()).abs()) for crop in crops}
    assert steps <= {19, 20, 21}  # 32 of 64 pixels: two steps of the ramp each
    assert len({int(crop[0, 0, 0]) for crop in crops}) > 2


@pytest.mark.parametrize(("size", "dtype"), [(1016, torch.uint8), (1024, torch.int16)])
def test_crops_of_large_images_start_anywhere_in_their_padding(size, dtype):
    draws = CropFlip(size, size // 8).draws(5_000, g(2))
    assert draws.dtype == dtype
    assert (int(draws[:, :2].min()), int(draws[:, :2].max())) == (0, size // 4)
