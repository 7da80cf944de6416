"""Reads the settings: a TOML file, then `KOSREG_TABLE__KEY` variables, then options, later ones winning.

`kosreg.settings` says what there is. Here is the order, and errors that people can act on: each is one line that
names the file and line, the variable or the option, and for an unknown name the nearest known one. All errors are
told at once.

A relative path in the file is relative to the file, elsewhere to the working directory.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource
from pydantic_settings.sources.utils import parse_env_vars

from kosreg.listen import Listen
from kosreg.paths import CONFIG
from kosreg.settings import Issuer, SettingDoc, Settings, describe, tables, variable_of

__all__ = ["ConfigError", "Listen", "SettingDoc", "Settings", "describe", "load"]

MAX_FILE: Final = 1024 * 1024
_OPTIONS: Final = {"node.name": "--name", "api.listen": "--api", "federation.listen": "--federation"}
_FILES: Final = frozenset({"api.tls_cert", "api.tls_key"})

Layer = dict[str, dict[str, Any]]


class ConfigError(Exception):
    """The settings cannot be used. `lines`: one for each fault, each saying where it is and what to do."""

    title = "the settings cannot be used"

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


def load(
    data_dir: Path,
    config: Path | None = None,
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings of the node in `data_dir`. Raises ConfigError.

    `config`: the file to read, which must be there; without it, `kosreg.toml` in `data_dir` if there is one. `options`:
    by dotted name (`"api.listen"`); None as a value means not given.
    """
    faults: list[str] = []
    known = {table: tuple(model.model_fields) for table, model in tables().items()}
    file = _read_file(config or data_dir / CONFIG, required=config is not None)
    file_layer = _known_of_file(file, known, faults)
    variables = _known_variables(os.environ if environ is None else environ, known, faults)
    given = {name: value for name, value in (options or {}).items() if value is not None}
    layers = (file_layer, _environment(variables), _nested(given))
    merged: Layer = {}
    for layer in layers:
        for table, values in layer.items():
            merged[table] = merged.get(table, {}) | values
    try:
        settings = Settings.model_validate({"data_dir": data_dir, **merged})
    except ValidationError as error:
        where = _Places(file, layers)
        faults += [_told(dict(fault), where, merged) for fault in error.errors(include_url=False)]
        raise ConfigError(dict.fromkeys(faults)) from None
    if faults:
        raise ConfigError(faults)
    return settings


# ---- the file


@dataclass(frozen=True, slots=True)
class _File:
    """A TOML file: its values, and the line of each table and key by its path (`api`, `api.listen`)."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    def at(self, name: str) -> str:
        """`path, line n` of the nearest that is known of `name`."""
        while name and name not in self.lines:
            name = name.rpartition(".")[0]
        return f"{self.path}, line {self.lines[name]}" if name else str(self.path)


def _read_file(path: Path, *, required: bool) -> _File:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
        if len(raw) > MAX_FILE:
            raise ConfigError([f"{path}: larger than 1 MiB, so it cannot be a settings file. Check --config"])
        text = raw.decode()
        return _File(path, tomllib.loads(text), _lines_of(text))
    except FileNotFoundError:
        if required:
            raise ConfigError([f"{path}: there is no such file. Check --config, or leave it out"]) from None
        return _File(path, {}, {})
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}. Mend its permissions, or choose another"]) from None
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError([f"{path}, line {line}: is not UTF-8. Save the file as UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: is no TOML: {error}. Mend that line"]) from None


_TABLE: Final = re.compile(r"\s*\[{1,2}([^\[\]]+)\]")
_KEY: Final = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)


def _lines_of(text: str) -> dict[str, int]:
    """Where each table and key stands first: tomllib does not tell. Good enough for messages; decides nothing."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := _TABLE.match(line):
            table = _plain(match[1])
            found.setdefault(table, number)
        elif match := _KEY.match(line):
            key = _plain(match[1])
            name = f"{table}.{key}" if table else key
            found.setdefault(name, number)
            found.setdefault(name.split(".")[0], number)
    return found


def _plain(dotted: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in dotted.split("."))


