"""Versions of installed packages."""

import importlib.metadata

from packaging.version import Version


def installed_version(distribution: str) -> Version | None:
    """Return the version of an installed distribution, or None."""
    try:
        return Version(importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return None
