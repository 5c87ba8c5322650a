# SPDX-License-Identifier: MIT
"""
A strict reader of OpenMetrics 1.0 text, for what `ublk-bpf metrics` prints: it raises ValueError for what the specification does not allow,
and gives the samples as {(name, labels): value}.
"""

import math
import re

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{([^\n]*)\})? ([^ ]+)$")
SUFFIXES = {
    "gauge": {""}, "counter": {"_total", "_created"}, "unknown": {""}, "info": {"_info"},
    "histogram": {"_bucket", "_count", "_sum", "_created"},
}


def labels_of(text):
    labels, at = {}, 0
    while text and at < len(text):
        match = LABEL.match(text, at)
        if not match or (match[3] == "," and match.end() == len(text)):
            raise ValueError(f"labels {text!r}")
        if match[1] in labels:
            raise ValueError(f"label {match[1]} is there twice: {text}")
        labels[match[1]] = match[2]
        at = match.end()
    return labels


def number(text):
    if not re.fullmatch(r"[+-]?(Inf|NaN|[0-9.]+([eE][+-]?[0-9]+)?)", text):
        raise ValueError(f"number {text!r}")
    return float(text)


class Reader:
    def __init__(self):
        self.samples, self.family, self.kind, self.unit, self.families, self.described = {}, None, None, "", set(), set()
        self.groups = []

    def descriptor(self, line):
        parts = line.split(" ", 3)
        if len(parts) < 4 or parts[0] != "#" or parts[1] not in ("TYPE", "UNIT", "HELP") or not NAME.fullmatch(parts[2]):
            raise ValueError(f"descriptor {line!r}")
        _, what, name, rest = parts
        if name != self.family:
            if name in self.families:
                raise ValueError(f"{name} is not in one piece")
            self.families.add(name)
            self.family, self.kind, self.unit, self.described, self.groups = name, "unknown", "", set(), []
        if what in self.described or self.groups:
            raise ValueError(f"{what} of {name} twice, or after its samples")
        self.described.add(what)
        if what == "TYPE":
            self.kind = rest
            if rest not in SUFFIXES:
                raise ValueError(f"type {rest}")
        if what == "UNIT" and not name.endswith("_" + rest):
            raise ValueError(f"{name} does not end with its unit {rest}")

    def sample(self, line):
        match = SAMPLE.fullmatch(line)
        if not match:
            raise ValueError(f"sample {line!r}")
        name, labels, value = match[1], labels_of(match[2]), number(match[3])
        if not self.family or not name.startswith(self.family) or name[len(self.family):] not in SUFFIXES[self.kind]:
            raise ValueError(f"{name} in the family {self.family} of type {self.kind}")
        key = (name, tuple(sorted(labels.items())))
        if key in self.samples:
            raise ValueError(f"{line} is there twice")
        if self.kind in ("counter", "histogram") and (math.isnan(value) or value < 0):
            raise ValueError(f"{line}: a counter")
        group = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
        if group in self.groups[:-1]:
            raise ValueError(f"{line}: its group is not in one piece")
        if not self.groups or self.groups[-1] != group:
            self.groups.append(group)
        self.samples[key] = value

    def check_histograms(self):
        series = {}
        for (name, labels), value in self.samples.items():
            if name.endswith("_bucket"):
                rest = tuple(label for label in labels if label[0] != "le")
                series.setdefault((name[:-7], rest), []).append((float(dict(labels)["le"].replace("+Inf", "inf")), value))
        for (name, labels), buckets in series.items():
            bounds = [b for b, _ in buckets]
            counts = [c for _, c in buckets]
            if bounds != sorted(set(bounds)) or counts != sorted(counts) or bounds[-1] != math.inf:
                raise ValueError(f"buckets of {name} {labels}")
            if counts[-1] != self.samples[(name + "_count", labels)]:
                raise ValueError(f"{name}_count {labels} is not the last bucket")


def parse(text):
    if not text.endswith("\n# EOF\n"):
        raise ValueError("does not end with # EOF")
    reader = Reader()
    for line in text[: -len("# EOF\n")].splitlines():
        if line.startswith("#"):
            reader.descriptor(line)
        else:
            reader.sample(line)
    reader.check_histograms()
    return reader.samples
