"""The tables: every header and quirk that NIH, Kaggle and Google ship, the known counts, and clear refusals."""

import gzip
import zipfile

import numpy as np
import pandas as pd
import pytest

from cxrlib.core.errors import InputError
from cxrlib.data import metadata
from cxrlib.data.findings import FINDINGS
from cxrlib.data.metadata import (
    find_csv,
    official_part,
    read_boxes,
    read_entries,
    read_expert_labels,
    read_lists,
    reference_boxes,
    reference_entries,
)

HEADER_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
HEADER_2020 = HEADER_2017.rstrip(",")
HEADER_SAMPLE = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImageWidth,OriginalImageHeight,OriginalImagePixelSpacing_x,OriginalImagePixelSpacing_y"
)
ROW = "00000013_005.png,Emphysema|Infiltration|Mass,5,00013,{age},M,AP,3056,2544,0.139,0.168"
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"


def write(path, *lines, end="\n", bom=False):
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + "".join(line + end for line in lines).encode())
    return path


@pytest.mark.parametrize(
    ("header", "age", "tail"),
    [(HEADER_2017, "60", ","), (HEADER_2020, "60", ""), (HEADER_SAMPLE, "060Y", "")],
    ids=["2017", "v2020", "sample"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("bom", [False, True], ids=["plain", "BOM"])
def test_every_release_reads_the_same(tmp_path, header, age, tail, end, bom):
    entries = read_entries(write(tmp_path / "x.csv", header, ROW.format(age=age) + tail, end=end, bom=bom))
    assert entries.loc[0, ["image", "labels", "sex", "view"]].tolist() == [
        "00000013_005.png", "Emphysema|Infiltration|Mass", "M", "AP"
    ]  # fmt: skip
    numbers = ["patient", "follow_up", "age", "width", "height", "spacing_x", "spacing_y"]
    assert entries.loc[0, numbers].tolist() == [13, 5, 60, 3056, 2544, 0.139, 0.168]
    assert entries["patient"].dtype == np.int64
    assert list(entries.columns[-14:]) == list(FINDINGS)
    assert (entries[list(FINDINGS)].dtypes == np.uint8).all()
    assert [name for name in FINDINGS if entries.loc[0, name]] == ["Emphysema", "Infiltration", "Mass"]


def test_a_compressed_csv_is_read(tmp_path):
    path = tmp_path / "Data_Entry_2017_v2020.csv.gz"
    path.write_bytes(gzip.compress(f"{HEADER_2020}\n{ROW.format(age=60)}\n".encode()))
    assert len(read_entries(path)) == 1
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        read_entries(path)


def test_a_zip_of_one_csv_is_read_and_any_other_refused(tmp_path):
    path = tmp_path / "Data_Entry_2017_v2020.csv.zip"
    for number in (1, 2):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{number}.csv", f"{HEADER_2020}\n{ROW.format(age=60)}\n")
        if number == 1:
            assert len(read_entries(path)) == 1
    with pytest.raises(InputError, match=r"cannot be read \(it holds 2 files\)"):
        read_entries(path)
    for content in (b"", b"PK\3\4", path.read_bytes()[:-30]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            read_entries(path)


@pytest.mark.parametrize(
    ("age", "years"),
    [("060Y", 60), ("60", 60), ("007M", 7 / 12), ("012D", 12 / 365.25), ("414", 414), ("", np.nan), ("old", np.nan)],
)
def test_ages(tmp_path, age, years):
    assert read_entries(write(tmp_path / "x.csv", HEADER_2020, ROW.format(age=age)))["age"].tolist() == [
        pytest.approx(years, nan_ok=True)
    ]


def test_only_three_columns_are_needed(tmp_path):
    path = write(tmp_path / "x.csv", "Patient ID,Image Index,Finding Labels", "p1,a.png,Mass", "2,b.png,No Finding")
    entries = read_entries(path)
    assert list(entries.columns) == ["image", "labels", "patient", *FINDINGS]
    assert entries["patient"].tolist() == ["p1", "2"], "where one patient is not a number, all stay text"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "cannot be read"),
        ([HEADER_2020], "a header and no row"),
        (["Image Index,Labels,Patient ID", "a.png,Mass,1"], "lacks the column Finding Labels .it has Image Index, Lab"),
        (["Image Index;Finding Labels;Patient ID", "a.png;Mass;1"], "lacks the column Image Index, Finding Labels"),
        (["Image Index,Finding Labels,Patient ID", "a.png,Mass,1", "a.png,Mass,1"], "names a.png more than once"),
        (["Image Index,Finding Labels,Patient ID", "../a.png,Mass,1"], "'../a.png'; expected plain file names"),
        (["Image Index,Finding Labels,Patient ID", "b\\a.png,Mass,1"], "expected plain file names"),
        (["Image Index,Finding Labels,Patient ID", "..,Mass,1"], "expected plain file names"),
        (["Image Index,Finding Labels,Patient ID", ",Mass,1"], "names images ''"),
        (["Image Index,Finding Labels,Patient ID", "a.png,Mass,1", "b.png,Lump,1"], "'Lump' in row 1"),
        (["Image Index,Finding Labels,Patient ID", "a.png,No Finding|Mass,1"], "'No Finding|Mass' in row 0"),
        (["Image Index,Finding Labels,Patient ID", "a.png,Mass,1", "b.png,Mass,"], "no patient in row 1"),
        (["Image Index,Finding Labels,Patient ID", "a.png,Mass,1", "b.png,Mass"], "no patient in row 1"),
        (["Image Index,Finding Labels,Patient ID", "a.png,Mass,Nodule,1"], "more values than its header"),
        (["Image Index,Finding Labels,Patient ID", "a.png,Mass,1", "b.png,Mass,Nodule,1"], "line 3, saw 4"),
        (["Image Index,Finding Labels,Patient ID", '"a.png,Mass,1'], "cannot be read"),
    ],
)
def test_unusable_entries_are_refused_with_a_reason(tmp_path, lines, message):
    path = write(tmp_path / "x.csv", *lines)
    with pytest.raises(InputError, match=message.replace("|", r"\|")) as error:
        read_entries(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [bytes(range(256)), HEADER_2020.encode("utf-16")], ids=["binary", "utf-16"])
