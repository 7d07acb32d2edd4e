"""The checks of the doctor: the level of each, what it means and what to do about it."""

import pandas as pd

OLDEST = 110  # years; the 2017 release has typing errors up to 414
STOPS, CHANGES, HARMLESS = "stops", "changes", "harmless"  # cxrlib; a result; nothing, as it is handled and reported
_AGAIN = "use the published file"
_FETCH = "download it again"
_REMOVE = "remove these rows"
_SKIP = "download them again, or leave them out: on_bad_image=skip"
_LAYOUT = "point img_root at the folder of images_001/, images/ or the PNGs"

_CHECKS = [
    ("csv", "no CSV", STOPS, "there is no table of labels", "name it: csv_path"),
    ("csv", "not a text file", STOPS, "the file cannot be read as a CSV", _AGAIN),
    ("csv", "not UTF-8", STOPS, "the file has another encoding", "save it as UTF-8"),
    ("csv", "semicolons", STOPS, "values are separated by semicolons, as some spreadsheets do", "save it with commas"),
    ("csv", "column missing", STOPS, "a required column is missing", _AGAIN),
    ("csv", "no row", STOPS, "there is a header and nothing else", _AGAIN),
    ("csv", "row too long", STOPS, "more values than columns in the header: their columns are unknown", _AGAIN),
    ("csv", "row too short", CHANGES, "values are missing at the end of the row", _AGAIN),
    ("csv", "unsafe name", STOPS, "an image name with a path or a control character in it", _REMOVE),
    ("csv", "image named twice", STOPS, "an image has several rows", "keep one row per image"),
    ("csv", "no patient", STOPS, "without the patient, no split keeps patients apart", _REMOVE),
    ("csv", "unknown label", STOPS, "no label, not one of the fourteen, or No Finding with another",
     "join labels by |"),
    ("csv", "patient unlike the name", CHANGES, "the file name has another patient: splits may not separate them",
     _AGAIN),
    ("csv", "age out of range", CHANGES, f"no age, or above {OLDEST} years: results by age are wrong",
     "use the release v2020"),
    ("csv", "labels of another release", CHANGES,
     "labels differ from the release v2020 (the release 2017 differs in 181 rows)",
     "compare only with results on the same release"),
    ("lists", "list missing", CHANGES, "one of two: the package's own official split is used",
     "put both, or none, into img_root"),
    ("lists", "list unreadable", STOPS, "the list is not UTF-8 text", _AGAIN),
    ("lists", "in both lists", STOPS, "an image is on both sides", _AGAIN),
    ("lists", "in neither list", CHANGES, "split=official stops", "use split=patient, or the lists of this data set"),
    ("lists", "patient on both sides", CHANGES, "in train_val and in test: results look too good", "use split=patient"),
    ("boxes", "boxes unreadable", STOPS, "columns are missing, or rows too long", _AGAIN),
    ("boxes", "box of an unknown finding", STOPS, "not one of the fourteen findings", _AGAIN),
    ("boxes", "box without place or size", STOPS, "x, y, w, h must be numbers, and w, h above 0", _AGAIN),
    ("boxes", "box outside the image", CHANGES, "beyond the 1024-pixel frame: its area is wrong",
     "use 1024-pixel coordinates"),
    ("boxes", "box twice", CHANGES, "it counts twice in the localization", "remove the repeats"),
    ("boxes", "box on an unknown image", HARMLESS, "left out: the CSV has no such row", "nothing"),
    ("images", "no image", STOPS, "no PNG in any known layout", _LAYOUT),
    ("images", "two images of one name", STOPS, "two different files have the same name", "keep one of them"),
    ("images", "cannot be decoded", STOPS, "not a complete PNG, or not readable", _SKIP),
    ("images", "without image", CHANGES, "these rows are left out: results are of fewer images",
     "unpack the missing archives"),
    ("images", "same picture twice", CHANGES, "it may be on both sides of a split", "remove one of the two"),
    ("images", "one single grey", CHANGES, "all pixels have the same value", _FETCH),
    ("images", "another size", CHANGES, "not the size of most images; resized like the others", _FETCH),
    ("images", "not 8-bit grey", HARMLESS, "converted to 8-bit grey, alpha ignored", "nothing"),
    ("images", "same name twice", HARMLESS, "in two folders, files of the same size: the first is used", "nothing"),
    ("images", "without row", HARMLESS, "left out: the CSV has no row for it", "nothing"),
]  # fmt: skip

# one row per check, in the order of the report
CHECKS = pd.DataFrame(_CHECKS, columns=["subject", "check", "level", "meaning", "to do"]).set_index("check")
