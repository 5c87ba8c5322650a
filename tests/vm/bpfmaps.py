# SPDX-License-Identifier: MIT
"""What is in a program's maps, as bpftool shows it to anybody."""

import json

from lab import sh


def bpftool(*args):
    return json.loads(sh("bpftool", "-j", *args).stdout)


def map_ids(prog_id):
    """Of one program, as the kernel names them: loop.bss and the like."""
    ids = bpftool("prog", "show", "id", prog_id).get("map_ids", [])
    return {bpftool("map", "show", "id", i)["name"]: i for i in ids}


def variables(prog_id):
    """The global variables that a program changes, by name."""
    bss = next(i for name, i in map_ids(prog_id).items() if name.endswith(".bss"))
    (entry,) = bpftool("map", "dump", "id", bss)
    (section,) = entry["formatted"]["value"].values()
    return {name: value for variable in section for name, value in variable.items()}
