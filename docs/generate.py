"""Writes the tables of the documentation from the code: `make docs`, or `python -m docs.generate`.

A file of the documentation has places, `<!-- table: NAME -->` to `<!-- end -->`; what stands between them is made here,
from the same objects that the node works with. A test fails where a file is not what this writes, so whatever has a
route, a setting, a field, a metric, a log key, a problem or a command is documented, and nothing else is.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import typer
from pydantic import TypeAdapter

from crdt.entry import Class
from kosreg.api.http import Route
from kosreg.api.metrics import TABLE
from kosreg.api.openapi import answers_of, problems_of
from kosreg.api.system_routes import system_routes
from kosreg.auth.caller import ADMIN_SCOPE, DEFAULT_SCOPES, KNOWN
from kosreg.cli.filters import FILTER_PANEL
from kosreg.cli.main import app
from kosreg.cli.shared import SHARED
from kosreg.config import describe
from kosreg.federation_routes import federation_routes
from kosreg.log_keys import LOG_KEYS
from kosreg.peer_routes import peer_routes
from kosreg.problems import KINDS
from kosreg.query import FILTER_NAMES, PAGE_NAMES
from kosreg.record import body_of, said
from kosreg.schemas.meanings import MEANINGS
from kosreg.schemas.service_schema import PATTERN_TEXTS, READ_ONLY, ServiceIn
from kosreg.service_routes import ListQuery, service_routes
from kosreg.settings import Settings, tables

ROOT: Final = Path(__file__).parents[1]
FILES: Final = ("docs/agents.md", "docs/api.md", "docs/architecture.md", "docs/configuration.md")
_PLACE: Final = re.compile(r"(<!-- table: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rows(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    table = [tuple(headings), ("---",) * len(headings), *lines]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in table
    )


def code(*texts: str) -> str:
    return ", ".join(f"`{text}`" for text in texts)


# ---- HTTP


def all_routes() -> list[Route]:
    """The table that a node serves. A node is asked for its bounds alone, so this one is nothing but its defaults."""
    node: Any = SimpleNamespace(settings=Settings(data_dir=Path("/")))
    return [*service_routes(node), *peer_routes(node), *federation_routes(), *system_routes(node)]


def routes() -> str:
    return rows(
        ("route", "what it does", "token", "budget", "answers"),
        (
            (f"`{route.method} {route.path}`", route.summary, _guard(route), route.rate or "", _statuses(route))
            for route in all_routes()
        ),
    )


def _guard(route: Route) -> str:
    if route.kind == "websocket":
        return "see below"
    if route.scope is not None:
        return f"`{ADMIN_SCOPE}`" if route.scope[0] == "admin" else f"`{route.scope[0]}:{route.scope[1]}:…`"
    return {"token": "any", "optional": "shows more", "open": "none"}[route.auth]


def _statuses(route: Route) -> str:
    good = [101] if route.kind == "websocket" else [status for status, _ in answers_of(route)]
    bad = sorted({KINDS[slug].status for slug in problems_of(route)})
    return f"{', '.join(map(str, good))}; {', '.join(map(str, bad))}"


def problems() -> str:
    return rows(
        ("problem", "status", "title", "what to do, where the answer knows nothing better"),
        ((f"`{slug}`", str(kind.status), kind.title, kind.detail) for slug, kind in KINDS.items()),
    )


def scopes() -> str:
    lines = []
    for action, resources in KNOWN.items():
        for resource in sorted(resources):
            scope = f"{action}:{resource}:*"
            lines.append((f"`{scope}`", _SCOPES[scope], "yes" if scope in DEFAULT_SCOPES else ""))
    lines.append((f"`{ADMIN_SCOPE}`", "everything; it is never part of a pattern", ""))
    return rows(("scope", "allows", "in a token unless asked otherwise"), lines)


_SCOPES: Final = {
    "read:service:*": "to find, get, watch and verify services",
    "read:node:*": "`/api/node`, and the details of `/readyz`",
    "read:metrics:*": "`/metrics`",
    "write:service:*": "to register, change, beat for and remove what one owns",
    "execute:service:*": "to call services through the node. Not used in this release",
}


def metrics() -> str:
    shown = {"counter": "_total", "gauge": "", "histogram": "_bucket, _sum, _count"}
    return rows(
        ("metric", "kind", "labels", "what it tells"),
        (
            (code(*(doc.name + end for end in shown[doc.kind].split(", "))), doc.kind, code(*doc.labels), doc.help)
            for doc in TABLE
        ),
    )


def log_keys() -> str:
    return rows(("key", "meaning"), ((f"`{key}`", text) for key, text in LOG_KEYS.items()))


# ---- records and queries


def fields() -> str:
    schema = TypeAdapter(ServiceIn).json_schema()
    defaults = said("", Class.INTERNAL, body_of({"name": "", "type": "agent"}, "the token's subject"))
    lines = []
    for name, field in schema["properties"].items():
        if name in READ_ONLY:
            continue
        if name in schema["required"]:
            default = "**required**"
        elif name == "id":
            default = "a UUIDv7"
        elif name in ("owner", "protocol"):
            default = {"owner": "the token's subject", "protocol": "from `url`"}[name]
        elif name == "status":
            default = "`active`"
        else:
            default = _default(defaults.get(name))
        lines.append((f"`{name}`", _form(name, field, schema["$defs"]), default, MEANINGS[name]))
    return rows(("field", "form", "default", "meaning"), lines)


def read_only() -> str:
    return rows(("field", "meaning"), ((f"`{name}`", MEANINGS[name]) for name in READ_ONLY))


def _default(value: object) -> str:
    if value in (None, [], {}):
        return {"[]": "empty", "{}": "empty"}.get(str(value), "none")
    if isinstance(value, dict):
        return ", ".join(f"{name} `{item}`" for name, item in value.items())
    return f"`{value}`"


def _form(name: str, field: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "anyOf" in field:
        return _form(name, next(one for one in field["anyOf"] if one.get("type") != "null") | _bounds(field), parts)
    if "$ref" in field:
        inner = parts[field["$ref"].rpartition("/")[2]]
        return "object: " + code(*inner["properties"])
    if "enum" in field:
        return " ".join(f"`{value}`" for value in field["enum"])
    kind = field["type"]
    if kind == "array":
        return f"list of at most {field['maxItems']}: {_form(name, field['items'], parts)}"
    if kind == "object":
        return "object"
    if kind in ("integer", "number"):
        return f"{'whole number' if kind == 'integer' else 'number'}, {field['minimum']} to {field['maximum']:,}"
    text = PATTERN_TEXTS[name].removeprefix("must be ") if "pattern" in field and name in PATTERN_TEXTS else "text"
    most = field.get("maxLength")
    return f"{text}, {'1 to' if field.get('minLength') else 'at most'} {most} characters" if most else text


def _bounds(field: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in field.items() if key in ("maxItems", "maxLength")}


def queries() -> str:
    schema = TypeAdapter(ListQuery).json_schema()["properties"]
    lines = []
    for name in (*FILTER_NAMES, *PAGE_NAMES):
        field = schema[name]
        more = field.get("type") == "array"
        lines.append((f"`{name}`", "yes" if more else "", field["description"]))
    return rows(("name", "may be repeated", "asks for"), lines)


# ---- settings


def settings() -> str:
    parts = []
    for table, model in tables().items():
        lines = [
            (
                f"`{doc.name.removeprefix(f'{table}.')}`",
                f"`{doc.default}`" if " " not in doc.default and doc.default != "none" else doc.default,
                doc.unit,
                f"{doc.text} {doc.trade}".strip(),
            )
            for doc in describe()
            if doc.name.startswith(f"{table}.")
        ]
        about = (model.__doc__ or "").strip()
        parts.append(f"### `[{table}]`\n\n{about}\n\n{rows(('setting', 'default', 'unit', 'what it does'), lines)}")
    return "\n\n".join(parts)


# ---- the command line


def commands() -> str:
    root = typer.main.get_command(app)
    return "\n\n".join(_command(words, one) for words, one in leaves(root, ("kosreg",)))


def leaves(command: Any, words: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that call it."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*words, name))
    else:
        yield words, command


def _command(words: Sequence[str], command: Any) -> str:
    wanted = [param.metavar for param in command.params if param.param_type_name == "argument"]
    own = [
        param for param in command.params if param.name not in SHARED or (words[-1] == "run" and param.name == "api")
    ]
    filters = [param for param in own if getattr(param, "rich_help_panel", None) == FILTER_PANEL]
    if filters and words[-1] != "list":
        own = [param for param in own if param not in filters]
    lines = [(code(_named(param)), param.help) for param in own]
    if filters and words[-1] != "list":
        lines.insert(0, ("filters", "Those of `kosreg services list`."))
    parts = [f"### `{' '.join([*words, *wanted])}`", " ".join((command.help or "").split())]
    if lines:
        parts.append(rows(("argument or option", "meaning"), lines))
    examples = [line.strip() for line in (command.epilog or "").splitlines()[2:]]
    parts.append("```text\n" + "\n".join(examples) + "\n```")
    return "\n\n".join(parts)


def _named(param: Any) -> str:
    if param.param_type_name == "argument":
        return str(param.metavar)
    return ", ".join(param.opts) + (f" {param.metavar}" if param.metavar and not param.is_flag else "")


# ---- the house


def modules() -> str:
    """Each file with the first sentence of what it says about itself."""
    parts = []
    for package in ("crdt", "federation", "kosreg"):
        lines = [
            (f"`{path.relative_to(ROOT)}`", about)
            for path in sorted(ours(package), key=lambda path: (len(path.parts), path))
            if "migrations" not in path.parts and (about := first_words(path))
        ]
        parts.append(f"### `{package}/`\n\n{rows(('file', 'what it is for'), lines)}")
    return "\n\n".join(parts)


def ours(package: str) -> list[Path]:
    """The files of a package that are in the repository; all of them where this is no checkout."""
    git = ["git", "-C", str(ROOT), "ls-files", "--", f"{package}/*.py"]
    listed = subprocess.run(git, capture_output=True, text=True, check=False)  # noqa: S603
    if listed.returncode or not listed.stdout:
        return list((ROOT / package).rglob("*.py"))
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).exists()]


def first_words(path: Path) -> str:
    """The first paragraph of a file's docstring, "" where it has none."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.partition("\n\n")[0].split())


# ---- writing


MAKERS: Final[Mapping[str, Callable[[], str]]] = {
    "commands": commands,
    "fields": fields,
    "log-keys": log_keys,
    "metrics": metrics,
    "modules": modules,
    "problems": problems,
    "queries": queries,
    "read-only": read_only,
    "routes": routes,
    "scopes": scopes,
    "settings": settings,
}


def filled(text: str) -> str:
    """`text` with its tables as they have to be."""
    return _PLACE.sub(lambda place: f"{place[1]}\n{MAKERS[place['name']]()}\n\n{place[3]}", text)


def places(text: str) -> list[str]:
    """The names of the tables in `text`."""
    return [place["name"] for place in _PLACE.finditer(text)]


def main() -> None:
    for name in FILES:
        path = ROOT / name
        before = path.read_text()
        after = filled(before)
        if after != before:
            path.write_text(after)
            print(f"{name}: written anew")


if __name__ == "__main__":
    main()
