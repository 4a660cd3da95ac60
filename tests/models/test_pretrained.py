import os
import pickle
from urllib.error import URLError

import pytest
import torch
from torchvision import models

from alignprune_pl.models import torchvision_classifier
from alignprune_pl.models.pretrained import last_layer, load_body

DOWNLOAD = "torchvision.models._api.load_state_dict_from_url"
HEADS = {
    "alexnet": "classifier.6",
    "convnext_tiny": "classifier.2",
    "densenet121": "classifier",
    "efficientnet_b0": "classifier.1",
    "efficientnet_v2_s": "classifier.1",
    "googlenet": "fc",
    "inception_v3": "fc",
    "maxvit_t": "classifier.5",
    "mnasnet0_5": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "resnet18": "fc",
    "resnext50_32x4d": "fc",
    "shufflenet_v2_x0_5": "fc",
    "squeezenet1_1": "classifier.1",
    "swin_t": "head",
    "swin_v2_t": "head",
    "vgg11": "classifier.6",
    "vgg11_bn": "classifier.6",
    "vit_b_16": "heads.head",
    "wide_resnet50_2": "fc",
}


@pytest.fixture
def saved(tmp_path):
    """Stands for pretrained weights: a file with those of a random SqueezeNet for 1000 classes."""
    path = tmp_path / "squeezenet.pth"
    torch.save(models.squeezenet1_1().state_dict(), path)
    return path


def assert_body_is(network, state, head):
    own = network.state_dict()
    body = [key for key in state if not key.startswith(f"{head}.")]
    assert set(own) - set(body) <= {f"{head}.weight", f"{head}.bias"}
    for key in body:
        assert torch.equal(own[key], state[key]), key


def test_a_file_fills_the_body_and_leaves_the_last_layer_new(saved):
    network = torchvision_classifier((3, 32, 32), 7, "squeezenet1_1", str(saved))
    assert_body_is(network, torch.load(saved), "classifier.1")
    assert network.classifier[1].weight.shape == (7, 512, 1, 1)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("classes", [7, 21])
def test_the_files_number_of_classes_may_be_any(tmp_path, classes):
    state = models.shufflenet_v2_x0_5(num_classes=classes).state_dict()
    torch.save(state, tmp_path / "weights.pt")
    network = torchvision_classifier((1, 32, 32), 7, "shufflenet_v2_x0_5", str(tmp_path / "weights.pt"))
    assert_body_is(network.network, state, "fc")
    assert network.network.fc.weight.shape == (7, 1024)
    assert not torch.equal(network.network.fc.weight, state["fc.weight"][:7])


@pytest.mark.parametrize("name", HEADS)
def test_the_last_layer_of_every_family_is_found_and_replaced_alone(name):
    with torch.device("meta"):
        if name in ("googlenet", "inception_v3"):
            state = models.get_model(name, init_weights=True).state_dict()  # with the auxiliary heads
            network = models.get_model(name, num_classes=7, init_weights=True, aux_logits=False)
        else:
            state = models.get_model(name).state_dict()
            network = models.get_model(name, num_classes=7)
    assert last_layer(network) == HEADS[name]
    assert network.get_submodule(HEADS[name]).weight.shape[0] == 7
    load_body(network, state, name, "a file")
    assert not [key for key in state if key.startswith(f"{HEADS[name]}.")]


def test_the_last_layer_of_regnet_is_found():  # it cannot be built without memory, as the others above
    assert last_layer(models.regnet_x_400mf(num_classes=7)) == "fc"


def test_inception_takes_a_file_with_auxiliary_heads_and_its_own_scale_of_inputs(monkeypatch):
    with torch.device("meta"):
        state = models.inception_v3(init_weights=True).state_dict()
        monkeypatch.setattr("alignprune_pl.models.from_torchvision.read_weights", lambda name, weights: state)
        network = torchvision_classifier((3, 75, 75), 7, "inception_v3", "DEFAULT")
    assert network.AuxLogits is None
    assert network.transform_input


def test_densenets_old_names_are_understood():
    with torch.device("meta"):
        network = models.densenet121(num_classes=7)
        new = models.densenet121().state_dict()
    old = {}
    for key, value in new.items():
        for kind in ("norm1", "norm2", "conv1", "conv2"):
            key = key.replace(f".{kind}.", f".{kind[:-1]}.{kind[-1]}.") if "denselayer" in key else key
        old[key] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    load_body(network, old, "densenet121", "a file")


