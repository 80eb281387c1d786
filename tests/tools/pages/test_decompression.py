"""Compressed pages: every encoding that servers use, declared rightly, wrongly or not at all."""

import gzip
import zlib
from collections.abc import Callable

import pytest
from pages import body_of, read
from tool_servers import page

from arpo_tools import ToolStatus
from arpo_tools.pages.decompression import Decompressor

pytest.importorskip("resiliparse", reason="the extra `web` is not installed")
pytest.importorskip("pypdfium2", reason="the extra `web` is not installed")


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data)[2:-4]),
        ("GZIP", gzip.compress),
        ("identity", bytes),
    ],
)
async def test_compressed_pages_are_decompressed(encoding, pack: Callable[[bytes], bytes]):
    text = "<p>" + " ".join(map(str, range(30_000))) + "</p>"
    result = await read(page(pack(text.encode()), Content_Encoding=encoding), max_chars=200_000)
    assert body_of(result).endswith("29998 29999")


def members(*texts: str, between: bytes = b"") -> bytes:
    return between.join(gzip.compress(text.encode(), mtime=0) for text in texts)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (members("<p>one ", "two ", "three"), "one two three"),
        (members(*["x "] * 500), "x " * 499 + "x"),
        (members("<p>one ", "two", between=b"\0" * 100), "one two"),
        (members("<p>one ", "", "two"), "one two"),
        (members("<p>one") + b"\0" * 5000, "one"),
        (members("<p>one") + b"garbage", "one"),
        (members("<p>one") + b"\x1f", "one"),
        (members("<p>" + "a" * 100_000 + " ", "b" * 100_000), "a" * 100_000 + " " + "b" * 100_000),
    ],
)
@pytest.mark.parametrize("step", [1_000_000, 7])
async def test_gzip_of_several_members_is_decompressed_whole(data, text, step):
    decompressor, unpacked = Decompressor("gzip"), b""
    for start in range(0, len(data), step):
        unpacked += decompressor.decompress(data[start : start + step], 1 << 16)
        while decompressor.has_more:
            unpacked += decompressor.decompress(b"", 1 << 16)
    assert unpacked.decode() == (f"<p>{text}" if text[0] != "x" else "x " * 500)


async def test_a_page_of_several_members_is_read_whole():
    result = await read(page(members("<p>one ", "two ", "three"), Content_Encoding="gzip"))
    assert body_of(result) == "one two three"


@pytest.mark.parametrize(
    "encoding",
    [
        "utf-8",
        "UTF-8",
        "none",
        "None",
        "binary",
        "8bit",
        "identity",
        "text/html",
        "iso-8859-1",
        ",",
        "chunked",
        "utf-8, identity",
    ],
)
async def test_an_encoding_that_is_none_leaves_the_page_as_it_is(encoding):
    assert body_of(await read(page("<p>plain words", Content_Encoding=encoding))) == "plain words"


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "gzip;q=1", '"gzip"', "utf-8, gzip", "gzip, identity"])
async def test_a_compression_is_seen_among_other_words_and_only_believed_if_it_is_true(encoding):
    assert body_of(await read(page(gzip.compress(b"<p>packed"), Content_Encoding=encoding))) == "packed"
    assert body_of(await read(page("<p>not packed", Content_Encoding=encoding))) == "not packed"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
async def test_a_compression_that_was_not_asked_for_is_not_undone(encoding):
    assert (await read(page(b"x", Content_Encoding=encoding))).status is ToolStatus.MODEL_ERROR


@pytest.mark.parametrize("data", [b"no gzip at all", gzip.compress(b"<p>x</p>" * 9, mtime=0)[:20], b""])
async def test_broken_compression_is_an_answer(data):
    result = await read(page(data, Content_Encoding="gzip"))
    assert result.status in (ToolStatus.MODEL_ERROR, ToolStatus.EMPTY, ToolStatus.OK)
