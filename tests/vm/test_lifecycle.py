# SPDX-License-Identifier: MIT
"""Stop, quiesce, takeover, resize, affinity, orphans, and many devices in one server."""

import errno
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import cli
import pytest
from blockio import MIB, Load, Opened, assert_same, fio_verify, pattern
from cli import wait_for
from lab import sh, sysfs
from test_kill import kill_server, quiesced

STATE_DIR = Path("/run/ublk-bpf")
# A sanitizer takes more memory for each thread than the machine has for 256 of them.
MANY = 32 if cli.SANITIZED else 256
PATHS = ["copy", "user-copy", "need-get-data", "zero-copy", "auto-zero-copy"]


def refused(*args, status=1):
    outcome = cli.run(*args, "--json")
    assert outcome.status == status, str(outcome)
    assert len(outcome.err.strip().splitlines()) == 1, str(outcome)
    return outcome.json["error"]


def test_stopped_device_is_dead_until_it_is_deleted(lab):
    device, _ = lab.loop_device(8)
    server = device.server_pid()
    stopped = cli.ok("stop", "-n", device.id)
    assert stopped["state"] == "dead" and stopped["server"] is None
    assert not os.path.exists(device.path) and not Path(f"/proc/{server}").exists()
    assert cli.ok("stop", "-n", device.id)["state"] == "dead"
    device.delete()
    assert not (STATE_DIR / f"{device.id}.json").exists()


def test_safe_stop_spares_a_device_that_is_open(lab):
    device, _ = lab.loop_device(8)
    with Opened(device.path) as f:
        error = refused("stop", "-n", device.id, "--safe")
        assert error["errno"] == "EBUSY" and f"({os.getpid()})" in error["message"] and "--force" in error["hint"]
        f.write(0, pattern(0, 4096))
        assert f.read(0, 4096) == pattern(0, 4096)
    assert cli.ok("stop", "-n", device.id, "--safe")["state"] == "dead"


def test_asynchronous_delete_does_not_wait(lab):
    device, _ = lab.loop_device(8)
    assert cli.ok("del", "-n", device.id, "--async") == {"deleted": [device.id], "failed": []}
    wait_for("the device to be gone", lambda: not device.exists())
    assert not (STATE_DIR / f"{device.id}.json").exists()


@pytest.mark.one_face
@pytest.mark.parametrize("path", PATHS)
def test_server_is_taken_over_under_io(lab, path):
    device, disk = lab.loop_device(16, q=2, d=32, r=1, data_path=path)
    servers = [device.server_pid()]
    with Load(device.path, size="8m", io_size="1m", iodepth=16) as load:
        for _ in range(4):
            rounds = load.rounds
            servers.append(cli.ok("takeover", "-n", device.id)["server"]["pid"])
            wait_for("a round of I/O", lambda r=rounds: load.error or load.rounds > r, 120)
            load.check()
    assert len(set(servers)) == 5
    for old in servers[:-1]:
        wait_for("the old server to end", lambda p=old: not Path(f"/proc/{p}").exists())
    assert_same(device.path, disk, 16 * MIB)


@pytest.mark.one_face
@pytest.mark.parametrize("command", ["takeover", "quiesce"])
def test_queue_without_an_idle_tag_lets_go(lab, command):
    """The driver's word reaches a queue by its idle tags: one that has none must be told again."""
    delay = f"delay={int(cli.seconds(1000))}ms"
    device = lab.add("fault", lab.null_blk(8).path, over="loop", fault=[delay], r=1, d=1)
    server = device.server_pid()
    reader = subprocess.Popen(["dd", f"if={device.path}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"],
                              stderr=subprocess.PIPE, text=True)
    wait_for("the request", lambda: sysfs(device.path, "inflight").split() == ["1", "0"])
    assert cli.ok(command, "-n", device.id)["state"] == ("live" if command == "takeover" else "quiesced")
    if command == "quiesce":
        assert not Path(f"/proc/{server}").exists()
        cli.ok("recover", "-n", device.id)  # for what else it reads
    assert reader.wait(cli.seconds(30)) == 0, reader.stderr.read()


