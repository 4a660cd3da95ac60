"""The training script's classifier: what it logs, and how its schedule is stepped."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from alignprune_pl.training.classifier import Classifier
from helpers import make_trainer

SGD = partial(torch.optim.SGD, lr=0.1)


class Fixed(torch.nn.Module):
    """Its logits are its input."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * x


def loader(logits, labels):
    return DataLoader(TensorDataset(logits, labels), batch_size=3)


def test_each_evaluated_part_has_its_own_accuracy_and_top_five():
    logits = torch.eye(12) + 1e-3 * torch.arange(12)  # the label itself, then the highest numbers
    labels = (torch.arange(12), torch.full((12,), 7), torch.zeros(12, dtype=torch.int64))
    parts = [loader(logits, each) for each in labels]
    module = Classifier(Fixed(), 12, SGD, evaluated=("test", "high", "low"))
    tested = make_trainer().test(module, parts, verbose=False)
    figures = {name: pytest.approx(figure, abs=1e-6) for part in tested for name, figure in part.items()}
    assert figures == {
        "test/acc": 1,
        "test/acc_top5": 1,
        "test/acc_high": 1 / 12,
        "test/acc_top5_high": 5 / 12,  # the fifth largest, if the input's own is 7 or more, else the sixth
        "test/acc_low": 1 / 12,
        "test/acc_top5_low": 1 / 12,
    }


def test_few_classes_have_no_top_five():
    tested = make_trainer().test(Classifier(Fixed(), 10, SGD), loader(torch.eye(10), torch.arange(10)), verbose=False)
    assert tested == [{"test/acc": 1.0}]


def test_the_training_loss_is_smoothed_and_the_validation_loss_is_not():
    module = Classifier(Fixed(), 4, SGD, label_smoothing=0.2)
    module.log = lambda *args, **kwargs: None
    batch = torch.eye(4), torch.arange(4)
    expected = F.cross_entropy(*batch, label_smoothing=0.2)
    assert module.training_step(batch, 0).item() == pytest.approx(expected.item())
    assert expected != F.cross_entropy(*batch)
    logged = {}
    module.log = lambda name, figure, **kwargs: logged.update({name: figure})
    module.validation_step(batch, 0)
    assert logged["val/loss"].item() == pytest.approx(F.cross_entropy(*batch).item())


@pytest.mark.parametrize(("interval", "expected"), [("epoch", 2), ("step", 8)])
def test_a_schedule_is_stepped_as_often_as_it_says_and_one_of_steps_knows_how_many(interval, expected):
    class Noting(torch.optim.lr_scheduler.LambdaLR):
        def __init__(self, optimizer, total_steps=None):
            self.total_steps, self.stepped = total_steps, -1  # its own first step is none of the trainer's
            super().__init__(optimizer, lambda step: 1.0)

        def step(self, *args):
            self.stepped += 1
            super().step(*args)

    module = Classifier(Fixed(), 12, SGD, Noting, interval)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, loader(torch.eye(12), torch.arange(12)))
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.stepped == expected
    assert scheduler.total_steps == (8 if interval == "step" else None)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"interval": "batch"}, "interval='batch' is given"), ({"label_smoothing": 1.0}, "label_smoothing=1.0 is given")],
)
def test_a_wrong_setting_is_told(setting, message):
    with pytest.raises(ValueError, match=message):
        Classifier(Fixed(), 4, SGD, **setting)


def test_weights_of_another_network_are_refused_with_what_does_not_fit():
    one, other = (Classifier(torch.nn.Linear(4, classes), 3, SGD) for classes in (3, 5))
    one.load_state_dict(one.state_dict())
    with pytest.raises(
        ValueError, match=r"of another network is given \(size mismatch for network\.bias: .*\); give the model="
    ):
        one.load_state_dict(other.state_dict())
