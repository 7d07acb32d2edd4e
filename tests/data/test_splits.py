"""Splits: no patient on two sides, every finding in its place, the same parts for the same seed, honest leakage."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import official_part, read_entries, reference_entries
from cxrlib.data.splits import KINDS, PARTS, digest, leakage, remembered, restore, split, subset, subsets


def table(patients, seed=0, share=0.1):
    """Entries with the given patient of each image and random findings."""
    labels = np.random.default_rng(seed).random((len(patients), 14)) < share
    entries = pd.DataFrame({"image": [f"{row:05d}.png" for row in range(len(patients))], "patient": patients})
    return entries.join(pd.DataFrame(labels.astype(np.uint8), columns=list(FINDINGS)))


patients = st.lists(st.integers(1, 12), min_size=1, max_size=60)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def nih():
    return reference_entries()


@given(patients, seeds)
def test_no_patient_stands_on_two_sides(patients, seed):
    entries = split(table(patients), "patient", seed)
    assert entries.groupby("patient")["part"].nunique().max() == 1
    assert set(entries["part"]) <= set(PARTS)
    assert (leakage(entries)["images_leaked"] == 0).all()


@given(patients, seeds, st.sampled_from(["patient", "image"]))
def test_the_order_of_the_rows_does_not_matter(patients, seed, kind):
    entries = table(patients)
    shuffled = entries.sample(frac=1, random_state=seed % 1000)
    parts = split(entries, kind, seed).set_index("image")["part"]
    again = split(shuffled, kind, seed).set_index("image")["part"]
    assert again.to_dict() == parts.to_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_only_adds_a_column(tiny_nih, kind):
    entries = read_entries(tiny_nih.csv_path).iloc[::-1]
    before = entries.copy()
    parts = split(entries, kind, lists_in=[tiny_nih.root])
    pd.testing.assert_frame_equal(entries, before)
    pd.testing.assert_frame_equal(parts.drop(columns="part"), before)
    pd.testing.assert_frame_equal(split(parts, kind, lists_in=[tiny_nih.root]), parts)


def test_another_seed_gives_another_split():
    entries = table(np.arange(200))
    assert (split(entries, seed=0)["part"] != split(entries, seed=1)["part"]).mean() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_every_finding_reaches_each_part_in_its_share(nih, kind):
    entries = split(nih, kind)
    fractions = (0.7, 0.1, 0.2)
    if kind == "official":
        test = entries["part"] == "test"
        assert test.sum() == 25_596
        assert (test == (official_part(nih) == "test")).all()
        entries, fractions = entries[~test], (0.875, 0.125)
    shares = entries["part"].value_counts(normalize=True)
    for part, fraction in zip(PARTS, fractions, strict=False):
        assert shares[part] == pytest.approx(fraction, abs=0.003)
        of_part = entries.loc[entries["part"] == part, list(FINDINGS)].sum() / entries[list(FINDINGS)].sum()
        assert of_part.to_numpy() == pytest.approx(fraction, abs=0.015), f"{part}: {of_part.to_dict()}"
    if kind != "image":
        assert entries.groupby("patient")["part"].nunique().max() == 1


def test_patients_of_many_images_fall_everywhere_alike(nih):
    entries = split(nih, "patient")
    patients = entries.groupby("part")["patient"].nunique() / entries["patient"].nunique()
    assert patients[list(PARTS)].to_numpy() == pytest.approx([0.7, 0.1, 0.2], abs=0.01)


def test_rare_findings_reach_validation_for_every_seed():
    entries = table(np.repeat(np.arange(400), 2), share=0.02)
    rare = entries[list(FINDINGS)].sum()
    for seed in range(5):
        stratified = split(entries, seed=seed)
        val = stratified.loc[stratified["part"] == "val", list(FINDINGS)].sum() / rare
        assert val.between(0.03, 0.25).all(), val.to_dict()


def test_official_takes_the_lists_of_the_folder(tiny_nih):
    entries = read_entries(tiny_nih.csv_path)
    parts = split(entries, "official", lists_in=[tiny_nih.root])
    named = set((tiny_nih.root / "test_list.txt").read_text().split())
    assert set(parts.loc[parts["part"] == "test", "image"]) == named
    assert set(parts["part"]) == set(PARTS)
    assert parts.groupby("patient")["part"].nunique().max() == 1
    with pytest.raises(InputError, match="name neither part"):
        split(entries, "official")


def test_a_few_patients_do_not_break_a_split(tiny_nih):
    entries = read_entries(tiny_nih.csv_path)
    for size in (0, 1, 2):
        for kind in KINDS:
            assert len(split(entries[:size], kind, lists_in=[tiny_nih.root])) == size


def test_fractions(tiny_nih):
    entries = read_entries(tiny_nih.csv_path)
    half = split(entries, "image", fractions=(0.25, 0.25, 0.5))["part"].value_counts()
    assert half["test"] == pytest.approx(31, abs=3)
    for fractions in [(0.5, 0.5), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (0.5, 0.5, 0.0), ()]:
        with pytest.raises(InputError, match="three shares above 0 that add up to 1"):
            split(entries, fractions=fractions)
    with pytest.raises(InputError, match="did you mean 'patient'"):
        split(entries, "patients")


@given(patients, seeds, st.integers(1, 60), st.integers(1, 60))
def test_subsets_are_nested_and_never_larger_than_asked(patients, seed, small, large):
    small, large = sorted([small, large])
    entries = table(patients).assign(part="train")
    one, two = (subset(entries, "train", size, seed) for size in (small, large))
    assert len(one) <= small
    assert len(two) <= large
    assert len(one) > 0, "a subset is never empty"
    assert set(one["image"]) <= set(two["image"]) <= set(subset(entries, "train", 0, seed)["image"])
    whole = entries.groupby("patient")["image"].size()
    cut = [patient for patient, size in one.groupby("patient").size().items() if size < whole[patient]]
    assert len(cut) == 0 or len(set(one["patient"])) == 1, "only the first patient may be cut"


@given(patients, seeds, st.integers(1, 60))
def test_a_subset_does_not_depend_on_the_order_of_the_rows(patients, seed, size):
    entries = table(patients).assign(part="val")
    shuffled = entries.sample(frac=1, random_state=seed % 1000)
    assert set(subset(entries, "val", size, seed)["image"]) == set(subset(shuffled, "val", size, seed)["image"])


def test_a_subset_is_of_its_part():
    entries = table(np.arange(30)).assign(part=["train", "val", "test"] * 10)
    assert (subset(entries, "val", 5)["part"] == "val").all()
    assert len(subset(entries, "val", 5)) == 5
    assert len(subset(entries, "test", 0)) == len(subset(entries, "test", 1000)) == 10
    assert set(subset(entries, "val", 5, seed=0)["image"]) != set(subset(entries, "val", 5, seed=1)["image"])


def test_subsets_say_where_there_are_fewer_than_asked_for(capsys):
    entries = table(np.arange(30)).assign(part=["train", "val", "train"] * 10)
    assert len(subsets(entries, train=20, val=5)) == 25
    assert capsys.readouterr().out == ""
    assert len(subsets(entries, train=21, val=1000, test=5)) == 30
    few = "20 of the 21 train images and 10 of the 1,000 val images"
    assert capsys.readouterr().out == f"the data set has only {few} asked for; all of them are used\n"
    subsets(restore(entries, {"train": [], "val": []}, "patient"), 1, 1, 1)
    assert capsys.readouterr().out == "", "images in no part are not counted"


@given(st.lists(st.tuples(st.integers(1, 8), st.sampled_from(PARTS)), max_size=40))
def test_leakage_by_brute_force(rows):
    entries = table([patient for patient, _ in rows]).assign(part=[part for _, part in rows])
    result = leakage(entries)
    for part in ("val", "test"):
        images = [patient for patient, where in rows if where == part]
        leaked = [patient for patient in images if (patient, "train") in rows]
        expected = [len(images), len(set(images)), len(set(leaked)), len(leaked)]
        columns = ["images", "patients", "patients_in_train", "images_leaked"]
        assert result.loc[part, columns].tolist() == expected
        share = len(leaked) / len(images) if images else np.nan
        assert result.loc[part, "share_leaked"] == pytest.approx(share, nan_ok=True)


def test_a_split_by_image_leaks(nih):
    assert leakage(split(nih, "image")).loc["test", "share_leaked"] > 0.7
    assert leakage(split(nih, "official"))["images_leaked"].sum() == 0


@pytest.mark.parametrize("kind", ["patient", "image"])
def test_restore_gives_the_parts_back(kind):
    entries = split(table(np.repeat(np.arange(40), 3)), kind)
    shuffled = entries.drop(columns="part").sample(frac=1, random_state=0)
    again = restore(shuffled, remembered(entries, "patient"), kind)
    assert again.set_index("image")["part"].to_dict() == entries.set_index("image")["part"].to_dict()
    pd.testing.assert_frame_equal(restore(entries, remembered(entries, "patient"), kind), entries)


@settings(max_examples=50)
@given(patients, seeds, st.data())
def test_restore_never_evaluates_a_patient_that_was_trained_on(patients, seed, data):
    entries = split(table(patients), "patient", seed)
    seen = data.draw(st.lists(st.booleans(), min_size=len(entries), max_size=len(entries)))
    parts = remembered(entries[seen], "patient")  # the training saw some of the images; more came since
    trained = set(entries.loc[entries["image"].isin(parts["train"]), "patient"])
    again = restore(entries, parts, "patient")
    assert not trained & set(again.loc[again["part"] != "train", "patient"])
    chosen_on = set(entries.loc[entries["image"].isin(parts["val"]), "patient"])
    assert not chosen_on & set(again.loc[again["part"] == "test", "patient"])


def test_an_older_model_knows_its_images_without_their_folder():
    entries = table([1, 2, 3]).assign(image=["p1/a.png", "p2/b.png", "p3/c.png"])
    parts = {"train": ["a.png"], "val": ["b.png"]}
    assert restore(entries, parts, "patient")["part"].tolist() == ["train", "val", "test"]


def test_restore_knows_the_patients_of_nihs_names_without_their_images():
    parts = {"train": ["00000013_000.png"], "val": ["00000014_000.png"]}
    later = table([13, 14, 15]).assign(image=["00000013_007.png", "00000014_007.png", "00000015_007.png"])
    assert restore(later, parts, "patient")["part"].tolist() == ["train", "val", "test"]


def test_official_test_is_official_whatever_the_training_saw(nih, tmp_path):
    """A checkpoint of a sample meets all images: the train_val patients that it never saw are not the official test."""
    sample = split(nih.iloc[::20], "official")
    again = restore(nih, remembered(sample, "official"), "official")
    official = official_part(nih)
    assert (official[again["part"] == "test"] == "test").all()
    assert (again["part"] == "test").sum() == (official == "test").sum() == 25_596
    assert (again["part"] == "").sum() > 30_000, "in no part: never seen, and not of the official test"
    of_train = sample[sample["part"] == "train"]
    of_last = nih["patient"] == of_train["patient"].iloc[-1]
    for name, listed in {"test": of_last, "train_val": ~of_last}.items():
        (tmp_path / f"{name}_list.txt").write_text("\n".join(nih.loc[listed, "image"]))
    again = restore(nih, {"train": [of_train["image"].iloc[0]], "val": []}, "official", [tmp_path])
    assert ((again["part"] == "test") == of_last).all(), "by the lists of the folder, where given"


def test_official_lists_that_part_the_images_of_a_patient_are_refused(tmp_path):
    """Own lists, drawn by image, would put patients of the training into the test part."""
    entries = table([1, 1, 2, 3])
    for name, listed in {"train_val": entries["image"][1:3], "test": entries["image"][[0, 3]]}.items():
        (tmp_path / f"{name}_list.txt").write_text("\n".join(listed))
    with pytest.raises(InputError, match="put images of the patients 1 on both sides"):
        split(entries, "official", lists_in=[tmp_path])


def test_a_missing_training_image_is_said(capsys):
    """Its patient is not recognized on another film, where the names are not NIH's."""
    entries = table([1, 1, 2, 3]).assign(image=["a.png", "b.png", "c.png", "d.png"])
    parts = remembered(entries.assign(part=["train", "train", "val", "test"]), "patient")
    assert restore(entries, parts, "patient")["part"].tolist() == ["train", "train", "val", "test"]
    assert capsys.readouterr().out == ""
    later = restore(entries.assign(image=["later.png", "a film.png", "c.png", "d.png"]), parts, "patient")
    assert later["part"].tolist() == ["test", "test", "val", "test"]
    assert "2 images of the model's training are not in this table (a.png, b.png)" in capsys.readouterr().out


