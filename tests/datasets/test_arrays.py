"""Embeddings, tables and images from NumPy files: what is read, how it is normalised, and what stays on disk."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch

from alignprune_pl.data import ArrayRows, Benchmark, Columns, CropFlip, NoisyData, Part, arrays
from alignprune_pl.data.array_rows import as_stored, channels_first, with_one_channel
from alignprune_pl.data.arrays import by_column
from alignprune_pl.noise import Clean, Given, Human, InstanceDependent, Symmetric
from alignprune_pl.report.run_files import read_run
from alignprune_pl.training.classifier import Classifier
from helpers import make_trainer, run_script

N, M, D = 60, 20, 5
RNG = np.random.default_rng(0)
WRONG = np.arange(N) < 18
CLEAN = np.arange(N) % 3
CONTENT = {
    "train_x": (RNG.normal(size=(N, D)) * [1, 10, 0.1, 3, 0] + [0, 50, -2, 1000, 7]).astype(np.float32),
    "train_y": np.where(WRONG, (CLEAN + 1) % 3, CLEAN),
    "test_x": RNG.normal(size=(M, D)).astype(np.float32),
    "test_y": np.arange(M) % 3,
}
IMAGES = {
    **CONTENT,
    "train_x": RNG.integers(0, 200, (N, 8, 8, 3), dtype=np.uint8),
    "test_x": RNG.integers(0, 200, (M, 8, 8, 3), dtype=np.uint8),
}
train = partial(run_script, "train.py")
SMALL = ["trainer.max_epochs=2", "trainer.accelerator=cpu", "data.batch_size=16", "hydra.run.dir=run"]


def write_npz(folder, write=np.savez, content=CONTENT, **changes):
    """A file of these arrays; None leaves one out."""
    path = folder / "made.npz"
    write(path, **{name: array for name, array in {**content, **changes}.items() if array is not None})
    return path


def write_npy(folder, content=CONTENT, **changes):
    path = folder / "made"
    path.mkdir()
    for name, array in {**content, **changes}.items():
        np.save(path / f"{name}.npy", array)
    return path


def stored(part):
    """The array that a part's rows are of."""
    return part.inputs._array


# ---- what is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write", [write_npz, write_npy, partial(write_npz, write=np.savez_compressed)], ids=["npz", "npy", "compressed"]
)
def test_a_file_and_a_folder_give_the_same_arrays(tmp_path, write):
    benchmark = arrays(write(tmp_path, train_clean=CLEAN.astype(np.uint8)))
    assert torch.equal(benchmark.train.inputs.stacked(), torch.from_numpy(CONTENT["train_x"]))
    assert torch.equal(benchmark.evaluated["test"].inputs.stacked(), torch.from_numpy(CONTENT["test_x"]))
    assert benchmark.train.labels.tolist() == CONTENT["train_y"].tolist()
    assert benchmark.clean_labels.tolist() == CLEAN.tolist()
    assert benchmark.evaluated["test"].labels.tolist() == CONTENT["test_y"].tolist()
    assert benchmark.classes == ("0", "1", "2")
    assert benchmark.reference is None


def test_the_labels_may_be_any_array_and_the_other_ones_are_annotations(tmp_path):
    given = {"train_worst": CONTENT["train_y"], "train_random": np.roll(CLEAN, 1), "train_clean": CLEAN}
    no_labels = {"train_id": np.arange(N) + 1000, "train_weight": np.ones(N), "train_pair": np.zeros((N, 2), int)}
    path = write_npz(tmp_path, train_y=None, **given, **no_labels)
    benchmark = arrays(path, labels="train_worst")
    assert benchmark.train.labels.tolist() == CONTENT["train_y"].tolist()
    assert sorted(benchmark.annotations) == ["train_random", "train_worst"]
    data = NoisyData(benchmark, Human("train_random"), reference_share=None)
    assert data.labels.tolist() == np.roll(CLEAN, 1).tolist()
    data = NoisyData(benchmark, Given(), reference_share=None)
    assert data.noise_mask.tolist() == WRONG.tolist()
    data = NoisyData(benchmark, Symmetric(0.5), reference_share=None)
    assert int(data.noise_mask.sum()) == N // 2
    assert torch.equal(data.clean_labels, torch.from_numpy(CLEAN))


