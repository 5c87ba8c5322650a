# SPDX-License-Identifier: MIT
"""
What ublk-bpf bench starts: runs the benchmark in the counting machine or on this host, and leaves the result with its report in a
directory. Its options are those that ublk-bpf help bench explains.

Exit status: 0, 1 a comparison found something worse or a limit is broken, 2 no result, 130 interrupted (what was measured until then is kept).
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import compare
import inuse
import lab
import limits
import paths
import sets
from result import Unusable, load

HERE = Path(__file__).resolve().parent
TREE = HERE.parent
PARTS = "parts"
# On which no figure depends.
REPORTING = ("main.py", "page.py", "plots.py", "tables.py", "result.py", "compare.py", "report.py", "claims.py", "perfdoc.py", "summary.py", "limits.py")


# What a run makes and takes away on a host. The others are of the machine that is thrown away: they take a disk that they find, /dev/ram0 too.
HOST_BACKINGS = ("null_blk", "null", "device")


ENDING_SECONDS = 20


class Failed(Exception):
    """No result; the text says why, in one line."""


class Cut(Exception):
    """A part was interrupted; result is what there was of it, or None."""

    def __init__(self, result):
        super().__init__()
        self.result = result


def say(text):
    print(text, file=sys.stderr, flush=True)


def arguments():
    p = argparse.ArgumentParser(prog="ublk-bpf bench")
    p.add_argument("what", nargs="?", default="run", choices=("run", "compare", "report"))
    p.add_argument("results", nargs="*")
    p.add_argument("--dev", type=int)
    p.add_argument("--host", action="store_true")
    p.add_argument("--backing")
    p.add_argument("--cpu")
    p.add_argument("--full", action="store_true")
    p.add_argument("--fresh", action="store_true")
    p.add_argument("--part", action="append", default=[])
    p.add_argument("--path", action="append", default=[])
    p.add_argument("--job", action="append", default=[])
    p.add_argument("--rounds", type=int, default=0)
    p.add_argument("--face", default=os.environ.get("FACE", "module"))
    p.add_argument("--output", default="ublk-bpf-bench")
    p.add_argument("--json", action="store_true")
    return p.parse_args()


def read_result(path):
    try:
        return load(path).data
    except Unusable as e:
        raise Failed(str(e)) from e


def key(chunk, args):
    """What a part depends on: if none of it has changed, a part that is there is as good as a new one."""
    digest = hashlib.sha256(repr((chunk, args.rounds, args.path, args.job, args.face)).encode())
    for pattern in ("bench/*.py", "bench/*.[ch]", "build/bpf/*.o", "kernel/src/*", "kernel/module/*", "kernel/patches/*"):
        for f in sorted(TREE.glob(pattern)):
            if f.name not in REPORTING and f.is_file():
                digest.update(f.name.encode() + f.read_bytes())
    digest.update((TREE / "build/loader/ublk-bpf").read_bytes())
    return digest.hexdigest()[:16]


def selection(chunks, args):
    """What of a set is measured, for bench/run and bench/runner.py."""
    argv = [word for c in chunks for word in ("--chunk", c.name)]
    argv += [word for p in args.path for word in ("--path", p)]
    argv += [word for j in args.job for word in ("--job", j)]
    return argv + (["--rounds", args.rounds] if args.rounds else [])


def in_machine(chunks, args, out):
    """Measures these parts in one machine, and returns their result."""
    notes = out.with_suffix(".notes")
    argv = [TREE / "bench/run", "--face", args.face, "--set", "full" if args.full else "quick", "--json", out, "--notes", notes]
    argv += selection(chunks, args)
    # A session of its own: who interrupts this by ^C or by a signal to this process alone gets the same.
    with subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True) as machine:
        try:
            status = machine.wait()
        except KeyboardInterrupt as e:
            end_session(machine)
            raise Cut(last_of(notes)) from e
        finally:
            notes.unlink(missing_ok=True)
    if status:
        raise Failed(f"the machine left no result of {', '.join(c.name for c in chunks)} (above)")
    return read_result(out)


def end_session(machine):
    """All of its processes, which end the machine and take away their files."""
    for what in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + ENDING_SECONDS
        try:
            os.killpg(machine.pid, what)
            while time.monotonic() < deadline:
                machine.poll()
                os.killpg(machine.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            return


def last_of(notes):
    """The last whole line of what the machine wrote, as a result, or None."""
    try:
        lines = notes.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError:
        return None
    whole = notes.with_suffix(".last")
    for line in reversed(lines):
        whole.write_text(line, encoding="utf-8")
        try:
            return load(whole).data
        except Unusable:
            continue
        finally:
            whole.unlink()
    return None


def merge(parts):
    """One result of several; what they say of their machine is the first one's."""
    result = dict(parts[0])
    for part in parts[1:]:
        if (part["kernel"], part["unit"]) != (result["kernel"], result["unit"]):
            raise Failed(f"parts of Linux {part['kernel']} and {result['kernel']} make no result: run with --fresh")
        result["backings"] = {**result["backings"], **part["backings"]}
        for name in ("paths", "cells", "absent"):
            result[name] = result[name] + [x for x in part[name] if x not in result[name]]
        result["interrupted"] = result["interrupted"] or part["interrupted"]
    return result


