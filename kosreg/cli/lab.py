"""`kosreg lab`: a federation of real nodes on this machine, to try things out on.

`run` is the lab itself, in the foreground; every other command tells a lab that runs what to do, from another terminal.
Both find each other by a directory, which is the same unless `--at` names another.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kosreg.cli.shared import Cli, Exit, Refusal, command, group, usage
from kosreg.durations import parse_duration

if TYPE_CHECKING:
    from kosreg.lab import Lab

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Run a federation of nodes on this machine, and hurt it."
)


ENDS = 30.0
"""Seconds that a lab may take to end its nodes."""


@group(app, example=["kosreg lab run 5 --shape ring", "kosreg lab cut n1 n2", "kosreg lab wait"])
def lab(cli: Cli) -> None:
    pass


At = Annotated[
    Path | None,
    typer.Option("--at", metavar="DIR", show_default=False, help="The lab's directory (one in the temporary files)."),
]
Node = Annotated[str, typer.Argument(metavar="NODE", show_default=False, help="A node's name: n1, n2, …")]
One = Annotated[str, typer.Argument(metavar="NODE", show_default=False, help="One end of the link.")]
Other = Annotated[str, typer.Argument(metavar="NODE", show_default=False, help="The other end.")]
Reset = Annotated[
    bool, typer.Option("--reset", help="Break what is connected as well; else it is as if a cable were pulled.")
]


def _place(at: Path | None) -> Path:
    return at.absolute() if at is not None else Path(tempfile.gettempdir()) / f"kosreg-lab-{os.geteuid()}"


@command(
    app,
    "run",
    example=[
        "kosreg lab run",
        "kosreg lab run 20 --shape random --degree 4",
        "kosreg lab run 2 --set liveness.reap_after=1h",
    ],
    talks=False,
)
def run(
    cli: Cli,
    nodes: Annotated[int, typer.Argument(metavar="[N]", min=1, max=64, help="How many nodes.")] = 3,
    shape: Annotated[str, typer.Option(metavar="SHAPE", help="mesh, ring, line, star or random.")] = "mesh",
    degree: Annotated[int, typer.Option(metavar="N", help="Neighbours of each node in a random graph.")] = 4,
    seed: Annotated[int, typer.Option(metavar="N", help="Which random graph.")] = 0,
    at: At = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the directory at the end.")] = False,
    network: Annotated[
        str, typer.Option(metavar="KIND", help="proxies; namespaces (needs root); or direct: no link can be hurt.")
    ] = "proxies",
    strangers: Annotated[bool, typer.Option("--strangers", help="Nodes that do not know each other.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="TABLE.KEY=VALUE", show_default=False, help="A setting of every node; repeat for more."
        ),
    ] = None,
) -> None:
    """Runs nodes in one federation until Ctrl-C, then ends them and removes all that they wrote."""
    from kosreg.lab import Lab, LabError
    from kosreg.lab.lab import NETWORKS
    from kosreg.lab.topology import SHAPES

    if shape not in SHAPES:
        usage(f"--shape: {shape!r} is none of {', '.join(SHAPES)}")
    if network not in NETWORKS:
        usage(f"--network: {network!r} is none of {', '.join(NETWORKS)}")
    chosen = {}
    for text in settings or ():
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[a-z_]+\.[a-z_]+", name):
            usage(f"--set: {text!r} is not TABLE.KEY=VALUE")
        chosen[name] = value
    options: dict[str, Any] = {"degree": degree, "seed": seed, "settings": chosen, "join": not strangers}
    options["network"] = network
    cli.note(f"starting {nodes} nodes …")
    try:
        made = Lab(nodes, shape, directory=_place(at), keep=keep, **options)  # type: ignore[arg-type]
        cli.run(_run(cli, made))
    except LabError as error:
        raise Refusal(str(error)) from None


async def _run(cli: Cli, made: Lab) -> None:
    import asyncio
    import signal

    from kosreg.lab.control import COMMANDS, Control

    async with made, Control(made) as control:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, control.ended.set)
        _show_nodes(cli, COMMANDS["nodes"](made))
        cli.note("Ctrl-C ends them; try in another terminal: kosreg lab cut n1 n2; kosreg lab differ; kosreg lab heal")
        await control.ended.wait()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        cli.note("ending")


# ---- What there is


@command(app, "nodes", example="kosreg lab nodes --json | jq -r '.[].api'", talks=False)
def nodes(cli: Cli, at: At = None) -> None:
    """Lists the nodes: state, API, the file with the admin's token, neighbours."""
    _show_nodes(cli, _do(at, "nodes"))


@command(app, "links", example="kosreg lab links", talks=False)
def links(cli: Cli, at: At = None) -> None:
    """Lists the links: what was done to them, and what passed."""
    found = _do(at, "links")
    if cli.json:
        cli.answer_json(found)
        return
    from kosreg.cli.show import table

    table(
        ["LINK", "STATE", "DELAY", "RATE", "CONNECTIONS", "BYTES THERE", "BYTES BACK"],
        (
            [
                f"{link['one']} - {link['other']}",
                _state_of(link),
                f"{link['delay'] * 1000:g} ms" if link["delay"] else "",
                f"{link['rate']:g} B/s" if link["rate"] else "",
                link["connections"],
                *link["passed"],
            ]
            for link in found
        ),
    )


