# SPDX-License-Identifier: MIT
"""How a kernel gets its driver with the hooks: kernel/scripts/hook and dkms-tree, and pick, which dkms runs in what dkms-tree made."""

import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import unittest
import unittest.mock
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
SCRIPTS = REPO / "kernel/scripts"
MODULE = REPO / "kernel/module"
KERNEL = "9.1.7+deb99-amd64"

DRIVER = "".join(f"int before{i};\n" for i in range(9)) + "\nstatic int probe(void)\n{\n\tone();\n\ttwo();\n\tthree();\n\treturn 0;\n}\n"
HOOK = """Adds a call.

--- a/drivers/block/ublk_drv.c
+++ b/drivers/block/ublk_drv.c
@@ -12,6 +12,7 @@ static int probe(void)
 {
 \tone();
 \ttwo();
+\thook();
 \tthree();
 \treturn 0;
 }
"""
LATER = HOOK.replace("-12,6 +12,7", "-13,6 +13,7").replace(" {\n", "").replace("+\thook();\n", " \thook();\n+\tlater();\n")


def before(patch):
    """A file that a patch of ours applies to: its hunks, each in the function that it names, with nothing else around them."""
    lines = []
    for start, head, body in re.findall(r"^@@ -(\d+)[^@]*@@ ?(.*)\n((?:[ +\-].*\n|\n)*)", patch.read_text(), re.MULTILINE):
        lines += [f" // {i}" for i in range(len(lines), int(start) - 2)] + [head or " //"]
        lines += [line[1:] for line in body.splitlines() if not line.startswith("+")]
    return "\n".join(lines) + "\n"


class Case(unittest.TestCase):
    def setUp(self):
        where = tempfile.TemporaryDirectory()
        self.addCleanup(where.cleanup)
        self.top = Path(where.name)
        self.bin = self.top / "bin"
        self.bin.mkdir()
        self.tree = self.top / "tree"

    def run_in(self, *args, **env):
        env = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}", "UBLK_BPF_SOURCE_DIR": str(self.top / "src"), **env}
        return subprocess.run([str(a) for a in args], cwd=self.top, env=env, capture_output=True, text=True, check=False)

    def tool(self, name, text):
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def hooked_tree(self):
        """As dkms-tree makes it, of a series that there is none of."""
        (self.tree / "hooks").mkdir(parents=True)
        (self.tree / "drivers").mkdir()
        shutil.copy(SCRIPTS / "hook", self.tree)
        for name in "pick", "Kbuild":
            shutil.copy(MODULE / name, self.tree)
        (self.tree / "hooks/hooks-9.1.patch").write_text(HOOK)
        (self.tree / "hooks/hooks-9.1.5.patch").write_text(LATER)

    def hook(self, driver, version):
        (self.top / "ublk_drv.c").write_text(driver)
        out = self.top / "out.c"
        out.unlink(missing_ok=True)
        done = self.run_in(self.tree / "hook", "ublk_drv.c", version, out)
        self.assertEqual(done.returncode == 0, out.exists(), done.stderr)
        return out.read_text() if out.exists() else None, done.stderr


class Hook(Case):
    def setUp(self):
        super().setUp()
        self.hooked_tree()

    def test_which_patches_a_version_has(self):
        for version, names in ("9.1", 1), ("9.1.4+deb99", 1), ("9.1.5", 2), ("9.1.10+deb99-amd64", 2), ("9.11.1", 0), ("9.2.6", 0):
            self.assertEqual(len(self.run_in(self.tree / "hook", "--list", version).stdout.split()), names, version)

    def test_applies_them_in_order(self):
        self.assertEqual(self.hook(DRIVER, "9.1.4")[0], DRIVER.replace("\ttwo();\n", "\ttwo();\n\thook();\n"))
        self.assertEqual(self.hook("int more;\n" + DRIVER, KERNEL)[0],
                         "int more;\n" + DRIVER.replace("\ttwo();\n", "\ttwo();\n\thook();\n\tlater();\n"))

    def test_refuses_what_does_not_fit_and_says_where(self):
        for driver in DRIVER.replace("three", "four"), "":
            out, err = self.hook(driver, "9.1.4")
            self.assertIsNone(out)
            self.assertIn("hooks-9.1.patch does not apply", err)
        self.assertIn("@@ -12,6", self.hook(DRIVER.replace("three", "four"), "9.1.4")[1])

    def test_refuses_another_place_than_it_names(self):
        out, err = self.hook(DRIVER.replace("probe", "remove"), "9.1.4")
        self.assertIsNone(out)
        self.assertIn("in other places", err)

    def test_no_hooks(self):
        self.assertIn("no hooks for Linux 9.2.1", self.hook(DRIVER, "9.2.1")[1])


