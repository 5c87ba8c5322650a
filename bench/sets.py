# SPDX-License-Identifier: MIT
"""What ublk-bpf bench measures: which jobs on which paths."""

from dataclasses import dataclass, replace

from measure import Job

KIB, MIB = 1 << 10, 1 << 20
SIZES = (512, 4 * KIB, 64 * KIB, 512 * KIB, 2 * MIB)
DEPTHS = (1, 8, 32, 128)
DEVICES = (1, 16, 256)


def job(rw, bs, qd, pattern="random", scale=1, engine="io_uring"):
    """So many I/Os that a round takes about the same whatever their size: an I/O costs something, and each byte."""
    count = round(1200 / (1 + bs / (96 * KIB)))
    return Job(rw, bs, qd, max(count * scale, 2 * qd, 24), pattern, steady=True, engine=engine)


def name(of):
    """As it is called in --job: read-4k-qd1, write-2m-qd16, read-512-qd1-sequential, read-4k-qd1-libaio."""
    size = f"{of.bs // MIB}m" if of.bs >= MIB else f"{of.bs // KIB}k" if of.bs >= KIB else str(of.bs)
    return f"{of.rw}-{size}-qd{of.qd}" + ("" if of.pattern == "random" else f"-{of.pattern}") + ("" if of.engine == "io_uring" else f"-{of.engine}")


# Those that carry the argument are done on all paths, the others on the main ones. The quick set takes less than five minutes on two processors.
SMALL = [job(rw, 4 * KIB, qd) for rw in ("read", "write") for qd in (1, 32)]
QUICK_ALL = [job("read", bs, qd) for bs in (4 * KIB, 64 * KIB) for qd in (1, 32)]
CORE = SMALL + QUICK_ALL[2:]
QUICK_MAIN = [
    *(job("read", bs, 1) for bs in (512, 512 * KIB, 2 * MIB)),
    job("read", 4 * KIB, 128),
    *(job("write", bs, qd) for bs in (4 * KIB, 64 * KIB) for qd in (1, 32)),
    job("write", 512 * KIB, 16), job("write", 2 * MIB, 16),
]
# io_uring leaves to its workers what a driver may wait for, which most of device mapper and md say that they may: three times the cost.
MAPPED_JOBS = [job(rw, bs, qd, scale=2, engine=engine) for engine in ("libaio", "io_uring") for bs in (4 * KIB, 64 * KIB) for qd in (1, 32)
               for rw in ("read", "write")]
MAPPED_QUICK = [job(rw, 4 * KIB, qd, engine="libaio") for qd in (1, 32) for rw in ("read", "write")]
MAPPED_WAYS = ("raw", "program", "dm-linear", "dm-stripe", "dm-mirror", "md raid1", "program, stripe", "program, mirror", "program, completion")
FILE_WAYS = ("kernel loop", "server", "program", "program, mounted", "kernel loop, buffered", "program, buffered",
             "clone, base", "program, layer", "clone, delta", "program, track")
NULL_JOBS = [job("read", bs, 32) for bs in (4 * KIB, 64 * KIB, 512 * KIB)]
LATENCY_JOBS = QUICK_ALL[:2]


def full_jobs():
    return [job(rw, bs, qd, pattern, scale=2) for pattern in ("random", "sequential") for rw in ("read", "write", "mixed")
            for bs in SIZES for qd in DEPTHS]


@dataclass(frozen=True)
class Chunk:
    """A part that is measured in one machine from beginning to end: its paths take turns."""

    name: str
    backing: str  # null_blk, nvme, ext4, null
    jobs: tuple
    main_jobs: tuple = ()  # of the main paths only
    devices: int = 1
    queues: int = 1
    main_only: bool = False
    ways: tuple = ()  # only these paths, by name; empty: all that there are
    rounds: int = 3
    latency: tuple = ()  # jobs of which fio says how long an I/O takes


QUICK = [
    Chunk("paths", "null_blk", tuple(QUICK_ALL), tuple(QUICK_MAIN), rounds=3, latency=tuple(LATENCY_JOBS)),
    Chunk("null", "null", tuple(NULL_JOBS), rounds=3),
    Chunk("mapped", "null_blk", tuple(MAPPED_QUICK), ways=tuple(w for w in MAPPED_WAYS if w != "md raid1"), rounds=3),
    Chunk("file", "ext4", tuple(SMALL), ways=FILE_WAYS, rounds=3),
]


def full():
    """All axes; each chunk is kept when it is done."""
    jobs = full_jobs()
    chunks = []
    for backing in ("null_blk", "nvme", "ext4"):
        for rw in ("read", "write", "mixed"):
            for pattern in ("random", "sequential"):
                mine = tuple(j for j in jobs if j.rw == rw and j.pattern == pattern)
                timed = tuple(j for j in mine if pattern == "random" and j.bs <= 64 * KIB)
                chunks.append(Chunk(f"{backing}-{rw}-{pattern}", backing, mine, latency=timed))
        chunks.append(Chunk(f"{backing}-queues-2", backing, tuple(CORE), queues=2))
    chunks.append(Chunk("mapped", "null_blk", tuple(MAPPED_JOBS), ways=MAPPED_WAYS + ("dm-snapshot", "dm-thin")))
    chunks.append(Chunk("file-ways", "ext4", tuple(CORE), ways=FILE_WAYS))
    chunks.append(Chunk("null", "null", tuple(replace(j, count=2 * j.count) for j in NULL_JOBS)))
    for devices in DEVICES[1:]:
        chunks.append(Chunk(f"devices-{devices}", "null_blk", (job("read", 4 * KIB, 1, scale=8), job("read", 4 * KIB, 32, scale=16)), devices=devices,
                            main_only=True))
    return chunks


DEVICE_JOBS = tuple(job("read", bs, qd) for bs in (4 * KIB, 64 * KIB) for qd in (1, 32))
DEVICE = [Chunk("device", "device", DEVICE_JOBS, latency=DEVICE_JOBS)]


def chunks_of(name):
    if name == "device":
        return DEVICE
    return QUICK if name == "quick" else full()
