# SPDX-License-Identifier: MIT
"""Changed-block tracking, for ublk-bpf bench: loop.bpf.o that marks what is written, beside the one that does not."""

from pathlib import Path

import lab
from way import Absent, Made, Way


def tracked(file, stack, shape):
    track = Path(f"/run/bench/{Path(file).name}.track")
    device = lab.Ublk(None, "--write-back", "--track", track, target=["-t", "loop", "-f", file])
    stack.callback(track.unlink)
    stack.callback(device.delete)
    info = device.info()
    if not (info["bpf"] and info["bpf"]["prog_id"]):
        raise Absent("its server tracks alone: this kernel has no BPF part in its ublk driver, or track.bpf.o is not beside ublk-bpf")
    lab.ublk("track", "mark", "-n", device.id)
    return Made(device.node, device, [info["server"]["pid"]])


WAYS = [Way("program, track", "track.bpf.o, which marks each block once", tracked)]
