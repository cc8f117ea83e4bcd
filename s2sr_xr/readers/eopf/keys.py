"""Whole values of a store's keys: from a disk, over HTTP, or from an object store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from s2sr_xr.errors import redact
from s2sr_xr.readers.fetch.address import gdal_name, is_remote
from s2sr_xr.readers.fetch.diagnosis import Diagnosis, account, ask, probe
from s2sr_xr.readers.fetch.retry import FaultError, Retry, retry_in_use

__all__ = ["SCHEMES", "fetch", "scheme"]

SCHEMES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Object stores that are read through fsspec, with the credentials that it finds."""


def fetch(href: str, key: str, retry: Retry | None = None) -> bytes | None:
    """Return the whole value of a key of a store, None where there is none.

    Raises
    ------
    FaultError
        It is there, or may be, and could not be read.
    """
    if is_remote(href):
        found = _fetch_http(href, key, retry or retry_in_use())
    elif scheme(href) in SCHEMES:
        found = _fetch_fsspec(href, key)
    else:
        found = _fetch_file(href, key)
    if isinstance(found, Diagnosis):
        # Raised here: an error from inside would carry the request, and its signature.
        raise FaultError(replace(found, text=f"{key}: {found.text}"))
    return found


def _fetch_file(href: str, key: str) -> bytes | Diagnosis | None:
    try:
        return Path(gdal_name(href), key).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        return Diagnosis(text=why, remedy="Check the file and its disk")


def _fetch_http(href: str, key: str, retry: Retry) -> bytes | Diagnosis | None:
    parts = urlsplit(href)
    request = probe(parts._replace(path=f"{parts.path.rstrip('/')}/{key}").geturl())
    request.remove_header("Range")
    # Without an amount, a body that is shorter than promised is an error.
    found = ask(request, lambda answer: bytes(answer.read()), retry.stall)
    gone = isinstance(found, Diagnosis) and found.status in {404, 410}
    return None if gone else found


def _fetch_fsspec(href: str, key: str) -> bytes | Diagnosis | None:
    try:
        import fsspec  # type: ignore[import-untyped]

        fs, root = fsspec.core.url_to_fs(href)
        return bytes(fs.cat_file(f"{root.rstrip('/')}/{key}"))
    except FileNotFoundError:
        return None
    except ImportError as error:
        return Diagnosis(text=str(error), remedy="Install it, or download the product")
    except Exception as error:  # noqa: BLE001 - whatever a file system may raise
        return Diagnosis(
            text=redact(account(error, href)),
            remedy="Check the credentials and the network, and try again",
            passing=not isinstance(error, PermissionError),
        )


def scheme(href: str) -> str:
    """Return what stands before ``://``, in small letters; "" of a local path."""
    head, mark, _ = href.partition("://")
    return head.lower() if mark else ""
