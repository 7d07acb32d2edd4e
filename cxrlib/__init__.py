"""Helper package of the chest X-ray course: from radiographs to an honestly measured multi-label classifier.

One subject a module; importing the package itself loads nothing heavy. CONTRIBUTING.md draws the architecture.
"""

import os

__version__ = "0.1.0"

# How long a core waits busily for the others after its share of a layer, before torch loads the OpenMP runtime, which
# reads this: its default waits milliseconds, which are lost where another program has one of the cores (`make bench`).
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"