class Pick(Case):
    def setUp(self):
        super().setUp()
        self.hooked_tree()
        self.headers = self.top / "headers"
        self.headers.mkdir()
        (self.headers / "vmlinux").touch()
        self.tool("pahole", "")
        self.tool("dpkg-query", "exit 1")
        for n in 3, 5, 10:
            (self.tree / f"drivers/ublk_drv-9.1.{n}.c").write_text(f"// of 9.1.{n}\n")

    def pick(self, kernel):
        done = self.run_in(self.tree / "pick", kernel, self.headers)
        driver = self.tree / "ublk_drv.c"
        return done, driver.read_text() if driver.exists() else None

    def install_source(self, driver, version, headers, status="installed"):
        source = self.top / "linux-source-9.1/drivers/block"
        source.mkdir(parents=True)
        (source / "ublk_drv.c").write_text(driver)
        (self.top / "src").mkdir()
        with tarfile.open(self.top / "src/linux-source-9.1.tar.xz", "w:xz") as tar:
            tar.add(self.top / "linux-source-9.1", "linux-source-9.1")
        self.tool("dpkg-query", f'case $* in *linux-source-9.1) echo "{status} {version}" ;; '
                                f'*linux-headers-{KERNEL}) echo "{status} {headers}" ;; *) exit 1 ;; esac')

    def test_the_newest_that_is_not_newer(self):
        for kernel, n in ("9.1.3", 3), ("9.1.4+deb99", 3), (KERNEL, 5), ("9.1.10-rt-amd64", 10), ("9.1.99", 10), ("9.1.1", 3):
            done, driver = self.pick(kernel)
            self.assertEqual((done.returncode, driver), (0, f"// of 9.1.{n}\n"), done.stderr)

    def test_the_file_of_the_kernels_own_source(self):
        self.install_source(DRIVER, "9.1.7-1", "9.1.7-1")
        done, driver = self.pick(KERNEL)
        self.assertEqual((done.returncode, "\tlater();" in driver, "linux-source-9.1 9.1.7-1" in done.stdout), (0, True, True), done.stderr)

    def test_also_while_the_kernel_s_packages_are_being_installed(self):
        """Whose scripts start dkms before dpkg calls them installed."""
        for n, status in enumerate(("unpacked", "half-configured", "triggers-pending", "config-files")):
            if n:
                for left in ("linux-source-9.1", "src"):
                    shutil.rmtree(self.top / left)
            self.install_source(DRIVER, "9.1.7-1", "9.1.7-1", status)
            done, driver = self.pick(KERNEL)
            self.assertEqual((done.returncode, "\tlater();" in driver), (0, status != "config-files"), status)

    def test_a_driver_of_an_older_version_is_told(self):
        self.assertIn("gets the ublk driver of Linux 9.1.5", self.pick(KERNEL)[0].stderr)
        self.assertEqual(self.pick("9.1.5")[0].stderr, "")

    def test_not_that_of_another_version(self):
        self.install_source(DRIVER, "9.1.7-2", "9.1.7-1")
        done, driver = self.pick(KERNEL)
        self.assertEqual((done.returncode, driver), (0, "// of 9.1.5\n"), done.stderr)

    def test_not_that_which_the_hooks_do_not_fit(self):
        self.install_source(DRIVER.replace("three", "four"), "9.1.7-1", "9.1.7-1")
        done, driver = self.pick(KERNEL)
        self.assertEqual((done.returncode, driver, "do not apply" in done.stdout), (0, "// of 9.1.5\n", True), done.stderr)

    def fails(self, kernel, why):
        done, driver = self.pick(kernel)
        # dkms skips the kernel, whose installation goes on
        self.assertEqual((done.returncode, driver), (77, None))
        self.assertEqual((len(done.stderr.splitlines()), why in done.stderr), (1, True), done.stderr)
        # what an older dkms goes on to does not begin
        make = self.run_in("make", "-C", self.tree, "-f", "Kbuild", "src=.")
        self.assertNotEqual(make.returncode, 0)
        self.assertIn(why, make.stderr)

    def test_says_why_not(self):
        self.fails("9.2.1", "no driver for Linux 9.2")
        (self.headers / "vmlinux").unlink()
        self.fails(KERNEL, "vmlinux is missing")
        (self.headers / "vmlinux").touch()
        self.assertEqual(self.pick(KERNEL)[0].returncode, 0)
        self.assertNotIn("missing", self.run_in("make", "-C", self.tree, "-f", "Kbuild", "src=.").stderr)

    def test_nothing_is_built_without_what_makes_btf(self):
        (self.bin / "pahole").unlink()
        for name in "sh", "make", "dirname", "cut", "cat", "rm", "echo":
            (self.bin / name).symlink_to(shutil.which(name))
        with unittest.mock.patch.dict(os.environ, PATH=str(self.bin)):
            self.fails(KERNEL, "apt-get install dwarves")

    def test_what_was_built_without_btf_is_refused(self):
        (self.tree / "ublk_drv.ko").touch()
        for sections, status in ("[ 1] .text x\n [ 2] .BTF x\n [ 3] .BTF_ids x", 0), ("[ 1] .text x", 1):
            self.tool("readelf", f"echo '{sections}'")
            done = self.run_in(self.tree / "pick", "--built")
            self.assertEqual(done.returncode, status, done.stderr)
        self.assertIn("no section .BTF", done.stderr)

    def installed(self, kernel, **tools):
        """What is said of a module that dkms has installed, on a host where KERNEL runs; what would load or unload one fails the test."""
        for name in "modprobe", "rmmod", "insmod":
            self.tool(name, f"echo {name} >>{self.top}/touched")
        for name, text in {"uname": f"echo {KERNEL}", "mokutil": "exit 1", **tools}.items():
            self.tool(name, text)
        done = self.run_in(self.tree / "pick", "--installed", kernel, UBLK_BPF_SYS=str(self.top / "sys"))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertFalse((self.top / "touched").exists())
        return done.stdout

    def test_a_loaded_module_is_left_alone_and_the_switch_is_told(self):
        self.assertEqual(self.installed(KERNEL), "")
        (self.top / "sys/module/ublk_drv").mkdir(parents=True)
        said = self.installed(KERNEL)
        self.assertEqual((len(said.splitlines()), "modprobe -r ublk_drv && modprobe ublk_drv; or reboot" in said), (1, True), said)
        self.assertEqual(self.installed("9.1.8+deb99-amd64"), "")

    def test_a_key_that_secure_boot_does_not_know_is_told(self):
        # mokutil as it speaks: its exit status is not that of the answer
        mokutil = 'case "$1" in --sb-state) echo "SecureBoot {0}" ;; --test-key) echo "$2 is {1}" ;; *) exit 9 ;; esac'
        said = self.installed(KERNEL, mokutil=mokutil.format("enabled", "not enrolled"))
        self.assertIn("Secure Boot is on", said)
        self.assertIn("mokutil --import /var/lib/dkms/mok.pub, then reboot", said)
        self.assertEqual(self.installed(KERNEL, mokutil=mokutil.format("enabled", "already enrolled")), "")
        self.assertEqual(self.installed(KERNEL, mokutil=mokutil.format("disabled", "not enrolled")), "")
        # a host without EFI
        self.assertEqual(self.installed(KERNEL, mokutil='echo "EFI variables are not supported on this system" >&2; exit 1'), "")


