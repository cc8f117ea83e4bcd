"""How much of what a trained network adds is to be kept, band by band, and its card.

    python benchmarks/sensor_share.py --real DIR --truth DIR --weights W --out NAME

Chosen on the scenes that `sensor_weights.py` chooses by, under both conditions alike:
the share with the least mean error over interpolation's. `NAME.safetensors` and
`NAME.json` are what can be shipped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
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
    keep,
    learnt_from,
    scores,
    trials,
)

from s2sr_xr.models.networks.explained import Explained
from s2sr_xr.models.networks.unrolled import Stages

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
    weights = args.out.with_suffix(".safetensors")
    keep(network, weights)
    card = {
        "name": "unrolled-20m",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "levels": ["L1C", "L2A"],
        "features": args.features,
        "blocks": args.blocks,
        "widths": {"B05-B8A": SENSORS.widths[0], "B11, B12": SENSORS.widths[1]},
        "share": dict(zip(TWENTY, network.share.tolist(), strict=True)),
        "learnt_from": [s.name for s in learnt_from(args.real, args.truth)],
        "chosen_by": [*CHOSEN_BY, KEPT],
        "validation": found,
    }
    args.out.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
