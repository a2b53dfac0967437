"""Becomes ringwall-vmm with descriptors, and nothing else of its starter's, as the JSON on the command line says:

descriptors  number -> {"path": …, "mode": "r", "rw" or "a"}, {"listen": path}, {"connect": path}, {"tap": name}
root         a directory to be locked into, after everything is open
user         a user and group id to become
arguments    the program and its arguments
"""

import fcntl
import json
import os
import socket
import struct
import sys

MODES = {"r": os.O_RDONLY, "rw": os.O_RDWR, "a": os.O_WRONLY | os.O_APPEND | os.O_CREAT}
TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI_VNET_HDR = 0x0002 | 0x1000 | 0x4000


def opened(what):
    if "path" in what:
        return os.open(what["path"], MODES[what["mode"]], 0o600)
    if "tap" in what:
        tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", what["tap"].encode(), IFF_TAP_NO_PI_VNET_HDR))
        return tap
    made = socket.socket(socket.AF_UNIX)
    if "listen" in what:
        made.bind(what["listen"])
        os.chmod(what["listen"], 0o777)
        made.listen(16)
    else:
        made.connect(what["connect"])
    return made.detach()


spec = json.loads(sys.argv[1])
# Out of the way of the numbers that are wanted.
held = {int(number): fcntl.fcntl(opened(what), fcntl.F_DUPFD_CLOEXEC, 500) for number, what in spec["descriptors"].items()}
# What the starter left open is not for the VMM.
for number in map(int, os.listdir("/proc/self/fd")):
    if number > 2 and number not in held.values():
        try:
            os.close(number)
        except OSError:
            pass  # the list's own
for number, descriptor in held.items():
    os.dup2(descriptor, number, inheritable=True)
if "root" in spec:
    os.chroot(spec["root"])
    os.chdir("/")
# Found as who starts it: the user may have no way to where it was built.
program = os.open(spec["arguments"][0], os.O_PATH | os.O_CLOEXEC)
if "user" in spec:
    os.setgroups([])
    os.setresgid(*[spec["user"]] * 3)
    os.setresuid(*[spec["user"]] * 3)
os.execve(program, spec["arguments"], os.environ)