def test_a_vision_transformers_weights_are_refused_for_images_of_another_size():
    with torch.device("meta"):
        network = models.vit_b_16(num_classes=7, image_size=32)
        state = models.vit_b_16(image_size=224).state_dict()
    with pytest.raises(ValueError, match=r"vit_b_16 is for images of 224 x 224 pixels.* set dataset.image_size=224\."):
        load_body(network, state, "vit_b_16", "DEFAULT")


def test_torchvisions_weights_are_downloaded_checked_and_read_as_tensors_alone(monkeypatch):
    state, given = models.squeezenet1_1().state_dict(), {}

    def download(url, **options):
        given.update(options, url=url)
        return state.copy()

    monkeypatch.setattr(DOWNLOAD, download)
    network = torchvision_classifier((3, 32, 32), 7, "squeezenet1_1", "DEFAULT")
    assert_body_is(network, state, "classifier.1")
    assert given["url"] == models.SqueezeNet1_1_Weights.DEFAULT.url
    assert given["weights_only"]
    assert given["check_hash"]


@pytest.mark.parametrize(
    "cause", [URLError("no route"), PermissionError(13, "no route"), RuntimeError('invalid hash value (no route")')]
)
def test_weights_that_cannot_be_downloaded_are_refused_with_their_address(monkeypatch, cause):
    def fail(*_, **__):
        raise cause

    monkeypatch.setattr(DOWNLOAD, fail)
    url = models.ResNet18_Weights.DEFAULT.url
    with pytest.raises(ValueError, match=r"DEFAULT for resnet18 cannot be downloaded here \(.*no route.*\)") as refused:
        torchvision_classifier((3, 32, 32), 7, "resnet18", "DEFAULT")
    assert f"download {url} on a machine with internet" in str(refused.value)
    assert "model.weights=null" in str(refused.value)


def test_unknown_weights_are_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"V9 is neither a file nor weights .*IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"):
        torchvision_classifier((3, 32, 32), 7, "mobilenet_v2", "IMAGENET1K_V9")


@pytest.mark.parametrize("missing", ["nowhere/weights", "nowhere.pth", "nowhere.pt"])
def test_a_missing_file_is_refused(missing):
    with pytest.raises(ValueError, match=f"model.weights={missing} is not a file"):
        torchvision_classifier((3, 32, 32), 7, "squeezenet1_1", missing)


@pytest.mark.parametrize("content", ["half", b"", b"hello", b"\x80\x02}q\x00.", bytes(range(256))])
def test_a_damaged_file_is_refused(saved, content):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(ValueError, match=f"^model.weights={saved} is damaged or holds more than tensors") as refused:
        torchvision_classifier((3, 32, 32), 7, "squeezenet1_1", str(saved))
    assert "\n" not in str(refused.value)


class Command:
    """Runs a command where it is unpickled without care."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path, save):
    path, trace = tmp_path / "weights.pth", tmp_path / "it_ran"
    save({"weight": Command(f"touch {trace}")}, path)
    with pytest.raises(ValueError, match="not loaded as it could run code"):
        torchvision_classifier((3, 32, 32), 7, "squeezenet1_1", str(path))
    assert not trace.exists()
    torch.load(path, weights_only=False) if save is torch.save else pickle.loads(path.read_bytes())
    assert trace.exists(), "the file is harmless, so that the test shows nothing"


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"state_dict": {"weight": torch.zeros(2)}}, {1: torch.zeros(2)}])
def test_a_file_without_a_state_dict_is_refused(saved, content):
    torch.save(content, saved)
    with pytest.raises(ValueError, match=f"^model.weights={saved} holds no state dict"):
        torchvision_classifier((3, 32, 32), 7, "squeezenet1_1", str(saved))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("shufflenet_v2_x0_5", r"it lacks conv1\.0\.weight and it has features\.0\.weight"),
        ("squeezenet1_0", r"size mismatch for features\.0\.weight"),
    ],
)
def test_the_file_of_another_model_is_refused(saved, name, found):
    with pytest.raises(ValueError, match=f"^model.weights={saved} is not a state dict of {name}: {found}") as refused:
        torchvision_classifier((3, 64, 64), 7, name, str(saved))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("key", "found"), [("features.3.squeeze.bias", "it lacks"), ("features.99.bias", "it has")])
def test_a_file_with_a_layer_less_or_more_is_refused(saved, key, found):
    state = torch.load(saved)
    if key in state:
        del state[key]
    else:
        state[key] = torch.zeros(2)
    torch.save(state, saved)
    with pytest.raises(ValueError, match=rf"squeezenet1_1: {found} {key}\.$"):
        torchvision_classifier((3, 32, 32), 7, "squeezenet1_1", str(saved))
