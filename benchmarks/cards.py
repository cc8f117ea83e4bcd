"""What every card of shipped weights says, whatever the network."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch

from s2sr_xr.models.networks.layers import lower

TERMS = (
    "Contains modified Copernicus Sentinel data (free, full and open). Samples of "
    "SSL4EO-S12 (CC BY 4.0), TerraMesh and Major TOM Core (CC BY-SA 4.0), BigEarthNet "
    "(CDLA-Permissive 1.0), DSen2 (CC BY 4.0), Hydro (MIT), Fields of The World (MIT), "
    "openEO (Apache-2.0), S2S_UCNN, S2_SSC_CNN and cijjas/satellite-image-processing "
    "(no licence stated; no pixel is shipped); simulated scenes of this library."
)


@torch.inference_mode()
def bf16_rmse(network: torch.nn.Module, given, flat=()) -> float:
    """Return how far bf16 is from float32, in the unit of what the network makes.

    `given` yields what the network takes, scene by scene; `flat` is what `lower` takes.
    """
    lowered, found = deepcopy(network), []
    lower(lowered, flat)
    for images in given:
        made = (one(*(i.clone() for i in images)) for one in (network, lowered))
        found.append(float((next(made) - next(made)).square().mean()))
    return float(f"{np.mean(found) ** 0.5:.2g}")