def test_official_images_that_no_list_names_are_refused():
    elsewhere = table(range(5)).assign(image=[f"hospital{number}.png" for number in range(5)])
    with pytest.raises(InputError, match="name neither part for hospital0"):
        restore(elsewhere, {"train": ["00000013_000.png"], "val": []}, "official")


@pytest.mark.parametrize("kind", ["patient", "image"])
def test_patients_of_another_data_set_are_in_no_part(kind):
    parts = {"train": ["00000013_000.png"], "val": ["00000014_000.png"]}
    nih = table([13, 14, 15]).assign(image=["00000013_000.png", "00000014_000.png", "00000015_000.png"])
    other = table(range(100, 105))
    assert restore(nih, parts, kind)["part"].tolist() == ["train", "val", "test"]
    assert set(restore(other, parts, kind)["part"]) == {""}
    mixed = restore(pd.concat([nih, other], ignore_index=True), parts, kind)["part"].tolist()
    assert mixed == ["train", "val", "test"] + 5 * [""], "where NIH's names were trained on, others are not NIH's"
    strange = nih.assign(image=["a.png", "b.png", "c.png"])
    assert set(restore(strange, parts, kind)["part"]) == {""}
    mine = {"train": ["00000.png"], "val": ["00001.png"]}
    assert restore(table(range(3)), mine, kind)["part"].tolist() == ["train", "val", "test"]


