"""XML to text: feeds (RSS, Atom, RDF) item by item, anything else one `name: value` a line.

Runs in the process of `worker_program.py`.
"""

import html
import re
from collections.abc import Iterator

from arpo_tools.pages.html_text import text_of_html
from arpo_tools.pages.xml_tree import Element, parse_xml

_MOST_ATTRIBUTE_CHARS = 300
_FEEDS = frozenset({"rss", "feed", "rdf"})
_ITEMS = frozenset({"item", "entry"})
_DATES = ("pubdate", "published", "updated", "date")
_TEXTS = ("encoded", "content", "description", "summary", "subtitle")
_LABELLED = {"author": "Author", "creator": "Author", "category": "Category"}


def text_of_xml(page: str) -> tuple[str, str] | None:
    """Return title and text, or None for what is XHTML or no XML at all."""
    root, rest = parse_xml(page)
    if root is None or root.name == "html":
        return None
    if root.name in _FEEDS:
        title, text = _feed(root)
    else:
        title, text = "", "\n".join(_lines(root, root.name == "svg"))
    return title, f"{text}\n\n{rest}" if rest else text


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
