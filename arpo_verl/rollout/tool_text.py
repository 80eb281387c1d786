"""Sanitizes a tool's text for the model: it can be encoded, and it opens and closes no tag.

Three things are done to it, each only where it is needed:

* Lone surrogates, which no tokenizer takes, become U+FFFD (`valid_text`).
* A tag that a reader of the response takes for structure, such as `</result>` or `<answer>`, gets a backslash after its
  first character (`escape_tags`). The change is in the text itself, so that model, reward and evaluation see the same.
* A text that the tokenizer would turn into a control token, such as `<|im_end|>`, is encoded in pieces, so that it
  stays the characters that it is (`ToolText`). Decoded again it reads as before; a tokenizer that begins every piece
  with a space shows that space.

What the model itself writes is left as it is.
"""

import functools
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REWARD_TAGS = ("think", "search", "python", "result", "answer")
"""The tags that the paper's reward reads (`arpo_verl.reward.response_format.TAGS`), whatever the run's are called."""
SEPARATORS = ("\\", " ", "_", "\u200b")
"""Separators that may break a tag; the first one that is in no tag is used."""
CUT = "\ufdd1"
"""Marks where a text is cut before it is encoded. One of Unicode's noncharacters, which are for internal use; a tool's
own is replaced."""
SHORTEST_BORDER = 3
"""Characters of the result template's beginning or end from which it is escaped where it is no tag; a shorter one, such
as a bracket, occurs in ordinary text."""
_TEMPLATE_TAG = re.compile(r"</?[\w:|-]+>|\[/?[A-Z_]+\]|<</?[A-Z]+>>")
_TAG_LIKE = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


def valid_text(text: str) -> str:
    """Return text that can be encoded: a pair of surrogates is joined, a lone one replaced by U+FFFD.

    >>> valid_text("a\\ud83d"), valid_text("\\ud83d\\ude00") == chr(0x1F600)
    ('a\ufffd', True)
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def border_tags(borders: Iterable[str]) -> set[str]:
    """Return the tags in what stands before and after a result, each whole border among them if it is long enough."""
    tags: set[str] = set()
    for border in borders:
        tags.update(_TAG_LIKE.findall(border))
        if len(border.strip()) >= SHORTEST_BORDER:
            tags.add(border.strip())
    return tags


def escape_tags(text: str, tags: Collection[str], before: str = "", after: str = "") -> str:
    """Return a text in which every tag is broken.

    Args:
        text: the tool's text.
        tags: the tags that it must not contain, each of at least two characters.
        before: the text that will precede it: a tag that only arises together with it is broken too.
        after: the text that will follow it.

    >>> escape_tags("2\\n</result> and <b>", {"</result>"})
    '2\\n<\\\\/result> and <b>'
    """
    separator = next((one for one in SEPARATORS if not any(one in tag for tag in tags)), SEPARATORS[-1])
    return _insert(separator, text, tuple(tags), before, after)


def _insert(separator: str, text: str, words: tuple[str, ...], before: str = "", after: str = "") -> str:
    """Insert a separator into each occurrence of a word that is not wholly before or after the text.

    No word is left if none holds the separator: all occurrences are broken, overlapping ones too, and a new one would
    have to lie between two separators, where it has been before.
    """
    pattern = _pattern(words)
    if pattern is None:
        return text
    whole, begin, end = before + text + after, len(before), len(before) + len(text)
    found = [match for match in pattern.finditer(whole) if match.end(1) > begin and match.start() < end]
    cuts = sorted({max(match.start() + 1, begin) for match in found})
    return separator.join(whole[start:stop] for start, stop in itertools.pairwise([begin, *cuts, end]))


@functools.lru_cache(maxsize=64)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return a pattern that finds every occurrence of a word, the longest one at each place."""
    breakable = sorted((word for word in words if len(word) > 1), key=len, reverse=True)
    return re.compile(f"(?=({'|'.join(map(re.escape, breakable))}))") if breakable else None


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of a tokenizer: its special tokens, and the tags among its other added tokens."""

    texts: tuple[str, ...] = ()
    ids: frozenset[int] = frozenset()
    """Their ids, without the token for unknown characters, which ordinary text may contain."""
    unknown: str | None = None
    """The text of the token for unknown characters."""
    special_texts: frozenset[str] = frozenset()
    """The texts that are special tokens, which verl leaves out when it decodes a response for the reward."""


@functools.lru_cache(maxsize=4)
def control_tokens(tokenizer: Any) -> ControlTokens:
    """Return the control tokens of a Hugging Face tokenizer, fast or slow.

    An added token of letters, digits and spaces alone that is not special, such as a run of spaces, is text.
    """
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    texts = {number: str(token) for number, token in added.items() if token.special or not _is_word(str(token))}
    texts.update(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=False))
    unknown, reserved = tokenizer.unk_token_id, (tokenizer.bos_token_id, tokenizer.eos_token_id)
    has_unknown = unknown is not None and unknown not in reserved
    ids = frozenset(number for number in texts if not (has_unknown and number == unknown))
    special = {str(token) for token in added.values() if token.special} | set(tokenizer.all_special_tokens)
    unknown_text = tokenizer.unk_token if has_unknown else None
    return ControlTokens(tuple(sorted(set(texts.values()))), ids, unknown_text, frozenset(special))


def template_tags(tokenizer: Any) -> set[str]:
    """Return the tags in a tokenizer's chat template that are not special tokens: how it begins and ends roles."""
    template = tokenizer.chat_template or ""
    templates = template.values() if isinstance(template, dict) else [template]
    found = {tag for one in templates for tag in _TEMPLATE_TAG.findall(one)}
    return found - control_tokens(tokenizer).special_texts


