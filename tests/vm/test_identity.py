# SPDX-License-Identifier: MIT
"""A name is not an identity: what has the name of a device's file by now, or has it in another name space, is not served without a word."""

import os
from pathlib import Path

import cli
import pytest
from blockio import MIB, Opened, pattern
from lab import sh
from leftovers import STATE, nothing_is_left  # noqa: F401 (a fixture)
from test_badinput import FAILED, check_refusal
from test_kill import kill_server, quiesced

# about the command and its server, not about the face
pytestmark = pytest.mark.one_face

SIZE = 8 * MIB
OURS, OTHER = pattern(0, 4096, 1), pattern(0, 4096, 2)


def made(path, content, size=SIZE):
    with open(path, "wb") as f:
        f.write(content)
        f.truncate(size)
    return str(path)


def content(device):
    with Opened(device.path, flags=os.O_RDONLY) as f:
        return f.read(0, 4096)


def replaced(file):
    """Another file by the same name."""
    os.rename(file, f"{file}.ours")
    return made(file, OTHER)


def refused(*args, words=(), errno="ESTALE"):
    outcome = cli.run(*args, "--json")
    lines = check_refusal(outcome, "|".join(words) or ".", FAILED, errno)
    assert len(lines) == 1 and all(w in lines[0] for w in words), str(outcome)


def both(file):
    """How an error names the file that is there and the device's."""
    there, ours = os.stat(file), os.stat(f"{file}.ours")
    return [file, f"is inode {there.st_ino} on", f"device's is inode {ours.st_ino} on", "--changed-file"]


@pytest.fixture
def device(lab):
    made_of = lab.ext4_file(8)
    made(made_of, OURS)
    device = lab.add("loop", made_of, r=1)
    device.file = made_of
    return device


def another_namespace(file):
    """A prefix for a command that sees another file by this name."""
    hide = 'mount -t tmpfs none "$1" && cp "$2" "$3" && shift 3 && exec "$@"'
    return ["unshare", "-m", "sh", "-c", hide, "sh", os.path.dirname(file), made(f"/tmp/{os.path.basename(file)}", OTHER), file]


@pytest.mark.face
def test_attach_takes_the_file_that_the_server_has(lab, device):
    def attached(prefix=()):
        outcome = cli.run("attach", "-n", device.id, cli.program("loop"), prefix=prefix)
        assert outcome.status == 0, str(outcome)
        assert content(device) == OURS and device.counters()["redirected"] > 0
        device.detach()

    prefix = another_namespace(device.file)
    lab.cleanup(os.unlink, f"/tmp/{os.path.basename(device.file)}")
    attached(prefix)
    replaced(device.file)
    attached()
    os.unlink(f"{device.file}.ours")
    attached()
    os.unlink(device.file)
    attached()


@pytest.mark.face
def test_attach_without_a_server_compares(device):
    kill_server(device)
    quiesced(device)
    replaced(device.file)
    refused("attach", "-n", device.id, cli.program("loop"), words=both(device.file))
    assert not device.info()["bpf"]["attached"]
    device.attach("loop", changed_file=True)
    assert content(device) == OTHER


@pytest.mark.face
def test_attach_of_a_file_that_is_too_small_is_refused(lab, device):
    os.truncate(device.file, MIB)
    refused("attach", "-n", device.id, cli.program("loop"), errno="EINVAL", words=[device.file, str(MIB), str(SIZE)])
    os.truncate(device.file, SIZE)
    refused("attach", "-n", device.id, cli.program("loop"), "--set", "offset=4096", errno="EINVAL", words=["from 4096 on"])
    device.attach("loop")


@pytest.mark.parametrize("how", ["recover", "takeover"])
def test_new_server_of_another_file_is_refused(device, how):
    if how == "recover":
        kill_server(device)
        quiesced(device)
    before = device.state()
    replaced(device.file)
    refused(how, "-n", device.id, words=both(device.file))
    assert device.state() == before
    cli.ok(how, "-n", device.id, "--changed-file")
    assert content(device) == OTHER
    # which is the device's from now on
    cli.ok("takeover", "-n", device.id)
    os.rename(f"{device.file}.ours", device.file)
    refused("takeover", "-n", device.id)


def test_size_of_another_file_is_not_taken(device):
    os.truncate(replaced(device.file), 2 * SIZE)
    refused("resize", "-n", device.id, words=both(device.file))
    assert device.info()["size_bytes"] == SIZE
    assert cli.ok("resize", "-n", device.id, "--changed-file")["size_bytes"] == 2 * SIZE


def test_new_file_with_the_inode_number_of_the_old_one_is_another(device):
    was = os.stat(device.file).st_ino
    kill_server(device)
    quiesced(device)
    # a file system gives a number that is free again to the next file
    os.unlink(device.file)
    made(device.file, OTHER)
    if os.stat(device.file).st_ino != was:
        pytest.skip("the file system has not used the number again")
    refused("recover", "-n", device.id, words=[f"is inode {was} on"])


def test_disk_is_known_by_the_name_that_the_user_gave_and_by_itself(lab):
    ours, other = (lab.kernel_loop(made(lab.tmp / name, what)) for name, what in (("a", OURS), ("b", OTHER)))
    link = lab.tmp / "by-id"
    link.symlink_to(ours)
    device = lab.add("loop", str(link), r=1)
    assert device.info()["files"] == [str(link)]
    cli.ok("takeover", "-n", device.id)
    link.unlink()
    link.symlink_to(other)
    number = (Path("/sys/class/block") / Path(other).name / "diskseq").read_text().strip()
    refused("takeover", "-n", device.id, words=[str(link), f"number {number}", "--changed-file"])
    assert content(device) == OURS
    # another disk under the kernel's old name
    link.unlink()
    link.symlink_to(ours)
    kill_server(device)
    quiesced(device)
    sh("losetup", "-d", ours)
    sh("losetup", ours, lab.tmp / "b")
    refused("recover", "-n", device.id)
    cli.ok("recover", "-n", device.id, "--changed-file")
    assert content(device) == OTHER


