"""Where a batch is as long as another dimension, those of other sizes before it tell which of the two is the batch."""

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric.utilities.exceptions import MisconfigurationException
from test_exact_in_every_step import WEIGHT, C, D, Net, Step, ce, draw
from torch.utils.data import TensorDataset

from alignprune_pl import AlignPrune
from alignprune_pl.fit.capture import LossCapture
from helpers import Fixed, make_loader, make_trainer

T = 4


def tokens(b, t=T):
    """Sequences and the labels of their tokens."""
    return draw(b, t, D, seed=b), torch.arange(b * t).view(b, t) % C


def labels(b):
    return torch.arange(b) * 2 % C


def followed(capture, net, step, b):
    """The gradient of a batch of b samples, and what was recorded."""
    module = Step(lambda net: step(net, b), net)
    module.zero_grad()
    capture.arm(module, b, WEIGHT[:b])
    module.training_step(None, 0).backward()
    observed = capture.take()
    capture.disarm()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]), observed.value


def meant(net, losses, b):
    """The same by losses written out: float[b]."""
    net.zero_grad()
    losses = losses(net, b)
    (WEIGHT[:b] * losses).mean().backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]), losses.detach()


def flattened(net, b, t=T):
    x, y = tokens(b, t)
    return F.cross_entropy(net(x).view(-1, C), y.view(-1))


def of_tokens(net, b, t=T):
    x, y = tokens(b, t)
    return ce(net(x).transpose(1, 2), y).mean(1)


def time_first(net, b):
    return net(tokens(b)[0].transpose(0, 1))


def one_by_one(net, b):
    return torch.stack([net(x) for x in tokens(b)[0][:, 0]])


def by_hand(net, b):
    return -net(tokens(b)[0][:, 0]).log_softmax(1)[torch.arange(b), labels(b)].mean()


def picked(b):
    """Six places, of the samples with an even number."""
    mask = torch.zeros(b, C, dtype=torch.bool)
    mask[:6:2, :2] = True
    return mask


def other_lengths(b):
    return b - 3 if b > T else T


STEPS = {  # a step, its losses, the sizes of its batches: the last one leaves open what is the batch
    "tokens, flattened": (flattened, of_tokens, (7, T)),
    "sequences of any length, flattened": (
        lambda net, b: flattened(net, b, other_lengths(b)),
        lambda net, b: of_tokens(net, b, other_lengths(b)),
        (7, 9, T),
    ),
    "time first, averaged": (
        lambda net, b: F.cross_entropy(time_first(net, b).mean(0), labels(b)),
        lambda net, b: ce(time_first(net, b).mean(0), labels(b)),
        (7, T),
    ),
    "time first, the last": (
        lambda net, b: F.cross_entropy(time_first(net, b)[-1], labels(b)),
        lambda net, b: ce(time_first(net, b)[-1], labels(b)),
        (7, T),
    ),
    "samples one by one, as many as classes": (
        lambda net, b: F.cross_entropy(one_by_one(net, b), labels(b)),
        lambda net, b: ce(one_by_one(net, b), labels(b)),
        (7, C),
    ),
    "a class of each, as many as classes": (by_hand, lambda net, b: ce(net(tokens(b)[0][:, 0]), labels(b)), (7, C)),
    "classes first, as many as samples": (
        lambda net, b: -net(tokens(b)[0][:, 0]).T.log_softmax(0)[labels(b), torch.arange(b)].mean(),
        lambda net, b: ce(net(tokens(b)[0][:, 0]), labels(b)),
        (7, C),
    ),
    "two losses": (
        lambda net, b: flattened(net, b) + F.cross_entropy(time_first(net, b).mean(0), labels(b)),
        lambda net, b: of_tokens(net, b) + ce(time_first(net, b).mean(0), labels(b)),
        (7, T),
    ),
    "batch first, averaged": (
        lambda net, b: F.cross_entropy(net(tokens(b)[0]).mean(1), labels(b)),
        lambda net, b: ce(net(tokens(b)[0]).mean(1), labels(b)),
        (7, T),
    ),
    "as many places picked as samples": (
        lambda net, b: net(tokens(b)[0][:, 0]).exp().masked_select(picked(b)).mean(),
        lambda net, b: (net(tokens(b)[0][:, 0]).exp() * picked(b)).sum(1) * b / picked(b).sum(),
        (8, 6),
    ),
    "one sample": (flattened, of_tokens, (7, 1)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_batch_as_long_as_another_dimension_is_told_from_it_by_the_batches_before(name):
    step, losses, sizes = STEPS[name]
    net, capture = Net(), LossCapture()
    for size in (*sizes, sizes[0], sizes[-1]):
        gradient, recorded = followed(capture, net, step, size)
        exact, expected = meant(net, losses, size)
        torch.testing.assert_close(gradient, exact, rtol=1e-4, atol=1e-6)
        if capture.kind != "norm":
            torch.testing.assert_close(recorded.nan_to_num(), expected)  # of a sample of which nothing counts it is NaN


def test_steps_in_turn_are_each_told_by_their_own_batches():
    net, capture = Net(), LossCapture()
    turns = [STEPS[name] for name in ("tokens, flattened", "time first, averaged", "batch first, averaged")]
    for size in (7, T):
        for step, losses, _ in turns:
            gradient, recorded = followed(capture, net, step, size)
            exact, expected = meant(net, losses, size)
            torch.testing.assert_close(gradient, exact, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(recorded, expected)


@pytest.mark.parametrize("sizes", [(T,), (T, T)])
def test_where_no_batch_of_another_size_was_before_it_is_left_open_and_refused(sizes):
    net, capture = Net(), LossCapture()
    for size in sizes:
        with pytest.raises(MisconfigurationException, match="either dimension could be the batch"):
            followed(capture, net, flattened, size)
        capture.disarm()


class Tagger(pl.LightningModule):
    """Labels each token of a sequence."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(x).view(-1, C), y.view(-1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_run_whose_plan_leaves_a_last_batch_as_long_as_a_sequence_goes_on_and_is_resumed(tmp_path):
    def fitted(epochs, checkpoint=None):
        torch.manual_seed(0)
        prune = AlignPrune(policy=Fixed([24, 16 + T], weight=1.5), score="loss", seed=1)
        trainer, module = make_trainer(prune, max_epochs=epochs), Tagger()
        trainer.fit(module, make_loader(TensorDataset(*tokens(24))), ckpt_path=checkpoint)
        return trainer, module, prune

    trainer, _, _ = fitted(1)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    (_, module, prune), (_, resumed, again) = fitted(4), fitted(4, tmp_path / "first.ckpt")
    assert prune.store.losses().isfinite().any(0).all()
    assert torch.equal(prune.store.losses().nan_to_num(), again.store.losses().nan_to_num())
    for parameter, other in zip(module.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(parameter, other)
