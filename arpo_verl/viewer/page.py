"""Puts a page together: one HTML file that needs neither server nor network.

The data are deflated and written in base64, a prompt a piece, so that the browser unpacks what is looked at alone; no
text of a rollout stands in the HTML itself. A content security policy admits the page's own script and nothing else.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from arpo_verl.record.writing import prompt_line
from arpo_verl.viewer.sources import Source
from arpo_verl.viewer.summary import summary_of_step, table_of_step

STYLES = ("base.css", "pages.css")
SCRIPTS = (
    *("dom.js", "data.js", "tokens.js", "charts.js", "run_page.js", "step_page.js", "tree_layout.js", "tree_panel.js"),
    *("tree_page.js", "leaf_page.js", "compare_page.js", "timeline_page.js", "keys.js", "app.js"),
)
"""In the order in which they are put together."""


def page_of(source: Source) -> Iterator[bytes]:
    """Yield the parts of the HTML file with all that a source has."""
    yield _head()
    summaries: list[dict[str, Any]] = []
    for step in source.steps():
        summaries.append(summary_of_step(step))
        yield _piece(f"step-{step.step}", _json(table_of_step(step)))
        for place, prompt in enumerate(step.prompts):
            yield _piece(f"prompt-{step.step}-{place}", prompt_line(prompt))
    yield _tail(run_of(source, summaries, is_live=False))


def live_page(source: Source) -> bytes:
    """Return the HTML of a page that asks its server for the data."""
    return _head() + _tail(run_of(source, [], is_live=True))


def run_of(source: Source, summaries: list[dict[str, Any]], is_live: bool) -> dict[str, Any]:
    """Return what a page knows of the whole run."""
    path = source.path.resolve()
    return {"name": path.name, "path": str(path), "kind": source.kind, "live": is_live, "steps": summaries}


def _head() -> bytes:
    styles = "".join(_static(name) for name in STYLES)
    digest = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; connect-src 'self'; "
        f"base-uri 'none'; form-action 'none'"
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>arpo-verl view</title>\n<style>\n{styles}</style>\n</head>\n<body>\n"
    ).encode()


def _tail(run: dict[str, Any]) -> bytes:
    # No "<" of a path or an alarm can end the element.
    about = json.dumps(run).replace("<", "\\u003c")
    return (
        f'<script type="application/json" id="run">{about}</script>\n<script>{_script()}</script>\n</body>\n</html>\n'
    ).encode()


def _script() -> str:
    parts = "\n".join(_static(name) for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}\n}})();\n'


def _static(name: str) -> str:
    return (files("arpo_verl.viewer") / "static" / name).read_text(encoding="utf-8")


def _json(values: Any) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()


def deflated(content: bytes) -> bytes:
    """Return what the browser's `DecompressionStream("deflate")` unpacks."""
    return zlib.compress(content, 6)


def _piece(name: str, content: bytes) -> bytes:
    packed = base64.b64encode(deflated(content))
    return b'<script type="text/plain" id="' + name.encode() + b'">' + packed + b"</script>\n"
