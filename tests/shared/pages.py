"""Pages for tests of the page browser, and the browser that may read them from this machine."""

from pathlib import Path

from tool_servers import serving

from arpo_tools import ToolResult
from arpo_tools.page_browser import PageBrowser

HERE = ["127.0.0.1/32"]


PARAGRAPH = "Paris is the capital of France and its largest city. " * 5


ARTICLE = f"""<!DOCTYPE html><html><head><title> Paris
 today </title><script>evil()</script><style>p {{}}</style></head><body>
<nav><a href="/">Home</a> <a href="/about">About us</a></nav>
<main><h1>Paris</h1><p>{PARAGRAPH}</p></main><footer>Cookie policy</footer></body></html>"""


def browser(**options) -> PageBrowser:
    return PageBrowser(allowed_networks=HERE, **{"fetch_seconds": 30, "read_seconds": 30, **options})


async def read(*answers, **options) -> ToolResult:
    async with serving(*answers) as server:
        return await browser(**options).run(server.url)


def children() -> set[int]:
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def body_of(result: ToolResult) -> str:
    return result.text.split("\n\n", 1)[1]


def pdf_of_lines(*lines: str) -> bytes:
    """A PDF of one page with these lines."""
    return pdf(") Tj 0 -30 Td (".join(lines))


def pdf(*pages: str) -> bytes:
    """A PDF by hand: one line of text a page, with a right table of objects."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for text in pages:
        stream = f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET".encode()
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        resources = b"<< /Font << /F1 3 0 R >> >>"
        kids.append(b"%d 0 R" % (len(objects) + 1))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources %s >>"
            % (len(objects), resources)
        )
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    data, offsets = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, text)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(data))
    return data + b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table) + trailer
