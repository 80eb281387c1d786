"""The program of a page worker: a document in, text out, in a process of its own that may be killed at any time.

Run as a script, with what to add to `sys.path` as its arguments. It speaks over its standard input, which is a socket:
each message is a length of 8 bytes and that many bytes. A request is a line of JSON and the document; an answer is
JSON. It begins with `READY`.

What is covered: an empty environment, limits on memory, file size and the time of one document. What is not covered:
the parsers are C and C++ code that reads hostile input, in a process that may use the network and the user's files.
"""

import json
import os
import re
import resource
import signal
import socket
import struct
import sys
import types

LENGTH = struct.Struct(">Q")
READY = b"ready\n"
"""The message that the program sends when it has loaded its parsers."""
_MEMORY_BYTES = 1 << 30
_XML_ENCODING = re.compile(rb"""^\s*<\?xml[^>]{0,200}?\sencoding\s*=\s*["']([\w.:-]{1,40})["']""")
_META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s{0,5}=\s{0,5}["']?\s{0,5}([\w.:-]{1,40})""", re.IGNORECASE)


def decode_page(data: bytes, charset: str) -> str:
    """Decode by the byte order mark, the given charset, what the page declares, or what the bytes look like."""
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    named = _XML_ENCODING.match(data[:4096]) or _META_CHARSET.search(data[:4096])
    for name in (charset, named.group(1).decode("ascii", "replace") if named else "", detect_encoding(data) or ""):
        # The table of HTML's charsets keeps Python's other codecs out, and reads gb2312 as the larger gbk.
        known = map_encoding_to_html5(name, fallback_utf8=False) if name else None
        if known:
            try:
                return data.decode(known, "replace")
            except LookupError:
                continue
    return data.decode("utf-8", "replace")


_INVISIBLE = {0xA0: " ", 0x2007: " ", 0x202F: " ", **dict.fromkeys((0xAD, 0x200B, 0x2060, 0xFEFF), None)}
"""Characters that are removed or become spaces; not the joiners of scripts and emoji, U+200C and U+200D."""


def normalize_text(text: str) -> str:
    """Return text without control characters, lone surrogates, spaces at lines' ends and long runs of blank lines.

    Invisible characters go too, such as soft hyphens, by which a word would be two for a tokenizer; a no-break space
    becomes a space.

    Spaces within a line stay: they are the columns and the indentation of preformatted text.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n").encode("utf-8", "replace").decode()
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", " ", text.translate(_INVISIBLE))
    text = re.sub(r"\n{4,}", "\n\n\n", re.sub(r"[ \t]+(?=\n)", "", text))
    return re.sub(r"\A(?:[ \t]*\n)+", "", text).rstrip()


def extract_text(request: dict[str, object], data: bytes) -> tuple[str, str]:
    """Return title and text of a document."""
    # Imported here, because the browser imports this module for its framing and has no use for parsers.
    from arpo_tools.pages.html_text import text_of_html
    from arpo_tools.pages.pdf_text import text_of_pdf
    from arpo_tools.pages.xml_text import text_of_xml

    if request["kind"] == "pdf":
        return text_of_pdf(data)
    page = decode_page(data, str(request["charset"]))
    if request["kind"] == "plain":
        return "", page
    found = text_of_xml(page) if request["kind"] == "xml" else None
    return found or text_of_html(page, bool(request["is_thorough"]))


def answer_request(request: dict[str, object], data: bytes) -> dict[str, str]:
    """Answer one request; what a parser raises is an answer, too."""
    try:
        title, text = extract_text(request, data)
    except MemoryError:
        raise
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    return {"title": " ".join(normalize_text(title).split()), "text": normalize_text(text)}


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
    # The package without its `__init__`, which imports every tool and takes longer than a page.
    package = types.ModuleType("arpo_tools")
    package.__path__ = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    sys.modules["arpo_tools"] = package
    import resiliparse.extract.html2text  # noqa: F401 - loaded before the first document comes

    connection = socket.socket(fileno=0)
    connection.sendall(READY)
    while True:
        (size,) = LENGTH.unpack(read_exactly(connection, LENGTH.size))
        line, _, data = read_exactly(connection, size).partition(b"\n")
        request = json.loads(line)
        signal.alarm(int(request["seconds"]) + 5)  # ends this process if the browser was killed and can't
        answer = json.dumps(answer_request(request, data)).encode()
        signal.alarm(0)
        connection.sendall(LENGTH.pack(len(answer)) + answer)


if __name__ == "__main__":
    main()
