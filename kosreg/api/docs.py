"""`/docs`: a page to try the API, with nothing from other hosts.

The page runs under a policy that admits scripts, styles and calls of this origin alone (`CSP`), so that neither a
record's text nor a mistake in the bundle can load or send anything elsewhere. The files lie compressed in `static/`
and are sent so; a client that takes no gzip gets them unpacked.
"""

from __future__ import annotations

import gzip
from importlib.resources import files
from typing import Final

from kosreg.api.http import Call, Reply
from kosreg.problems import Problem

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
HTML: Final = "text/html; charset=utf-8"
JAVASCRIPT: Final = "text/javascript; charset=utf-8"
CSS: Final = "text/css; charset=utf-8"
TEXT: Final = "text/plain; charset=utf-8"

ASSETS: Final = {
    "docs.js": ("docs.js", JAVASCRIPT),
    "swagger-ui-bundle.js": ("swagger-ui-bundle.js.gz", JAVASCRIPT),
    "swagger-ui.css": ("swagger-ui.css.gz", CSS),
    "LICENSE": ("LICENSE.swagger-ui", TEXT),
    "LICENSE-bundle": ("LICENSE.swagger-ui-bundle.txt", TEXT),
}
"""By the name in the URL: the file, and what it is. Nothing else of the directory can be asked for."""


def _read(name: str) -> bytes:
    return (files("kosreg.api") / "static" / name).read_bytes()


async def page(_call: Call) -> Reply:
    """The page itself."""
    return Reply(200, _read("docs.html"), _HEADERS, content_type=HTML)


async def asset(call: Call) -> Reply:
    """One of `ASSETS`."""
    found = ASSETS.get(call.params["file"])
    if found is None:
        raise Problem.of("not-found", "There is no such file. /docs is the page.")
    name, content_type = found
    body = _read(name)
    headers = _HEADERS
    if name.endswith(".gz"):
        headers = {**_HEADERS, "Vary": "Accept-Encoding"}
        if _takes_gzip(call.headers.get("Accept-Encoding", "")):
            headers["Content-Encoding"] = "gzip"
        else:
            body = gzip.decompress(body)
    return Reply(200, body, headers, content_type=content_type)


def _takes_gzip(accept: str) -> bool:
    for part in accept.lower().split(","):
        name, _, quality = part.partition(";")
        if name.strip() in ("gzip", "*"):
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
