# SPDX-License-Identifier: MIT
"""docs/json.md says what --json prints: every key of every command, and its type."""

import re

import cli
import pytest
from blockio import MIB, Opened
from test_kill import kill_server, quiesced

# about the command and its server more than about a kernel's driver
pytestmark = pytest.mark.one_face

ONE_DEVICE = "add, recover, takeover, snapshot, fork, reset, flatten, attach, detach, drain, stop, quiesce, resize, set-affinity"
ROW = re.compile(r"^\| `([^`]+)` \| ([a-z, ]+) \|", re.MULTILINE)
TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null", dict: "object"}


def documented():
    """Sections by the commands that they are of: path -> types and whether it is optional."""
    sections = {}
    for part in (cli.TREE / "docs/json.md").read_text().split("\n## ")[1:]:
        title, body = part.split("\n", 1)
        rows = {}
        for path, types in ROW.findall(body):
            words, _, optional = types.partition(", ")
            rows[path] = (set(words.strip().split(" or ")), optional == "optional")
        sections[title] = rows
    return sections


def flatten(value, path, rows, out):
    """path -> types, of a value; objects and empty lists only where a row names them."""
    if isinstance(value, dict):
        if path in rows:
            out.setdefault(path, set()).add("object")
        for key, inner in value.items():
            if f"{path}{{}}" in rows:
                flatten(inner, f"{path}{{}}", rows, out)
            else:
                flatten(inner, f"{path}.{key}".lstrip("."), rows, out)
    elif isinstance(value, list):
        for inner in value:
            flatten(inner, f"{path}[]", rows, out)
        if not value:
            out.setdefault(f"{path}[]", set())
    else:
        out.setdefault(path, set()).add(TYPES[type(value)])
    return out


def differences(value, rows):
    """What of it is not as documented."""
    found = flatten(value, "", rows, {})
    wrong = []
    for path, types in found.items():
        elements = any(p.startswith(path + ".") for p in rows)
        if path not in rows and not (elements and not types):
            wrong.append(f"{path}: not documented")
        elif path in rows and not types <= rows[path][0]:
            wrong.append(f"{path}: is {types}, documented {rows[path][0]}")
    for path, (_, optional) in rows.items():
        # What is in an object that is null, or in a list that is empty, is not there.
        holders = [path[: m.start()] for m in re.finditer(r"\.|\[\]|\{\}", path)]
        absent = any(found.get(h) == {"null"} or found.get(h + "[]") == set() for h in holders)
        if path not in found and not optional and not absent and not path.endswith("{}"):
            wrong.append(f"{path}: is documented, but not there")
    return wrong


def device_rows(sections):
    prefix = "devices[]."
    return {p[len(prefix) :]: row for p, row in sections["list"].items()}


def test_checker_finds_what_is_wrong():
    rows = {"a": ({"integer"}, False), "b[].c": ({"string"}, False), "d": ({"object", "null"}, False),
            "d.e": ({"string"}, False), "k{}": ({"integer"}, False)}
    good = {"a": 1, "b": [{"c": "x"}], "d": None, "k": {"any": 1}}
    assert not differences(good, rows)
    assert not differences({**good, "b": [], "d": {"e": "x"}, "k": {}}, rows)
    for bad in ({"a": "1"}, {"a": None}, {"b": [{}]}, {"b": [{"c": 1}]}, {"d": {}}, {"new": 1}, {"k": {"x": "1"}}):
        assert differences({**good, **bad}, rows), bad
    assert differences({k: v for k, v in good.items() if k != "a"}, rows)


def test_output_of_every_command_is_as_documented(lab):
    sections = documented()
    rows = device_rows(sections)
    device, _ = lab.loop_device(8, r=1)
    lab.add("fault", over="null", fault="op=write,error=EIO", size=MIB)
    attached = device.attach("loop", {"offset": 0})
    with Opened(device.path) as f:
        f.read(0, 4096)
    outputs = [
        ("list", cli.ok("list"), sections["list"]),
        ("attach", attached, {**rows, **sections[ONE_DEVICE]}),
        ("drain", cli.ok("drain", "-n", device.id), rows),
        ("probe", cli.probe(), sections["probe"]),
        ("help", cli.ok("help", "loop"), sections["help"]),
    ]
    device.attach("latency", replace=True)
    outputs.append(("info of a program with maps", cli.ok("info", "-n", device.id), {**rows, **sections["info"]}))
    with Opened(device.path) as f:
        f.read(0, 4096)
    outputs.append(("stat", cli.ok("stat", "-n", device.id), sections["stat"]))
    outputs.append(("stat without -n", cli.ok("stat"), sections["stat without -n"]))
    outputs.append(("detach", device.detach(), rows))
    kill_server(device)
    quiesced(device)
    outputs.append(("list of a device without server", cli.ok("list"), sections["list"]))
    outputs.append(("recover", cli.ok("recover", "-n", device.id), rows))
    added = cli.ok("add", "-t", "null", "--size", MIB)
    outputs.append(("add", added, rows))
    outputs.append(("del", cli.ok("del", "-n", added["dev_id"]), sections["del, down"]))
    outputs.append(("stop", cli.ok("stop", "-n", lab.add("null", size=MIB).id), rows))
    outputs.append(("takeover", cli.ok("takeover", "-n", device.id), rows))
    outputs.append(("info", cli.ok("info", "-n", device.id), {**rows, **sections["info"]}))
    outputs.append(("features", cli.ok("features"), sections["features"]))
    outputs.append(("check", cli.ok("check", cli.program("latency")), sections["check"]))
    outputs.append(("check of one that is refused", cli.run("check", cli.program("bad_loop"), "--json").json, sections["check"]))
    etc = ("--config-dir", lab.tmp)
    (lab.tmp / "up.json").write_text('{"type": "null", "size": "1M"}')
    (lab.tmp / "wrong.json").write_text('{"type": "null", "sise": "1M"}')
    outputs.append(("up", cli.run("up", "--all", *etc, "--json").json, sections["up"]))
    outputs.append(("config check", cli.run("config", "check", *etc, "--json").json, sections["config check"]))
    outputs.append(("down", cli.ok("down", "--all", *etc), sections["del, down"]))
    outputs.append(("gc", cli.ok("gc", "--dry-run"), sections["gc"]))
    where = lab.ext4()
    base, top = f"{where}/base", f"{where}/top"
    layer = sections["layer create, layer info"]
    outputs.append(("layer create", cli.ok("layer", "create", base, "--size", MIB), layer))
    outputs.append(("layer create on a layer", cli.ok("layer", "create", top, "--base", base), layer))
    outputs.append(("layer info", cli.ok("layer", "info", top), layer))
    outputs.append(("layer check", cli.ok("layer", "check", top), sections["layer check"]))
    outputs.append(("layer list", cli.ok("layer", "list", top), sections["layer list"]))
    outputs.append(("layer diff", cli.ok("layer", "diff", top, "--since", base), sections["layer diff, diff"]))
    errors = sections["An error, of any command"]
    outputs.append(("an error", cli.run("detach", "-n", 999, "--json").json, errors))
    refused = cli.run("attach", "-n", device.id, cli.program("bad_loop"), "--json")
    outputs.append(("a program that is refused", refused.json, errors))
    wrong = [f"{command}: {line}" for command, value, rows_ in outputs for line in differences(value, rows_)]
    assert not wrong, "\n".join(wrong)
