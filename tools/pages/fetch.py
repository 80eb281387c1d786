"""Fetches one page from a hostile web: checked addresses, few redirects, limits on time, bytes and types.

There are no cookies, no proxies (a proxy would look names up unchecked), and no connection outlives its event loop.
Slow servers delay no others: only young fetches of a host count against its limit.
"""

import asyncio
import errno
import functools
import re
import resource
import socket
import weakref
import zlib
from dataclasses import dataclass

import aiohttp
from yarl import URL

from arpo_tools.loop_local import LoopLocal
from arpo_tools.pages.address_guard import AddressGuard, ForbiddenAddressError, GuardedResolver, NameTimeoutError
from arpo_tools.pages.decompression import Decompressor, UnsupportedCompressionError
from arpo_tools.pages.fair_slots import FairSlots
from arpo_tools.redaction import redact
from arpo_tools.tool import ToolStatus

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_MOST_URL_CHARS = 2000
_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
_XML_TYPES = frozenset({"application/xml", "text/xml"})
_PLAIN_TYPES = frozenset({"application/json", "application/ld+json", "application/javascript"})
_FEED = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,500}?-->\s*)*<(?:rss|feed|rdf:RDF)[\s>]", re.DOTALL)
_NOT_FOUND = frozenset({400, 404, 410})
_HOST_FETCHES, _HOST_SECONDS = 16, 1.0
"""Fetches that ask one host at once, as browsers keep it; one that takes longer than that no longer counts."""
_MOST_CONNECTIONS = 1024
_SNIFFED = 1024
"""First bytes of a body, by which its kind is recognised."""
_STEP = 1 << 16
"""Bytes unpacked at once."""
_NO_NETWORK = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EMFILE, errno.ENFILE})
_HEADERS = {
    "User-Agent": "Mozilla/5.0 (compatible; arpo-tools)",
    "Accept": "text/html,application/xhtml+xml,application/pdf,text/plain;q=0.9,*/*;q=0.1",
    "Accept-Encoding": "gzip, deflate",
}


class PageError(Exception):
    """The page can't be fetched or read; the text is for the model."""

    def __init__(self, text: str, status: ToolStatus = ToolStatus.MODEL_ERROR, may_be_elsewhere: bool = False) -> None:
        """
        Args:
            may_be_elsewhere: nothing is at this address, so that another spelling of it may be what was meant.
        """
        super().__init__(redact(text))
        self.status = status
        self.may_be_elsewhere = may_be_elsewhere


@dataclass(frozen=True)
class Page:
    """A fetched page. `kind` is `html`, `xml`, `plain` or `pdf`; `is_cut` says that it was longer than allowed."""

    url: str
    kind: str
    charset: str
    data: bytes
    is_cut: bool


@dataclass(frozen=True)
class FetchLimits:
    """Limits on a page's size in bytes, after decompression."""

    max_html_bytes: int = 2 << 20
    """A longer page is cut: its beginning is worth reading."""
    max_pdf_bytes: int = 20 << 20
    """A longer PDF is refused: half of one can't be read."""


class PageFetcher:
    """The fetches of one browser: sessions and limits for each host."""

    def __init__(self, guard: AddressGuard, limits: FetchLimits) -> None:
        self._limits = limits
        self._sessions: LoopLocal[aiohttp.ClientSession] = LoopLocal(
            functools.partial(_new_session, guard), aiohttp.ClientSession.close
        )
        self._hosts: LoopLocal[weakref.WeakValueDictionary[str, FairSlots]] = LoopLocal(weakref.WeakValueDictionary)

    async def fetch(self, address: str, seconds: float) -> Page:
        """Fetch a page, redirects included.

        Raises:
            PageError: it can't be fetched.
            asyncio.TimeoutError: it took longer than `seconds`.
        """
        url = checked_url(address)
        for _ in range(_MOST_REDIRECTS + 1):
            hosts = await self._hosts.get()
            slots = hosts.setdefault(url.host or "", FairSlots(_HOST_FETCHES, _HOST_SECONDS))
            async with slots.hold():
                found = await self._fetch_once(url, seconds)
            if isinstance(found, Page):
                return found
            url = found
        raise PageError(f"the page redirects more than {_MOST_REDIRECTS} times")

    async def _fetch_once(self, url: URL, seconds: float) -> Page | URL:
        """Return the page or where it redirects to."""
        session = await self._sessions.get()
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with session.get(url, allow_redirects=False, timeout=timeout) as response:
                if response.status in _REDIRECTS:
                    return _redirect_target(url, response.headers.get("Location", ""))
                if not 200 <= response.status < 300:
                    is_missing = response.status in _NOT_FOUND
                    raise PageError(f"the page's server answered HTTP {response.status}", may_be_elsewhere=is_missing)
                return await self._read_page(response)
        except asyncio.TimeoutError:
            raise  # before the next line, because it is an OSError from Python 3.11 on
        except (aiohttp.ClientError, OSError, zlib.error) as error:
            raise _page_error(error) from None
        except UnsupportedCompressionError as error:
            raise PageError(f"the page is compressed by {str(error)[:40]!r}, which was not asked for") from None

    async def _read_page(self, response: aiohttp.ClientResponse) -> Page:
        first = await response.content.readany()
        decompressor = Decompressor(response.headers.get("Content-Encoding", ""))
        data = bytearray(decompressor.decompress(first, _STEP))
        while len(data) < _SNIFFED and decompressor.has_more:
            data += decompressor.decompress(b"", _STEP)
        kind = kind_of(response.headers.get("Content-Type", ""), bytes(data[:_SNIFFED]))
        most = self._limits.max_pdf_bytes if kind == "pdf" else self._limits.max_html_bytes
        is_cut = await _read_rest(response.content, decompressor, data, len(first), most)
        if is_cut or decompressor.is_over:
            response.close()  # the rest must not be read to reuse the connection
        if is_cut and kind == "pdf":
            raise PageError(f"the PDF is larger than {most >> 20} MB", ToolStatus.LIMIT)
        return Page(str(response.url), kind, response.charset or "", bytes(data[:most]), is_cut)


