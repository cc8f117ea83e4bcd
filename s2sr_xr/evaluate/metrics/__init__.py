"""How near a prediction is to the truth: functions of two arrays.

All take ``(pred, truth)`` of one shape and compare them by position, in float64. Arrays
are (..., H, W); an array of scores has the leading axes, and one image one number.

A pixel that is missing (NaN) in either array is left out, with every window that holds
it; where nothing is left, the score is NaN. Infinite values are an error: a broken
prediction must not look like a missing one.

==============  =======  ==================  =========================================
function        perfect  unit                what is averaged
==============  =======  ==================  =========================================
`rmse`          0        that of the pixels  squared error over the pixels of a band
`sre`           inf      dB                  squared error over the pixels of a band
`psnr`          inf      dB                  squared error over the pixels of a band
`aligned_psnr`  inf      dB                  the same, the truth moved onto the band
`sam`           0        degrees             angles over pixels; one score for all bands
`uiq`           1        none                8 x 8 windows of a band
`ssim`          1        none                11 x 11 Gaussian windows of a band
==============  =======  ==================  =========================================

The mean over the bands, as papers print it, is ``rmse(pred, truth).mean()``: a mean of
scores, not the score of all bands together.
"""

from s2sr_xr.evaluate.metrics.aligned import aligned_psnr
from s2sr_xr.evaluate.metrics.pixels import psnr, rmse, sam, sre
from s2sr_xr.evaluate.metrics.windows import ssim, uiq

__all__ = ["aligned_psnr", "psnr", "rmse", "sam", "sre", "ssim", "uiq"]
