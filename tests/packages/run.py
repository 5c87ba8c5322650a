# SPDX-License-Identifier: MIT
"""
What docs/install.md tells a user to type, typed on a host that has never seen this project, and what follows from it checked: scripts/test-packages.
Steps are done in their order on one host, whose disk goes on through reboots and updates.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

from claims import Claims, Skip, Stop
from machine import SCALE, Machine

TREE = Path(__file__).resolve().parents[2]
PAGE = (TREE / "docs/install.md").read_text()
BLOCKS = dict(re.findall(r"^```sh installed (\w+)\n((?:.*\n)*?)```$", PAGE, re.MULTILINE))
DISK = "/dev/disk/by-id/ublk-bpf-vm1"
UNIT = "ublk-bpf@vm1.service"
# What a user of the disk does meanwhile: rounds of writes that are verified, until told to stop; the first error ends them.
LOAD = r"""
cd /mnt/vm1
rm -f /run/load.*
n=0
while [ ! -e /run/load.stop ]; do
	fio --name=load --filename=/mnt/vm1/load --size=4M --bs=16k --rw=randwrite --iodepth=4 --ioengine=libaio --direct=1 --verify=crc32c \
		--verify_fatal=1 --randrepeat=0 --output=/run/load.fio || { cat /run/load.fio >/run/load.failed; break; }
	n=$((n + 1))
	echo $n >/run/load.rounds
done
"""


def section(text):
    print(f"\n{text}", flush=True)


class Host:
    """The machine, and what is asked of it again and again."""

    def __init__(self, machine, claims):
        self.machine, self.claims = machine, claims
        self.ok, self.run = machine.ok, machine.run

    def claim(self, text, needed=False):
        return self.claims.claim(text, needed)

    def block(self, name, timeout=600, before=""):
        return self.ok(f"cd /root\n{before}\n{BLOCKS[name]}", timeout)

    def loaded_srcversion(self):
        """Of the driver that runs; Debian's own has none."""
        return self.run("cat /sys/module/ublk_drv/srcversion 2>/dev/null").out

    def device(self, name="vm1"):
        """As `list` has it, or None."""
        devices = json.loads(self.ok("ublk-bpf list --json"))["devices"]
        return next((d for d in devices if d.get("name") == name), None)

    def wait(self, what, command, timeout=120):
        until = time.monotonic() + timeout * SCALE
        while True:
            outcome = self.run(command)
            if outcome.status == 0:
                return outcome.out
            assert time.monotonic() < until, f"{what}: not after {timeout} s\n{outcome}\n" + self.why()
            time.sleep(1)

    def why(self):
        return self.run(f"systemctl status --no-pager -n 30 '{UNIT}'; ublk-bpf list -v; findmnt /mnt/vm1; dmesg | tail -n 20").out

    def served(self):
        """The disk of the configuration is all that it should be; returns the server's process."""
        device = self.device()
        assert device, "there is no device vm1\n" + self.why()
        pid = self.ok(f"systemctl show -P MainPID {UNIT}")
        assert device["state"] == "live" and device["server"] and str(device["server"]["pid"]) == pid, f"{device}\nMainPID {pid}\n{self.why()}"
        assert device["bpf"] and device["bpf"]["attached"], f"no program: {device}"
        self.ok(f"systemctl is-active {UNIT}")
        mounted = self.ok("findmnt -no SOURCE /mnt/vm1")
        assert mounted == f"/dev/ublkb{device['dev_id']}", mounted
        return int(pid)

    def mounted(self):
        """After a boot: `nofail` lets the rest of it go on meanwhile."""
        self.wait("the file system", "findmnt /mnt/vm1", 300)
        return self.served()

    def has_takeover(self):
        """Linux 6.12's driver has none: docs/kernels.md."""
        return "quiesce" in json.loads(self.ok("ublk-bpf features --json"))["features"]

    def installed_program(self, pid):
        """Is what that process runs the command that is installed?"""
        runs, installed = self.ok(f"stat -Lc %i /proc/{pid}/exe /usr/sbin/ublk-bpf").split()
        return runs == installed

    def start_load(self):
        self.ok("rm -f /run/load.*")
        self.run(f"systemd-run -q --expand-environment=no --unit=load bash -c '{LOAD}'")
        self.wait("the first round of I/O", "test -s /run/load.rounds")

    def check_load(self):
        """No I/O has failed, and I/O goes on now."""
        rounds = int(self.ok("cat /run/load.rounds"))
        # a round may have begun before, the second has not
        self.wait("I/O", f"test ! -e /run/load.failed || exit 0; test $(cat /run/load.rounds) -ge {rounds + 2}", 180)
        failed = self.run("cat /run/load.failed")
        assert failed.status != 0, f"I/O has failed: {failed.out}\n{self.why()}"

    def stop_load(self):
        self.ok("touch /run/load.stop")
        self.wait("the end of I/O", "! systemctl is-active load")
        failed = self.run("cat /run/load.failed")
        assert failed.status != 0, f"I/O has failed: {failed.out}"


