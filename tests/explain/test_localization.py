"""Maps against boxes: every measure by hand, right to the pixel, honest controls, intervals over patients."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import read_boxes
from cxrlib.explain import case_maps as making
from cxrlib.explain.case_maps import average_maps, case_maps, control_maps, random_maps
from cxrlib.explain.gradcam import METHODS, grad_cam
from cxrlib.explain.localization import (
    METRICS,
    box_cases,
    coverage,
    interval_table,
    measure,
    peak,
    score_boxes,
)

SIDE = 32  # a pixel is 32 x 32 of the frame
UNIT = 1024 / SIDE


def cases(*rows):
    """Rows (patient, finding, boxes in pixels of SIDE)."""
    return pd.DataFrame(
        [(f"{n:03d}.png", row[0], row[1], UNIT * np.array(row[2], float)) for n, row in enumerate(rows)],
        columns=["image", "patient", "finding", "boxes"],
    )  # fmt: skip


def spot(x, y, w, h, value=1.0, background=0.0):
    heat = np.full((SIDE, SIDE), background)
    heat[y : y + h, x : x + w] = value
    return heat


# ---- geometry --------------------------------------------------------------------------------------------------------
@given(x=st.floats(0, 1023), y=st.floats(0, 1023), w=st.floats(0.5, 1024), h=st.floats(0.5, 1024),
       size=st.tuples(st.integers(1, 60), st.integers(1, 60)))  # fmt: skip
def test_coverage_is_the_boxs_area_on_the_image(x, y, w, h, size):
    covered = coverage(np.array([x, y, w, h]), size)
    assert covered.shape == size
    assert covered.min() >= 0
    assert covered.max() <= 1 + 1e-9
    area = (min(x + w, 1024) - x) * (min(y + h, 1024) - y)
    assert covered.sum() * 1024**2 / np.prod(size) == pytest.approx(area, rel=1e-6, abs=1e-3)


class Cell(nn.Module):
    """A model that fires on the grey of a g x g grid: the brighter the cell, the more."""

    arch = "cell"

    def __init__(self, grid):
        super().__init__()
        self.pool, self.cam_layer = nn.AdaptiveAvgPool2d(grid), nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.cam_layer.weight)

    def forward(self, x):
        return self.cam_layer(self.pool(x)).mean(dim=(2, 3)).expand(-1, 14)


@settings(max_examples=40)
@given(data=st.data(), grid=st.integers(3, 8), cell=st.integers(2, 14), method=st.sampled_from([*METHODS]))
def test_the_box_of_the_cell_that_fires_is_hit_and_one_shifted_by_a_cell_is_not(data, grid, cell, method):
    i, j = data.draw(st.tuples(*[st.integers(1, grid - 2)] * 2))
    x = torch.zeros(1, 1, grid * cell, grid * cell)
    x[0, 0, i * cell : (i + 1) * cell, j * cell : (j + 1) * cell] = 1
    heat = grad_cam(Cell(grid), x, method=method)[0, 0].numpy()
    side = 1024 / grid
    assert peak(heat) == pytest.approx(((j + 0.5) * side, (i + 0.5) * side), abs=0.01)
    for down, across in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        box = np.array([[(j + across) * side, (i + down) * side, side, side]])
        assert measure(heat, box)["pointing"] == (down == across == 0)
    narrow = np.array([[(j + 0.5) * side - 1, (i + 0.5) * side - 1, 2, 2]])
    assert measure(heat, narrow)["pointing"] == 1


# ---- by hand ---------------------------------------------------------------------------------------------------------
def test_overlaps_by_hand():
    """A region of 8 x 4 pixels in an L, a quarter of it missing; the box covers its left half and as much besides."""
    heat = spot(8, 10, 8, 4)
    heat[12:14, 12:16] = 0.4  # below the level: out of the region, but within its box
    found = measure(heat, UNIT * np.array([[4, 10, 8, 4]]))
    assert found["pointing"] == 1
    assert found["iou"] == pytest.approx(16 / 48)
    assert found["iobb"] == pytest.approx(16 / 32)
    assert found["iou_region"] == pytest.approx(16 / (24 + 32 - 16))
    assert found["ior"] == pytest.approx(16 / 24)
    assert found["energy"] == pytest.approx(16 / (24 + 8 * 0.4))


def test_only_the_region_of_the_peak_counts():
    heat = spot(2, 2, 3, 3) + spot(20, 20, 10, 10, value=0.9)
    assert measure(heat, UNIT * np.array([[2, 2, 3, 3]]))["iou"] == 1
    assert measure(heat, UNIT * np.array([[20, 20, 10, 10]]))["iou"] == 0


def test_several_boxes():
    heat = spot(2, 2, 4, 4)
    both = UNIT * np.array([[2, 2, 4, 4], [20, 20, 6, 6]])
    found = measure(heat, both)
    assert (found["pointing"], found["iou"], found["iobb"], found["energy"]) == (1, 1, 1, 1)
    assert found["iou_region"] == pytest.approx(16 / (16 + 36))
    overlapping = UNIT * np.array([[2, 2, 4, 4], [2, 2, 4, 4]])
    assert measure(heat, overlapping)["energy"] == 1, "what two boxes share counts once"


def test_an_empty_map_points_nowhere():
    assert set(measure(np.zeros((8, 8)), np.array([[0.0, 0, 1024, 1024]])).values()) == {0.0}


def test_chance_is_the_share_of_the_image():
    flat = np.ones((SIDE, SIDE))
    table = cases((1, "Mass", [(0, 0, 16, 16)]), (2, "Nodule", [(0, 0, 8, 16), (4, 0, 8, 16)]))
    value = score_boxes(np.stack([flat, flat]), table, {}).set_index(["maps", "finding", "metric"])["value"]
    shares = [value["chance", name, "pointing"] for name in ("Mass", "Nodule")]
    assert shares == pytest.approx([1 / 4, 12 * 16 / SIDE**2])
    others = [value[kind].drop("pointing", level="metric") for kind in ("chance", "model")]
    pd.testing.assert_series_equal(*others)
    points = np.random.default_rng(0).integers(SIDE, size=(2000, 2))
    hits = [measure(spot(x, y, 1, 1), table["boxes"][0])["pointing"] for x, y in points]
    assert np.mean(hits) == pytest.approx(1 / 4, abs=0.03)


# ---- tables ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def scored():
    table = cases(*[(patient, finding, [(4, 4, 8, 8)]) for patient in range(12) for finding in ("Mass", "Nodule")])
    right, wrong = spot(4, 4, 8, 8), spot(20, 20, 8, 8)
    maps = np.stack([wrong if finding == "Nodule" and patient % 4 else right
                     for patient, finding in zip(table["patient"], table["finding"], strict=True)])  # fmt: skip
    return table, maps


def test_scores_by_finding_and_macro(scored):
    table, maps = scored
    result = score_boxes(
        maps, table, {"same": maps, "wrong": np.stack([spot(20, 20, 8, 8)] * len(maps))}, replicates=200
    )
    assert list(result["maps"].unique()) == ["model", "chance", "same", "wrong"]
    assert list(result["metric"].unique()) == list(METRICS)
    rows = result.set_index(["maps", "finding", "metric"])
    value, low, high = rows.loc[("model", "Mass", "pointing"), ["value", "low", "high"]]
    assert value == high == 1
    assert 0.6 < low < 0.025 ** (1 / 12), "at least as wide as the exact interval of 12 of 12"
    nodule, macro = rows.loc[("model", "Nodule", "pointing")], rows.loc[("model", "macro", "pointing")]
    assert nodule["value"] == pytest.approx(0.25)
    assert 0 <= nodule["low"] < 0.25 < nodule["high"] < 0.8
    assert macro["value"] == pytest.approx(0.625)
    assert (nodule["cases"], nodule["patients"], macro["cases"], macro["patients"]) == (12, 12, 24, 12)
    assert rows.loc[("chance", "macro", "pointing"), "value"] == pytest.approx(64 / SIDE**2)
    same = rows.loc[("same", "macro", "pointing"), ["ahead", "ahead_low", "ahead_high"]]
    assert same.tolist() == [0, 0, 0], "the same draws for all kinds of maps"
    assert rows.loc[("wrong", "Mass", "energy"), "ahead"] == 1
    assert result.loc[result["maps"] == "model", "ahead"].isna().all()
    shown = interval_table(result)
    assert list(shown.columns) == list(result["maps"].unique())
    assert shown.loc[("Mass", 12), "model"] == f"1.00 [{low:.2f}, 1.00]"


def test_patients_are_drawn_whole():
    """Ten images of one patient say no more than one does."""
    many = cases(*[(patient, "Mass", [(4, 4, 8, 8)]) for patient in range(8) for _ in range(10)])
    maps = np.stack([spot(4, 4, 8, 8) if patient % 2 else spot(20, 20, 8, 8) for patient in many["patient"]])
    once = np.arange(0, 80, 10)
    ends = [score_boxes(m, c, {}, replicates=300).loc[0, ["low", "high"]].tolist()
            for m, c in ((maps, many), (maps[once], many.iloc[once]))]  # fmt: skip
    assert ends[0] == pytest.approx(ends[1])


def test_cases_are_findings_on_images_that_are_there(tiny_nih):
    boxes = read_boxes(tiny_nih.boxes_path)
    image = boxes["image"].unique()
    twice = pd.concat([boxes, boxes.iloc[:1].assign(x=1.0)])
    table = box_cases(twice, pd.DataFrame({"image": image[:2], "patient": [7, 8]}))
    assert set(table["image"]) == set(image[:2])
    assert len(table) == len(boxes[boxes["image"].isin(image[:2])].drop_duplicates(["image", "finding"]))
    first = table[(table["image"] == boxes["image"][0]) & (table["finding"] == boxes["finding"][0])].iloc[0]
    assert first["patient"] == 7
    assert first["boxes"].shape == (2, 4)
    assert set(table["finding"]) <= set(FINDINGS), "the file says Infiltrate"
    with pytest.raises(InputError, match=r"none of the .* boxes is on one of these 1 images"):
        box_cases(boxes, pd.DataFrame({"image": ["other.png"], "patient": [1]}))


# ---- the maps --------------------------------------------------------------------------------------------------------
def test_the_average_leaves_the_patient_out():
    table = cases(*[(patient, "Mass", [(0, 0, 1, 1)]) for patient in (1, 1, 2, 3)], (4, "Nodule", [(0, 0, 1, 1)]))
    maps = np.stack([np.full((2, 2), value, np.float32) for value in (1, 2, 4, 8, 16)])
    np.testing.assert_allclose(average_maps(maps, table)[:, 0, 0], [6, 6, 11 / 3, 7 / 3, 0], rtol=1e-6)


def test_random_maps_are_the_same_again_and_different_from_each_other():
    maps = random_maps(5, 40, seed=3)
    assert maps.shape == (5, 40, 40)
    assert np.array_equal(maps, random_maps(5, 40, seed=3))
    assert maps.max(axis=(1, 2)).tolist() == [1] * 5
    assert not np.allclose(maps[0], maps[1])


class Images:
    """Like a cache: image n is grey n everywhere."""

    image_size = 32
    images = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None, None], (10, 32, 32)).copy()

    def rows(self, names):
        return np.array([int(name[:3]) for name in names])


def test_each_case_gets_its_own_image_and_finding(monkeypatch):
    """The map of finding k on image n is n + k / 100."""
    monkeypatch.setattr(
        making, "grad_cam", lambda model, x, layer, method, findings: x / 1.0 + findings[:, None, None, None] / 100
    )
    table = cases(*[(1, FINDINGS[k], [(0, 0, 1, 1)]) for k in (3, 0, 13, 5, 5)]).assign(
        image=["007.png", "002.png", "007.png", "000.png", "009.png"]
    )
    for batch_size in (1, 2, 32):
        maps = case_maps(None, Images(), table, "gradcam", batch_size=batch_size)
        np.testing.assert_allclose(maps[:, 4, 4], [7.03, 2.0, 7.13, 0.05, 9.05], rtol=1e-6)


def test_controls_leave_the_random_numbers_alone():
    torch.manual_seed(5)
    model = making.build_model("resnet18", "none", 32)
    table = cases((1, "Mass", [(0, 0, 9, 9)]), (2, "Mass", [(0, 0, 9, 9)]))
    before = torch.random.get_rng_state()
    controls = control_maps(model, Images(), table, np.ones((2, 32, 32), np.float32), method="gradcam")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert list(controls) == ["random", "average", "untrained"]
    assert all(maps.shape == (2, 32, 32) for maps in controls.values())
    assert not np.allclose(controls["untrained"], case_maps(model, Images(), table, "gradcam"))


class Noise(Images):
    images = np.random.default_rng(0).integers(256, size=(10, 32, 32), dtype=np.uint8)


def test_the_untrained_control_depends_neither_on_torchs_seed_nor_on_the_threads():
    """EfficientNet-Lite0 has dropout and stochastic depth; its batch norms add up the batch in one part per thread."""
    model = making.build_model("efficientnet_lite0", "none", 32)
    table = cases(*[(n, "Mass", [(0, 0, 9, 9)]) for n in range(10)])
    found, threads = [], torch.get_num_threads()
    try:
        for seed, number in ((1, 1), (2, 1), (1, 3)):
            torch.manual_seed(seed)
            torch.set_num_threads(number)
            found.append(control_maps(model, Noise(), table, np.ones((10, 32, 32), np.float32))["untrained"])
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(found[0], found[1]), "another seed"
    np.testing.assert_allclose(found[0], found[2], atol=1e-5, err_msg="other threads")


def test_maps_and_controls_leave_the_model_in_its_mode():
    model = making.build_model("resnet18", "none", 32).train()
    model.backbone.bn1.eval()
    before = [module.training for module in model.modules()]
    table = cases((1, "Mass", [(0, 0, 9, 9)]), (2, "Mass", [(0, 0, 9, 9)]))
    control_maps(model, Images(), table, case_maps(model, Images(), table))
    assert [module.training for module in model.modules()] == before


def test_layercam_is_read_from_all_layers_unless_others_are_asked_for():
    torch.manual_seed(5)
    model = making.build_model("resnet18", "none", 32)
    table = cases((1, "Mass", [(0, 0, 9, 9)]))
    x = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    k = FINDINGS.index("Mass")
    for options, expected in (
        ({}, grad_cam(model, x, ["layer2", "layer3", "layer4"], "layercam")),
        ({"layer": "layer2"}, grad_cam(model, x, "layer2", "layercam")),
        ({"method": "gradcam++"}, grad_cam(model, x, None, "gradcam++")),
    ):
        np.testing.assert_allclose(case_maps(model, Images(), table, **options), expected[:, k], atol=1e-5)
