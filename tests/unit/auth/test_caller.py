"""Scopes: what they say, what they cover, what two of them share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosreg.auth.caller import (
    ADMIN_SCOPE,
    DEFAULT_SCOPES,
    MAX_SCOPES,
    Caller,
    Scope,
    ScopeError,
    covers,
    limited_to,
    parse_scopes,
    understood,
)


def caller(*scopes: str) -> Caller:
    parsed = parse_scopes(scopes)
    return Caller("bob", parsed, "jti", 1, "iss", b"", admin=any(scope.is_admin for scope in parsed))


def test_names_may_hold_colons() -> None:
    scope = Scope.parse("read:node:did:key:z6MkhaXg")

    assert scope == Scope("read", "node", "did:key:z6MkhaXg")
    assert str(scope) == "read:node:did:key:z6MkhaXg"


@pytest.mark.parametrize("text", [*DEFAULT_SCOPES, "read:node:*", "read:metrics:*", ADMIN_SCOPE])
def test_those_of_the_documentation_are_known(text: str) -> None:
    assert str(Scope.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "read", "read:service", "read::*", ":service:*", "read:service:", "::", "read:service: x"),
        *("fly:service:*", "read:moon:*", "write:node:*", "write:metrics:x", "execute:node:*"),
        *("admin:service:*", "admin:*:bob", "admin:*", "Admin:*:*", "adm*:*:*", "a*:*:*"),
        *("read:service:a*b", "read:ser*ice:*", "**:service:*", "read:service:**", "read:service:-x"),
        *("READ:service:*", "read:service:é", "read:service:a b", "read:service:" + "x" * 300, "read\n:service:*"),
    ],
)
def test_others_are_refused_with_a_text(text: str) -> None:
    with pytest.raises(ScopeError, match=r"scope|unknown"):
        Scope.parse(text)


def test_a_prefix_of_a_known_one_is_fine() -> None:
    assert caller("read:*:*").may("read", "metrics")
    assert caller("read:serv*:*").may("read", "service")
    assert not caller("read:serv*:*").may("read", "node")
    assert caller("*:service:*").may("execute", "service")


def test_a_service_agent_may_what_it_was_given_and_no_more() -> None:
    agent = caller("read:service:*", "write:service:chat-*", "execute:service:a:b")

    assert agent.may("read", "service")
    assert agent.may("read", "service", "anything")
    assert agent.may("write", "service")
    assert agent.may("write", "service", "chat-1")
    assert not agent.may("write", "service", "chat")
    assert not agent.may("write", "service", "other")
    assert agent.may("execute", "service", "a:b")
    assert not agent.may("execute", "service", "a:bc")
    assert not agent.may("read", "node")
    assert not agent.may("read", "metrics")
    assert not agent.may("admin", "token")
    assert not agent.admin


def test_names_are_none_for_all_and_patterns_otherwise() -> None:
    agent = caller("read:service:*", "read:service:x", "write:service:a", "write:service:b*")

    assert agent.names("read", "service") is None
    assert agent.names("write", "service") == frozenset({"a", "b*"})
    assert agent.names("execute", "service") == frozenset()
    assert covers(agent.names("write", "service"), "bob")
    assert not covers(agent.names("write", "service"), "ab")
    assert covers(None, "whatever")


def test_an_admin_may_everything() -> None:
    admin = caller(ADMIN_SCOPE)

    assert admin.may("write", "service", "x")
    assert admin.may("admin", "token")
    assert admin.names("read", "service") is None


@pytest.mark.parametrize("text", ["*:*:*", "*:service:*"])
def test_no_pattern_makes_an_admin(text: str) -> None:
    agent = caller(text)

    assert not agent.admin
    assert not agent.may("admin", "token")
    assert not agent.may("admin", "*")
    assert agent.may("write", "service", "x")


def test_each_scope_counts_once_and_there_is_a_bound() -> None:
    assert len(parse_scopes(["read:service:*"] * 100)) == 1
    with pytest.raises(ScopeError, match="at most 64"):
        parse_scopes([f"read:service:x{n}" for n in range(MAX_SCOPES + 1)])
    assert len(understood(f"read:service:x{n}" for n in range(1000))) == MAX_SCOPES


def test_foreign_scopes_are_passed_over() -> None:
    assert understood(["openid", "profile", "read:service:*", "write:vector:index"]) == parse_scopes(["read:service:*"])


@pytest.mark.parametrize(
    ("asked", "allowed", "left"),
    [
        (["read:service:*"], ["read:service:*"], ["read:service:*"]),
        (["read:service:*"], ["read:service:chat-*"], ["read:service:chat-*"]),
        (["read:service:chat-1"], ["read:service:chat-*"], ["read:service:chat-1"]),
        (["read:service:chat-*"], ["read:service:*"], ["read:service:chat-*"]),
        (["read:service:a*"], ["read:service:b*"], []),
        (["*:service:*"], ["read:service:*"], ["read:service:*"]),
        (["read:*:*"], ["read:service:*", "read:node:*"], ["read:service:*", "read:node:*"]),
        (["write:service:*"], ["read:service:*"], []),
        (["read:service:*"], [], []),
        ([ADMIN_SCOPE], ["read:service:*"], []),
        ([ADMIN_SCOPE], ["*:*:*"], []),
        ([ADMIN_SCOPE], [ADMIN_SCOPE], [ADMIN_SCOPE]),
        (["read:service:x"], [ADMIN_SCOPE], ["read:service:x"]),
        (["*:*:*"], [ADMIN_SCOPE], ["*:*:*"]),
    ],
)
def test_what_is_left_within_bounds(asked: list[str], allowed: list[str], left: list[str]) -> None:
    assert [str(scope) for scope in limited_to(parse_scopes(asked), parse_scopes(allowed))] == left


WORDS = st.sampled_from(["*", "r*", "read", "write", "wri*", "execute"])
RESOURCES = st.sampled_from(["*", "service", "ser*", "node", "n*", "metrics"])
NAMES = st.sampled_from(["*", "a", "a*", "ab", "ab*", "b", "abc", "did:key:z*"])
SCOPES = st.builds(Scope, WORDS, RESOURCES, NAMES)


@given(
    SCOPES, SCOPES, st.sampled_from(["read", "write", "execute", "admin"]), st.sampled_from(["service", "node"]), NAMES
)
def test_what_is_left_covers_exactly_what_both_cover(a: Scope, b: Scope, action: str, resource: str, name: str) -> None:
    name = name.rstrip("*") or "q"

    def reaches(scope: Scope) -> bool:
        return scope.reaches(action, resource) and covers(frozenset({scope.name}), name)

    both = a.narrowed(b)

    assert (both is not None and reaches(both)) == (reaches(a) and reaches(b))


@given(st.text(max_size=80))
def test_no_text_makes_parsing_fail_otherwise(text: str) -> None:
    try:
        scope = Scope.parse(text)
    except ScopeError:
        return
    assert Scope.parse(str(scope)) == scope
