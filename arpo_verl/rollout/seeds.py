"""Seeds that are the same in every process and differ wherever their names differ."""

import hashlib
from collections.abc import Sequence


def derived_seed(name: str) -> int:
    """Return a seed of 31 bits, which every sampler takes."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1


def token_digest(token_ids: Sequence[int]) -> str:
    """Return a name for token ids, by which prompts that share a dataset index are told apart."""
    return hashlib.sha256(",".join(map(str, token_ids)).encode()).hexdigest()[:16]
