"""Finds the address in what a model writes: in quotes, as a link, behind a label, without a scheme, in a sentence.

What is not covered: addresses with spaces in them, and several addresses at once, of which the first is taken.
"""

import json
import re
from dataclasses import dataclass

_MOST_CHARS = 4000
# What no address holds: white space, quotes, and the punctuation of Chinese and Japanese.
_END = '\\s<>"`“”«»、。，；：！？（）《》「」【】'
_HTTP = re.compile(rf"https?://[^{_END}]*", re.IGNORECASE)
_ONE_SLASH = re.compile(rf"\b(https?):/?(?=[\w-]+\.\w)(?!//)([^{_END}]*)", re.IGNORECASE)
_MARKDOWN = re.compile(r"\[[^\]\n]*\]\(\s*<?((?:[^\s()<>]|\([^\s()<>]*\))+)>?(?:\s+[\"'(][^\n]*?[\"')])?\s*\)")
_HREF = re.compile(r"""<a\s[^>]*?href\s*=\s*["']?([^\s"'>]+)["']?[^>]*>(?:(.*?)</a\s*>)?""", re.IGNORECASE | re.DOTALL)
_HOST = r"(?:[\w-]+\.)+[^\W\d_]{2,}\.?|localhost|\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-fA-F:.]{2,45}\]"
_BARE = re.compile(rf"(?://)?(?:{_HOST})(?![\w@-])(?::\d{{1,5}}(?!\d))?(?:[/?#][^{_END}]*)?", re.IGNORECASE)
_WWW = re.compile(rf"(?<![\w@./-])www\.(?:[\w-]+\.)+\w{{2,}}(?::\d{{1,5}})?(?:[/?#][^{_END}]*)?", re.IGNORECASE)
_LABEL = re.compile(
    r"(?:(?:the\s+)?(?:url|uri|link|address|web\s?site|site|web\s?page|page|source|href)|(?:please\s+)?"
    r"(?:open|visit|browse|fetch|read|see|go\s+to|navigate\s+to))(?:\s*[:=]\s*|\s+)",
    re.IGNORECASE,
)
_OTHER_SCHEME = re.compile(r"(?!https?:)[a-z][a-z0-9+.-]*:(?!https?://)(?!\d)\S", re.IGNORECASE)
_OPENERS = " \t\r\n`'\"<([{*_\u201c\u201d\u2018\u2019\u00ab-\u2022>"
_PAIRS = {")": "(", "]": "[", "}": "{"}
_AROUND = " \t\r\n`'\"<>()[]{}*\u201c\u201d\u00ab\u00bb,;:.-–、。，；："
_TAG = re.compile(r"</?\w+\s*/?>|<(?=\s*\Z)")
_INITIAL = re.compile(r"(?<![^\W\d_])[A-Z]\.\Z")
_QUESTION_LABEL = re.compile(r"\A(?:and\s+)?(?:question|query|q|task)\s*[:=]\s*", re.IGNORECASE)


@dataclass(frozen=True)
class PageQuery:
    """The addresses that a model may mean, and its question about the page."""

    addresses: tuple[str, ...]
    """What may be meant, likeliest first; the next is worth a try if there is no page at the one before."""
    question: str
    """The rest of the text."""


def parse_page_query(text: str) -> PageQuery:
    """Return the address in a text and the question about it; a text without one stays as it is, to be refused."""
    text = text[: 2 * _MOST_CHARS].strip()[:_MOST_CHARS]
    if text.startswith("{") and (found := _from_json(text)):
        return found
    for pattern in (_HREF, _MARKDOWN):
        match = pattern.search(text)
        if match and (addresses := _addresses(_unescape(match.group(1)))):
            return PageQuery(addresses, _question(text[: match.start()], text[match.end() :]))
    plain, start = _without_label(text)
    if _OTHER_SCHEME.match(plain):
        return PageQuery((plain.split()[0],), "")
    match = _HTTP.search(text) or _ONE_SLASH.search(text) or _BARE.match(text, start) or _WWW.search(text)
    if match is None:
        return PageQuery(((text.split() or [""])[0],), "")
    address = match.group()
    is_enclosed = text[: match.start()].rstrip(" ")[-1:] in tuple("`'\"<([{\u201c\u2018\u00ab")
    addresses = _addresses(_unescape(address), may_end_in_punctuation=not is_enclosed)
    rest = text[match.end() :]
    return PageQuery(addresses, _question(text[: match.start()], rest))


def _from_json(text: str) -> PageQuery | None:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    texts = {str(name).lower(): value for name, value in fields.items() if isinstance(value, str)}
    address = next((texts[name] for name in ("url", "uri", "address", "link", "href", "page") if texts.get(name)), None)
    if address is None:
        return None
    question = next((texts[name] for name in ("question", "query", "task", "goal") if texts.get(name)), "")
    found = parse_page_query(address) if not address.lstrip().startswith("{") else PageQuery((address,), "")
    return PageQuery(found.addresses, question.strip() or found.question)


def _without_label(text: str) -> tuple[str, int]:
    """Return the text from where its address may begin, and that place."""
    start = 0
    for _ in range(4):  # such as 'Open the link: `'
        start += len(text[start:]) - len(text[start:].lstrip(_OPENERS))
        label = _LABEL.match(text, start)
        if label is None:
            break
        start = label.end()
    return text[start:], start


def _unescape(address: str) -> str:
    """Undo the escapes of Markdown and HTML in an address."""
    return re.sub(r"\\([_*()~#&=-])", r"\1", re.sub(r"&amp;", "&", address, flags=re.IGNORECASE))


def _addresses(address: str, may_end_in_punctuation: bool = True) -> tuple[str, ...]:
    """Return the complete addresses that one may stand for; none where it can't be one."""
    trimmed = _trim_punctuation(address)
    spellings = [trimmed, address] if may_end_in_punctuation and trimmed != address else [trimmed]
    if trimmed.endswith("."):  # an initial, or the end of a sentence after all
        spellings.append(trimmed[:-1])
    typo = _ONE_SLASH.fullmatch(trimmed)
    if typo and not _HTTP.match(trimmed):
        return (f"{typo.group(1)}://{typo.group(2)}",)
    if _HTTP.match(trimmed):
        return tuple(spellings)
    if _BARE.fullmatch(trimmed):
        rest = trimmed.removeprefix("//")
        return (f"https://{rest}", f"http://{rest}")
    return ()


def _trim_punctuation(address: str) -> str:
    """Return an address without the punctuation of the sentence around it."""
    while address and not _INITIAL.search(address):  # as in Washington,_D.C.
        last = address[-1]
        is_odd_bracket = last in _PAIRS and address.count(last) > address.count(_PAIRS[last])
        if not is_odd_bracket and last not in ".,;:!?'*\u2019\u2026":
            break
        address = address[:-1]
    return address


def _question(before: str, after: str) -> str:
    """Return the question around an address: what follows it, or else what stands before it."""
    for text in (_TAG.sub(" ", after), _TAG.sub(" ", before)):
        text = _QUESTION_LABEL.sub("", text.strip(_AROUND)).strip()
        if any(map(str.isalpha, text)) and not _LABEL.fullmatch(f"{text} "):
            return text
    return ""
