"""cxr preprocess, doctor, download, gather and phantom."""

import argparse
import os
from pathlib import Path

from cxrlib.cli.commands.opening import data_of, given_root, images_of
from cxrlib.cli.options import DoctorOptions, GatherOptions, PhantomOptions, PreprocessOptions
from cxrlib.core.errors import InputError
from cxrlib.core.paths import check_folder, write_json
from cxrlib.data.doctor.check import check_dataset
from cxrlib.data.gather import gather as gather_images, read_names
from cxrlib.data.sources import download as download_dataset
from cxrlib.phantom.generate import make_phantoms


def preprocess(options: PreprocessOptions) -> None:
    """Decode and resize every radiograph of the CSV once, into the cache."""
    data = data_of(options)
    cache = images_of(options, data, options.image_size, list(data.entries["image"]))
    print(f"{len(cache):,} radiographs at {cache.image_size} pixels in {cache.folder}")


def doctor(options: DoctorOptions) -> int:
    """Print the report; exit code 1 where something would change a result."""
    if options.report:
        check_folder(Path(options.report).parent)
        if Path(options.report).is_dir():
            raise InputError(f"{options.report} is a folder; expected a file for the report (--json)")
    report = check_dataset(given_root(options), options.csv_path, options.deep)
    print(report)
    if options.report:
        print(f"wrote {write_json(options.report, report.to_dict())}")
    return 0 if report.ok else 1


def download(given: argparse.Namespace) -> None:
    """Download a data set through kagglehub and print its folder."""
    print(download_dataset(given.dataset))


def gather(options: GatherOptions) -> None:
    """Make a data set of its own out of a named subset."""
    check_folder(options.out)
    names = read_names(options.names)
    made = gather_images(given_root(options), names, options.out, options.csv_path)
    print(f"{len(names):,} images in {made}")


def phantom(options: PhantomOptions) -> None:
    """Draw a data set of phantom radiographs in the NIH layout."""
    check_folder(options.root)
    print(make_phantoms(**dict(options) | {"root": os.path.abspath(options.root)}))
