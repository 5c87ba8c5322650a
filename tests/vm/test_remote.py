# SPDX-License-Identifier: MIT
"""A clone whose base is on another host, by NVMe over TCP, and its layer here: read, flattened, and what happens when the other host is gone."""

import contextlib
import fcntl
import itertools
import socket
import struct
from pathlib import Path

import cli
import pytest
from blockio import MIB, Opened, pattern
from cli import wait_for
from clones import OPS, SIZE, THREADS, Model, add, by_both, layer, refused, served_anew, take_over, where  # noqa: F401 (a fixture)
from lab import sh

# about the target, not about the face
pytestmark = pytest.mark.one_face

TARGET = Path("/sys/kernel/config/nvmet")
NUMBERS = itertools.count(1)
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
LOSS_SECONDS = 2  # after which the host gives up to look for the target


def loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


class Remote:
    """A disk of "another host", with blocks of 512 bytes, exported to this one over the loopback."""

    def __init__(self, lab, image):
        for module in ("nvmet", "nvmet-tcp", "nvme-tcp"):
            if sh("modprobe", "-q", module, check=False).returncode:
                pytest.skip(f"this kernel has no {module}")
        loopback_up()
        there = lab.null_blk(SIZE // MIB).path
        sh("dd", f"if={image}", f"of={there}", "bs=1M", "oflag=direct", "status=none")
        number = next(NUMBERS)
        self.nqn = f"test{number}"
        self.subsystem, self.port = TARGET / "subsystems" / self.nqn, TARGET / "ports" / str(number)
        self.link = self.port / "subsystems" / self.nqn
        lab.cleanup(self.remove)
        self.subsystem.mkdir()
        (self.subsystem / "attr_allow_any_host").write_text("1")
        (self.subsystem / "namespaces/1").mkdir()
        (self.subsystem / "namespaces/1/device_path").write_text(there)
        (self.subsystem / "namespaces/1/enable").write_text("1")
        self.port.mkdir()
        for name, value in ("trtype", "tcp"), ("adrfam", "ipv4"), ("traddr", "127.0.0.1"), ("trsvcid", str(4420 + number)):
            (self.port / f"addr_{name}").write_text(value)
        self.link.symlink_to(self.subsystem)
        with open("/dev/nvme-fabrics", "r+b", buffering=0) as fabrics:
            fabrics.write(f"transport=tcp,traddr=127.0.0.1,trsvcid={4420 + number},nqn={self.nqn},ctrl_loss_tmo={LOSS_SECONDS},"
                          f"reconnect_delay=1,fast_io_fail_tmo=1".encode())
        self.disk = wait_for("the disk", self.find)

    def blocks(self):
        for block in Path("/sys/class/block").glob("nvme*n*"):
            name = block / "device/subsysnqn"
            if name.exists() and name.read_text().strip() == self.nqn and Path("/dev", block.name).exists():
                yield f"/dev/{block.name}"

    def find(self):
        return next(self.blocks(), None)

    def vanish(self):
        """The other host is off: this one looks for it for a while."""
        self.link.unlink()

    def is_gone(self):
        return not self.find()

    def remove(self):
        for controller in Path("/sys/class/nvme").iterdir():
            # it may be going by itself
            with contextlib.suppress(OSError):
                if (controller / "subsysnqn").read_text().strip() == self.nqn:
                    (controller / "delete_controller").write_text("1")
        if self.link.is_symlink():
            self.link.unlink()
        if self.port.exists():
            self.port.rmdir()
        if self.subsystem.exists():
            if (self.subsystem / "namespaces/1").exists():
                (self.subsystem / "namespaces/1").rmdir()
            self.subsystem.rmdir()


@pytest.fixture
def image(lab, where):
    return lab.file(where, SIZE, sparse=False)


@by_both
def test_flattened_clone_does_not_notice_that_its_remote_base_goes_away(lab, where, image, bpf):
    remote = Remote(lab, image)
    delta = layer(where / "delta", base=remote.disk, base_format="raw")
    device = add(lab, delta, bpf)
    model = Model(lab, 4096)
    model("expect", image)
    model("open", device.path)
    model.begin("run", 4 * OPS, THREADS)
    cli.ok("flatten", "-n", device.id)
    model.end()
    model.begin("run", 4 * OPS, THREADS)
    remote.vanish()
    model.end()
    wait_for("the disk to be gone", remote.is_gone, timeout=60)
    model("run", OPS, THREADS)
    take_over(device)
    served_anew(lab, device, delta, model, bpf)


@by_both
def test_lost_remote_base_fails_what_only_it_has(lab, where, image, bpf):
    remote = Remote(lab, image)
    device = add(lab, layer(where / "delta", base=remote.disk, base_format="raw"), bpf)
    with Opened(device.path) as disk, open(image, "rb") as has:
        disk.write(0, pattern(0, 65536))
        disk.flush()
        assert disk.read(65536, 4096) == has.read(65536 + 4096)[65536:]
        remote.vanish()
        # not for ever
        with pytest.raises(OSError, match="Input/output error"):
            while True:
                disk.read(MIB, 4096)
        assert disk.read(0, 65536) == pattern(0, 65536)
        disk.write(2 * MIB, pattern(2 * MIB, 65536))
        disk.flush()
        assert disk.read(2 * MIB, 65536) == pattern(2 * MIB, 65536)
    refused(cli.run("flatten", "-n", device.id, "--json"), "EIO", "Input/output error")
    assert device.state() == "live"
    with Opened(device.path) as disk:
        assert disk.read(0, 65536) == pattern(0, 65536)
