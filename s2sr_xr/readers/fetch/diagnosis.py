"""Why a read failed, as far as a file or a server shows."""

from __future__ import annotations

import http
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from s2sr_xr.errors import redact
from s2sr_xr.readers.fetch.address import (
    ZipMember,
    gdal_name,
    is_remote,
    without_query,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.client import HTTPResponse
    from urllib.request import Request

T = TypeVar("T")

__all__ = [
    "Diagnosis",
    "account",
    "ask",
    "diagnose",
    "entity_tag",
    "probe",
]

PASSING = frozenset({408, 425, 429})
"""Client errors that pass by themselves, as all of 5xx may."""

_FRESH = re.compile(r"#s2sr-[0-9a-f]{32}[\w.]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Why a read failed, as far as can be learnt from outside of GDAL."""

    text: str
    """What is wrong."""

    remedy: str
    """What to do about it."""

    passing: bool = False
    """Whether another try may succeed."""

    wait: float = 0.0
    """Seconds that the server asks to wait before it."""

    status: int | None = None
    """HTTP status of a probe, where there was an answer."""


def account(error: BaseException, href: str) -> str:
    """Return a chain of errors as one line, outermost first, without the query."""
    messages: list[str] = []
    link: BaseException | None = error
    while link is not None:
        text = " ".join(str(link).split()) or type(link).__name__
        if text not in messages and "previous exception" not in text:
            messages.append(text)
        link = link.__cause__ or link.__context__
    text = _FRESH.sub("", "; ".join(messages)).replace(href, without_query(href))
    _, mark, query = href.partition("#")[0].partition("?")
    return text.replace(mark + query, "") if mark and is_remote(href) else text


def diagnose(href: str, driver: str, *, timeout: float) -> Diagnosis:
    """Return why an image that `driver` should have read could not be read.

    `timeout` is in seconds, for one small request.
    """
    return (
        ask(probe(href), _of_success, timeout)
        if is_remote(href)
        else _look(href, driver)
    )


def _look(href: str, driver: str) -> Diagnosis:
    """Diagnose a local file: it does not heal by waiting."""
    path = href.archive if isinstance(href, ZipMember) else gdal_name(href)
    if not os.path.exists(path):  # noqa: PTH110 - GDAL takes names, not paths
        return Diagnosis(text="file not found", remedy="Check the path and its disk")
    if not os.path.isfile(path):  # noqa: PTH113
        return Diagnosis(text="not a file", remedy="Give the path of the image")
    if not os.access(path, os.R_OK):
        return Diagnosis(text="permission denied", remedy="Make the file readable")
    size = os.path.getsize(path)  # noqa: PTH202
    what = f"the file ({size} bytes)"
    if isinstance(href, ZipMember):
        what = "the image inside the archive"
    return Diagnosis(
        text=f"{what} is cut, damaged, or not a {driver} image", remedy="Fetch it again"
    )


def ask(
    request: Request, use: Callable[[HTTPResponse], T], timeout: float
) -> T | Diagnosis:
    """Return what `use` makes of a server's answer, or why there is none."""
    import urllib.error
    import urllib.request

    try:
        # http(s) only: `refusal` has been asked before.
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            return use(answer)
    except urllib.error.HTTPError as error:
        error.close()
        return _of_refusal(error.code, error.headers.get("Retry-After", ""))
    except Exception as error:  # noqa: BLE001 - sockets, TLS, malformed answers
        return Diagnosis(
            text="the transfer broke, or no answer from the server "
            f"({redact(account(error, request.full_url))})",
            remedy="Check the network, and try again",
            passing=True,
        )


def entity_tag(href: str, timeout: float) -> str | None:
    """Return what a server calls the bytes behind a URL now, None where it does not.

    Weak tags, which stay when bytes change a little, do not count. Nor does that of a
    server that fails: the read itself will show it.
    """
    tag = ask(probe(href), lambda answer: answer.headers.get("ETag"), timeout)
    return tag if isinstance(tag, str) and not tag.startswith("W/") else None


def probe(href: str) -> Request:
    """Return the request for the first byte of a URL."""
    import base64
    from urllib.request import Request

    headers = {"Range": "bytes=0-0"}
    parts = urlsplit(href)
    user, at, host = parts.netloc.rpartition("@")
    if at:
        pair = unquote(user).encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    url = parts._replace(netloc=host, fragment="").geturl()
    return Request(url, headers=headers)  # noqa: S310 - http(s) only, as above


def _of_success(answer: HTTPResponse) -> Diagnosis:
    status = answer.status
    if answer.headers.get_content_type() == "text/html":
        return Diagnosis(
            text="the server sends text/html instead of an image",
            remedy="Log in, or sign the items",
            status=status,
        )
    return Diagnosis(
        text=f"the transfer broke or was damaged (a probe is answered with {status})",
        remedy="Try again later; if it stays, the file itself is damaged",
        passing=True,
        status=status,
    )


def _of_refusal(status: int, retry_after: str) -> Diagnosis:
    """Return what an HTTP status means, and when to try again."""
    try:
        text = f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        text = str(status)
    passing = status >= 500 or status in PASSING
    remedy = "Search the catalogue again: the object is not there"
    if status in {401, 403}:
        remedy = "Open the items again with fresh credentials: signed URLs expire"
    elif passing:
        remedy = "Try again later"
    seconds = float(retry_after) if retry_after.isdecimal() else 0.0
    return Diagnosis(
        text=text, remedy=remedy, passing=passing, wait=seconds, status=status
    )
