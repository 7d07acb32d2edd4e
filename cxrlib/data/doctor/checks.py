"""The checks of the doctor: the level of each, what it means and what to do about it."""

from typing import NamedTuple

OLDEST = 110  # years; the 2017 release has typing errors up to 414
STOPS, CHANGES, HARMLESS = "stops", "changes", "harmless"
_AGAIN = "use the published file"
_FETCH = "download it again"
_REMOVE = "remove these rows"
_NOTHING = "nothing"


class Check(NamedTuple):
    """One check; level: cxrlib "stops", a result "changes", or it is "harmless" (handled and reported)."""

    subject: str
    level: str
    meaning: str
    advice: str


_CSV = {
    "no CSV": (STOPS, "there is no table of labels", "name it: csv_path"),
    "not a text file": (STOPS, "the file cannot be read as a CSV", _AGAIN),
    "not UTF-8": (STOPS, "the file has another encoding", "save it as UTF-8"),
    "semicolons": (STOPS, "values are separated by semicolons, as some spreadsheets do", "save it with commas"),
    "column missing": (STOPS, "a required column is missing", _AGAIN),
    "no row": (STOPS, "there is a header and nothing else", _AGAIN),
    "row too long": (STOPS, "more values than columns in the header: their columns are unknown", _AGAIN),
    "row too short": (CHANGES, "values are missing at the end of the row", _AGAIN),
    "unsafe name": (STOPS, "an image name with a path or a control character in it", _REMOVE),
    "image named twice": (STOPS, "an image has several rows", "keep one row per image"),
    "no patient": (STOPS, "without the patient, no split keeps patients apart", _REMOVE),
    "unknown label": (STOPS, "no label, not one of the fourteen, or No Finding with another", "join labels by |"),
    "patient unlike the name": (CHANGES, "the file name has another patient: splits may not separate them", _AGAIN),
    "age out of range": (
        CHANGES,
        f"no age, or above {OLDEST} years: results by age are wrong",
        "use the release v2020",
    ),
    "labels of another release": (
        CHANGES,
        "labels differ from the release v2020 (the release 2017 differs in 181 rows)",
        "compare only with results on the same release",
    ),
}
_LISTS = {
    "list missing": (
        CHANGES,
        "one of two: the package's own official split is used",
        "put both, or none, into img_root",
    ),
    "list unreadable": (STOPS, "the list is not UTF-8 text", _AGAIN),
    "in both lists": (STOPS, "an image is on both sides", _AGAIN),
    "in neither list": (CHANGES, "split=official stops", "use split=patient, or the lists of this data set"),
    "patient on both sides": (CHANGES, "in train_val and in test: results look too good", "use split=patient"),
}
_BOXES = {
    "boxes unreadable": (STOPS, "columns are missing, or rows too long", _AGAIN),
    "box of an unknown finding": (STOPS, "not one of the fourteen findings", _AGAIN),
    "box without place or size": (STOPS, "x, y, w, h must be numbers, and w, h above 0", _AGAIN),
    "box outside the image": (CHANGES, "beyond the 1024-pixel frame: its area is wrong", "use 1024-pixel coordinates"),
    "box twice": (CHANGES, "it counts twice in the localization", "remove the repeats"),
    "box on an unknown image": (HARMLESS, "left out: the CSV has no such row", _NOTHING),
}
_IMAGES = {
    "no image": (
        STOPS,
        "no PNG, JPEG or DICOM in any known layout",
        "point img_root at the folder of images_001/, images/ or the images",
    ),
    "two images of one name": (STOPS, "two different files have the same name", "keep one of them"),
    "cannot be decoded": (STOPS, "not a whole image", "download them again, or leave them out: on_bad_image=skip"),
    "without image": (CHANGES, "these rows are left out: results are of fewer images", "unpack the missing archives"),
    "same picture twice": (CHANGES, "it may be on both sides of a split", "remove one of the two"),
    "one single grey": (CHANGES, "all pixels have the same value", _FETCH),
    "another size": (CHANGES, "not the size of most images; resized like the others", _FETCH),
    "read with a warning": (CHANGES, "its header is wrong, or it may be no frontal radiograph", "look at it"),
    "not 8-bit grey": (HARMLESS, "converted to 8-bit grey, alpha ignored", _NOTHING),
    "same name twice": (HARMLESS, "in two folders, files of the same size: the first is used", _NOTHING),
    "without row": (HARMLESS, "left out: the CSV has no row for it", _NOTHING),
}
_SUBJECTS = {"csv": _CSV, "lists": _LISTS, "boxes": _BOXES, "images": _IMAGES}

# name -> check, in the order of the report
CHECKS = {name: Check(subject, *check) for subject, checks in _SUBJECTS.items() for name, check in checks.items()}
