"""Opening a data set: its table, its images and its boxes; the project's own phantoms are drawn when needed."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from cxrlib.core.paths import PHANTOM, located
from cxrlib.course.config import CourseConfig, with_paths
from cxrlib.data import metadata, sources
from cxrlib.evaluation.agreement import EXPERT_FILES
from cxrlib.phantom.generate import make_phantoms

BESIDE = {  # the files of a kind, and what a notebook's cell that reads them says
    "boxes": (("BBox_List_2017.csv",), "data.boxes"),
    "official lists": (("train_val_list.txt", "test_list.txt"), "lists_in"),
    "expert labels": (EXPERT_FILES, "find_expert_labels"),
    "phantoms": (("phantom.json",), "data.are_phantoms"),
}


@dataclass(frozen=True)
class Data:
    """A data set on disk: entries (one row per image on disk), images (name -> path), and where they came from."""

    entries: pd.DataFrame
    images: dict[str, Path]
    summary: str
    csv_path: Path
    img_root: Path

    @property
    def folders(self) -> tuple[Path, Path]:
        """Where the official lists and the boxes may lie."""
        return self.img_root, self.csv_path.parent

    @property
    def are_phantoms(self) -> bool:
        """Whether the radiographs were drawn by `make_phantoms`, so that their pictures may go anywhere."""
        return (self.img_root / "phantom.json").is_file()

    @property
    def boxes(self) -> pd.DataFrame | None:
        """The boxes of BBox_List_2017.csv on images that are there; None where the file is not."""
        if not (found := self._found("boxes")):
            return None
        boxes = metadata.read_boxes(found[0])
        return boxes[boxes["image"].isin(self.entries["image"])].reset_index(drop=True)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen digits that change with the content of the CSV and with the images."""
        return sources.content_digest([self.csv_path], self.images)

    @cached_property
    def beside(self) -> dict[str, str]:
        """The content of what may lie beside the radiographs, as {kind: sixteen digits}."""
        return {kind: sources.content_digest(self._found(kind)) for kind in BESIDE}

    def _found(self, kind: str) -> list[Path]:
        paths = [sources.find_beside(name, folder) for folder in self.folders for name in BESIDE[kind][0]]
        return [path for path in paths if path]


def check_parameters(notebook: dict) -> None:
    """Give a notebook's parameters, in its `globals()`, declared types and absolute paths; InputError for others."""
    # an imported function may have the name of a parameter that another notebook has, such as augment
    given = {name: one for name, one in notebook.items() if name in CourseConfig.model_fields and not callable(one)}
    notebook.update(with_paths(CourseConfig(**given).model_dump(include=set(given)), located))


def open_data(csv_path: str | Path = "", img_root: str | Path = PHANTOM) -> Data:
    """Open a CSV ("": that in `img_root`) and its images; a missing data/phantom is drawn. InputError without them."""
    img_root = located(img_root)
    if img_root == PHANTOM and not (PHANTOM / "phantom.json").is_file():
        make_phantoms(PHANTOM)
    csv_path = located(csv_path) if str(csv_path) else metadata.find_csv(img_root)
    entries, images = metadata.read_entries(csv_path), sources.find_images(img_root)
    entries, summary = sources.keep_found(entries, images)
    return Data(entries, images, summary, csv_path, img_root)
