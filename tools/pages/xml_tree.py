"""XML to a tree of elements. A document that is cut or broken is read as far as it goes.

Runs in the process of `worker_program.py`. Document types and their entities are dropped unread, so nothing can be
expanded or fetched.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

_MOST_DEPTH = 100
"""Levels of elements; what is deeper counts as text of the last one."""
_DOCTYPE = re.compile(r"<!DOCTYPE[^\[>]*(?:\[.*?\]\s*)?>", re.IGNORECASE | re.DOTALL)
_CDATA = re.compile(r"(<!\[CDATA\[.*?(?:\]\]>|\Z))", re.DOTALL)
_AMPERSAND = re.compile(r"&(?!#\d{1,7};|#x[0-9a-fA-F]{1,6};|(?:amp|lt|gt|quot|apos);)(\w{1,32};)?")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@dataclass
class Element:
    """An element: its name without prefix in lower case, and its texts and elements in order."""

    name: str
    attributes: dict[str, str]
    children: "list[Element | str]" = field(default_factory=list)

    def elements(self) -> "list[Element]":
        return [child for child in self.children if isinstance(child, Element)]

    def first(self, *names: str) -> "Element | None":
        """Return the first child of the first name that has any."""
        return next((child for name in names for child in self.elements() if child.name == name), None)

    def texts(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, Element):
                yield from child.texts()
            else:
                yield child

    def line(self) -> str:
        """Return all its text as one line."""
        return " ".join("".join(self.texts()).split())


def parse_xml(page: str) -> tuple[Element | None, str]:
    """Return the root element, and the text of what can't be parsed behind the first fault."""
    page = _NOT_XML.sub(" ", _DOCTYPE.sub("", page.lstrip(), count=1))
    parts = _CDATA.split(page)
    parts[::2] = [_AMPERSAND.sub(_plain_entity, part) for part in parts[::2]]
    data = "".join(parts).encode("utf-8", "replace")
    builder = _TreeBuilder()
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.text
    try:
        parser.Parse(data, True)
    except expat.ExpatError:
        rest = data[parser.CurrentByteIndex :].decode("utf-8", "replace")
        rest = re.sub(r"<[^<>]*>", "\n", re.sub(r"\A[^<>]*>", "", rest))  # the fault may lie within a tag
        return builder.root, "\n".join(filter(None, map(str.strip, html.unescape(rest).splitlines())))
    return builder.root, ""


def _plain_entity(match: "re.Match[str]") -> str:
    """Return a character for one of HTML's entities; any other ampersand stands for itself."""
    character = html.unescape(match.group())
    return html.escape(character, quote=False)


class _TreeBuilder:
    """Makes the tree from the parser's events."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._depth = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            self._open[-1].children.append(" ")
            return
        element = Element(name.rpartition(":")[2].lower(), attributes)
        if self._open:
            self._open[-1].children.append(element)
        elif self.root is None:
            self.root = element
        self._open.append(element)

    def end(self, name: str) -> None:
        self._depth -= 1
        if self._depth < _MOST_DEPTH:
            self._open.pop()

    def text(self, text: str) -> None:
        if self._open:
            self._open[-1].children.append(text)
