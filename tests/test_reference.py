"""How a reference is loaded that is given as a data set."""

from __future__ import annotations

from torch.utils.data import TensorDataset, get_worker_info

from alignprune_pl import AlignPrune, LossScore, NoPruning
from helpers import Plain, make_data, make_loader, make_trainer


class OfWorkers(TensorDataset):
    """Knows whether a worker that the user has set up asks for an item."""

    def __getitem__(self, index):
        worker = get_worker_info()
        if worker is None or not getattr(worker.dataset, "is_set_up", False):
            raise RuntimeError("no worker of the user's asks")
        return super().__getitem__(index)


def set_up(_):
    get_worker_info().dataset.is_set_up = True


def test_a_reference_is_loaded_by_the_workers_that_the_training_loader_has():
    train, reference, _ = make_data()
    prune = AlignPrune(OfWorkers(*reference.tensors), NoPruning(), LossScore())
    make_trainer(prune, max_epochs=1).fit(Plain(), make_loader(train, num_workers=1, worker_init_fn=set_up))
    assert prune.history[0]["reference_loss"] > 0