async def _read_rest(
    content: aiohttp.StreamReader, decompressor: Decompressor, data: bytearray, received: int, most: int
) -> bool:
    """Read the rest of a body into `data`, and return whether it is longer than `most` bytes.

    The bytes as they come count too: a stream of empty members would never make the text longer.
    """
    most_received = most + most // 8 + _STEP
    while not decompressor.is_over:
        while decompressor.has_more and len(data) <= most:
            data += decompressor.decompress(b"", _STEP)
            await asyncio.sleep(0)  # a decompression bomb takes a tenth of a second, which others must not wait for
        if len(data) > most or received > most_received:
            return True
        part = await content.readany()
        if not part:
            break
        received += len(part)
        data += decompressor.decompress(part, _STEP)
    return len(data) > most


def _most_connections() -> int:
    """Return how many connections a process may have, which leaves half of its files for others."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, min(_MOST_CONNECTIONS, soft // 2))


def _new_session(guard: AddressGuard) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        resolver=GuardedResolver(guard), socket_factory=guard.open_socket, limit=_most_connections()
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        auto_decompress=False,
        trust_env=False,
    )


def checked_url(address: str) -> URL:
    """Return the address as a URL without fragment.

    Raises:
        PageError: it is not one that may be fetched.
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


def _redirect_target(url: URL, location: str) -> URL:
    try:
        return checked_url(str(url.join(URL(location))) if location else "")
    except ValueError:
        raise PageError(f"the page redirects to {location[:200]!r}, which is no address") from None


def kind_of(content_type: str, beginning: bytes) -> str:
    """Return `html`, `xml`, `plain` or `pdf`.

    Raises:
        PageError: the page is of a type without text.
    """
    declared = content_type.partition(";")[0].strip().lower()
    if beginning.lstrip().startswith(b"%PDF-"):
        return "pdf"
    is_xml = declared in _XML_TYPES or declared.endswith("+xml")
    if _FEED.match(beginning) or (is_xml and declared not in _HTML_TYPES):
        return "xml"
    if declared in _HTML_TYPES:
        return "html"
    is_text = declared.startswith("text/") or declared in _PLAIN_TYPES or declared.endswith("+json")
    if declared and not is_text:
        raise PageError(f"the page is of the type {declared[:80]!r}; only HTML, text and PDF can be read")
    if b"\0" in beginning and not beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PageError("the page is binary data; only HTML, text and PDF can be read")
    return "plain" if is_text else "html"


def _page_error(error: BaseException) -> PageError:
    """Return the error for the model; only a failure of our own network is an infrastructure failure."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ForbiddenAddressError):
            return PageError(f"refused: {cause}")
        if isinstance(cause, NameTimeoutError):
            return PageError(str(cause), ToolStatus.TIMEOUT)
        if isinstance(cause, socket.gaierror):
            is_resolver_down = cause.errno in (socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM)
            status = ToolStatus.INFRASTRUCTURE_ERROR if is_resolver_down else ToolStatus.MODEL_ERROR
            return PageError(f"the host's name can't be resolved: {cause.strerror}", status)
        if isinstance(cause, OSError) and cause.errno in _NO_NETWORK:
            return PageError(f"no network: {cause.strerror}", ToolStatus.INFRASTRUCTURE_ERROR)
        cause = getattr(cause, "os_error", None) or cause.__cause__
    if isinstance(error, aiohttp.InvalidURL):
        return PageError("the address is not one of a web page")
    return PageError(f"the page can't be fetched: {type(error).__name__}", may_be_elsewhere=True)
