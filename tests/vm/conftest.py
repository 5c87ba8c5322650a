# SPDX-License-Identifier: MIT
"""
The suites of this directory run as root in a virtual machine whose kernel has
the ublk BPF face under test: UBLK_BPF is the command, UBLK_BPF_OBJ_DIR and
UBLK_BPF_TEST_OBJ_DIR hold the programs. Each test fails on what the kernel
complains about meanwhile, and leaves no device behind.
"""

import os
import signal

import cli
import pytest
from kmsg import Kmsg
from lab import Lab


# the longest, which does hundreds of attachments, takes half of it
TEST_SECONDS = 600


def pytest_sessionstart(session):
    if os.geteuid():
        pytest.exit("the suites need root, in a virtual machine: use scripts/vm-test", 2)


@pytest.fixture(autouse=True)
def nothing_hangs():
    """A test that hangs fails, and the others get their turn."""

    def hang(*_):
        raise TimeoutError("the test hangs")

    signal.signal(signal.SIGALRM, hang)
    signal.alarm(int(cli.seconds(TEST_SECONDS)))
    yield
    signal.alarm(0)


@pytest.fixture(autouse=True)
def kernel_stays_silent():
    messages = Kmsg()
    yield messages
    complaints = messages.complaints()
    messages.close()
    assert not complaints, "the kernel complained:\n" + "\n".join(complaints)


@pytest.fixture
def lab(kernel_stays_silent):
    before = {d["dev_id"] for d in cli.devices()}
    laboratory = Lab()
    yield laboratory
    laboratory.close()
    left = [d for d in cli.devices() if d["dev_id"] not in before]
    assert not left, f"devices left behind: {left}"


@pytest.fixture(scope="session")
def face():
    """program_type or struct_ops."""
    found = cli.ok("probe")["face"]
    assert found in ("program_type", "struct_ops"), f"this kernel has no face: {found}"
    return found
