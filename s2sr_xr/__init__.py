"""Finer Sentinel-2 imagery, at scale, inside xarray.

>>> import s2sr_xr
>>> [spec.name for spec in s2sr_xr.list_models()][:2]
['bicubic-20m', 'bicubic-60m']
"""

from s2sr_xr import accessor, errors, evaluate, simulate, train
from s2sr_xr.batches.report import BatchReport
from s2sr_xr.batches.run import batch
from s2sr_xr.core import radiometry
from s2sr_xr.core.decode import decode
from s2sr_xr.core.psf_measured import measure_psf
from s2sr_xr.core.version import library_version
from s2sr_xr.engine.api import register, superresolve, upsample
from s2sr_xr.engine.plan import Plan, plan
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
from s2sr_xr.evaluate import metrics
from s2sr_xr.models.importers.checkpoint import import_checkpoint
from s2sr_xr.models.mlm import to_mlm
from s2sr_xr.models.registry import get_spec, list_models, load_model, register_model
from s2sr_xr.models.spec import BandGroup, ModelSpec
from s2sr_xr.output.cog import to_cog
from s2sr_xr.output.overviews import add_pyramid
from s2sr_xr.output.stac_catalog import write_catalogue
from s2sr_xr.output.stac_item import result_item
from s2sr_xr.output.to_zarr import to_zarr
from s2sr_xr.output.zarr import BadBlock, open_result, verify
from s2sr_xr.readers.crop import window
from s2sr_xr.readers.eopf.open import open_eopf
from s2sr_xr.readers.files import open_files
from s2sr_xr.readers.l1b.open import align_to_green, open_l1b, overlaps
from s2sr_xr.readers.safe.open import open_safe
from s2sr_xr.readers.stac.open import open_stac, open_stac_tiles
from s2sr_xr.readers.theia.open import open_theia
from s2sr_xr.simulate import open_truth, simulate_scene
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
    "measure_psf",
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

_PACKAGES = {
    "errors": errors,
    "evaluate": evaluate,
    "simulate": simulate,
    "train": train,
}

del accessor


def __dir__() -> list[str]:
    """Return the public names; modules that are not public can still be imported."""
    return sorted(
        [*__all__, *_PACKAGES, "__all__", "__doc__", "__file__", "__version__"]
    )
