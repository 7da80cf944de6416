"""What else there may be on a network of nodes, as a process: `python -m tests.federation.lan WHAT …`. It prints
`ready`, and then does

    flood HOST N S  say N announcements that live for S s, of as many nodes
    ask HOST N      ask N times who is there, and print how many packets others sent meanwhile
    hold            have port 5353 for itself, until it is ended
"""

from __future__ import annotations

import select
import socket
import sys
import time

from zeroconf import DNSAddress, DNSOutgoing, DNSPointer, DNSQuestion, DNSService, DNSText

from federation.identity import NodeKey

GROUP = "224.0.0.251"
PORT = 5353
SERVICE = "_kosreg._tcp.local."
QUERY, RESPONSE = 0, 0x8400
A, PTR, TXT, SRV, IN = 1, 12, 16, 33, 1


def member(host: str) -> socket.socket:
    """A socket in the group."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("", PORT))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + socket.inet_aton(host))
    return sock


def announcement(number: int, life: int) -> bytes:
    """Of a node with a key of its own, at one of 200 hosts, with more to say than we read, in every second one."""
    name, server = f"flood-{number}.{SERVICE}", f"flood-{number}.local."
    did = f"did={NodeKey.generate().did}".encode()
    text = bytes([len(did)]) + did
    if number % 2:
        text += b"".join(b"\xff" + b"x" * 255 for _ in range(4))
    out = DNSOutgoing(RESPONSE)
    out.add_answer_at_time(DNSPointer(SERVICE, PTR, IN, 86400, name), 0)
    out.add_answer_at_time(DNSService(name, SRV, IN, life, 0, 0, 7481, server), 0)
    out.add_answer_at_time(DNSText(name, TXT, IN, 86400, text), 0)
    out.add_answer_at_time(DNSAddress(server, A, IN, 86400, bytes([10, 77, 0, 50 + number % 200])), 0)
    (packet,) = out.packets()
    return packet


def flood(host: str, count: int, life: int) -> None:
    packets = [announcement(number, life) for number in range(count)]
    sock = member(host)
    print("ready", flush=True)
    for packet in packets:
        sock.sendto(packet, (GROUP, PORT))
        time.sleep(0.0002)


def ask(host: str, times: int) -> None:
    sock = member(host)
    print("ready", flush=True)
    spoke = 0
    question = DNSOutgoing(QUERY)
    question.add_question(DNSQuestion(SERVICE, PTR, IN))
    (packet,) = question.packets()
    for _ in range(times):
        sock.sendto(packet, (GROUP, PORT))
        end = time.monotonic() + 0.4  # who answers does so within 0.12 s (RFC 6762 §6)
        while (left := end - time.monotonic()) > 0 and select.select([sock], [], [], left)[0]:
            spoke += sock.recv(9000) != packet
    print(spoke, flush=True)


def hold() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", PORT))
    print("ready", flush=True)
    sys.stdin.read()
    sock.close()


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "hold":
        hold()
    else:
        {"flood": flood, "ask": ask}[what](words[0], *map(int, words[1:]))
