"""Whole values of a store's keys: from a disk, over HTTP, or from an object store."""

from __future__ import annotations

import random
import time as clock
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from s2sr_xr.errors import ReadError, redact
from s2sr_xr.readers.fetch.address import is_remote
from s2sr_xr.readers.fetch.diagnosis import (
    Diagnosis,
    account,
    gdal_name,
    of_refusal,
    probe,
)
from s2sr_xr.readers.fetch.window import RETRY, Retry

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SCHEMES", "FaultError", "fetch", "insist", "scheme"]

T = TypeVar("T")

SCHEMES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Object stores that are read through fsspec, with the credentials that it finds."""


class FaultError(OSError):
    """Why a key or a chunk could not be had, without secrets."""

    def __init__(self, found: Diagnosis) -> None:
        super().__init__(found.text)
        self.found = found


def fetch(href: str, key: str, retry: Retry = RETRY) -> bytes | None:
    """Return the whole value of a key of a store, None where there is none.

    Raises
    ------
    FaultError
        It is there, or may be, and could not be read.
    """
    if is_remote(href):
        found = _fetch_http(href, key, retry)
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
    import urllib.error
    import urllib.request

    parts = urlsplit(href)
    url = parts._replace(path=f"{parts.path.rstrip('/')}/{key}").geturl()
    request = probe(url)
    request.remove_header("Range")
    try:
        # http(s) only: `_check_href` has been asked before.
        with urllib.request.urlopen(request, timeout=retry.stall) as answer:  # noqa: S310
            # Without an amount, a body that is shorter than promised is an error.
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in {404, 410}:
            return None
        return of_refusal(error.code, error.headers.get("Retry-After", ""))
    except Exception as error:  # noqa: BLE001 - sockets, TLS, bodies that are cut
        return Diagnosis(
            text=f"the transfer broke ({redact(account(error, url))})",
            remedy="Check the network, and try again",
            passing=True,
        )


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


def insist(use: Callable[[], T], fail: Callable[[str], ReadError], retry: Retry) -> T:
    """Return what `use` gives, trying again while that may help."""
    fault: FaultError | None = None
    begun = clock.monotonic()
    for tries in range(1, retry.tries + 1):
        outcome = _once(use)
        if not isinstance(outcome, FaultError):
            return outcome
        fault, found = outcome, outcome.found
        # Half to one and a half: workers that fail together do not return together.
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - spread, not secrecy
        wait = max(retry.wait * 2 ** (tries - 1) * jitter, found.wait)
        late = clock.monotonic() - begun + wait > retry.total
        if not found.passing or tries == retry.tries or late:
            break
        clock.sleep(wait)
    seconds = clock.monotonic() - begun
    spent = f"{tries} tries in {seconds:.1f} s, last: " if tries > 1 else ""
    raise fail(f"{spent}{found.text}. {found.remedy}") from fault


def _once(use: Callable[[], T]) -> T | FaultError:
    try:
        return use()
    except FaultError as fault:
        return fault
