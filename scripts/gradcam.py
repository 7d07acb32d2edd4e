"""Draw heat maps over radiographs of the test part: writes results/gradcam/.

The same as `cxr gradcam`.
"""

import sys

from cxrlib.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["gradcam", *sys.argv[1:]]))
