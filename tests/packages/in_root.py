# SPDX-License-Identifier: MIT
"""
The packages in the file system of a host that is not booted: what apt, dpkg and DKMS do with them, at this machine's speed. The rest needs a
host that runs: run.py.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from claims import Claims, Stop
from machine import Outcome

TREE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tests/scripts"))
import test_install  # noqa: E402  # what uses an installation
import test_pages  # noqa: E402

# The host's root in $1, the mirror of packages in $2; $3 is run there. Nothing of it reaches this host, nor a network.
ENTER = r"""
set -e
mount --bind "$2" "$1/mirror"
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/tmp"
mount -t tmpfs -o mode=755 tmpfs "$1/dev"
for d in null zero full random urandom; do : >"$1/dev/$d"; mount --bind "/dev/$d" "$1/dev/$d"; done
cd /
exec chroot "$1" env -i --chdir=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
	DEBIAN_FRONTEND=noninteractive bash -c "$3"
"""
LEFT = r"""find / -xdev '(' -name '*ublk-bpf*' -o -name '*ublkbpf*' -o -name '*ublk_bpf*' -o -path '/usr/lib/modules/*/updates/*ublk_drv*' ')' \
	-not -path '/root/*' -not -path '/proc/*' | sort
dkms status | grep ublk || true"""
# A driver from before is loaded; what would load another only says so.
LOADED = r"""mount -t tmpfs tmpfs /sys
mkdir -p /sys/module/ublk_drv /sys/class/ublk-char /tmp/bin
echo before >/sys/module/ublk_drv/srcversion
printf '#!/bin/sh\necho "modprobe: $*"\n' >/tmp/bin/modprobe
chmod +x /tmp/bin/modprobe
echo "DPkg::Path \"/tmp/bin:$PATH\";" >/tmp/apt.conf
export APT_CONFIG=/tmp/apt.conf
"""
SWITCH = "modprobe: -r ublk_drv\nmodprobe: ublk_drv"
# A copy: DKMS puts the host's aside.
STOCK = "/root/stock.ko.xz"
PACKAGES = "./{0}/ublk-bpf_*.deb ./{0}/ublk-bpf-dkms_*.deb"


class Root:
    def __init__(self, host, where):
        self.root, self.mirror = where / "root", where / "mirror"
        for name in "root", "mirror":
            (where / name).mkdir()
            subprocess.run(["/usr/sbin/debugfs", "-R", f"rdump / {where / name}", Path(host) / f"{name}.img"], capture_output=True, check=True)
        self.release = (Path(host) / "release").read_text().strip()

    def run(self, command):
        done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--net", "--propagation", "private", "bash", "-c", ENTER, "in-root",
                               self.root, self.mirror, "set -eo pipefail\n" + command],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
        return Outcome(command, done.returncode, done.stdout.rstrip("\n"))

    def ok(self, command):
        outcome = self.run(command)
        assert outcome.status == 0, str(outcome)
        return outcome.out


def ours(said):
    """The lines of our own."""
    return [line for line in said.splitlines() if re.match("ublk-bpf(-dkms)?: ", line)]


def undo(line):
    """The commands that a line ends with."""
    return line.partition(" To undo that: ")[2]


def before_it_is_built(host, claim):
    build = f"/lib/modules/{host.release}/build"
    driver = f"modinfo -k {host.release} -F filename ublk_drv"
    stock = host.ok(driver)
    by_hand = f"/lib/modules/{host.release}/updates/ublk_drv.ko"
    with claim("without the kernel's headers the installation succeeds and says which ones, and the stock driver stays"):
        host.ok(f"apt-get -q update && mv {build} {build}.away")
        out = host.ok(f"apt-get install -y {PACKAGES.format(1)}")
        assert "please install the linux-headers-" in out, out
        assert not ours(out), out
        assert host.ok(driver) == stock
        host.ok("apt-get purge -y ublk-bpf ublk-bpf-dkms")
        assert not host.ok(LEFT), host.ok(LEFT)
    with claim("another driver that modprobe would load is named, in one line that says how to undo it"):
        host.ok(f"mkdir -p $(dirname {by_hand}) && xz -dc {stock} >{by_hand} && depmod {host.release}")
        out = host.ok(f"apt-get install -y {PACKAGES.format(1)}")
        said = ours(out)
        assert len(said) == 1 and f"{host.release} loads {by_hand}, which is neither" in said[0], out
        host.ok(undo(said[0]))
        assert host.ok(driver) == stock
    host.run("apt-get purge -y ublk-bpf ublk-bpf-dkms")
    host.ok(f"mv {build}.away {build}; rm -f {by_hand}; depmod {host.release}")
    with claim("with a full /var the installation fails, its last line says so, the stock driver stays, and dpkg finishes it when there is space"):
        outcome = host.run(f"mount -t tmpfs -o size=64k tmpfs /var/lib/dkms && apt-get install -y {PACKAGES.format(1)}")
        said = ours(outcome.out)
        assert outcome.status != 0 and said and "/var/lib/dkms has only" in said[-1] and "dpkg --configure -a" in said[-1], str(outcome)
        assert len([line for line in said if line.startswith("ublk-bpf-dkms")]) == 1, said
        assert host.ok(driver) == stock
        host.ok("dpkg --configure -a")
        assert "/updates/dkms/" in host.ok(driver)


def other_kernels(host, claim):
    """Each has its stock driver and headers, and DKMS is told of it as in an update of the kernel."""
    headers = host.ok(f"readlink -f /lib/modules/{host.release}/build")
    series = ".".join(host.release.split(".")[:2])

    def skipped(kernel, left_out=""):
        """What DKMS says."""
        where = f"/lib/modules/{kernel}"
        host.ok(f"""mkdir -p {where}/kernel/drivers/block {where}/build && cp {STOCK} {where}/kernel/drivers/block/ublk_drv.ko.xz
            cp -rs {headers}/. {where}/build/ && depmod {kernel}""")
        if left_out:
            host.ok(f"rm {where}/build/{left_out}")
        out = host.ok(f"/etc/kernel/postinst.d/dkms {kernel}")
        assert f"Autoinstall on {kernel} was skipped for module(s) ublk-bpf." in out, out
        own = f"{where}/kernel/drivers/block/ublk_drv.ko.xz"
        assert host.ok(f"modinfo -k {kernel} -F filename ublk_drv && cmp {own} {STOCK}") == own
        return out

    with claim("an update to a kernel that there is no driver for succeeds, it keeps its own, and a line says why"):
        out = skipped("9.9.9-test")
        assert len([line for line in out.splitlines() if line == "which does not match this kernel/arch/config."]) == 1, out
    with claim("so does one to a kernel whose headers have no BTF: the line is in the log that is named"):
        out = skipped(f"{series}.99-test", "vmlinux")
        log = host.ok("cat " + re.search("Consult (/.*) for more", out)[1]).splitlines()
        assert len([line for line in log if line.startswith("ublk-bpf: ") and "vmlinux is missing, so that the module would have no BTF" in line]) == 1, log
    host.ok("rm -r /lib/modules/*-test")


def pages(host, claim):
    with claim("every link of an installed page to another page, or a picture, leads there"):
        doc = host.root / "usr/share/doc/ublk-bpf"
        known = {str(p.relative_to(TREE)) for p in (*test_pages.PAGES, *(TREE / "docs").rglob("*.svg"))}
        dead = [name for name in known if not (doc / name).is_file()]
        for page in doc.rglob("*.md"):
            for link in test_pages.LINK.findall(test_pages.text_of(page)):
                name = link.partition("#")[0]
                there = os.path.normpath(page.parent / name)
                # those to the sources lead nowhere on a host
                if name and ":" not in name and os.path.relpath(there, doc) in known and not os.path.exists(there):
                    dead.append(f"{page.relative_to(doc)}: {link}")
        assert not dead, dead
        packed = [p.name for p in doc.rglob("*.gz") if not p.name.startswith("changelog")]
        assert not packed, packed


def versions(host, claim):
    """From the first version to the second and back, and to it again."""
    driver = f"modinfo -k {host.release} -F filename ublk_drv"

    def one(new):
        status = host.ok("dkms status").splitlines()
        assert len(status) == 1 and ("+next1" in status[0]) == new and "installed" in status[0], status
        assert host.ok(f"modinfo -k {host.release} -F version ublk_drv").endswith("+next1") == new
        host.ok("ublk-bpf --version")
        assert not host.ok("dpkg --audit")

    with claim("half of an upgrade: the command works, modprobe finds a driver, and dpkg finishes it, also after it was killed"):
        host.ok(f"dpkg --unpack {PACKAGES.format(2)}")
        assert host.ok("dpkg-query -Wf '${db:Status-Status} ' ublk-bpf ublk-bpf-dkms") == "unpacked unpacked "
        host.ok(f"ublk-bpf --version && ublk-bpf config check && test -e $({driver})")
        outcome = host.run("timeout -s KILL 4 dpkg --configure -a")
        assert outcome.status == 137, str(outcome)
        host.ok(f"ublk-bpf --version && test -e $({driver})")
        host.ok("dpkg --configure -a")
        one(True)
    by_hand = f"/lib/modules/{host.release}/updates/ublk_drv.ko"
    out = ""
    with claim("a downgrade leaves the old version's driver and no other"):
        host.ok(f"xz -dc {STOCK} >{by_hand} && depmod {host.release}")
        out = host.ok(f"{LOADED} mkdir /sys/class/ublk-char/ublkc0; apt-get install -y --allow-downgrades {PACKAGES.format(1)}")
        one(False)
        assert "/updates/dkms/" in host.ok(driver)
    with claim("a driver whose devices are there is not touched, and how to switch is said"):
        assert "modprobe:" not in out, out
        assert "the driver from before is in use and stays loaded. When its devices are gone: modprobe -r ublk_drv; modprobe ublk_drv" in out, out
    with claim("another driver that DKMS has put aside is named, and does not come back if what the line says is done"):
        said = [line for line in ours(out) if by_hand in line]
        assert len(said) == 1 and "comes back" in said[0], out
        host.ok(undo(said[0]))
    with claim("an upgrade leaves the new version's driver and no other, in place of one without devices"):
        out = host.ok(f"{LOADED} apt-get install -y {PACKAGES.format(2)}")
        assert SWITCH in out, out
        one(True)
        assert not Path(f"{host.root}{by_hand}").exists()


def check(host, claim):
    driver = f"modinfo -k {host.release} -F filename ublk_drv"
    stock = host.ok(driver)
    stock_sum = host.ok(f"sha256sum {stock}")
    host.ok(f"cp {stock} {STOCK}")
    before_it_is_built(host, claim)
    with claim("DKMS builds the driver for the host's kernel, with BTF and signed, and it is the one that modprobe loads", needed=True):
        host.ok(f"apt-get install -y {PACKAGES.format(1)}")
        status = host.ok("dkms status")
        assert re.search(rf"^ublk-bpf/\S+, {re.escape(host.release)}, x86_64: installed", status, re.MULTILINE), status
        built = host.ok(driver)
        assert "/updates/dkms/" in built, built
        info = host.ok(f"modinfo -k {host.release} ublk_drv")
        assert re.search(r"^ublk_bpf:\s+struct_ops$", info, re.MULTILINE) and re.search(r"^signer:\s+DKMS", info, re.MULTILINE), info
        sections = host.ok(f"xz -dc {built} >/tmp/ublk_drv.ko && readelf -SW /tmp/ublk_drv.ko")
        assert " .BTF " in sections and " .BTF_ids " in sections, sections
    with claim("a configuration with a value of a wrong type is refused in one line that says where"):
        outcome = host.run("""echo '{"type": "loop", "file": "/srv/vm1.img", "queues": "two"}' >/etc/ublk-bpf/wrong.json
            trap 'rm /etc/ublk-bpf/wrong.json' EXIT; ublk-bpf config check""")
        assert outcome.status == 1 and outcome.out == "ublk-bpf: /etc/ublk-bpf/wrong.json: 'queues': needs a number, 0 or more", str(outcome)
    pages(host, claim)
    other_kernels(host, claim)
    versions(host, claim)
    with claim("with libublkbpf-dev alone, a program that `ublk-bpf new` has begun is built"):
        host.ok("apt-get install -y --no-install-recommends ./2/libublkbpf-dev_*.deb clang-19 llvm-19 make g++ cmake pkgconf")
        host.ok("ublk-bpf new mine && make -C mine && test -s mine/mine.bpf.o")
    (host.root / "root/user").mkdir()
    (host.root / "root/user/user.cpp").write_text(test_install.USER)
    (host.root / "root/user/CMakeLists.txt").write_text(test_install.USER_CMAKE)
    with claim("and so is a user of the library, with pkg-config"):
        assert host.ok("cd user && g++ -std=c++23 user.cpp -o one $(pkg-config --cflags --libs ublkbpf) && ./one").split()[0] == "152"
    with claim("and with CMake"):
        assert host.ok("cd user && cmake -S . -B build >log && cmake --build build >log && build/user").split()[0] == "152"
    with claim("purge leaves nothing, and the stock driver as it was"):
        host.ok("""ln -s /usr/lib/systemd/system/ublk-bpf@.service /etc/systemd/system/multi-user.target.wants/ublk-bpf@vm1.service
            echo '{"type": "null", "size": "1M"}' >/etc/ublk-bpf/vm1.json
            apt-get purge -y ublk-bpf ublk-bpf-dkms libublkbpf-dev""")
        assert not host.ok(LEFT), host.ok(LEFT)
        assert host.ok(driver) == stock and host.ok(f"sha256sum {stock}") == stock_sum


def main():
    parser = argparse.ArgumentParser()
    for name in "host", "files", "out":
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    began = time.monotonic()
    claims = Claims("packages.in_root", lambda text: print(f"[{time.monotonic() - began:5.0f}s] {text}", flush=True))
    with tempfile.TemporaryDirectory(dir=Path(args.out).resolve()) as where:
        host = Root(args.host, Path(where))
        subprocess.run(["cp", "-r", f"{args.files}/1", f"{args.files}/2", host.root / "root"], check=True)
        try:
            check(host, claims.claim)
        except Stop as e:
            print(f"what follows needs: {e}", flush=True)
    claims.write(Path(args.out) / "in-root.xml")
    return claims.verdict()


if __name__ == "__main__":
    sys.exit(main())
