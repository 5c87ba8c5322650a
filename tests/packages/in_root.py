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
LEFT = r"""find / -xdev '(' -name '*ublk-bpf*' -o -name '*ublkbpf*' -o -name '*ublk_bpf*' ')' -not -path '/root/*' -not -path '/proc/*' | sort
dkms status | grep ublk || true"""


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


def check(host, claim):
    build = f"/lib/modules/{host.release}/build"
    driver = f"modinfo -k {host.release} -F filename ublk_drv"
    stock = host.ok(driver)
    stock_sum = host.ok(f"sha256sum {stock}")
    with claim("without the kernel's headers the installation succeeds and says which ones, and the stock driver stays"):
        host.ok(f"apt-get -q update && mv {build} {build}.away")
        out = host.ok("apt-get install -y ./1/ublk-bpf_*.deb ./1/ublk-bpf-dkms_*.deb")
        assert "please install the linux-headers-" in out, out
        assert host.ok(driver) == stock
        host.ok(f"apt-get purge -y ublk-bpf ublk-bpf-dkms && mv {build}.away {build}")
        assert not host.ok(LEFT), host.ok(LEFT)
    with claim("DKMS builds the driver for the host's kernel, with BTF and signed, and it is the one that modprobe loads", needed=True):
        host.ok("apt-get install -y ./1/ublk-bpf_*.deb ./1/ublk-bpf-dkms_*.deb")
        status = host.ok("dkms status")
        assert re.search(rf"^ublk-bpf/\S+, {re.escape(host.release)}, x86_64: installed", status, re.MULTILINE), status
        ours = host.ok(driver)
        assert "/updates/dkms/" in ours, ours
        info = host.ok(f"modinfo -k {host.release} ublk_drv")
        assert re.search(r"^ublk_bpf:\s+struct_ops$", info, re.MULTILINE) and re.search(r"^signer:\s+DKMS", info, re.MULTILINE), info
        sections = host.ok(f"xz -dc {ours} >/tmp/ublk_drv.ko && readelf -SW /tmp/ublk_drv.ko")
        assert " .BTF " in sections and " .BTF_ids " in sections, sections
    with claim("a configuration with a value of a wrong type is refused in one line that says where"):
        outcome = host.run("""echo '{"type": "loop", "file": "/srv/vm1.img", "queues": "two"}' >/etc/ublk-bpf/wrong.json
            trap 'rm /etc/ublk-bpf/wrong.json' EXIT; ublk-bpf config check""")
        assert outcome.status == 1 and outcome.out == "ublk-bpf: /etc/ublk-bpf/wrong.json: 'queues': needs a number, 0 or more", str(outcome)
    pages(host, claim)
    with claim("an upgrade leaves the new version's driver and no other"):
        host.ok("apt-get install -y ./2/ublk-bpf_*.deb ./2/ublk-bpf-dkms_*.deb")
        status = host.ok("dkms status").splitlines()
        assert len(status) == 1 and "+next1" in status[0] and "installed" in status[0], status
        assert host.ok(f"modinfo -k {host.release} -F version ublk_drv").endswith("+next1")
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
    with tempfile.TemporaryDirectory(dir=args.out) as where:
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
