"""What Hypothesis makes for the properties: values that may stand in a body, facts, entries of several origins."""

from hypothesis import strategies as st

from crdt.cbor import INT_MAX, INT_MIN
from crdt.entry import KINDS, Class, Entry, Fact
from federation.cose import sign_entry
from federation.identity import NodeKey

KEYS = tuple(NodeKey(bytes([number]) * 32) for number in (1, 2, 3))
OWN = KEYS[0]
ROOTS = (b"\x11" * 32, b"\x22" * 32)

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(INT_MIN, INT_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
    | st.binary(max_size=40)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5), max_leaves=20
)
bodies = st.dictionaries(text, values, max_size=6)
names = st.sampled_from(["", "a", "b", "weather-1", "ünïcödé"])
kinds = st.sampled_from(sorted(KINDS))


@st.composite
def classes(draw: st.DrawFn) -> tuple[Class, bytes | None]:
    cls = draw(st.sampled_from(Class))
    return cls, draw(st.sampled_from((None, *ROOTS))) if cls is Class.INTERNAL else None


@st.composite
def facts(draw: st.DrawFn) -> Fact:
    """Facts of any content that may be signed."""
    cls, root = draw(classes())
    return Fact(
        kind=draw(st.one_of(kinds, text)),
        name=draw(st.one_of(names, text)),
        stamp=draw(st.integers(0, INT_MAX)),
        cls=cls,
        valid_until=draw(st.integers(0, INT_MAX)),
        body=draw(st.none() | bodies),
        root=root,
        extra=draw(st.just({}) | st.dictionaries(st.integers(8, INT_MAX), values, max_size=3)),
    )


@st.composite
def crowded_entries(draw: st.DrawFn) -> Entry:
    """Entries that meet each other: few origins, names, classes, stamps and bodies. Times are 0 to 9."""
    cls, root = draw(st.sampled_from(((Class.PRIVATE, None), (Class.PUBLIC, None), (Class.INTERNAL, ROOTS[0]))))
    few = st.integers(0, 9)
    fact = Fact(
        kind=draw(st.sampled_from(("service", "status"))),
        name=draw(st.sampled_from("ab")),
        stamp=draw(few),
        cls=cls,
        valid_until=draw(few),
        body=draw(st.sampled_from((None, {"v": 1}, {"v": 2}))),
        root=root,
    )
    return sign_entry(draw(st.sampled_from(KEYS[:2])), fact)
