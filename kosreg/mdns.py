"""Multicast DNS (RFC 6762, RFC 6763) as this node speaks it: one service of its own, and a question for the others.

The library (python-zeroconf) speaks the protocol. An announcement is one packet: a PTR record with the SRV, TXT and
address records that belong to it. What a packet brought leaves the library's cache at once, but for the PTR records of
whom is kept: by these it knows a goodbye. So a flood fills nothing. Importing the library takes 60 ms: `kosreg.nearby`
imports this file where it is wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from typing import Final, Protocol, cast

import ifaddr
from zeroconf import (
    DNSAddress,
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSRecord,
    DNSService,
    DNSText,
    IPVersion,
    RecordUpdate,
    RecordUpdateListener,
    ServiceInfo,
    Zeroconf,
)
from zeroconf.asyncio import AsyncZeroconf

from kosreg.neighbours import Network

SERVICE: Final = "_kosreg._tcp.local."
VERSION: Final = "1"  # of what the TXT record says
TTL_S: Final = 120  # a node that vanished is forgotten after so long
MAX_OF_PACKET: Final = 16  # announcements
_QUERY: Final = 0x0000  # flags (RFC 6762 §18.2)
_PTR: Final = 12  # RFC 1035 §3.2.2
_IN: Final = 1  # RFC 1035 §3.2.4


@dataclass(frozen=True, slots=True)
class Here:
    """Where this machine is. `speak`: the IPv4 addresses of the interfaces that others come in by; `hosts`: the
    addresses that they come to; `networks`: those of these interfaces."""

    speak: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()


def look_around(bound: Sequence[str]) -> Here:
    """`bound`: the addresses that the listening sockets have."""
    wanted = [ip_address(host.partition("%")[0]) for host in bound]
    speak: list[str] = []
    hosts: list[str] = []
    networks: list[Network] = []
    for adapter in ifaddr.get_adapters():
        here = [ip_interface(f"{ip.ip if ip.is_IPv4 else ip.ip[0]}/{ip.network_prefix}") for ip in adapter.ips]
        here = [one for one in here if not one.is_loopback and not (one.version == 6 and one.is_link_local)]
        reached = [
            str(one.ip)
            for one in here
            if any(one.version == host.version and (host.is_unspecified or one.ip == host) for host in wanted)
        ]
        if reached:
            hosts += reached
            speak += [str(one.ip) for one in here if one.version == 4]
            networks += [one.network for one in here]
    return Here(tuple(speak), tuple(hosts), tuple(networks))


class Ear(Protocol):
    """What is told of others."""

    def said(self, instance: str, port: int, txt: bytes, hosts: Sequence[bytes], life_s: int) -> bool:
        """An announcement. Whether it is kept."""

    def gone(self, instance: str) -> None:
        """It said goodbye, or was not heard for long."""


class Mdns(RecordUpdateListener):
    """Made by `open`, ended by `close`."""

    def __init__(self, zeroconf: AsyncZeroconf, ear: Ear) -> None:
        self._zeroconf = zeroconf
        self._cache = zeroconf.zeroconf.cache
        self._ear = ear
        self._kept: set[str] = set()  # names of those whose PTR records stay in the cache
        self._packet: list[DNSRecord] = []

    @classmethod
    async def open(cls, here: Here, instance: str, server: str, port: int, did: str, ear: Ear) -> Mdns:
        """Announces this node, and hears. `server`: the label of its host name. Raises OSError, and what the library
        raises."""
        logging.getLogger("zeroconf").setLevel(logging.CRITICAL)  # it warns of others' packets, at their pace
        zeroconf = AsyncZeroconf(list(here.speak), ip_version=IPVersion.V4Only)
        mdns = cls(zeroconf, ear)
        try:
            await zeroconf.zeroconf.async_wait_for_start()
            if not zeroconf.zeroconf.engine.senders:
                raise OSError(f"no socket can be had on {', '.join(here.speak)}")
            zeroconf.zeroconf.async_add_listener(mdns, None)
            info = ServiceInfo(
                SERVICE,
                f"{instance}.{SERVICE}",
                port=port,
                server=f"{server}.local.",
                addresses=[ip_address(host).packed for host in here.hosts],
                properties={"did": did, "v": VERSION},
                host_ttl=TTL_S,
                other_ttl=TTL_S,
            )
            # Its name holds a fingerprint: nobody need be asked whether it is free.
            await zeroconf.async_register_service(info, cooperating_responders=True)
        except BaseException:
            await mdns.close()
            raise
        return mdns

    async def close(self) -> None:
        """Says goodbye: some 250 ms."""
        await self._zeroconf.async_close()

    def ask(self) -> None:
        """Have all others announce themselves, to everybody."""
        question = DNSOutgoing(_QUERY)
        question.add_question(DNSQuestion(SERVICE, _PTR, _IN))
        self._zeroconf.zeroconf.async_send(question)

    def forget_all_but(self, instances: set[str]) -> None:
        """Of others these are kept."""
        self._kept &= {f"{instance}.{SERVICE}" for instance in instances}
        self._forget(self._cache.async_entries_with_name(SERVICE))

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """For the library: what one packet brought, before it is in the cache."""
        self._packet = [update.new for update in records]
        told = [one for one in self._packet if isinstance(one, DNSPointer) and one.key == SERVICE][:MAX_OF_PACKET]
        if not told:
            return
        services = {one.key: one for one in self._packet if isinstance(one, DNSService)}
        texts = {one.key: one for one in self._packet if isinstance(one, DNSText)}
        hosts = [one for one in self._packet if isinstance(one, DNSAddress)]
        for pointer in told:
            name = pointer.alias
            if not name.endswith(f".{SERVICE}"):
                continue
            instance = name[: -len(SERVICE) - 1]
            if pointer.is_expired(now):
                self._kept.discard(name)
                self._ear.gone(instance)
                continue
            service, text = services.get(name.lower()), texts.get(name.lower())
            if service is None or text is None:
                continue
            at = [one.address for one in hosts if one.key == service.server_key]
            if self._ear.said(instance, service.port, text.text, at, int(service.ttl)):
                self._kept.add(name)
            else:
                self._kept.discard(name)

    def async_update_records_complete(self) -> None:
        """For the library: now it is in the cache."""
        packet, self._packet = self._packet, []
        self._forget(packet)

    def _forget(self, records: Sequence[DNSRecord]) -> None:
        for record in records:
            if isinstance(record, DNSPointer) and record.key == SERVICE and record.alias in self._kept:
                continue
            if (held := self._cache.async_get_unique(cast(DNSPointer, record))) is not None:
                self._cache.async_remove_records([held])
