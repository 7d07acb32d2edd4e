"""Predict the fourteen findings of your own radiographs (PNG, JPEG, DICOM): writes results/predictions.csv and .html.

The same as `cxr predict`.
"""

import sys

from cxrlib.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
