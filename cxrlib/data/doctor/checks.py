"""What the doctor looks for: the level of each check, what it means and what to do about it."""

from typing import NamedTuple

OLDEST = 110  # years; the 2017 release holds typing errors up to 414
STOPS, CHANGES, HARMLESS = "stops", "changes", "harmless"
_AGAIN = "take the published file again"
_FETCH = "fetch it again"
_NOTHING = "nothing"


class Check(NamedTuple):
    """level: "stops" (cxrlib refuses it), "changes" (a result), "harmless" (handled, and said)."""

    level: str
    meaning: str
    advice: str


# subject -> name -> check; the doctor's table has their order
CHECKS: dict[str, dict[str, Check]] = {
    "csv": {
        "no CSV": Check(STOPS, "no table says what the images show", "name it: csv_path"),
        "not a text file": Check(STOPS, "the file cannot be read as a CSV", _AGAIN),
        "not UTF-8": Check(STOPS, "letters are written in another encoding", "save it as UTF-8"),
        "semicolons": Check(
            STOPS, "values are separated by semicolons, as some spreadsheets do", "save it with commas"
        ),
        "column missing": Check(STOPS, "a column that is needed is not there", _AGAIN),
        "no row": Check(STOPS, "there is a header and nothing else", _AGAIN),
        "row too long": Check(STOPS, "more values than the header has columns: which belongs where is unknown", _AGAIN),
        "row too short": Check(CHANGES, "values are missing at the end of the row", _AGAIN),
        "unsafe name": Check(STOPS, "an image name with a path or a control character in it", "remove these rows"),
        "image named twice": Check(STOPS, "one image has several rows", "keep one row an image"),
        "no patient": Check(STOPS, "without the patient no split keeps patients apart", "remove these rows"),
        "unknown label": Check(
            STOPS,
            "a label that is none of the fourteen, none at all, or No Finding beside another",
            "correct them; labels are joined by |",
        ),
        "patient unlike the name": Check(
            CHANGES, "the file name says another patient: one patient may stand on both sides of a split", _AGAIN
        ),
        "age out of range": Check(
            CHANGES,
            f"no age, or above {OLDEST} years: left out of figures by age, or wrong in them",
            "the release v2020 of the CSV is corrected",
        ),
        "labels of another release": Check(
            CHANGES,
            "other labels than in the release v2020 (the release 2017 differs in 181 rows)",
            "compare only with results on the same release",
        ),
        "byte order mark": Check(HARMLESS, "three bytes before the header, as some editors write", _NOTHING),
        "Windows line ends": Check(HARMLESS, "lines end with CR LF", _NOTHING),
        "quoted comma": Check(HARMLESS, "a value in quotes holds a comma", "nothing; it is read as one value"),
    },
    "lists": {
        "list missing": Check(
            CHANGES,
            "one of the two lists is not there, so the package's own official part is used",
            "put both, or none, into img_root",
        ),
        "list unreadable": Check(STOPS, "the list is not UTF-8 text", _AGAIN),
        "in both lists": Check(STOPS, "an image stands on both sides", _AGAIN),
        "in neither list": Check(
            CHANGES,
            "the official split has no part for it: split=official stops",
            "use split=patient, or the lists of this data set",
        ),
        "patient on both sides": Check(
            CHANGES, "images of one patient stand in train_val and in test: results look too good", "use split=patient"
        ),
        "listed twice": Check(HARMLESS, "a list names the image more than once", _NOTHING),
    },
    "boxes": {
        "boxes unreadable": Check(STOPS, "columns are missing, or rows too long", _AGAIN),
        "box of an unknown finding": Check(STOPS, "none of the fourteen", _AGAIN),
        "box without place or size": Check(STOPS, "x, y, w, h must be numbers, and w, h above 0", _AGAIN),
        "box outside the image": Check(
            CHANGES,
            "it reaches out of the 1024-pixel frame: its area is wrong",
            "look whether it is in 1024-pixel coordinates",
        ),
        "box twice": Check(CHANGES, "it counts twice in the localization", "remove the repeats"),
        "box without its label": Check(
            HARMLESS, "the CSV does not name the finding that was boxed: mined labels err", _NOTHING
        ),
        "box on an unknown image": Check(HARMLESS, "left out: the CSV has no such row", _NOTHING),
    },
    "images": {
        "no image": Check(
            STOPS,
            "no PNG in any known layout",
            "point img_root at the folder that holds images_001/, images/ or the PNGs",
        ),
        "two images of one name": Check(STOPS, "two different files bear one name", "keep one of them"),
        "cannot be decoded": Check(
            STOPS,
            "not a whole PNG: a download or an unpacking that broke off",
            "fetch them again, or go on without them: on_bad_image=skip",
        ),
        "without image": Check(
            CHANGES,
            "rows of the CSV whose image is not there are left out: results are of fewer images",
            "unpack the missing archives",
        ),
        "same picture twice": Check(
            CHANGES, "one picture under two names: it may stand on both sides of a split", "remove one of the two"
        ),
        "one single grey": Check(CHANGES, "every pixel has the same value: there is nothing to see", _FETCH),
        "another size": Check(CHANGES, "not as large as the other images: resized all the same", _FETCH),
        "not square": Check(HARMLESS, "padded with black, not stretched", _NOTHING),
        "not 1024 pixels": Check(
            HARMLESS, "a resized copy, not NIH's 1024 x 1024", "nothing; no detail above image_size counts"
        ),
        "colour or alpha": Check(HARMLESS, "converted to its grey value, alpha ignored", _NOTHING),
        "palette": Check(HARMLESS, "converted to the grey value of its colours", _NOTHING),
        "16-bit": Check(HARMLESS, "scaled to 8 bits", _NOTHING),
        "fewer than 8 bits": Check(HARMLESS, "scaled to 8 bits; a radiograph has more grey values", _NOTHING),
        "interlaced": Check(HARMLESS, "decoded as any other, more slowly", _NOTHING),
        "same name twice": Check(HARMLESS, "in two folders, files of one size: the first is taken", _NOTHING),
        "without row": Check(HARMLESS, "left out: the CSV does not name it", _NOTHING),
    },
}
