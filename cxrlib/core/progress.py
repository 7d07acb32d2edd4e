"""The progress bar of long operations."""

import os

from tqdm.auto import tqdm


def bar(iterable=None, show: bool = True, **options) -> tqdm:
    """A tqdm bar, hidden if `show` is false or TQDM_DISABLE=1 is set, as it is for headless notebooks."""
    return tqdm(iterable, disable=not show or os.environ.get("TQDM_DISABLE") == "1", **options)
