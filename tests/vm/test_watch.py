# SPDX-License-Identifier: MIT
"""stat and metrics: what devices do is what was done to them."""

import json
import re
import socket
import subprocess
from pathlib import Path

import cli
import openmetrics
import pytest
from blockio import MIB, Load, Opened

# about the command and its server more than about a kernel's driver
pytestmark = pytest.mark.one_face

EXAMPLES = cli.TREE / "packaging/examples"
PIECE = 4096


class Watch:
    """`stat` in the background: its intervals as they come."""

    def __init__(self, *args):
        self.process = subprocess.Popen([cli.COMMAND, "stat", *map(str, args), "--json"], stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def next(self):
        return json.loads(self.process.stdout.readline())


def only(interval):
    (device,) = interval["devices"]
    return device, {o["op"]: o for o in device["operations"]}


def test_stat_counts_what_is_done(lab):
    device, _ = lab.loop_device(8, name="watched")
    lab.add("null", size=MIB)
    with Watch("watched", 1) as watch, Opened(device.path) as disk:
        watch.next()  # what comes now is counted from there on
        total = {"read": 0, "write": 0, "bytes": 0, "wakeups": 0}
        for i in range(10):
            disk.write(i * PIECE, b"x" * PIECE)
        for i in range(5):
            disk.read(i * PIECE, 2 * PIECE)
        for _ in range(30):
            found, ops = only(watch.next())
            assert found["dev_id"] == device.id and found["name"] == "watched" and ops["read"]["p99_below_ns"] is None
            total["read"] += ops["read"]["count"]
            total["write"] += ops["write"]["count"]
            total["bytes"] += ops["read"]["bytes"] + ops["write"]["bytes"]
            total["wakeups"] += found["wakeups"]
            if total["read"] >= 5 and total["write"] >= 10:
                break
        assert total["read"] == 5 and total["write"] == 10 and total["bytes"] == 20 * PIECE, total
        assert total["wakeups"] > 0 and found["redirected"] == 0 and found["pid"] == device.server_pid()


@pytest.mark.face
def test_stat_shows_the_program_and_the_server_that_sleeps(lab):
    device, _ = lab.loop_device(16)
    device.attach("loop", {"offset": 0})
    busy = 0
    with Load(device.path, size="4m"), Watch(device.id, 1) as watch:
        for _ in range(60):
            found, ops = only(watch.next())
            if not found["redirected"]:
                continue
            assert found["hit_ratio"] == 1 and found["wakeups"] == 0 and found["failed"] == 0
            assert ops["write"]["count"] + ops["read"]["count"] > 0
            # The kernel counts a tick in which an I/O ends that began in an earlier one: of short I/Os an interval may have none.
            busy += found["busy_ms"]
            if busy:
                break
    assert busy


@pytest.mark.one_face
def test_stat_as_text_has_a_line_for_each_device(lab):
    devices = [lab.add("null", size=MIB, name=f"n{i}") for i in range(2)]
    outcome = cli.run("stat")
    header, *rows = outcome.out.splitlines()
    assert outcome.status == 0 and header.split()[:4] == ["DEVICE", "NAME", "r/s", "w/s"], str(outcome)
    assert [r.split()[:2] for r in rows] == [[f"ublkb{d.id}", f"n{i}"] for i, d in enumerate(devices)]
    assert all(len(r.split()) == len(header.split()) for r in rows)
    twice = cli.run("stat", devices[1].id, 1, "--count", 2)
    assert len(twice.out.splitlines()) == 4, str(twice)
    missing = cli.run("stat", 999, "--json")
    assert missing.status == 1 and missing.json["error"]["errno"] == "ENODEV"


def metrics(*args):
    outcome = cli.run("metrics", *args)
    assert outcome.status == 0, str(outcome)
    return openmetrics.parse(outcome.out)


def value(samples, name, **labels):
    return samples[(f"ublk_bpf_{name}", tuple(sorted(labels.items())))]


def test_the_reader_refuses_what_is_not_openmetrics():
    good = '# TYPE a counter\n# HELP a it\na_total{x="1"} 1\na_total{x="2"} 2\n# TYPE h histogram\n' \
        'h_bucket{le="0.5"} 1\nh_bucket{le="+Inf"} 2\nh_count 2\nh_sum 1.5\n# EOF\n'
    assert openmetrics.parse(good)[("a_total", (("x", "1"),))] == 1
    for was, becomes in (
        ("# EOF\n", ""), ("a_total{x=\"1\"} 1", "a{x=\"1\"} 1"), ('x="2"', 'x="1"'), (" 2\n# TYPE", " -2\n# TYPE"), ("counter", "count"),
        ('{x="2"}', '{x=2}'), ('{x="2"}', '{x="2",}'), ("h_count 2", "h_count 3"), ('le="+Inf"', 'le="1"'), ("a_total{x=\"1\"} 1\n", "\n"),
        ("# TYPE h", "# TYPE a"), ("a_total{x=\"1\"} 1", "a_total{x=\"1\"} one"), ("# HELP a it", "# HELP a"),
        ("h_bucket{le=\"0.5\"} 1", "h_bucket{le=\"0.5\"} 3"), ("# HELP a it", "# UNIT a seconds"),
    ):
        bad = good.replace(was, becomes)
        assert bad != good
        with pytest.raises(ValueError):
            openmetrics.parse(bad)


@pytest.mark.face
def test_metrics_are_openmetrics_and_count_what_is_done(lab):
    assert not metrics()  # without a device: nothing, and that in the right form
    device, _ = lab.loop_device(8, name="m1", r=1)
    disk = f"ublkb{device.id}"
    device.attach("latency", {"offset": 0})
    before = metrics()
    with Opened(device.path) as opened:
        for i in range(7):
            opened.write(i * PIECE, b"x" * PIECE)
        after = metrics()

    def grown(name, **labels):
        return value(after, name, device=disk, **labels) - value(before, name, device=disk, **labels)

    with Watch("m1", 1) as watch, Opened(device.path) as opened:
        watch.next()
        opened.write(0, b"x" * PIECE)
        for _ in range(30):
            _, ops = only(watch.next())
            if ops["write"]["count"]:
                break
    assert 0 < ops["write"]["p50_below_ns"] <= ops["write"]["p99_below_ns"] and ops["read"]["p99_below_ns"] == 0, ops
    assert grown("io_total", op="write") == 7 and grown("io_bytes_total", op="write") == 7 * PIECE
    assert grown("requests_total", verdict="redirected") == 7 and grown("requests_total", verdict="passed") == 0
    assert grown("program_latency_seconds_count", op="write") == 7 and grown("program_latency_seconds_sum", op="write") > 0
    assert grown("server_wakeups_total") == 0 and grown("requests_failed_total") == 0
    for name, is_now in (("device_live", 1), ("server_up", 1), ("program_attached", 1), ("size_bytes", 8 * MIB)):
        assert value(after, name, device=disk) == is_now, name
    (info,) = [dict(labels) for name, labels in after if name == "ublk_bpf_device_info"]
    assert info["name"] == "m1" and info["target"] == "loop" and info["recovery"] == "requeue"
    used = {name for rule in (EXAMPLES / "ublk-bpf-alerts.yml").read_text().splitlines() if "expr:" in rule
            for name in re.findall(r"ublk_bpf_\w+", rule)}
    assert len(used) >= 6 and used <= {name for name, _ in after}, "alert rules name what is not there"
    dashboard = json.loads((EXAMPLES / "ublk-bpf-dashboard.json").read_text())
    shown = {name for panel in dashboard["panels"] for target in panel["targets"] for name in re.findall(r"ublk_bpf_\w+", target["expr"])}
    assert len(shown) >= 10 and shown <= {name for name, _ in after}, f"the dashboard shows what is not there: {shown - {n for n, _ in after}}"


@pytest.mark.one_face
def test_metrics_into_a_file(lab):
    lab.add("null", size=MIB)
    file = lab.tmp / "ublk-bpf.prom"
    file.write_text("old")
    outcome = cli.run("metrics", "--output", file)
    assert outcome.status == 0 and not outcome.out
    assert openmetrics.parse(file.read_text()) and [p.name for p in lab.tmp.iterdir()] == [file.name]
    assert cli.run("metrics", "--output", lab.tmp / "no" / "file").status == 1
    assert cli.run("metrics", "--output", file, "--http").status == 2


@pytest.mark.one_face
def test_metrics_answer_a_scrape(lab):
    """As systemd starts the example's service: a connection is its standard input and output."""
    assert "metrics --http" in (EXAMPLES / "ublk-bpf-metrics@.service.in").read_text()
    lab.add("null", size=MIB)
    ours, its = socket.socketpair()
    server = subprocess.Popen([cli.COMMAND, "metrics", "--http"], stdin=its, stdout=its)
    its.close()
    ours.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = b""
    while part := ours.recv(65536):
        answer += part
    assert server.wait(cli.seconds(30)) == 0
    head, body = answer.decode().split("\r\n\r\n", 1)
    assert head.startswith("HTTP/1.0 200 OK\r\n") and f"Content-Length: {len(body)}" in head
    assert "application/openmetrics-text; version=1.0.0" in head and openmetrics.parse(body)
    assert Path(f"/proc/{server.pid}").exists() is False