def _known_of_file(file: _File, known: Mapping[str, tuple[str, ...]], faults: list[str]) -> Layer:
    layer: Layer = {}
    for table, values in file.values.items():
        if table not in known:
            nearest = _nearest(table, known if isinstance(values, dict) else _names(known))
            faults.append(f"{file.at(table)}: there is no setting {table!r}. The nearest is {nearest}")
        elif not isinstance(values, dict):
            faults.append(f"{file.at(table)}: {table} is a table. Write [{table}], then its settings below")
        else:
            for key, value in values.items():
                name = f"{table}.{key}"
                if key in known[table]:
                    layer.setdefault(table, {})[key] = _beside(file.path, name, value)
                else:
                    faults.append(
                        f"{file.at(name)}: there is no setting {name}. The nearest is {_nearest(name, _names(known))}"
                    )
    return layer


def _beside(file: Path, name: str, value: Any) -> Any:
    """`value` with relative paths taken from the directory of the settings file."""
    here = file.absolute().parent
    if name in _FILES and isinstance(value, str) and value:
        return str(here / Path(value).expanduser())
    if name.endswith(".listen") and isinstance(value, str) and value.startswith("unix:") and len(value) > 5:
        return f"unix:{here / Path(value[5:]).expanduser()}"
    if name == "tokens.issuers" and isinstance(value, list):
        return [
            one | {"jwks": str(here / Path(one["jwks"]).expanduser())}
            if isinstance(one, dict) and isinstance(one.get("jwks"), str)
            else one
            for one in value
        ]
    return value


# ---- the environment and the options


class _Environment(EnvSettingsSource):
    """pydantic-settings' own reader of variables, on those that it is given."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return parse_env_vars(self._variables, ignore_empty=bool(self.env_ignore_empty))


def _known_variables(
    environ: Mapping[str, str], known: Mapping[str, tuple[str, ...]], faults: list[str]
) -> dict[str, str]:
    """The `KOSREG_TABLE__KEY` variables. Others are none of ours: KOSREG_DATA_DIR is read before there are settings."""
    names = {variable_of(table, key): None for table, keys in known.items() for key in keys}
    found: dict[str, str] = {}
    for variable, value in environ.items():
        if not variable.startswith("KOSREG_") or "__" not in variable or variable.startswith("KOSREG_TEST_"):
            continue
        if variable in names:
            found[variable] = value
        else:
            faults.append(f"{variable}: there is no such setting. The nearest is {_nearest(variable, names)}")
    return found


def _environment(variables: Mapping[str, str]) -> Layer:
    return _Environment(variables)()


def _nested(options: Mapping[str, object]) -> Layer:
    layer: Layer = {}
    for name, value in options.items():
        table, _, key = name.partition(".")
        layer.setdefault(table, {})[key] = value
    return layer


# ---- what is wrong, and where


@dataclass(frozen=True, slots=True)
class _Places:
    """Tells where a value came from."""

    file: _File
    layers: tuple[Layer, Layer, Layer]

    def of(self, table: str, key: str) -> str:
        in_file, in_environment, in_options = (key in layer.get(table, {}) for layer in self.layers)
        if in_options:
            return _OPTIONS.get(f"{table}.{key}", f"{table}.{key}")
        if in_environment:
            return variable_of(table, key)
        return self.file.at(f"{table}.{key}") if in_file else f"{table}.{key}"


def _told(fault: Mapping[str, Any], where: _Places, merged: Layer) -> str:
    """One line for one fault that pydantic found."""
    path = [str(part) for part in fault["loc"]]
    message = str(fault["msg"]).removeprefix("Value error, ")
    if len(path) == 1:  # a rule on several settings of a table: the text names them; api.listen is what it is about
        return f"{where.of(path[0], 'listen')}: {message}"
    table, key, *inner = path
    name = f"{table}.{key}" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in inner)
    if fault["type"] == "extra_forbidden":
        nearest = _nearest(inner[-1] if inner else key, Issuer.model_fields)
        return f"{where.of(table, key)}: there is no setting {name}. The nearest is {nearest}"
    value = merged.get(table, {}).get(key)
    shown = f", not {value!r}" if isinstance(value, str | int | float) and fault["type"] != "value_error" else ""
    return f"{where.of(table, key)}: {name}: {message[:1].lower()}{message[1:]}{shown}"


def _names(known: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [f"{table}.{key}" for table, keys in known.items() for key in keys]


def _nearest(name: str, names: Iterable[str]) -> str:
    return get_close_matches(name, list(names), n=1, cutoff=0.0)[0]
