"""Texts of tokens: what a segment's text is, where each token stands in it, and which tokens are special."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

REPLACEMENT = "\ufffd"
"""What a decoder writes for bytes that are only a part of a character."""
REACH = 16
"""Characters within which a token is looked for behind the one before it."""


@dataclass(frozen=True)
class TokenText:
    """A decoded run of tokens."""

    text: str
    lengths: list[int]
    """Characters of each token; their sum is the text's length, where there is a token."""
    special: list[tuple[int, int]]
    """Where special tokens stand: first character, and the one behind the last."""


class TokenTexts:
    """Decodes tokens. Keeps the text of each token that it has seen, of which a vocabulary has so many."""

    def __init__(self, decode: Callable[[Sequence[int]], str], special_ids: Collection[int]) -> None:
        """
        Args:
            decode: a tokenizer's, with special tokens.
            special_ids: the special tokens.
        """
        self._decode = decode
        self._special_ids = frozenset(special_ids)
        self._texts: dict[int, str] = {}

    def of(self, token_ids: Sequence[int]) -> TokenText:
        """Decode a run of tokens."""
        if not token_ids:
            return TokenText("", [], [])
        text = self._decode(token_ids)
        texts = self._texts
        for token in set(token_ids).difference(texts):
            texts[token] = self._decode([token])
        parts = [texts[token] for token in token_ids]
        # A tokenizer may write a token otherwise among others than alone, and a character may take several tokens.
        lengths = [len(part) for part in parts] if "".join(parts) == text else _aligned(text, parts)
        return TokenText(text, lengths, self._special(token_ids, lengths))

    def _special(self, token_ids: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int]]:
        if self._special_ids.isdisjoint(token_ids):
            return []
        special, place = [], 0
        for token, length in zip(token_ids, lengths, strict=True):
            if token in self._special_ids and length:
                special.append((place, place + length))
            place += length
        return special


def _aligned(text: str, parts: Sequence[str]) -> list[int]:
    """Return how much of a text each part covers, in order; what is not found covers what lies before the next one."""
    starts, place = [], 0
    for part in parts:
        is_whole = bool(part) and REPLACEMENT not in part
        found = text.find(part, place, place + len(part) + REACH) if is_whole else -1
        starts.append(place if found < 0 else found)
        place = starts[-1] + (len(part) if found >= 0 else 0)
    starts[0] = 0
    return [behind - start for start, behind in zip(starts, [*starts[1:], len(text)], strict=True)]
