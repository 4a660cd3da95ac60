"""Images: classes, maps, and losses that a vision library brings."""

# ruff: noqa: D102, as Lightning's hooks are documented there

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from plain import images, loader, network, numbers
from spy import Training
from torch import Tensor, nn
from torch.utils.data import TensorDataset


class Step(pl.LightningModule):
    """``loss(net(x), y)``."""

    def __init__(self, net: nn.Module, loss: Any) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def training_step(self, batch, batch_idx):
        loss = self.loss(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def _many() -> TensorDataset:
    """Images with four labels that each are there or not."""
    x, y = images().tensors
    return TensorDataset(x, torch.stack([(y + i) % 3 == 0 for i in range(4)], 1).float())


def _maps(classes: int) -> TensorDataset:
    """Images with a class for each pixel."""
    x, _ = images(24, 3, 32).tensors
    return TensorDataset(x, torch.randint(classes, (24, 32, 32), generator=torch.Generator().manual_seed(3)))


def torchvision_focal() -> Training:
    from torchvision.ops import sigmoid_focal_loss

    def loss(z, y, reduction="mean"):
        return sigmoid_focal_loss(z, y, alpha=0.25, gamma=2, reduction=reduction)

    def losses(module, batch):
        return loss(module.net(batch[0]), batch[1], "none").mean(1)

    return Training(numbers, Step(network(), loss), loader(_many()), losses=losses)


def torchvision_resnet() -> Training:
    from torchvision.models import resnet18

    def losses(module, batch):
        return F.cross_entropy(module.net(batch[0]), batch[1], reduction="none", label_smoothing=0.1)

    module = Step(resnet18(num_classes=4), nn.CrossEntropyLoss(label_smoothing=0.1))
    return Training(
        numbers, module, loader(images(16)), losses=losses, reference=loader(images(8, seed=1), shuffle=False)
    )


def timm_mixup() -> Training:
    import timm
    from timm.data import Mixup
    from timm.loss import SoftTargetCrossEntropy

    mixup = Mixup(mixup_alpha=0.8, num_classes=4, label_smoothing=0.1)

    class Mixed(Step):
        def training_step(self, batch, batch_idx):
            x, y = mixup(batch[0].clone(), batch[1])
            return self.loss(self.net(x), y)

    def losses(module, batch):
        x, y = mixup(batch[0].clone(), batch[1])
        return -(y * module.net(x).log_softmax(1)).sum(1)

    net = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, num_classes=4)
    return Training(numbers, Mixed(net, SoftTargetCrossEntropy()), loader(images(24)), losses=losses)


def timm_asymmetric() -> Training:
    import timm
    from timm.loss import AsymmetricLossMultiLabel

    net = timm.create_model("resnet10t", num_classes=4)
    loss = AsymmetricLossMultiLabel(disable_torch_grad_focal_loss=False)

    def losses(module, batch):
        z = module.net(batch[0])
        return torch.stack([loss(row.unsqueeze(0), y.unsqueeze(0)) for row, y in zip(z, batch[1], strict=True)])

    return Training(numbers, Step(net, loss), loader(_many()), losses=losses, output="net")


def kornia_focal() -> Training:
    from kornia.augmentation import RandomHorizontalFlip
    from kornia.losses import FocalLoss

    flip = RandomHorizontalFlip(p=0.5)

    class Augmented(Step):
        def training_step(self, batch, batch_idx):
            return self.loss(self.net(flip(batch[0])), batch[1])

    def losses(module, batch):
        each = FocalLoss(alpha=0.5, gamma=2.0, reduction="none")(module.net(flip(batch[0])), batch[1])
        return each.flatten(1).mean(1)

    return Training(
        numbers,
        Augmented(network(), FocalLoss(alpha=0.5, gamma=2.0, reduction="mean")),
        loader(images()),
        losses=losses,
    )


def kornia_ssim() -> Training:
    from kornia.losses import SSIMLoss

    x, _ = images(24, 1, 16).tensors
    net = nn.Conv2d(1, 1, 3, padding=1)

    def losses(module, batch):
        return SSIMLoss(5, reduction="none")(module.net(batch[0]), batch[1]).flatten(1).mean(1)

    data = TensorDataset(x, x.flip(-1))
    return Training(numbers, Step(net, SSIMLoss(5)), loader(data), losses=losses, output="net")


def monai_dice() -> Training:
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet

    net = UNet(2, 3, 3, channels=(4, 8), strides=(2,), norm="instance")
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    x, y = _maps(3).tensors
    data = TensorDataset(x, y.unsqueeze(1))
    return Training(numbers, Step(net, loss), loader(data), alone=True, output="net")


