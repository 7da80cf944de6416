"""`kosreg services` against a real node, as a person and as a script would use it."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Node

SEED = Path(__file__).parents[3] / "examples/data/mcp-servers-2025-05-16.json"


def test_register_prints_the_id_alone_and_get_shows_the_record(node: Node) -> None:
    done = node.run(
        "services", "register", "--id", "printer-1", "--name", "Printer", "--type", "device", "--ttl", "0",
        "--tag", "print", "--meta", "floor=2", "--meta", "room=B12",
    )  # fmt: skip
    assert (done.stdout, "registered" in done.stderr) == ("printer-1\n", True)
    record = node.json("services", "get", "printer-1")
    assert (record["name"], record["ttl"], record["tags"]) == ("Printer", 0, ["print"])
    assert record["metadata"] == {"floor": 2, "room": "B12"}
    shown = node.run("services", "get", "printer-1").stdout
    assert "Printer" in shown
    assert "B12" in shown


def test_a_record_from_stdin_or_a_file_and_options_win(node: Node, tmp_path: Path) -> None:
    record = {"id": "echo-1", "name": "Echo", "type": "agent", "url": "http://127.0.0.1:9000", "tags": ["text"]}
    assert node.run("services", "register", "-", input=json.dumps(record)).stdout == "echo-1\n"
    file = tmp_path / "echo.json"
    file.write_text(json.dumps(record))
    again = node.run("services", "register", str(file), "--name", "Echo 2")
    assert "replaced" in again.stderr
    assert node.json("services", "get", "echo-1")["name"] == "Echo 2"


def test_json_is_the_body_of_the_api_byte_for_byte(node: Node) -> None:
    node.run("services", "register", "--id", "byte-1", "--name", "Grüße", "--type", "api", "--ttl", "0")
    token = (node.directory / "admin.token").read_text().strip()
    request = urllib.request.Request(
        f"{node.ready['api']}/api/services/byte-1", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        body = response.read().decode()
    assert node.run("services", "get", "byte-1", "--json").stdout == body + "\n"


def test_update_changes_what_is_named_and_leaves_the_rest(node: Node) -> None:
    node.run("services", "register", "--id", "up-1", "--name", "Up", "--type", "tool", "--ttl", "0", "--tag", "a")
    assert (
        node.run("services", "update", "up-1", "--set", "metadata.room=B12", "--set", 'tags=["b"]').stdout == "up-1\n"
    )
    node.run("services", "update", "up-1", '{"region": "eu"}')
    record = node.json("services", "update", "up-1", "-", input='{"description": "x"}')
    assert (record["tags"], record["region"], record["metadata"]) == (["b"], "eu", {"room": "B12"})
    assert "region" not in node.json("services", "update", "up-1", "--unset", "region")


def test_rm_says_what_is_gone_and_what_was_not_there(node: Node) -> None:
    for name in ("rm-1", "rm-2"):
        node.run("services", "register", "--id", name, "--name", name, "--type", "tool", "--ttl", "0")
    assert node.run("services", "rm", "rm-1").stdout == "rm-1\n"
    partly = node.run("services", "rm", "rm-1", "rm-2", code=5)
    assert partly.stdout == "rm-2\n"
    assert "rm-1" in partly.stderr
    assert node.run("services", "rm", "rm-1", code=4).stdout == ""
    failed = json.loads(node.run("services", "rm", "rm-1", "--json", code=4).stdout)
    assert (failed["removed"], failed["failed"][0]["id"]) == ([], "rm-1")


def test_what_is_not_there_is_exit_code_4_and_the_problem_goes_to_stderr(node: Node) -> None:
    plain = node.run("services", "get", "nobody", code=4)
    assert (plain.stdout, len(plain.stderr.splitlines())) == ("", 1)
    problem = json.loads(node.run("services", "get", "nobody", "--json", code=4).stderr)
    assert (problem["status"], problem["type"]) == (404, "urn:kosreg:problem:not-found")


def test_a_refused_record_names_every_fault(node: Node) -> None:
    done = node.run("services", "register", "-", input='{"type": "agnt", "colour": "red"}', code=1)
    assert done.stdout == ""
    for pointer in ("/name", "/type", "/colour"):
        assert pointer in done.stderr


def test_list_with_filters_as_table_and_json(node: Node) -> None:
    for number in range(5):
        node.run(
            "services", "register", "--id", f"list-{number}", "--name", f"Lister {number}", "--type", "tool",
            "--ttl", "0", "--tag", "lister", "--tag", "even" if number % 2 == 0 else "odd",
        )  # fmt: skip
    table = node.run("services", "list", "--tag", "lister", "--tag", "even")
    assert [line.split()[0] for line in table.stdout.splitlines()] == ["ID", "list-0", "list-2", "list-4"]
    assert "3 of 3" in table.stderr
    page = node.json("services", "list", "--tag", "lister", "--limit", "2", "--sort=-id", "--fields", "id")
    assert ([entry["id"] for entry in page["services"]], page["total"]) == (["list-4", "list-3"], 5)
    rest = node.json(
        "services", "list", "--tag", "lister", "--sort=-id", "--fields", "id", "--cursor", page["next_cursor"]
    )
    assert [entry["id"] for entry in rest["services"]] == ["list-2", "list-1", "list-0"]
    whole = node.json("services", "list", "--tag", "lister", "--all")
    assert (len(whole["services"]), whole["next_cursor"]) == (5, None)
    none = node.run("services", "list", "--tag", "no-such-tag")
    assert (none.stdout, none.stderr) == ("", "none fits\n")


def test_a_name_cannot_steer_the_terminal_of_who_reads_it(node: Node) -> None:
    record = {"id": "evil-1", "name": "[bold]x[/bold]", "type": "tool", "ttl": 0, "description": "a\x1b[31mb"}
    node.run("services", "register", "-", input=json.dumps(record))
    for words in (("services", "get", "evil-1"), ("services", "list", "-q", "x")):
        shown = node.run(*words).stdout
        assert "\x1b" not in shown
        assert "[bold]x[/bold]" in shown


@pytest.mark.parametrize("form", ["cose", "json"])
def test_a_signed_record_verifies_and_a_changed_one_does_not(node: Node, tmp_path: Path, form: str) -> None:
    node.run("services", "register", "--id", f"sig-{form}", "--name", "Signed", "--type", "api", "--ttl", "0")
    signed = tmp_path / "signed"
    signed.write_bytes(node.run("services", "get", f"sig-{form}", "--signed", form).stdout_bytes)
    assert "holds" in node.run("services", "verify", str(signed)).stdout
    assert node.json("services", "verify", "-", input=signed.read_bytes())["signature"] is True
    raw = signed.read_bytes()
    if form == "cose":
        spoilt = raw[:-1] + bytes([raw[-1] ^ 1])
    else:
        value = json.loads(raw)
        value["signature"] = ("B" if value["signature"][0] == "A" else "A") + value["signature"][1:]
        spoilt = json.dumps(value).encode()
    assert node.run("services", "verify", "-", input=spoilt, code=1).stdout


def test_verify_refuses_what_is_no_signed_record(node: Node) -> None:
    assert node.run("services", "verify", "-", input=b"\x00nonsense", code=1).stdout == ""


def test_explain_is_shown(node: Node) -> None:
    node.run("services", "register", "--id", "why-1", "--name", "Why", "--type", "api", "--ttl", "0")
    assert node.run("services", "get", "why-1", "--explain").stdout
    assert node.json("services", "get", "why-1", "--explain")


def test_the_seed_list_is_imported_once_and_its_bad_rows_are_told(node: Node, tmp_path: Path) -> None:
    first = node.run("services", "import", str(SEED), code=5)
    assert first.stdout == "464 new, 0 replaced, 0 unchanged, 7 bad\n"
    assert [line.split(":")[0] for line in first.stderr.splitlines() if line.startswith("row")] == [
        f"row {number}" for number in (16, 26, 109, 133, 189, 208, 407)
    ]
    again = node.json("services", "import", str(SEED), code=5)
    assert (again["new"], again["replaced"], again["unchanged"], len(again["bad"])) == (0, 0, 464, 7)
    assert again["bad"][0]["row"] == 16
    record = node.json("services", "get", "4e9cf4cf-71f6-4aca-bae8-2d10a29ca2e0")
    assert (record["name"], record["type"], record["ttl"]) == ("io.github.21st-dev/magic-mcp", "tool", 0)
    assert (record["status"], record["liveness"]["reason"]) == ("active", "not monitored")
    assert node.json("services", "list", "--tag", "mcp", "--limit", "1")["total"] == 464


def test_an_import_keeps_the_good_rows_beside_those_that_the_node_refuses(node: Node) -> None:
    rows = [
        {"id": "imp-1", "name": "One", "type": "tool", "ttl": 0},
        {"id": "imp-2", "name": "Two", "type": "nonsense"},
        "text",
        {"id": "imp-3", "name": "Three", "type": "tool", "ttl": 0},
    ]
    report = node.json("services", "import", "-", input=json.dumps(rows), code=5)
    assert (report["new"], [bad["row"] for bad in report["bad"]]) == (2, [2, 3])
    assert "/type" in report["bad"][0]["detail"]
    rows[0] = {"id": "imp-1", "name": "One more", "type": "tool", "ttl": 0}
    report = node.json("services", "import", "-", input=json.dumps(rows[::3]))
    assert (report["new"], report["replaced"], report["unchanged"], report["bad"]) == (0, 1, 1, [])
    assert (
        node.run("services", "import", "-", input='["x"]', code=1).stdout == "0 new, 0 replaced, 0 unchanged, 1 bad\n"
    )


def test_what_is_exported_can_be_imported_and_changes_nothing(node: Node, tmp_path: Path) -> None:
    node.run("services", "register", "--id", "exp-1", "--name", "Ex", "--type", "tool", "--ttl", "0", "--tag", "exp")
    node.run("services", "register", "--id", "exp-2", "--name", "Ex", "--type", "agent", "--tag", "exp")
    file = tmp_path / "export.json"
    assert node.run("services", "export", str(file), "--tag", "exp").stdout == "2 services\n"
    before = node.json("services", "list", "--tag", "exp", "--fields", "id,updated")["services"]
    report = node.json("services", "import", str(file))
    assert (report["new"], report["replaced"], report["unchanged"]) == (0, 0, 2)
    assert node.json("services", "list", "--tag", "exp", "--fields", "id,updated")["services"] == before
    piped = json.loads(node.run("services", "export", "--tag", "exp").stdout)
    assert [record["id"] for record in piped["services"]] == ["exp-1", "exp-2"]


def test_an_export_of_all_leaves_out_what_the_node_says_about_itself(node: Node) -> None:
    exported = json.loads(node.run("services", "export").stdout)["services"]
    assert exported
    assert all(record["id"] != node.ready["did"] for record in exported)


def test_an_id_or_a_word_with_strange_characters_reaches_the_node_as_it_is(node: Node) -> None:
    for name in ("a/b", "a?b=c", "a%2Fb", "ä ö", "a#b", "..", ".", ""):
        assert name in node.run("services", "get", name, code=4).stderr
    node.run("services", "register", "--name", "A & B + 100%", "--type", "tool", "--ttl", "0", "--tag", "c&d=e+f %20")
    found = node.json("services", "list", "--tag", "c&d=e+f %20")["services"]
    assert [entry["name"] for entry in found] == ["A & B + 100%"]
