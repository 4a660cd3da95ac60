from inspect import signature
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torchvision import models

from alignprune_pl.models import resnet34_cifar, torchvision_classifier

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = ["mobilenet_v3_small", "regnet_x_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "vit_b_16"]


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_of_images_becomes_a_batch_of_logits(name):
    network = torchvision_classifier((3, 32, 32), 7, name)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_grey_images_are_shown_in_three_equal_channels():
    network = torchvision_classifier((1, 32, 32), 7, "squeezenet1_1").eval()
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(network(images), network.network(images.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_are_refused(channels):
    with pytest.raises(ValueError, match=f"3 channels, or 1 channel that is repeated, but these have {channels}"):
        torchvision_classifier((channels, 32, 32), 7, "resnet18")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_left_out_so_that_training_gets_logits_alone(name):
    network = torchvision_classifier((3, 75, 75), 7, name)
    assert network.training
    assert network(torch.rand(2, 3, 75, 75)).shape == (2, 7)
    assert not [key for key in network.state_dict() if "aux" in key.lower()]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("inception_v3", (3, 32, 32)),
        ("squeezenet1_1", (1, 8, 8)),
        ("maxvit_t", (3, 32, 32)),
        ("vit_b_16", (3, 30, 30)),
        ("vit_b_16", (3, 32, 48)),
    ],
)
def test_a_size_that_the_model_cannot_take_is_refused_at_once(name, shape):
    with pytest.raises(ValueError, match=f"^{name} cannot take images of {shape[1]} x {shape[2]} pixels") as refused:
        torchvision_classifier(shape, 7, name)
    assert "dataset.image_size: 224" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_every_family_takes_images_of_224_pixels_as_the_refusal_says():
    for name in ("maxvit_t", "vit_b_32", "inception_v3", "swin_v2_t"):
        with torch.device("meta"):
            network = torchvision_classifier((3, 224, 224), 7, name)
            assert network(torch.rand(2, 3, 224, 224)).shape == (2, 7)


def test_the_check_of_the_size_leaves_no_trace():
    torch.manual_seed(0)
    expected = models.get_model("mobilenet_v3_small", num_classes=7)
    random_state = torch.get_rng_state()
    torch.manual_seed(0)
    network = torchvision_classifier((3, 32, 32), 7, "mobilenet_v3_small")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training for module in network.modules())
    for key, value in expected.state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key


@pytest.mark.parametrize(("name", "close"), [("resnet5", "resnet50"), ("RESNET50", "resnet50")])
def test_an_unknown_name_is_refused_with_close_ones(name, close):
    with pytest.raises(
        ValueError, match=f"{name} is not one of torchvision's classifiers of images; did you mean .*{close}"
    ):
        torchvision_classifier((3, 32, 32), 7, name)


def test_a_name_like_no_other_is_refused_with_the_way_to_list_all():
    with pytest.raises(
        ValueError, match=r"qqq is not one of torchvision's classifiers of images; python -c .*list_models"
    ):
        torchvision_classifier((3, 32, 32), 7, "qqq")


@pytest.mark.parametrize(
    "name", ["fcn_resnet50", "retinanet_resnet50_fpn", "r3d_18", "quantized_resnet18", "raft_small"]
)
def test_models_for_other_tasks_are_refused(name):
    with pytest.raises(ValueError, match="not one of its classifiers of images"):
        torchvision_classifier((3, 32, 32), 7, name)


@pytest.mark.parametrize(
    ("option", "overrides", "expected"),
    [
        ("torchvision", ["model.name=shufflenet_v2_x0_5"], lambda: models.shufflenet_v2_x0_5(num_classes=7)),
        ("torchvision", [], lambda: models.resnet50(num_classes=7)),
        ("resnet50", [], lambda: models.resnet50(num_classes=7)),
        ("resnet34_cifar", [], lambda: resnet34_cifar((3, 32, 32), 7)),
    ],
)
def test_the_options_on_the_command_line_build_their_model(option, overrides, expected):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(f"model/{option}", overrides)
    with torch.device("meta"):
        found = instantiate(cfg.model, (3, 32, 32), 7).state_dict()
        wanted = expected().state_dict()
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in wanted.items()}


def test_every_parameter_is_on_the_command_line_with_its_default():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        option = OmegaConf.to_container(compose("model/torchvision").model)
    defaults = {p.name: p.default for p in signature(torchvision_classifier).parameters.values()}
    assert option == {"_target_": "alignprune_pl.models.torchvision_classifier"} | {
        name: default for name, default in defaults.items() if name not in ("image_shape", "num_classes")
    }
