"""Addresses that need a token: made readable in the task, just before it reads.

Tokens live for less than an hour, a queue of tasks may live for days. So an asset
carries the name of its signer, and the token exists only in the process that reads.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs, urlsplit

from s2sr_xr.readers.fetch.address import without_query

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PLANETARY_COMPUTER", "SIGNERS", "SasSigner", "Signer", "SigningError"]

PLANETARY_COMPUTER = "planetary-computer"
"""Name of the signer for Planetary Computer's blobs."""

MARGIN = 300.0
"""Seconds before its end in which a token is not used any more: longer than a read with
all its tries."""

TRIES = 3
"""Requests for a token before a read fails."""

LARGEST = 2**16
"""Bytes of an answer that holds a token."""


class SigningError(OSError):
    """No token could be had. Its text holds no secret."""


class Signer(Protocol):
    """Makes addresses readable; one for each name, in every process."""

    def __call__(self, href: str, *, refused: str | None = None) -> str:
        """Return an address with a token that is good for minutes.

        Parameters
        ----------
        href
            The address, with or without an older token.
        refused
            What was returned before, where the server has just refused it.

        Raises
        ------
        SigningError
            There is no token to be had.
        """


@dataclass(slots=True)
class SasSigner:
    """Shared-access tokens of Azure blobs, one for each container, kept while good."""

    tokens: dict[str, tuple[float, str]] = field(default_factory=dict, repr=False)
    """When each container's token ends, in seconds since 1970, and the token."""

    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held while a token is fetched: one request for all the threads that wait."""

    def __call__(self, href: str, *, refused: str | None = None) -> str:
        """Return an address with a token that is good for minutes; see `Signer`."""
        if refused is None and _end_of(href) > time.time() + MARGIN:
            return href
        bare = without_query(href)
        if refused is None and (signed := _by_package(bare)):
            return signed
        container = _container(bare)
        with self.lock:
            end, token = self.tokens.get(container, (0.0, ""))
            # Threads that are refused together ask for one new token.
            if end < time.time() + MARGIN or f"{bare}?{token}" == refused:
                end, token = _insist(container)
                self.tokens[container] = end, token
        return f"{bare}?{token}"


SIGNERS: Mapping[str, Signer] = {PLANETARY_COMPUTER: SasSigner()}
"""Who signs, by the name that an asset carries."""


def _end_of(href: str) -> float:
    """Return when the token in an address ends; 0 where there is none."""
    query = parse_qs(urlsplit(href).query)
    return _seconds(query.get("se", [""])[0]) if "sig" in query else 0.0


def _seconds(text: str) -> float:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return moment.replace(tzinfo=moment.tzinfo or dt.UTC).timestamp()


def _by_package(bare: str) -> str | None:
    """Return an address signed by the catalogue's own package, where that is there."""
    try:
        import planetary_computer
    except ImportError:
        return None
    try:
        return str(planetary_computer.sign(bare))
    except Exception as error:  # noqa: BLE001 - what requests raises
        raise SigningError(f"planetary_computer.sign: {type(error).__name__}") from None


def _container(bare: str) -> str:
    """Return ``account/container``: what one token opens."""
    parts = urlsplit(bare)
    return f"{(parts.hostname or '').partition('.')[0]}/{parts.path.split('/')[1]}"


def _insist(container: str) -> tuple[float, str]:
    """Return a container's token and its end, asking again while that may help."""
    for tries in range(1, TRIES + 1):
        try:
            return _fetch(container)
        except SigningError:
            if tries == TRIES:
                raise
        time.sleep(0.5 * 2 ** (tries - 1))
    raise AssertionError


def _fetch(container: str) -> tuple[float, str]:
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    # The variables that planetary_computer itself reads.
    place = os.environ.get(
        "PC_SDK_SAS_URL", "https://planetarycomputer.microsoft.com/api/sas/v1/token"
    )
    key = os.environ.get("PC_SDK_SUBSCRIPTION_KEY")
    headers = {"Ocp-Apim-Subscription-Key": key} if key else {}
    url = f"{place.rstrip('/')}/{container}"
    if not url.startswith(("https://", "http://")):
        raise SigningError("PC_SDK_SAS_URL is not an http(s) address")
    try:
        with urlopen(Request(url, headers=headers), timeout=10) as answer:  # noqa: S310 - http(s)
            answered = json.loads(answer.read(LARGEST))
        end, token = _seconds(str(answered["msft:expiry"])), str(answered["token"])
    except HTTPError as error:
        error.close()
        raise SigningError(f"{place} answers {error.code}") from None
    except Exception as error:  # noqa: BLE001 - sockets, TLS, JSON
        raise SigningError(f"{place} gives no token: {type(error).__name__}") from None
    # Tokens have been given out that had ended before (PlanetaryComputer#463).
    if end <= time.time():
        raise SigningError(f"{place} gives a token that has ended")
    return end, token
