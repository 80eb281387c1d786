"""Brings the documents that stand outside of docs/ into the site, and turns links to other files into plain text.

Read by mkdocs (mkdocs.yml). The site has no copy of the source, so that a link to a source file could lead nowhere.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUTSIDE = ("recipes/README.md", "recipes/comparison.md", "recipes/costs.md", "tools/README.md", "patches/README.md")
HOME = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PICTURES = ("recipes/comparison.svg",)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#:]*)(#[^)\s]*)?\)")


def in_repository(page: str) -> str:
    """Return where a page of the site stands in the repository."""
    for source, target in HOME.items():
        if page == target:
            return source
    return page if page in OUTSIDE else f"docs/{page}"


def in_site(path: str) -> str | None:
    """Return where a file of the repository stands in the site, or none where it does not."""
    if path in HOME:
        return HOME[path]
    if path in OUTSIDE or path in PICTURES:
        return path
    is_document = path.startswith("docs/") and path.endswith((".md", ".svg"))
    return path.removeprefix("docs/") if is_document else None


def with_links(text: str, page: str) -> str:
    """Return a page's text with links that hold in the site."""
    folder = posixpath.dirname(in_repository(page))

    def link(found: re.Match[str]) -> str:
        mark, said, path, anchor = found.groups()
        if not path:
            return found[0]
        target = posixpath.normpath(posixpath.join(folder, path))
        target = f"{target}/README.md" if (ROOT / target).is_dir() else target
        placed = in_site(target)
        if placed is None:
            return said
        relative = posixpath.relpath(placed, posixpath.dirname(page) or ".")
        return f"{mark}[{said}]({relative}{anchor or ''})"

    return LINK.sub(link, text)


def on_files(files: Any, config: Any) -> Any:
    """Add the files from outside of docs/."""
    from mkdocs.structure.files import File

    pairs = [*HOME.items(), *((path, path) for path in (*OUTSIDE, *PICTURES))]
    for source, target in pairs:
        files.append(File.generated(config, target, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page's text as the site shows it."""
    return with_links(markdown, page.file.src_uri)
