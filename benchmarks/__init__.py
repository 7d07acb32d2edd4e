"""Speed, each figure against the plain way or the limit, measured side by side in one run: `make bench`."""

import cxrlib  # noqa: F401  before torch, which reads the environment that it sets
