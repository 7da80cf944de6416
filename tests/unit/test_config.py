"""Settings: their order, and errors that name the place and the nearest known name."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kosreg.config import ConfigError, Settings, describe, load


def write(directory: Path, text: str, name: str = "kosreg.toml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def faults(directory: Path, text: str = "", environ: dict[str, str] | None = None, **options: Any) -> tuple[str, ...]:
    if text:
        write(directory, text)
    with pytest.raises(ConfigError) as caught:
        load(directory, options={k.replace("__", "."): v for k, v in options.items()}, environ=environ or {})
    assert str(caught.value) == "\n".join(caught.value.lines)
    return caught.value.lines


def test_without_anything_there_are_the_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={})

    assert str(settings.api.listen) == "127.0.0.1:7480"
    assert str(settings.federation.listen) == "0.0.0.0:7481"
    assert settings.node.name
    assert settings.liveness.reap_after == 7 * 86_400
    assert (settings.limits.calls_per_s, settings.limits.calls_burst) == (2_000, 4_000)
    assert (settings.limits.max_body, settings.limits.max_batch) == (256 * 1024, 4 * 1024 * 1024)
    assert settings.tokens.ttl == 30 * 86_400
    assert settings.store_url == str(tmp_path / "registry.db")


def test_options_win_over_variables_over_the_file(tmp_path: Path) -> None:
    write(tmp_path, '[node]\nname = "file"\n[log]\nlevel = "debug"\nformat = "json"\n')
    environ = {"KOSREG_NODE__NAME": "variable", "KOSREG_LOG__LEVEL": "error"}

    settings = load(tmp_path, options={"node.name": "option"}, environ=environ)

    assert (settings.node.name, settings.log.level, settings.log.format) == ("option", "error", "json")


def test_an_option_that_was_not_given_wins_over_nothing(tmp_path: Path) -> None:
    write(tmp_path, '[node]\nname = "file"\n')

    assert load(tmp_path, options={"node.name": None}, environ={}).node.name == "file"


def test_another_file_can_be_named_and_must_be_there(tmp_path: Path) -> None:
    write(tmp_path, '[node]\nname = "default"\n')
    other = write(tmp_path, '[node]\nname = "other"\n', "other.toml")

    assert load(tmp_path, config=other, environ={}).node.name == "other"
    with pytest.raises(ConfigError, match=r"absent\.toml: there is no such file"):
        load(tmp_path, config=tmp_path / "absent.toml", environ={})


def test_an_unknown_key_names_file_line_and_the_nearest(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, '# a comment\n[api]\nlisten = "127.0.0.1:0"\nalowed_hosts = []\n')

    assert line == (
        f"{tmp_path}/kosreg.toml, line 4: there is no setting api.alowed_hosts. The nearest is api.allowed_hosts"
    )


def test_an_unknown_table_names_the_nearest_table(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, '[node]\nname = "x"\n\n[fedration]\nlisten = "off"\n')

    assert line == f"{tmp_path}/kosreg.toml, line 4: there is no setting 'fedration'. The nearest is federation"


def test_a_key_without_its_table_names_where_it_belongs(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, 'reap_after = "1d"\n')

    assert "line 1: there is no setting 'reap_after'. The nearest is liveness.reap_after" in line


def test_the_data_directory_is_no_key_of_the_file(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, 'data_dir = "/elsewhere"\n')

    assert "there is no setting 'data_dir'" in line


def test_a_table_written_as_a_value_is_told(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, "api = 5\n")

    assert "line 1: api is a table. Write [api]" in line


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("KOSREG_STORE__URRL", "KOSREG_STORE__URL"),
        ("KOSREG_STOR__URL", "KOSREG_STORE__URL"),
        ("KOSREG_LIVENESS__REAP", "KOSREG_LIVENESS__REAP_AFTER"),
        ("KOSREG_TOKENS__ISSUERS__0__ISS", "KOSREG_TOKENS__ISSUERS"),
        ("KOSREG_API__", "KOSREG_"),
        ("KOSREG_WHATEVER__X", "KOSREG_"),
    ],
)
def test_a_variable_that_names_no_setting_is_an_error(tmp_path: Path, variable: str, nearest: str) -> None:
    (line,) = faults(tmp_path, environ={variable: "1"})

    assert line.startswith(f"{variable}: there is no such setting. The nearest is {nearest}")


@pytest.mark.parametrize(
    "variable",
    [
        "KOSREG_DATA_DIR",
        "KOSREG_LAB_SOCKET",
        "KOSREG_TEST_SEED",
        "KOSREG_TEST_A__B",
        "KOSREG_API",
        "KOSREG_LOG",
        "X__Y",
    ],
)
def test_variables_that_are_no_settings_are_left_alone(tmp_path: Path, variable: str) -> None:
    assert load(tmp_path, environ={variable: "anything"}) == load(tmp_path, environ={})


def test_an_empty_variable_counts_as_absent(tmp_path: Path) -> None:
    assert str(load(tmp_path, environ={"KOSREG_API__LISTEN": ""}).api.listen) == "127.0.0.1:7480"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[limits]\ncalls_per_s = "many"\n', "limits.calls_per_s: input should be a valid integer"),
        ("[limits]\ncalls_per_s = 0\n", "limits.calls_per_s: input should be greater than or equal to 1, not 0"),
        ("[node]\nname = 5\n", "node.name: input should be a valid string, not 5"),
        ('[api]\ninsecure = "perhaps"\n', "api.insecure: input should be a valid boolean"),
        ('[log]\nlevel = "loud"\n', "log.level: input should be 'debug', 'info', 'warning' or 'error', not 'loud'"),
        ('[liveness]\nreap_after = "soon"\n', "liveness.reap_after: 'soon' is no span of time"),
        ('[api]\nlisten = "7480"\n', "api.listen: '7480' is no address to listen on. Write HOST:PORT"),
        ("[api]\nlisten = 7480\n", "api.listen: "),
        ('[api]\nallowed_hosts = ["http://x"]\n', "api.allowed_hosts[0]: 'http://x' is no host"),
        ('[store]\nurl = "mysql://x"\n', "store.url: is no URL of a store. Write sqlite:///PATH"),
        ('[cache]\nurl = "http://x"\n', "cache.url: is no URL of a Redis"),
        ('[api]\ntls_cert = "absent.pem"\ntls_key = "absent.pem"\n', "absent.pem is no file that this user may read"),
        ('[limits]\nmax_body = "lots"\n', "limits.max_body: "),
    ],
)
def test_a_wrong_value_is_one_line_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    line = faults(tmp_path, text)[0]

    assert line.startswith(f"{tmp_path}/kosreg.toml, line 2: ")
    assert told in line
    assert "\n" not in line


def test_all_faults_of_all_sources_are_told_at_once(tmp_path: Path) -> None:
    lines = faults(
        tmp_path,
        '[nod]\nname = "x"\n[log]\nlevel = "loud"\n',
        {"KOSREG_LIMITS__CALLS_BURST": "x", "KOSREG_A__B": "1"},
        federation__listen="nowhere",
    )

    assert len(lines) == 5
    assert any(line.startswith("KOSREG_LIMITS__CALLS_BURST: limits.calls_burst: ") for line in lines)
    assert any(line.startswith("--federation: federation.listen: 'nowhere' is no address") for line in lines)


def test_a_wrong_value_that_is_overruled_still_names_the_one_that_counts(tmp_path: Path) -> None:
    write(tmp_path, '[log]\nlevel = "loud"\n')

    assert load(tmp_path, environ={"KOSREG_LOG__LEVEL": "INFO"}).log.level == "info"


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"[api\n", "line 1"),
        (b"[node]\nname = \xff\n", "line 2: is not UTF-8"),
        (b"x = 1\n" * 200_000, "larger than 1 MiB"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, raw: bytes, told: str) -> None:
    (tmp_path / "kosreg.toml").write_bytes(raw)

    (line,) = faults(tmp_path)

    assert line.startswith(f"{tmp_path}/kosreg.toml")
    assert told in line


def test_a_directory_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "kosreg.toml").mkdir()

    assert "directory" in faults(tmp_path)[0].lower()


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "localhost:80", "unix:/run/kosreg.sock"])
def test_a_local_api_needs_no_tls(tmp_path: Path, listen: str) -> None:
    assert load(tmp_path, options={"api.listen": listen}, environ={}).api.listen.is_local


@pytest.mark.parametrize("listen", ["0.0.0.0:7480", "[::]:7480", "192.0.2.1:7480", "node.example.org:7480"])
def test_an_api_that_others_can_reach_needs_tls_or_a_decision(tmp_path: Path, listen: str) -> None:
    (line,) = faults(tmp_path, f'[node]\nname = "x"\n[api]\nlisten = "{listen}"\n')

    assert line.startswith(f"{tmp_path}/kosreg.toml, line 4: api.listen = {listen} can be reached from other machines")
    assert "api.tls_cert" in line
    assert "api.insecure = true" in line
    assert load(tmp_path, environ={"KOSREG_API__INSECURE": "true"}).api.insecure


def test_with_tls_it_is_fine_and_relative_paths_are_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path, "", "cert.pem")
    write(tmp_path, "", "key.pem")
    write(tmp_path, '[api]\nlisten = "0.0.0.0:0"\ntls_cert = "cert.pem"\ntls_key = "key.pem"\n')

    settings = load(tmp_path, environ={})

    assert (settings.api.tls_cert, settings.api.tls_key) == (tmp_path / "cert.pem", tmp_path / "key.pem")


def test_half_of_tls_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "", "cert.pem")

    (line,) = faults(tmp_path, '[api]\ntls_cert = "cert.pem"\n')

    assert "api.tls_cert is set, but api.tls_key is not" in line


def test_tls_on_a_unix_socket_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "", "both.pem")

    (line,) = faults(tmp_path, '[api]\nlisten = "unix:a.sock"\ntls_cert = "both.pem"\ntls_key = "both.pem"\n')

    assert "a Unix socket takes no TLS" in line


def test_a_socket_named_in_the_file_is_beside_it(tmp_path: Path) -> None:
    write(tmp_path, '[api]\nlisten = "unix:api.sock"\n')

    assert load(tmp_path, environ={}).api.listen.path == tmp_path / "api.sock"


def test_lists_in_variables_are_json_or_have_commas(tmp_path: Path) -> None:
    with_commas = load(tmp_path, environ={"KOSREG_API__ALLOWED_HOSTS": "a.example, b.example:80"})
    as_json = load(tmp_path, environ={"KOSREG_API__ALLOWED_HOSTS": '["a.example", "b.example:80"]'})

    assert with_commas.api.allowed_hosts == as_json.api.allowed_hosts == ("a.example", "b.example:80")
    assert "is no JSON list" in faults(tmp_path, environ={"KOSREG_API__ALLOWED_HOSTS": "[a"})[0]


def test_issuers_are_typed_and_their_files_beside_the_settings(tmp_path: Path) -> None:
    write(tmp_path, '[[tokens.issuers]]\niss = "https://id.example"\njwks = "id.json"\nscopes = ["read:service:*"]\n')

    (issuer,) = load(tmp_path, environ={}).tokens.issuers

    assert (issuer.iss, issuer.jwks, issuer.scopes) == ("https://id.example", tmp_path / "id.json", ("read:service:*",))


def test_an_issuer_may_nothing_unless_told(tmp_path: Path) -> None:
    write(tmp_path, '[[tokens.issuers]]\niss = "https://id.example"\njwks = "id.json"\n')

    assert load(tmp_path, environ={}).tokens.issuers[0].scopes == ()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('scops = ["read:service:*"]', "there is no setting tokens.issuers[0].scops. The nearest is scopes"),
        ('scopes = ["read"]', "tokens.issuers[0].scopes: 'read' is no scope"),
        ('scopes = ["fly:service:*"]', "'fly:service:*' is unknown"),
    ],
)
def test_a_fault_inside_an_issuer_is_placed(tmp_path: Path, line: str, told: str) -> None:
    (fault,) = faults(tmp_path, f'[[tokens.issuers]]\niss = "https://id.example"\njwks = "id.json"\n{line}\n')

    assert told in fault
    assert f"{tmp_path}/kosreg.toml, line " in fault


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={})

    with pytest.raises(ValidationError):
        settings.node.name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.node = settings.node  # type: ignore[misc]


def test_the_password_of_a_url_is_not_in_the_repr(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={"KOSREG_CACHE__URL": "redis://:hunter2@localhost:6379/0"})

    assert "hunter2" not in repr(settings)


def test_every_setting_is_described_and_can_be_set_by_its_variable(tmp_path: Path) -> None:
    docs = list(describe())

    assert len(docs) == len({doc.name for doc in docs}) > 20
    tables = {doc.name.split(".")[0] for doc in docs}
    assert tables == {"node", "api", "federation", "quota", "store", "cache", "liveness", "limits", "tokens", "log"}
    for doc in docs:
        assert doc.text.endswith("."), doc
        assert doc.default, doc
        table, key = doc.name.split(".")
        assert hasattr(getattr(Settings(data_dir=tmp_path), table), key)
        if doc.default not in ("none", "the machine's host name", "registry.db in the data directory"):
            load(tmp_path, environ={doc.variable: doc.default})  # the default as it is written is a valid value
