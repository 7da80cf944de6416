"""The independent COSE library, pycose, as far as tests ask it for its opinion."""

import cbor2
from pycose.messages import Sign1Message


def read_by_pycose(raw: bytes) -> Sign1Message:
    """The message as pycose understands it.

    `Sign1Message.decode` of pycose 1.1 wants lists and dicts inside the tag, where cbor2 6 gives what cannot be
    changed, so the tag is taken off here. Header, payload, Sig_structure and signature are pycose's own business.
    """
    assert raw[0] == 0xC0 | 18, "tag 18: COSE_Sign1"
    return Sign1Message.from_cose_obj(cbor2.loads(raw[1:]), True)
