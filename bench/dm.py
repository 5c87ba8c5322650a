# SPDX-License-Identifier: MIT
"""A device mapper device, by the ioctls of <linux/dm-ioctl.h>: a host may have no dmsetup."""

import fcntl
import os
import struct

HEAD = struct.Struct("=3I I I I i I I I Q 128s 129s 7s")
TARGET = struct.Struct("=Q Q i I 16s")
CREATE, REMOVE, SUSPEND, LOAD, MESSAGE = (0xC0000000 | HEAD.size << 16 | 0xFD << 8 | n for n in (3, 4, 6, 9, 14))


def _ioctl(fd, command, name, targets=(), data=b""):
    for start, length, kind, params in targets:
        text = params.encode() + b"\0"
        text += bytes(-len(text) % 8)
        data += TARGET.pack(start, length, 0, TARGET.size + len(text), kind.encode()) + text
    head = HEAD.pack(4, 0, 0, HEAD.size + len(data), HEAD.size, len(targets), 0, 0, 0, 0, 0, name.encode(), b"", b"")
    buffer = bytearray(head + data)
    fcntl.ioctl(fd, command, buffer)
    return HEAD.unpack_from(buffer)[10]


def create(name, targets):
    """Targets are (start, length, kind, parameters), in sectors; returns the device's number."""
    fd = os.open("/dev/mapper/control", os.O_RDWR)
    try:
        dev = _ioctl(fd, CREATE, name)
        _ioctl(fd, LOAD, name, targets)
        _ioctl(fd, SUSPEND, name)  # without a flag it resumes
    finally:
        os.close(fd)
    return dev


def load(name, targets):
    """Another table for a device that is there."""
    fd = os.open("/dev/mapper/control", os.O_RDWR)
    try:
        _ioctl(fd, LOAD, name, targets)
        _ioctl(fd, SUSPEND, name)
    finally:
        os.close(fd)


def remove(name):
    fd = os.open("/dev/mapper/control", os.O_RDWR)
    try:
        _ioctl(fd, REMOVE, name)
    finally:
        os.close(fd)


def message(name, text):
    """To the target at the device's beginning."""
    fd = os.open("/dev/mapper/control", os.O_RDWR)
    try:
        _ioctl(fd, MESSAGE, name, data=struct.pack("=Q", 0) + text.encode() + b"\0")
    finally:
        os.close(fd)