def monai_batch_dice() -> Training:
    from monai.data import MetaTensor
    from monai.losses import DiceLoss
    from monai.networks.nets import UNet

    class Meta(Step):
        def training_step(self, batch, batch_idx):
            return self.loss(self.net(MetaTensor(batch[0])), MetaTensor(batch[1])).as_tensor()

    net = UNet(2, 3, 3, channels=(4, 8), strides=(2,), norm="batch")
    loss = DiceLoss(to_onehot_y=True, softmax=True, batch=True)
    x, y = _maps(3).tensors
    data = TensorDataset(x, y.unsqueeze(1))
    return Training(
        numbers, Meta(net, loss), loader(data), output="net", remark="couples the batch; data are MetaTensors"
    )


def smp_lovasz() -> Training:
    import segmentation_models_pytorch as smp

    net = smp.Unet("resnet18", encoder_weights=None, encoder_depth=3, decoder_channels=(16, 8, 4), classes=3)
    loss = smp.losses.LovaszLoss("multiclass", per_image=False)
    return Training(numbers, Step(net, loss), loader(_maps(3)), output="net", remark="couples the batch")


def smp_sum() -> Training:
    import segmentation_models_pytorch as smp

    net = smp.Unet("resnet18", encoder_weights=None, encoder_depth=3, decoder_channels=(16, 8, 4), classes=3)
    dice, ce = smp.losses.DiceLoss("multiclass"), smp.losses.SoftCrossEntropyLoss(smooth_factor=0.1)

    def loss(z, y):
        return dice(z, y) + ce(z, y)

    return Training(
        numbers, Step(net, loss), loader(_maps(3)), output="net", remark="Dice couples the batch, CE does not"
    )


class _Tiles(torch.utils.data.Dataset):
    """Samples as torchgeo has them."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return dict(zip(("image", "mask"), self.data[i], strict=True))


def _tiles(batch: Any) -> Tensor:
    return numbers([batch["image"]])


def torchgeo_segmentation() -> Training:
    from torchgeo.trainers import SemanticSegmentationTask

    module = SemanticSegmentationTask("unet", "resnet18", None, num_classes=3, loss="ce", ignore_index=0)
    module.monitor = "train_loss"

    def losses(module, batch):
        each = F.cross_entropy(module(batch["image"]), batch["mask"], reduction="none", ignore_index=0)
        return each.flatten(1).sum(1) / (batch["mask"] != 0).sum() * len(each)

    data = _maps(3)
    rest = TensorDataset(*(part[:6].clone() for part in data.tensors))
    reference = loader(_Tiles(rest), shuffle=False)
    remark = "own module, batches are dictionaries, metrics in the step, a class is ignored"
    return Training(_tiles, module, loader(_Tiles(data)), losses=losses, reference=reference, remark=remark)


def torchgeo_jaccard() -> Training:
    from torchgeo.trainers import SemanticSegmentationTask

    module = SemanticSegmentationTask("unet", "resnet18", None, num_classes=3, loss="jaccard")
    module.monitor = "train_loss"
    return Training(_tiles, module, loader(_Tiles(_maps(3))), output="model", remark="own module; couples the batch")


def torch_uncertainty_classification() -> Training:
    from torch_uncertainty.routines import ClassificationRoutine

    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    module = ClassificationRoutine(net, 4, nn.CrossEntropyLoss(), optim_recipe=optimizer)
    reference = loader(images(8, seed=1), shuffle=False)
    return Training(numbers, module, loader(images()), alone=True, reference=reference, remark="own module")


def torch_uncertainty_mixup() -> Training:
    from torch_uncertainty.routines import ClassificationRoutine

    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    mixup = {"mixtype": "mixup", "mixup_alpha": 1.0}
    module = ClassificationRoutine(net, 4, nn.CrossEntropyLoss(), optim_recipe=optimizer, mixup_params=mixup)

    def losses(module, batch):
        x, y = module._apply_mixup(batch)
        return F.cross_entropy(module(x), y, reduction="none")

    return Training(numbers, module, loader(images()), losses=losses, remark="own module and mixup")


def torch_uncertainty_ensemble() -> Training:
    from torch_uncertainty.methods import deep_ensembles
    from torch_uncertainty.routines import ClassificationRoutine
    from torch_uncertainty.transforms import RepeatTarget

    net = deep_ensembles([network() for _ in range(3)], task="classification")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    module = ClassificationRoutine(
        net, 4, nn.CrossEntropyLoss(), is_ensemble=True, format_batch_fn=RepeatTarget(3), optim_recipe=optimizer
    )

    def losses(module, batch):
        each = [F.cross_entropy(one(batch[0]), batch[1], reduction="none") for one in module.model.core_models]
        return torch.stack(each).mean(0)

    return Training(
        numbers, module, loader(images()), losses=losses, remark="own module; three networks' rows in one batch"
    )
