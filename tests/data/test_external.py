"""Another hospital's folder: each published layout, made small; what is unknown, left out and refused.

torchxrayvision's classes are the peer, on the tables that come with it.
"""

import os
from importlib import resources

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrlib.core.errors import InputError
from cxrlib.data.external import TERMS, open_external, read_external
from cxrlib.data.findings import FINDINGS

NAN = np.nan


def draw(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16), 99, np.uint8)).save(folder / name, format="PNG")


def write(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def labels_of(entries, *findings):
    return entries.set_index("image")[list(findings)]


def published(name):
    return resources.files("torchxrayvision").joinpath("data", name)


def test_a_plain_table(tmp_path):
    draw(tmp_path, "a.png", "b.png", "sub/c.png", "not_in_the_table.png")
    text = "image,patient,Effusion,pleural thickening,Fracture\na.png,7,1,,1\nb.png,7,0,-1,\nc,8,,0.0,\nd.png,9,1,1,1\n"
    write(tmp_path, "labels.csv", text)
    entries, images, said = open_external(tmp_path)
    assert entries["image"].tolist() == ["a.png", "b.png", "c.png"]
    assert entries["patient"].tolist() == ["7", "7", "8"]
    np.testing.assert_array_equal(labels_of(entries, "Effusion", "Pleural_Thickening"), [[1, NAN], [0, NAN], [NAN, 0]])
    assert entries[[name for name in FINDINGS if name not in ("Effusion", "Pleural_Thickening")]].isna().all(axis=None)
    assert (entries.dtypes[list(FINDINGS)] == np.float32).all()
    assert {name: path.relative_to(tmp_path).as_posix() for name, path in images.items()}["c.png"] == "sub/c.png"
    known = "known labels: Effusion 2, Pleural_Thickening 1"
    assert said == f"3 radiographs of 2 patients; {known}; 1 rows without an image left out (d.png)"


def test_without_patients_each_image_is_one(tmp_path):
    path = write(tmp_path, "labels.csv", "image,Nodule\na.png,1\nb.png,0\n")
    entries, said = read_external(path)
    assert entries["patient"].tolist() == entries["image"].tolist()
    assert "2 rows name no patient and count as a patient each" in said


def test_a_normal_image_has_none_of_what_the_table_asks(tmp_path):
    path = write(tmp_path, "t.csv", "image,No Finding,Mass,Edema\na,1,,-1\nb,0,,1\nc,,0,\n")
    entries, _ = read_external(path)
    np.testing.assert_array_equal(labels_of(entries, "Mass", "Edema", "Hernia"),
                                  [[0, 0, NAN], [NAN, 1, NAN], [0, NAN, NAN]])  # fmt: skip


def test_views_are_read_in_every_spelling(tmp_path):
    path = write(tmp_path, "t.csv", "image,view,Mass\na,AP supine,1\nb,posteroanterior,1\nc,Portable AP,0\nd,LL,1\n")
    assert read_external(path)[0]["view"].tolist() == ["AP", "PA", "AP"]


def test_a_table_of_lateral_views_leaves_nothing(tmp_path):
    draw(tmp_path, "a.png")
    write(tmp_path, "labels.csv", "image,view,Mass\na.png,LATERAL,1\n")
    with pytest.raises(InputError, match=r"leaves no radiograph .*; 1 rows of other than frontal views left out"):
        open_external(tmp_path)


def test_chexperts_test_labels_name_patient_and_view_in_the_path(tmp_path):
    paths = [f"test/patient{n}/study1/view{n}_{view}.jpg" for n in (1, 2) for view in ("frontal", "lateral")]
    text = "Path,Cardiomegaly,No Finding\n" + "".join(f"{path},1,0\n" for path in paths)
    entries, said = read_external(write(tmp_path, "test_labels.csv", text))
    assert entries["image"].tolist() == [paths[0], paths[2]]
    assert entries["patient"].tolist() == ["patient1", "patient2"]
    assert said == "2 rows of other than frontal views left out"


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = write(tmp_path, "t.csv", "image,Pleural_Thickening,Pleural Thickening\na,1,0\n")
    with pytest.raises(InputError, match="has two columns for one name"):
        read_external(path)


def test_boxes_without_readers_are_one_row_per_image(tmp_path):
    text = "image_id,class_name,x_min\na,Cardiomegaly,1\na,Nodule/Mass,2\nb,No finding,\n"
    entries, _ = read_external(write(tmp_path, "annotations_test.csv", text))
    assert entries["image"].tolist() == ["a", "b"]
    np.testing.assert_array_equal(labels_of(entries, "Cardiomegaly"), [[1], [0]])


def test_a_study_table_with_another_spelling_of_its_image_column(tmp_path):
    path = write(tmp_path, "t.csv", "subject_id,study_id,path,Edema\n1,2,a.png,1\n")
    assert read_external(path)[0]["image"].tolist() == ["a.png"]


def test_images_behind_a_link_to_a_folder_are_found(tmp_path):
    draw(tmp_path / "disk", "a.png")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/images").symlink_to(tmp_path / "disk")
    write(tmp_path / "here", "labels.csv", "image,Mass\na.png,1\n")
    assert open_external(tmp_path / "here")[0]["image"].tolist() == ["a.png"]


def test_rows_that_say_nothing_and_lateral_views_are_left_out(tmp_path):
    path = write(tmp_path, "t.csv", "image,view,Mass\na,PA,1\nb,LATERAL,1\nc,,0\nd,ap,\ne,LL,\n")
    entries, said = read_external(path)
    assert entries["image"].tolist() == ["a", "c"]
    assert "2 rows of other than frontal views left out" in said
    assert "1 rows of no known label left out" in said


CHEXPERT = """Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Lung Opacity,Edema,Pleural Effusion
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,F,68,Frontal,AP,1.0,,,,
CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,F,87,Frontal,PA,,-1.0,1.0,0.0,1.0
CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg,F,87,Lateral,,,1.0,,,
CheXpert-v1.0-small/train/patient00002/study3/view1_frontal.jpg,F,87,Frontal,AP,,1.0,,,
"""


@pytest.mark.parametrize("root", [".", "CheXpert-v1.0-small", "train"])
def test_chexpert(tmp_path, root):
    places = [line.split(",")[0].replace(".jpg", ".png") for line in CHEXPERT.splitlines()[1:]]
    draw(
        tmp_path / root,
        *(place.split("/", {".": 0, "CheXpert-v1.0-small": 1, "train": 2}[root])[-1] for place in places),
    )
    path = write(tmp_path, "valid.csv", CHEXPERT)
    entries, images, _ = open_external(tmp_path / root, path)
    assert entries["patient"].tolist() == ["patient00001", "patient00002", "patient00002"]
    assert [path.parent.name for path in images.values()] == ["study1", "study2", "study3"]
    assert entries["image"].tolist() == list(images), "the same file name three times: named by path"
    np.testing.assert_array_equal(entries[["Cardiomegaly", "Edema", "Effusion", "Pneumonia"]],
                                  [[0, 0, 0, NAN], [NAN, 0, 1, NAN], [1, NAN, NAN, NAN]])  # fmt: skip


def test_mimic(tmp_path):
    text = "subject_id,study_id,Atelectasis,Pleural Effusion\n10,50,1.0,\n11,51,,-1.0\n11,52,0.0,1.0\n"
    write(tmp_path, "mimic-cxr-2.0.0-chexpert.csv", text)
    beside = "dicom_id,subject_id,study_id,ViewPosition\naa-1,10,50,PA\naa-2,10,50,LATERAL\n"
    write(tmp_path, "mimic-cxr-2.0.0-metadata.csv", f"{beside}bb-1,11,51,AP\ncc-1,11,52,AP\n")
    draw(tmp_path, "files/p10/p10/s50/aa-1.png", "files/p10/p10/s50/aa-2.png", "files/p11/p11/s52/cc-1.png")
    entries, images, said = open_external(tmp_path)
    assert list(images) == ["aa-1.png", "cc-1.png"]
    assert entries["patient"].tolist() == ["10", "11"]
    np.testing.assert_array_equal(entries[["Atelectasis", "Effusion"]], [[1, NAN], [0, 1]])
    assert "1 rows of other than frontal views left out; 1 rows of no known label left out" in said
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv").unlink()
    with pytest.raises(InputError, match=r"names no image; expected mimic-cxr-\*-metadata"):
        open_external(tmp_path)


def test_padchest(tmp_path):
    text = """,ImageID,PatientID,Projection,Labels
0,1.png,p1,PA,"['pseudonodule', 'pleural effusion', 'scoliosis']"
1,2.png,p1,L,['nodule']
2,3.png,p2,AP_horizontal,"['multiple nodules', 'subcutaneous emphysema']"
3,4.png,p3,PA,['normal']
4,5.png,p4,PA,"['unchanged', 'nodule']"
5,6.png,p5,PA,
"""
    write(tmp_path, "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", text)
    draw(tmp_path, *(f"0/{n}.png" for n in range(1, 7)))
    entries, _, said = open_external(tmp_path)
    assert entries["image"].tolist() == ["1.png", "3.png", "4.png"]
    assert entries["patient"].tolist() == ["p1", "p2", "p3"]
    np.testing.assert_array_equal(entries[["Nodule", "Effusion", "Emphysema"]], [[0, 1, NAN], [1, 0, NAN], [0, 0, NAN]])
    assert "2 rows of no known label left out" in said


def test_vindr_boxes_and_labels_of_three_readers(tmp_path):
    boxes = """image_id,class_name,class_id,rad_id,x_min
a,Cardiomegaly,3,R1,1
a,Cardiomegaly,3,R1,5
a,Nodule/Mass,8,R1,5
a,Cardiomegaly,3,R2,1
a,Nodule/Mass,8,R2,1
a,No finding,14,R3,
b,Pleural effusion,10,R1,1
b,No finding,14,R2,
b,No finding,14,R3,
"""
    entries, _ = read_external(write(tmp_path, "train.csv", boxes))
    np.testing.assert_array_equal(labels_of(entries, "Cardiomegaly", "Nodule", "Mass", "Effusion", "Hernia"),
                                  [[1, NAN, NAN, 0, NAN], [0, 0, 0, 0, NAN]])  # fmt: skip
    table = """image_id,rad_ID,Atelectasis,Nodule/Mass,Pneumothorax,No finding
a,R1,1,1,0,0
a,R2,1,0,0,0
a,R3,0,0,1,0
b,R1,0,1,0,0
b,R2,0,1,0,0
"""
    write(tmp_path, "image_labels_train.csv", table)
    draw(tmp_path, "train/a.png", "train/b.png")
    entries, *_ = open_external(tmp_path, tmp_path / "image_labels_train.csv")
    np.testing.assert_array_equal(labels_of(entries, "Atelectasis", "Nodule", "Mass", "Pneumothorax"),
                                  [[1, 0, 0, 0], [0, NAN, NAN, 0]])  # fmt: skip


def test_openi(tmp_path):
    text = 'uid,MeSH,Problems,image\n1,x,normal,Chest PA\n2,x,Cardiomegaly;Pulmonary Edema,\n3,x,"Hernia, Hiatal",\n'
    write(tmp_path, "indiana_reports.csv", text)
    places = "uid,filename,projection\n1,1_IM-1.dcm.png,Frontal\n1,1_IM-2.dcm.png,Lateral\n"
    write(tmp_path, "indiana_projections.csv", f"{places}2,2_IM-1.dcm.png,Frontal\n3,3_IM-1.dcm.png,Frontal\n")
    draw(tmp_path, *(f"images/images_normalized/{n}.dcm.png" for n in ("1_IM-1", "1_IM-2", "2_IM-1", "3_IM-1")))
    entries, *_ = open_external(tmp_path)
    assert entries["patient"].tolist() == ["1", "2", "3"]
    np.testing.assert_array_equal(labels_of(entries, "Cardiomegaly", "Edema", "Hernia", "Mass"),
                                  [[0, 0, 0, NAN], [1, 1, 0, NAN], [0, 0, 1, NAN]])  # fmt: skip


def test_the_name_of_an_image_does_not_depend_on_other_rows(tmp_path):
    """A checkpoint remembers its training images by name: a longer table must not rename them."""
    draw(tmp_path, "p1/view1.png", "p2/view1.png", "p3/view2.png")
    rows = ["p1/view1.png,1,1", "p2/view1.png,2,0", "p3/view2.png,3,0"]
    for some in (rows, rows[:1], rows[2:]):
        write(tmp_path, "labels.csv", "\n".join(["image,patient,Nodule", *some]))
        entries, *_ = open_external(tmp_path)
        assert entries["image"].tolist() == [row.split(",")[0] for row in some]


def test_no_row_takes_the_radiograph_of_another_patient(tmp_path):
    draw(tmp_path, "p1/view1.png", "1.png")
    write(tmp_path, "labels.csv", "image,patient,Nodule\np1/view1.png,1,1\np2/view1.png,2,0\nphotos/1.png,3,0\n")
    entries, images, said = open_external(tmp_path)
    assert entries["patient"].tolist() == ["1", "3"]
    assert images["p1/view1.png"] == tmp_path / "p1/view1.png"
    assert "1 rows without an image left out (p2/view1.png)" in said
    write(tmp_path, "labels.csv", "image,patient,Nodule\np1/view1.png,1,1\nview1,2,0\n")
    with pytest.raises(InputError, match=r"names view1.png more than once"):
        open_external(tmp_path)


@pytest.mark.parametrize("columns", ["Effusion", "class_name"])
def test_several_readers_leave_patient_and_view_as_they_are(tmp_path, columns):
    said = {"Effusion": (1, 0), "class_name": ("Pleural effusion", "No finding")}[columns]
    rows = [f"{name}.png,{patient},{view},R{reader},{said[patient == 8]}"
            for name, patient, view in (("b", 7, "PA"), ("a", 7, "AP"), ("c", 8, "PA"), ("d", 8, "LATERAL"))
            for reader in (1, 2, 3)]  # fmt: skip
    path = write(tmp_path, "labels.csv", "\n".join([f"image,patient,view,rad_id,{columns}", *rows]))
    entries, said = read_external(path)
    assert entries[["image", "patient", "view"]].to_numpy().tolist() == [
        ["a.png", "7", "AP"], ["b.png", "7", "PA"], ["c.png", "8", "PA"]]  # fmt: skip
    assert entries["Effusion"].tolist() == [1, 1, 0]
    assert "of other than frontal views left out" in said


def test_a_view_beside_the_patients_of_the_table(tmp_path):
    rows = "a.png,7,Frontal,1\nb.png,7,Lateral,1\nc.png,8,Frontal,0\n"
    entries, _ = read_external(write(tmp_path, "labels.csv", f"image,patient,Frontal/Lateral,Mass\n{rows}"))
    assert entries["patient"].tolist() == ["7", "8"]


def test_of_two_columns_for_a_finding_the_uncertain_one_counts(tmp_path):
    rows = "\n".join(["a,0,-1", "b,-1,0", "c,1,-1", "d,0,0", "e,0,", "f,,-1", "g,-1,-1"])
    path = write(tmp_path, "labels.csv", f"image,Pneumothorax,Hydropneumothorax\n{rows}\nh,1,1\n")
    entries, _ = read_external(path)
    found = entries.set_index("image")["Pneumothorax"].reindex(list("abcdefgh"))
    np.testing.assert_array_equal(found, [NAN, NAN, 1, 0, 0, NAN, NAN, 1])


def test_terms_may_be_joined_as_nih_joins_them(tmp_path):
    entries, _ = read_external(write(tmp_path, "labels.csv", "image,Labels\na,Effusion|Mass\nb,Mass\nc,normal\n"))
    np.testing.assert_array_equal(labels_of(entries, "Effusion", "Mass"), [[1, 1], [0, 1], [0, 0]])


def test_masks_of_the_same_name_are_no_radiographs(tmp_path):
    draw(tmp_path, "images/a.png", "masks/a.png")
    write(tmp_path, "labels.csv", "image,Nodule\na.png,1\n")
    _, images, _ = open_external(tmp_path)
    assert images == {"a.png": tmp_path / "images" / "a.png"}
    os.rename(tmp_path / "images", tmp_path / "films")
    with pytest.raises(InputError, match="none of the 1 images"):
        open_external(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patientId,x,y,width,height,Target\na,,,,,0\n", "RSNA challenge, whose images are all of ChestX-ray14"),
        ("patientId,class\na,Normal\n", "RSNA challenge"),
        ("ImageId, EncodedPixels\n1.2.3,-1\n", "SIIM-ACR challenge"),
        ("Image Index,Finding Labels,Patient ID\na.png,Mass,1\n", "ChestX-ray14 itself.*--img_root"),
        ("image,Mass\nx/00000013_005.png,1\n", "names x/00000013_005.png, of ChestX-ray14"),
        ("image,Mass\n00030805_000,1\n", "of ChestX-ray14"),
        ("image,Mass\n1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819,1\n", "SIIM-ACR, which took them from it"),
        ("image,Fracture\na,1\n", "no label of the fourteen findings .it has image, Fracture."),
        ("image,Mass\na,\n", "no label of the fourteen findings"),
        ("image,Mass\na,2\n", "'2' for 'mass' in row 0, counted from 0; expected 1, 0, empty, or -1"),
        ("image,Mass\na,yes\n", "'yes' for 'mass'"),
        ("name,Mass\na,1\n", "has no image, or a row without one; expected one of the columns image"),
        ("image,Mass\na,1\n,1\n", "has no image, or a row without one"),
        ("image,Mass\n", "has no image"),
        ('image,Mass\n"a\x1b[2J",1\n', r"'a\\x1b\[2J'; expected printable"),
    ],
)  # fmt: skip
def test_refuses_in_one_sentence(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_external(write(tmp_path, "labels.csv", text))
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(("weights", "header"), [("xrv-chex", "Path,AP/PA,Mass"), ("xrv-pc", "ImageID,Labels,Mass"),
                                                 ("xrv-mimic", "subject_id,study_id,dicom_id,Mass")])  # fmt: skip
def test_what_the_start_weights_have_seen_is_refused(tmp_path, weights, header):
    path = write(tmp_path, "t.csv", f"{header}\n{','.join('1' * len(header.split(',')))}\n")
    with pytest.raises(InputError, match=f"on which the weights {weights} were trained"):
        read_external(path, weights)


def test_names_that_only_resemble_nih_pass(tmp_path):
    path = write(tmp_path, "t.csv", "image,Mass\n00090001_000.png,1\n00030806_000.png,1\n20536686640136_000.png,0\n")
    assert len(read_external(path)[0]) == 3


def test_refuses_folders_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        open_external(tmp_path / "none")
    with pytest.raises(InputError, match=r"has none of labels.csv, .*name the table with csv_path"):
        open_external(tmp_path)
    write(tmp_path, "image_labels_train.csv", "")
    write(tmp_path, "image_labels_test.csv", "")
    with pytest.raises(InputError, match="has several tables"):
        open_external(tmp_path)
    write(tmp_path, "labels.csv", "image,Mass\na.png,1\na,0\n")
    draw(tmp_path, "a.png")
    with pytest.raises(InputError, match=r"names a.png more than once"):
        open_external(tmp_path)


def test_no_name_leaves_the_folder(tmp_path):
    draw(tmp_path, "secret.png", "inside/a.png")
    write(tmp_path / "inside", "labels.csv", f"image,Mass\na.png,1\n../secret.png,1\n{tmp_path}/secret.png,0\n")
    _, images, said = open_external(tmp_path / "inside")
    assert list(images) == ["a.png"]
    assert "2 rows without an image" in said


def test_chexpert_labels_are_those_of_torchxrayvision(tmp_path):
    from torchxrayvision.datasets import CheX_Dataset

    path = tmp_path / "train.csv"
    pd.read_csv(published("chexpert_train.csv.gz"), dtype=str, nrows=3000).to_csv(path, index=False)
    theirs = CheX_Dataset(str(tmp_path), str(path), views=["PA", "AP"], unique_patients=False)
    ours = read_external(path)[0].set_index("image")
    names = [name for name in FINDINGS if name in theirs.pathologies]
    table = pd.DataFrame(theirs.labels, theirs.csv["Path"], theirs.pathologies)[names]
    known = table.notna().any(axis=1)
    assert len(names) == 7
    assert known.sum() > 1500
    assert set(ours.index) == set(table.index[known])
    np.testing.assert_array_equal(ours.loc[table.index[known], names], table[known])


def test_padchest_terms_are_those_of_torchxrayvision_but_whole(tmp_path):
    """Every label that differs does so for a term whose part alone is the finding, or for their wider Infiltration."""
    from torchxrayvision.datasets import PC_Dataset

    path = tmp_path / "PADCHEST.csv"
    table = pd.read_csv(published("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"), dtype=str, nrows=6000)
    table.to_csv(path, index=False)
    theirs = PC_Dataset(str(tmp_path), str(path), views=["PA", "AP", "AP Supine"], unique_patients=False)
    peer = pd.DataFrame(theirs.labels, theirs.csv["ImageID"], theirs.pathologies)
    terms = theirs.csv.set_index("ImageID")["Labels"]
    ours = read_external(path)[0].set_index("image")
    both = ours.index.intersection(peer.index)
    assert len(both) > 2500
    partial = {"Nodule": "pseudonodule|reticulonodular", "Emphysema": "subcutaneous", "Fibrosis": "fibroadenoma",
               "Effusion": "pericardial|fissural|hydro", "Mass": "mediastinal|pleural mass|soft tissue|breast",
               "Infiltration": "consolidation|air bronchogram"}  # fmt: skip
    for name in set(FINDINGS) & set(peer):
        differs = (ours.loc[both, name] != peer.loc[both, name]) & ours.loc[both, name].notna()
        assert terms[both][differs].str.contains(partial.get(name, "-")).all(), name
    assert (ours.loc[both, "Cardiomegaly"] == 1).sum() > 100


def test_every_term_means_what_it_says():
    assert list(TERMS) == list(FINDINGS)
    assert all(term == term.lower() for terms in TERMS.values() for term in terms)
