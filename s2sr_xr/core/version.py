"""Which version of the library this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["library_version"]


def library_version() -> str:
    """Return the installed version, "unknown" for a tree that was never installed."""
    try:
        return version("s2sr-xr")
    except PackageNotFoundError:
        return "unknown"