@given(patients, seeds, seeds)
def test_what_one_training_saw_the_next_one_may_not_hold_out(patients, first, second):
    entries = table(patients)
    before, after = split(entries, "patient", first), split(entries, "patient", second)
    parts = remembered(before, "patient")
    held = {part: set(after.loc[after["part"].isin(kept), "patient"]) for part, kept in
            (("train", ("val", "test")), ("val", ("test",)))}  # fmt: skip
    leaks = any(held[part] & set(before.loc[before["part"] == part, "patient"]) for part in held)
    if leaks:
        with pytest.raises(InputError, match=r"first.pth learned from \d+ images.*split and seed of its training"):
            remembered(after, "patient", parts, "first.pth")
    else:
        both = remembered(after, "patient", parts, "first.pth")
        assert set(both["train"]) == set(parts["train"]) | set(after.loc[after["part"] == "train", "image"])
        assert not set(both["train"]) & set(both["val"])


def test_a_start_on_other_data_is_remembered_too():
    elsewhere = {"train": ["a.png"], "val": ["b.png"]}
    parts = remembered(split(table(range(30)), "patient", 0), "patient", elsewhere)
    assert "a.png" in parts["train"]
    assert "b.png" in parts["val"]


def test_a_digest_knows_labels_and_patients_but_no_order():
    entries = table(range(20))
    assert digest(entries) == digest(entries.sample(frac=1, random_state=0))
    assert digest(entries) != digest(entries.assign(Hernia=1 - entries["Hernia"]))
    assert digest(entries) != digest(entries.assign(patient=entries["patient"] + 1))
    assert digest(entries[:10], entries[10:]) != digest(entries)


def test_restore_trusts_train_where_a_patient_is_on_both_sides():
    entries = table([1, 1, 1])
    for order in (["train", "val"], ["val", "train"]):
        parts = {part: [entries["image"][row]] for row, part in enumerate(order)}
        assert set(restore(entries, parts, "patient")["part"]) == {"train"}
        assert restore(entries, parts, "image")["part"].tolist() == [*order, "test"]
