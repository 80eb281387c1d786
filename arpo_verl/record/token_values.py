"""One character of JSON for a number of each token, so that a heat map costs less than the text that it colours.

Values from 0 to 20 nats are kept with 91 levels that are closest near 0: the error is at most 0.06 at 0.3 nats, 0.11 at
1, 0.24 at 5. The characters are printable, need no escape in JSON, and are one byte in UTF-8.
"""

from collections.abc import Sequence

import numpy as np

LEVELS = 90
LARGEST = 20.0
"""In nats; what is larger is kept as this."""
_FIRST, _BACKSLASH = ord("#"), ord("\\")
UNKNOWN = "!"
"""In the place of a value that is not a finite number."""
_CODES = np.array([code for code in range(_FIRST, 127) if code != _BACKSLASH], dtype=np.uint8)
_LEVEL_OF = {chr(code): level for level, code in enumerate(_CODES.tolist())}


def pack(values: np.ndarray) -> str:
    """Return a character for each value; what is below 0 is kept as 0. Shape (tokens,)."""
    is_known = np.isfinite(values)
    clipped = np.clip(np.where(is_known, values, 0.0), 0.0, LARGEST)
    codes = np.where(is_known, _CODES[np.rint(LEVELS * np.sqrt(clipped / LARGEST)).astype(np.int64)], ord(UNKNOWN))
    return codes.astype(np.uint8).tobytes().decode("ascii")


def unpack(text: str) -> list[float | None]:
    """Return the values that `pack` has kept, None for those that were not finite.

    Raises:
        ValueError: a character is none of `pack`'s.
    """
    return [None if one == UNKNOWN else LARGEST * (_level(one) / LEVELS) ** 2 for one in text]


def pack_lengths(lengths: Sequence[int]) -> str:
    """Return a character for each length; empty where all are 1. What a token has beyond 90 goes to the next one."""
    every = np.array(lengths, dtype=np.int64)
    if np.all(every == 1):
        return ""
    if every.max() <= LEVELS:
        return _CODES[every].tobytes().decode("ascii")
    kept, rest = [], 0
    for length in lengths:
        rest += length
        kept.append(min(rest, LEVELS))
        rest -= kept[-1]
    return _CODES[np.array(kept, dtype=np.int64)].tobytes().decode("ascii")


def unpack_lengths(text: str, tokens: int) -> list[int]:
    """Return the lengths that `pack_lengths` has kept.

    Raises:
        ValueError: a character is none of `pack_lengths`'.
    """
    return [1] * tokens if not text else [_level(one) for one in text]


def _level(character: str) -> int:
    try:
        return _LEVEL_OF[character]
    except KeyError:
        raise ValueError(
            f"{character!r} stands for no value; expected a character from '#' to '~', without the backslash: was the "
            f"file changed by hand?"
        ) from None
