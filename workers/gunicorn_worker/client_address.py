"""What counts as one client, by its address."""

from __future__ import annotations

import ipaddress


def address_of(client: object) -> str:
    """What counts as one client: an IPv4 address, an IPv6 network of 64 bits; "" for a Unix socket."""
    host = client[0] if isinstance(client, tuple) else ""
    if ":" not in host:
        return str(host)
    address = ipaddress.IPv6Address(host.partition("%")[0])
    return str(address.ipv4_mapped or ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