def test_program_serves_through_a_takeover(lab):
    device, disk = lab.loop_device(16, r=1)
    device.attach("mixed")
    with Load(device.path, size="8m", io_size="1m", iodepth=16) as load:
        for _ in range(4):
            rounds = load.rounds
            taken = cli.ok("takeover", "-n", device.id)
            assert taken["bpf"]["program"] == "mixed"
            wait_for("a round of I/O", lambda r=rounds: load.error or load.rounds > r, 120)
            load.check()
    assert_same(device.path, disk, 16 * MIB)


def test_takeover_of_a_device_without_server_is_a_recovery(lab):
    device, _ = lab.loop_device(8, r=1)
    kill_server(device)
    quiesced(device)
    assert cli.ok("takeover", "-n", device.id)["state"] == "live"
    fio_verify(device.path, bs="4k", size=MIB)


def test_takeover_that_cannot_be_changes_nothing(lab):
    plain, _ = lab.loop_device(8)
    assert "without recovery" in refused("takeover", "-n", plain.id)["message"]
    failing, _ = lab.loop_device(8, r=1, e=1)
    assert "-e" in refused("takeover", "-n", failing.id)["message"]
    # ublk_drv fails the I/O of these meanwhile
    batch, _ = lab.loop_device(8, r=1, b=True)
    for command in ("takeover", "quiesce"):
        assert "-b" in refused(command, "-n", batch.id)["message"]
    assert batch.state() == "live"
    assert "--fail-io" in refused("quiesce", "-n", batch.id)["hint"]
    assert cli.ok("quiesce", "-n", batch.id, "--fail-io")["state"] == "quiesced"
    assert cli.ok("recover", "-n", batch.id)["state"] == "live"
    file = lab.ext4_file(8)
    device = lab.add("loop", file, r=1)
    server = device.server_pid()
    os.rename(file, file + ".away")
    assert refused("takeover", "-n", device.id)["errno"] == "ENOENT"
    assert device.state() == "live" and device.server_pid() == server
    with Opened(device.path) as f:
        f.read(0, 4096)


