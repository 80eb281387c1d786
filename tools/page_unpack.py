"""Decompresses a page's body in steps of a bounded size, because a small answer may unpack to gigabytes."""

import zlib

_GZIP = frozenset({"gzip", "x-gzip", "application/gzip"})
_DEFLATE = frozenset({"deflate", "zlib", "x-deflate"})
_UNKNOWN_HERE = frozenset({"br", "zstd", "compress", "x-compress", "bzip2", "x-bzip2", "xz", "lzma", "lz4", "snappy"})
_ANY_HEADER = 32 + zlib.MAX_WBITS
"""gzip or zlib, whichever the first bytes say."""


class UnknownCompressionError(ValueError):
    """The body is compressed in a way that was not asked for."""


class Unpacker:
    """Undoes gzip, also of several members, or deflate.

    A `Content-Encoding` that is none, such as `utf-8`, and one that is not true of the first bytes leave the body as it
    is. What follows the compressed data is dropped.
    """

    def __init__(self, encoding: str) -> None:
        """
        Raises:
            UnknownCompressionError: another compression.
        """
        names = [name.partition(";")[0].strip(" \t\"'").lower() for name in encoding.split(",")]
        known = [name for name in names if name in _GZIP | _DEFLATE]
        if len(known) > 1 or any(name in _UNKNOWN_HERE for name in names):
            raise UnknownCompressionError(encoding)
        self._is_raw = not known
        self._is_deflate = bool(known) and known[0] in _DEFLATE
        self._unzip = zlib.decompressobj(_ANY_HEADER)
        self._has_begun = False
        """Whether the header of the first, or of the next, member has been seen."""
        self._has_output = False
        self._waiting = b""
        self._may_have_more = False
        self.is_over = False
        """Whether the compressed data has ended; what else comes is dropped."""

    @property
    def has_more(self) -> bool:
        """Whether a step without new bytes will give some."""
        return self._may_have_more

    def some(self, part: bytes, most: int) -> bytes:
        """Return what `part` and what was waiting unpack to, at most `most` bytes.

        Raises:
            zlib.error: it is not what the encoding says.
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
        unpacked = self._unzip.decompress(data, most)
        self._has_output = True
        if self._unzip.eof:
            self._end_member()
        else:
            self._waiting = self._unzip.unconsumed_tail
            self._may_have_more = bool(self._waiting) or len(unpacked) == most
        return unpacked

    def _begin(self, data: bytes) -> bytes:
        """Look at the first bytes of a member and return what is to be unpacked; too few of them wait for more."""
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
            self._unzip = zlib.decompressobj(-zlib.MAX_WBITS)  # some servers leave zlib's header out
        elif not is_gzip and not is_zlib:
            self._is_raw = True
        self._has_begun = True
        return data

    def _end_member(self) -> None:
        """Make ready for a further member, which only gzip has."""
        rest = self._unzip.unused_data
        if self._is_deflate:
            self.is_over = True
            return
        self._unzip = zlib.decompressobj(_ANY_HEADER)
        self._has_begun = False
        rest = self._begin(rest)
        if self._has_begun:
            self._waiting, self._may_have_more = rest, True
