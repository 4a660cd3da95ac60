"""How a reference is loaded that is given as a data set, and what its samples show."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, get_worker_info

from alignprune_pl import AlignPrune, LossScore, NoPruning
from helpers import CLASSES, Plain, make_data, make_loader, make_trainer


class OfWorkers(TensorDataset):
    """Knows whether a worker that the user has set up asks for an item."""

    def __getitem__(self, index):
        worker = get_worker_info()
        if worker is None or not getattr(worker.dataset, "is_set_up", False):
            raise RuntimeError("no worker of the user's asks")
        return super().__getitem__(index)


def set_up(_):
    get_worker_info().dataset.is_set_up = True


MEANS = []  # of the module's own, which is put back, nothing would be left


class TwoHeads(Plain):
    """Trains one head, or one of two by turns; in eval mode it has the loss of both."""

    def __init__(self, turns):
        super().__init__()
        self.turns, self.other = turns, nn.Linear(16, CLASSES)

    def training_step(self, batch, batch_idx):
        features = self.net[:-1](batch[0][:, 1:])
        losses = [F.cross_entropy(head(features), batch[1]) for head in (self.net[-1], self.other)]
        if self.training:
            return losses[batch_idx % 2 if self.turns else 0]
        MEANS.append(float(sum(losses).detach()))
        return sum(losses)


@pytest.mark.parametrize("turns", [False, True])
def test_a_step_that_has_more_terms_in_eval_mode_gives_the_reference_all_of_them(turns):
    module = TwoHeads(turns)
    prune = AlignPrune(DataLoader(make_data()[1], 20), score="loss", seed=0)
    make_trainer(prune, max_epochs=3).fit(module, make_loader(make_data()[0]))
    assert prune.history[-1]["reference_loss"] == pytest.approx(MEANS[-1], rel=1e-5)


def test_a_reference_is_loaded_by_the_workers_that_the_training_loader_has():
    train, reference, _ = make_data()
    prune = AlignPrune(OfWorkers(*reference.tensors), NoPruning(), LossScore())
    make_trainer(prune, max_epochs=1).fit(Plain(), make_loader(train, num_workers=1, worker_init_fn=set_up))
    assert prune.history[0]["reference_loss"] > 0
