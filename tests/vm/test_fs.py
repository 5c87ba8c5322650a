# SPDX-License-Identifier: MIT
"""File systems live on a device that a program serves."""

import hashlib
import os
from pathlib import Path

import pytest
from blockio import MIB
from lab import sh, sysfs

FSCK = {"ext4": ["e2fsck", "-fn"], "xfs": ["xfs_repair", "-n"]}
MKFS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
# mkfs.xfs refuses anything smaller
SIZE = 320 * MIB


def skip_unless_known(fstype):
    if fstype not in Path("/proc/filesystems").read_text():
        loaded = sh("modprobe", fstype, check=False).returncode == 0
        if not loaded:
            pytest.skip(f"this kernel has no {fstype}")


def make_tree(root, large=12 * MIB):
    """Some hundred files of all sizes, links and holes."""
    for d in range(8):
        directory = root / f"dir{d}" / "below"
        directory.mkdir(parents=True)
        for f in range(24):
            (directory / f"file{f}").write_bytes(os.urandom((f * 37 + d) % 9 * 3333 + f))
        (directory / "link").symlink_to("file0")
        with open(directory / "sparse", "wb") as hole:
            hole.seek(MIB)
            hole.write(b"end")
    (root / "large").write_bytes(os.urandom(large))


def digest(root):
    h = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if "lost+found" not in p.parts):
        h.update(str(path.relative_to(root)).encode())
        if path.is_symlink():
            h.update(os.readlink(path).encode())
        elif path.is_file():
            h.update(path.read_bytes())
    return h.hexdigest()


@pytest.mark.full
@pytest.mark.parametrize("fstype", ["ext4", "xfs"])
@pytest.mark.parametrize("backing", ["raw", "ext4-sparse"])
def test_file_system_lives_on_the_device(lab, fstype, backing):
    skip_unless_known(fstype)
    source = lab.tmp / "source"
    source.mkdir()
    make_tree(source)
    if backing == "raw":
        file = lab.null_blk(SIZE // MIB).path
    else:
        file = lab.file(lab.ext4(SIZE // MIB + 64), SIZE)
    device = lab.add("loop", file, q=2)
    device.attach("loop")

    sh(*MKFS[fstype], device.path)
    where = lab.mount(device.path, fstype)
    sh("cp", "-a", f"{source}/.", where)
    sh("sync", "-f", where)
    assert digest(where) == digest(source)
    lab.umount(where)
    sh(*FSCK[fstype], device.path)

    where = lab.mount(device.path, fstype)
    assert digest(where) == digest(source)
    (where / "large").unlink()
    sh("sync", "-f", where)
    if backing != "raw" or sysfs(device.path, "queue/discard_max_bytes") != "0":
        sh("fstrim", where)
    lab.umount(where)
    sh(*FSCK[fstype], device.path)
    counters = device.counters()
    assert counters["passed"] == 0 and counters["failed"] == 0 and counters["redirected"] > 0

    # the server finds the same on it, and so does who mounts the backing itself
    device.detach()
    sh(*FSCK[fstype], device.path)
    device.delete()
    where = lab.mount(file if backing == "raw" else lab.kernel_loop(file), fstype, "ro")
    (source / "large").unlink()
    assert digest(where) == digest(source)
    lab.umount(where)


def test_file_system_survives_attach_replace_and_detach(lab):
    file = lab.null_blk(128).path
    device = lab.add("loop", file, q=2)
    sh(*MKFS["ext4"], device.path)
    where = lab.mount(device.path, "ext4")
    for step in range(6):
        copy = where / f"copy{step}"
        copy.mkdir()
        make_tree(copy, large=MIB)
        if step % 3 == 0:
            device.attach("loop")
        elif step % 3 == 1:
            device.attach("mixed", replace=True)
        else:
            device.detach()
    digests = digest(where)
    lab.umount(where)
    sh(*FSCK["ext4"], file)
    where = lab.mount(device.path, "ext4")
    assert digest(where) == digests
