"""Regions of phantoms: the redrawn image is identical, and each pixel is in exactly one region."""

import json

import numpy as np
import pytest

from cxrlib.core.errors import InputError
from cxrlib.data.cache import read_image
from cxrlib.data.sources import find_images
from cxrlib.phantom.config import PhantomConfig
from cxrlib.phantom.generate import make_phantoms, render_visits
from cxrlib.phantom.patients import plan_visits
from cxrlib.phantom.places import PLACES, energy_by_place, places


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("places") / "set"
    return make_phantoms(root, n_patients=6, size=96, seed=2, workers=1, progress=False)


def test_masks_belong_to_the_same_image(small):
    """An image that is drawn again with its masks equals the file."""
    config = PhantomConfig(n_patients=6, size=96, seed=2)
    visits = plan_visits(config)
    paths = find_images(small)
    for _, group in visits.groupby("patient"):
        for visit, picture, _, masks in render_visits(group.to_dict("records"), config):
            assert (picture == read_image(paths[visit["image"]], 96)).all()
            letters = masks["letters"]
            assert letters.any()
            assert picture[letters].mean() > 120, "letters are bright"


def test_masks_of_the_second_hospital_fit_its_images(tmp_path):
    root = make_phantoms(tmp_path / "set", n_patients=2, size=96, seed=2, workers=1, hospital="second", progress=False)
    paths = find_images(root)
    for name, masks in places(root, paths, 96).items():
        bright = read_image(paths[name], 96)[masks["letters"]]
        assert np.percentile(bright, 75) > 180, "the plate"


@pytest.mark.parametrize("size", [64, 96, 128])
def test_each_pixel_is_in_one_place(small, size):
    names = sorted(find_images(small))[:4]
    for masks in places(small, names, size).values():
        assert list(masks) == list(PLACES)
        assert all(mask.shape == (size, size) for mask in masks.values())
        assert (np.sum(list(masks.values()), axis=0) == 1).all()
        assert 0.1 < masks["lungs"].mean() < 0.5
        assert 0 < masks["letters"].mean() < 0.05
        assert 0.02 < masks["heart border"].mean() < 0.2


def test_energy_by_place():
    left = np.zeros((4, 4), bool)
    left[:, :1] = True
    heat = np.where(left, 3.0, 1.0)
    found = energy_by_place(heat, {"left": left, "right": ~left, "nowhere": left & ~left})
    assert found["left density"] == pytest.approx(2)
    assert found["right density"] == pytest.approx(2 / 3)
    assert np.isnan(found["nowhere density"])
    assert np.isnan(energy_by_place(0 * heat, {"left": left})["left density"])


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no phantoms of version"):
        places(tmp_path, [], 64)
    (tmp_path / "phantom.json").write_text(json.dumps({"version": 0}))
    with pytest.raises(InputError, match="holds no phantoms of version"):
        places(tmp_path, [], 64)
