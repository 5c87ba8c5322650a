# SPDX-License-Identifier: MIT
"""Each bad input: one clear line, the exit status, and nothing changed."""

import os
import re
import socket

import cli
import pytest
from blockio import MIB, fio_verify
from lab import Lab, sh

# about the command and its server, not about the face
pytestmark = pytest.mark.one_face

FAILED, MISUSED = 1, 2


class Bench:
    """A live device with nothing attached, at which bad commands are thrown."""

    def __init__(self, lab):
        self.lab = lab
        self.device, self.disk = lab.loop_device(8)

    def attach(self, obj, *args, **kwargs):
        return self.refused("attach", "--dev", self.device.id, obj, *args, **kwargs)

    def refused(self, *args, match, status=FAILED, errno=None, **kwargs):
        before = self.state()
        outcome = cli.run(*args, "--json", **kwargs)
        if outcome.status == 0 and args[0] == "attach":
            self.device.detach()  # the next test is not to suffer from it
        check_refusal(outcome, match, status, errno)
        assert self.state() == before, f"something changed: {outcome}"
        return outcome

    @staticmethod
    def state():
        devices = cli.devices()
        for device in devices:
            device["server"] = device["server"] and device["server"]["pid"]
        return devices


def check_refusal(outcome, match, status, errno=None):
    assert outcome.status == status, str(outcome)
    lines = outcome.err.strip().splitlines()
    assert lines, f"not a word: {outcome}"
    assert re.search(match, lines[0], re.IGNORECASE), f"no /{match}/ in the first line: {outcome}"
    if status == FAILED:
        assert lines[0].startswith("ublk-bpf: "), str(outcome)
        error = outcome.json["error"]
        assert error["message"]
        if errno:
            assert error["errno"] == errno, str(outcome)
    return lines


@pytest.fixture(scope="module")
def bench():
    laboratory = Lab()
    yield Bench(laboratory)
    laboratory.close()


def made(bench, name, content):
    path = bench.lab.tmp / name
    path.write_bytes(content)
    return str(path)


def one_line(outcome):
    assert len(outcome.err.strip().splitlines()) == 1, f"more than one line: {outcome}"


# objects


@pytest.mark.parametrize(
    "name,content",
    [
        ("text.o", b"this is no ELF\n"),
        ("empty.o", b""),
        ("cut.o", b"\x7fELF\x02\x01\x01"),
        ("host.o", None),
    ],
)
def test_object_that_is_no_bpf_object(bench, name, content):
    if content is None:
        with open("/bin/true", "rb") as f:
            content = f.read()
    one_line(bench.attach(made(bench, name, content), match=name))


