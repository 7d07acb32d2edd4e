"""A real browser for the tests of this folder: skipped where there is none, a failure where CI=true allows no skip."""

import os

import pytest

from tests.browser import lab


@pytest.fixture(scope="session")
def chrome():
    """A browser, for all tests of this folder."""
    executable = lab.chromium()
    if executable is None:
        reason = "no Chromium is installed (apt-get install chromium, or name one in CXR_CHROMIUM)"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"{reason}, and CI=true allows no skip")
        pytest.skip(reason)
    with lab.browser(executable) as browser:
        yield browser
