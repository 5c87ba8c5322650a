#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
What others have published of ublk's speed, measured again: each claim, its source, what a result has of it, and why ours differs.

    bench/claims.py RESULT.json [--json]
"""

import argparse
import json
import sys

import result as results
from result import Job, Unusable, size_name
from tables import figure, server_cost, server_share

NULL, TARGET = "null_blk", "null target"
COPY_INSNS_PER_BYTE = 0.165  # in the counting machine, which has no ERMS
OURS = {"kublk": "kublk", "server": "our server"}
KIB = 1 << 10
NOT_REGISTERED = ("Our server registers pages only for a request whose target uses them; the null target uses none, so that with zero-copy nothing is "
                  "registered there, while the driver's automatic registration is done for each request.")


def _job(result, backing, bs, qd, order=("write", "mixed", "read")):
    """The job of this size and depth that was measured; of several the first in order."""
    jobs = result.jobs(backing)
    return next((j for j in (Job(rw, bs, qd) for rw in order) if j in jobs), None)


def _copy_part(result, *sizes):
    if not result.counted:
        return []
    costs = ", ".join(f"{size_name(bs)} {figure(COPY_INSNS_PER_BYTE * bs)}" for bs in sizes)
    return [f"A copy is {COPY_INSNS_PER_BYTE} counted instructions a byte: {costs}. The cache and memory bandwidth that it takes on hardware are "
            "not counted."]


def daemon_share(result, bs, claimed):
    """The server's cost with copy, and with the program in its place."""
    job = _job(result, NULL, bs, 16)
    costs = [server_cost(result, NULL, path, job) if job else None for path in ("server", "program")]
    if None in costs:
        return None
    before, after = costs
    shares = [server_share(result, NULL, path, job) for path in ("server", "program")]
    alls = [result.cost(NULL, path, job) for path in ("server", "program")]
    rows = [
        {"what": f"server's {result.unit_name} per I/O, {job.name}", "before": before, "after": after},
        {"what": "of all that the I/O costs", "before": round(shares[0], 4), "after": round(shares[1], 4)},
        {"what": f"all {result.unit_name} per I/O", "before": alls[0], "after": alls[1]},
    ]
    to = f"{figure(after)} per I/O, {after / before:.1%} of it," if after else "nothing,"
    measured = (f"from {figure(before)} to {to} the server's part, {shares[0]:.0%} and {shares[1]:.0%} of all that an I/O costs: "
                f"{figure(alls[0])} and {figure(alls[1])}")
    why = []
    if after < before * claimed:
        why.append("Less is left of the server than in the claim: there the program put its requests into the daemon's io_uring, which went on doing the I/O; "
                   "here the program plans in the submitter's context, the driver does the I/O, and the server sleeps.")
    elif before and after / before > claimed * 1.5:
        why.append("More is left of the server than in the claim: see who wakes it in the table of wake-ups.")
    why.append("Their figures are of one processor's time at the bandwidth of a disk; ours are of an I/O, so only the factor compares.")
    left = alls[1] - after
    if left > (alls[0] - before) * 1.02:
        why.append(f"Not all of it is saved: the others pay {figure(left)} instead of {figure(alls[0] - before)}, as the submitter now does "
                   "what the server did.")
    return rows, measured, why + _copy_part(result, bs)


def _over(result, backing, path, other, jobs):
    """(job, cost of other over cost of path, more than noise?) for each job that both have."""
    return [(j, *result.ratio(backing, other, path, j)) for j in jobs if result.ratio(backing, other, path, j)]


def _times(value, differing=True):
    return f"{value:.2f}x" if differing else f"equal ({value:.2f}x)"


def _range(ratios):
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return low if low == high else f"{low} to {high}"


