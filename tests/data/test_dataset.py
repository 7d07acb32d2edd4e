"""Tensors for the model: one from the cache and one from the PNG are the same; changes keep the anatomy in place."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils.data import DataLoader, Subset

from cxrlib.core.errors import InputError
from cxrlib.data.cache import build_cache
from cxrlib.data.dataset import CachedDataset, ChestXrayDataset, EpochBatches, augment, make_loader, shifted, to_unit
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import read_entries
from cxrlib.data.sources import find_images

STILL = {"rotation": 0.0, "shift": 0.0, "scale": 0.0, "contrast": 0.0}


@pytest.fixture
def both(tiny_nih, tmp_path):
    """The same 63 entries over the cache and straight from the PNGs, in an order of their own."""
    entries = read_entries(tiny_nih.csv_path).sample(frac=1, random_state=0)
    images = find_images(tiny_nih.root)
    cache = build_cache(images, 32, cache_dir=tmp_path / "cache", progress=False)
    return CachedDataset(entries, cache), ChestXrayDataset(entries, images, 32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_cache_and_the_pngs_give_the_same_tensors(both):
    cached, direct = both
    assert len(cached) == len(direct) == 63
    assert cached.image_size == direct.image_size == 32
    for index in range(63):
        (x, labels), (same_x, same_labels) = cached[index], direct[index]
        assert (x.shape, x.dtype) == ((1, 32, 32), torch.uint8)
        assert (labels.shape, labels.dtype) == ((14,), torch.float32)
        assert torch.equal(x, same_x)
        assert torch.equal(labels, same_labels)


def test_an_item_belongs_to_its_entry(both):
    for dataset in both:
        for index in (0, 17, 62):
            entry = dataset.entries.iloc[index]
            x, labels = dataset[index]
            np.testing.assert_array_equal(x[0], both[0].cache[entry["image"]])
            assert labels.tolist() == entry[list(FINDINGS)].tolist()


def test_a_batch_is_its_items(both):
    for dataset in both:
        indices = [5, 3, 60, 3]
        x, labels = dataset.__getitems__(indices)
        assert torch.equal(x, torch.stack([dataset[index][0] for index in indices]))
        assert torch.equal(labels, torch.stack([dataset[index][1] for index in indices]))


def test_writing_into_a_batch_leaves_the_cache_alone(both):
    x, _ = both[0][0]
    before = x.clone()
    x += 1
    assert torch.equal(both[0][0][0], before)


def test_an_entry_that_is_not_there_is_named(both):
    cached, direct = both
    entries = cached.entries.copy()
    entries.loc[4, "image"] = "nowhere.png"
    with pytest.raises(InputError, match=r"nowhere\.png"):
        CachedDataset(entries, cached.cache)
    with pytest.raises(InputError, match=r"nowhere\.png"):
        ChestXrayDataset(entries, {"a.png": direct._paths[0]}, 32)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_reads_every_row_once_in_order(both, num_workers):
    for dataset in both:
        batches = list(make_loader(dataset, 10, num_workers=num_workers))
        assert [len(x) for x, _ in batches] == [10] * 6 + [3]
        assert torch.equal(torch.cat([labels for _, labels in batches]), dataset.labels)
        assert torch.equal(torch.cat([x for x, _ in batches]), dataset.__getitems__(range(63))[0])
        assert not any(tensor.is_shared() for batch in batches for tensor in batch), "/dev/shm may be small"


def test_a_worker_is_sent_the_folder_of_the_cache_not_its_pixels(both):
    cached = both[0]
    assert len(pickle.dumps(cached.cache)) < 1000
    assert len(pickle.dumps(cached)) < cached.cache.images.nbytes / 2
    assert torch.equal(pickle.loads(pickle.dumps(cached))[7][0], cached[7][0])


def test_the_loader_asks_for_whole_batches(both, monkeypatch):
    asked = []
    original = CachedDataset._images
    monkeypatch.setattr(
        CachedDataset, "_images", lambda self, indices: asked.append(len(indices)) or original(self, indices)
    )
    list(make_loader(both[0], 20))
    assert asked == [20, 20, 20, 3]
    asked.clear()
    list(make_loader(Subset(both[0], range(30)), 20))
    assert asked == [20, 10]


def test_the_plain_loader_of_torch_sees_the_same(both):
    plain = DataLoader([both[0][index] for index in range(63)], batch_size=10)
    for (x, labels), (same_x, same_labels) in zip(make_loader(both[0], 10), plain, strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(labels, same_labels)


def epoch_of(batches, epoch, first=0):
    batches.epoch, batches.first = epoch, first
    return list(batches)


def test_the_order_is_new_each_epoch_and_follows_from_the_seed():
    one, again, other = EpochBatches(63, 10, seed=1), EpochBatches(63, 10, seed=1), EpochBatches(63, 10, seed=2)
    assert epoch_of(one, 1) == epoch_of(again, 1) != epoch_of(other, 1)
    assert epoch_of(one, 1) != epoch_of(one, 2) == epoch_of(again, 2)
    assert epoch_of(one, 1) == epoch_of(again, 1), "whatever was drawn before"
    assert sorted(row for batch in epoch_of(one, 3) for row in batch) == list(range(63))


@given(
    st.integers(2, 300), st.integers(1, 40), st.integers(1, 5), st.integers(0, 9), st.integers(1, 4), st.integers(0, 30)
)
def test_each_row_comes_once_an_epoch_among_all_processes(rows, batch_size, processes, seed, epoch, first):
    try:
        all_of_them = [EpochBatches(rows, batch_size, seed, process, processes) for process in range(processes)]
    except InputError:
        assert rows < 2 * processes
        return
    dealt = [epoch_of(batches, epoch) for batches in all_of_them]
    assert {len(each) for each in dealt} == {len(all_of_them[0])}, "or one process would wait for another for ever"
    seen = [row for each in dealt for batch in each for row in batch]
    assert len(seen) == len(set(seen)) >= rows - 2 * processes + 1
    assert max(len(batch) for each in dealt for batch in each) <= batch_size
    assert min(len(batch) for each in dealt for batch in each) >= min(2, batch_size)
    assert epoch_of(all_of_them[0], epoch, first) == dealt[0][first:], "a run goes on in the middle"


def test_a_loader_follows_the_batches(both):
    batches = EpochBatches(len(both[0]), 10, seed=1)
    for rows, (x, labels) in zip(epoch_of(batches, 2, first=1), make_loader(both[0], batches=batches), strict=True):
        assert torch.equal(x, both[0].__getitems__(rows)[0])
        assert torch.equal(labels, both[0].labels[rows])


def test_too_few_rows_for_the_processes_are_refused():
    with pytest.raises(InputError, match="the part 'train' has 3 images; expected at least 4"):
        EpochBatches(3, 8, processes=2)


def test_views_for_test_time_averaging_are_the_image_moved():
    x = torch.randint(1, 255, (2, 1, 40, 40), dtype=torch.uint8)
    same, left, right, up, down = shifted(x, share=0.05)
    assert torch.equal(same, x)
    assert torch.equal(right[..., :-2], x[..., 2:])
    assert torch.equal(left[..., 2:], x[..., :-2])
    assert torch.equal(up[..., 2:, :], x[..., :-2, :])
    assert torch.equal(down[..., :-2, :], x[..., 2:, :])
    assert left[..., :2].sum() == 0


def test_to_unit():
    assert to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    assert to_unit(torch.tensor([0.0, 0.5])).tolist() == [0, 0.5]


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(8, 40), st.integers(0, 2**32 - 1), st.booleans())
def test_augment_keeps_range_shape_and_kind(n, side, seed, as_bytes):
    x = torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8, generator=generator(seed))
    before = x.clone()
    changed = augment(x if as_bytes else to_unit(x), generator=generator(seed))
    assert changed.shape == x.shape
    assert changed.dtype == torch.float32
    assert 0 <= changed.min() <= changed.max() <= 1
    assert torch.equal(x, before), "the batch that came in is left alone"


def test_augment_without_change_changes_nothing():
    x = torch.rand(3, 1, 32, 32, generator=generator())
    torch.testing.assert_close(augment(x, **STILL), x, atol=1e-5, rtol=0)


def test_augment_is_drawn_by_the_generator_and_by_image():
    x = torch.rand(1, 1, 32, 32, generator=generator()).expand(4, -1, -1, -1)
    one, again, other = (augment(x, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert len({image.sum().item() for image in one}) == 4, "each image has a draw of its own"
    torch.manual_seed(5)
    state = torch.get_rng_state()
    augment(x, generator=generator())
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator is not touched"


def test_the_heart_stays_on_its_side_and_the_apex_up():
    x = torch.zeros(400, 1, 64, 64)
    x[:, :, 8:24, 36:52] = 1  # upper right quarter of the image
    changed = augment(x, contrast=0.0, generator=generator())
    column = (changed.sum(dim=(1, 2)) * torch.arange(64)).sum(dim=1) / changed.sum(dim=(1, 2, 3))
    row = (changed.sum(dim=(1, 3)) * torch.arange(64)).sum(dim=1) / changed.sum(dim=(1, 2, 3))
    assert column.min() > 34
    assert row.max() < 26
    assert column.max() - column.min() > 4, "it does move"


def test_the_changes_are_as_large_as_promised():
    x = torch.zeros(2000, 1, 41, 41)
    x[:, :, 20, 20] = 1

    def centre(changed):
        weights = changed.sum(dim=(1, 2, 3))
        at = torch.arange(41.0) - 20
        return (changed.sum(dim=(1, 2)) * at).sum(1) / weights, (changed.sum(dim=(1, 3)) * at).sum(1) / weights

    for moved in centre(augment(x, **STILL | {"shift": 0.1}, generator=generator())):
        assert moved.abs().max() == pytest.approx(4.1, abs=0.1)  # a tenth of 41 pixels
        assert moved.mean().abs() < 0.2
    line = torch.zeros(2000, 1, 41, 41)
    line[:, :, 20, 36] = 1  # sixteen pixels right of the centre
    right, down = centre(augment(line, **STILL | {"rotation": 7.0}, generator=generator()))
    degrees = torch.atan2(down, right).rad2deg()
    assert degrees.abs().max() == pytest.approx(7, abs=0.5)
    assert torch.hypot(right, down).sub(16).abs().max() < 0.3, "a rotation keeps lengths"
    right, _ = centre(augment(line, **STILL | {"scale": 0.1}, generator=generator()))
    assert right.min() == pytest.approx(14.4, abs=0.3)
    assert right.max() == pytest.approx(17.6, abs=0.3)


def test_contrast_and_brightness():
    x = torch.cat([torch.full((500, 1, 2, 2), 0.4), torch.full((500, 1, 2, 2), 0.6)], dim=3)
    changed = augment(x, **STILL | {"contrast": 0.2}, generator=generator())
    dark, bright = changed[:, 0, 0, 0], changed[:, 0, 0, -1]
    assert (bright - dark).min() == pytest.approx(0.16, abs=0.01)
    assert (bright - dark).max() == pytest.approx(0.24, abs=0.01)
    assert ((bright + dark) / 2 - 0.5).abs().max() == pytest.approx(0.1, abs=0.01)


def test_what_comes_in_from_outside_is_black():
    x = torch.ones(200, 1, 32, 32)
    changed = augment(x, **STILL | {"shift": 0.2}, generator=generator())
    assert changed.min() == 0
    assert changed[:, :, 10:22, 10:22].min() > 0.99