@pytest.mark.one_face
@pytest.mark.parametrize("path", ["copy", "zero-copy"])
def test_quiesced_device_waits_for_recovery(lab, path):
    device, _ = lab.loop_device(8, r=1, data_path=path)
    server = device.server_pid()
    done = cli.ok("quiesce", "-n", device.id)
    assert done["state"] == "quiesced" and done["server"] is None
    assert not Path(f"/proc/{server}").exists()
    assert cli.ok("quiesce", "-n", device.id)["state"] == "quiesced"
    reader = subprocess.Popen(["dd", f"if={device.path}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"],
                              stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    assert reader.poll() is None, f"status {reader.returncode}: {reader.stderr.read()}"
    cli.ok("recover", "-n", device.id)
    assert reader.wait(cli.seconds(30)) == 0


def test_quiesce_needs_recovery(lab):
    device, _ = lab.loop_device(8)
    error = refused("quiesce", "-n", device.id)
    assert error["errno"] == "EOPNOTSUPP" and "-r" in error["hint"]
    fio_verify(device.path, bs="4k", size=MIB)


@pytest.mark.parametrize("program", [None, "loop"])
def test_mounted_device_grows(lab, program):
    file = lab.ext4_file(32)
    device = lab.add("loop", file)
    if program:
        device.attach(program)
    sh("mkfs.ext4", "-q", device.path)
    where = lab.mount(device.path, "ext4")
    before = os.statvfs(where).f_blocks
    os.truncate(file, 48 * MIB)
    assert cli.ok("resize", "-n", device.id)["size_bytes"] == 48 * MIB
    assert int(sysfs(device.path, "size")) == 48 * MIB // 512
    sh("resize2fs", device.path)
    assert os.statvfs(where).f_blocks > before * 1.3
    big = where / "big"
    big.write_bytes(b"\x5a" * (36 * MIB))
    sh("sync", "-f", where)
    lab.umount(where)
    sh("fsck.ext4", "-n", "-f", device.path)


def test_resize_to_what_cannot_be_changes_nothing(lab):
    device, _ = lab.loop_device(8, block_size=4096)
    for size, status, word in (("16M", 1, "has 8388608 bytes"), ("4M", 1, "cut off"), ("5000", 1, "multiple"),
                               ("0", 2, "not a size"), ("x", 2, "--size")):
        assert word in refused("resize", "-n", device.id, "--size", size, status=status)["message"]
    assert device.info()["size_bytes"] == 8 * MIB
    assert cli.ok("update_size", "-n", device.id, "-s", "4M", "--shrink")["size_bytes"] == 4 * MIB
    null = lab.add("null", size="1M")
    assert "--size" in refused("resize", "-n", null.id)["hint"]
    assert cli.ok("resize", "-n", null.id, "-s", "2M")["size_bytes"] == 2 * MIB


def test_size_survives_recovery(lab):
    device, _ = lab.loop_device(8, r=1)
    cli.ok("resize", "-n", device.id, "-s", "4M", "--shrink")
    kill_server(device)
    quiesced(device)
    assert cli.ok("recover", "-n", device.id)["size_bytes"] == 4 * MIB


def queue_of(device, q_id):
    return next(q for q in cli.ok("info", "-n", device.id)["queues"] if q["q_id"] == q_id)


@pytest.mark.skipif(os.cpu_count() < 2, reason="there is one CPU")
def test_queue_is_moved_and_stays_there(lab):
    device, _ = lab.loop_device(8, q=2, r=1)
    for cpus in ("0", "1", "0-1"):
        cli.ok("set-affinity", "-n", device.id, "-q", "1", "--cpuset", cpus)
        queue = queue_of(device, 1)
        assert os.sched_getaffinity(queue["tid"]) == set(queue["affinity"]) == ({0, 1} if "-" in cpus else {int(cpus)})
    cli.ok("set_affinity", "-n", device.id, "-q", "1", "--cpuset", "0")
    kill_server(device)
    quiesced(device)
    cli.ok("recover", "-n", device.id)
    assert os.sched_getaffinity(queue_of(device, 1)["tid"]) == {0}


def test_affinity_that_cannot_be(lab):
    device, _ = lab.loop_device(8)
    assert "no queue 1" in refused("set-affinity", "-n", device.id, "-q", "1", "--cpuset", "0")["message"]
    assert "online" in refused("set-affinity", "-n", device.id, "--cpuset", "900")["hint"]
    assert "--cpuset" in refused("set-affinity", "-n", device.id, "--cpuset", "0-", status=2)["message"]


def test_info_and_features_agree(lab):
    device, _ = lab.loop_device(8, r=1)
    features = cli.ok("features")["features"]
    flags = cli.ok("info", "-n", device.id)["flags"]
    assert set(flags) <= set(features) and {"user_recovery", "quiesce"} <= set(flags)
    text = cli.run("info", "-n", device.id).out
    assert re.search(r"queue 0: cpus \S+ tid \d+ affinity ", text) and "max_discard_bytes" in text
    assert "USER_RECOVERY" in cli.run("features").out.upper()


def orphans(*args):
    return [(o["kind"], o["dev_id"], o["cleared"]) for o in cli.ok("gc", *args)["orphans"]]


@pytest.mark.one_face
def test_gc_clears_what_crashes_leave_and_nothing_else(lab):
    live, _ = lab.loop_device(8)
    dead, _ = lab.loop_device(8)
    kill_server(dead)
    wait_for("the device to be dead", lambda: dead.state() == "dead")
    waiting, _ = lab.loop_device(8, r=1)
    kill_server(waiting)
    quiesced(waiting)
    (STATE_DIR / "999.json").write_text((STATE_DIR / f"{live.id}.json").read_text())
    (STATE_DIR / "999.json.4194303.new").write_text("{")
    found = [("device", dead.id, True), ("device", waiting.id, False), ("state", 999, True), ("temporary", None, True)]
    assert sorted(orphans("--dry-run"), key=str) == sorted(found, key=str)
    assert dead.exists() and (STATE_DIR / "999.json").exists()
    assert sorted(orphans(), key=str) == sorted(found, key=str)
    assert not dead.exists() and waiting.exists() and live.state() == "live"
    assert orphans() == [("device", waiting.id, False)]
    lines = cli.run("gc").out.splitlines()
    assert lines == [f"ublkb{waiting.id}: waits for ublk-bpf recover -n {waiting.id}: kept"]
    assert orphans("--all") == [("device", waiting.id, True)]
    assert not waiting.exists() and orphans() == []
    assert not [n for n in os.listdir(STATE_DIR) if n.startswith(("999", str(dead.id) + ".", str(waiting.id) + "."))]
    fio_verify(live.path, bs="4k", size=MIB)


@pytest.mark.one_face
def test_gc_spares_what_is_being_added(lab):
    adding = subprocess.Popen([cli.COMMAND, "add", "-t", "null", "--size", "1M", "--count", "24", "--json"],
                              stdout=subprocess.PIPE, text=True)
    rounds = 0
    while adding.poll() is None:
        assert orphans() == []
        rounds += 1
    assert adding.returncode == 0 and rounds
    added = cli.json.loads(adding.stdout.read())["devices"]
    assert [d["state"] for d in added] == ["live"] * 24
    os.kill(added[0]["server"]["pid"], signal.SIGTERM)
    wait_for("all to be gone", lambda: cli.devices() == [])


def memory_kib(pid, field):
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE).group(1))


