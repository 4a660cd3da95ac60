"""Trainings in the style of well-known projects are checked from outside, by the spy of ``make compat``.

It shares no code with the capture: a sample's number is read from the data, and gradients are those of losses written out
beside each step, or of rows at the network's output caught by a forward hook.
"""

import sys

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from helpers import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "compat"))
try:
    import plain
    import spy
    import vision
finally:
    sys.path.pop(0)

VOCABULARY, LENGTH = 40, 8


class Transformer(pl.LightningModule):
    """Computes its loss inside, over tokens shifted by one and flattened into the batch, as language models do."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, 16), nn.Linear(16, VOCABULARY)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)

    def forward(self, tokens, labels=None):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        logits = self.head(self.block(self.embed(tokens), src_mask=mask, is_causal=True))
        if labels is None:
            return logits
        shifted, wanted = logits[:, :-1].contiguous(), labels[:, 1:].contiguous()
        return F.cross_entropy(shifted.view(-1, VOCABULARY), wanted.view(-1), ignore_index=-100)

    def training_step(self, batch, batch_idx):
        return self(*batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def sentences(n, seed):
    """Random tokens, the first of which is the sample's number, and the same as labels, some of them ignored."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (n, LENGTH), generator=g)
    tokens[:, 0] = torch.arange(n)
    ignored = torch.rand(n, LENGTH, generator=g) < 0.3
    ignored[:, 1] = False
    return TensorDataset(tokens, tokens.masked_fill(ignored, -100))


def transformer():
    def losses(module, batch):
        logits, wanted = module(batch[0])[:, :-1], batch[1][:, 1:]
        each = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none", ignore_index=-100)
        return each.sum(1) / (wanted != -100).sum() * len(each)

    loaders = plain.loader(sentences(32, 0)), plain.loader(sentences(8, 1), shuffle=False)
    return spy.Training(lambda batch: batch[0][:, 0], Transformer(), loaders[0], losses=losses, reference=loaders[1])


class Contrastive(pl.LightningModule):
    """Two views of each image, each of which has to find the other among those of the batch."""

    def __init__(self):
        super().__init__()
        self.net = plain.network(8)

    def training_step(self, batch, batch_idx):
        x = batch[0]
        z = torch.cat([F.normalize(self.net(view)) for view in (x + 0.1 * torch.randn_like(x), x.flip(-1))])
        like = (z @ z.T / 0.2).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
        return F.cross_entropy(like, torch.arange(len(z)).roll(len(x)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def contrastive():
    return spy.Training(plain.numbers, Contrastive(), plain.loader(plain.images()), output="net")


TRAININGS = [plain.hydra_template, vision.torchvision_focal, transformer, contrastive]


@pytest.fixture(scope="module", params=TRAININGS, ids=[make.__name__ for make in TRAININGS])
def found(request):
    torch.manual_seed(0)
    training = request.param()
    return training, spy.watch(training)


def test_recorded_indices_are_those_of_the_data_in_each_batch(found):
    assert found[1].right_ids == found[1].batches == 8


def test_the_optimizer_sees_the_gradient_of_the_weighted_loss(found):
    assert found[1].unweighted > 0.1, "without weights the gradient is another one"
    assert found[1].gradient < 1e-5


def test_recorded_is_each_samples_loss_or_the_norm_of_its_gradient_where_samples_are_coupled(found):
    training, seen = found
    assert ("norm" in seen.observes) == (training.losses is None)
    assert training.losses is None or seen.loss < 1e-5, "the losses are those of the step"
    assert seen.correlation > 0.999
    torch.testing.assert_close(torch.tensor(seen.recorded), torch.tensor(seen.expected))


def test_a_reference_shows_its_own_mean_loss(found):
    training, seen = found
    assert (seen.reference is None) == (training.reference is None)
    assert seen.reference is None or seen.reference < 1e-5
