"""What missing pixels are filled with, against its definition, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from s2sr_xr.core import nodata
from s2sr_xr.core.tiling import REACH

MEANS = [0.25, 0.5]


def by_definition(image, missing, k):
    """Return what `fill` promises, with whole numbers: sums are exact."""
    out = image.copy()
    for c, y, x in zip(*np.nonzero(missing), strict=True):
        top, left = (k * max(n // k - REACH, 0) for n in (y, x))
        bottom, right = (k * (n // k + REACH + 1) for n in (y, x))
        near = np.s_[c, top:bottom, left:right]
        valid = image[near][~missing[near]]
        out[c, y, x] = valid.astype("f8").sum() / len(valid) if len(valid) else MEANS[c]
    return out


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("where", ["one", "corners", "rim", "holes", "all"])
def test_a_fill_is_the_mean_nearby(k, where):
    rng = np.random.default_rng(k)
    rows, cols = 25 * k, 31 * k
    image = rng.integers(0, 99, (2, rows, cols)).astype("f4")
    missing = np.zeros(image.shape, bool)
    match where:
        case "one":
            missing[1, 5, 7] = True
        case "corners":
            missing[:, 0, 0] = missing[0, -1, -1] = missing[1, -1, 0] = True
        case "rim":
            missing[0, :, -12 * k :] = missing[1, : 11 * k] = True
        case "holes":
            missing[:] = rng.random(missing.shape) < 0.2
        case "all":
            missing[:] = True
    image[missing] = np.nan
    filled = [
        nodata.fill(band, gaps, per_cell=k, mean=mean)
        for band, gaps, mean in zip(image, missing, MEANS, strict=True)
    ]
    np.testing.assert_array_equal(filled, by_definition(image, missing, k))


def test_nothing_missing_is_not_copied():
    image = np.ones((4, 4), "f4")
    missing = np.zeros(image.shape, bool)
    assert nodata.fill(image, missing, per_cell=2, mean=1.0) is image