class DkmsTree(Case):
    SERIES = "6.12"

    def setUp(self):
        super().setUp()
        self.driver = self.top / "ublk_drv.c"
        self.driver.write_text(before(MODULE / f"hooks-{self.SERIES}.patch"))

    def make(self, *args):
        return self.run_in(SCRIPTS / "dkms-tree", *args)

    def test_a_driver_for_each_version_that_differs(self):
        other = self.top / "other.c"
        other.write_text(self.driver.read_text() + "// more\n")
        done = self.make("--version", "7.8", self.tree, f"6.12.9-1={self.driver}", f"6.12.8={self.driver}", f"6.12.10={other}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual({p.name for p in (self.tree / "drivers").iterdir()}, {"ublk_drv-6.12.8.c", "ublk_drv-6.12.10.c"})
        self.assertIn("ublk_bpf_queue_rq", (self.tree / "drivers/ublk_drv-6.12.8.c").read_text())
        conf = (self.tree / "dkms.conf").read_text()
        self.assertIn('PACKAGE_VERSION="7.8"', conf)
        self.assertIn(r'BUILD_EXCLUSIVE_KERNEL="^(6\.12)\."', conf)
        self.assertNotIn("@", re.sub("^#.*", "", conf, flags=re.MULTILINE))
        self.assertIn('MODULE_VERSION("7.8")', (self.tree / "ublk_main.c").read_text())
        self.assertIn("left out: Linux 7.3", done.stderr)
        objects = set(re.findall(r"(\w+)\.o\b", (self.tree / "Kbuild").read_text())) - {"ublk_drv"}
        self.assertEqual({f"{o}.c" for o in objects}, {p.name for p in self.tree.glob("*.c")})

    def test_refusals(self):
        self.assertIn("no kernel source", self.make(self.tree).stderr)
        self.assertIn("not empty", self.make(self.tree, f"6.12.9={self.driver}").stderr)
        shutil.rmtree(self.tree)
        self.driver.write_text("int nothing;\n")
        done = self.make(self.tree, f"6.12.9={self.driver}")
        self.assertEqual((done.returncode, "no driver for Linux 6.12.9" in done.stderr), (1, True), done.stderr)
        self.assertFalse((self.tree / "dkms.conf").exists())
        self.assertEqual(self.make().returncode, 2)


if __name__ == "__main__":
    unittest.main()
