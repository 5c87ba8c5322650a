# SPDX-License-Identifier: MIT
"""What `new` writes works, and `check` says of a program what attach would, without a device."""

import os
import shutil
import subprocess
from pathlib import Path

import cli
import pytest

pytestmark = [pytest.mark.face, pytest.mark.one_face]


def test_check_accepts_what_can_be_attached(lab, face):
    checked = cli.ok("check", cli.program("mypolicy"), "--set", "offset=1M")
    assert checked["face"] == face
    assert checked["knobs"] == [{"name": "offset", "type": "u64", "value": 1 << 20}]
    (program,) = checked["programs"]
    assert program["name"] == "mypolicy" and program["accepted"] is True and program["completes"] is False
    assert "seen" in {m["name"] for m in program["maps"]}
    # a half more is more to follow
    whole = cli.ok("check", cli.program("mirror"))["programs"][0]
    assert whole["accepted"] is True and whole["verified_insns"] > 100
    assert not cli.devices()


def test_a_program_that_comes_with_the_command_is_known_by_its_name(lab, monkeypatch):
    device, _ = lab.loop_device(8)
    monkeypatch.chdir(lab.tmp)
    (lab.tmp / "loop").write_text("not an object")  # a name is never a file's of where one just is
    cli.ok("attach", "--dev", device.id, "loop")
    assert device.info()["bpf"]["object"] == str(cli.OBJ_DIR / "loop.bpf.o") and cli.ok("check", "loop")["programs"][0]["accepted"] is True
    device.detach()
    for command in (["attach", "-n", device.id], ["check"]):
        missing = cli.run(*command, "lop", "--json")
        assert missing.status == 1 and missing.json["error"]["errno"] == "ENOENT" and "lop.bpf.o" in missing.err, str(missing)


def test_check_refuses_what_the_verifier_refuses(lab):
    outcome = cli.run("check", cli.program("bad_loop"), "--json")
    assert outcome.status == 1 and outcome.json["programs"][0]["accepted"] is False, str(outcome)
    assert outcome.json["programs"][0]["error"]["log"] and outcome.err.startswith("ublk-bpf: ")
    # one of two that is good is said to be
    two = cli.run("check", cli.program("two"), "--json").json["programs"]
    assert len(two) == 2 and all(p["accepted"] for p in two)
    for bad in ("/dev/null", lab.tmp / "missing.bpf.o", cli.COMMAND):
        assert cli.run("check", bad).status == 1
    assert "no knob" in cli.run("check", cli.program("mypolicy"), "--set", "ofset=1").err.lower() or \
        "offset" in cli.run("check", cli.program("mypolicy"), "--set", "ofset=1").err


def test_the_test_that_new_writes_passes_and_can_fail(lab):
    assert subprocess.run([cli.COMMAND, "new", "mypolicy"], cwd=lab.tmp, stdout=subprocess.DEVNULL, check=True)
    where = lab.tmp / "mypolicy"
    env = {**os.environ, "PATH": f"{Path(cli.COMMAND).parent}:{os.environ['PATH']}"}

    def test_sh():
        return subprocess.run(["./test.sh"], cwd=where, env=env, capture_output=True, text=True, timeout=cli.seconds(120))

    shutil.copy(cli.program("mypolicy"), where / "mypolicy.bpf.o")
    done = test_sh()
    assert done.returncode == 0 and done.stdout.endswith("passed\n"), done.stdout + done.stderr
    # a program that passes everything does nothing, and the test says so
    shutil.copy(cli.program("pass"), where / "mypolicy.bpf.o")
    done = test_sh()
    assert done.returncode == 1 and "did nothing" in done.stderr, done.stdout + done.stderr
    assert not cli.devices()
