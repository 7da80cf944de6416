"""A process that checks Ed25519 signatures and does nothing else: `python -m federation.verify_worker`.

On stdin: 4 bytes of length (big endian), then that many bytes of `items`. On stdout: a byte for each item, 1 where the
signature holds. It ends when stdin does, so it never outlives who started it.
"""

import signal
import sys
from collections.abc import Iterable, Iterator

from federation.identity import KEY_BYTES, verify

SIGNATURE_BYTES = 64
HEAD_BYTES = 4

Item = tuple[bytes, bytes, bytes]  # public key, what was signed, signature


def pack(items: Iterable[Item]) -> bytes:
    """A request: each item as the length of what was signed (4 bytes), the key, the signature, what was signed."""
    parts: list[bytes] = []
    for public, signed, signature in items:
        parts += (len(signed).to_bytes(HEAD_BYTES, "big"), public, signature, signed)
    body = b"".join(parts)
    return len(body).to_bytes(HEAD_BYTES, "big") + body


def unpack(body: bytes) -> Iterator[Item]:
    """The items of a request, without its own length."""
    at = 0
    while at < len(body):
        key = at + HEAD_BYTES
        signature = key + KEY_BYTES
        signed = signature + SIGNATURE_BYTES
        end = signed + int.from_bytes(body[at:key], "big")
        yield body[key:signature], body[signed:end], body[signature:signed]
        at = end


def main() -> None:
    """Answers until stdin ends. Ctrl-C in a terminal is for the node, which closes stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while len(head := requests.read(HEAD_BYTES)) == HEAD_BYTES:
        body = requests.read(int.from_bytes(head, "big"))
        answers.write(bytes(verify(*item) for item in unpack(body)))
        answers.flush()


if __name__ == "__main__":
    main()