def test_classes_have_the_names_that_are_given_and_may_be_more_than_the_labels(tmp_path):
    for names in (["cat", "dog", "fox", "owl"], [b"cat", b"dog", b"fox", b"owl"]):
        benchmark = arrays(write_npz(tmp_path, classes=np.array(names)))
        assert benchmark.classes == ("cat", "dog", "fox", "owl")


def test_a_class_may_be_missing_among_the_labels_where_the_true_ones_have_it(tmp_path):
    path = write_npz(tmp_path, train_y=np.where(CLEAN == 0, 1, CLEAN), train_clean=CLEAN)
    assert arrays(path).classes == ("0", "1", "2")


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, ">i4", np.uint64])
def test_labels_are_whole_numbers_of_any_width(tmp_path, dtype):
    labels = (np.arange(N) % 2).astype(dtype)
    benchmark = arrays(write_npz(tmp_path, train_y=labels, test_y=labels[:M]))
    assert benchmark.train.labels.dtype == torch.int64
    assert benchmark.train.labels.tolist() == [0, 1] * (N // 2)


def test_a_reference_of_its_own_is_one_and_nothing_is_split_off(tmp_path):
    path = write_npz(tmp_path, reference_x=CONTENT["test_x"][:6], reference_y=CONTENT["test_y"][:6])
    data = NoisyData(arrays(path), Given())
    assert (len(data.train_set), len(data.reference_set), data.reference_index) == (N, 6, None)
    assert data.reference_from == "the rows of reference_x"
    assert torch.equal(data.reference_set.inputs.stacked(), torch.from_numpy(CONTENT["test_x"][:6]))


# ---- images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "arrange"),
    [
        ((N, 8, 6), with_one_channel),
        ((N, 8, 6, 3), channels_first),
        ((N, 8, 6, 1), channels_first),
        ((N, 3, 8, 6), as_stored),
    ],
)
def test_bytes_of_three_and_four_dimensions_are_images_normalised_by_channel(tmp_path, shape, arrange):
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    benchmark = arrays(write_npz(tmp_path, train_x=pixels, test_x=pixels[:M]))
    expected = torch.from_numpy(np.ascontiguousarray(arrange(pixels)))
    assert torch.equal(benchmark.train.inputs.stacked(), expected)
    values = expected.double() / 255
    assert benchmark.views.mean == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert benchmark.views.std == pytest.approx(values.std((0, 2, 3), correction=0).tolist(), abs=1e-12)
    data = NoisyData(benchmark, Given(), reference_share=None)
    assert data.input_shape == tuple(expected.shape[1:])
    assert torch.equal(data.images[3], expected[3])
    assert data.benchmark.views.train is None


def test_a_channel_that_is_constant_becomes_zero(tmp_path):
    pixels = IMAGES["train_x"].copy()
    pixels[..., 1] = 90
    data = NoisyData(arrays(write_npz(tmp_path, content=IMAGES, train_x=pixels)), Given(), reference_share=None)
    seen = torch.stack([image for image, _ in data.train_set])
    assert seen[:, 1].abs().max() < 1e-5
    assert seen[:, 0].std() == pytest.approx(1, abs=0.01)


def test_images_are_cropped_and_flipped_where_that_is_asked(tmp_path):
    path = write_npz(tmp_path, content=IMAGES)
    augment = arrays(path, augment=True).views.train
    assert isinstance(augment, CropFlip)
    assert (augment.size, augment.padding) == (8, 1)
    for in_memory in (False, True):
        data = NoisyData(arrays(path, augment=True), Given(), reference_share=None, in_memory=in_memory, batch_size=N)
        (batch,) = data.train_dataloader()
        images, _ = data.on_after_batch_transfer(batch, 0)
        plain = torch.stack([image for image, _ in NoisyData(arrays(path), Given(), None).train_set])
        assert sum(bool((image == plain).all((1, 2, 3)).any()) for image in images) < N / 2


