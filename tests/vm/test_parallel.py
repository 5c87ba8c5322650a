# SPDX-License-Identifier: MIT
"""Devices that come and go at once: no control command hangs, each is done or refused, nothing is left."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import cli
import pytest
from leftovers import nothing_is_left  # noqa: F401 (a fixture)

LOOPS = 64
SECONDS = float(os.environ.get("UBLK_BPF_PARALLEL_SECONDS", "180"))


def add_and_delete(until, rounds):
    """The number of rounds; what is not done within a command's deadline fails."""
    done = 0
    while done < rounds and (done == 0 or time.monotonic() < until):
        device = cli.ok("add", "-t", "null", "--size", "1M", timeout=300)
        # whoever is still deleting an earlier one of this number takes nothing away from it
        assert cli.ok("info", "-n", device["dev_id"], timeout=300)["target"] == "null"
        cli.ok("del", "-n", device["dev_id"], timeout=300)
        done += 1
    return done


def loops(seconds, rounds):
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(LOOPS) as pool:
        done = list(pool.map(lambda _: add_and_delete(until, rounds), range(LOOPS)))
    assert cli.devices() == []
    print(f"{sum(done)} devices in {LOOPS} loops, {min(done)} to {max(done)} each")


@pytest.mark.one_face
def test_devices_come_and_go_at_once(lab):
    loops(0, 1)


@pytest.mark.full
def test_devices_come_and_go_at_once_for_minutes(lab):
    loops(SECONDS, 1 << 20)
