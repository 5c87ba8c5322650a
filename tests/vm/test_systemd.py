# SPDX-License-Identifier: MIT
"""
ublk-bpf@NAME.service under a real systemd: process 1 of a PID and mount namespace of its own, with its own /run, /etc/fstab, journal and
udev. It is started and powered off as a host is.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import cli
import pytest
from blockio import MIB, Load, Opened
from cli import wait_for
from lab import sh

# about the command and its service, not about the face
pytestmark = pytest.mark.one_face

UNITS = cli.TREE / "packaging"
RULES = cli.TREE / "packaging/65-ublk-bpf-name.rules"
SYSTEMD = "/usr/lib/systemd/systemd"
CGROUPS = Path("/sys/fs/cgroup")
# of a target that needs no more than a host does before anybody logs in
TARGET = "[Unit]\nRequires=sysinit.target\nWants=local-fs.target\nAfter=sysinit.target local-fs.target\nAllowIsolate=yes\n"
# What runs before systemd in its namespaces: what it must not share with the guest.
SETUP = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 run /run
echo $$ >"$1/cgroup.procs"
mount --bind "$2/etc-systemd" /etc/systemd/system
mount --bind "$2/fstab" /etc/fstab
mount --bind "$2/etc" /etc/ublk-bpf
mount --bind "$2/machine-id" /etc/machine-id
mount --bind "$2/shutdown" /usr/lib/systemd/systemd-shutdown
mkdir -p /run/udev/rules.d
cp "$3" /run/udev/rules.d/
exec 0</dev/null >>"$2/console" 2>&1
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_LOG_TARGET=console "$4" --system --unit=ublk-test.target --show-status=0
"""

# In place of systemd's own, which would make the guest's root read-only: what still runs is told to end, and process 1 ends last. What is
# still mounted of ours then is noted, and what devices there are.
SHUTDOWN = """#!/bin/bash
{{ findmnt -rn -o SOURCE | grep ublk; ls /sys/class/ublk-char; }} >"{dir}/left"
kill -TERM -1
for _ in {{1..600}}; do
	pgrep . | grep -qvE "^(1|$BASHPID)$" || break
	sleep 0.1
done
"""


def unit_text(name):
    return (UNITS / f"{name}.in").read_text().replace("@CMAKE_INSTALL_FULL_SBINDIR@", str(Path(cli.COMMAND).parent))


