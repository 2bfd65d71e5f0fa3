"""What counts as one client, by its address."""

from __future__ import annotations

import functools
import ipaddress


@functools.lru_cache(maxsize=1024)
def network_of(host: str) -> str:
    """An IPv4 address as it is; of an IPv6 address its network of 64 bits, all of which one client may use."""
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    return str(address.ipv4_mapped or ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
