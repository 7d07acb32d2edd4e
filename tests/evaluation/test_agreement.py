"""Mined labels against readers: kappa as scikit-learn counts it, on the images both know, undefined where it is."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from sklearn.metrics import cohen_kappa_score

from cxrlib.core.errors import InputError
from cxrlib.core.paths import RESULTS
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import reference_entries, reference_expert_labels
from cxrlib.evaluation.agreement import EXPERT_FILES, EXPERT_TASKS, agreement, cohen_kappa, find_expert_labels


def tables(mined, read, patient=None):
    image = [f"{n}.png" for n in range(len(mined))]
    entries = pd.DataFrame(
        {"image": image, "patient": range(len(mined)) if patient is None else patient, "Mass": mined}
    )
    return entries, pd.DataFrame({"image": image, "Mass": read})


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_kappa_is_scikit_learns(answers):
    mined, read = np.array(answers).T
    row = agreement(*tables(mined, read), {"Mass": ["Mass"]}, replicates=0).loc["Mass"]
    assert (row["mined"], row["expert"], row["both"]) == (mined.sum(), read.sum(), (mined & read).sum())
    if len({*mined, *read}) == 1:
        assert np.isnan(row["kappa"]), "both say the same of every image: chance agrees as well"
    else:
        assert row["kappa"] == pytest.approx(cohen_kappa_score(mined, read))
    assert np.isnan(row["ppv"]) == (not mined.any())
    assert np.isnan(row["sensitivity"]) == (not read.any())


def test_kappa_of_a_table_worked_by_hand():
    # Cohen's own arithmetic: 35 of 50 agree, chance agrees in (25 x 30 + 25 x 20) / 2500 = 0.5
    assert cohen_kappa(20.0, 5.0, 10.0, 15.0) == pytest.approx(0.4)


def test_ppv_and_sensitivity_have_their_own_denominators():
    row = agreement(*tables([1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 1, 0]), {"Mass": ["Mass"]}, replicates=0).loc["Mass"]
    assert (row["ppv"], row["sensitivity"]) == (1 / 4, 1 / 2)


def test_images_of_one_side_alone_do_not_count_and_the_order_does_not_matter():
    entries, expert = tables([1, 0, 1, 0, 1], [1, 0, 0, 1, 1])
    whole = agreement(entries, expert.iloc[::-1], {"Mass": ["Mass"]}, replicates=20)
    pd.testing.assert_frame_equal(whole, agreement(entries, expert, {"Mass": ["Mass"]}, replicates=20))
    some = agreement(entries.head(4), expert.tail(3), {"Mass": ["Mass"]}, replicates=0)
    assert some.loc["Mass", "images"] == 2


def test_a_mapping_joins_several_mined_labels():
    entries, expert = tables([1, 0, 0, 0], [1, 1, 0, 0])
    entries["Nodule"] = [0, 1, 0, 1]
    row = agreement(entries, expert.rename(columns={"Mass": "either"}), {"either": ["Mass", "Nodule"]}, 0).loc["either"]
    assert (row["mined"], row["both"]) == (3, 2)


def test_the_interval_counts_patients_not_images():
    rng = np.random.default_rng(0)
    mined = rng.random(60) < 0.4
    read = mined ^ (rng.random(60) < 0.2)
    once = agreement(*tables(mined, read), {"Mass": ["Mass"]}).loc["Mass"]
    repeated = agreement(
        *tables(np.repeat(mined, 5), np.repeat(read, 5), np.repeat(range(60), 5)), {"Mass": ["Mass"]}
    ).loc["Mass"]
    assert once["kappa_low"] < once["kappa"] < once["kappa_high"]
    assert repeated["kappa_low"] == pytest.approx(once["kappa_low"], abs=0.05)
    assert repeated["kappa_high"] == pytest.approx(once["kappa_high"], abs=0.05)


def test_an_interval_where_no_draw_can_show_another_value_is_that_of_the_positive_agreement():
    apart = agreement(*tables([1, 1, 0, 0, 0], [0, 0, 1, 1, 0]), {"Mass": ["Mass"]}).loc["Mass"]
    assert apart["both"] == 0
    assert apart["kappa_low"] < apart["kappa"] < 0.5 < apart["kappa_high"] < 1
    read = np.arange(40) < 12
    perfect = agreement(*tables(read, read), {"Mass": ["Mass"]}).loc["Mass"]
    assert perfect["kappa_low"] < 0.9 < perfect["kappa"] == perfect["kappa_high"] == 1


def test_an_image_that_the_experts_have_twice_is_named(tmp_path):
    (tmp_path / EXPERT_FILES[0]).write_text("Image Index,Patient ID,Mass\na.png,1,YES\nb.png,1,NO\na.png,1,NO\n")
    with pytest.raises(InputError, match=r"names a.png more than once; expected one row per image"):
        find_expert_labels(tmp_path)


def test_tables_of_other_images_share_none():
    entries, expert = tables([1, 0], [1, 0])
    row = agreement(entries, expert.assign(image=["a", "b"]), {"Mass": ["Mass"]}, replicates=20).loc["Mass"]
    assert row["images"] == 0
    assert np.isnan(row[["kappa", "kappa_low", "ppv"]].astype(float)).all()


def test_nihs_four_findings_as_counted():
    table = agreement(reference_entries(), reference_expert_labels(), EXPERT_TASKS, replicates=50)
    assert table["images"].tolist() == [4376] * 3
    assert table["expert"].tolist() == [238, 605, 2166]
    assert table["kappa"].round(2).tolist() == [0.43, 0.41, 0.32]


def test_phantoms_bring_their_truth(tmp_path):
    assert find_expert_labels(tmp_path) is None
    (tmp_path / "true_labels.csv").write_text("Image Index,Patient ID,Mass\n90001.png,90001,YES\n90002.png,90002,NO\n")
    expert, path = find_expert_labels(tmp_path / "nowhere", tmp_path)
    assert path.name == "true_labels.csv"
    assert expert["Mass"].tolist() == [1, 0]


@pytest.mark.real
def test_nihs_fourteen_findings_agree_as_the_datasheet_says(real):
    expert, _ = find_expert_labels(real / "nih-lists")
    table = agreement(reference_entries(), expert)
    stored = pd.read_csv(RESULTS / "readers.csv", index_col="finding")
    pd.testing.assert_frame_equal(table, stored, atol=1e-4)
    assert table["images"].unique().tolist() == [810]
    assert set(table.index) == set(FINDINGS)
    assert table["kappa"].mean() == pytest.approx(0.21, abs=0.005)
    assert table.loc["Pneumothorax", "kappa"] == pytest.approx(0.54, abs=0.005)
