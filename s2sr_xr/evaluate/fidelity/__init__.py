"""What a finer image keeps, gains and costs, with a reference and without.

Functions of NumPy arrays, 2-D unless they say ``(..., H, W)``. A missing pixel is NaN;
windows that hold one are left out, and where nothing is left the figure is NaN.

=====================  ==================================================  =============
function               says                                                perfect
=====================  ==================================================  =============
`agreement`            how far the result, averaged back to the input,     0
                       is from it: reflectance, spectrum, place
`spectrum`             power at each frequency                             of the truth
`ring_correlation`     how much of each frequency is the truth's           1
`resolved`             up to which frequency a curve stays above a level   0.5
`energy_gain`          power beyond a frequency over that of a baseline    of the truth
`find_edges`           straight edges between even fields                  -
`edge_response`        how wide such edges are: FWHM and MTF               narrow
`flat_windows`         where there is nothing but noise, or nearly so      -
`noise`                spread over flat windows, and the signal there      small
`seam_energy`          jumps across a grid of lines over other jumps       1
`measure`              all of these, of a result and its tree
`fidelity_table`       the same as text; `fidelity_page` as a picture
=====================  ==================================================  =============
"""

from s2sr_xr.evaluate.fidelity.consistency import Agreement, agreement, shift
from s2sr_xr.evaluate.fidelity.edges import (
    EdgeResponse,
    Edges,
    edge_response,
    find_edges,
)
from s2sr_xr.evaluate.fidelity.measure import BandFidelity, Fidelity, Seen, measure
from s2sr_xr.evaluate.fidelity.noise import Noise, flat_windows, noise, seam_energy
from s2sr_xr.evaluate.fidelity.page import fidelity_page, fidelity_table
from s2sr_xr.evaluate.fidelity.spectra import (
    energy_gain,
    resolved,
    ring_correlation,
    spectrum,
)

__all__ = [
    "Agreement",
    "BandFidelity",
    "EdgeResponse",
    "Edges",
    "Fidelity",
    "Noise",
    "Seen",
    "agreement",
    "edge_response",
    "energy_gain",
    "fidelity_page",
    "fidelity_table",
    "find_edges",
    "flat_windows",
    "measure",
    "noise",
    "resolved",
    "ring_correlation",
    "seam_energy",
    "shift",
    "spectrum",
]