def test_what_is_not_text_is_refused(tmp_path, content):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(InputError, match="with commas, in UTF-8"):
        read_entries(tmp_path / "x.csv")


@pytest.mark.parametrize("reader", [read_entries, read_boxes, read_expert_labels])
def test_a_missing_file_or_a_folder_is_refused(tmp_path, reader):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="is not a file"):
            reader(path)


def test_boxes(tmp_path):
    rows = ["a.png,Infiltrate,1.5,2,3,4,,,", "b.png,Mass,1,2,3,4"]
    boxes = read_boxes(write(tmp_path / "b.csv", BOX_HEADER, *rows))
    assert list(boxes.columns) == ["image", "finding", "x", "y", "w", "h"]
    assert boxes.iloc[0].tolist() == ["a.png", "Infiltration", 1.5, 2, 3, 4]
    assert boxes["finding"].tolist() == ["Infiltration", "Mass"]


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (BOX_HEADER, "a.png,Mass,1,2,0,4,,,", "in row 0"),
        (BOX_HEADER, "a.png,Mass,1,2,3,-4,,,", "in row 0"),
        (BOX_HEADER, "a.png,Mass,1,2,3", "in row 0"),
        (BOX_HEADER, "a.png,Mass,1,inf,3,4", "in row 0"),
        (BOX_HEADER, "a.png,Mass,1,two,3,4", "in row 0"),
        (BOX_HEADER, "a.png,Lump,1,2,3,4", "'Lump' is not one of the fourteen"),
        ("Image Index,Finding Label,x,y,w,h", "a.png,Mass,1,2,3,4", r"lacks the column Bbox \[x"),
    ],
)
def test_unusable_boxes_are_refused(tmp_path, header, row, message):
    with pytest.raises(InputError, match=message):
        read_boxes(write(tmp_path / "b.csv", header, row))


