from __future__ import annotations

import errno

import pytest
import torch

from alignprune_pl.training.atomic_checkpoint import AtomicCheckpointIO


def test_a_checkpoint_is_written_and_read_back(tmp_path):
    place = tmp_path / "folder" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"value": torch.arange(3)}, place)
    assert torch.equal(AtomicCheckpointIO().load_checkpoint(place)["value"], torch.arange(3))
    assert [path.name for path in place.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_what_cannot_be_written_whole_leaves_the_last_checkpoint(tmp_path, monkeypatch, error):
    place, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"epoch": 1}, place)

    def fails_half_way(checkpoint, file):
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fails_half_way)
    with pytest.raises(type(error)):
        io.save_checkpoint({"epoch": 2}, place)
    assert io.load_checkpoint(place) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_an_address_is_left_to_lightning(tmp_path):
    AtomicCheckpointIO().save_checkpoint({"epoch": 3}, f"file://{tmp_path}/last.ckpt")
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt") == {"epoch": 3}
