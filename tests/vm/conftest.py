# SPDX-License-Identifier: MIT
"""
The suites of this directory run as root in a virtual machine whose kernel has
the ublk BPF face under test: UBLK_BPF is the command, UBLK_BPF_OBJ_DIR and
UBLK_BPF_TEST_OBJ_DIR hold the programs. On a stock kernel (UBLK_BPF_FACE is
stock-SERIES) only what needs no face can run: what scripts/test names of it,
without the tests that are marked `face`. Tests that are marked `full` take long
and have a quicker one of their kind beside them: they run with UBLK_BPF_FULL=1
(make test-full). So does what is marked `one_face` on the patched kernel, and on
the other kernels that there is a module for (module-SERIES): it is about the
server, or about the engine that all share, more than about a kernel's driver,
and runs on the module's first kernel always.
A test that fails because the driver of such a kernel lacks a feature is skipped:
the command has said which, and the driver says that it has it not. With
UBLK_BPF_QUICK=1 (a whole suite of make test) only one case of each
test runs, another one on each face, and of each file no more tests than
QUICK_TESTS, spread over it, on the patched kernel others than elsewhere. Each
test fails on what the kernel complains about meanwhile, and leaves no device
behind.
"""

import functools
import itertools
import os
import re
import signal
from pathlib import Path

import cli
import pytest
from kmsg import Kmsg
from lab import Lab


# the longest, which does hundreds of attachments, takes half of it
TEST_SECONDS = 600
# where the command writes what its sanitizers find (scripts/vm-test), if it has any
REPORTS = Path(os.environ["UBLK_BPF_REPORTS"]) if "UBLK_BPF_REPORTS" in os.environ else None

FACE = os.environ.get("UBLK_BPF_FACE", "")
STOCK = FACE.startswith("stock-")
# not the first kernel that a test has been run on
SECOND = FACE == "type" or FACE.startswith("module-")
# A quick run has one case of each test: the last one on a second kernel, the
# first one elsewhere, where what is marked `every` runs in all of its cases.
QUICK = os.environ.get("UBLK_BPF_QUICK") == "1" and not cli.FULL
# Of a file, on the first kernel and on others: however many tests there are, make
# test has an end. What is marked `quick_tests` says itself how many.
QUICK_TESTS, QUICK_TESTS_OF_SECOND = 4, 3
# of the kernels' own drivers, one column each
collect_ignore = [] if STOCK else ["test_matrix.py"]


def pytest_configure(config):
    config.addinivalue_line("markers", "face: needs a kernel with the BPF part of ublk")
    config.addinivalue_line("markers", "full: takes long; runs with UBLK_BPF_FULL=1, as in make test-full")
    config.addinivalue_line("markers", "one_face: on the patched kernel and on module-SERIES it is like `full`, elsewhere it runs always")
    config.addinivalue_line("markers", "every: a quick run has all of its cases too, except on a second kernel")
    config.addinivalue_line("markers", "quick_tests(n): a quick run has so many tests of its file")


def spread(items, most):
    """So many of them, from the first to the last."""
    if len(items) <= most or most < 2:
        return items[:most]
    return [items[i * (len(items) - 1) // (most - 1)] for i in range(most)]


def files(items):
    return [list(group) for _, group in itertools.groupby(items, key=lambda item: item.module)]


def cases(items, second):
    """One of each test, or all of one that is marked `every`."""
    chosen = []
    for _, group in itertools.groupby(items, key=lambda item: (item.module, item.originalname)):
        of_test = list(group)
        all_of_them = not second and of_test[0].get_closest_marker("every")
        chosen += of_test if all_of_them else [of_test[-1 if second else 0]]
    return chosen


def quick_on_first(items):
    """What make test runs on the first kernel."""
    chosen = []
    for of_file in files(cases(items, second=False)):
        most = of_file[0].get_closest_marker("quick_tests")
        chosen += spread(of_file, most.args[0] if most else QUICK_TESTS)
    return chosen


def quick_on_second(items, elsewhere):
    """Tests that the first kernel's run leaves out, and if these are too few others."""
    done = {(item.module, item.originalname) for item in elsewhere}
    chosen = []
    for of_file in files(cases(items, second=True)):
        new = [item for item in of_file if (item.module, item.originalname) not in done]
        new = spread(new, QUICK_TESTS_OF_SECOND)
        old = [item for item in of_file if item not in new]
        picked = {*new, *spread(old, QUICK_TESTS_OF_SECOND - len(new))}
        chosen += [item for item in of_file if item in picked]
    return chosen


def pytest_collection_modifyitems(config, items):
    def without(*marks):
        return [item for item in items if not any(map(item.get_closest_marker, marks))]

    unwanted = ["face"] if STOCK else []
    if not cli.FULL:
        unwanted += ["full", "one_face"] if SECOND else ["full"]
    wanted = without(*unwanted)
    if QUICK:
        wanted = quick_on_second(wanted, quick_on_first(without("full"))) if SECOND else quick_on_first(wanted)
    if len(wanted) < len(items):
        kept = set(wanted)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = wanted


def pytest_sessionstart(session):
    if os.geteuid():
        pytest.exit("the suites need root, in a virtual machine: use scripts/vm-test", 2)
    if REPORTS:
        REPORTS.mkdir(exist_ok=True)
        REPORTS.chmod(0o1777)  # for those who are not root


def pytest_sessionfinish(session):
    """What a server had to say only when it ended, after its test."""
    for report in unread_reports():
        print(f"\na sanitizer's report after the last test: {report}")
        session.exitstatus = 1


@functools.cache
def driver_features():
    return set(cli.ok("features")["features"])


def lacking(text):
    """The feature that an error names as missing, if the driver says so too."""
    for said in re.findall(r"(?:needs|lacks|has no|that has) UBLK_F_(\w+)", text):
        if said.lower() not in driver_features():
            return f"UBLK_F_{said}"
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if FACE.startswith("module-") and report.failed and call.when != "teardown":
        missing = lacking(str(call.excinfo.value))
        if missing:
            report.outcome = "skipped"
            report.longrepr = (str(item.path), item.location[1], f"Skipped: this kernel's ublk_drv has no {missing}")
    return report


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


def unread_reports():
    """What sanitizers have written since the last call; a process writes one file, when it finds something."""
    if not REPORTS:
        return
    for path in sorted(REPORTS.iterdir()):
        text = path.read_text(errors="replace")
        if not path.name.startswith("seen-"):
            path.rename(path.with_name(f"seen-{path.name}"))
            yield text[:8000]


@pytest.fixture(autouse=True)
def sanitizers_stay_silent():
    yield
    reports = list(unread_reports())
    assert not reports, "a sanitizer reports:\n" + "\n".join(reports)


@pytest.fixture
def lab(kernel_stays_silent, sanitizers_stay_silent):
    before = cli.device_ids()
    laboratory = Lab()
    yield laboratory
    laboratory.close()
    left = cli.device_ids() - before
    assert not left, f"devices left behind: {[d for d in cli.devices() if d['dev_id'] in left]}"


@pytest.fixture(scope="session")
def face():
    """program_type or struct_ops."""
    found = cli.probe()["face"]
    assert found in ("program_type", "struct_ops"), f"this kernel has no face: {found}"
    return found
