"""Weights from other hospitals' radiographs: the same sums in our input, and none that has seen the test images."""

import io
import urllib.error
import urllib.request

import pytest
import torch
from torchxrayvision.models import DenseNet, model_urls

from cxrlib.core.errors import InputError
from cxrlib.models import architectures
from cxrlib.models.architectures import build_model


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A DenseNet-121 of theirs with weights of no meaning, lying where the download of xrv-chex would be put."""
    monkeypatch.setattr(architectures, "CACHE", tmp_path)
    torch.manual_seed(0)
    model = DenseNet(num_classes=18, in_channels=1).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    first = model.features.norm0  # of inputs as large as theirs
    first.running_var.mul_(300.0**2)
    (tmp_path / "weights").mkdir()
    torch.save(model, tmp_path / "weights" / model_urls["chex"]["weights_url"].rsplit("/", 1)[1])
    return model


def test_our_model_computes_what_theirs_does(theirs):
    ours = build_model("densenet121", "xrv-chex", 64).eval()
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        expected = theirs.features[:2](2048 * x - 1024)
        found = ours.backbone.features[:2]((x - ours.mean) / ours.std)
    inside = (..., slice(2, -2), slice(2, -2))  # at the border theirs sees 0.5 and ours the mean grey
    torch.testing.assert_close(found[inside], expected[inside], atol=1e-3, rtol=1e-3)
    later = {name: value for name, value in ours.backbone.features.state_dict().items() if not name.startswith("conv0")}
    for name, value in theirs.features.state_dict().items():
        if name not in ("conv0.weight", "norm0.running_mean"):
            assert torch.equal(later[name], value), name


@pytest.mark.parametrize("name", ["xrv-nih", "xrv-rsna", "xrv-all"])
def test_weights_that_have_seen_the_test_images_are_refused(name):
    with pytest.raises(InputError, match=rf"weights {name} are refused; expected weights that have not seen"):
        build_model("densenet121", name, 64)


def test_other_names_and_other_architectures_are_refused(theirs):
    with pytest.raises(InputError, match=r"weights xrv-chexpert are refused; expected .*xrv-chex, xrv-pc"):
        build_model("densenet121", "xrv-chexpert", 64)
    with pytest.raises(InputError, match="expected arch densenet121, not resnet18"):
        build_model("resnet18", "xrv-chex", 64)


def test_without_a_network_it_says_where_the_file_would_go(tmp_path, monkeypatch):
    def offline(url, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(architectures, "CACHE", tmp_path)
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(InputError, match=r"xrv-pc cannot be downloaded .*no route.*put the file at .*weights"):
        build_model("densenet121", "xrv-pc", 64)
    assert not list((tmp_path / "weights").iterdir()), "nothing half-written"


@pytest.mark.parametrize(
    ("received", "announced", "message"),
    [
        (1000, 2000, "cannot be read as torchxrayvision's weights"),
        (1000, 1000, "cannot be read as torchxrayvision's weights"),
        (1000, None, "cannot be read as torchxrayvision's weights"),
    ],
)
def test_a_download_that_is_not_whole_or_not_a_model_takes_no_name(tmp_path, monkeypatch, received, announced, message):
    def answer(url, timeout):
        assert 1 < timeout < 600
        response = io.BytesIO(b"<" * received)
        response.headers = {"Content-Length": str(announced)} if announced else {}
        return response

    monkeypatch.setattr(architectures, "CACHE", tmp_path)
    monkeypatch.setattr(urllib.request, "urlopen", answer)
    with pytest.raises(InputError, match=message) as error:
        build_model("densenet121", "xrv-pc", 64)
    assert ".tmp" not in str(error.value)
    assert not list((tmp_path / "weights").iterdir())


def test_what_was_downloaded_is_read_from_then_on(theirs, tmp_path, monkeypatch):
    file = next((tmp_path / "weights").iterdir())
    content = file.read_bytes()
    file.unlink()

    def answer(url, timeout):
        response = io.BytesIO(content)
        response.headers = {"Content-Length": str(len(content))}
        return response

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    first = build_model("densenet121", "xrv-chex", 64)
    monkeypatch.delattr(urllib.request, "urlopen")
    again = build_model("densenet121", "xrv-chex", 64)
    assert torch.equal(first.backbone.features[0].weight, again.backbone.features[0].weight)


class Bomb:
    def __reduce__(self):
        return (open, ("bomb-went-off", "w"))


@pytest.mark.parametrize("content", ["bomb", "torn"])
def test_a_file_that_is_not_theirs_is_refused_and_does_nothing(theirs, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    file = next((tmp_path / "weights").iterdir())
    if content == "bomb":
        torch.save(Bomb(), file)
    else:
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read as torchxrayvision's weights"):
        build_model("densenet121", "xrv-chex", 64)
    assert not (tmp_path / "bomb-went-off").exists()


def test_every_name_is_one_of_theirs():
    assert all(name in model_urls for name in architectures.RADIOGRAPH_WEIGHTS.values())