def available_kib():
    return int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1))


@pytest.mark.one_face
def test_one_server_has_256_devices(lab):
    one = lab.add("null", size="1M")
    alone = memory_kib(one.server_pid(), "Pss")
    before = available_kib()
    added = cli.ok("add", "-t", "null", "--size", "1M", "--count", MANY, timeout=300)["devices"]
    lab.cleanup(lambda: [cli.run("del", "-n", d["dev_id"]) for d in cli.devices() if d["dev_id"] != one.id])
    pids = {d["server"]["pid"] for d in added}
    assert len(added) == MANY and len(pids) == 1 and all(d["state"] == "live" for d in added)
    server = pids.pop()
    user = (memory_kib(server, "Pss") - alone) / MANY
    total = (before - available_kib()) / MANY
    print(f"per idle device: {user:.0f} KiB of the server's, {total:.0f} KiB of the machine's")
    assert user < 1024 or cli.SANITIZED
    for device in added[::16]:
        with Opened(device["block"]) as f:
            f.write(0, pattern(0, 4096))
            assert f.read(0, 4096) == bytes(4096)
    # one goes, the others stay
    cli.ok("del", "-n", added[7]["dev_id"])
    with Opened(added[8]["block"]) as f:
        assert f.read(0, 4096) == bytes(4096)
    before = Path(f"/proc/{server}/stat").read_text().split()[13:15]
    time.sleep(1)
    after = Path(f"/proc/{server}/stat").read_text().split()[13:15]
    assert after == before or cli.SANITIZED, "idle devices use the CPU"
    start = time.monotonic()
    os.kill(server, signal.SIGTERM)
    wait_for("the server to end", lambda: not Path(f"/proc/{server}").exists(), 120)
    print(f"{MANY} devices ended in {time.monotonic() - start:.1f} s")
    assert [d["dev_id"] for d in cli.devices()] == [one.id]
    assert sorted(n for n in os.listdir(STATE_DIR) if n.endswith(".json")) == [f"{one.id}.json"]


@pytest.mark.one_face
def test_several_files_in_one_server(lab):
    disks = [lab.null_blk(8).path for _ in range(3)]
    added = cli.ok("add", "-t", "loop", *[a for d in disks for a in ("-f", d)])["devices"]
    lab.cleanup(lambda: cli.run("del", "-a"))
    assert [d["files"] for d in added] == [[d] for d in disks]
    for device, disk in zip(added, disks):
        fio_verify(device["block"], bs="4k", size=MIB)
        assert_same(device["block"], disk, 8 * MIB)
    server = added[0]["server"]["pid"]
    cli.ok("del", "-n", added[1]["dev_id"])
    cli.ok("stop", "-n", added[0]["dev_id"])
    assert Path(f"/proc/{server}").exists()
    fio_verify(added[2]["block"], bs="4k", size=MIB)
    assert cli.ok("del", "-a")["deleted"]
    wait_for("the server to end", lambda: not Path(f"/proc/{server}").exists())


@pytest.mark.one_face
def test_several_of_which_one_cannot_be_leave_none(lab):
    disk = lab.null_blk(8).path
    taken = lab.add("null", size="1M", n=42)
    assert refused("add", "-t", "loop", "-f", disk, "-f", "/nowhere")["errno"] == "ENOENT"
    error = refused("add", "-t", "null", "--size", "1M", "--count", "4", "-n", "40")
    assert error["errno"] == "EEXIST" and "ublkb42" in error["message"]
    assert [d["dev_id"] for d in cli.devices()] == [taken.id]
    assert refused("add", "-t", "loop", "-f", disk, "--count", "2", status=2)["errno"] == "EINVAL"