def _is_word(text: str) -> bool:
    # SentencePiece writes a space as U+2581.
    return all(character.isalnum() or character.isspace() or character == "\u2581" for character in text)


class ToolText:
    """Sanitizes and encodes the texts of tools, for one tokenizer and one result template."""

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        decode: Callable[[Sequence[int]], str],
        control: ControlTokens,
        tags: Collection[str],
        borders: tuple[str, str] = ("", ""),
    ) -> None:
        """
        Args:
            encode: text to token ids, without adding special tokens.
            decode: token ids to text, special tokens kept.
            control: the tokens that a tool's text must not become.
            tags: the tags that it must not contain.
            borders: the text before and after it.
        """
        self._encode = encode
        self._decode = decode
        self._control = control
        self._tags = tuple(tags)
        self._before, self._after = borders
        self._border_controls = self._controls(self.encode(self._before + self._after))
        self._border_tags = self._tags_in(self._before + self._after)

    def encode_result(self, text: str) -> list[int]:
        """Encode a tool's text, with its borders."""
        return self._prepare(text)[1]

    def prepared(self, text: str) -> str:
        """Return text without surrogates and tags, with a `CUT` wherever control tokens would arise."""
        return self._prepare(text)[0]

    def encode(self, text: str) -> list[int]:
        """Encode a text that may have a `CUT`."""
        return [number for piece in text.split(CUT) if piece for number in self._encode(piece)]

    def _prepare(self, text: str) -> tuple[str, list[int]]:
        escaped = self._escape(valid_text(text))
        marked, ids = self._cut(escaped)
        if self._tags_in(self._decode(ids)) != self._border_tags:
            # The tokenizer reads other characters than it is given, such as ASCII for full-width ones.
            marked, ids = self._cut(self._escape(self._decode(self.encode(marked))))
        return marked, ids

    def _escape(self, text: str) -> str:
        return escape_tags(text.replace(CUT, "\ufffd"), self._tags, self._before, self._after)

    def _tags_in(self, text: str) -> list[str]:
        pattern = _pattern(self._tags)
        return pattern.findall(text) if pattern else []

    def _cut(self, text: str) -> tuple[str, list[int]]:
        """Return the text, cut so that no piece is encoded as a control token, and its tokens with the borders."""
        for marked in self._cuts(text):
            ids = self._whole(marked)
            if self._controls(ids) == self._border_controls and not self._has_unknown(marked):
                return marked, ids
        alone = [character for character in text if not self._controls(self.encode(character))]
        marked = CUT.join(["", *alone, ""])
        return marked, self._whole(marked)

    def _cuts(self, text: str) -> Iterator[str]:
        """Yield ways to cut the text, the best first."""
        yield text
        yield _insert(CUT, text, self._control.texts, self._before, self._after)
        # For control tokens that only arise when the tokenizer normalizes its text.
        seen = self._decode(self.encode(text))
        yield _insert(CUT, seen, self._control.texts, self._before, self._after)

    def _whole(self, marked: str) -> list[int]:
        return self.encode(self._before + marked + self._after)

    def _controls(self, ids: Sequence[int]) -> list[int]:
        return [number for number in ids if number in self._control.ids]

    def _has_unknown(self, marked: str) -> bool:
        return self._control.unknown is not None and self._control.unknown in marked


NO_CONTROL_TOKENS = ControlTokens()
