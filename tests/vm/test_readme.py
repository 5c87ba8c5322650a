# SPDX-License-Identifier: MIT
"""
What README.md and docs/*.md tell people to type does what they say. The word after `sh` says where: `guest` blocks are run here, line by
line, in a directory that has the programs' objects; of `tracing` the same holds where the kernel has tracepoints; `make` blocks name
targets of the Makefile; `host` blocks change a real host; `author` blocks compile (tests/scripts/test_docs.py), and `installed` ones are run by
tests/packages.

After each line every device that can serve I/O is written to and read, directly or through its file system, and what was written must be
in the files that `list` names. What a line's comment says, and what the text says of a line, is in CLAIMS: a comment without a row fails.
"""

import contextlib
import mmap
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import cli
import pytest
from blockio import MIB, Opened
from cli import wait_for

# about the command and its server more than about a kernel's driver
pytestmark = [pytest.mark.one_face, pytest.mark.quick_tests(99)]

BLOCK = re.compile(r"^```(\w+) *(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
COMMENT = re.compile(r"\s#\s+(.*)$")
README = cli.TREE / "README.md"
PAGES = [README, *sorted((cli.TREE / "docs").glob("*.md"))]
KINDS = ("guest", "tracing", "make", "host", "author", "installed")
PIECE = 4096


def blocks(page, kind=None):
    found = [(m[2].strip(), m[3]) for m in BLOCK.finditer(page.read_text()) if m[1] == "sh"]
    return [text for info, text in found if info == kind] if kind else found


def commands(text):
    """The lines of a block; one that ends in a backslash goes on."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


class Step:
    """A line that was run: what it printed, and the devices before and after, as `list` has them, by number."""

    def __init__(self, where, output, before, after):
        self.where, self.output, self.before, self.after = where, output, before, after

    def same_server(self, dev_id):
        return self.before[dev_id]["server"]["pid"] == self.after[dev_id]["server"]["pid"]


def the_program_goes_on_serving(step):
    """The server is dead; the I/O that follows each line then has only the program."""
    wait_for("the server to be missed", lambda: devices()[5]["state"] == "quiesced")
    return step.before[5]["server"] and not devices()[5]["server"] and devices()[5]["bpf"]["attached"]


def another_program(step):
    bpf = step.after[1]["bpf"]
    return Path(bpf["object"]).name == "loop.bpf.o" and bpf["knobs"]["offset"] == 0 and bpf["files"] == [str(step.where / "disk.img")]


# Part of a line to what must be so after it.
CLAIMS = {
    "says dev id 0: it is /dev/ublkb0, served by a process in user space": lambda s: s.output.startswith("dev id 0: ")
    and s.after[0]["block"] == "/dev/ublkb0" and s.after[0]["server"] and not s.after[0]["bpf"]["attached"],
    "from here on the kernel serves it; nothing is unmounted or stopped": lambda s: s.after[0]["bpf"]["attached"]
    and s.same_server(0) and os.path.ismount(s.where / "mnt"),
    "wake-ups and CPU of the server, what the program redirected and passed": lambda s: all(
        word in s.output for word in ("wakeups", "cpu", "redirected", "passed")),
    "the server again": lambda s: not s.after[0]["bpf"]["attached"] and s.same_server(0),
    "b.img begins at 32 MiB": lambda s: s.after[1]["bpf"]["files"][1] == str(s.where / "b.img") and s.after[1]["bpf"]["knobs"]["split_sectors"] == 65536,
    "kill -9": the_program_goes_on_serving,
    "recover -n 5": lambda s: s.after[5]["state"] == "live" and s.after[5]["server"] and s.after[5]["bpf"]["attached"],
    "--set offset=0 --replace": another_program,
    "the new version's; no I/O fails": lambda s: not s.same_server(6) and s.after[6]["state"] == "live",
    "resize -n 6": lambda s: s.before[6]["size_bytes"] == 64 * MIB and s.after[6]["size_bytes"] == 96 * MIB,
    "ublk-bpf gc": lambda s: not s.after,
    "deletes every device that nobody uses": lambda s: not s.after,
    "file 0 is disk.img, which the device serves": lambda s: s.after[0]["bpf"]["files"] == [str(s.where / "disk.img")],
    "counters: what was redirected, passed, and refused if any was": lambda s: all(word in s.output for word in ("redirected", "passed")),
    "what was written until now is sealed; the device goes on": lambda s: s.after[8]["state"] == "live"
    and [Path(one["path"]).name for one in s.after[8]["layers"]] == ["vm1.delta", "monday.delta", "a.img"],
    "a second device that has the same": lambda s: len(s.after) == len(s.before) + 1
    and [one for d in s.after.values() for one in d["files"] if one.endswith("vm2.delta")],
    "what has changed since it was the image: what a backup has to copy": lambda s: "data" in s.output,
    "back to the snapshot": lambda s: s.before[8]["layers"][0]["uuid"] != s.after[8]["layers"][0]["uuid"]
    and s.before[8]["layers"][1:] == s.after[8]["layers"][1:],
    "vm1.delta needs nothing below it any more": lambda s: [Path(one["path"]).name for one in s.after[8]["layers"]] == ["vm1.delta"],
    "how many blocks it has": lambda s: " of 8192 blocks of 4096 bytes present" in s.output,
    "then copy all of the device": lambda s: "the first one: begin with a full copy" in s.output,
    "what to copy now": lambda s: "mark 'tuesday'" in s.output and "  data" in s.output,
    "adds it": lambda s: [d["name"] for d in s.after.values() if d["dev_id"] not in s.before] == ["vm1"],
    "was up: nothing to do": lambda s: ": was up, " in s.output and s.before.keys() == s.after.keys()
    and all(map(s.same_server, s.after)),
    "a new server, of this version; no I/O fails": lambda s: not s.same_server(number_of("vm1")) and s.after[number_of("vm1")]["state"] == "live",
    "what all devices do, once a second": lambda s: len(s.output.splitlines()) == 2 * (1 + len(s.after)) and s.output.startswith("DEVICE"),
    "accepted, and its knob and map": lambda s: "knob offset: u64, 0" in s.output and "map seen of mypolicy: array of 8 entries" in s.output
    and "program mypolicy: accepted" in s.output,
    "requests by operation": lambda s: '"value":' in s.output,
    "dev id 0: ...": lambda s: s.output.startswith("dev id 0: "),
}


def devices():
    return {d["dev_id"]: d for d in cli.devices()}


def number_of(name):
    return next(d["dev_id"] for d in devices().values() if d["name"] == name)


def claims_about(line):
    comment = COMMENT.search(line)
    if comment and comment[1] in CLAIMS:
        return [comment[1]]
    return [text for text in CLAIMS if text in line.split("  #")[0]]


def mount_of(path):
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return next((Path(m[1]) for m in mounts if m[0] == path), None)


def holds(file, piece, likely=0):
    """Are these random bytes in the file? Looks at the likely place first."""
    with open(file, "rb") as f:
        if os.pread(f.fileno(), len(piece), likely) == piece:
            return True
        with mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as content:
            return content.find(piece) >= 0


def io_through_files(where, files):
    piece = os.urandom(PIECE)
    name = where / "test_readme"
    with open(name, "wb") as f:
        f.write(piece)
        f.flush()
        os.fsync(f.fileno())
    assert any(holds(file, piece) for file in files), f"what was written below {where} is in none of {files}"
    name.unlink()


def io_on(path, size, files):
    """Writes pieces at the beginning, the middle and the end, finds them again, and puts back what was there."""
    with Opened(path) as disk:
        for offset in (0, size // 2 - PIECE, size // 2, size - PIECE):
            old, piece = disk.read(offset, PIECE), os.urandom(PIECE)
            disk.write(offset, piece)
            disk.flush()
            assert disk.read(offset, PIECE) == piece, f"{path}: other bytes at {offset} than were written"
            assert any(holds(file, piece, offset) for file in files), f"{path}: what was written at {offset} is in none of {files}"
            disk.write(offset, old)


def check_io(device):
    """What the device serves is in the files that it says, and a program that is attached does the work."""
    program = device["bpf"]["attached"]
    if not program and device["state"] != "live":
        return
    files = device["bpf"]["files"] if program else device["files"]
    if not files:  # null
        with Opened(device["block"]) as disk:
            disk.read(0, PIECE)
        return
    where = mount_of(device["block"])
    if where:
        io_through_files(where, files)
    else:
        io_on(device["block"], device["size_bytes"], files)
    if program:
        counted = devices()[device["dev_id"]]["bpf"]["counters"]
        assert counted["redirected"] > device["bpf"]["counters"]["redirected"], f"{device['block']}: no request was redirected"
        assert counted["failed"] == counted["aborted"] == 0, f"{device['block']}: {counted}"


@contextlib.contextmanager
def readers(live):
    """I/O on live devices meanwhile, none of which may fail."""
    done, errors = threading.Event(), []

    def read(path):
        try:
            with Opened(path, flags=os.O_RDONLY) as disk:
                while not done.is_set():
                    disk.read(0, PIECE)
        except OSError as e:
            errors.append(f"{path}: {e}")

    threads = [threading.Thread(target=read, args=(d["block"],)) for d in live]
    for thread in threads:
        thread.start()
    yield
    done.set()
    for thread in threads:
        thread.join()
    assert not errors, errors


def run_line(line, where):
    before = devices()
    with readers(before.values() if "takeover" in line or "attach" in line else ()):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=where,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=cli.seconds(120),
            check=False,
        )
    assert done.returncode == 0, f"{line}: status {done.returncode}:\n{done.stdout}"
    step = Step(where, done.stdout, before, devices())
    for text in claims_about(line):
        assert CLAIMS[text](step), f"{line}: it is not so that {text!r}:\n{done.stdout}{step.after}"
    for device in devices().values():
        check_io(device)


@pytest.fixture
def desk(lab, monkeypatch):
    """A directory as a reader would have it: the programs' objects, and the command on the PATH."""
    assert not cli.devices(), "the examples begin with device 0"
    for obj in (*cli.OBJ_DIR.glob("*.bpf.o"), cli.TEST_OBJ_DIR / "tiny.bpf.o", cli.TEST_OBJ_DIR / "mypolicy.bpf.o"):
        shutil.copy(obj, lab.tmp)
    monkeypatch.setenv("PATH", f"{Path(cli.COMMAND).parent}:{os.environ['PATH']}")
    yield lab.tmp
    subprocess.run(["umount", str(lab.tmp / "mnt")], stderr=subprocess.DEVNULL, check=False)
    cli.run("del", "-a")


def make_images(where, size):
    for name in "disk.img", "a.img", "b.img":
        with open(where / name, "wb") as f:
            f.truncate(size)


def test_every_command_says_where_it_is_run():
    for page in PAGES:
        unknown = [info for info, _ in blocks(page) if info.split()[0] not in KINDS]
        assert not unknown, f"{page.name} has blocks that no test looks at: {unknown}"
    assert blocks(README, "guest") and blocks(README, "make")


def test_every_comment_beside_a_command_is_a_claim_that_is_checked():
    lines = [line for page in PAGES for kind in ("guest", "tracing") for text in blocks(page, kind) for line in commands(text)]
    comments = {c[1] for c in map(COMMENT.search, lines) if c}
    assert comments <= set(CLAIMS), f"say in CLAIMS how these are checked: {comments - set(CLAIMS)}"
    unused = [text for text in CLAIMS if not any(text in claims_about(line) for line in lines)]
    assert not unused, f"no page says so any more: {unused}"


def test_make_targets_exist():
    makefile = (cli.TREE / "Makefile").read_text()
    named = [line.split()[1] for text in blocks(README, "make") for line in text.splitlines() if line.startswith("make ")]
    named += re.findall(r"`make ([a-z-]+)", README.read_text())
    assert {"demo", "test"} <= set(named)
    for target in set(named):
        assert re.search(rf"^{target}:|^[a-z -]* {target}:|^{target} [a-z -]*:", makefile, re.MULTILINE), \
            f"README.md names `make {target}`, which does not exist"


def test_lines_that_it_explains_are_the_commands_own():
    command = Path(cli.COMMAND).read_bytes()
    rows = re.findall(r"^\| `([^`]+)` \|", README.read_text().split("### When something is wrong")[1].split("\n## ")[0], re.MULTILINE)
    assert len(rows) >= 4
    for row in rows:
        for part in re.split(r" N ", row):
            assert part.encode() in command, f"no line of the command's has {part!r} ({row})"


def test_commands_for_a_host_with_a_face(desk):
    for text in blocks(README, "guest"):
        for line in commands(text):
            run_line(line, desk)


@pytest.mark.every
@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page, "guest")], ids=lambda page: page.stem)
def test_commands_of_a_page(page, desk):
    """Each block alone, with a loop device 0 over disk.img if it does not add one."""
    for text in blocks(page, "guest"):
        make_images(desk, 32 * MIB)
        if "ublk-bpf add" not in text:
            run_line("ublk-bpf add -t loop -f disk.img", desk)
        for line in commands(text):
            run_line(line, desk)
        run_line("ublk-bpf del -a  # deletes every device that nobody uses", desk)


@pytest.mark.full  # test_bench.py runs the same command
@pytest.mark.skipif(not cli.TRACEPOINTS, reason="this kernel has no tracepoints")
def test_commands_for_a_host_with_tracepoints(desk):
    assert blocks(README, "tracing")
    make_images(desk, 64 * MIB)
    for text in blocks(README, "tracing"):
        for line in commands(text):
            run_line(line, desk)