# ---- columns ----------------------------------------------------------------------------------------------

NUMBERS = {
    "float16": RNG.normal(3, 2, (N, D)).astype(np.float16),
    "float64": RNG.normal(1e9, 0.01, (N, D)),
    "big-endian": RNG.normal(3, 2, (N, D)).astype(">f4"),
    "bytes": RNG.integers(0, 256, (N, D), dtype=np.uint8),
    "uint16": RNG.integers(0, 60000, (N, D), dtype=np.uint16),
    "int64": RNG.integers(10**12, 10**12 + 9, (N, D)),
    "truth": RNG.integers(0, 2, (N, 2, 3, 4)).astype(bool),
    "grids": RNG.normal(3, 2, (N, 3, 4, 4)).astype(np.float32),
    "one column": RNG.normal(3, 2, N).astype(np.float32),
    "transposed": np.asfortranarray(RNG.normal(3, 2, (N, D))),
}


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("name", NUMBERS)
def test_every_column_has_mean_0_and_deviation_1_over_the_training_rows(tmp_path, name, in_memory):
    numbers = NUMBERS[name]
    benchmark = arrays(write_npz(tmp_path, train_x=numbers, test_x=numbers[:M]))
    data = NoisyData(benchmark, Given(), reference_share=None, in_memory=in_memory, batch_size=N)
    (batch,) = data._loader(data.probe_set)
    seen, labels = data.on_after_batch_transfer(batch, 0)
    exact = numbers.astype(np.float64).reshape(N, *(numbers.shape[1:] or (1,)))
    expected = (exact - exact.mean(0)) / exact.std(0)
    assert seen.dtype == torch.float32
    assert seen.numpy() == pytest.approx(expected, abs=1e-4)
    assert torch.equal(labels, data.labels)
    assert data.images is None


def test_statistics_in_blocks_are_those_of_all_rows(monkeypatch):
    monkeypatch.setattr("alignprune_pl.data.array_rows._BLOCK", 7 * D)
    rows = ArrayRows(CONTENT["train_x"])
    assert [len(block) for _, block in rows.blocks()] == [7] * 8 + [4]
    mean, deviation = by_column(rows, "x")
    exact = CONTENT["train_x"].astype(np.float64)
    assert mean == pytest.approx(exact.mean(0), rel=1e-12)
    assert deviation[:4] == pytest.approx(exact.std(0)[:4], rel=1e-9)


@pytest.mark.parametrize("constant", [np.float32(0.1), np.float64(0.1), np.float64(1e9 + 0.1), np.float16(7)])
def test_a_constant_column_becomes_zero(tmp_path, constant):
    numbers = np.full((N, D), constant)
    numbers[:, 0] = np.arange(N)
    data = NoisyData(arrays(write_npz(tmp_path, train_x=numbers, test_x=numbers[:M])), Given(), reference_share=None)
    seen = torch.stack([row for row, _ in data.train_set])
    assert seen[:, 0].std() > 0.9
    assert (seen[:, 1:] == 0).all()


def test_columns_are_taken_as_they_are_if_that_is_asked(tmp_path):
    data = NoisyData(arrays(write_npz(tmp_path), standardise=False), Given(), reference_share=None)
    assert torch.equal(torch.stack([row for row, _ in data.train_set]), torch.from_numpy(CONTENT["train_x"]))


def test_a_trainer_of_low_precision_rounds_numbers_after_they_are_standardised(tmp_path):
    class Noting(torch.nn.Module):
        def forward(self, rows):
            seen.append(rows.detach().float())
            return rows.new_zeros(len(rows), 3).requires_grad_()

    seen = []
    numbers = (CONTENT["train_x"] + 1e5).astype(np.float32)  # more than float16 has
    data = NoisyData(
        arrays(write_npz(tmp_path, train_x=numbers)), Given(), reference_share=None, in_memory=True, batch_size=N
    )
    module = Classifier(Noting(), 3, lambda _: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))
    make_trainer(max_epochs=1, precision="16-true", limit_val_batches=0).fit(module, datamodule=data)
    assert seen[0].isfinite().all()
    assert seen[0][:, 0].std() == pytest.approx(1, abs=0.1)


