# SPDX-License-Identifier: MIT
"""
Clones, for ublk-bpf bench: reads and writes of blocks that are there already, which a program serves. Their files are those that
loop.bpf.o has beside them, so that what they cost more is the look-up.
"""

from pathlib import Path

import lab
from way import Absent, Made, Way

LAYER_MIB = 24  # more than is measured, and with all that is the layer's own less than the file has
KEPT_MIB = 4  # of the layer's file: its header and its map


def served(layer, stack):
    clone = lab.Ublk(None, "-r", target=["-t", "clone", "-f", layer])
    stack.callback(clone.delete)
    info = clone.info()
    if not (info["bpf"] and info["bpf"]["prog_id"]):
        raise Absent("its server serves it alone: this kernel has no BPF part in its ublk driver, or clone.bpf.o is not beside ublk-bpf")
    return Made(clone.node, clone, [info["server"]["pid"]])


def base(file, stack, shape, *options):
    """Nothing was written: all is read from what the layer is on. With more options of layer create."""
    layer = Path(f"/run/bench/{Path(file).name}.layer")
    lab.ublk("layer", "create", layer, "--base", file, *options)
    stack.callback(layer.unlink)
    made = served(layer, stack)
    made.reads_only = True
    return made


def put_layer(file):
    """Makes the file a layer, whose own part is kept, unlike the data; returns where the data begins, MiB."""
    empty = Path(f"/run/bench/{Path(file).name}.empty")
    start = lab.ublk("layer", "create", empty, "--size", f"{LAYER_MIB}M")["data-offset"] >> 20
    if start > KEPT_MIB:
        raise lab.Failed(f"{empty}: its data begins at {start} MiB, only {KEPT_MIB} are kept")
    lab.sh("dd", f"if={empty}", f"of={file}", "bs=1M", f"count={start}", "oflag=direct", "conv=notrunc,fsync", "status=none")
    empty.unlink()
    return start


def below(file, stack, shape):
    """What delta is compared with: loop.bpf.o on the data of such a file."""
    device = lab.Ublk(file, "--offset", f"{put_layer(file)}M", "--size", f"{LAYER_MIB}M")
    stack.callback(device.delete)
    device.attach(lab.object_of("loop"))
    return Made(device.node, device, [device.info()["server"]["pid"]])


def delta(file, stack, shape):
    """All was written."""
    put_layer(file)
    made = served(file, stack)
    lab.sh("dd", "if=/dev/zero", f"of={made.node}", "bs=1M", "oflag=direct", "conv=fsync", "status=none", f"count={LAYER_MIB}")
    return made


WAYS = [
    Way("clone, base", "clone.bpf.o, blocks that are not in its layer", base),
    Way("program, layer", "loop.bpf.o on the data of a layer's file", below, kept_mib=KEPT_MIB),
    Way("clone, delta", "clone.bpf.o, blocks that are in its layer", delta, kept_mib=KEPT_MIB),
]