def set_of(args):
    return "device" if args.dev is not None else "full" if args.full else "quick"


def on_this_host(args):
    return args.host or args.dev is not None


def chosen(args):
    chunks = [c for c in sets.chunks_of(set_of(args)) if not on_this_host(args) or c.backing in HOST_BACKINGS]
    names = [c.name for c in chunks]
    for name in args.part:
        if name not in names:
            raise Failed(f"--part {name}: there are {', '.join(names)}")
    chunks = [c for c in chunks if not args.part or c.name in args.part]
    known = {sets.name(j) for c in chunks for j in (*c.jobs, *c.main_jobs)}
    for job in args.job:
        if job not in known:
            raise Failed(f"--job {job}: there are {', '.join(sorted(known))}")
    ways = [w.name for w in (*paths.PATHS, *paths.NULL_PATHS)]
    for path in args.path if args.dev is None else ():
        if path not in ways:
            raise Failed(f"--path {path}: there are {'; '.join(ways)}")
    return chunks


def groups(chunks, args):
    """The quick set is measured in one machine, of the full one each part in its own, so that it can go on where it ended."""
    return [[c] for c in chunks] if args.full else [chunks]


def run_parts(args, out):
    if not (TREE / "scripts/vm").exists():
        raise Failed(f"{HERE}: has no virtual machine: run it from the source tree, or with --host")
    parts, began = [], time.monotonic()
    todo = groups(chosen(args), args)
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    for i, group in enumerate(todo):
        file = out / PARTS / f"{'-'.join(c.name for c in group)[:60]}.{key(group, args)}.json"
        if args.fresh and file.exists():
            file.unlink()
        if file.exists():
            say(f"{i + 1}/{len(todo)} {file.name}: done before")
            parts.append(read_result(file))
            continue
        say(f"{i + 1}/{len(todo)} {', '.join(c.name for c in group)}  ({time.monotonic() - began:.0f} s so far)")
        fresh = file.with_suffix(".new")
        try:
            parts.append(in_machine(group, args, fresh))
        except Cut as e:
            say(f"interrupted: {len(parts)} of {len(todo)} parts are kept in {out / PARTS}; the same command goes on from there")
            parts += [e.result] if e.result else []
            if not parts:
                raise KeyboardInterrupt from e
            return {**merge(parts), "interrupted": True}
        fresh.rename(file)
    return merge(parts)


def processor(wanted):
    """On which the I/O is submitted: always the same one, so that rounds are alike."""
    allowed = sorted(os.sched_getaffinity(0))
    if wanted is None:
        return allowed[-1]
    if not wanted.isdigit() or int(wanted) not in allowed:
        raise Failed(f"--cpu {wanted}: this process may use {', '.join(map(str, allowed))}")
    return int(wanted)


