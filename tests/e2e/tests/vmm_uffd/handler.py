"""A page fault handler: serves guest memory from a snapshot's memory file (userfaultfd(2), UFFDIO_COPY(2const)).

handler.py SOCKET MEMORY_FILE [--mode serve|mute|close|deaf] [--delay-ms N] [--pages N] [--stall-at OFFSET]

mute takes the mappings and answers nothing; close takes them and closes the connection, but lives on; deaf never accepts.
--stall-at stops answering at the first fault of the page at that offset of the file. Says on stdout what it does.
"""

import argparse
import array
import ctypes
import errno
import fcntl
import json
import mmap
import os
import select
import signal
import socket
import struct
import time

UFFDIO_WAKE, UFFDIO_COPY, UFFDIO_ZEROPAGE = 0x8010AA02, 0xC028AA03, 0xC020AA04
PAGEFAULT, REMOVE = 0x12, 0x15


def say(*words):
    print(*words, flush=True)


def receive(connection):
    """The mappings and the userfaultfd: one message with one descriptor. None if the VMM went first."""
    data, control, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4 * 8))
    if not data:
        return None
    descriptors = array.array("i")
    for level, kind, content in control:
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        descriptors.frombytes(content)
    assert len(descriptors) == 1, descriptors
    return json.loads(data), descriptors[0]


class Server:
    def __init__(self, args, mappings, userfault):
        self.args, self.mappings, self.userfault = args, mappings, userfault
        file = os.open(args.memory, os.O_RDONLY)
        # Private, so that its address can be had.
        self.memory = mmap.mmap(file, 0, access=mmap.ACCESS_COPY)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.removed = set()
        assert sum(m["size"] for m in mappings) == len(self.memory), "the mappings are not the file"

    def locate(self, address):
        for mapping in self.mappings:
            if 0 <= address - mapping["base_host_virt_addr"] < mapping["size"]:
                return mapping
        raise SystemExit(f"{address:#x} is in no mapping")

    def call(self, request, content):
        """Whether a request was done; not if the page is there already or the memory is just being changed."""
        try:
            fcntl.ioctl(self.userfault, request, bytearray(content))
            return True
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise SystemExit(0) from error
            if error.errno not in (errno.EEXIST, errno.EAGAIN):
                raise
            return False

    def copy(self, mapping, address, length):
        offset = mapping["offset"] + address - mapping["base_host_virt_addr"]
        return self.call(UFFDIO_COPY, struct.pack("=QQQQq", address, self.base + offset, length, 0, 0))

    def fault(self, address):
        mapping = self.locate(address)
        page = mapping["page_size"]
        address -= address % page
        offset = mapping["offset"] + address - mapping["base_host_virt_addr"]
        if offset == self.args.stall_at:
            say("stalled")
            signal.pause()
        time.sleep(self.args.delay_ms / 1000)
        if address in self.removed:
            self.call(UFFDIO_ZEROPAGE, struct.pack("=QQQq", address, page, 0, 0))
        else:
            end = mapping["base_host_virt_addr"] + mapping["size"]
            length = min(self.args.pages * page, end - address)
            around = range(address, address + length, page)
            stall = mapping["base_host_virt_addr"] + self.args.stall_at - mapping["offset"]
            if stall in around or self.removed.intersection(around) or not self.copy(mapping, address, length):
                self.copy(mapping, address, page)
        self.call(UFFDIO_WAKE, struct.pack("=QQ", address, page))

    def serve(self, connection):
        poll = select.poll()
        poll.register(self.userfault, select.POLLIN)
        poll.register(connection, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if connection.fileno() in ready:
                say("the VMM is gone")
                return
            try:
                messages = os.read(self.userfault, 32 * 64)
            except BlockingIOError:
                continue
            for at in range(0, len(messages), 32):
                event, first, second = struct.unpack_from("=B7xQQ", messages, at)
                if event == PAGEFAULT:
                    self.fault(second)
                elif event == REMOVE:
                    page = self.mappings[0]["page_size"]
                    self.removed.update(range(first, second, page))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("memory")
    parser.add_argument("--mode", default="serve")
    parser.add_argument("--delay-ms", type=int, default=0)
    parser.add_argument("--pages", type=int, default=16)
    parser.add_argument("--stall-at", type=lambda word: int(word, 0), default=-1)
    args = parser.parse_args()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(args.socket)
    listener.listen()
    say("listening")
    if args.mode == "deaf":
        signal.pause()
    connection, _ = listener.accept()
    received = receive(connection)
    if received is None:
        say("the VMM has said nothing")
        return
    mappings, userfault = received
    say("mapped", json.dumps(mappings))
    if args.mode == "close":
        connection.close()
        say("closed")
        signal.pause()
    if args.mode == "mute":
        signal.pause()
    Server(args, mappings, userfault).serve(connection)


main()
