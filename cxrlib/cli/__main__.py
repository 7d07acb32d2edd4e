"""python -m cxrlib.cli is cxr."""

from cxrlib.cli.main import main

raise SystemExit(main())
