"""Decompresses a page's body in steps of a bounded size, because a small answer may unpack to gigabytes."""

import zlib

_GZIP = frozenset({"gzip", "x-gzip", "application/gzip"})
_DEFLATE = frozenset({"deflate", "zlib", "x-deflate"})
_UNKNOWN_HERE = frozenset({"br", "zstd", "compress", "x-compress", "bzip2", "x-bzip2", "xz", "lzma", "lz4", "snappy"})
_ANY_HEADER = 32 + zlib.MAX_WBITS
"""gzip or zlib, whichever the first bytes say."""


class UnsupportedCompressionError(ValueError):
    """The body is compressed in a way that was not asked for."""


class Decompressor:
    """Decompresses gzip, also of several members, or deflate.

    A `Content-Encoding` that names no compression, such as `utf-8`, or does not fit the first bytes leaves the body
    as it is. What follows the compressed data is dropped.
    """

    def __init__(self, encoding: str) -> None:
        """
        Raises:
            UnsupportedCompressionError: another compression.
        """
        names = [name.partition(";")[0].strip(" \t\"'").lower() for name in encoding.split(",")]
        known = [name for name in names if name in _GZIP | _DEFLATE]
        if len(known) > 1 or any(name in _UNKNOWN_HERE for name in names):
            raise UnsupportedCompressionError(encoding)
        self._is_raw = not known
        self._is_deflate = bool(known) and known[0] in _DEFLATE
        self._zlib = zlib.decompressobj(_ANY_HEADER)
        self._has_begun = False
        """Whether the header of the first, or of the next, member has been seen."""
        self._has_output = False
        self._waiting = b""
        self._may_have_more = False
        self.is_over = False
        """Whether the compressed data has ended; further bytes are dropped."""

    @property
    def has_more(self) -> bool:
        """Whether a call without new bytes will return some."""
        return self._may_have_more

    def decompress(self, part: bytes, most: int) -> bytes:
        """Return the decompressed form of `part` and of bytes kept from before, at most `most` bytes.

        Raises:
            zlib.error: the data is not of that encoding.
        """
        if self._is_raw:
            return part
        if self.is_over:
            return b""
        data, self._waiting, self._may_have_more = self._waiting + part, b"", False
        if not self._has_begun:
            data = self._begin(data)
            if self._is_raw:
                return data
            if not self._has_begun:
                return b""
        unpacked = self._zlib.decompress(data, most)
        self._has_output = True
        if self._zlib.eof:
            self._end_member()
        else:
            self._waiting = self._zlib.unconsumed_tail
            self._may_have_more = bool(self._waiting) or len(unpacked) == most
        return unpacked

    def _begin(self, data: bytes) -> bytes:
        """Look at the first bytes of a member and return the bytes to decompress; too few are kept until more come."""
        if self._has_output:
            data = data.lstrip(b"\0")  # gzip fills blocks with zeros
        if len(data) < 2:
            self._waiting = data
            return b""
        is_gzip = data.startswith(b"\x1f\x8b")
        is_zlib = data[0] & 0x0F == 8 and (self._is_deflate or data[1] in b"\x01\x9c\xda")
        if self._has_output and not is_gzip:
            self.is_over = True
            return b""
        if self._is_deflate and not is_gzip and not is_zlib:
            self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)  # some servers leave zlib's header out
        elif not is_gzip and not is_zlib:
            self._is_raw = True
        self._has_begun = True
        return data

    def _end_member(self) -> None:
        """Prepare for a further member, which only gzip has."""
        rest = self._zlib.unused_data
        if self._is_deflate:
            self.is_over = True
            return
        self._zlib = zlib.decompressobj(_ANY_HEADER)
        self._has_begun = False
        rest = self._begin(rest)
        if self._has_begun:
            self._waiting, self._may_have_more = rest, True