def _state_of(link: dict[str, Any]) -> str:
    there, back = link["cut"]
    if there and back:
        return "cut"
    return f"cut from {link['one']}" if there else f"cut from {link['other']}" if back else "open"


def _show_nodes(cli: Cli, found: list[dict[str, Any]]) -> None:
    if cli.json:
        cli.answer_json(found)
        return
    from kosreg.cli.show import table

    table(
        ["NODE", "STATE", "API", "TOKEN FILE", "NEIGHBOURS"],
        ([row["name"], row["state"], row["api"], row["token_file"], " ".join(row["neighbours"])] for row in found),
        optional=("NEIGHBOURS",),
    )


# ---- Links


@command(app, "cut", example=["kosreg lab cut n1 n2", "kosreg lab cut n1 n2 --reset"], talks=False)
def cut(cli: Cli, one: One, other: Other, reset: Reset = False, at: At = None) -> None:
    """Cuts a link."""
    _do(at, "cut", one=one, other=other, how="reset" if reset else "silent")


@command(app, "split", example="kosreg lab split n1,n2 n3,n4", talks=False)
def split(
    cli: Cli,
    groups: Annotated[
        list[str], typer.Argument(metavar="NODE,NODE…", show_default=False, help="The nodes of one side; of the next.")
    ],
    reset: Reset = False,
    at: At = None,
) -> None:
    """Cuts all links between groups of nodes; who is in none is a group with the others in none."""
    _do(at, "split", groups=[group.split(",") for group in groups], how="reset" if reset else "silent")


@command(app, "heal", example=["kosreg lab heal", "kosreg lab heal n1 n2"], talks=False)
def heal(
    cli: Cli,
    one: Annotated[str | None, typer.Argument(metavar="[NODE", show_default=False, help="One end of a link.")] = None,
    other: Annotated[str | None, typer.Argument(metavar="NODE]", show_default=False, help="The other end.")] = None,
    at: At = None,
) -> None:
    """Heals a link, or all: no cut, no delay, no limit."""
    if (one is None) != (other is None):
        usage("a link has two ends; name both, or none for all links")
    _do(at, "heal", one=one, other=other)


@command(app, "delay", example="kosreg lab delay n1 n2 50ms", talks=False)
def delay(
    cli: Cli,
    one: One,
    other: Other,
    span: Annotated[str, typer.Argument(metavar="SPAN", show_default=False, help="One way: 50ms, 1s; 0 for none.")],
    at: At = None,
) -> None:
    """Makes each byte on a link come later."""
    _do(at, "delay", one=one, other=other, seconds=_seconds(span))


@command(app, "throttle", example=["kosreg lab throttle n1 n2 100k", "kosreg lab throttle n1 n2 any"], talks=False)
def throttle(
    cli: Cli,
    one: One,
    other: Other,
    rate: Annotated[
        str, typer.Argument(metavar="RATE", show_default=False, help="Bytes a second: 500, 100k, 2M; or any.")
    ],
    at: At = None,
) -> None:
    """Lets so many bytes a second pass on a link, each way."""
    match = re.fullmatch(r"(\d{1,9})([kM]?)", rate)
    if match is None and rate != "any":
        usage(f"{rate!r} is no rate; write bytes a second: 500, 100k, 2M, or any")
    size = int(match[1]) * {"": 1, "k": 1000, "M": 1_000_000}[match[2]] if match else None
    _do(at, "throttle", one=one, other=other, rate=size)


@command(app, "reset", example="kosreg lab reset n1 n2", talks=False)
def reset(cli: Cli, one: One, other: Other, at: At = None) -> None:
    """Breaks the connections of a link; new ones are taken."""
    _do(at, "reset", one=one, other=other)


@command(app, "half-open", example="kosreg lab half-open n1 n2 --keeps n1", talks=False)
def half_open(
    cli: Cli,
    one: One,
    other: Other,
    keeps: Annotated[
        str, typer.Option(metavar="NODE", show_default=False, help="Who is not told that the connection is gone.")
    ],
    at: At = None,
) -> None:
    """Breaks the connections of a link for one side alone."""
    _do(at, "half_open", one=one, other=other, keeps=keeps)


# ---- Nodes


@command(app, "start", example="kosreg lab start n2", talks=False)
def start(cli: Cli, node: Node, at: At = None) -> None:
    """Starts a node that is down."""
    _do(at, "start", node=node)


@command(app, "stop", example="kosreg lab stop n2", talks=False)
def stop(cli: Cli, node: Node, at: At = None) -> None:
    """Ends a node in good order."""
    _do(at, "stop", node=node)


@command(app, "kill", example="kosreg lab kill n2", talks=False)
def kill(cli: Cli, node: Node, at: At = None) -> None:
    """Kills a node (SIGKILL)."""
    _do(at, "kill", node=node)