def test_a_benchmark_of_ones_own_may_have_features_in_tensors():
    x, labels = torch.randn(30, 4), torch.arange(30) % 3
    views = Columns(torch.zeros(4), torch.ones(4))
    benchmark = Benchmark("own", tuple("abc"), views, Part(x, labels), {"test": Part(x, labels)}, labels)
    data = NoisyData(benchmark, Clean(), reference_share=0.1)
    assert torch.equal(data.train_set[3][0], x[data.train_index[3]])
    with pytest.raises(ValueError, match=r"own's train part has inputs torch.float32\[30, 4\] .* but numbers \[n, 5\]"):
        Benchmark("own", tuple("abc"), Columns(torch.zeros(5), torch.ones(5)), Part(x, labels), {})


def test_instance_noise_looks_at_the_standardised_rows(tmp_path):
    benchmark = arrays(write_npz(tmp_path, train_clean=CLEAN))
    data = NoisyData(benchmark, InstanceDependent(0.4), reference_share=None)
    assert 0.1 < data.noise_mask.float().mean() < 0.7


# ---- what stays on disk -----------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path):
    """64 MB of float16, with its labels."""
    x = np.lib.format.open_memmap(tmp_path / "train_x.npy", "w+", np.float16, (16_000, 2_000))
    x[:, 0] = np.arange(16_000) % 100
    del x
    labels = np.arange(16_000) % 4
    for name, array in {"train_y": labels, "test_x": np.zeros((8, 2_000), np.float16), "test_y": labels[:8]}.items():
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


def test_training_over_a_mapped_file_never_holds_more_than_some_blocks_of_it(large):
    tracemalloc.start()  # which counts what NumPy allocates, and no mapped page
    try:
        data = NoisyData(arrays(large), Symmetric(0.4), train_size=12_000)
        rows = sum(len(labels) for _, labels in data.train_dataloader())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        NoisyData(arrays(large), Symmetric(0.4), in_memory=True)
        _, in_memory = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows == 12_000 - 120
    assert peak < 48e6
    assert in_memory > 64e6  # what would be seen


@pytest.mark.parametrize("write", [write_npz, write_npy], ids=["npz", "npy"])
def test_arrays_are_mapped_and_a_subset_is_indices_alone(tmp_path, write):
    benchmark = arrays(write(tmp_path))
    assert isinstance(stored(benchmark.train), np.memmap)
    subset = benchmark.train.subset(torch.tensor([5, 3, 3])).subset(torch.tensor([2, 0]))
    assert stored(subset) is stored(benchmark.train)
    assert torch.equal(subset.inputs.stacked(), torch.from_numpy(CONTENT["train_x"][[3, 5]]))
    data = NoisyData(benchmark, Given(), reference_share=0.2)
    assert stored(data._train) is stored(benchmark.train)


def test_a_worker_process_gets_the_place_of_the_rows_and_not_the_rows(large):
    rows = arrays(large).train.inputs.subset(torch.arange(100))
    pickled = pickle.dumps(rows)
    assert len(pickled) < 3000
    assert torch.equal(pickle.loads(pickled).stacked(), rows.stacked())


def test_an_array_whose_columns_lie_together_is_read_at_once_and_comes_to_a_worker_whole(tmp_path):
    rows = arrays(write_npz(tmp_path, train_x=np.asfortranarray(CONTENT["train_x"]))).train.inputs
    assert not isinstance(rows._array, np.memmap)
    assert torch.equal(pickle.loads(pickle.dumps(rows)).stacked(), torch.from_numpy(CONTENT["train_x"]))


