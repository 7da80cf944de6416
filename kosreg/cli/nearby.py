"""`kosreg peers nearby`: who says that it is on the local network, and the command that trusts it."""

from __future__ import annotations

import json

from kosreg.cli.peers import app
from kosreg.cli.shared import Cli, clean, command

WHY = {
    "off": "mDNS is off (federation.mdns, or federation.listen = off): nobody is looked for",
    "loopback": "nobody is looked for: this node listens for peers on loopback alone (federation.listen)",
    "no network": "nobody is looked for: this machine has no IPv4 address beside loopback",
    "failed": "mDNS does not work",
    "on": "no other node is heard on the local network",
}


@command(app, "nearby", example=["kosreg peers nearby", "kosreg peers nearby --json | jq -r '.nearby[].did'"])
def nearby(cli: Cli) -> None:
    """Lists the nodes that are heard on the local network (mDNS), and below them the commands that trust those that
    are not trusted. Anybody can say anything there: compare the fingerprint with the other node's `kosreg peers list`
    first."""
    body = cli.run(_ask(cli))
    if cli.json:
        cli.answer(body)
        return
    from kosreg.cli.show import ago, table

    told = json.loads(body)
    found = told["nearby"]
    if not found:
        cli.note(clean(f"{WHY[told['mdns']]}: {told['error']}" if told["error"] else WHY[told["mdns"]]))
        return
    table(
        ["NAME", "FINGERPRINT", "TRUST", "HEARD", "ADDRESSES", "DID"],
        (
            [one["name"], one["fingerprint"], one["trust"], ago(one["heard"]), ", ".join(one["addresses"]), one["did"]]
            for one in found
        ),
        optional=("DID", "ADDRESSES"),
    )
    if commands := [one["command"] for one in found if "command" in one]:
        cli.note("compare the fingerprint, then:")
        for line in commands:
            cli.answer(clean(line))
    if told["passed_by"]:
        cli.note(f"{told['passed_by']} announcements were passed by: there was no room for more")


async def _ask(cli: Cli) -> bytes:
    async with cli.client() as client:
        return (await client.call("GET", "/api/peers/nearby")).body