@command(app, "restart", example="kosreg lab restart n2", talks=False)
def restart(cli: Cli, node: Node, at: At = None) -> None:
    """Ends a node in good order, and starts it again."""
    _do(at, "restart", node=node)


@command(app, "freeze", example="kosreg lab freeze n2", talks=False)
def freeze(cli: Cli, node: Node, at: At = None) -> None:
    """Stops a node's process without ending it (SIGSTOP)."""
    _do(at, "freeze", node=node)


@command(app, "thaw", example="kosreg lab thaw n2", talks=False)
def thaw(cli: Cli, node: Node, at: At = None) -> None:
    """Lets a frozen node go on."""
    _do(at, "thaw", node=node)


@command(app, "wipe", example=["kosreg lab wipe n2", "kosreg lab wipe n2 --everything"], talks=False)
def wipe(
    cli: Cli,
    node: Node,
    everything: Annotated[bool, typer.Option("--everything", help="Its key too: it comes back as a new node.")] = False,
    at: At = None,
) -> None:
    """Kills a node, removes its database, and starts it again."""
    _do(at, "wipe", node=node, everything=everything)


@command(
    app,
    "clock",
    example=["kosreg lab clock n2 1h", "kosreg lab clock n2 1h --late", "kosreg lab clock n2 0"],
    talks=False,
)
def clock(
    cli: Cli,
    node: Node,
    span: Annotated[
        str, typer.Argument(metavar="SPAN", show_default=False, help="How far it is ahead: 1h, 10y; 0: right.")
    ],
    late: Annotated[bool, typer.Option("--late", help="Behind instead of ahead.")] = False,
    at: At = None,
) -> None:
    """Sets a node's wall clock wrong, restarts included."""
    _do(at, "clock", node=node, seconds=-_seconds(span) if late else _seconds(span))


@command(
    app,
    "drop",
    example=["kosreg lab drop n1 --message entries", "kosreg lab drop n1 --to n2 --count 10"],
    talks=False,
)
def drop(
    cli: Cli,
    node: Node,
    message: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="entries, ihave, want, … (any).")
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="NODE", show_default=False, help="Only to this peer.")] = None,
    count: Annotated[int, typer.Option(metavar="N", min=0, help="How many; 0: all from now on.")] = 1,
    at: At = None,
) -> None:
    """Has a node lose the next messages that it sends, before they are encrypted."""
    _do(at, "drop", node=node, t=message, to=to, count=count or None)


@command(app, "keep", example="kosreg lab keep n1", talks=False)
def keep(cli: Cli, node: Node, at: At = None) -> None:
    """Has a node lose no more messages."""
    _do(at, "keep", node=node)


@command(app, "trace", example=["kosreg lab trace n1", "kosreg lab trace n1 --off"], talks=False)
def trace(
    cli: Cli, node: Node, off: Annotated[bool, typer.Option("--off", help="No more.")] = False, at: At = None
) -> None:
    """Has a node write down its messages as they are before encryption, into NODE.trace in the lab's directory."""
    _do(at, "trace", node=node, on=not off)
    if not off:
        cli.answer(str(_place(at) / f"{node}.trace"))


# ---- All


@command(app, "differ", example="kosreg lab differ", talks=False)
def differ(cli: Cli, at: At = None) -> None:
    """Prints who differs in what; exit code 1 where anybody does. Nodes that are down and cut links do not count."""
    found = _do(at, "differences")
    if cli.json:
        cli.answer_json(found)
    elif found:
        cli.answer("\n".join(found))
    else:
        cli.note("all nodes that reach each other hold the same")
    if found:
        raise typer.Exit(Exit.REFUSED)


@command(app, "wait", example="kosreg lab wait --within 1m", talks=False)
def wait(
    cli: Cli,
    within: Annotated[str, typer.Option(metavar="SPAN", help="How long at most, 5m at most.")] = "30s",
    at: At = None,
) -> None:
    """Waits until all nodes that reach each other hold the same; else says who differs in what."""
    seconds = _do(at, "converged", within=min(_seconds(within), 300.0))
    cli.answer_json({"seconds": seconds}) if cli.json else cli.note(f"they agree, after {seconds:.1f} s")


@command(app, "end", example="kosreg lab end", talks=False)
def end(cli: Cli, at: At = None) -> None:
    """Ends the lab, as Ctrl-C does, and waits until it is gone."""
    import time

    from kosreg.client.address import alive

    pid, until = int(_do(at, "end")), time.monotonic() + ENDS
    while alive(pid):
        if time.monotonic() > until:
            raise Refusal(f"the lab was told, but process {pid} has not ended within {ENDS:g} s")
        time.sleep(0.05)


def _do(at: Path | None, name: str, **arguments: object) -> Any:
    from kosreg.lab.asking import ask
    from kosreg.lab.errors import LabError

    try:
        return ask(_place(at), name, **arguments)
    except LabError as error:
        raise Refusal(str(error)) from None


def _seconds(text: str) -> float:
    if match := re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)ms", text):
        return float(match[1]) / 1000
    try:
        return float(parse_duration(text))
    except ValueError as error:
        usage(str(error))
