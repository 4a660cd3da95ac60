"""Streams of webdataset, litdata and Hugging Face datasets, each with the keys that it has and the hook that it offers."""

from __future__ import annotations

import gc
import io
import shutil

import litdata
import numpy as np
import pytest
import torch
import webdataset
from torch.utils.data import DataLoader

import datasets
from alignprune_pl import AlignPrune
from helpers import N, Plain, make_data, make_trainer
from test_own_samplers import Half
from test_stream import sizes

TRAIN, REFERENCE, _ = make_data()
pytestmark = [
    pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined"),
    # webdataset does not close the shards that it has read.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
EVEN = list(range(0, N, 2))


@pytest.fixture(autouse=True)
def leave_nothing_to_the_next_test():
    yield
    gc.collect()


def decoded_x(raw):
    return torch.from_numpy(np.load(io.BytesIO(raw)))


def bytes_of(tensor):
    file = io.BytesIO()
    np.save(file, tensor.numpy())
    return file.getvalue()


class Fields(Plain):
    """Takes samples whose fields have names."""

    def training_step(self, batch, batch_idx):
        return super().training_step((batch["x"], batch["y"].long()), batch_idx)


def fit(stream, prune=None, epochs=3, **loader):
    module = Fields()
    prune = AlignPrune(policy=Half()) if prune is None else prune
    run = make_trainer(prune, max_epochs=epochs)
    run.fit(module, DataLoader(stream, **{"batch_size": 16, **loader}))
    return module, prune


# ---- webdataset ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    with webdataset.ShardWriter(str(folder / "train-%02d.tar"), maxcount=60, verbose=0) as sink:
        for i, (x, y) in enumerate(TRAIN):
            # Within its shard alone a key is the only one of its kind.
            sink.write({"__key__": f"{i % 60:04d}", "npy": x.numpy(), "cls": int(y)})
    return sorted(map(str, folder.glob("*.tar")))


def named(sample):
    return {"x": torch.from_numpy(sample["npy"]), "y": sample["cls"], **{k: sample[k] for k in ("__key__", "__url__")}}


def key_in(shards, i):
    return f"{'/'.join(shards[i // 60].split('/')[-2:])}/{i % 60:04d}"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_webdataset_is_pruned_by_shard_and_key_with_no_key_given(shards, workers):
    stream = webdataset.WebDataset(shards, shardshuffle=False).decode().map(named)
    module, prune = fit(stream, num_workers=workers)
    kept = [i for i in range(N) if prune.index_of([key_in(shards, i)]).item() % 2 == 0]
    assert sorted(module.trained(0)) == list(range(N))
    for epoch in (1, 2):
        assert sorted(module.trained(epoch)) == kept
    assert len(prune.keys) == N
    assert [row["full"] for row in prune.history] == [N] * 3


def test_a_webdatasets_samples_are_left_out_before_they_are_decoded_by_its_own_select(shards):
    decoded = []
    prune = AlignPrune(policy=Half())

    def decode(sample):
        decoded.append(sample["__key__"])
        return named({**sample, "npy": np.load(io.BytesIO(sample["npy"])), "cls": int(sample["cls"])})

    stream = webdataset.WebDataset(shards, shardshuffle=False).select(prune.keeps).map(decode).shuffle(30)
    module, _ = fit(stream, prune)
    assert len(decoded) == N + sum(len(module.trained(epoch)) for epoch in (1, 2))
    assert [row["full"] for row in prune.history] == [N] * 3


def test_a_shard_that_is_read_from_elsewhere_has_the_same_keys(shards, tmp_path):
    stream = webdataset.WebDataset(shards, shardshuffle=False).decode().map(named)
    _, prune = fit(stream, epochs=1)
    moved = [tmp_path / "/".join(shard.split("/")[-2:]) for shard in shards]
    moved[0].parent.mkdir()
    for shard, to in zip(shards, moved, strict=True):
        shutil.copy(shard, to)
    stream = webdataset.WebDataset([*map(str, moved)], shardshuffle=False).decode().map(named)
    _, other = fit(stream, epochs=1)
    assert torch.equal(prune.keys, other.keys)


def test_an_epoch_of_nominal_length_loses_what_is_left_out(shards):
    stream = webdataset.WebDataset(shards, resampled=True, shardshuffle=False).decode().map(named).with_epoch(n := 150)
    stream.pipeline[0].deterministic = True  # or every run draws other shards, whatever the seed
    _, prune = fit(stream, epochs=4)
    assert [row["full"] for row in prune.history] == [n] * 4
    assert all(row["kept"] < n for row in prune.history[1:])
    assert prune.history[0]["kept"] == n


def test_a_webdataset_that_makes_batches_itself_is_refused(shards):
    stream = webdataset.WebDataset(shards, shardshuffle=False).decode().map(named).batched(16)
    with pytest.raises(Exception, match=r"so that .* makes the batches, but it chooses single samples"):
        fit(stream, batch_size=None)
    prune = AlignPrune(policy=Half())
    with pytest.raises(Exception, match=r"got a WebLoader as training loader, but it prunes one DataLoader"):
        make_trainer(prune).fit(Fields(), webdataset.WebLoader(stream, batch_size=None))


# ---- litdata ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chunks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chunks")
    writer = litdata.streaming.writer.BinaryWriter(str(folder), chunk_size=30)
    for i, (x, y) in enumerate(TRAIN):
        writer[i] = {"x": x.numpy(), "y": int(y)}
    writer.done()
    writer.merge(1)
    return str(folder)


class Counted(litdata.StreamingDataset):
    """Counts what is read."""

    def __getitem__(self, index):
        with open(self.notes, "a") as notes:
            notes.write(f"{index.index}\n")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_litdata_stream_is_pruned_by_its_own_index_before_samples_are_read(chunks, workers, tmp_path):
    stream = Counted(chunks, shuffle=True, seed=1)
    stream.notes = tmp_path / "read"
    module, prune = fit(stream, num_workers=workers)
    assert sorted(module.trained(0)) == list(range(N))
    assert torch.equal(prune.keys, torch.arange(N))
    for epoch in (1, 2):
        assert sorted(module.trained(epoch)) == EVEN
    assert [row["full"] for row in prune.history] == [N] * 3
    read = stream.notes.read_text().split()
    # Besides what is trained the first sample of a chunk is read, and the last one of a worker.
    assert len(read) <= N + 2 * (len(EVEN) + 7 * 2 + 2)
    assert "__getitem__" not in vars(stream)


def test_a_key_of_ones_own_goes_before_litdatas_index(chunks):
    stream = litdata.StreamingDataset(chunks)
    prune = AlignPrune(policy=Half(), key=lambda sample: 1000 + int(sample["x"][0]))
    fit(stream, prune, epochs=2)
    assert prune.keys.tolist() == list(range(1000, 1000 + N))


def test_litdatas_own_loader_is_refused_by_name(chunks):
    loader = litdata.StreamingDataLoader(litdata.StreamingDataset(chunks), batch_size=16)
    with pytest.raises(Exception, match=r"stateful loader StreamingDataLoader.*use DataLoader"):
        make_trainer(AlignPrune(policy=Half())).fit(Fields(), loader)


# ---- Hugging Face -------------------------------------------------------------------------------------------


def rows(shards):
    for shard in shards:
        for i in range(shard, N, 4):
            yield {"id": f"{i:05d}", "raw": bytes_of(TRAIN[i][0]), "y": int(TRAIN[i][1])}


def hugging_face():
    return datasets.IterableDataset.from_generator(rows, gen_kwargs={"shards": [0, 1, 2, 3]})


def decode(row):
    return {"id": row["id"], "x": decoded_x(row["raw"]), "y": row["y"]}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_of_hugging_face_is_pruned_by_the_field_that_is_named(workers):
    prune = AlignPrune(policy=Half(), key="id")
    stream = hugging_face().map(decode, remove_columns=["raw"])
    module, _ = fit(stream, prune, num_workers=workers)
    kept = [i for i in range(N) if prune.index_of([f"{i:05d}"]).item() % 2 == 0]
    for epoch in (1, 2):
        assert sorted(module.trained(epoch)) == kept
    assert [row["full"] for row in prune.history] == [N] * 3
    assert sizes(module, 0)[0] == 16


def test_its_samples_are_left_out_before_they_are_decoded_by_its_own_filter(tmp_path):
    prune = AlignPrune(policy=Half(), key="id")
    notes = tmp_path / "decoded"

    def noted(row):
        with open(notes, "a") as file:
            file.write(row["id"] + "\n")
        return decode(row)

    stream = hugging_face().filter(prune.keeps).map(noted, remove_columns=["raw"])
    module, _ = fit(stream, prune, num_workers=2)
    assert len(notes.read_text().split()) == N + sum(len(module.trained(epoch)) for epoch in (1, 2))
    assert [row["full"] for row in prune.history] == [N] * 3


def test_without_a_field_that_is_named_it_is_refused():
    module = Fields()
    with pytest.raises(
        ValueError, match=r"a stream whose samples have no keys: one is a dict of 'id', 'y', 'x'; pass wh"
    ):
        make_trainer(AlignPrune(policy=Half())).fit(
            module, DataLoader(hugging_face().map(decode, remove_columns=["raw"]), 16)
        )
    assert module.batches == []


def test_the_reference_is_none_of_the_stream(shards):
    reference = [{"x": x, "y": int(y)} for x, y in REFERENCE]
    prune = AlignPrune(reference, policy=Half())
    stream = webdataset.WebDataset(shards, shardshuffle=False).decode().map(named)
    _, prune = fit(stream, prune, epochs=2)
    assert all(row["reference_loss"] > 0 for row in prune.history)