STEPS = []


def step(function):
    STEPS.append(function)
    return function


@step
def pristine(host):
    with host.claim("the host boots, and has nothing of this project", needed=True):
        host.ok("mkdir -p /media/files && mount -r LABEL=files /media/files && mkdir -p next && cp /media/files/1/*.deb . && cp /media/files/2/*.deb next/")
        assert host.run("command -v ublk-bpf || ls -d /etc/ublk-bpf || modinfo ublk_drv | grep ublk_bpf").status != 0
        host.ok("apt-get -q update && apt-get -q -y install --no-install-recommends fio", 600)
        assert host.ok("modinfo -F filename ublk_drv").endswith("/kernel/drivers/block/ublk_drv.ko.xz")


@step
def headers(host):
    build = f"/lib/modules/{host.machine.release}/build"
    with host.claim("without the kernel's headers the installation succeeds, says which ones, and the stock driver stays"):
        host.ok(f"mv {build} {build}.away")
        outcome = host.run("cd /root && apt-get install -y ./ublk-bpf_*.deb ./ublk-bpf-dkms_*.deb", 1200)
        said = [line for line in outcome.out.splitlines() if f"linux-headers-{host.machine.release}" in line]
        assert outcome.status == 0 and said, str(outcome)
        print("\n".join(said), flush=True)
        assert host.ok("modinfo -F filename ublk_drv").endswith("/kernel/drivers/block/ublk_drv.ko.xz")
        probe = host.run("modprobe ublk_drv; ublk-bpf probe")
        assert probe.status == 1 and "No program can be attached" in probe.out, str(probe)
    host.ok(f"apt-get purge -y ublk-bpf ublk-bpf-dkms; modprobe -r ublk_drv; mv {build}.away {build}", 600)


@step
def packages(host):
    with host.claim("the packages are installed by apt, and the driver is built for the running kernel", needed=True):
        host.ok("modprobe ublk_drv")
        assert not host.loaded_srcversion()
        print(host.block("packages", 2400), flush=True)
        status = host.ok("dkms status")
        assert re.search(rf"^ublk-bpf/\S+, {re.escape(host.machine.release)}, x86_64: installed", status, re.MULTILINE), status
        assert "/updates/dkms/ublk_drv.ko" in host.ok("modinfo -F filename ublk_drv")
    with host.claim("the stock driver was loaded and had no device: the new one has taken its place"):
        assert host.loaded_srcversion() == host.ok("modinfo -F srcversion ublk_drv") != ""
    with host.claim("the command, its manual pages and the programs are there"):
        host.ok("ublk-bpf --version; ls /usr/share/man/man8/ublk-bpf-up.8.gz /usr/lib/ublk-bpf/bpf/loop.bpf.o /usr/lib/systemd/system/ublk-bpf@.service")
    with host.claim("nobody but root may add devices"):
        host.ok("modprobe ublk_drv && udevadm settle")
        assert host.ok("stat -c %a:%U /dev/ublk-control") == "600:root"
    with host.claim("the driver is switched, and probe says that programs can be attached", needed=True):
        assert "A program can be attached" in host.block("switch")


