"""The program of a page worker: HTML or PDF in, text out, in a process of its own that may be killed at any time.

Run as a script, with what to add to `sys.path` as its arguments. It speaks over its standard input, which is a socket:
each message is a length of 8 bytes and that many bytes. A request is a line of JSON and the document; an answer is
JSON.

What is covered: an empty environment, limits on memory, file size and the time of one document. What is not covered:
the parsers are C and C++ code that reads hostile input, in a process that may use the network and the user's files.
"""

import json
import re
import resource
import signal
import socket
import struct
import sys

LENGTH = struct.Struct(">Q")
_MEMORY_BYTES = 1 << 30
_MOST_PDF_PAGES = 100
_META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s{0,5}=\s{0,5}["']?\s{0,5}([\w.:-]{1,40})""", re.IGNORECASE)


def decoded(data: bytes, charset: str) -> str:
    """Decode by the byte order mark, the given charset, the page's own `meta`, or what the bytes look like."""
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    named = _META_CHARSET.search(data[:4096])
    for name in (charset, named.group(1).decode("ascii", "replace") if named else "", detect_encoding(data) or ""):
        # The table of HTML's charsets keeps Python's other codecs out, and reads gb2312 as the larger gbk.
        known = map_encoding_to_html5(name, fallback_utf8=False) if name else None
        if known:
            try:
                return data.decode(known, "replace")
            except LookupError:
                continue
    return data.decode("utf-8", "replace")


def text_of_html(data: bytes, charset: str, is_thorough: bool) -> dict[str, str]:
    """Return title and text; thorough is without navigation, banners and footers, and slow on hostile pages."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    page = decoded(data, charset)
    tree = HTMLTree.parse(page)
    text = extract_plain_text(tree, main_content=True) if is_thorough else ""
    if not text.strip():
        text = extract_plain_text(tree)
    if not text.strip():
        # Some pages show all they have to those without JavaScript, or hide it until a script has run.
        text = extract_plain_text(tree, form_fields=True, noscript=True, hidden_elements=True)
    return {"title": " ".join((tree.title or "").split()), "text": tidied(text)}


def tidied(text: str) -> str:
    """Return text without trailing spaces, control characters, lone surrogates and runs of blank lines."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", " ", text.replace("\r\n", "\n").encode("utf-8", "replace").decode())
    text = re.sub(r"[ \t]+\n", "\n", re.sub(r"[ \t]{2,}", " ", text))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def text_of_pdf(data: bytes) -> dict[str, str]:
    """Return title and text of a PDF's first pages."""
    import pypdfium2

    document = pypdfium2.PdfDocument(data)
    pages = [
        document[number].get_textpage().get_text_bounded() for number in range(min(len(document), _MOST_PDF_PAGES))
    ]
    title = str(document.get_metadata_dict().get("Title") or "")
    return {"title": tidied(title), "text": tidied("\n\n".join(pages))}


def answer_to(request: dict[str, object], data: bytes) -> dict[str, str]:
    """Answer one request; what a parser raises is an answer, too."""
    try:
        if request["kind"] == "pdf":
            return text_of_pdf(data)
        if request["kind"] == "plain":
            return {"title": "", "text": tidied(decoded(data, str(request["charset"])))}
        return text_of_html(data, str(request["charset"]), bool(request["is_thorough"]))
    except MemoryError:
        raise
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def read_exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), 1 << 20))
        if not part:
            sys.exit(0)  # the browser is gone
        data += part
    return bytes(data)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.path += sys.argv[1:]
    connection = socket.socket(fileno=0)
    while True:
        (size,) = LENGTH.unpack(read_exactly(connection, LENGTH.size))
        line, _, data = read_exactly(connection, size).partition(b"\n")
        request = json.loads(line)
        signal.alarm(int(request["seconds"]) + 5)  # ends this process if the browser was killed and can't
        answer = json.dumps(answer_to(request, data)).encode()
        signal.alarm(0)
        connection.sendall(LENGTH.pack(len(answer)) + answer)


if __name__ == "__main__":
    main()
