"""HTML to text: superscripts, subscripts and formulas stay what they are, preformatted text keeps its columns.

Runs in the process of `worker_program.py`. What is not covered: style sheets (`white-space: pre`), and tables whose
cells span several columns.
"""

import html
import re
from collections.abc import Callable

from arpo_tools.pages.xml_tree import Element, parse_xml

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
_REACH = 200
"""Characters of the source looked at before and behind a superscript."""
_MOST_NESTED = 4
_TAG = re.compile(r"<[^<>]*>|^[^<>]*>|<[^<>]*$")
_SCRIPT = re.compile(r"<(su[pb])(?:\s[^<>]*)?>((?:(?!</?su[pb][\s>]).)*)</\1\s*>", re.IGNORECASE | re.DOTALL)
_FRACTION = re.compile(
    r"<sup(?:\s[^<>]*)?>([^<>]{1,20})</sup>\s*(⁄|/|∕|&frasl;|&#8260;)\s*<sub(?:\s[^<>]*)?>([^<>]{1,20})</sub>",
    re.IGNORECASE,
)
_MATH = re.compile(r"<math(\s[^<>]*)?>((?:(?!</?math[\s>]).)*)</math\s*>", re.IGNORECASE | re.DOTALL)
_ANNOTATION = re.compile(r"<annotation\s[^<>]*tex[^<>]*>([^<>]*)</annotation", re.IGNORECASE)
_ALTTEXT = re.compile(r"""\salttext\s*=\s*["']([^"'<>]+)["']""", re.IGNORECASE)


_LINES_OF_THEIR_OWN = re.compile(r"(</(?:summary|option|legend|figcaption)\s*>)", re.IGNORECASE)
"""The ends of elements that a browser sets apart and resiliparse 2.0.1 joins with what follows."""


def text_of_html(page: str, is_thorough: bool) -> tuple[str, str]:
    """Return title and text; thorough is without navigation, banners and footers, and slow on hostile pages."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(mark_scripts(mark_formulas(_LINES_OF_THEIR_OWN.sub(r"\1<br> ", page))))
    text = extract_plain_text(tree, main_content=True) if is_thorough else ""
    if not text.strip():
        text = extract_plain_text(tree)
    if not text.strip():
        # Some pages show all they have to those without JavaScript, or hide it until a script has run.
        text = extract_plain_text(tree, form_fields=True, noscript=True, hidden_elements=True)
    return tree.title or "", text


def mark_scripts(page: str) -> str:
    """Write `10<sup>6</sup>` as 10^6 and `log<sub>2</sub>` as log_2, where plain text would be 106 and log2.

    On the source and not on the tree, whose lists of elements take resiliparse 2.0 a time that grows with the square of
    their number.
    """
    page = _FRACTION.sub(_replace_fraction, page)
    for _ in range(_MOST_NESTED):
        page, count = _SCRIPT.subn(_replace_script, page)
        if not count:
            break
    return page


def _replace_fraction(match: "re.Match[str]") -> str:
    above, slash, below = match.groups()
    gap = " " if _text_before(match)[-1:].isdigit() else ""
    return f"{gap}{above.strip()}{slash}{below.strip()}"


def _replace_script(match: "re.Match[str]") -> str:
    write = superscript if match.group(1).lower() == "sup" else subscript
    rest = match.string[match.end() : match.end() + _REACH]
    after = "" if rest[:4].lower() in ("<sup", "<sub") else html.unescape(_TAG.sub("", rest))[:1]
    return html.escape(write(_text_before(match), html.unescape(_TAG.sub("", match.group(2))), after), quote=False)


def _text_before(match: "re.Match[str]") -> str:
    """Return the last two characters of text before a match."""
    return html.unescape(_TAG.sub("", match.string[max(0, match.start() - _REACH) : match.start()]))[-2:]


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


def mark_formulas(page: str) -> str:
    """Write MathML as the TeX that it carries, or else with `^`, `_` and `/`."""
    return _MATH.sub(_replace_formula, page)


def _replace_formula(match: "re.Match[str]") -> str:
    tex = _ANNOTATION.search(match.group(2)) or _ALTTEXT.search(match.group(1) or "")
    if tex:
        return f" {tex.group(1).strip()} "
    root, _ = parse_xml(f"<math>{match.group(2)}</math>")
    return f" {html.escape(_formula(root, 0), quote=False)} " if root is not None else match.group()


_LAYOUTS: dict[str, Callable[[list[str]], str]] = {
    "msup": lambda parts: f"{parts[0]}{_script('^', parts[1], '')}",
    "msub": lambda parts: f"{parts[0]}{_script('_', parts[1], '')}",
    "msubsup": lambda parts: f"{parts[0]}{_script('_', parts[1], '')}{_script('^', parts[2], '')}",
    "mfrac": lambda parts: f"{_grouped(parts[0])}/{_grouped(parts[1])}",
    "mroot": lambda parts: f"root({parts[1]}, {parts[0]})",
}
_MOST_DEPTH = 100


def _formula(node: Element | str, depth: int) -> str:
    if isinstance(node, str):
        return " ".join(node.split())
    if depth > _MOST_DEPTH:
        return node.line()
    parts = [part for part in (_formula(child, depth + 1) for child in node.children) if part]
    layout = _LAYOUTS.get(node.name)
    if layout is not None and len(parts) >= (3 if node.name == "msubsup" else 2):
        return layout(parts)
    return f"sqrt({''.join(parts)})" if node.name == "msqrt" else "".join(parts)


def _grouped(text: str) -> str:
    return text if text.isalnum() else f"({text})"
