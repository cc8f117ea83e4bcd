"""How much of what a trained network adds is to be kept, band by band, and its card.

    python benchmarks/sensor_share.py --real DIR --truth DIR --weights W --out NAME

Chosen on the scenes that `sensor_weights.py` chooses by, under both conditions alike:
the share with the least mean error over interpolation's. `NAME.safetensors` and
`NAME.json` are what can be shipped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from sensor_weights import (
    CHOSEN_BY,
    KEPT,
    SENSORS,
    TWENTY,
    Trial,
    errors,
    learnt_from,
    scores,
    trials,
)

from s2sr_xr.models.networks.explained import Explained
from s2sr_xr.models.networks.unrolled import Stages
from s2sr_xr.models.restored import restored
from s2sr_xr.models.weights_file import card_of, save

TERMS = (
    "Contains modified Copernicus Sentinel data (free, full and open). Learnt from "
    "samples of TerraMesh and Major TOM Core (CC BY-SA 4.0), BigEarthNet "
    "(CDLA-Permissive 1.0), DSen2 (CC BY 4.0), Hydro (MIT), S2S_UCNN (no licence "
    "stated), AVIRIS (NASA/JPL) scenes of the ABU set (no licence stated), Indian "
    "Pines, NEON and MUUFL Gulfport samples, and simulated scenes of this library. "
    "The weights hold no pixel of any."
)
LIMITS = (
    "For reflectance of L1C and L2A, with the width that each band's sensor sees: "
    "B05 to B8A 7.2 to 10 m, B11 and B12 9 to 14 m. Where the 10 m bands explain a "
    "band to its noise, it adds nothing to regression through the sensor."
)
NOTE = (
    "From random weights 2000 steps (lr 1e-3, of 8000, stopped; no mixture of real "
    "scenes of equal sharpness yet, no gate by noise), then 300 (5e-4, of 2700, "
    "stopped) and 1250 (4e-4), each of 8 patches of 28 x 28 pixels of 20 m, by Muon, "
    "with seeds 0, 4 and 5."
)

SHARES = np.arange(0, 1.01, 0.05)


def best_share(network: Stages, found: list[Trial]) -> torch.Tensor:
    """Return the share of each band."""
    table = []
    for trial in found:
        s = trial.sensed
        made = network(s.fine, s.told, s.width)
        plain = errors(s.plain, s.target)
        row = np.full((len(SHARES), len(TWENTY)), np.nan)
        for k, share in enumerate(SHARES):
            mixed = s.told.made + float(share) * (made - s.told.made)
            row[k, trial.bands] = (errors(mixed, s.target) / plain)[trial.bands]
        table.append(row)
    mean = np.nanmean(np.array(table), axis=0)
    print(
        json.dumps(
            {"share": SHARES.round(2).tolist(), "error": mean.round(4).T.tolist()}
        )
    )
    return torch.from_numpy(SHARES[mean.argmin(0)]).float()


@torch.no_grad()
def main() -> None:
    """Choose, and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--features", type=int, default=48)
    parser.add_argument("--blocks", type=int, nargs="+", default=[3, 3])
    args = parser.parse_args()
    torch.set_num_threads(1)
    judged = trials(args.real, args.truth, Explained(2, groups=(4, 2)))
    network = Stages(((4, 1), (6, 2)), args.features, args.blocks, "same").eval()
    network.load_state_dict(load_file(args.weights), strict=False)
    network.share.fill_(1)
    network.share.copy_(best_share(network, [t for ts in judged.values() for t in ts]))
    found = {name: scores(network, ts) for name, ts in judged.items()}
    ((spec, build),) = restored()
    whole = build()
    whole.stages.load_state_dict(network.state_dict())
    old = card_of("dsen2-s-20m")
    fill = {band: old["fill"][band] for band in spec.bands}
    spec = replace(spec, levels=("L1C", "L2A"), fill=fill)
    weights = args.out.with_suffix(".safetensors")
    card = {
        "name": spec.name,
        "title": spec.title,
        "sha256": save(weights, whole, spec, spec.name),
        "levels": spec.levels,
        "fill": fill,
        "licence": spec.licence,
        "citation": "",
        "terms": TERMS,
        "limits": LIMITS,
        "learnt_from": [s.name for s in learnt_from(args.real, args.truth)],
        "chosen_by": [*CHOSEN_BY, KEPT],
        "recipe": {
            "sensors": asdict(SENSORS),
            "share": dict(zip(TWENTY, network.share.tolist(), strict=True)),
            "note": NOTE,
        },
        "validation": found,
    }
    args.out.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
