"""Every error this library raises on purpose, and how secrets are kept out of them.

::

    S2SRError
     |- MissingBandError(KeyError)       a band is not there, or has no model
     |- GridError(ValueError)            pixels that do not nest, corners, no CRS
     |- ChunkError(ValueError)           chunks or blocks that do not align
     |- ModelError(ValueError)           unknown model, no weights, non-finite output
     |- RadiometryError(ValueError)      counts, percent, or an offset applied twice
     |- ReadError(OSError)               a pixel could not be read; never no-data
     |- StoreError(OSError)              the output cannot be written or read
         |- ResumeMismatchError          the store belongs to another job

Each derives from the builtin that callers expect. A message says what is wrong, with
which value, and what to do next; every message passes through `redact`.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = [
    "ChunkError",
    "GridError",
    "MissingBandError",
    "ModelError",
    "RadiometryError",
    "ReadError",
    "ResumeMismatchError",
    "S2SRError",
    "S2SRWarning",
    "StoreError",
    "redact",
]

_QUERY = re.compile(r"(?<=[^\s'\"<>])\?[^\s'\"<>)\]]+(?==)=?[^\s'\"<>)\]]*")
_USERINFO = re.compile(r"(?<=://)[^/\s@'\"]+@")
_SECRET = re.compile(
    r"(?i)\b(sig|token|access_token|x-amz-[a-z-]+|awsaccesskeyid|signature|sv|se|st|sp"
    r"|secret|password|api[_-]?key|authorization)=[^&\s'\"<>)\]]+"
)


def redact(text: str) -> str:
    """Return `text` without URL queries, user names in URLs, or known secrets.

    >>> redact("403 at https://me:pw@host/a.tif?sig=abc&se=2026 (try again)")
    '403 at https://host/a.tif (try again)'
    """
    return _SECRET.sub(r"\1=...", _USERINFO.sub("", _QUERY.sub("", text)))


class S2SRWarning(UserWarning):
    """Something the caller should know, but that does not stop the work."""


class S2SRError(Exception):
    """Base of every error raised on purpose.

    Parameters
    ----------
    message
        What is wrong, with which value, and what to do. Secrets in it are redacted.
    **where
        The place, as plain values: item, band, href, window, store, block.
    """

    where: dict[str, Any]
    """The place, redacted like the message."""

    def __init__(self, message: str, **where: object) -> None:
        super().__init__(redact(message))
        self.where = {
            k: redact(v) if isinstance(v, str) else v for k, v in where.items()
        }

    def __str__(self) -> str:
        # KeyError would print the repr of the message, OSError its errno.
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process borders in a Dask cluster with their place.
        return (_rebuild, (type(self), str(self), self.where))


def _rebuild(cls: type[S2SRError], message: str, where: dict[str, Any]) -> S2SRError:
    return cls(message, **where)


class MissingBandError(S2SRError, KeyError):
    """A band is not in the data, or no model makes it finer."""


class GridError(S2SRError, ValueError):
    """Pixels do not lie on nested, north-up UTM grids with centre coordinates."""


class ChunkError(S2SRError, ValueError):
    """Chunks or blocks cannot be made to align with what is asked."""


class ModelError(S2SRError, ValueError):
    """A model is unknown, unusable, or gave an unusable answer."""


class RadiometryError(S2SRError, ValueError):
    """Pixel values are not the reflectance that they should be."""


class ReadError(S2SRError, OSError):
    """A pixel could not be read. Never turned into no-data."""


class StoreError(S2SRError, OSError):
    """An output store cannot be written, or is not what it should be."""


class ResumeMismatchError(StoreError):
    """The store on disk was made by another job than the one that resumes it."""
