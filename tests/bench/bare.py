"""The yardstick: a bare aiohttp handler on uvloop that answers a record of 500 bytes to GET and reads a POST."""

from __future__ import annotations

import json
import sys

import uvloop
from aiohttp import web

BODY = json.dumps({"id": "svc-1", "name": "Service 1", "filler": "x" * 440}).encode()


async def get(request: web.Request) -> web.Response:
    return web.Response(body=BODY, content_type="application/json")


async def post(request: web.Request) -> web.Response:
    json.loads(await request.read())
    return web.Response(body=BODY, content_type="application/json", status=201)


def main() -> None:
    uvloop.install()
    app = web.Application()
    app.router.add_get("/bare", get)
    app.router.add_post("/bare", post)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()
