# SPDX-License-Identifier: MIT
"""
A Debian host in a virtual machine: its disk stays from one boot to the next, its kernel and initramfs are those on its disk, and what it is
told to run goes through a port of QEMU's to tests/packages/agent.
"""

import base64
import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path


# Other suites run beside this one: what has a deadline gets more time.
SCALE = int(os.environ.get("UBLK_BPF_TIME_SCALE", "2" if os.environ.get("UBLK_BPF_BUSY") == "1" else "1"))


class Lost(Exception):
    """The machine does not answer any more."""


class Outcome:
    def __init__(self, command, status, out):
        self.command, self.status, self.out = command, status, out

    def __str__(self):
        return f"$ {self.command}\n{self.out}\n(status {self.status})"


class Machine:
    def __init__(self, disks, work, files, khz):
        self.work, self.khz = Path(work), khz
        self.work.mkdir(parents=True, exist_ok=True)
        self.root = self.work / "root.img"
        shutil.rmtree(self.work / "boot", ignore_errors=True)
        # A copy that takes the space of what is in it.
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", Path(disks) / "root.img", self.root], check=True)
        self.mirror = Path(disks) / "mirror.img"
        self.files = files
        self.qemu = self.port = None
        self.boots = 0
        self.consoles = []
        self.number = 0

    def dump(self, path, to):
        """A file of the disk's, symbolic links followed, while the machine is off."""
        for _ in range(8):
            found = subprocess.run(["/usr/sbin/debugfs", "-R", f"stat {path}", self.root], capture_output=True, text=True, check=False).stdout
            if "Type: symlink" in found:
                target = re.search(r'Fast link dest: "(.*)"', found)[1]
                path = os.path.normpath(os.path.join(os.path.dirname(path), target))
                continue
            subprocess.run(["/usr/sbin/debugfs", "-R", f"dump {path} {to}", self.root], capture_output=True, check=True)
            if Path(to).exists() and Path(to).stat().st_size:
                return
            break
        raise Lost(f"the host's disk has no {path}")

    def boot(self, timeout=600):
        """
        Boots the kernel that /vmlinuz of the disk is, as a bootloader would. Once more if the emulator tripped over code that the kernel
        patched while it booted, as scripts/vm does.
        """
        for last in False, True:
            try:
                self.boot_once(timeout)
                self.consoles.append(self.console)
                return
            except Lost:
                if last or "Oops: int3" not in self.console.read_text(errors="replace"):
                    raise
                self.kill()

    def boot_once(self, timeout):
        subprocess.run(["/usr/sbin/e2fsck", "-p", self.root], capture_output=True, check=False)
        self.dump("/vmlinuz", self.work / "vmlinuz")
        self.dump("/initrd.img", self.work / "initrd")
        self.boots += 1
        self.console = self.work / f"console-{self.boots}"
        sock = self.work / "agent"
        sock.unlink(missing_ok=True)
        args = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35,usb=off", "-m", "2560",
                "-accel", "tcg,thread=multi", "-smp", os.environ.get("UBLK_BPF_PACKAGES_SMP", "2"), "-cpu", "max,-cx16",
                "-kernel", self.work / "vmlinuz", "-initrd", self.work / "initrd",
                "-append", f"root=LABEL=root ro console=ttyS0 loglevel=5 tsc=reliable tsc_early_khz={self.khz} panic=-1 watchdog_thresh=60 "
                           "rcupdate.rcu_cpu_stall_timeout=120 random.trust_cpu=on systemd.show_status=false "
                           "systemd.default_timeout_start_sec=900 systemd.default_device_timeout_sec=900",
                "-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console",
                "-device", "virtio-serial-pci",
                "-chardev", f"socket,id=agent,path={sock},server=on,wait=off", "-device", "virtserialport,chardev=agent,name=agent",
                "-device", "nvme,id=vm,serial=vm"]
        for number, (image, readonly) in enumerate(((self.root, False), (self.mirror, True), (self.files, True)), 1):
            args += ["-drive", f"if=none,id=d{number},file={image},format=raw,cache=unsafe,discard=unmap" + (",readonly=on" if readonly else ""),
                     "-device", f"nvme-ns,bus=vm,drive=d{number},nsid={number}"]
        self.log = open(self.work / "qemu.log", "ab")
        self.qemu = subprocess.Popen([str(a) for a in args], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        until = time.monotonic() + 30
        while True:
            try:
                self.port = socket.socket(socket.AF_UNIX)
                self.port.connect(str(sock))
                break
            except OSError as e:
                if time.monotonic() > until or self.qemu.poll() is not None:
                    raise Lost("QEMU does not start: " + (self.work / "qemu.log").read_text()) from e
                time.sleep(0.1)
        self.pending = b""
        while True:
            word, release, _ = self.line(timeout).split(" ")
            if word == "ready":
                self.release = release
                return

    def line(self, timeout):
        until = time.monotonic() + timeout * SCALE
        while b"\n" not in self.pending:
            left = until - time.monotonic()
            if left <= 0:
                raise Lost(f"no answer after {timeout * SCALE} s\n{self.tail()}")
            self.port.settimeout(left)
            try:
                got = self.port.recv(65536)
            except TimeoutError:
                continue
            if not got:
                raise Lost(f"the machine has ended\n{self.tail()}")
            self.pending += got
        line, _, self.pending = self.pending.partition(b"\n")
        return line.decode().strip()

    def console_before(self):
        """What the boot before this one has printed until it was off."""
        return self.consoles[-2].read_text(errors="replace")

    def tail(self):
        return "--- console\n" + "\n".join(self.console.read_text(errors="replace").splitlines()[-40:])

    def run(self, command, timeout=300):
        """bash runs it; both outputs are one."""
        self.number += 1
        self.port.sendall(f"{self.number} {timeout * SCALE} {base64.b64encode(command.encode()).decode()}\n".encode())
        while True:
            number, status, out = (self.line(timeout + 60) + " ").split(" ")[:3]
            if number == str(self.number):
                return Outcome(command, int(status), base64.b64decode(out).decode(errors="replace").rstrip("\n"))

    def ok(self, command, timeout=300):
        outcome = self.run("set -eo pipefail\n" + command, timeout)
        assert outcome.status == 0, str(outcome)
        return outcome.out

    def reboot(self, timeout=600):
        """systemd shuts down, and the machine boots what is on its disk then."""
        self.end("reboot", timeout)
        self.boot()

    def end(self, how="poweroff", timeout=600):
        # It may be down before the agent has answered.
        with suppress(Lost):
            self.run(f"systemctl {how} --no-block", 30)
        try:
            self.qemu.wait(timeout * SCALE)
        except subprocess.TimeoutExpired as e:
            raise Lost(f"the host does not {how}\n{self.tail()}") from e
        finally:
            self.kill()

    def kill(self):
        if self.qemu:
            self.qemu.kill()
            self.qemu.wait()
            self.port.close()
            self.log.close()
            self.qemu = None
