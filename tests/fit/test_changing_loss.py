"""A loss that becomes another one in the midst of a run: what is then observed, and that it is said."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from manual_step import ManualStep
from test_exact_in_every_step import WEIGHT, B, Net, Step, X, Y, ce, gce, trained

from alignprune_pl import AlignPrune, LossScore
from alignprune_pl.fit.capture import LossCapture
from helpers import Fixed, N, Plain, make_data, make_loader, make_trainer

NOTHING = r"AlignPrune now observes nothing of this batch, as training_step's loss has changed"
NORM = r"AlignPrune now observes the norm of each sample's gradient"


def plain(z, y=Y):
    return F.cross_entropy(z, y)


def dice(z, y=Y):
    """Of the batch together: no sample has a term of its own."""
    p, y = z.softmax(1), F.one_hot(y, z.shape[1])
    return 1 - ((2 * (p * y).sum(0) + 1) / (p.sum(0) + y.sum(0) + 1)).mean()


class Changing(Step):
    """Its loss is set from outside."""

    def __init__(self, net=None):
        super().__init__(None, net)
        self.loss = plain

    def training_step(self, batch, batch_idx):
        return self.loss(self.net(X))

    def norms(self):
        z = self.net(X)
        return B * torch.autograd.grad(self.loss(z), z)[0].norm(dim=1)


def test_of_a_loss_that_has_lost_its_terms_the_norm_is_observed_from_the_second_batch_on():
    module, capture = Changing(), LossCapture()
    trained(module, capture, WEIGHT)
    module.loss = dice
    with pytest.warns(UserWarning, match=NOTHING):
        _, observed = trained(module, capture, WEIGHT)
    assert observed is None
    with pytest.warns(UserWarning, match=NORM):
        _, observed = trained(module, capture, WEIGHT)
    torch.testing.assert_close(observed.value, module.norms())
    for module.loss in (dice, plain):  # trajectories go on in one unit
        _, observed = trained(module, capture, WEIGHT)
        torch.testing.assert_close(observed.value, module.norms())


def test_of_one_whose_terms_are_values_these_are_observed_from_the_second_batch_on():
    module, capture = Changing(), LossCapture()
    trained(module, capture, WEIGHT)
    module.loss = lambda z: gce(z).mean()
    with pytest.warns(UserWarning, match=NOTHING):
        trained(module, capture, WEIGHT)
    for _ in range(2):
        _, observed = trained(module, capture, WEIGHT)
        torch.testing.assert_close(observed.value, gce(module.net(X)).detach())
    module.loss = plain
    _, observed = trained(module, capture, WEIGHT)
    torch.testing.assert_close(observed.value, ce(module.net(X), Y).detach())


def test_of_two_losses_by_turns_no_more_than_one_batch_is_lost():
    module, capture = Changing(), LossCapture()
    trained(module, capture, WEIGHT)
    for module.loss, said in ((dice, NOTHING), (plain, ""), (dice, NORM), (plain, ""), (dice, "")):
        with pytest.warns(UserWarning, match=said) if said else nullcontext():
            _, observed = trained(module, capture, WEIGHT)
        assert (observed is None) == (said == NOTHING)


@pytest.mark.parametrize("loss", [dice, lambda z: gce(z).mean()], ids=["of the batch", "of values"])
def test_with_a_compiled_network_that_cannot_be_watched_the_norm_is_observed_at_once(loss):
    torch._dynamo.reset()
    module, capture = Changing(torch.compile(Net(), backend="eager")), LossCapture()
    trained(module, capture, WEIGHT)
    module.loss = loss
    with pytest.warns(UserWarning, match=NORM):
        _, observed = trained(module, capture, WEIGHT)
    torch.testing.assert_close(observed.value, module.norms())
    _, observed = trained(module, capture, WEIGHT)
    torch.testing.assert_close(observed.value, module.norms())


def test_with_a_compiled_network_the_part_that_the_graph_tells_is_observed_and_it_is_said():
    torch._dynamo.reset()
    module, capture = Changing(torch.compile(Net(), backend="eager")), LossCapture()
    trained(module, capture, WEIGHT)
    module.loss = lambda z: plain(z) + gce(z).mean()
    with pytest.warns(UserWarning, match=r"now observes a part of training_step's loss"):
        _, observed = trained(module, capture, WEIGHT)
    torch.testing.assert_close(observed.value, ce(module.net(X), Y).detach())


@pytest.mark.filterwarnings("ignore:AlignPrune now observes")
@pytest.mark.parametrize("later", [dice, lambda z, y: gce_of(z, y).mean()], ids=["of the batch", "of values"])
def test_a_run_whose_loss_changes_observes_its_samples_after_it(later):
    class Module(Plain):
        def training_step(self, batch, batch_idx):
            self.loss = plain if self.trainer.current_epoch < 1 else later
            return self.loss(self(batch[0]), batch[1])

    prune = AlignPrune(make_data()[1], Fixed([N]), LossScore(), window=4)
    make_trainer(prune, max_epochs=3).fit(Module(), make_loader(make_data()[0]))
    unobserved = [int(column.isnan().sum()) for column in prune.store.losses().T]
    assert unobserved == [0, 16, 0]  # a batch
    assert all(torch.tensor(row["reference_loss"]).isfinite() for row in prune.history)


def gce_of(z, y):
    return (1 - z.softmax(1).gather(1, y[:, None]).squeeze(1) ** 0.7) / 0.7


def test_a_reference_after_an_epoch_of_one_batch_that_was_lost_is_evaluated_all_the_same():
    module, capture = Changing(), LossCapture()
    trained(module, capture, WEIGHT)
    module.loss = dice
    with pytest.warns(UserWarning, match=NOTHING):
        trained(module, capture, WEIGHT)
    observed = capture.observe(module, lambda: module.training_step(None, 0), B)
    torch.testing.assert_close(observed.value, module.norms())


def test_of_several_losses_by_hand_one_without_terms_leaves_the_others_as_they_are(caplog):
    class Both(ManualStep):
        def training_step(self, batch, batch_idx):
            z, side = self.net.both(X)
            self.manual_backward(plain(z), retain_graph=True)
            self.manual_backward(dice(side))

    module, capture = Both(), LossCapture()
    with caplog.at_level("INFO"):
        for _ in range(3):
            capture.arm(module, B, WEIGHT)
            module.training_step(None, 0)
            torch.testing.assert_close(capture.take().value, ce(module.net(X), Y).detach())
            capture.disarm()
    assert caplog.text.count("observes a part of training_step's losses") == 1