@step
def device(host):
    with host.claim("a device by hand: added, formatted by its name, a program attached, deleted"):
        out = host.block("device")
        assert "vm1" in out and "loop" in out, out
        assert host.device() is None
    with host.claim("fio verifies what it writes through the program"):
        host.ok(f"ublk-bpf add -t loop -f /srv/vm1.img --name vm1 && ublk-bpf attach -n vm1 /usr/lib/ublk-bpf/bpf/loop.bpf.o && "
                f"fio --name=verify --filename={DISK} --size=16M --bs=64k --rw=randwrite --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c "
                "--verify_fatal=1")
        bpf = host.device()["bpf"]
        assert bpf["counters"]["redirected"] > 0, bpf
        host.ok("ublk-bpf del -n vm1; truncate -s 0 /srv/vm1.img; truncate -s 256M /srv/vm1.img; mkfs.ext4 -q -F /srv/vm1.img")


@step
def boot(host):
    with host.claim("a configuration, a unit and a line of fstab: served, its program attached, mounted", needed=True):
        host.block("boot")
        host.served()
        host.ok("head -c 1M /dev/urandom >/mnt/vm1/data && sha256sum /mnt/vm1/data >/root/data.sum && sync")
    with host.claim("a second one, whose file is on another file system, is tracked, and writes to it are listed", needed=True):
        host.ok("""truncate -s 64M /srv/more.img; mkfs.ext4 -q -F /srv/more.img; mkdir /more; echo '/srv/more.img /more ext4 loop 0 2' >>/etc/fstab
            mkdir /etc/systemd/system/ublk-bpf@vm2.service.d
            printf '[Unit]\nRequiresMountsFor=/more\n' >/etc/systemd/system/ublk-bpf@vm2.service.d/files.conf; systemctl daemon-reload
            echo '{"type": "loop", "file": "/more/vm2.img", "track": "/more/vm2.track"}' >/etc/ublk-bpf/vm2.json
            systemctl start more.mount; truncate -s 16M /more/vm2.img
            systemctl enable --now ublk-bpf@vm2; udevadm settle; ublk-bpf track mark -n vm2
            dd if=/dev/urandom of=/dev/disk/by-id/ublk-bpf-vm2 bs=64k seek=16 count=1 oflag=direct status=none""")
        before = json.loads(host.ok("ublk-bpf track list -n vm2 --json"))["extents"]
        assert [e["start"] for e in before] == [1 << 20], before
    with host.claim("a third one has no program, and a service that writes to it as it is stopped", needed=True):
        host.ok("""truncate -s 64M /srv/vm3.img; mkfs.ext4 -q -F /srv/vm3.img; mkdir /mnt/vm3
            echo '{"type": "loop", "file": "/srv/vm3.img"}' >/etc/ublk-bpf/vm3.json; systemctl enable --now ublk-bpf@vm3
            echo '/dev/disk/by-id/ublk-bpf-vm3 /mnt/vm3 ext4 nofail 0 2' >>/etc/fstab
            printf '[Unit]\nRequiresMountsFor=/mnt/vm3\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\n%s\n' \
                'ExecStop=dd if=/root/data.sum of=/mnt/vm3/late conv=fsync' >/etc/systemd/system/writer.service
            systemctl daemon-reload; systemctl start mnt-vm3.mount writer""")
        ids = {host.device(name)["dev_id"] for name in ("vm1", "vm3")}
    with host.claim("after a reboot the device is served, its program attached, and its file system mounted from fstab", needed=True):
        host.machine.reboot()
        host.wait("the boot", "systemctl is-system-running | grep -E 'running|degraded'", 300)
        host.mounted()
        host.ok("sha256sum -c /root/data.sum")
    with host.claim("and the tracked one has not forgotten what was written before"):
        host.wait("the second device", "systemctl is-active ublk-bpf@vm2")
        after = json.loads(host.ok("ublk-bpf track list -n vm2 --json"))["extents"]
        assert after == before, after
    with host.claim("its file system was unmounted before, as it was deleted"):
        said = host.ok("journalctl -b -1 -o cat --no-pager")
        assert "Unmounted more.mount" in said and "Failed unmounting" not in said, said
    with host.claim("the others were served until their file systems were unmounted, so that the service could write"):
        host.wait("the third device", "findmnt /mnt/vm3", 300)
        host.ok("cmp /mnt/vm3/late /root/data.sum")
        for name in "vm1", "vm3":
            assert f"Stopping ublk-bpf@{name}.service" not in said[:said.rindex(f"Unmounted mnt-{name}.mount")], said
    with host.claim("the shutdown before it has deleted the devices, so that the root file system could be made read-only"):
        said = host.machine.console_before()
        assert "Restarting system" in said and "Device or resource busy" not in said, said
        said = host.ok("journalctl -b -1 -u ublk-bpf-shutdown -o cat --no-pager")
        deleted = re.search(r'"deleted":\s*\[([^]]*)\]', said)
        assert deleted and ids <= {int(n) for n in re.findall(r"\d+", deleted[1])} and "error" not in said, said
    host.ok("""systemctl disable ublk-bpf@vm2 ublk-bpf@vm3; systemctl stop writer mnt-vm3.mount; ublk-bpf down vm2 vm3; systemctl stop more.mount
        sed -i '/more.img/d; /vm3/d' /etc/fstab; rm -r /etc/ublk-bpf/vm[23].json /srv/more.img /srv/vm3.img /more /mnt/vm3
        rm -r /etc/systemd/system/writer.service /etc/systemd/system/ublk-bpf@vm2.service.d; systemctl daemon-reload""")
    with host.claim("no unit has failed"):
        failed = host.ok("systemctl --failed --plain --no-legend")
        assert not failed, failed


