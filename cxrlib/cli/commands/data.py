"""cxr preprocess, doctor, download, gather and phantom."""

import argparse
from pathlib import Path

from cxrlib.cli.commands.opening import check_writable, data_of, images_of
from cxrlib.cli.options import PhantomOptions, PreprocessOptions
from cxrlib.core.paths import write_json
from cxrlib.data.doctor.check import check_dataset
from cxrlib.data.gather import gather as gather_images, read_names
from cxrlib.data.sources import download as download_dataset
from cxrlib.phantom.generate import make_phantoms


def preprocess(options: PreprocessOptions) -> None:
    """Decode and resize every radiograph of the CSV once, into the cache."""
    data = data_of(options)
    cache = images_of(options, data, options.image_size, list(data.entries["image"]))
    print(f"{len(cache):,} radiographs at {cache.image_size} pixels in {cache.folder}")


def doctor(given: argparse.Namespace) -> int:
    """Print the report; exit code 1 where something would change a result."""
    report = check_dataset(given.img_root, given.csv_path, given.deep)
    print(report)
    if given.json:
        check_writable(Path(given.json).parent)
        print(f"wrote {write_json(given.json, report.to_dict())}")
    return 0 if report.ok else 1


def download(given: argparse.Namespace) -> None:
    """Download a data set through kagglehub and print its folder."""
    print(download_dataset(given.dataset))


def gather(given: argparse.Namespace) -> None:
    """Make a data set of its own out of a named subset."""
    names = read_names(given.names)
    print(f"{len(names):,} images in {gather_images(given.img_root, names, given.out)}")


def phantom(options: PhantomOptions) -> None:
    """Draw a data set of phantom radiographs in the NIH layout."""
    print(make_phantoms(**dict(options)))
