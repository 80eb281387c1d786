"""Fetches one page from a hostile web: checked addresses, few redirects, limits on time, bytes and types.

Bodies are decompressed here, in small steps, because a small answer may unpack to gigabytes. There are no cookies, no
proxies (a proxy would look names up unchecked), and no connection outlives its event loop.
"""

import asyncio
import errno
import functools
import socket
import zlib
from dataclasses import dataclass

import aiohttp
from yarl import URL

from arpo_tools.loop_local import LoopLocal
from arpo_tools.page_guard import AddressGuard, ForbiddenAddressError, GuardedResolver
from arpo_tools.tool import ToolStatus

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_MOST_URL_CHARS = 2000
_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/xml", "text/xml"})
_PLAIN_TYPES = frozenset({"application/json", "application/ld+json", "application/javascript"})
_NO_NETWORK = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EMFILE, errno.ENFILE})
_HEADERS = {
    "User-Agent": "Mozilla/5.0 (compatible; arpo-tools)",
    "Accept": "text/html,application/xhtml+xml,application/pdf,text/plain;q=0.9,*/*;q=0.1",
    "Accept-Encoding": "gzip, deflate",
}


class PageError(Exception):
    """The page can't be had; the text is for the model."""

    def __init__(self, text: str, status: ToolStatus = ToolStatus.MODEL_ERROR) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Page:
    """A fetched page. `kind` is `html`, `plain` or `pdf`; `is_cut` says that it was longer than allowed."""

    url: str
    kind: str
    charset: str
    data: bytes
    is_cut: bool


@dataclass(frozen=True)
class FetchLimits:
    """Bytes count after decompression."""

    max_html_bytes: int = 2 << 20
    """What is longer is cut: the beginning of a page is worth reading."""
    max_pdf_bytes: int = 20 << 20
    """What is longer is refused: half a PDF can't be read."""


class PageFetcher:
    """Fetches pages for one browser."""

    def __init__(self, guard: AddressGuard, limits: FetchLimits) -> None:
        self._limits = limits
        self._sessions: LoopLocal[aiohttp.ClientSession] = LoopLocal(
            functools.partial(_new_session, guard), aiohttp.ClientSession.close
        )

    async def fetch(self, address: str, seconds: float) -> Page:
        """Fetch a page, redirects included.

        Raises:
            PageError: it can't be had.
            asyncio.TimeoutError: it took longer than `seconds`.
        """
        url = checked_url(address)
        for _ in range(_MOST_REDIRECTS + 1):
            found = await self._one(url, seconds)
            if isinstance(found, Page):
                return found
            url = found
        raise PageError(f"the page redirects more than {_MOST_REDIRECTS} times")

    async def _one(self, url: URL, seconds: float) -> Page | URL:
        """Return the page or where it redirects to."""
        session = await self._sessions.get()
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with session.get(url, allow_redirects=False, timeout=timeout) as response:
                if response.status in _REDIRECTS:
                    return _target(url, response.headers.get("Location", ""))
                if response.status != 200:
                    raise PageError(f"the page's server answered HTTP {response.status}")
                return await self._body(response)
        except asyncio.TimeoutError:
            raise  # before the next line, because it is an OSError from Python 3.11 on
        except (aiohttp.ClientError, OSError, zlib.error) as error:
            raise _page_error(error) from None

    async def _body(self, response: aiohttp.ClientResponse) -> Page:
        first = await response.content.readany()
        unpack = Unpacker(response.headers.get("Content-Encoding", ""))
        data = bytearray(unpack.some(first, 1 << 16))
        kind = kind_of(response.headers.get("Content-Type", ""), bytes(data[:1024]))
        most = self._limits.max_pdf_bytes if kind == "pdf" else self._limits.max_html_bytes
        is_cut = False
        while True:
            while unpack.has_more and len(data) <= most:
                data += unpack.some(b"", 1 << 16)
                await asyncio.sleep(0)  # a bomb unpacks for a tenth of a second, which others must not wait for
            if len(data) > most:
                is_cut = True
                break
            part = await response.content.readany()
            if not part:
                break
            data += unpack.some(part, 1 << 16)
        if is_cut:
            response.close()  # the rest must not be read to reuse the connection
            if kind == "pdf":
                raise PageError(f"the PDF is larger than {most >> 20} MB", ToolStatus.LIMIT)
        return Page(str(response.url), kind, response.charset or "", bytes(data[:most]), is_cut)


