# SPDX-License-Identifier: MIT
"""What cmake --install lays out is enough: a program and a C++ user of the library are built from it alone, in a folder that knows nothing of the tree."""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
BUILD = os.environ.get("UBLK_BPF_BUILD", str(REPO / "build"))
USER = """
#include <cstdio>
#include <sys/types.h>
#include <ublkbpf/ctrl/control.h>
#include <ublkbpf/device/probe.h>
#include <ublkbpf/layer/layer.h>
#include <ublkbpf/sys/sizes.h>

int main() {
  std::printf("%s %d\\n", ublk::fmt("{}", sizeof(ublk_params)).c_str(), static_cast<int>(ublk::probe().kernel.empty()));
}
"""
USER_CMAKE = """
cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES CXX)
find_package(ublkbpf 0.1 REQUIRED)
add_executable(user user.cpp)
target_link_libraries(user PRIVATE ublkbpf::ublkbpf)
get_target_property(options ublkbpf::ublkbpf INTERFACE_COMPILE_OPTIONS)
if(options MATCHES "-W")
  message(FATAL_ERROR "users of the library get ${options}")
endif()
"""


def run(*command, where=None, **variables):
    done = subprocess.run([str(c) for c in command], cwd=where, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@unittest.skipUnless(Path(BUILD, "libublkbpf.a").exists() and Path(BUILD, "loader/ublk-bpf").exists(), "nothing is built")
class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory()
        cls.dest = Path(cls.tmp.name, "dest")
        run("cmake", "--install", BUILD, DESTDIR=str(cls.dest))
        prefix = re.search(r"^CMAKE_INSTALL_PREFIX:PATH=/(.*)$", Path(BUILD, "CMakeCache.txt").read_text(), re.MULTILINE)[1]
        cls.usr = cls.dest / prefix
        cls.files = {str(p.relative_to(cls.usr)) for p in cls.dest.rglob("*") if p.is_file()}

    @classmethod
    def tearDownClass(cls):
        cls.tmp.cleanup()

    def here(self, name):
        where = Path(self.tmp.name, name)
        where.mkdir()
        return where

    def test_everything_is_where_it_is_looked_for(self):
        objects = {f"lib/ublk-bpf/bpf/{p.name[:-2]}.o" for p in (REPO / "bpf/programs").glob("*.bpf.c")}
        self.assertTrue(objects)
        wanted = objects | {f"include/ublk/{p.name}" for p in (REPO / "bpf/include/ublk").iterdir()} | {
            "sbin/ublk-bpf", "share/man/man8/ublk-bpf.8", "share/man/man8/ublk-bpf-up.8", "share/bash-completion/completions/ublk-bpf",
            "include/ublk_bpf.h", "include/ublk_bpf_maps.h", "include/ublkbpf/sys/error.h", "share/ublk-bpf/Makefile.bpf",
            "lib/systemd/system/ublk-bpf@.service", "lib/systemd/system/ublk-bpf-shutdown.service",
            "lib/systemd/system/final.target.wants/ublk-bpf-shutdown.service", "lib/udev/rules.d/65-ublk-bpf-name.rules", "share/doc/ublk-bpf/examples/60-ublk-bpf-users.rules",
            "lib/ublk-bpf/bench/main.py"}
        self.assertEqual(wanted - self.files, set())

    def test_nobody_but_root_may_add_devices_unless_told(self):
        rules = [p for p in self.dest.rglob("*.rules")]
        looked_at = [p for p in rules if "udev" in p.parts]
        self.assertEqual([p.name for p in looked_at], ["65-ublk-bpf-name.rules"])
        for rule in rules:
            self.assertNotRegex(rule.read_text(), r'MODE="0?666"')

    def test_nothing_names_the_tree_or_what_it_was_built_in(self):
        for name in self.files:
            path = self.usr / name
            if path.suffix in (".a", ".o") or name.startswith(("sbin/", "lib/ublk-bpf/")):
                continue  # debug information
            self.assertNotIn(str(REPO), path.read_text(errors="replace"), name)

    def test_a_program_is_built_and_begun_with_what_is_installed(self):
        where = self.here("program")
        run(self.usr / "sbin/ublk-bpf", "new", "mine", where=where)
        run("make", f"UBLK_BPF={self.usr}/share/ublk-bpf", where=where / "mine")
        self.assertTrue((where / "mine/mine.bpf.o").exists())
        used = (where / "mine/mine.bpf.d").read_text()
        self.assertIn(f"{self.usr}/include/ublk/ublk.bpf.h", used)
        self.assertNotIn(str(REPO), used)

    def flags(self, *what):
        where = str(next(p for p in self.usr.rglob("ublkbpf.pc")).parent)
        return run("pkg-config", f"--define-variable=prefix={self.usr}", *what, "ublkbpf", PKG_CONFIG_PATH=where).split()

    def test_a_user_of_the_library_with_pkg_config(self):
        where = self.here("user")
        (where / "user.cpp").write_text(USER)
        flags = self.flags("--cflags", "--libs")
        run("g++", "-std=c++23", "-O0", "user.cpp", "-o", "user", "-MMD", *flags, where=where)
        self.assertEqual(run(where / "user").split()[0], "152")
        self.assertNotIn(str(REPO), (where / "user.d").read_text())
        for flag in flags:
            self.assertFalse(flag.startswith("-W"), flag)
            self.assertFalse(flag.startswith("-I") and "dest" in flag and Path(flag[2:], "sys").exists(), f"{flag} has a folder named sys")

    def test_a_user_of_the_library_with_cmake(self):
        where = self.here("cmake-user")
        (where / "user.cpp").write_text(USER)
        (where / "CMakeLists.txt").write_text(USER_CMAKE)
        run("cmake", "-S", where, "-B", where / "build", f"-DCMAKE_PREFIX_PATH={self.usr}", "-DCMAKE_BUILD_TYPE=Debug")
        run("cmake", "--build", where / "build")
        self.assertEqual(run(where / "build/user").split()[0], "152")


if __name__ == "__main__":
    unittest.main()
