"""Label strings to multi-hot rows and back: laws, aliases, and messages that name the rows."""

import re

import numpy as np
import pytest
from hypothesis import given, strategies as st

from cxrlib.core.errors import InputError
from cxrlib.data.findings import FINDINGS, NO_FINDING, canonical, decode, encode

rows = st.lists(st.lists(st.booleans(), min_size=14, max_size=14), max_size=20)


def test_the_order_is_the_one_of_the_checkpoints():
    order = "Atelectasis Cardiomegaly Consolidation Edema Effusion Emphysema Fibrosis Infiltration Mass Nodule"
    assert (*order.split(), "Pleural_Thickening", "Pneumonia", "Pneumothorax", "Hernia") == FINDINGS


@given(rows)
def test_decoding_and_encoding_gives_the_same_rows(hot):
    hot = np.array(hot, dtype=np.uint8).reshape(-1, 14)
    again = encode([decode(row) for row in hot])
    assert again.dtype == np.uint8
    np.testing.assert_array_equal(again, hot)


@given(st.lists(st.sampled_from(FINDINGS), min_size=1, unique=True), st.randoms())
def test_neither_the_order_of_the_names_nor_their_spelling_matters(names, random):
    spelled = [random.choice([str, str.lower, str.upper])(name).replace("_", random.choice("_ ")) for name in names]
    padded = "|".join(random.choice(["{}", " {}", "{} "]).format(name) for name in spelled)
    np.testing.assert_array_equal(encode([padded]), encode(["|".join(sorted(names))]))
    assert decode(encode([padded])[0]) == "|".join(sorted(names, key=FINDINGS.index))


def test_a_column_is_the_finding_of_its_name():
    for column, name in enumerate(FINDINGS):
        assert encode([name]).nonzero()[1].tolist() == [column]


def test_no_finding_is_a_row_of_zeros():
    assert encode([NO_FINDING]).sum() == 0
    assert decode(np.zeros(14, dtype=np.uint8)) == NO_FINDING
    assert encode([]).shape == (0, 14)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("Infiltrate", "Infiltration"),
        ("Pleural Thickening", "Pleural_Thickening"),
        ("pleural_thickening", "Pleural_Thickening"),
        (" no finding ", NO_FINDING),
    ],
)
def test_aliases_of_the_nih_files(alias, name):
    assert canonical(alias) == name


def test_unusable_labels_name_their_rows_and_all_of_them():
    with pytest.raises(InputError) as error:
        encode(["Mass", "Mas", "No Finding|Mass", "Hernia", "Mas", ""])
    assert "'Mas' in row 1, 4" in str(error.value)
    assert "'No Finding|Mass' in row 2" in str(error.value)
    assert "'' in row 5" in str(error.value)
    assert "Pleural_Thickening" in str(error.value), "the names that were expected"


def test_many_unusable_labels_are_counted():
    with pytest.raises(InputError, match=re.escape("and 3 more")):
        encode([f"Finding {number}" for number in range(8)])


@pytest.mark.parametrize(
    "text", ["No Finding|Mass", "Mass|No Finding", "Mass|", "|", "Mass||Edema", None, float("nan")]
)
def test_contradictions_and_gaps_are_refused(text):
    with pytest.raises(InputError, match="row 1"):
        encode(["Mass", text])


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean 'Pneumothorax'"):
        canonical("Pneumotorax")


@pytest.mark.parametrize("row", [[], [0] * 13, [0] * 15])
def test_a_row_of_another_length_cannot_be_decoded(row):
    with pytest.raises(ValueError, match="zip"):
        decode(row)