def on_host(args, out):
    """On this host, over null_blk, a disk that is given, or what a device is over."""
    if os.geteuid():
        raise Failed("--host makes block devices: run it as root")
    if args.backing:
        inuse.must_be_free(args.backing)
    if args.dev is not None:
        lab.ublk("list", "-n", args.dev)
    chunks = chosen(args)
    cpu = processor(args.cpu)
    if not Path("/sys/kernel/tracing/events/sched").exists() and not Path("/sys/kernel/debug/tracing/events/sched").exists():
        raise Failed("--host tells CPU time by tracepoints, of which /sys/kernel/tracing has none: mount -t tracefs tracefs /sys/kernel/tracing, or use "
                     "a kernel with CONFIG_FTRACE and CONFIG_BPF_EVENTS")
    if (TREE / ".git").exists():
        subprocess.run([str(TREE / "scripts/build"), "bench-tools"], stdout=sys.stderr, check=True)
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, HERE / "runner.py", "--set", set_of(args), "--unit", "cpu_ns", "--cpu", cpu, "--out", out / "result.new"]
    argv += selection(chunks, args)
    if args.backing:
        argv += ["--backing", args.backing]
    if args.dev is not None:
        argv += ["--dev", args.dev]
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.new").unlink(missing_ok=True)
    # It takes away what it has made, which is waited for.
    with subprocess.Popen([str(a) for a in argv], env=env, stdout=sys.stderr, start_new_session=True) as child:
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, lambda *unused: child.terminate())
        child.wait()
    if not (out / "result.new").exists():
        raise Failed("there is no result (above)")
    result = read_result(out / "result.new")
    (out / "result.new").unlink()
    return result


def judged(result):
    """With the limits that bench/limits.py has for what both have measured."""
    if result["unit"] != "instructions":
        return result
    cells = [c for c in result["cells"] if c["backing"] in ("null_blk", "file on ext4")]
    return {**result, "checks": limits.judge_cells(cells)}


def leave(result, out, args):
    """The result and its report, as files and on the terminal."""
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = report_text(result)
    (out / "report.txt").write_text(text + "\n", encoding="utf-8")
    page(out)
    print(json.dumps(result) if args.json else text)
    say(f"{out}: result.json, report.txt" + (", report.html" if (out / "report.html").exists() else ""))


def report_text(result):
    import report  # pylint: disable=import-outside-toplevel
    return report.text(result)


def page(out):
    """Plots need a library that the build root has, and a host may not have."""
    root = TREE / "scripts/in-root"
    rooted = root.exists() and (TREE / ".git").exists()
    at = Path("/mnt") if rooted else out
    argv = ["python3", "-B", str(HERE / "page.py"), str(at / "result.json"), "-o", str(at / "report.html"), "--svg", str(at)]
    if rooted:
        argv = [str(root), "--bind", f"{out}:/mnt", *argv]
    if subprocess.run(argv, stdout=sys.stderr, check=False).returncode:
        say("there is no report.html (above)")


def interrupt(*unused):
    raise KeyboardInterrupt


def main():
    args = arguments()
    out = Path(args.output).resolve()
    signal.signal(signal.SIGTERM, interrupt)
    try:
        if args.what == "compare":
            if len(args.results) != 2:
                raise Failed("compare needs two results: ublk-bpf bench compare A.json B.json")
            return compare.main([*args.results, *(["--json"] if args.json else [])])
        if args.what == "report":
            if len(args.results) != 1:
                raise Failed("report needs a result: ublk-bpf bench report A.json")
            result = read_result(args.results[0])
            out.mkdir(parents=True, exist_ok=True)
        else:
            result = on_host(args, out) if on_this_host(args) else run_parts(args, out)
        result = judged(result) if args.what == "run" else result
        leave(result, out, args)
        if result.get("interrupted"):
            return 130
        return 0 if all(c["ok"] for c in result["checks"]) else 1
    except (Failed, lab.Failed, inuse.InUse) as e:
        say(f"ublk-bpf bench: {e}")
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