def test_file_of_another_device_is_refused_unless_shared(lab, device):
    hard_link = f"{device.file}.link"
    os.link(device.file, hard_link)
    for name in (device.file, hard_link):
        refused("add", "-t", "loop", "-f", name, errno="EBUSY", words=[name, f"ublkb{device.id}", "--shared"])
        refused("add", "-t", "loop", "-f", name, "--read-only", "--offset", "4M", errno="EBUSY")
    lab.add("loop", hard_link, shared=True).delete()
    # of a dead one nothing is left to lose
    cli.ok("stop", "-n", device.id)
    halves = [lab.add("loop", device.file, offset=at, size=SIZE // 2) for at in (0, SIZE // 2)]
    for half in halves:
        half.delete()
    readers = [lab.add("loop", device.file, read_only=True) for _ in range(2)]
    for reader in readers:
        reader.delete()
    refused("add", "-t", "loop", "-f", device.file, "-f", hard_link, errno="EBUSY", words=["another -f"])


@pytest.mark.face
def test_program_gets_no_file_of_another_device_unless_shared(lab, device):
    hard_link, spare = f"{device.file}.link", f"{device.file}.spare"
    os.link(device.file, hard_link)
    made(spare, OTHER)
    one, two = (lab.add("null", size=SIZE) for _ in range(2))
    attach = "attach", cli.program("loop"), "-n"
    for name in (device.file, hard_link):
        refused(*attach, one.id, "--file", name, errno="EBUSY", words=[name, f"ublkb{device.id}", "--shared"])
    one.attach("loop", file=hard_link, shared=True)
    assert content(one) == OURS
    # what its own server has anyway
    device.attach("loop")
    device.attach("loop", file=device.file, replace=True)
    # nor what another program has
    one.attach("loop", file=spare, replace=True)
    refused(*attach, two.id, "--file", spare, errno="EBUSY", words=[spare, f"program of ublkb{one.id}", "--shared"])
    refused("add", "-t", "loop", "-f", spare, errno="EBUSY", words=[spare, f"program of ublkb{one.id}", "--shared"])
    two.attach("loop", {"offset": SIZE}, file=made(spare, OTHER, 2 * SIZE))
    one.attach("loop", file=spare, replace=True)
    refused(*attach, one.id, "--replace", "--file", spare, "--set", "offset=512", errno="EBUSY", words=[f"{SIZE} to {2 * SIZE}"])
    two.detach()
    one.attach("loop", {"offset": 512}, file=spare, replace=True)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"new\nline", b"a blank", b"back\\slash", b"tab\t\x1b[31m", "größe".encode()])
def test_file_of_any_name_is_recovered_and_shown_in_one_line(lab, name):
    path = os.fsdecode(os.path.join(os.fsencode(lab.ext4(32)), name))
    device = lab.add("loop", made(path, OURS), r=1)
    plain = lab.add("null", size=MIB)
    kill_server(device)
    quiesced(device)
    cli.ok("recover", "-n", device.id)
    assert content(device) == OURS
    found = device.info()
    if name == b"\xff\xfe":
        assert found["files_bytes"] == [path.replace("\udcff", "%FF").replace("\udcfe", "%FE")]
        assert found["files"][0].endswith("/\ufffd\ufffd")
    else:
        assert found["files"] == [path] and "files_bytes" not in found
    text = cli.run("list", "-n", device.id).out
    assert len(text.splitlines()) == len(cli.run("list", "-n", plain.id).out.splitlines())
    assert "\x1b" not in text
    assert text.isprintable() or set("".join(c for c in text if not c.isprintable())) <= {"\n", "\t"}
    os.unlink(path)
    outcome = cli.run("takeover", "-n", device.id)
    assert outcome.status == 1 and len(outcome.err.splitlines()) == 1, str(outcome)
    made(path, OTHER)


def test_state_keeps_names_that_are_not_utf8(lab):
    path = os.fsdecode(os.path.join(os.fsencode(lab.ext4(32)), b"50%\xff"))
    device = lab.add("loop", made(path, OURS))
    text = (STATE / f"{device.id}.json").read_text("utf-8")
    assert "/50%25%FF" in text


@pytest.mark.full
@pytest.mark.face
def test_cache_is_that_of_the_disk(lab):
    def cache(device):
        return (Path("/sys/class/block") / Path(device.path).name / "queue/write_cache").read_text().strip()

    through, back = lab.null_blk(8).path, lab.null_blk(8, cache_size=1).path
    file = lab.ext4_file(8)
    cases = [(through, {}, "write through"), (through, {"buffered": True}, "write back"), (through, {"write_back": True}, "write back"),
             (through, {"read_only": True}, "write through"), (back, {}, "write back"), (file, {}, "write back")]
    for path, opts, want in cases:
        device = lab.add("loop", path, **{"write_back": False, **opts})
        assert cache(device) == want, (path, opts)
        device.delete()
    device = lab.add("loop", through, write_back=False)
    outcome = device.try_attach("loop", file=file)
    check_refusal(outcome, "flush.*--write-back", FAILED, "EINVAL")
    device.attach("loop", replace=True)
    device.delete()
    lab.add("loop", through).attach("loop", file=file)
