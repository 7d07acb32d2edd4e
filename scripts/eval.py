"""Tune thresholds on the validation part, report on the test part: writes results/tables/metrics.txt.

The same as `cxr eval`. The checkpoint stays as it is; --update_checkpoint puts thresholds and calibration into it.
"""

import sys

from cxrlib.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