def test_server_holds_no_mount_of_its_own_device(lab):
    """Else, when it ends, it would unmount the file system on its own device, and wait for itself."""
    device, _ = lab.loop_device(32, r=1)
    sh("mkfs.ext4", "-q", device.path)
    where = lab.mount(device.path, "ext4")
    (where / "file").write_bytes(os.urandom(MIB))
    kill_server(device)
    quiesced(device)
    cli.ok("recover", "-n", device.id)  # from a process that has the file system mounted
    server = device.server_pid()
    mounts = sh("nsenter", "-t", server, "-m", "cat", "/proc/self/mountinfo", check=False).stdout
    assert str(where) not in mounts and device.path not in mounts
    lab.umount(where)
    # Nobody else has it mounted: it can be opened exclusively.
    os.close(os.open(device.path, os.O_RDWR | os.O_EXCL))
    where = lab.mount(device.path, "ext4")
    taken = cli.ok("takeover", "-n", device.id)["server"]["pid"]
    (where / "other").write_bytes(os.urandom(MIB))
    lab.umount(where)
    kill_server(device)
    wait_for("the server to end", lambda: not Path(f"/proc/{taken}").exists())


def as_user(*args, runtime_dir):
    """The command of a user who is not root, as far as udev's rules let him."""
    return subprocess.Popen(["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all", "env",
                             f"XDG_RUNTIME_DIR={runtime_dir}", cli.COMMAND, *map(str, args), "--json"],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process, status=0):
    out, err = process.communicate(timeout=cli.seconds(60))
    assert process.returncode == status, f"status {process.returncode}: {out}{err}"
    return cli.json.loads(out)


@pytest.fixture
def user(lab):
    """A user's runtime directory, and the node that udev opens to all."""
    control = os.stat("/dev/ublk-control")
    os.chmod("/dev/ublk-control", 0o666)
    os.chmod(lab.tmp, 0o755)
    home = lab.tmp / "user"
    home.mkdir()
    os.chown(home, 1000, 1000)
    yield home
    os.chmod("/dev/ublk-control", control.st_mode)


@pytest.mark.one_face
def test_user_has_an_unprivileged_device(lab, user):
    root = lab.add("null", size="1M")
    disk = user / "disk.img"
    disk.write_bytes(bytes(8 * MIB))
    os.chown(disk, 1000, 1000)
    adding = as_user("add", "-t", "loop", "-f", disk, "--unprivileged", runtime_dir=user)
    ids = wait_for("the device", lambda: [d["dev_id"] for d in cli.devices() if d["dev_id"] != root.id])
    lab.cleanup(lambda: cli.run("del", "-n", ids[0]))
    cli.ok("own", "-n", ids[0])  # what udev does
    device = finished(adding)
    assert device["dev_id"] == ids[0] and device["data_path"] == "copy" and not device["bpf_capable"]
    cli.ok("own", "-n", ids[0])  # of the block device, which is there by now
    assert os.stat(device["block"]).st_uid == os.stat(device["char"]).st_uid == 1000
    fio_verify(device["block"], bs="4k", size=MIB)
    assert (user / "ublk-bpf" / f"{ids[0]}.json").exists()
    # his own, and no other
    listed = finished(as_user("list", runtime_dir=user))["devices"]
    assert [d["dev_id"] for d in listed] == ids
    error = finished(as_user("del", "-n", root.id, runtime_dir=user), 1)["error"]
    assert error["errno"] in ("EPERM", "EACCES") and "root" in error["hint"]
    assert finished(as_user("del", "-n", ids[0], runtime_dir=user)) == {"deleted": ids, "failed": []}
    assert root.state() == "live"


@pytest.mark.one_face
def test_user_is_told_what_he_may_not(lab, user):
    error = finished(as_user("add", "-t", "null", runtime_dir=user), 1)["error"]
    assert error["errno"] == "EPERM" and "--unprivileged" in error["hint"]
    for wrong in (["-z"], ["-u"], ["-r"]):
        error = finished(as_user("add", "-t", "null", "--unprivileged", *wrong, runtime_dir=user), 2)["error"]
        assert "--unprivileged" in error["message"]
    assert "without CAP_SYS_ADMIN" in refused("add", "-t", "null", "--unprivileged")["message"]
    assert "not an unprivileged" in refused("own", "-n", lab.add("null", size="1M").id)["message"]
    assert len(cli.devices()) == 1


