"""The tree of paths."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kosreg.api.router import MAX_SEGMENTS, Router


@dataclass(frozen=True)
class R:
    method: str
    path: str


TABLE = [
    R("POST", "/api/services/register"),
    R("GET", "/api/services"),
    R("GET", "/api/services/{id}"),
    R("DELETE", "/api/services/{id}"),
    R("POST", "/api/services/{id}/heartbeat"),
    R("GET", "/api/nodes/{did}/jwks.json"),
    R("GET", "/docs"),
    R("GET", "/docs/{file}"),
]


@pytest.fixture
def router() -> Router[R]:
    return Router(TABLE)


@pytest.mark.parametrize(
    ("method", "path", "found", "values"),
    [
        ("GET", "/api/services", "/api/services", {}),
        ("GET", "/api/services/a", "/api/services/{id}", {"id": "a"}),
        ("POST", "/api/services/register", "/api/services/register", {}),
        ("POST", "/api/services/register/heartbeat", "/api/services/{id}/heartbeat", {"id": "register"}),
        ("GET", "/api/services/register", "/api/services/{id}", {"id": "register"}),
        ("HEAD", "/api/services/a", "/api/services/{id}", {"id": "a"}),
        ("HEAD", "/docs", "/docs", {}),
        ("HEAD", "/api/services/%41%2F", "/api/services/{id}", {"id": "A/"}),
        ("GET", "/api/nodes/kind%3Adid%3Aa%2Fb%2B%3D%23ed25519/jwks.json", "/api/nodes/{did}/jwks.json",
         {"did": "kind:did:a/b+=#ed25519"}),
        ("GET", "/api/services/%41", "/api/services/{id}", {"id": "A"}),
        ("GET", "/api/services/%", "/api/services/{id}", {"id": "%"}),
    ],
)  # fmt: skip
def test_a_path_finds_its_route(router: Router[R], method: str, path: str, found: str, values: dict[str, str]) -> None:
    route, got = router.find(method, path)
    assert route is not None
    assert (route.path, got) == (found, values)


@pytest.mark.parametrize(
    "path",
    ["/", "", "//", "/api/services/", "/api/services//heartbeat", "/api//services", "/API/services",
     "/api/services/a/b", "/docs/a/b", "api/services", "/api/services/../services", "*", "/api/services;x=1"],
)  # fmt: skip
def test_an_unknown_path_has_no_route_and_no_methods(router: Router[R], path: str) -> None:
    assert router.find("GET", path) == (None, {})
    assert router.allowed(path) == frozenset()


def test_a_path_of_many_segments_is_unknown(router: Router[R]) -> None:
    path = "/api/services" + "/x" * 100_000
    assert router.find("GET", path) == (None, {})
    assert len(path.split("/", MAX_SEGMENTS)) == MAX_SEGMENTS + 1


def test_the_methods_of_all_routes_of_a_path_are_allowed(router: Router[R]) -> None:
    assert router.find("PUT", "/api/services/register") == (None, {})
    assert router.allowed("/api/services/register") == {"POST", "GET", "HEAD", "DELETE", "OPTIONS"}
    assert router.allowed("/api/services/a/heartbeat") == {"POST", "OPTIONS"}


def test_two_routes_for_the_same_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two routes for GET /a"):
        Router([R("GET", "/a"), R("GET", "/a")])
    with pytest.raises(ValueError, match="starts with"):
        Router([R("GET", "a")])
