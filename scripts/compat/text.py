"""Language models that compute their loss inside."""

# ruff: noqa: D101, D102, as Lightning's hooks are documented there

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from plain import loader
from spy import Training
from torch.utils.data import Dataset

VOCABULARY, LENGTH = 60, 12


class Sentences(Dataset):
    """Random tokens, the first two of which spell the sample's number; the end is padding of some length."""

    def __init__(self, masked: bool, n: int = 32, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(12, VOCABULARY, (n, LENGTH), generator=g)
        self.ids[:, 0], self.ids[:, 1] = torch.arange(n) // 10, torch.arange(n) % 10
        length = torch.randint(6, LENGTH + 1, (n, 1), generator=g)
        self.mask = (torch.arange(LENGTH) < length).long()
        asked = torch.rand(n, LENGTH, generator=g) < (0.4 if masked else 2.0)
        asked[:, 2] = True
        self.labels = self.ids.masked_fill(~(asked & self.mask.bool()), -100)
        if masked:
            self.ids = self.ids.masked_fill(asked & (torch.arange(LENGTH) > 1), 11)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[i], "attention_mask": self.mask[i], "labels": self.labels[i]}


class LanguageModel(pl.LightningModule):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        loss = self.model(**batch).loss
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def _tokens(module, batch, shift: int) -> torch.Tensor:
    """The loss of each sample: its tokens' part in the mean over all that count."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits, labels = module.model(**inputs).logits, batch["labels"]
    logits, labels = logits[:, : logits.shape[1] - shift], labels[:, shift:]
    each = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    return each.sum(1) / (labels != -100).sum() * len(labels)


def _number(batch) -> torch.Tensor:
    return batch["input_ids"][:, 0] * 10 + batch["input_ids"][:, 1]


def _training(model, masked: bool) -> Training:
    reference = loader(Sentences(masked, 8, seed=1), shuffle=False)
    shift = 0 if masked else 1

    def losses(module, batch):
        return _tokens(module, batch, shift)

    remark = "padded; a sample's loss is its tokens' part in the mean over the batch's"
    return Training(
        _number, LanguageModel(model), loader(Sentences(masked)), losses=losses, reference=reference, remark=remark
    )


def gpt2() -> Training:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2)
    return _training(GPT2LMHeadModel(config), masked=False)


def llama() -> Training:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return _training(LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes)), masked=False)


def bert() -> Training:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return _training(BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, **sizes)), masked=True)


def vit() -> Training:
    from plain import images, numbers
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, num_labels=4, **sizes))

    class Images(LanguageModel):
        def training_step(self, batch, batch_idx):
            return self.model(pixel_values=batch[0], labels=batch[1]).loss

    def losses(module, batch):
        return F.cross_entropy(module.model(pixel_values=batch[0]).logits, batch[1], reduction="none")

    return Training(numbers, Images(model), loader(images()), losses=losses)
