"""The progress bar of everything that takes long."""

import os

from tqdm.auto import tqdm


def bar(iterable=None, show: bool = True, **options) -> tqdm:
    """A tqdm bar, hidden where `show` is false or the environment says TQDM_DISABLE=1, as headless notebooks do."""
    return tqdm(iterable, disable=not show or os.environ.get("TQDM_DISABLE") == "1", **options)