@step
def unit(host):
    host.start_load()
    takeover = host.has_takeover()
    if not takeover:
        with host.claim("without takeover, reload of the unit fails and says why: the same server, no I/O fails"):
            before = host.served()
            assert host.run(f"systemctl reload {UNIT}").status != 0
            said = host.ok(f"journalctl -b -u {UNIT} -o cat --no-pager")
            assert "UBLK_F_QUIESCE" in said, said
            assert host.served() == before
            host.check_load()
    for verb in ("reload", "restart", "kill") if takeover else ("restart", "kill"):
        with host.claim(f"{verb} of the unit: another server, no I/O fails, nothing is unmounted"):
            before = host.served()
            if verb == "kill":
                host.ok(f"kill -9 {before}")
                host.wait("another server", f"pid=$(systemctl show -P MainPID {UNIT}); test $pid != 0 && test $pid != {before} && systemctl is-active {UNIT}")
            else:
                host.ok(f"systemctl {verb} {UNIT}")
            assert host.served() != before
            host.check_load()
    with host.claim("the server is in the unit's own group of processes, and the kernel spares it when memory is short"):
        pid = host.served()
        assert UNIT in host.ok(f"cat /proc/{pid}/cgroup")
        assert host.ok(f"cat /proc/{pid}/oom_score_adj") == "-900"
    with host.claim("no I/O has failed until the end"):
        host.stop_load()
    with host.claim("a disk in use whose device cannot wait for a server is not pulled by stop: it is served until it is free, and gone then"):
        host.ok("""truncate -s 16M /srv/plain.img; echo '{"type": "loop", "file": "/srv/plain.img", "recovery": false}' >/etc/ublk-bpf/plain.json
            mkdir -p /run/systemd/system/ublk-bpf@plain.service.d
            printf '[Service]\nTimeoutStopSec=3\n' >/run/systemd/system/ublk-bpf@plain.service.d/test.conf
            systemctl daemon-reload; systemctl start ublk-bpf@plain; udevadm settle""")
        before = host.device("plain")
        host.ok("systemd-run -q --unit=user bash -c 'sleep infinity <>/dev/disk/by-id/ublk-bpf-plain'")
        host.wait("the user of the disk", f"fuser -s /dev/ublkb{before['dev_id']}" if host.run("command -v fuser").status == 0 else "sleep 3")
        host.run("systemctl stop ublk-bpf@plain", 900)
        assert host.device("plain")["server"]["pid"] == before["server"]["pid"]
        host.ok("dd if=/dev/zero of=/dev/disk/by-id/ublk-bpf-plain bs=4k count=16 oflag=direct conv=fsync status=none", 60)
        host.ok("systemctl stop user")
        host.wait("its end", "! ublk-bpf list --json | grep -q plain")
        host.ok("systemctl reset-failed 'ublk-bpf@plain' || true; rm -r /etc/ublk-bpf/plain.json /run/systemd/system/ublk-bpf@plain.service.d; systemctl daemon-reload")