def test_object_cut_in_the_middle(bench):
    with open(cli.program("loop"), "rb") as f:
        whole = f.read()
    bench.attach(made(bench, "half.o", whole[: len(whole) // 2]), match="half.o")


def test_object_that_does_not_exist(bench):
    one_line(bench.attach("/nonexistent/x.bpf.o", match="No such file", errno="ENOENT"))


def test_object_that_is_a_directory(bench):
    one_line(bench.attach(str(bench.lab.tmp), match=r"director"))


def test_object_without_a_ublk_program(bench):
    one_line(bench.attach(cli.program("none"), match="no .*ublk.* program|no program"))


def test_object_with_two_programs_and_none_named(bench):
    outcome = bench.attach(cli.program("two"), match="--prog")
    one_line(outcome)
    assert "first" in outcome.err and "second" in outcome.err


def test_program_name_that_is_not_in_the_object(bench):
    outcome = bench.attach(cli.program("two"), "--prog", "third", match="third")
    one_line(outcome)
    assert "first" in outcome.err and "second" in outcome.err


def test_either_of_two_programs_can_be_named(bench):
    for name in ("first", "second"):
        bench.device.attach("two", prog=name, replace=True)
        assert bench.device.info()["bpf"]["program"] == name
    bench.device.detach()


@pytest.mark.parametrize(
    "name", ["bad_write_ctx", "bad_read_past", "bad_map_ctx", "bad_stack_ctx", "bad_sqe_size", "bad_loop"]
)
def test_program_that_the_verifier_refuses(bench, name):
    outcome = bench.attach(cli.program(name), match=f"{name}.*verifier")
    lines = outcome.err.strip().splitlines()
    assert len(lines) > 1, f"the verifier's log is not shown: {outcome}"
    assert "processed" in outcome.err, f"this is not the verifier's log: {outcome}"


def test_completion_half_that_the_verifier_refuses_is_the_one_that_is_named(bench):
    outcome = bench.attach(cli.program("bad_complete"), match="program bad_complete_complete: refused by the verifier")
    assert "processed" in outcome.err, f"this is not the verifier's log: {outcome}"


def test_program_that_may_sleep(bench, face):
    if face == "program_type":
        pytest.skip("only a struct_ops program can ask to sleep")
    bench.attach(cli.program("bad_sleepable"), match="bad_sleepable")


def test_program_without_a_license(bench):
    bench.attach(cli.program("bad_license"), match="GPL|license")


def test_program_that_needs_a_newer_kernel(bench):
    bench.attach(cli.program("newer"), match="bpf_ublk_from_the_future")


# devices


@pytest.mark.parametrize("command", ["attach", "detach", "drain", "del", "recover", "list"])
def test_device_that_does_not_exist(bench, command):
    args = [cli.program("loop")] if command == "attach" else []
    one_line(bench.refused(command, "-n", 77, *args, match="77|ublkb77", errno="ENODEV"))


def test_device_that_was_added_without_bpf(bench, lab):
    device = lab.add("loop", lab.null_blk(8).path, no_bpf=True)
    assert device.info()["bpf"] is None and device.info()["bpf_capable"] is False
    outcome = device.try_attach("loop")
    lines = check_refusal(outcome, "without BPF|--no-bpf|UBLK_F_BPF", FAILED, "EOPNOTSUPP")
    assert len(lines) == 1, str(outcome)
    fio_verify(device.path, bs="4k", iodepth=4, size=MIB)


def test_recover_of_a_live_device(bench):
    one_line(bench.refused("recover", "-n", bench.device.id, match="ublk"))


def test_detach_of_nothing(bench):
    one_line(bench.refused("detach", "-n", bench.device.id, match="no program|nothing", errno="ENOENT"))


# files


def test_too_many_files(bench):
    files = [arg for _ in range(17) for arg in ("--file", bench.disk)]
    one_line(bench.attach(cli.program("loop"), *files, match="16"))


def test_as_many_files_as_allowed(bench):
    bench.device.attach("loop", file=[bench.disk] * 16)
    assert len(bench.device.info()["bpf"]["files"]) == 16
    bench.device.detach()


def special_file(bench, kind):
    path = str(bench.lab.tmp / f"special-{kind}")
    if kind == "directory":
        os.makedirs(path, exist_ok=True)
    elif kind == "socket":
        server = socket.socket(socket.AF_UNIX)
        if not os.path.exists(path):
            server.bind(path)
    elif kind == "fifo":
        if not os.path.exists(path):
            os.mkfifo(path)
    elif kind == "character-device":
        return "/dev/null"
    elif kind == "itself":
        return bench.device.path
    return path


@pytest.mark.parametrize(
    "kind", ["directory", "socket", "fifo", "character-device", "itself", "missing"]
)
def test_file_that_cannot_be_attached(bench, kind):
    path = special_file(bench, kind)
    outcome = bench.attach(cli.program("loop"), "--file", path, match=re.escape(path), timeout=20)
    one_line(outcome)
    if kind == "itself":
        assert "itself" in outcome.err


@pytest.mark.parametrize("kind", ["directory", "socket", "fifo", "character-device", "missing"])
def test_file_that_cannot_be_served(bench, kind):
    path = special_file(bench, kind)
    one_line(bench.refused("add", "-t", "loop", "-f", path, match=re.escape(path), timeout=20))


def test_read_only_file_for_a_device_that_is_written(bench, lab):
    where = lab.ext4(32)
    file = lab.file(where, 8 * MIB)
    sh("mount", "-o", "remount,ro", where)
    one_line(bench.attach(cli.program("loop"), "--file", file, match="read-only"))
    one_line(bench.refused("add", "-t", "loop", "-f", file, match="read-only"))
    # a device that is not written may have it
    device = lab.add("loop", file, read_only=True)
    device.attach("loop")


def test_file_of_coarser_alignment_than_the_device(bench, lab):
    disk = lab.null_blk(8, blocksize=4096)
    one_line(bench.attach(cli.program("loop"), "--file", disk.path, match="4096|align"))


# knobs


@pytest.mark.parametrize(
    "knob,match",
    [
        ("nonexistent=1", "nonexistent"),
        ("field=256", "field.*255|field.*fit"),
        ("field=-1", "field"),
        ("verdict=2147483648", "verdict"),
        ("verdict=-2147483649", "verdict"),
        ("value=18446744073709551616", "value"),
        ("value=", "value"),
        ("value=ten", "ten"),
        ("value=1x", "1x"),
        ("_license=1", "_license"),
    ],
)
def test_knob_that_does_not_exist_or_does_not_fit(bench, knob, match):
    one_line(bench.attach(cli.program("badsqe"), "--set", knob, match=match))


def test_knob_without_a_value(bench):
    one_line(bench.attach(cli.program("badsqe"), "--set", "field", match="field", status=MISUSED))


@pytest.mark.parametrize("knob", ["field=255", "value=18446744073709551615", "value=0x10", "expect=4294967295"])
def test_knob_that_just_fits(bench, knob):
    bench.device.attach("badsqe", {"op": 99})
    cli.ok("attach", "--dev", bench.device.id, cli.program("badsqe"), "--set", "op=99", "--set", knob, "--replace")
    bench.device.detach()


# adding


@pytest.mark.parametrize(
    "args,match,status",
    [
        (["-t", "tape", "-f", "/dev/null"], "tape", MISUSED),
        (["-t", "loop"], "-f|file", MISUSED),
        (["-t", "null", "-q", "0"], "-q|queues", MISUSED),
        (["-t", "null", "-d", "0"], "-d|depth", MISUSED),
        (["-t", "null", "-d", "4097"], "-d|depth|4096", MISUSED),
        (["-t", "null", "--block-size", "1000"], "block-size|block size", MISUSED),
        (["-t", "null", "--block-size", "8192"], "block-size|block size", MISUSED),
        (["-t", "null", "--size", "12x"], "size|12x", MISUSED),
        (["-t", "null", "--size", "100"], "size", MISUSED),
        (["-t", "null", "--size", "1000"], "multiple.*512", MISUSED),
        (["-t", "null", "--size", "6K", "--block-size", "4096"], "multiple.*4096", MISUSED),
        (["-t", "null", "--bogus"], "bogus", MISUSED),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_add_used_wrongly(bench, args, match, status):
    bench.refused("add", *args, match=match, status=status)


def test_add_beyond_the_end_of_the_file(bench, lab):
    disk = lab.null_blk(8)
    for extra in (["--size", "16M"], ["--offset", "8M"], ["--offset", "6M", "--size", "4M"]):
        one_line(bench.refused("add", "-t", "loop", "-f", disk.path, *extra, match=re.escape(disk.path)))


def test_add_of_an_id_that_is_taken(bench):
    one_line(bench.refused("add", "-t", "null", "-n", bench.device.id, match="exist", errno="EEXIST"))


@pytest.mark.parametrize("args", [[], ["frobnicate"], ["attach"], ["del"], ["attach", "--dev", "x"]], ids=str)
def test_command_line_used_wrongly(bench, args):
    before = bench.state()
    outcome = cli.run(*args)
    assert outcome.status == MISUSED, str(outcome)
    assert outcome.err.strip(), "not a word"
    assert bench.state() == before


# what the host lacks


def nobody():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


@pytest.mark.parametrize("command", ["add", "attach", "detach", "del"])
def test_without_root(bench, command):
    args = {
        "add": ["-t", "null"],
        "attach": ["-n", bench.device.id, cli.program("loop")],
        "detach": ["-n", bench.device.id],
        "del": ["-n", bench.device.id],
    }[command]
    one_line(bench.refused(command, *args, match="root", preexec=nobody))


def hidden(path, empty):
    """A mount namespace in which this path is not there."""
    mount = f"mount -t tmpfs none {path}" if empty == "dir" else f"mount --bind {empty} {path}"
    return ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"]


def test_without_the_ublk_module(bench):
    """Its control device is not there, and no module can be loaded."""
    for args in (["add", "-t", "null"], ["attach", "-n", bench.device.id, cli.program("loop")]):
        one_line(bench.refused(*args, match="ublk_drv|ublk-control", prefix=no_module()))


def no_module():
    return ["unshare", "-m", "sh", "-c",
            'mount -t tmpfs none /dev && (mount -t tmpfs none /lib/modules || :) && exec "$@"', "sh"]


def test_kernel_without_a_face(bench, face):
    if face != "struct_ops":
        pytest.skip("the BTF of this kernel cannot be hidden: it is the kernel's own")
    prefix = hidden("/sys/kernel/btf/ublk_drv", "/dev/null")
    probe = cli.run("probe", "--json", prefix=prefix)
    assert probe.status == 1 and probe.json["face"] == "none" and not probe.json["can_attach"], str(probe)
    text = cli.run("probe", prefix=prefix)
    assert text.status == 1 and "to attach programs: " in text.out.split("No program can be attached")[1], str(text)
    bench.attach(cli.program("loop"), match="kernel", prefix=prefix)
    # what still works
    fio_verify(bench.device.path, bs="4k", iodepth=4, size=MIB)