def zero_copy_null(result):
    """Copy over zero copy on a target that does nothing."""
    rows = []
    for who in ("kublk", "server"):
        for data_path in ("zero-copy", "auto-zero-copy"):
            for bs in (64 * KIB, 512 * KIB):
                job = _job(result, TARGET, bs, 32, ("read", "write"))
                for j, ratio, real in _over(result, TARGET, f"{who}, {data_path}", f"{who}, copy", [job] if job else []):
                    rows.append({"what": f"{who}: copy / {data_path}, {j.name}", "ratio": round(ratio, 3), "differs": real})
    if not rows:
        return None
    most = max(r["ratio"] for r in rows)
    by_size = {size: [r["ratio"] for r in rows if f" {size} " in r["what"]] for size in ("64k", "512k")}
    sizes = ", ".join(f"at {size} {_range(v)} times" for size, v in by_size.items() if v)
    measured = f"an I/O with copy costs, in {result.unit_name}, {sizes} what one with zero copy does"
    why = ["The claim is a factor in IOPS; a factor in cost is one in IOPS where a processor that does all of it is what limits."]
    if result.counted and most < 5:
        why.append("Less than the claim: a copy is cheap in instructions, and dear in cache and memory.")
    if any(r["what"].startswith("server: copy / zero-copy") for r in rows):
        why.append(NOT_REGISTERED)
    return rows, measured, why + _copy_part(result, 64 * KIB, 512 * KIB)


def _against_depth(result):
    costs = [result.cost(NULL, "server", Job("read", 4 * KIB, qd)) for qd in (1, 32)]
    return "" if None in costs else f", and costs {costs[0] / costs[1]:.1f} times what it does at QD32"


def against_kernel_loop(result):
    """Our server's paths over the kernel's loop."""
    rows = []
    jobs = [Job(rw, bs, qd) for bs in (4 * KIB, 64 * KIB) for qd in (1, 32) for rw in ("read", "write")]
    for path in result.paths(NULL):
        if path == "server" or (path.startswith("server, ") and path not in ("server, --no-bpf", "server, throttled")):
            for j, ratio, real in _over(result, NULL, "kernel loop", path, jobs):
                rows.append({"what": f"{path} / kernel loop, {j.name}", "ratio": round(ratio, 3), "differs": real})
    if not rows:
        return None
    better = [r for r in rows if r["differs"] and r["ratio"] < 1]
    best, worst = min(rows, key=lambda r: r["ratio"]), max(rows, key=lambda r: r["ratio"])
    measured = (f"in {len(better)} of {len(rows)} cases our server costs less than the kernel's loop; from {best['ratio']:.2f} "
                f"({best['what']}) to {worst['ratio']:.2f} ({worst['what']}) of it")
    why = ["The claim is of IOPS. A server on a processor of its own works while the submitter does; cost per I/O adds the two."]
    at1 = result.figure(NULL, "server", Job("read", 4 * KIB, 1), "wakeups_per_io", "server")
    if at1 is not None and at1 > 0.5:
        why.append(f"At QD1 each 4k I/O wakes the server {at1:.1f} times" + _against_depth(result) + "; in depth I/Os share the wake-ups.")
    program = result.ratio(NULL, "program", "kernel loop", Job("read", 4 * KIB, 1))
    if program:
        why.append(f"The program, at 4k QD1 {_times(*program)} of kernel loop's cost, has neither of the two: no worker and no server is woken.")
    return rows, measured, why


def auto_over_explicit(result):
    """Explicit registration over automatic, on a target that does nothing."""
    rows = []
    for who in ("kublk", "server"):
        jobs = [j for j in result.jobs(TARGET) if j.qd == 32]
        for j, ratio, real in _over(result, TARGET, f"{who}, auto-zero-copy", f"{who}, zero-copy", jobs):
            rows.append({"what": f"{who}: zero-copy / auto-zero-copy, {j.name}", "ratio": round(ratio, 3), "differs": real})
    if not rows:
        return None
    part = {who: [r["ratio"] for r in rows if r["what"].startswith(who)] for who in ("kublk", "server")}
    said = [f"{OURS[who]}: with explicit registration an I/O costs {_range(v)} times what it does with automatic" for who, v in part.items() if v]
    why = []
    if part["kublk"] and max(part["kublk"]) < 1.5:
        why.append("kublk's is less than claimed: the claim is of IOPS, which the server's processor alone may limit; the cost of an I/O has the "
                   "submitter and the block layer in it, which are the same with both.")
    if part["server"] and max(part["server"]) < 1.1:
        why.append(NOT_REGISTERED)
    busy = [r for j in (Job("read", 4 * KIB, 32),) for r in _over(result, NULL, "server, auto-zero-copy", "server, zero-copy", [j])]
    for j, ratio, real in busy:
        why.append(f"With I/O to do, on null_blk, {j.name}, our server's explicit registration costs {_times(ratio, real)}.")
    return rows, "; ".join(said), why