def in_one_server(added):
    """The one process that serves all of these, now."""
    found = {d["dev_id"]: d for d in cli.ok("list", timeout=120)["devices"]}
    here = [found[d["dev_id"]] for d in added]
    assert {d["state"] for d in here} == {"live"}
    (server,) = {d["server"]["pid"] for d in here}
    return server


def devices_of_one_server(lab, many):
    """They are taken over, let go of, recovered and deleted as one process, not as so many."""
    lab.cleanup(lambda: cli.run("del", "-a", "--force", timeout=300))
    added = cli.ok("add", "-t", "null", "--size", "1M", "-r", 1, "--count", many, timeout=300)["devices"]
    ids = [d["dev_id"] for d in added]
    some = ids[many // 2]
    servers = [in_one_server(added)]
    for how in ("takeover", "SIGTERM", "SIGKILL"):
        start = time.monotonic()
        if how != "takeover":
            os.kill(servers[-1], signal.Signals[how])
            wait_for("the server to end", lambda: not Path(f"/proc/{servers[-1]}").exists(), 120)
            wait_for("it to be missed", lambda: {d["state"] for d in cli.devices()} == {"quiesced"}, 120)
            print(f"{many} devices let go of after {how} in {time.monotonic() - start:.1f} s")
            start = time.monotonic()
        command = "takeover" if how == "takeover" else "recover"
        done = cli.ok(command, "-n", some, "--with-others", timeout=300)["devices"]
        print(f"{command} of {many} devices in {time.monotonic() - start:.1f} s")
        assert [d["dev_id"] for d in done] == ids
        servers.append(in_one_server(added))
        wait_for("the old server to end", lambda: not Path(f"/proc/{servers[-2]}").exists())
    assert len(set(servers)) == 4
    with Opened(added[-1]["block"]) as f:
        assert f.read(0, 4096) == bytes(4096)
    start = time.monotonic()
    assert cli.ok("del", "-n", some, "--with-others", timeout=300) == {"deleted": ids, "failed": []}
    print(f"del of {many} devices in {time.monotonic() - start:.1f} s")
    wait_for("the server to end", lambda: not Path(f"/proc/{servers[-1]}").exists())
    assert cli.devices() == []


def test_recovery_of_one_device_names_those_that_its_server_had(lab):
    lab.cleanup(lambda: cli.run("del", "-a", "--force"))
    first, *others = (cli.Device(d) for d in cli.ok("add", "-t", "null", "--size", "1M", "-r", 1, "--count", 3)["devices"])
    kill_server(first)
    for device in (first, *others):
        quiesced(device)
    outcome = cli.run("recover", "-n", first.id, "--json")
    assert outcome.status == 0, str(outcome)
    (warning,) = outcome.err.splitlines()
    assert f"ublkb{others[0].id}, ublkb{others[1].id}" in warning and f"recover -n {others[0].id} --with-others" in warning
    # that is all of them, and nobody is left
    outcome = cli.run("recover", "-n", others[0].id, "--with-others", "--json")
    assert [d["dev_id"] for d in outcome.json["devices"]] == [d.id for d in others] and not outcome.err, str(outcome)
    # nor does it name those that are served
    assert not cli.run("takeover", "-n", others[0].id).err


def test_devices_of_one_server_are_taken_over_recovered_and_deleted_as_one(lab):
    devices_of_one_server(lab, 12)


@pytest.mark.full
def test_256_devices_of_one_server_are_taken_over_recovered_and_deleted_as_one(lab):
    devices_of_one_server(lab, MANY)


def test_list_reads_a_server_once(lab):
    many = 24
    added = cli.ok("add", "-t", "null", "--size", "1M", "--count", many, timeout=300)["devices"]
    lab.cleanup(lambda: cli.run("del", "-a", timeout=300))
    log = lab.tmp / "trace"
    sh("strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=openat", "-o", log, cli.COMMAND, "list", "--json")
    server = added[0]["server"]["pid"]
    reads = re.findall(rf'"/proc/{server}/task/\d+/status"', log.read_text())
    threads = len(os.listdir(f"/proc/{server}/task"))
    assert many < len(reads) <= threads, f"{len(reads)} reads of {threads} threads"
