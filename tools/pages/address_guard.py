"""Keeps the page browser to public addresses, checked at the moment of the connection.

A name is looked up once; what was checked is what is connected to, so a name that changes its address in between gains
nothing. Every spelling of an address (decimal, octal, IPv6 that carries IPv4) ends in the same check.

What is not covered: any port of a public host may be asked, and a host that forwards into a private network is public.
"""

import asyncio
import contextlib
import functools
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from arpo_tools.loop_local import LoopLocal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Lookup = Callable[..., Sequence[tuple[Any, ...]]]

# Every entry of IANA's registries of special-purpose addresses that is not globally reachable, and what is closed for
# another reason. Of IPv6 only what IANA has given out as global unicast is open at all.
_CLOSED = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; 100.100.100.200 serves metadata in Alibaba's cloud
        "127.0.0.0/8",
        "168.63.129.16/32",  # public in form, but Azure's own service inside every machine
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",  # AS112, which answers for private names
        "192.52.193.0/24",  # multicast tunnels
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2001::/23",  # Teredo and other special purposes
        "2001:db8::/32",
        "2002::/16",  # 6to4; what it carries is looked at before
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # the experimental network that was given back
        "3fff::/20",  # documentation
    )
]
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
_6TO4 = ipaddress.ip_network("2002::/16")
_MOST_LOOKUPS = 512
"""Names that are looked up at once; a lookup that hangs keeps its thread until the system gives it up."""
_LOOKUP_SECONDS = 10.0


class ForbiddenAddressError(OSError):
    """The address is not public."""


class NameTimeoutError(OSError):
    """A host's name servers don't answer."""


class AddressGuard:
    """The check of addresses, the name lookups and the sockets of one browser."""

    def __init__(self, allowed: Sequence[str] = (), lookup: Lookup = socket.getaddrinfo) -> None:
        """
        Args:
            allowed: networks that may be reached although they are not public, such as `10.1.0.0/16`.
            lookup: `socket.getaddrinfo` or a function of its kind.

        Raises:
            ValueError: an entry of `allowed` is not a network.
        """
        self._allowed: list[Network] = [ipaddress.ip_network(network) for network in allowed]
        self._lookup = lookup
        self._under_way: LoopLocal[dict[tuple[str, int, int], asyncio.Future[Any]]] = LoopLocal(dict)

    def is_allowed(self, address: str) -> bool:
        """Tell whether a numeric address may be connected to."""
        try:
            ip = _embedded_ipv4(ipaddress.ip_address(address.partition("%")[0]))
        except ValueError:
            return False
        if any(ip in network for network in self._allowed if network.version == ip.version):
            return True
        return _is_public(ip) and not _is_own(str(ip))

    async def lookup(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> list[ResolveResult]:
        """Return a host's addresses if every one of them is allowed.

        Raises:
            ForbiddenAddressError: one is not. A name with a public and a private address is after the private one.
            OSError: the name can't be resolved.
            NameTimeoutError: its name servers don't answer.
        """
        lookup = await self._shared_lookup(host, port, family)
        try:
            found = await asyncio.wait_for(asyncio.shield(lookup), _LOOKUP_SECONDS)
        except asyncio.TimeoutError:
            raise NameTimeoutError(f"the name servers of {host} don't answer") from None
        results: list[ResolveResult] = []
        for address_family, _, protocol, _, address in found:
            self.require_allowed(host, address[0])
            results.append(
                ResolveResult(
                    hostname=host,
                    host=address[0],
                    port=port,
                    family=address_family,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        if not results:
            raise OSError(f"{host} has no address")
        return results

    async def _shared_lookup(self, host: str, port: int, family: int) -> "asyncio.Future[Any]":
        """Return the lookup of a name, which all who ask for it at the same time share.

        Each has a thread of its own: a pool's would all be taken by as many names whose servers don't answer.

        Raises:
            OSError: too many lookups hang.
        """
        under_way = await self._under_way.get()
        key = (host, port, family)
        if key not in under_way:
            if len(under_way) >= _MOST_LOOKUPS:
                raise socket.gaierror(socket.EAI_AGAIN, f"{len(under_way)} names are being looked up already")
            lookup = functools.partial(self._lookup, host, port, family=family, type=socket.SOCK_STREAM)
            under_way[key] = _run_in_thread(lookup)
            under_way[key].add_done_callback(lambda future: (under_way.pop(key), future.exception()))
        return under_way[key]

    def require_allowed(self, host: str, address: str) -> None:
        """
        Raises:
            ForbiddenAddressError: the address may not be connected to.
        """
        if not self.is_allowed(address):
            raise ForbiddenAddressError(f"{host} is at {address}, which is not a public address")

    def open_socket(self, address_info: tuple[Any, ...]) -> socket.socket:
        """Make the socket for a connection: aiohttp's last step before it connects, numeric hosts included."""
        family, kind, protocol, _, address = address_info
        self.require_allowed(str(address[0]), str(address[0]))
        return socket.socket(family, kind, protocol)


class GuardedResolver(AbstractResolver):
    """aiohttp's resolver interface over a guard."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return await self._guard.lookup(host, port, family)

    async def close(self) -> None:
        pass


def _embedded_ipv4(ip: Address) -> Address:
    """Return the IPv4 address that an IPv6 address carries, if it does."""
    if not isinstance(ip, ipaddress.IPv6Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip in _TRANSLATED:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip in _6TO4:
        return ipaddress.IPv4Address((int(ip) >> 80) & 0xFFFFFFFF)
    return ip


def _is_public(ip: Address) -> bool:
    # Not by `is_global`: what it covers has changed from one Python to the next.
    if ip.version == 6 and ip not in _GLOBAL_UNICAST:
        return False
    return not any(ip in network for network in _CLOSED if network.version == ip.version)


def _run_in_thread(call: Callable[[], Any]) -> "asyncio.Future[Any]":
    """Return what will be the result of `call`. The thread is a daemon: one that hangs must not keep the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def give(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(give, result, error)

    threading.Thread(target=run, name="arpo-dns", daemon=True).start()
    return future


def _is_own(address: str) -> bool:
    """Tell whether the address is this machine's own: a public one would lead to services that trust the machine."""
    return not _binds_anything() and _can_bind(address)


@functools.lru_cache(maxsize=1)
def _binds_anything() -> bool:
    # With net.ipv4.ip_nonlocal_bind every address looks like one's own. 192.0.2.1 belongs to no machine.
    return _can_bind("192.0.2.1")


def _can_bind(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
