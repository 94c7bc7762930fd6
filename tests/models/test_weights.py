"""resdet.models.weights: strict names, plain files, one sentence for what goes wrong."""

import contextlib
import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.models
from torch import nn

from resdet.errors import UserError
from resdet.models.backbones.resnet import ResNet
from resdet.models.layers.norm import FrozenBatchNorm2d
from resdet.models.weights.classifier_file import read_classifier
from resdet.models.weights.foreign import read_tensors
from resdet.models.weights.msra import detectron2_name, from_blobs, from_detectron2
from resdet.models.weights.strict import load_strictly
from resdet.models.weights.torchvision import can_be_had, from_torchvision, torchvision_weights


@pytest.fixture
def net():
    return ResNet(18, num_classes=3, norm=FrozenBatchNorm2d)


def test_every_name_of_torchvision_has_one_of_ours(net):
    theirs = torchvision.models.resnet18(num_classes=3).state_dict()
    ours = from_torchvision(theirs)
    assert ours.keys() == net.state_dict().keys()
    assert len(ours) == sum(not name.endswith("num_batches_tracked") for name in theirs)
    assert ours["backbone.conv1.conv.weight"] is theirs["conv1.weight"]
    assert ours["backbone.conv3_x.0.shortcut.norm.running_var"] is theirs["layer2.0.downsample.1.running_var"]
    assert ours["conv5_x.1.norm2.bias"] is theirs["layer4.1.bn2.bias"]


@pytest.mark.parametrize("name", ["features.0.weight", "layer5.0.conv1.weight", "module.conv1.weight", "xfc.bias"])
def test_a_name_that_is_not_torchvision_s_is_refused(name):
    with pytest.raises(UserError, match=f"'{name}' is not a name of torchvision's ResNets"):
        from_torchvision({"conv1.weight": torch.zeros(1), name: torch.zeros(1)})


