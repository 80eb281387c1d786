"""Lets tests say which distributions are installed."""

import importlib.metadata
from collections.abc import Mapping

import pytest


def say_installed(monkeypatch: pytest.MonkeyPatch, versions: Mapping[str, str | None]) -> None:
    """Let `importlib.metadata.version` give these versions; None is not installed, of others it says the truth."""
    true_version = importlib.metadata.version

    def version(name: str) -> str:
        if name not in versions:
            return true_version(name)
        found = versions[name]
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
