"""python -m cxrlib.cli is cxr."""

import sys

from cxrlib.cli.main import main

sys.exit(main())
