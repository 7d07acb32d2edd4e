"""Helper package of the chest X-ray course: from radiographs to an honestly measured multi-label classifier.

One subject a module; importing the package itself loads nothing heavy. CONTRIBUTING.md draws the architecture.
"""

__version__ = "0.1.0"
