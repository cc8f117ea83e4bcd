"""Networks run on one thread here, so that tests in other processes have theirs."""

from __future__ import annotations

import pytest

from s2sr_xr.engine.predict import torch_threads


@pytest.fixture(autouse=True)
def _one_thread():
    with torch_threads(1):
        yield