@pytest.mark.parametrize(
    ("stored_as", "read_as"),
    [("u2", torch.int32), ("u4", torch.int64), ("u8", torch.float64), (">f2", torch.float16), ("?", torch.int8)],
)
def test_numbers_that_torch_hardly_calculates_with_are_read_as_others(stored_as, read_as):
    rows = ArrayRows(np.array([[0], [1]], dtype=stored_as))
    assert (rows.dtype, rows.stacked().dtype, rows.stacked().tolist()) == (read_as, read_as, [[0], [1]])


def test_worker_processes_read_the_rows(tmp_path):
    data = NoisyData(arrays(write_npz(tmp_path)), Given(), reference_share=None, num_workers=1, batch_size=N)
    ((seen, labels),) = data.val_dataloader()[0]
    expected = data.benchmark.views.normalised(torch.from_numpy(CONTENT["test_x"]))
    assert torch.equal(seen, expected)
    assert labels.tolist() == CONTENT["test_y"].tolist()


def test_a_compressed_array_is_read_into_memory_and_one_line_says_so(tmp_path, caplog):
    path = write_npz(tmp_path, write=np.savez_compressed)
    with caplog.at_level("INFO"):
        benchmark = arrays(path)
    assert not isinstance(stored(benchmark.train), np.memmap)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"{path}: train_x, test_x had to be unpacked into memory; numpy.savez writes arrays that are read from disk by rows."
    ]


def test_in_memory_the_rows_are_there_once_and_a_batch_is_one_indexing(tmp_path, monkeypatch):
    data = NoisyData(arrays(write_npz(tmp_path)), Given(), reference_share=None, in_memory=True, batch_size=16)
    assert data.train_set.inputs is data.probe_set.inputs
    assert data.train_set.inputs.dtype == torch.float32
    reads = []
    plain = NoisyData(arrays(write_npz(tmp_path)), Given(), reference_share=None, batch_size=16)
    read = ArrayRows.__getitem__
    monkeypatch.setattr(ArrayRows, "__getitem__", lambda rows, at: reads.append(at) or read(rows, at))
    assert len(list(plain.train_dataloader())) == len(reads) == 4


# ---- the command ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", ["false", "true"])
def test_the_command_trains_on_features_and_its_page_names_rows_without_pictures(tmp_path, in_memory):
    path = write_npz(tmp_path, train_clean=CLEAN)
    chosen = [f"dataset.path={path}", f"data.in_memory={in_memory}", "pruning=calibrated", "reference.share=0.1"]
    hidden = "model.hidden=[]" if in_memory == "true" else "model.hidden=[8]"
    done = train("dataset=arrays", *chosen, hidden, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["dataset"] == "arrays"
    assert summary["noise_rate"] == pytest.approx(0.3, abs=0.05)
    run = read_run(tmp_path / "run")
    assert "thumbnails" not in run.record
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Most suspect samples" in page
    first = run.labels["train_index"][np.nanargmax(run.suspicion)]
    assert f"no. {first}<" in page
    assert page.count("<figcaption>") == 16
    assert 'class="small"' not in page


def test_the_command_trains_a_convolutional_network_on_images_and_its_page_shows_them(tmp_path):
    path = write_npy(tmp_path, content=IMAGES)
    chosen = [f"dataset.path={path}", "model=small_cnn", "model.width=4", "dataset.augment=true", "reference.share=0.1"]
    done = train("dataset=arrays", *chosen, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = read_run(tmp_path / "run")
    (first,) = run.record["thumbnail_of"][:1]
    assert np.array_equal(run.record["thumbnails"][0], IMAGES["train_x"][run.labels["train_index"][first]])
    assert "Most suspect images" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("model", ["small_cnn", "resnet18_cifar", "resnet50"])
def test_a_network_for_images_refuses_features_before_training(tmp_path, model):
    done = train("dataset=arrays", f"dataset.path={write_npz(tmp_path)}", f"model={model}", *SMALL, cwd=tmp_path)
    assert done.returncode == 1
    assert (
        f"error: {model} takes images [channels, height, width], but the inputs are [5]; take another network, such as "
        "model=mlp." in done.stderr
    )