def _new_session(guard: AddressGuard) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        resolver=GuardedResolver(guard), socket_factory=guard.open_socket, limit=256, limit_per_host=16
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        auto_decompress=False,
        trust_env=False,
    )


class Unpacker:
    """Undoes gzip or deflate in steps of a bounded size."""

    def __init__(self, encoding: str) -> None:
        """
        Raises:
            PageError: another encoding.
        """
        encoding = encoding.strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise PageError(f"the page is compressed by {encoding[:40]!r}, which was not asked for")
        self._raw = encoding in ("", "identity")
        self._is_deflate = encoding == "deflate"
        # 32 + 15: gzip or zlib, whichever the first bytes say.
        self._unzip = zlib.decompressobj(32 + zlib.MAX_WBITS)
        self._is_first = True
        self._waiting = b""

    @property
    def has_more(self) -> bool:
        """Whether bytes are waiting from the last step."""
        return bool(self._waiting) and not self._unzip.eof

    def some(self, part: bytes, most: int) -> bytes:
        """Return what `part` and what was waiting unpack to, at most `most` bytes.

        Raises:
            zlib.error: it is not what the encoding says.
        """
        if self._raw:
            return part
        part = self._waiting + part
        if self._is_deflate and self._is_first and part and part[0] & 0x0F != 8:
            self._unzip = zlib.decompressobj(-zlib.MAX_WBITS)  # some servers leave zlib's header out
        self._is_first = self._is_first and not part
        unpacked = self._unzip.decompress(part, most)
        self._waiting = self._unzip.unconsumed_tail
        return unpacked


def checked_url(address: str) -> URL:
    """Return the address as a URL without fragment.

    Raises:
        PageError: it is none that may be fetched.
    """
    if len(address) > _MOST_URL_CHARS:
        raise PageError(f"the address is longer than {_MOST_URL_CHARS} characters")
    try:
        url = URL(address.encode("utf-8", "replace").decode())
        host = url.host
        port = url.port
    except (ValueError, UnicodeError) as error:
        raise PageError(f"{address[:200]!r} is no address: {error}") from None
    if url.scheme not in ("http", "https") or not host or not port:
        raise PageError(f"{address[:200]!r} is no address of a web page: give one that begins with http:// or https://")
    if url.user is not None or url.password is not None:
        raise PageError("an address with a user name is not fetched")
    return url.with_fragment(None)


def _target(url: URL, location: str) -> URL:
    try:
        return checked_url(str(url.join(URL(location))) if location else "")
    except ValueError:
        raise PageError(f"the page redirects to {location[:200]!r}, which is no address") from None


def kind_of(content_type: str, beginning: bytes) -> str:
    """Return `html`, `plain` or `pdf`.

    Raises:
        PageError: the page is of a type without text.
    """
    declared = content_type.partition(";")[0].strip().lower()
    if beginning.lstrip().startswith(b"%PDF-"):
        return "pdf"
    if declared in _HTML_TYPES:
        return "html"
    is_text = declared.startswith("text/") or declared in _PLAIN_TYPES or declared.endswith(("+json", "+xml"))
    if declared and not is_text:
        raise PageError(f"the page is of the type {declared[:80]!r}; only HTML, text and PDF can be read")
    if b"\0" in beginning and not beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PageError("the page is binary data; only HTML, text and PDF can be read")
    return "plain" if is_text else "html"


def _page_error(error: BaseException) -> PageError:
    """Say what went wrong, and whose fault it is: a dead page is not our network."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ForbiddenAddressError):
            return PageError(f"refused: {cause}")
        if isinstance(cause, socket.gaierror):
            is_resolver_down = cause.errno in (socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM)
            status = ToolStatus.INFRASTRUCTURE_ERROR if is_resolver_down else ToolStatus.MODEL_ERROR
            return PageError(f"the host's name can't be resolved: {cause.strerror}", status)
        if isinstance(cause, OSError) and cause.errno in _NO_NETWORK:
            return PageError(f"no network: {cause.strerror}", ToolStatus.INFRASTRUCTURE_ERROR)
        cause = getattr(cause, "os_error", None) or cause.__cause__
    if isinstance(error, aiohttp.InvalidURL):
        return PageError("the address is not one of a web page")
    return PageError(f"the page can't be fetched: {type(error).__name__}")
