"""How networks run: what every call of the engine takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from s2sr_xr.errors import ModelError

if TYPE_CHECKING:
    from s2sr_xr.core.psf import PsfLike

__all__ = ["PRECISIONS", "Options"]

PRECISIONS = ("float32", "bf16", "tf32")
"""What `precision` may be. With "bf16" the convolutions between features compute in
bfloat16; what bands enter and leave by, and what is summed up, stays float32 (CARN
sums up in bfloat16 too). With "tf32", of GPUs only, convolutions round what they
multiply to 10 bits behind the point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How networks run over one object.

    Raises
    ------
    ModelError
        The precision is unknown, or `batch` is not a count.
    """

    device: str = "auto"
    """Where they run; "auto" is resolved by the process that runs them."""

    precision: str = "float32"
    """Their arithmetic, one of `PRECISIONS`."""

    consistent: bool = False
    """Whether means over native pixels are put right."""

    psf: PsfLike = "sensor"
    """Point spread functions, for networks that are given them; see `core.psf`."""

    batch: int | None = None
    """Tiles that run together; None: as the device allows."""

    check: bool = True
    """Whether values that cannot be reflectance raise."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ModelError(
                f"precision={self.precision!r} is not one of {', '.join(PRECISIONS)}."
            )
        if self.batch is not None and self.batch < 1:
            raise ModelError(
                f"batch counts tiles, so it is at least 1; got {self.batch}."
            )
