"""Runs a command as on a file system without locks: the kernel answers every flock of this process with an error.

python -m tests.search.no_locks ERRNO COMMAND...
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

FLOCK = {"x86_64": 73, "aarch64": 32}
_NO_NEW_PRIVS, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def refuse_flock(number: int) -> None:
    """Let this process and its children have no file lock from here on.

    Raises:
        OSError: If the kernel has no such filter.
    """
    steps = (
        (_LOAD, 0, 0, 0),  # the number of the system call
        (_EQUAL, 0, 1, FLOCK[platform.machine()]),
        (_RETURN, 0, 0, _ERRNO | number),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = _Program(len(steps), ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_SECCOMP, _FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "no filter of system calls")


if __name__ == "__main__":
    refuse_flock(int(sys.argv[1]))
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
