"""XML to text: feeds (RSS, Atom, RDF) item by item, anything else one `name: value` a line.

Runs in the process of `page_text.py`. A document that is cut or broken is read as far as it goes. Document types and
their entities are dropped unread, so nothing can be expanded or fetched.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

_MOST_DEPTH = 100
"""Levels of elements; what is deeper counts as text of the last one."""
_MOST_ATTRIBUTE_CHARS = 300
_FEEDS = frozenset({"rss", "feed", "rdf"})
_ITEMS = frozenset({"item", "entry"})
_DATES = ("pubdate", "published", "updated", "date")
_TEXTS = ("encoded", "content", "description", "summary", "subtitle")
_LABELLED = {"author": "Author", "creator": "Author", "category": "Category"}
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


def text_of_xml(page: str) -> tuple[str, str] | None:
    """Return title and text, or None for what is XHTML or no XML at all."""
    root, rest = parsed(page)
    if root is None or root.name == "html":
        return None
    if root.name in _FEEDS:
        title, text = _feed(root)
    else:
        title, text = "", "\n".join(_lines(root, root.name == "svg"))
    return title, f"{text}\n\n{rest}" if rest else text


def parsed(page: str) -> tuple[Element | None, str]:
    """Return the root element, and the text of what can't be parsed behind the first fault."""
    page = _NOT_XML.sub(" ", _DOCTYPE.sub("", page.lstrip(), count=1))
    parts = _CDATA.split(page)
    parts[::2] = [_AMPERSAND.sub(_plain_entity, part) for part in parts[::2]]
    data = "".join(parts).encode("utf-8", "replace")
    builder = _Builder()
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


class _Builder:
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


def _lines(element: Element, is_drawing: bool) -> Iterator[str]:
    """Yield an element as lines: a record's fields one a line, records apart from each other."""
    inner = element.elements()
    attributes = "" if is_drawing else _attributes(element)
    has_text = any(isinstance(child, str) and child.strip() for child in element.children)
    if not inner or has_text:
        text = element.line()
        if text or attributes:
            named = text if inner or is_drawing else f"{element.name}: {text}".rstrip(": ") if text else element.name
            yield f"{named} ({attributes})" if attributes else named
        return
    if attributes:
        yield f"{element.name} ({attributes})"
    for child in inner:
        yield from _lines(child, is_drawing)
        if child.elements():
            yield ""


def _attributes(element: Element) -> str:
    shown = (
        f"{name.rpartition(':')[2]}={' '.join(value.split())[:_MOST_ATTRIBUTE_CHARS]}"
        for name, value in element.attributes.items()
        if value.strip() and not name.startswith(("xmlns", "xml:", "xsi:"))
    )
    return ", ".join(shown)


def _feed(root: Element) -> tuple[str, str]:
    channel = root.first("channel") or root
    heading = channel.first("title")
    # RDF has its items beside the channel.
    items = [child for place in (channel, root) for child in place.elements() if child.name in _ITEMS]
    unique = list({id(item): item for item in items}.values())
    about = channel.first("description", "subtitle")
    blocks = [_content(about) if about is not None else "", *map(_item, unique)]
    return heading.line() if heading is not None else "", "\n\n".join(filter(None, blocks))


def _item(item: Element) -> str:
    heading, date = item.first("title"), item.first(*_DATES)
    lines = [
        _content(heading) if heading is not None else "",
        _link(item),
        date.line() if date is not None else "",
        *(
            f"{_LABELLED[part.name]}: {part.line()}"
            for part in item.elements()
            if part.name in _LABELLED and part.line()
        ),
    ]
    body = item.first(*_TEXTS)
    return "\n".join(filter(None, [*lines, _content(body) if body is not None else ""]))


def _link(item: Element) -> str:
    """Return an item's address: the text of RSS's element, the attribute of Atom's."""
    links = [link for link in item.elements() if link.name == "link"]
    chosen = next((link for link in links if link.attributes.get("rel", "alternate") == "alternate"), None)
    return (chosen.line() or chosen.attributes.get("href", "")) if chosen is not None else ""


def _content(element: Element) -> str:
    """Return an element's text, which is often HTML in quotes, or the elements of XHTML."""
    from arpo_tools.page_markup import text_of_html

    markup = "".join(_markup(element) if element.elements() else element.texts())
    if not re.search(r"<[a-zA-Z/!]|&#?\w+;", markup):
        return " ".join(markup.split())
    return text_of_html(markup, is_thorough=False)[1].strip()


def _markup(element: Element) -> Iterator[str]:
    for child in element.children:
        if isinstance(child, Element):
            yield f"<{child.name}>"
            yield from _markup(child)
            yield f"</{child.name}>"
        else:
            yield html.escape(child, quote=False)
