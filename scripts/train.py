"""Train a classifier of the fourteen findings: writes model_best.pth and model_last.pth.

The same as `cxr train`.
"""

import sys

from cxrlib.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
