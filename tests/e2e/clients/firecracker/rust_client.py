#!/usr/bin/env python3
"""Drives a VMM through a life with the crate firecracker-rs-sdk, unmodified: builds rust_client/ and runs it.

    rust_client.py --prepare                    builds it, once
    rust_client.py --binary PATH                the crate starts the VMM, boots a payload, pauses, snapshots, restores
    rust_client.py --socket PATH --restore-socket PATH      the same requests to servers with no machine behind
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

from python_client import CACHE, payload

HERE = pathlib.Path(__file__).resolve().parent / "rust_client"
TARGET = CACHE.parent / "firecracker-rust"


def build():
    """Builds the client; a build that is there is only checked."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET)}
    command = ["cargo", "build", "--quiet", "--locked", "--manifest-path", str(HERE / "Cargo.toml")]
    TARGET.mkdir(parents=True, exist_ok=True)
    # From outside of the checkout, whose cargo configuration is for what we ship.
    subprocess.run(command, check=True, env=environment, cwd=TARGET)
    return TARGET / "debug/ringwall-rust-client"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--binary")
    parser.add_argument("--socket")
    parser.add_argument("--restore-socket")
    arguments = parser.parse_args()
    client = build()
    if arguments.prepare:
        return 0
    with tempfile.TemporaryDirectory(prefix="ringwall-client-") as scratch:
        directory = pathlib.Path(scratch)
        (directory / "kernel").write_bytes(payload())
        (directory / "disk").write_bytes(bytes(1 << 20))
        binary = arguments.binary
        if not binary:
            # The crate starts its VMM itself. Where the server runs already, something must stand for it.
            stand_in = directory / "stand-in"
            stand_in.write_text("#!/bin/sh\nexec sleep 60\n")
            stand_in.chmod(0o755)
            binary = str(stand_in)
        first = arguments.socket or str(directory / "first.socket")
        second = arguments.restore_socket or str(directory / "second.socket")
        return subprocess.run([client, binary, str(directory), first, second]).returncode


if __name__ == "__main__":
    sys.exit(main())
