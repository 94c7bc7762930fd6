"""resdet.nn.weights: strict names, plain files, one sentence for what goes wrong."""

import pickle
from urllib.error import URLError

import pytest
import torch
import torchvision.models
from torch import nn

from resdet.errors import UserError
from resdet.nn.norm import FrozenBatchNorm2d
from resdet.nn.resnet import ResNet
from resdet.nn.weights import from_torchvision, load_strictly, read_torch_file, torchvision_resnet


@pytest.fixture
def net():
    return ResNet(18, num_classes=3, norm=FrozenBatchNorm2d)


def test_every_name_of_torchvision_has_one_of_ours(net):
    theirs = torchvision.models.resnet18(num_classes=3).state_dict()
    ours = from_torchvision(theirs)
    assert ours.keys() == net.state_dict().keys()
    assert len(ours) == sum(not name.endswith("num_batches_tracked") for name in theirs)
    assert ours["trunk.conv1.conv.weight"] is theirs["conv1.weight"]
    assert ours["trunk.conv3_x.0.shortcut.norm.running_var"] is theirs["layer2.0.downsample.1.running_var"]
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
    with pytest.raises(UserError, match=r"missing trunk\.conv1\.conv\.weight, .* and 96 more\.") as error:
        load_strictly(net, {}, "file.pt")
    assert len(net.state_dict()) == 102
    assert str(error.value).count(",") == 5


def test_the_count_of_batches_may_be_absent():
    norm = nn.BatchNorm2d(2)
    state = {name: tensor + 1 for name, tensor in norm.state_dict().items() if name != "num_batches_tracked"}
    load_strictly(norm, state, "here")
    assert norm.running_var.tolist() == [2, 2] and norm.num_batches_tracked == 0


# ------------------------------------------------------------ files


class Attack:
    """What it names would be called by an unpickler that trusts the file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_plain_file_is_read(tmp_path, net):
    torch.save(net.state_dict(), tmp_path / "net.pt")
    state = read_torch_file(tmp_path / "net.pt")
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("bare", [False, True])
def test_a_file_that_would_run_code_is_refused_without_running_it(tmp_path, bare):
    value = {"fc.weight": torch.zeros(1), "attack": Attack(tmp_path / "ran")}
    if bare:
        (tmp_path / "bad.pt").write_bytes(pickle.dumps(value, protocol=2))
    else:
        torch.save(value, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"bad\.pt cannot be read as plain weights \("):
        read_torch_file(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


def test_that_file_would_run_code_in_trusting_hands(tmp_path):
    torch.save(Attack(tmp_path / "ran"), tmp_path / "bad.pt")
    torch.load(tmp_path / "bad.pt", weights_only=False).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80"])
def test_a_broken_file_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "broken.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.pt cannot be read as plain weights \(\w.*\): pass ") as error:
        read_torch_file(tmp_path / "broken.pt")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.pt cannot be read as plain weights \(.*No such file"):
        read_torch_file(tmp_path / "none.pt")


@pytest.mark.parametrize("value", [{"state_dict": {"fc.weight": torch.zeros(1)}, "epoch": 3}, [torch.zeros(1)], 5])
def test_a_file_of_anything_else_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt is not a plain dictionary of tensors: save a state_dict"):
        read_torch_file(tmp_path / "other.pt")


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
    with pytest.raises(UserError, match=r"Cannot download torchvision's ResNet-18 \(.*\): fetch https://.*\.pth "):
        torchvision_resnet(18)


def test_what_is_downloaded_comes_under_our_names(monkeypatch, net):
    asked = []

    def download(url, **kwargs):
        asked.append((url, kwargs["check_hash"]))
        return torchvision.models.resnet18(num_classes=3).state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    load_strictly(net, torchvision_resnet(18), "torchvision")
    assert asked == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", True)]
