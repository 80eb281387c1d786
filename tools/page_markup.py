"""HTML to text: superscripts, subscripts and formulas stay what they are, preformatted text keeps its columns.

Runs in the process of `page_text.py`. What is not covered: style sheets (`white-space: pre`), and tables whose cells
span several columns.
"""

import re
from collections.abc import Callable
from typing import Any

_MOST_SCRIPTS = 20_000
"""Superscripts and subscripts of a page that are marked; each costs some 10 µs."""
_MOST_SCRIPT_CHARS = 30
_ORDINALS = frozenset(
    (
        *("st", "nd", "rd", "th"),
        *("er", "ere", "ère", "re", "eme", "ème", "nde", "de"),
        *("tm", "sm", "®", "™", "℠", "©"),
    )
)
_PLAIN_NUMBER = re.compile(r"[+-]?\d+(?:[.,/]\d+)?[+-]?")
_ELEMENT_BEFORE = re.compile(r"(?:[A-Z][a-z]?|[)\]])\Z")
_SLASHES = ("⁄", "/", "∕")


def text_of_html(page: str, is_thorough: bool) -> tuple[str, str]:
    """Return title and text; thorough is without navigation, banners and footers, and slow on hostile pages."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(page)
    mark_formulas(tree)
    mark_scripts(tree)
    text = extract_plain_text(tree, main_content=True) if is_thorough else ""
    if not text.strip():
        text = extract_plain_text(tree)
    if not text.strip():
        # Some pages show all they have to those without JavaScript, or hide it until a script has run.
        text = extract_plain_text(tree, form_fields=True, noscript=True, hidden_elements=True)
    return tree.title or "", text


def mark_scripts(tree: Any) -> None:
    """Write `10<sup>6</sup>` as 10^6 and `log<sub>2</sub>` as log_2, where plain text would be 106 and log2."""
    if tree.body is None:
        return
    nodes = list(tree.body.query_selector_all("sup, sub"))[:_MOST_SCRIPTS]
    for node in reversed(nodes):  # inner ones first
        before, after = _text_of(node.prev)[-2:], _text_of(node.next)[:1]
        write = superscript if node.tag == "sup" else subscript
        if _is_fraction(node):
            gap = " " if node.tag == "sup" and before[-1:].isdigit() else ""
            node.text = gap + " ".join(node.text.split())
        else:
            node.text = write(before, node.text, after)


def superscript(before: str, text: str, after: str) -> str:
    """Return a superscript in plain text; `before` and `after` are what it stands between."""
    text = " ".join(text.split()).replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-")
    is_note = text.startswith(("[", "(")) or not any(map(str.isalnum, text.replace("+", "x").replace("-", "x")))
    is_ordinal = text.casefold() in _ORDINALS and before[-1:].isalnum()
    if not text or is_note or is_ordinal or text.casefold() in ("tm", "sm"):
        return text
    return _script("^", text, after)


def subscript(before: str, text: str, after: str) -> str:
    """Return a subscript in plain text; a formula of chemistry is written without marks, as is usual: H2O."""
    text = " ".join(text.split()).replace("\N{MINUS SIGN}", "-")
    is_chemical = text.isdigit() and _ELEMENT_BEFORE.search(before) and not after.isdigit()
    if not text or is_chemical or text.startswith("["):
        return text
    return _script("_", text, after)


def _script(mark: str, text: str, after: str) -> str:
    if len(text) > _MOST_SCRIPT_CHARS:
        return f" {text}"
    is_clear = bool(_PLAIN_NUMBER.fullmatch(text)) and not (after.isdigit() or after == ".")
    is_letter = len(text) == 1 and not after.isalnum()
    return f"{mark}{text}" if is_clear or is_letter else f"{mark}{{{text}}}"


def _is_fraction(node: Any) -> bool:
    """Tell whether this is a half of `<sup>1</sup>/<sub>2</sub>`."""
    if node.tag == "sup":
        between = node.next
        return _text_of(between).strip() in _SLASHES and getattr(between.next, "tag", "") == "sub"
    between = node.prev
    return _text_of(between).strip() in _SLASHES and getattr(between.prev, "tag", "") == "sup"


def _text_of(node: Any) -> str:
    return (node.text or "") if node is not None else ""


def mark_formulas(tree: Any) -> None:
    """Write MathML as the TeX that it carries, or else with `^`, `_` and `/`."""
    if tree.body is None:
        return
    for node in list(tree.body.query_selector_all("math"))[:_MOST_SCRIPTS]:
        tex = node.query_selector('annotation[encoding*="tex"]')
        written = _text_of(tex).strip() or (node.getattr("alttext") or "").strip() or _formula(node, 0)
        node.text = " ".join(written.split())


_LAYOUTS: dict[str, Callable[[list[str]], str]] = {
    "msup": lambda parts: f"{parts[0]}{_script('^', parts[1], '')}",
    "msub": lambda parts: f"{parts[0]}{_script('_', parts[1], '')}",
    "msubsup": lambda parts: f"{parts[0]}{_script('_', parts[1], '')}{_script('^', parts[2], '')}",
    "mfrac": lambda parts: f"{_grouped(parts[0])}/{_grouped(parts[1])}",
    "mroot": lambda parts: f"root({parts[1]}, {parts[0]})",
}
_MOST_DEPTH = 100


def _formula(node: Any, depth: int) -> str:
    children = list(node.child_nodes)
    if not children or depth > _MOST_DEPTH:
        return (node.text or "").strip()
    parts = [part for part in (_formula(child, depth + 1) for child in children) if part]
    layout = _LAYOUTS.get(node.tag or "")
    if layout is not None and len(parts) >= (3 if node.tag == "msubsup" else 2):
        return layout(parts)
    return f"sqrt({''.join(parts)})" if node.tag == "msqrt" else "".join(parts)


def _grouped(text: str) -> str:
    return text if text.isalnum() else f"({text})"
