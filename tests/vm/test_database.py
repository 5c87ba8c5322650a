# SPDX-License-Identifier: MIT
"""
A database at work on a clone, while it is snapshotted, its server killed and replaced: each snapshot has a file system and a database that
are whole, with every transaction that was committed before it was taken.
"""

import random
import sqlite3
import threading

import cli
import pytest
from blockio import MIB
from cli import wait_for
from clones import add, kill_and_recover, layer, snapshot, take_over, where  # noqa: F401 (a fixture)
from lab import sh

# about the target, not about the face
pytestmark = pytest.mark.one_face

ACCOUNTS = 50
TOTAL = ACCOUNTS * 1000
SNAPSHOTS = 12 if cli.FULL else 4


class Bank(threading.Thread):
    """Moves money between accounts, a transaction each, which also has its number in a table."""

    def __init__(self, path, journal):
        super().__init__()
        self.path, self.journal = path, journal
        self.committed = 0
        self.error = None
        self.stop = threading.Event()
        self.start()

    def run(self):
        try:
            with self.open() as db:
                db.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, money INTEGER)")
                db.execute("CREATE TABLE done (n INTEGER PRIMARY KEY, text BLOB)")
                db.executemany("INSERT INTO account VALUES (?, 1000)", ((i,) for i in range(ACCOUNTS)))
                db.commit()
                while not self.stop.is_set():
                    self.move(db, self.committed + 1)
                    self.committed += 1
            db.close()
        except sqlite3.Error as e:
            self.error = e

    def open(self):
        db = sqlite3.connect(self.path, timeout=60)
        db.execute(f"PRAGMA journal_mode={self.journal}")
        # of a rollback journal also that it is gone; FULL is that for WAL
        db.execute("PRAGMA synchronous=EXTRA")
        return db

    @staticmethod
    def move(db, n):
        one, other = random.sample(range(ACCOUNTS), 2)
        money = random.randrange(100)
        db.execute("UPDATE account SET money = money - ? WHERE id = ?", (money, one))
        db.execute("UPDATE account SET money = money + ? WHERE id = ?", (money, other))
        db.execute("INSERT INTO done VALUES (?, ?)", (n, random.randbytes(random.randrange(8000))))
        db.commit()

    def wait(self, more):
        """Until so many more are committed."""
        until = self.committed + more

        def reached():
            assert not self.error, self.error
            return self.committed >= until

        wait_for(f"{more} transactions", reached, timeout=60)


def check(path, at_least):
    """The database as it is after a crash: what was begun is rolled back."""
    db = sqlite3.connect(path)
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT sum(money) FROM account").fetchone() == (TOTAL,)
        count, last = db.execute("SELECT count(*), coalesce(max(n), 0) FROM done").fetchone()
        assert count == last >= at_least, f"{count} rows up to {last}; {at_least} were committed before"
    finally:
        db.close()


@pytest.mark.parametrize(("bpf", "journal"), [pytest.param(True, "WAL", marks=pytest.mark.face), (False, "DELETE")], ids=["program", "server"])
def test_database_in_each_snapshot_is_whole(lab, where, bpf, journal):
    device = add(lab, layer(where / "delta", size=48 * MIB), bpf)
    sh("mkfs.ext4", "-q", device.path)
    mount = lab.mount(device.path)
    bank = Bank(mount / "bank", journal)
    try:
        for n in range(SNAPSHOTS):
            bank.wait(20)
            if n % 4 == 1:
                kill_and_recover(device)
            elif n % 4 == 2:
                take_over(device)
            committed = bank.committed
            path = snapshot(device, where / f"snapshot{n}")
            look = lab.add("clone", layer(where / f"look{n}", base=path))
            old = lab.mount(look.path)  # replays the file system's journal
            check(old / "bank", committed)
            lab.umount(old)
            sh("e2fsck", "-f", "-n", look.path)
            look.delete()
        bank.wait(20)
    finally:
        bank.stop.set()
        bank.join()
    assert not bank.error, bank.error
    check(mount / "bank", bank.committed)
    lab.umount(mount)
    sh("e2fsck", "-f", "-n", device.path)
