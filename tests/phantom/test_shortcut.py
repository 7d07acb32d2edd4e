"""The shortcut: a marker with its box, on the images with a finding in one set and at random in the other."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrlib.data.findings import FINDINGS
from cxrlib.explain.localization import coverage
from cxrlib.phantom.shortcut import plant, trap


@pytest.mark.parametrize("size", [64, 128, 224])
def test_the_box_holds_the_marker_and_nothing_else_changes(size):
    bare = np.full((size, size), 90, np.uint8)
    seen = set()
    for seed in range(5):
        planted, box = plant(bare, np.random.default_rng(seed))
        inside = coverage(box, (size, size)) > 0
        assert (planted != bare)[inside].mean() > 0.5
        assert (planted != bare)[~inside].mean() < 0.001, "at most half a pixel at its edge"
        assert planted[inside].max() > 200
        seen.add(tuple(box))
    assert len(seen) == 5
    assert (bare == 90).all()


class Cache(dict):
    """name -> (32, 32) grey."""


def test_two_sets_differ_only_in_where_the_markers_are(tmp_path):
    rng = np.random.default_rng(0)
    n = 200
    entries = pd.DataFrame({"image": [f"{i:03d}.png" for i in range(n)], "part": ["train"] * 160 + ["test"] * 40})
    for name in FINDINGS:
        entries[name] = rng.random(n) < 0.3
    cache = Cache({name: np.full((32, 32), 50, np.uint8) for name in entries["image"]})
    paths, boxes = trap(tmp_path, cache, entries, "Effusion")
    marked = {kind: np.array([np.asarray(Image.open(path)).max() > 50 for path in paths[kind].values()])
              for kind in paths}  # fmt: skip
    train, effusion = np.arange(n) < 160, entries["Effusion"].to_numpy()
    assert (marked["marked"] == effusion)[train].mean() > 0.9
    assert (marked["marked"] != effusion)[train].any(), "there are exceptions"
    assert abs(np.corrcoef(marked["clean"][train], effusion[train])[0, 1]) < 0.25
    assert marked["clean"][train].mean() == pytest.approx(marked["marked"][train].mean(), abs=0.1)
    assert marked["clean"][~train].all()
    assert marked["marked"][~train].all()
    assert list(boxes["image"]) == list(entries["image"][160:])
    again, _ = trap(tmp_path / "again", cache, entries, "Effusion")
    assert all(again["marked"][name].read_bytes() == paths["marked"][name].read_bytes() for name in entries["image"])
