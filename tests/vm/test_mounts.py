# SPDX-License-Identifier: MIT
"""A server holds no mount of the host's: after umount a device and its file system are free, whatever their mount points are called."""

import ctypes
import json
import os
import subprocess

import cli
import pytest
from blockio import MIB
from cli import wait_for
from lab import sh
from leftovers import nothing_is_left  # noqa: F401 (a fixture)
from test_kill import kill_server, quiesced

# about the command and its server more than about a kernel's driver
pytestmark = pytest.mark.one_face

# what the kernel escapes in its table of mounts, and what is not UTF-8
NAMES = [b"plain", b"my disk", b"tab\there", b"new\nline", b"back\\slash", b"octal\\040", b" ends ", b"\xff\xfe", "größe #1".encode()]
CONTENT = os.urandom(MIB)
libc = ctypes.CDLL(None, use_errno=True)


# System calls, as the commands of the same names make paths absolute first.


def mount(device, point):
    if libc.mount(os.fsencode(device), os.fsencode(point), b"ext4", 0, None):
        raise OSError(ctypes.get_errno(), "mount", point)


def umount(point):
    if os.path.ismount(point) and libc.umount2(os.fsencode(point), 0):
        raise OSError(ctypes.get_errno(), "umount", point)


class Mounted:
    """A device with a file system, mounted at each of the names."""

    def __init__(self, lab, names=NAMES):
        self.file = lab.file(lab.tmp, 32 * MIB)
        self.device = lab.add("loop", self.file, r=1)
        sh("mkfs.ext4", "-q", "-F", self.device.path)
        self.points = [os.path.join(os.fsencode(lab.tmp), name) for name in names]
        for point in self.points:
            os.mkdir(point)
            mount(self.device.path, point)
            lab.cleanup(umount, point)

    def umount_all(self):
        for point in self.points:
            umount(point)

    def is_free(self):
        """Nobody has it mounted, in whatever namespace."""
        try:
            os.close(os.open(self.device.path, os.O_RDWR | os.O_EXCL))
            return True
        except OSError:
            return False


def mounts_of(pid):
    with open(f"/proc/{pid}/mountinfo") as f:
        return [line.split()[4] for line in f]


def new_server(lab, device, how):
    if how == "other":
        return lab.add("null", size=MIB).server_pid()
    if how == "recover":
        kill_server(device)
        quiesced(device)
    outcome = cli.run(how, "-n", device.id)
    assert outcome.status == 0 and not outcome.err, str(outcome)
    return device.server_pid()


@pytest.mark.parametrize("how", ["takeover", "recover", "other"])
def test_what_was_written_before_umount_is_there_after_del(lab, how):
    mounted = Mounted(lab)
    pid = new_server(lab, mounted.device, how)
    assert mounts_of(pid) == ["/"]
    with open(os.path.join(mounted.points[1], b"f"), "wb") as f:
        f.write(CONTENT)
    mounted.umount_all()
    assert mounted.is_free()
    mounted.device.delete()
    where = lab.mount(lab.kernel_loop(mounted.file))
    assert (where / "f").read_bytes() == CONTENT


def test_server_in_the_foreground_leaves_the_directory_that_it_was_started_in(lab):
    mounted = Mounted(lab, [b"here"])
    argv = [cli.COMMAND, "add", "-t", "null", "--size", str(MIB), "--foreground", "--json"]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=mounted.points[0])
    lab.cleanup(server.wait, cli.seconds(30))
    lab.cleanup(server.terminate)
    json.loads(server.stdout.readline())
    mounted.umount_all()
    assert mounted.is_free()


def test_mount_that_stays_is_named_and_goes_when_the_host_unmounts_it(lab):
    """One that has a longer path than a system call takes."""
    mounted = Mounted(lab, [])
    # as systemd has them
    sh("mount", "--make-rshared", "/")
    lab.cleanup(sh, "mount", "--make-rprivate", "/")
    home = os.getcwd()
    lab.cleanup(os.chdir, home)
    os.chdir(lab.tmp)
    for _ in range(20):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    os.mkdir("deep")
    mount(mounted.device.path, "deep")
    lab.cleanup(umount, "deep")
    outcome = cli.run("takeover", "-n", mounted.device.id)
    assert outcome.status == 0, str(outcome)
    assert "keeps mounts" in outcome.err and "/deep (ENAMETOOLONG)" in outcome.err, str(outcome)
    assert len(outcome.err.splitlines()) == 1
    umount("deep")
    wait_for("the mount to be gone", mounted.is_free, 5)


def test_memory_is_locked_without_the_right_to_be_an_io_flusher(lab):
    outcome = cli.run("add", "-t", "null", "--size", MIB, "--json", prefix=["setpriv", "--bounding-set", "-sys_resource"])
    assert outcome.status == 0 and "PR_SET_IO_FLUSHER" in outcome.err, str(outcome)
    device = cli.Device(outcome.json)
    lab.cleanup(device.delete)
    assert mounts_of(device.server_pid()) == ["/"]
    with open(f"/proc/{device.server_pid()}/status") as f:
        locked = next(int(line.split()[1]) for line in f if line.startswith("VmLck:"))
    assert locked > 0