class Host:
    """A systemd that is booted, told things, and powered off."""

    def __init__(self, lab):
        self.lab = lab
        self.dir = lab.tmp / "host"
        units = self.dir / "etc-systemd"
        units.mkdir(parents=True)
        (self.dir / "etc").mkdir()
        self.mnt = self.dir / "mnt"
        self.mnt.mkdir()
        (self.dir / "fstab").write_text("")
        (self.dir / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        for name in "ublk-bpf@.service", "ublk-bpf-shutdown.service":
            (units / name).write_text(unit_text(name))
        (units / "final.target.wants").mkdir()
        (units / "final.target.wants/ublk-bpf-shutdown.service").symlink_to("../ublk-bpf-shutdown.service")
        (units / "ublk-test.target").write_text(TARGET)
        shutdown = self.dir / "shutdown"
        shutdown.write_text(SHUTDOWN.format(dir=self.dir))
        shutdown.chmod(0o755)
        # /tmp is the guest's
        (units / "tmp.mount").symlink_to("/dev/null")
        # what takes long under emulation, and is not about disks
        for name in ("systemd-hwdb-update", "ldconfig", "systemd-update-done", "systemd-firstboot", "systemd-random-seed",
                     "systemd-timesyncd", "systemd-networkd", "systemd-logind", "systemd-binfmt", "kmod-static-nodes",
                     "systemd-udev-hwdb-update", "systemd-journal-catalog-update", "mdmonitor", "systemd-sysusers", "systemd-pcrphase"):
            (units / f"{name}.service").symlink_to("/dev/null")
        Path("/etc/ublk-bpf").mkdir(exist_ok=True)
        Path("/etc/fstab").touch()
        Path("/etc/machine-id").touch()
        self.cgroup = CGROUPS / "ublk-test-host"
        self.process = None

    def configure(self, name, **keys):
        (self.dir / "etc" / f"{name}.json").write_text(json.dumps(keys))

    def drop_in(self, name, text):
        where = self.dir / "etc-systemd" / f"ublk-bpf@{name}.service.d"
        where.mkdir(exist_ok=True)
        (where / "test.conf").write_text(text)

    def enable(self, name):
        wants = self.dir / "etc-systemd" / "local-fs.target.wants"
        wants.mkdir(exist_ok=True)
        (wants / f"ublk-bpf@{name}.service").symlink_to("/etc/systemd/system/ublk-bpf@.service")

    def boot(self):
        self.cgroup.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", SETUP, "host", self.cgroup, self.dir, RULES, SYSTEMD],
            stdin=subprocess.DEVNULL)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.init = int(wait_for("process 1", lambda: children.read_text().strip()))
        wait_for("systemd", self.is_booted, timeout=180)

    def is_booted(self):
        assert self.process.poll() is None, (self.dir / "console").read_text()
        done = self.run("systemctl", "is-active", "ublk-test.target")
        return done.stdout.strip() == "active"

    def run(self, *argv):
        return sh("nsenter", "-t", self.init, "-m", "-p", *argv, check=False)

    def ok(self, *argv):
        done = self.run(*argv)
        assert done.returncode == 0, f"{argv}: {done.stdout}\n{self.why()}"
        return done.stdout

    def why(self):
        return self.run("journalctl", "--no-pager", "-n", "40", "-o", "short-monotonic", "_TRANSPORT=stdout", "_TRANSPORT=syslog",
                        "_TRANSPORT=journal").stdout + (self.dir / "console").read_text()[-3000:]

    def show(self, name, what):
        return self.ok("systemctl", "show", "-P", what, f"ublk-bpf@{name}.service").strip()

    def devices(self):
        return {d["name"]: d for d in json.loads(self.ok(cli.COMMAND, "list", "--json"))["devices"]}

    def power_off(self):
        """As a host: all services and file systems end."""
        left = self.dir / "left"
        left.unlink(missing_ok=True)
        self.run("systemctl", "start", "--no-block", "--job-mode=replace-irreversibly", "poweroff.target")
        try:
            wait_for("the last step", left.exists, timeout=120)
            wait_for("the servers to end", lambda: all(d["server"] is None for d in cli.devices()), timeout=60)
            still = left.read_text()
        except AssertionError as e:
            why = self.why()
            self.process.kill()
            raise AssertionError(f"it does not power off\n{why}") from e
        finally:
            # Whatever is left: what udev just reads of one would otherwise wait for its server, and process 1 for udev.
            cli.run("del", "-a", "--force")
            self.process.wait(cli.seconds(60))
            self.process = None
        assert not still, f"is still there when the last processes are told to end: {still}"

    def close(self):
        try:
            if self.process:
                self.power_off()
        finally:
            cli.run("del", "-a", "--force")
            with contextlib.suppress(OSError):
                self.remove_cgroups()

    def remove_cgroups(self):
        for path, _, _ in os.walk(self.cgroup, topdown=False):
            os.rmdir(path)


@pytest.fixture
def host(lab):
    if not shutil.which("systemctl"):
        pytest.fail("the guest has no systemd")
    machine = Host(lab)
    yield machine
    machine.close()