@pytest.mark.parametrize(
    "place",
    [
        "Data_Entry_2017.csv",
        "Data_Entry_2017_v2020.csv",
        "sample_labels.csv",
        "sample/sample_labels.csv",
    ],
)
def test_the_csv_of_a_folder_is_found(tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("")
    assert find_csv(tmp_path) == tmp_path / place


def test_only_what_can_be_read_is_found(tmp_path):
    for name in ("Data_Entry_2017.csv~", "Data_Entry_2017.csv.part", "Data_Entry_2017.csv.gz"):
        (tmp_path / name).write_text("")
    assert find_csv(tmp_path).name == "Data_Entry_2017.csv.gz"


def test_no_csv_or_two_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none of Data_Entry_2017\*.csv, .*sample_labels.csv"):
        find_csv(tmp_path)
    (tmp_path / "Data_Entry_2017.csv").write_text("")
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text("")
    with pytest.raises(InputError, match=r"Data_Entry_2017\.csv, .*v2020\.csv; choose one"):
        find_csv(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_csv(tmp_path / "nowhere")


def test_lists(tmp_path):
    assert read_lists(tmp_path) is None
    write(tmp_path / "train_val_list.txt", "a.png", "b.png", end="\r\n", bom=True)
    assert read_lists(tmp_path) is None, "one list alone says nothing"
    write(tmp_path / "test_list.txt", "c.png")
    assert read_lists(tmp_path / "none", tmp_path) == {"train_val": {"a.png", "b.png"}, "test": {"c.png"}}
    write(tmp_path / "test_list.txt", "b.png")
    with pytest.raises(InputError, match=r"both name b\.png"):
        read_lists(tmp_path)


def test_official_part_by_lists(tmp_path):
    write(tmp_path / "train_val_list.txt", "a.png")
    write(tmp_path / "test_list.txt", "b.png")
    entries = pd.DataFrame({"image": ["b.png", "a.png"], "patient": [1, 2]}, index=[7, 3])
    assert official_part(entries, tmp_path).to_dict() == {7: "test", 3: "train_val"}
    with pytest.raises(InputError, match=r"name neither part for c\.png"):
        official_part(pd.DataFrame({"image": ["a.png", "c.png"], "patient": [1, 2]}), tmp_path)


def test_official_part_without_lists_knows_nihs_images_only(tmp_path):
    entries = reference_entries().iloc[::50]
    part = official_part(entries)
    assert set(part) == {"train_val", "test"}
    as_text = entries.assign(patient=entries["patient"].astype(str))
    assert official_part(as_text, tmp_path).equals(part), "the patients may be text, as another column may force them"
    strange = entries.assign(image=["x.png", *entries["image"][1:]])
    with pytest.raises(InputError, match=r"name neither part for x\.png; .*split=patient"):
        official_part(strange)


@pytest.mark.real
def test_the_shipped_test_patients_agree_with_the_official_lists(real):
    entries = reference_entries()
    by_lists = official_part(entries, real / "nih-lists")
    assert by_lists.value_counts().to_dict() == {"train_val": 86_524, "test": 25_596}
    assert official_part(entries).equals(by_lists)


def test_expert_labels(tmp_path):
    path = write(
        tmp_path / "e.csv", "Image ID,Patient ID,Mass,Pleural Thickening,Airspace opacity", "a.png,7,YES,NO,YES"
    )
    labels = read_expert_labels(path)
    assert labels.to_dict("list") == {
        "image": ["a.png"], "patient": [7], "Mass": [1], "Pleural_Thickening": [0], "Airspace opacity": [1]
    }  # fmt: skip


@pytest.mark.parametrize("row", ["b.png,2,YES,MAYBE", "b.png,2,YES,", "b.png,2,YES", "b.png,2"])
def test_expert_labels_that_are_neither_yes_nor_no_are_refused(tmp_path, row):
    path = write(tmp_path / "e.csv", "Image ID,Patient ID,Mass,Nodule", "a.png,1,YES,NO", row)
    with pytest.raises(InputError, match="Nodule"):
        read_expert_labels(path)


@pytest.mark.real
def test_the_published_expert_labels(real):
    labels = read_expert_labels(real / "nih-lists" / "all_findings_expert_labels_test_labels.csv")
    assert len(labels) == 810
    assert set(FINDINGS) < set(labels)
    four = read_expert_labels(real / "nih-lists" / "four_findings_expert_labels_test_labels.csv")
    assert {"Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass"} <= set(four)
    assert reference_entries()["image"].isin(labels["image"]).sum() == 810


COUNTS = {
    "Infiltration": 19_894, "Effusion": 13_317, "Atelectasis": 11_559, "Nodule": 6_331, "Mass": 5_782,
    "Pneumothorax": 5_302, "Consolidation": 4_667, "Pleural_Thickening": 3_385, "Cardiomegaly": 2_776,
    "Emphysema": 2_516, "Edema": 2_303, "Fibrosis": 1_686, "Pneumonia": 1_431, "Hernia": 227,
}  # fmt: skip
COUNTS_TEST = {
    "Infiltration": 6_112, "Effusion": 4_658, "Atelectasis": 3_279, "Nodule": 1_623, "Mass": 1_748,
    "Pneumothorax": 2_665, "Consolidation": 1_815, "Pleural_Thickening": 1_143, "Cardiomegaly": 1_069,
    "Emphysema": 1_093, "Edema": 925, "Fibrosis": 435, "Pneumonia": 555, "Hernia": 86,
}  # fmt: skip


def test_the_reference_entries_have_the_published_counts():
    entries = reference_entries()
    assert len(entries) == 112_120
    assert entries["patient"].nunique() == 30_805
    assert entries["patient"].value_counts().max() == 184
    assert entries["sex"].value_counts().to_dict() == {"M": 63_340, "F": 48_780}
    assert entries["view"].value_counts().to_dict() == {"PA": 67_310, "AP": 44_810}
    assert entries[list(FINDINGS)].sum().to_dict() == COUNTS
    assert (entries[list(FINDINGS)].sum(axis=1) == 0).sum() == 60_361
    assert entries["age"].between(0, 95).all()
    assert (entries["age"] == 0).sum() == 14


def test_the_official_test_part_has_the_published_counts():
    entries = reference_entries()
    part = official_part(entries)
    assert (part == "test").sum() == 25_596
    assert entries[part == "test"][list(FINDINGS)].sum().to_dict() == COUNTS_TEST
    assert not set(entries.loc[part == "test", "patient"]) & set(entries.loc[part == "train_val", "patient"])


def test_the_reference_boxes_have_the_published_counts():
    boxes, entries = reference_boxes(), reference_entries()
    assert len(boxes) == 984
    assert boxes["image"].nunique() == 880
    assert boxes["finding"].nunique() == 8
    test = entries.loc[official_part(entries) == "test", "image"]
    assert boxes["image"].isin(test).all()
    area = boxes["w"] * boxes["h"] / metadata.BOX_FRAME**2
    assert area.mean() == pytest.approx(0.075, abs=0.0005)
    assert area[boxes["finding"] == "Cardiomegaly"].mean() == pytest.approx(0.176, abs=0.0005)
    assert area[boxes["finding"] == "Nodule"].mean() == pytest.approx(0.005, abs=0.0005)


def test_who_changes_the_reference_changes_a_copy():
    entries = reference_entries()
    entries.loc[0, "Mass"] = 1
    entries.insert(0, "part", "train")
    assert "part" not in reference_entries()
    assert reference_entries().loc[0, "Mass"] == 0


@pytest.mark.real
def test_the_real_tables_read(real):
    for name, images in (("nih-mini", 3_068), ("nih-native", 49)):
        entries = read_entries(find_csv(real / name))
        assert len(entries) == images
        assert read_boxes(real / name / "BBox_List_2017.csv")["image"].isin(entries["image"]).all()
        assert set(official_part(entries, real / name)) == {"train_val", "test"}


def test_the_tiny_data_set_reads(tiny_nih):
    entries, lists = read_entries(tiny_nih.csv_path), read_lists(tiny_nih.root)
    assert (len(entries), entries["patient"].nunique()) == (63, 32)
    for names in lists.values():
        assert (entries[entries["image"].isin(names)][list(FINDINGS)].sum() >= 2).all()
    assert "Infiltrate" in tiny_nih.boxes_path.read_text()
    assert read_boxes(tiny_nih.boxes_path)["image"].isin(lists["test"]).all()
