"""Seeds that are the same in every process and differ wherever their names differ."""

import hashlib


def derived_seed(name: str) -> int:
    """Return a seed of 31 bits, which every sampler takes."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1
