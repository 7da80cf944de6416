"""federation.broadcast: what was announced and is waited for, bounded for each peer by itself."""

from __future__ import annotations

from federation.broadcast import MAX_MISSING, PATIENCE_MS, RETRY_MS, Broadcast

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
NOW = 1_764_000_000_000


def ids(first: int, count: int) -> list[bytes]:
    return [number.to_bytes(32, "big") for number in range(first, first + count)]


def unknown(_identity: bytes) -> bool:
    return False


def test_a_peer_that_announces_without_end_takes_no_room_from_others() -> None:
    broadcast = Broadcast()
    broadcast.announced(A, ids(0, 3 * MAX_MISSING), unknown, NOW)
    honest = ids(10 * MAX_MISSING, 3)
    broadcast.announced(B, honest, unknown, NOW)
    asked = broadcast.overdue(NOW + PATIENCE_MS)
    assert asked[B] == honest
    assert len(asked[A]) == MAX_MISSING


def test_what_one_peer_has_no_room_for_is_waited_for_where_another_announces_it() -> None:
    broadcast = Broadcast()
    broadcast.announced(A, ids(0, MAX_MISSING), unknown, NOW)
    news = ids(10 * MAX_MISSING, 1)
    broadcast.announced(A, news + ids(0, 1), unknown, NOW)
    broadcast.announced(B, news, unknown, NOW)
    assert broadcast.overdue(NOW + PATIENCE_MS)[B] == news


def test_room_comes_back_with_what_came_and_with_what_is_given_up() -> None:
    broadcast = Broadcast()
    broadcast.announced(A, ids(0, MAX_MISSING), unknown, NOW)
    for identity in ids(0, 10):
        broadcast.came(identity)
        broadcast.came(identity)
    broadcast.announced(A, ids(MAX_MISSING, 20), unknown, NOW)
    assert len(broadcast.overdue(NOW + PATIENCE_MS)[A]) == MAX_MISSING
    assert broadcast.overdue(NOW + PATIENCE_MS + RETRY_MS) == {}, "all that announced them were asked"
    broadcast.announced(A, ids(0, MAX_MISSING + 1), unknown, NOW)
    assert len(broadcast.overdue(NOW + PATIENCE_MS)[A]) == MAX_MISSING


def test_what_a_peer_that_is_gone_announced_counts_as_the_next_ones() -> None:
    broadcast = Broadcast()
    shared, alone = ids(0, 5), ids(100, 5)
    broadcast.announced(A, shared + alone, unknown, NOW)
    broadcast.announced(B, shared, unknown, NOW)
    broadcast.closed(A)
    broadcast.announced(B, ids(1000, MAX_MISSING), unknown, NOW)
    broadcast.announced(C, alone, unknown, NOW)
    asked = broadcast.overdue(NOW + PATIENCE_MS)
    assert asked[B][:5] == shared
    assert len(asked[B]) == MAX_MISSING
    assert asked[C] == alone
    broadcast.closed(B)
    broadcast.closed(C)
    broadcast.announced(A, ids(0, 2 * MAX_MISSING), unknown, NOW)
    assert len(broadcast.overdue(NOW + PATIENCE_MS)[A]) == MAX_MISSING