def against_nbd(result):
    """NBD over our server."""
    rows = []
    for path in (p for p in result.paths(NULL) if p.startswith("nbd")):
        jobs = [Job("read", 4 * KIB, qd) for qd in (1, 32)]
        for j, ratio, real in _over(result, NULL, "server", path, jobs):
            rows.append({"what": f"{path} / server, {j.name}", "ratio": round(ratio, 3), "differs": real})
    if not rows:
        return None
    measured = "; ".join(f"{r['what']}: {_times(r['ratio'], r['differs'])}" for r in rows)
    return rows, measured, ["The claim is of IOPS of a qcow2 image; ours is of cost, and of no format: a file served as it is. NBD's request and reply "
                            "go through a socket, with their data."]


CLAIMS = [
    {"name": "daemon's CPU at 2 MiB", "claim": "daemon's CPU 12.5 % -> 1 % at equal bandwidth", "setup": "BPF, loop, 2 MiB random I/O, QD16",
     "source": "BPF RFC v2, February 2023", "of": lambda r: daemon_share(r, 2 << 20, 1 / 12.5)},
    {"name": "daemon's CPU at 512 KiB", "claim": "daemon's CPU 9.3-10 % -> 1.3-1.7 %", "setup": "BPF, loop, 512 KiB random writes, QD16",
     "source": "BPF RFC v1", "of": lambda r: daemon_share(r, 512 * KIB, 1.5 / 9.65)},
    {"name": "zero copy against copy", "claim": "IOPS up to about 5x with zero copy", "setup": "ublk-null, 64k and 512k",
     "source": "comments to LWN, \"Zero-copy I/O for ublk, three different ways\", March 2023", "of": zero_copy_null},
    {"name": "ublk loop against kernel loop", "claim": "\"even better than kernel loop with same setting\"", "setup": "ublk's loop target",
     "source": "LWN, \"An io_uring-based user-space block driver\", August 2022", "of": against_kernel_loop},
    {"name": "automatic against explicit registration", "claim": "+50 % IOPS", "setup": "ublk-null",
     "source": "kernel commit 8ccebc19ee3d", "of": auto_over_explicit},
    {"name": "ublk against NBD", "claim": "about twice qemu-nbd", "setup": "ublk-qcow2, 4k random reads",
     "source": "comments to LWN, \"Zero-copy I/O for ublk, three different ways\", March 2023", "of": against_nbd},
]


def measured(result):
    """Every claim with what the result says of it."""
    found = []
    for claim in CLAIMS:
        entry = {name: claim[name] for name in ("name", "claim", "setup", "source")}
        of = claim["of"](result)
        rows, said, why = of if of else ([], None, [])
        found.append(entry | {"measured": said, "rows": rows, "why": why})
    return found


def rows(found):
    """A line per claim, for a table."""
    head = [["claim", "of", "measured here"]]
    return head + [[f"{c['claim']} ({c['source']})", c["setup"], c["measured"] or "not measured"] for c in found]


def text(result):
    """All claims, as paragraphs for a terminal."""
    out = []
    for c in measured(result):
        out += [f"{c['name']}: {c['claim']} ({c['setup']}; {c['source']})", f"  measured: {c['measured'] or 'not measured'}"]
        out += [f"  {line}" for line in c["why"]] + [""]
    return "\n".join(out).rstrip()


def main(argv=None):
    p = argparse.ArgumentParser(prog="claims", description="The published claims on ublk's speed, beside what a result says of them.")
    p.add_argument("result", metavar="RESULT.json")
    p.add_argument("--json", action="store_true", help="as JSON")
    args = p.parse_args(argv)
    try:
        result = results.load(args.result)
    except Unusable as e:
        print(f"claims: {e}", file=sys.stderr)
        return 2
    print(json.dumps({"version": 1, "claims": measured(result)}) if args.json else text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