@step
def upgrade(host):
    host.start_load()
    takeover = host.has_takeover()
    for what, block in ("upgrade", BLOCKS["upgrade"]), ("downgrade", BLOCKS["upgrade"].replace("install -y", "install -y --allow-downgrades")):
        server = "the server is the installed version's" if takeover else "the server stays, which is said, until the unit is restarted"
        with host.claim(f"{what} of the packages under I/O: {server}, no I/O fails, nothing is unmounted"):
            before = host.served()
            said = host.ok(f"cd {'/root/next' if what == 'upgrade' else '/root'}\n{block}", 2400)
            print(said, flush=True)
            version = host.ok("dpkg-query -Wf '${Version}' ublk-bpf")
            assert version.endswith("+next1") == (what == "upgrade"), version
            if not takeover:
                assert f"{UNIT} is served by the version before: systemctl restart" in said
                assert host.served() == before and not host.installed_program(before)
                host.check_load()
                host.ok(f"systemctl restart {UNIT}")
            after = host.served()
            assert after != before and host.installed_program(after)
            host.check_load()
    with host.claim("no I/O has failed until the end of it"):
        host.stop_load()


@step
def wrong(host):
    with host.claim("a configuration of a wrong type is refused, by check and by the unit, in one line that says where"):
        host.ok("""echo '{"type": "loop", "file": "/srv/vm1.img", "queues": "two"}' >/etc/ublk-bpf/wrong.json""")
        check = host.run("ublk-bpf config check")
        said = [line for line in check.out.splitlines() if "wrong" in line]
        assert check.status == 1 and len(said) == 1 and "queues" in said[0], str(check)
        assert host.run("systemctl start ublk-bpf@wrong").status != 0
        said = host.ok("journalctl -b -u ublk-bpf@wrong -o cat --no-pager")
        assert "queues" in said, said
        host.ok("systemctl stop ublk-bpf@wrong; rm /etc/ublk-bpf/wrong.json; systemctl reset-failed 'ublk-bpf@wrong' || true")
    with host.claim("a file that is gone at boot: the boot goes on, the unit says why, the other device is there", needed=True):
        host.ok("""truncate -s 16M /srv/gone.img; echo '{"type": "loop", "file": "/srv/gone.img"}' >/etc/ublk-bpf/gone.json
            systemctl enable --now ublk-bpf@gone; mkdir -p /mnt/gone
            echo "/dev/disk/by-id/ublk-bpf-gone /mnt/gone ext4 nofail,x-systemd.device-timeout=30s 0 2" >>/etc/fstab
            ublk-bpf down gone; rm /srv/gone.img""")
        host.machine.reboot()
        print(host.wait("what the unit says", "systemctl status --no-pager -l -n 20 ublk-bpf@gone | grep '/srv/gone.img.*No such file'"), flush=True)
        assert host.run("systemctl is-active ublk-bpf@gone").status != 0
        host.mounted()
        host.ok("sed -i /gone/d /etc/fstab; systemctl disable ublk-bpf@gone; rm /etc/ublk-bpf/gone.json; systemctl daemon-reload; systemctl reset-failed")


