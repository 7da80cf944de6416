"""The page to try the API: nothing from elsewhere, and the policy that makes sure of it."""

from __future__ import annotations

import gzip
import re
from html.parser import HTMLParser
from importlib.resources import files

import aiohttp
import pytest

from kosreg.api import docs
from kosreg.node import Node

STATIC = files("kosreg.api") / "static"


async def fetch(node: Node, path: str, encoding: str = "gzip") -> tuple[int, bytes, dict[str, str]]:
    """The bytes as they were sent."""
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(node.server.url + path, headers={"Accept-Encoding": encoding}) as answer,
    ):
        return answer.status, await answer.read(), dict(answer.headers)


class Page(HTMLParser):
    """What the page loads, and whether anything is inline."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        for name, value in attrs:
            if name in ("src", "href") and value is not None:
                self.loads.append(value)
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style") and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


async def test_the_page_loads_only_what_the_node_serves(node: Node) -> None:
    status, body, headers = await fetch(node, "/docs")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    page = Page()
    page.feed(body.decode())
    assert not page.inline
    for path in page.loads:
        if path != "data:,":
            assert path.startswith("/docs/")
            assert (await fetch(node, path))[0] == 200


async def test_the_policy_admits_this_origin_alone(node: Node) -> None:
    for path in ("/docs", "/docs/docs.js", "/docs/swagger-ui.css"):
        _, _, headers = await fetch(node, path)
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' data:",
            "connect-src": "'self'",
            "frame-ancestors": "'none'",
            "base-uri": "'none'",
            "form-action": "'none'",
        }
        assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("name", list(docs.ASSETS))
async def test_every_file_comes_packed_or_not_as_asked(node: Node, name: str) -> None:
    status, packed, headers = await fetch(node, f"/docs/{name}")
    assert (status, headers["Content-Type"]) == (200, docs.ASSETS[name][1])
    plain_status, plain, plain_headers = await fetch(node, f"/docs/{name}", "identity")
    assert (plain_status, "Content-Encoding" in plain_headers) == (200, False)
    if docs.ASSETS[name][0].endswith(".gz"):
        assert (headers["Content-Encoding"], headers["Vary"]) == ("gzip", "Accept-Encoding")
        assert gzip.decompress(packed) == plain
        assert (await fetch(node, f"/docs/{name}", "br, gzip;q=0"))[1] == plain
    else:
        assert packed == plain


@pytest.mark.parametrize("name", ["README.md", "renew.sh", "..%2Fhttp.py", "%2Fetc%2Fpasswd", "docs.html", ""])
async def test_nothing_else_of_the_directory_can_be_read(node: Node, name: str) -> None:
    assert (await fetch(node, f"/docs/{name}"))[0] == 404


def test_the_start_asks_nobody_outside() -> None:
    start = (STATIC / "docs.js").read_text()
    assert "validatorUrl: null" in start
    assert not re.findall(r"https?://", start + (STATIC / "docs.html").read_text())


def test_the_licences_are_shipped() -> None:
    for name in ("LICENSE.swagger-ui", "NOTICE.swagger-ui", "LICENSE.swagger-ui-bundle.txt"):
        assert (STATIC / name).is_file()
    assert "Apache License" in (STATIC / "LICENSE.swagger-ui").read_text()
    assert re.fullmatch(r"5\.\d+\.\d+\n", (STATIC / "VERSION.swagger-ui").read_text())


def test_what_is_shipped_has_no_pointer_to_what_is_not() -> None:
    for name in ("swagger-ui-bundle.js.gz", "swagger-ui.css.gz"):
        assert b"sourceMappingURL=swagger" not in gzip.decompress((STATIC / name).read_bytes())
