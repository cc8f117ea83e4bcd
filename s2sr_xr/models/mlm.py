"""The facts of a model as a STAC item of the Machine Learning Model extension.

References
----------
STAC Machine Learning Model extension, https://github.com/stac-extensions/mlm, v1.4.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s2sr_xr.core.bands import BANDS
from s2sr_xr.errors import ModelError

if TYPE_CHECKING:
    from s2sr_xr.models.spec import BandGroup, ModelSpec

__all__ = ["to_mlm"]

EXTENSIONS = (
    "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/scientific/v1.0.0/schema.json",
)

LAUNCH = "2015-06-23T00:00:00Z"
"""Of Sentinel-2A: a model holds for all images since."""

MULTIHASH_SHA256 = "1220"
"""SHA-256, 32 bytes: the start of a hash that says what it is."""

DIMS = ("batch", "bands", "height", "width")


def to_mlm(spec: ModelSpec) -> dict[str, Any]:
    """Return a STAC item that describes a model, as JSON-ready values.

    Parameters
    ----------
    spec
        The facts, from `get_spec`. The asset is ``NAME.safetensors`` next to the item.

    Returns
    -------
    dict
        What is fed is a tile with its margin, ``(B, C, h, w)`` a group; shapes,
        margin, halo and cell are in ``mlm:hyperparameters`` too, counted in cells.

    Raises
    ------
    ModelError
        The model has no weights, which the extension needs.
    """
    if spec.sha256 is None:
        raise ModelError(
            f"{spec.name} has no weights file, which a STAC model item describes. "
            "Choose a model with weights; `s2sr models` lists them."
        )
    side = spec.tile + 2 * spec.margin
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(EXTENSIONS),
        "id": spec.name,
        "geometry": None,
        "properties": {
            "title": spec.title,
            "datetime": None,
            "start_datetime": LAUNCH,
            "end_datetime": "9999-12-31T23:59:59Z",
            "license": spec.licence,
            **({"sci:citation": spec.citation} if spec.citation else {}),
            "mlm:name": spec.name,
            "mlm:architecture": spec.title.partition(":")[0],
            "mlm:framework": "PyTorch",
            "mlm:tasks": ["super-resolution"],
            "mlm:pretrained": True,
            "mlm:accelerator": None,
            "mlm:input": [_input(spec, g, side) for g in spec.inputs],
            "mlm:output": [_output(spec)],
            "mlm:hyperparameters": _numbers(spec),
        },
        "links": [],
        "assets": {"weights": _asset(spec)},
    }


def _input(spec: ModelSpec, group: BandGroup, side: int) -> dict[str, Any]:
    metres = spec.cell / group.per_cell
    raw = _is_raw(spec)
    return {
        "name": f"bands at {metres:g} m",
        "description": (
            "counts of level L1B"
            if raw
            else "reflectance: counts with the offset of their processing baseline "
            "added, / 10000"
        ),
        "bands": list(group.names),
        "input": _array(len(group.names), side * group.per_cell),
        "value_scaling": None if raw else [{"type": "scale", "value": 10_000}],
        "resize_type": None,
    }


def _output(spec: ModelSpec) -> dict[str, Any]:
    group = spec.output
    return {
        "name": f"bands at {spec.resolution:g} m",
        "description": "the tile without its margin, in the unit of the input",
        "tasks": ["super-resolution"],
        "bands": list(group.names),
        "result": _array(len(group.names), spec.tile * group.per_cell),
        "classification:classes": [],
    }


def _array(bands: int, side: int) -> dict[str, Any]:
    shape = [-1, bands, side, side]
    return {"shape": shape, "dim_order": list(DIMS), "data_type": "float32"}


def _numbers(spec: ModelSpec) -> dict[str, Any]:
    """Return what decides how a model is tiled: the extension has no words for it."""
    return {
        "cell_m": spec.cell,
        "pixel_m": spec.resolution,
        "factor": spec.output.per_cell / spec.inputs[0].per_cell,
        "tile_cells": spec.tile,
        "margin_cells": spec.margin,
        "halo_cells": spec.halo,
        "align_cells": spec.align,
        "exact": spec.exact,
        "levels": list(spec.levels),
        "fill": dict(spec.fill),
    }


def _asset(spec: ModelSpec) -> dict[str, Any]:
    return {
        "href": f"./{spec.name}.safetensors",
        "title": f"Weights of {spec.name}",
        "type": "application/octet-stream",
        "roles": ["mlm:model", "mlm:weights", "data"],
        "mlm:artifact_type": "safetensors.torch.save_file",
        "mlm:entrypoint": "s2sr_xr:load_model",
        "file:checksum": f"{MULTIHASH_SHA256}{spec.sha256}",
        "bands": [
            {"name": b, "eo:center_wavelength": round(BANDS[b].wavelength / 1000, 4)}
            for b in spec.bands
        ],
    }


def _is_raw(spec: ModelSpec) -> bool:
    return spec.levels == ("L1B",)