@step
def kernel(host):
    later = (Path(host.machine.mirror).parent / "later").read_text().strip()
    if not later:
        with host.claim("an update of the kernel"):
            raise Skip(f"Debian has one kernel of the series of {host.machine.release}")
        return
    with host.claim(f"an update of the kernel: DKMS builds the driver for {later}", needed=True):
        host.ok(f"apt-get install -y linux-image-{later} linux-headers-{later}", 2400)
        assert re.search(rf"{re.escape(later)}, x86_64: installed", host.ok("dkms status")), host.ok("dkms status")
    with host.claim("and the device is back on it, its program attached, its file system mounted", needed=True):
        host.machine.reboot()
        assert host.machine.release == later
        host.mounted()
        host.ok("sha256sum -c /root/data.sum")


@step
def removal(host):
    with host.claim("packages whose device is mounted are not removed, and the device goes on"):
        pid = host.served()
        outcome = host.run("apt-get purge -y ublk-bpf", 600)
        assert outcome.status != 0 and "/mnt/vm1" in outcome.out and "is in use" in outcome.out, str(outcome)
        assert host.served() == pid
        host.ok("ublk-bpf --version; dpkg --audit; echo there >/mnt/vm1/there; sync")
    with host.claim("the commands of the page remove it", needed=True):
        print(host.block("removal", 900), flush=True)
        host.ok("sha256sum /srv/vm1.img")
    with host.claim("nothing is left of it, for no kernel, and the stock driver is there again"):
        # What udev and systemd keep of devices and units they delete later, when they have nothing else to do.
        left = host.ok("find / /run /dev -xdev '(' -name '*ublk-bpf*' -o -name '*ublkbpf*' -o -name '*ublk_bpf*' -o -path '/dev/ublk[bc]*'"
                       " -o -path '/usr/lib/modules/*/updates/*ublk_drv*' ')' -not -path '/root/*' -not -path '/sys/*'"
                       " -not -path '/var/lib/apt/*' -not -path '/run/udev/*' -not -path '/run/systemd/units/*' | sort")
        assert not left, left
        assert "ublk" not in host.ok("dkms status; ls /etc/systemd/system/*.wants; ls /lib/udev/rules.d /run/udev 2>/dev/null; cat /etc/fstab")
        host.ok("modprobe -r ublk_drv; modprobe ublk_drv")
        assert host.ok("modinfo -F filename ublk_drv").endswith("/kernel/drivers/block/ublk_drv.ko.xz")
        assert not host.loaded_srcversion() and not host.ok("modinfo -F srcversion ublk_drv")
    with host.claim("no unit has failed, and the host shuts down"):
        failed = host.ok("systemctl --failed --plain --no-legend")
        assert not failed, failed
        host.machine.end()


def main():
    parser = argparse.ArgumentParser()
    for name in "host", "files", "out", "khz":
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("steps", nargs="*")
    args = parser.parse_args()
    names = [s.__name__ for s in STEPS]
    if unknown := set(args.steps) - set(names):
        sys.exit(f"test-packages: no such step: {' '.join(unknown)}; there are {' '.join(names)}")
    began = time.monotonic()
    claims = Claims("packages", lambda text: print(f"[{time.monotonic() - began:5.0f}s] {text}", flush=True))
    machine = Machine(args.host, args.out, args.files, args.khz)
    host = Host(machine, claims)
    last = max((names.index(s) for s in args.steps), default=len(names) - 1)
    optional = {"headers", "unit", "upgrade", "wrong", "kernel"}
    try:
        with claims.claim("a Debian 13 boots", needed=True):
            machine.boot()
        for one in STEPS[:last + 1]:
            if args.steps and one.__name__ in optional and one.__name__ not in args.steps:
                continue
            section(one.__name__)
            one(host)
    except Stop as e:
        print(f"what follows needs: {e}", flush=True)
    finally:
        machine.kill()
        claims.write(Path(args.out) / "junit.xml")
    return claims.verdict()


if __name__ == "__main__":
    sys.exit(main())
