"""Which addresses the page browser may connect to: public ones, checked at the moment of the connection.

A name is looked up once; what was checked is what is connected to, so a name that changes its address in between gains
nothing. Every spelling of an address (decimal, octal, IPv6 that carries IPv4) ends in the same check.

What is not covered: any port of a public host may be asked, and a host that forwards into a private network is public.
"""

import asyncio
import functools
import ipaddress
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Lookup = Callable[..., Sequence[tuple[Any, ...]]]

_CLOSED = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; 100.100.100.200 serves metadata in Alibaba's cloud
        "168.63.129.16/32",  # public in form, but Azure's own service inside every machine
        "192.0.0.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "198.18.0.0/15",
        "240.0.0.0/4",
        "::/96",  # IPv4 in the deprecated compatible form, :: and ::1
        "64:ff9b:1::/48",  # translation inside a network
        "100::/64",
        "2001::/23",  # Teredo and other special purposes
        "fc00::/7",
        "fec0::/10",
    )
]
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
_6TO4 = ipaddress.ip_network("2002::/16")
_LOOKUP_THREADS = 16
"""A lookup that hangs keeps its thread; the loop's own threads are needed by other tools."""


class ForbiddenAddressError(OSError):
    """The address is not public."""


class AddressGuard:
    """Decides, resolves and opens sockets for one browser."""

    def __init__(self, allowed: Sequence[str] = (), lookup: Lookup = socket.getaddrinfo) -> None:
        """
        Args:
            allowed: networks that may be reached although they are not public, such as `10.1.0.0/16`.
            lookup: `socket.getaddrinfo` or what stands for it.

        Raises:
            ValueError: an entry of `allowed` is no network.
        """
        self._allowed: list[Network] = [ipaddress.ip_network(network) for network in allowed]
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="arpo-dns")

    def is_allowed(self, address: str) -> bool:
        """Tell whether a numeric address may be connected to."""
        try:
            ip = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
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
        """
        lookup = functools.partial(self._lookup, host, port, family=family, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, lookup)
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


def _unwrapped(ip: Address) -> Address:
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
    # Not `is_global` alone: what it covers has changed from one Python to the next.
    is_special = ip.is_private or ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_reserved
    is_closed = any(ip in network for network in _CLOSED if network.version == ip.version)
    return ip.is_global and not is_special and not ip.is_unspecified and not is_closed


def _is_own(address: str) -> bool:
    """Tell whether the address is this machine's own: a public one would lead to services that trust the machine."""
    return not _binds_anything() and _can_bind(address)


@functools.lru_cache(maxsize=1)
def _binds_anything() -> bool:
    # With net.ipv4.ip_nonlocal_bind every address looks like one's own. 192.0.2.1 is nobody's.
    return _can_bind("192.0.2.1")


def _can_bind(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