def test_load_strictly_copies_everything(net):
    state = {name: torch.randn_like(tensor) for name, tensor in net.state_dict().items()}
    load_strictly(net, state, "here")
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_load_strictly_lists_what_does_not_fit_and_changes_nothing(net):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    del state["conv5_x.0.conv1.weight"]
    state["fc.scale"] = torch.zeros(1)
    state["fc.weight"] = torch.zeros(7, 512)
    with pytest.raises(UserError) as error:
        load_strictly(net, state, "file.pt")
    assert str(error.value) == (
        "file.pt does not fit this network: missing conv5_x.0.conv1.weight; unexpected fc.scale; "
        "of another shape fc.weight (7, 512) instead of (3, 512)."
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_long_list_is_cut(net):
    with pytest.raises(UserError, match=r"missing backbone\.conv1\.conv\.weight, .* and 96 more\.") as error:
        load_strictly(net, {}, "file.pt")
    assert len(net.state_dict()) == 102
    assert str(error.value).count(",") == 5


def test_the_count_of_batches_may_be_absent():
    norm = nn.BatchNorm2d(2)
    state = {name: tensor + 1 for name, tensor in norm.state_dict().items() if name != "num_batches_tracked"}
    load_strictly(norm, state, "here")
    assert norm.running_var.tolist() == [2, 2] and norm.num_batches_tracked == 0


# ------------------------------------------------------------ MSRA's ResNets


def blobs(depth, parts=("s", "b")):
    """Caffe2's names of a ResNet, each with a tensor of its own; the shapes do not matter here."""
    units = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
    names = ["conv1_w", *(f"res_conv1_bn_{part}" for part in parts), "fc1000_w", "fc1000_b"]
    for stage in (2, 3, 4, 5):
        for unit in range(units[stage - 2]):
            for branch in ("2a", "2b", "2c") if unit else ("1", "2a", "2b", "2c"):
                layer = f"res{stage}_{unit}_branch{branch}"
                names += [f"{layer}_w", *(f"{layer}_bn_{part}" for part in parts)]
    return {name: torch.full((2,), float(index)) for index, name in enumerate(names)}


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("parts", [("s", "b"), ("gamma", "beta", "running_mean", "running_var")])
def test_every_blob_of_msra_has_one_of_our_names(depth, parts):
    theirs = blobs(depth, parts)
    ours = from_blobs(theirs)
    with torch.device("meta"):
        assert ours.keys() == ResNet(depth, norm=FrozenBatchNorm2d).state_dict().keys()
    scale, shift = parts[:2]
    for name, blob in {
        "backbone.conv1.conv.weight": "conv1_w",
        "backbone.conv1.norm.weight": f"res_conv1_bn_{scale}",
        "backbone.conv2_x.0.shortcut.conv.weight": "res2_0_branch1_w",
        "backbone.conv2_x.0.shortcut.norm.bias": f"res2_0_branch1_bn_{shift}",
        "backbone.conv4_x.5.norm1.bias": f"res4_5_branch2a_bn_{shift}",
        "conv5_x.2.conv3.weight": "res5_2_branch2c_w",
        "fc.bias": "fc1000_b",
    }.items():
        assert ours[name] is theirs[blob]
    if len(parts) == 2:
        norm = FrozenBatchNorm2d(2)
        norm.load_state_dict({n.split(".")[-1]: t for n, t in ours.items() if n.startswith("conv5_x.1.norm2.")})
        x = torch.randn(1, 2, 3, 3)
        scale, shift = theirs["res5_1_branch2b_bn_s"][0], theirs["res5_1_branch2b_bn_b"][0]
        torch.testing.assert_close(norm(x), x * scale + shift, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("parts", [("s", "b"), ("gamma", "beta", "running_mean", "running_var")])
def test_the_bias_of_msra_s_first_convolution_is_kept(parts):
    theirs = blobs(50, parts) | {"conv1_b": torch.tensor([3.0, -1.0])}
    without = from_blobs({name: tensor for name, tensor in theirs.items() if name != "conv1_b"})
    norms = []
    for state in (from_blobs(theirs), without):
        norms.append(FrozenBatchNorm2d(2))
        norms[-1].load_state_dict({n.split(".")[-1]: t for n, t in state.items() if "backbone.conv1.norm" in n})
    x = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(norms[0](x), norms[1](x + theirs["conv1_b"][:, None, None]))


@pytest.mark.parametrize("bias", [torch.zeros(3), torch.zeros(())])
def test_a_bias_of_another_shape_is_refused(bias, refuses):
    with refuses("conv1_b does not fit"):
        from_blobs(blobs(50) | {"conv1_b": bias})


@pytest.mark.parametrize("name", ["res2_3_branch2a_w", "res4_0_branch2d_w", "conv1_w_scale", "bbox_pred_w"])
def test_a_blob_that_msra_does_not_have_is_refused_under_its_name(name, refuses):
    with refuses(name, "no MSRA ResNet"):
        from_blobs(blobs(50) | {name: torch.zeros(1)})


def test_a_blob_in_two_spellings_is_refused(refuses):
    with refuses("two spellings"):
        from_blobs(blobs(50) | {"pred_w": torch.zeros(1)})


def test_an_msra_network_of_another_depth_is_refused(refuses):
    with refuses("8 units in res4", "50, 101, 152"):
        from_blobs(blobs(50) | {"res4_7_branch2a_w": torch.zeros(1)})


@pytest.mark.parametrize("content", ["blobs", "detectron2", "converted torchvision", "torchvision"])
def test_the_names_say_which_resnet_it_is(tmp_path, content, net):
    path = tmp_path / "net.pkl"
    with torch.device("meta"):
        names = ResNet(50, norm=FrozenBatchNorm2d).state_dict()
    ours = {name: torch.zeros(1) for name in names}
    theirs = {detectron2_name(name): tensor for name, tensor in ours.items()}
    assert from_detectron2(theirs | {"res2.0.conv1.norm.num_batches_tracked": ours}).keys() == ours.keys()
    state, style = {
        "blobs": (blobs(50), "msra"),
        "detectron2": ({n: t for n, t in theirs.items() if ".fc." not in n}, "msra"),
        "converted torchvision": (theirs, "torchvision"),
        "torchvision": (torchvision.models.resnet18(num_classes=3).state_dict(), "torchvision"),
    }[content]
    path.write_bytes(pickle.dumps({"model": {n: t.numpy() for n, t in state.items()}, "__author__": "someone"}))
    found = read_classifier(path)
    assert found.style == style and "backbone.conv1.norm.bias" in found.tensors


def test_a_pickle_of_something_else_is_refused_by_name(tmp_path, refuses):
    path = tmp_path / "net.pkl"
    for content, words in (
        ({"conv1_w": np.zeros(1)}, ("0 units in res4",)),
        ({"model": {"stem.conv1.weight": np.zeros(1), "res4.5.gate": np.zeros(1)}}, ("res4.5.gate",)),
        ({"conv1_w": [1, 2]}, ("conv1_w", "not tensors by name")),
        ({1: np.zeros(1)}, ("not tensors by name",)),
    ):
        path.write_bytes(pickle.dumps(content))
        with refuses(path, *words):
            read_classifier(path)


# ------------------------------------------------------------ files


class Attack:
    """What it names would be called by an unpickler that trusts the file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_plain_file_is_read(tmp_path, net):
    torch.save(net.state_dict(), tmp_path / "net.pt")
    state = read_tensors(tmp_path / "net.pt")
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("bare", [False, True])
def test_a_file_that_would_run_code_is_refused_without_running_it(tmp_path, bare, refuses):
    value = {"fc.weight": torch.zeros(1), "attack": Attack(tmp_path / "ran")}
    if bare:
        (tmp_path / "bad.pt").write_bytes(pickle.dumps(value, protocol=2))
    else:
        torch.save(value, tmp_path / "bad.pt")
    with refuses(tmp_path / "bad.pt", "run code"):
        read_tensors(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


def test_that_file_would_run_code_in_trusting_hands(tmp_path):
    torch.save(Attack(tmp_path / "ran"), tmp_path / "bad.pt")
    torch.load(tmp_path / "bad.pt", weights_only=False).close()
    assert (tmp_path / "ran").exists()


# ------------------------------------------------------------ torchvision's own


@pytest.mark.parametrize(
    "error",
    [
        URLError("no route to host"),
        ConnectionResetError("reset by peer"),
        RuntimeError('invalid hash value (expected "f37072fd", got "00000000")'),
    ],
)
def test_without_a_network_one_sentence_says_what_to_do(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(
        UserError, match=r"Cannot download torchvision's resnet18 \(.*\): download https://.*\.pth "
    ):
        torchvision_weights("resnet18")


def test_what_is_downloaded_comes_under_our_names(monkeypatch, net):
    asked = []

    def download(url, **kwargs):
        asked.append((url, kwargs["check_hash"]))
        return torchvision.models.resnet18(num_classes=3).state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    load_strictly(net, torchvision_weights("resnet18"), "torchvision")
    assert asked == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", True)]


def test_the_second_version_of_torchvision_s_weights(monkeypatch, refuses):
    asked = []

    def download(url, **kwargs):
        asked.append(url)
        return {}

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    assert torchvision_weights("resnet50", "V2") == {}
    assert asked == ["https://download.pytorch.org/models/resnet50-11ad3fa6.pth"]
    with refuses("no V2 weights for resnet18", "--init-weights torchvision"):
        torchvision_weights("resnet18", "V2")


def test_whether_torchvision_s_weights_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in torch's cache, or their server answers; nothing is downloaded."""
    asked: list[tuple[str, str, float]] = []

    def answer(request: Any, timeout: float) -> contextlib.AbstractContextManager:
        asked.append((request.get_method(), request.full_url, timeout))
        if fails:
            raise OSError("no network")
        return contextlib.nullcontext()

    monkeypatch.setattr("urllib.request.urlopen", answer)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    fails = False
    assert can_be_had("resnet18")
    fails = True
    assert not can_be_had("resnet18")
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    assert asked == [("HEAD", url, 5)] * 2
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / Path(url).name).touch()
    assert can_be_had("resnet18") and len(asked) == 2