def outer_pid(host, pid):
    """The number that the guest has for a process of the host's."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            line = next(line for line in status.read_text().splitlines() if line.startswith("NSpid:"))
            numbers = line.split()[1:]
            if len(numbers) == 2 and int(numbers[1]) == int(pid):
                return int(numbers[0])
    raise AssertionError(f"no process {pid}\n{host.why()}")


def test_unit_is_valid(lab):
    where = lab.tmp / "units"
    where.mkdir()
    for name in "ublk-bpf@.service", "ublk-bpf-shutdown.service":
        (where / name).write_text(unit_text(name))
    (where / "ublk-bpf@x.service").symlink_to("ublk-bpf@.service")
    done = sh("systemd-analyze", "verify", "--man=no", where / "ublk-bpf@x.service", where / "ublk-bpf-shutdown.service", check=False)
    ours = [line for line in done.stdout.splitlines() if "ublk-bpf" in line]
    assert done.returncode == 0 and not ours, done.stdout


@pytest.mark.full
def test_a_device_of_a_host_that_boots_reloads_crashes_and_boots_again(lab, host):
    image = lab.file(lab.tmp, 64 * MIB)
    sh("mkfs.ext4", "-q", "-F", image)
    host.configure("vm1", type="loop", file=image)
    host.enable("vm1")
    (host.dir / "fstab").write_text(f"/dev/disk/by-id/ublk-bpf-vm1 {host.mnt} ext4 nofail 0 0\n")
    host.boot()
    unit = "ublk-bpf@vm1.service"
    host.ok("systemctl", "start", unit)
    assert host.show("vm1", "ActiveState") == "active", host.why()
    device = host.devices()["vm1"]
    server = int(host.show("vm1", "MainPID"))
    assert device["server"]["pid"] == server
    where = outer_pid(host, server)
    assert f"ublk-bpf@vm1.service" in Path(f"/proc/{where}/cgroup").read_text()
    assert Path(f"/proc/{where}/oom_score_adj").read_text().strip() == "-900"
    # mounted from fstab, by its name
    wait_for("the mount", lambda: host.run("findmnt", str(host.mnt)).returncode == 0, timeout=60)
    data = os.urandom(MIB)
    (lab.tmp / "data").write_bytes(data)
    host.ok("cp", str(lab.tmp / "data"), f"{host.mnt}/data")

    # reload, restart and a crash, under I/O of which none fails, on the mounted file system
    mounted = Path(f"/proc/{host.init}/root{host.mnt}")
    (mounted / "load").write_bytes(bytes(8 * MIB))
    servers = [server]
    with Load(mounted / "load", size=4 * MIB) as load:
        for verb in ("reload", "restart", "kill"):
            if verb == "kill":
                os.kill(outer_pid(host, servers[-1]), signal.SIGKILL)
                wait_for("the next server", lambda: host.show("vm1", "MainPID") not in ("0", str(servers[-1]))
                         and host.show("vm1", "ActiveState") == "active", timeout=60)
            else:
                host.ok("systemctl", verb, unit)
            rounds = load.rounds
            wait_for("I/O", lambda: (load.check(), load.rounds > rounds)[1], timeout=120)
            servers.append(int(host.show("vm1", "MainPID")))
            assert host.show("vm1", "ActiveState") == "active" and servers[-1] != servers[-2], host.why()
            assert host.devices()["vm1"]["server"]["pid"] == servers[-1]
            assert host.run("findmnt", str(host.mnt)).returncode == 0, f"{verb} has unmounted it\n{host.why()}"
    host.power_off()

    assert not cli.devices()
    host.boot()
    wait_for("the mount", lambda: host.run("findmnt", str(host.mnt)).returncode == 0, timeout=60)
    assert Path(f"/proc/{host.init}/root{host.mnt}/data").read_bytes() == data


@pytest.mark.full
def test_a_unit_that_cannot_start_says_why_and_the_boot_goes_on(lab, host):
    host.configure("gone", type="loop", file=str(lab.tmp / "gone.img"))
    host.configure("good", type="null", size="1M")
    host.drop_in("gone", "[Service]\nRestart=no\n")
    for name in ("gone", "good"):
        host.enable(name)
    host.boot()
    wait_for("the unit that fails", lambda: host.show("gone", "ActiveState") == "failed", timeout=60)
    wait_for("the other", lambda: host.show("good", "ActiveState") == "active", timeout=60)
    assert "gone.img" in host.ok("journalctl", "--no-pager", "-u", "ublk-bpf@gone")
    assert list(host.devices()) == ["good"]


@pytest.mark.full
def test_a_disk_in_use_is_not_pulled_by_stop(lab, host):
    image = lab.file(lab.tmp, 16 * MIB)
    host.configure("vm1", type="loop", file=image, recovery=False)
    host.drop_in("vm1", "[Service]\nTimeoutStopSec=3\n")
    host.boot()
    host.ok("systemctl", "start", "ublk-bpf@vm1")
    device = host.devices()["vm1"]
    with Opened(device["block"]) as disk:
        host.run("systemctl", "stop", "ublk-bpf@vm1")
        assert host.devices()["vm1"]["server"]["pid"] == device["server"]["pid"], host.why()
        disk.write(0, b"x" * 4096)
        disk.flush()
    wait_for("it to end once it is free", lambda: not host.devices(), timeout=60)
    assert Path(image).read_bytes()[:4096] == b"x" * 4096
