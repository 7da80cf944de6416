"""A node of this version understands what every recorded version said, whichever side it is on."""

import json
from pathlib import Path
from typing import Any

import pytest

import kosreg
from federation.envelope import EnvelopeError, is_bare
from tests.vectors.conversations import record
from tests.vectors.conversations.party import Party
from tests.vectors.conversations.replay import FEATURE, OTHER, AsRecorded, OfALaterVersion, given, inner, replay

RECORDED = sorted(record.HERE.glob("*/*.json"))
CASES = [(path, side) for path in RECORDED for side in OTHER]
NAMES = [f"{path.parent.name} {path.stem}: this node is the {side}" for path, side in CASES]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def check_the_end(recording: dict[str, Any], side: str, node: Party) -> None:
    """It is as the node of then was, it gave what that gave, and it answered."""
    end = recording["end"][side]
    assert node.held() == end["held"]
    assert node.trusted() == end["anchors"]
    assert given(recording, side) <= node.gives, "the other side would have missed something"
    heard = [message["t"] for message in inner(recording, OTHER[side])]
    assert node.said["pong"] >= heard.count("ping")
    last = recording["events"][-1]
    assert (node.over is not None) is (last["from"] != side)


@pytest.mark.parametrize(("path", "side"), CASES, ids=NAMES)
class TestReplay:
    def test_all_of_it_is_understood(self, path: Path, side: str) -> None:
        recording = read(path)
        check_the_end(recording, side, replay(recording, side))

    def test_what_a_later_node_says_beyond_it_is_passed_by(self, path: Path, side: str) -> None:
        recording = read(path)
        node = replay(recording, side, OfALaterVersion(recording, OTHER[side]))
        assert node.session is not None
        assert FEATURE not in node.session.hello.features
        check_the_end(recording, side, node)


class Spoilt(AsRecorded):
    """Gets one bit of each signature wrong, but for those of the handshake."""

    frames = 0

    def says(self, socket: str, raw: bytes) -> list[bytes]:
        self.frames += 1
        return [raw if self.frames <= 2 or is_bare(raw) else raw[:-1] + bytes([raw[-1] ^ 1])]


def test_a_recording_with_one_other_bit_is_not_understood() -> None:
    recording = read(record.HERE / kosreg.__version__ / "peers.json")
    with pytest.raises(EnvelopeError, match="signature"):
        replay(recording, "client", Spoilt())


def test_this_version_is_recorded() -> None:
    files = {path.stem for path in RECORDED if path.parent.name == kosreg.__version__}
    assert files == set(record.CONVERSATIONS), "run `python -m tests.vectors.conversations`"


def test_all_that_peers_say_is_in_it() -> None:
    said = [
        message
        for path in RECORDED
        if path.parent.name == kosreg.__version__
        for side in OTHER
        for message in inner(read(path), side)
    ]
    assert {str(message["t"]) for message in said} == {
        "admits", "entries", "ihave", "want", "prune", "sync.round", "sync.end", "ping", "pong", "close", "compressed",
    }  # fmt: skip
    assert {message["graft"] for message in said if message["t"] == "want"} == {True, False}


def test_a_recording_is_made_the_same_each_time_and_never_over_another(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    record.write(first)
    for path in record.write(second):
        assert path.read_bytes() == (first / path.name).read_bytes()
    with pytest.raises(FileExistsError):
        record.write(first)
