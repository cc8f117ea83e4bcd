"""Finer Sentinel-2 imagery, at scale, inside xarray.

>>> import s2sr_xr
>>> [spec.name for spec in s2sr_xr.list_models()][:2]
['bicubic-20m', 'bicubic-60m']
"""

from s2sr_xr import accessor, metrics, radiometry
from s2sr_xr.about import library_version
from s2sr_xr.catalogue import write_catalogue
from s2sr_xr.cog import to_cog
from s2sr_xr.cut import window
from s2sr_xr.errors import (
    ChunkError,
    GridError,
    MissingBandError,
    ModelError,
    RadiometryError,
    ReadError,
    ResumeMismatchError,
    S2SRError,
    S2SRWarning,
    StoreError,
)
from s2sr_xr.finer import decode, register, superresolve, upsample
from s2sr_xr.jobs import BatchReport, batch
from s2sr_xr.models.importing import import_checkpoint
from s2sr_xr.models.mlm import to_mlm
from s2sr_xr.models.registry import (
    get_spec,
    list_models,
    load_model,
    register_model,
)
from s2sr_xr.models.spec import BandGroup, ModelSpec
from s2sr_xr.output import to_zarr
from s2sr_xr.planning import Plan, plan
from s2sr_xr.provenance import result_item
from s2sr_xr.pyramid import add_pyramid
from s2sr_xr.readers.eopf import open_eopf
from s2sr_xr.readers.files import open_files
from s2sr_xr.readers.l1b import align_to_green, open_l1b, overlaps
from s2sr_xr.readers.safe import open_safe
from s2sr_xr.readers.stac import open_stac, open_stac_tiles
from s2sr_xr.readers.theia import open_theia
from s2sr_xr.simulate import open_truth, simulate_scene
from s2sr_xr.store import BadBlock, open_result, verify
from s2sr_xr.train.finetune import finetune

__version__ = library_version()

__all__ = [
    "BadBlock",
    "BandGroup",
    "BatchReport",
    "ChunkError",
    "GridError",
    "MissingBandError",
    "ModelError",
    "ModelSpec",
    "Plan",
    "RadiometryError",
    "ReadError",
    "ResumeMismatchError",
    "S2SRError",
    "S2SRWarning",
    "StoreError",
    "add_pyramid",
    "align_to_green",
    "batch",
    "decode",
    "finetune",
    "get_spec",
    "import_checkpoint",
    "list_models",
    "load_model",
    "metrics",
    "open_eopf",
    "open_files",
    "open_l1b",
    "open_result",
    "open_safe",
    "open_stac",
    "open_stac_tiles",
    "open_theia",
    "open_truth",
    "overlaps",
    "plan",
    "radiometry",
    "register",
    "register_model",
    "result_item",
    "simulate_scene",
    "superresolve",
    "to_cog",
    "to_mlm",
    "to_zarr",
    "upsample",
    "verify",
    "window",
    "write_catalogue",
]

del accessor
