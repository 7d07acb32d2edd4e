"""cxr preprocess, doctor, download, gather and phantom; what several commands open: the data set and decoded images."""

import os
from pathlib import Path

from cxrlib.cli.options import DoctorOptions, DownloadOptions, GatherOptions, PhantomOptions, PreprocessOptions
from cxrlib.core.errors import InputError
from cxrlib.core.paths import check_folder, write_json
from cxrlib.course.config import DataConfig, FilesConfig
from cxrlib.course.opening import Data, open_data
from cxrlib.course.runs import RunFolder
from cxrlib.data import external, gather as gathering, metadata, sources
from cxrlib.data.cache import ImageCache, build_cache
from cxrlib.data.doctor.check import check_dataset
from cxrlib.phantom.generate import make_phantoms


def _root(options: FilesConfig) -> Path:
    if not options.img_root:
        raise InputError("img_root is not given; expected the folder of the radiographs, such as --img_root data/raw")
    return Path(options.img_root).absolute()


def data_of(options: DataConfig) -> Data:
    """Open the data set and print what it holds; the gaps of a labels.csv are unknown. InputError without a folder."""
    csv_path, img_root = Path(options.csv_path).absolute() if options.csv_path else "", _root(options)
    table = csv_path or ("" if any(img_root.glob("Data_Entry_2017*")) else sources.find_beside("labels.csv", img_root))
    if table and table.name.startswith("labels.csv") and "Finding Labels" not in metadata.read_csv(table):
        data = Data(*external.open_external(img_root, table, str(getattr(options, "weights", ""))), table, img_root)
    else:
        data = open_data(csv_path, img_root)
    print(data.summary)
    return data


def images_of(options: DataConfig, images: dict[str, Path], image_size: int, names, out: str = "") -> ImageCache:
    """The cache with these images; those that are left out (on_bad_image) are recorded in run.json of `out`."""
    cache = build_cache(images, image_size, names, options.cache_dir, on_bad_image=options.on_bad_image)
    if cache.bad and out:
        stage = type(options).__name__.removesuffix("Options").lower()
        RunFolder(Path(out).absolute()).record(stage, on_bad_image="skip", left_out=cache.bad)
    return cache


def preprocess(options: PreprocessOptions) -> None:
    """Decode and resize every radiograph of the CSV once, into the cache."""
    data = data_of(options)
    cache = images_of(options, data.images, options.image_size, data.entries["image"])
    print(f"{len(cache):,} radiographs at {cache.image_size} pixels in {cache.folder}")


def doctor(options: DoctorOptions) -> int:
    """Print the report; exit code 1 where something would change a result."""
    if options.report:
        check_folder(Path(options.report).parent)
        if Path(options.report).is_dir():
            raise InputError(f"{options.report} is a folder; expected a file for the report (--json)")
    report = check_dataset(_root(options), options.csv_path, options.deep)
    print(report)
    if options.report:
        print(f"wrote {write_json(options.report, report.to_dict())}")
    return 0 if report.ok else 1


def download(options: DownloadOptions) -> None:
    """Download a data set through kagglehub and print its folder."""
    print(sources.download(options.dataset))


def gather(options: GatherOptions) -> None:
    """Make a data set of its own out of a named subset."""
    check_folder(options.out)
    names = metadata.read_lines(options.names)
    print(f"{len(names):,} images in {gathering.gather(_root(options), names, options.out, options.csv_path)}")


def phantom(options: PhantomOptions) -> None:
    """Draw a data set of phantom radiographs in the NIH layout."""
    check_folder(options.root)
    print(make_phantoms(**dict(options) | {"root": os.path.abspath(options.root)}))
