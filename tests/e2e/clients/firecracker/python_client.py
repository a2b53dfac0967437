#!/usr/bin/env python3
"""Drives a VMM through a life with the client of the PyPI package firecracker-python, unmodified.

    python_client.py --prepare                  installs the package, once
    python_client.py --binary PATH              starts the VMM, boots a payload, pauses, snapshots, restores
    python_client.py --socket PATH              the same requests to a server that runs already and has no machine behind it

One line per check: "ok NAME", "FAIL NAME: reason" or "SKIPPED NAME: why". Exit code 1 after any failure.
"""

import argparse
import fcntl
import importlib
import json
import os
import pathlib
import platform
import struct
import subprocess
import sys
import tempfile
import time
import types

PACKAGE = "firecracker-python==0.0.5"
# What its API module imports; the rest of its dependencies (docker, paramiko, ...) is for other modules.
NEEDED = ["requests==2.32.3", "requests-unixsocket==0.4.1"]
CACHE = pathlib.Path(os.environ.get("RINGWALL_CACHE", pathlib.Path.home() / ".cache/ringwall")) / "clients/firecracker"


def prepare():
    """Installs the package into the cache unless it is there."""
    done = CACHE / "done"
    if done.exists() and done.read_text() == PACKAGE:
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(CACHE)]
    subprocess.run([*pip, "--upgrade", "--no-deps", PACKAGE], check=True)
    subprocess.run([*pip, "--upgrade", *NEEDED], check=True)
    done.write_text(PACKAGE)


def load_api():
    """Imports the package's API module without its __init__, which makes directories in /var/lib."""
    sys.path.insert(0, str(CACHE))
    package = types.ModuleType("firecracker")
    package.__path__ = [str(CACHE / "firecracker")]
    sys.modules["firecracker"] = package
    return importlib.import_module("firecracker.api"), importlib.import_module("firecracker.exceptions")


def payload():
    """A kernel of a few instructions that writes "R" to the first serial port (x86) and then waits for interrupts for ever."""
    if platform.machine() == "aarch64":
        # arm64 Image (Documentation/arch/arm64/booting.rst): a branch over the header; wfi; b .-4
        code = struct.pack("<II", 0xD503207F, 0x17FFFFFF)
        head = struct.pack("<IIQQQQQQ4sI", 0x14000010, 0, 0, 0x1000, 0xA, 0, 0, 0, b"ARM\x64", 0)
        return head + code.ljust(0x1000 - len(head), b"\0")
    # mov dx, 0x3f8; mov al, 'R'; out dx, al; cli; hlt; jmp .-1: the same bytes in 32-bit (PVH) and 64-bit entry.
    code = bytes.fromhex("66baf803b052eefaf4ebfd")
    # ELF-64 with a note for PVH's entry (XEN_ELFNOTE_PHYS32_ENTRY, 18; xen/include/public/elfnote.h).
    entry = 0x100000
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", entry)
    note_at, code_at = 64 + 2 * 56, 0x1000
    elf = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, entry, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    elf += struct.pack("<IIQQQQQQ", 1, 7, code_at, entry, entry, len(code), 0x1000, 0x1000)
    elf += struct.pack("<IIQQQQQQ", 4, 4, note_at, 0, 0, len(note), len(note), 4)
    return (elf + note).ljust(code_at, b"\0") + code


class Checks:
    """Names what is checked, and counts what failed."""

    def __init__(self):
        self.failed = 0

    def run(self, name, check):
        """Runs a check; what it returns is shown if it isn't None."""
        try:
            result = check()
        except Exception as error:  # a check may fail in any way, and the next still runs
            self.failed += 1
            print(f"FAIL {name}: {type(error).__name__}: {error}", flush=True)
            return None
        print(f"ok {name}", flush=True)
        return result

    @staticmethod
    def skip(name, why):
        print(f"SKIPPED {name}: {why}", flush=True)


class Vmm:
    """A process of the VMM, or somebody else's server."""

    def __init__(self, module, directory, binary, socket, name):
        self.process = None
        self.socket = socket or str(directory / f"{name}.socket")
        if binary:
            log = directory / f"{name}.log"
            log.touch()
            self.output = open(directory / f"{name}.out", "wb")
            arguments = [binary, "--api-sock", self.socket, "--id", name, "--log-path", str(log)]
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT
            )
            wait_for(lambda: os.path.exists(self.socket) or self.process.poll() is not None, "the socket")
        self.api = module.Api(self.socket)

    def close(self):
        self.api.close()
        if self.process:
            self.process.kill()
            self.process.wait()
            self.output.close()


def may_make_taps():
    """Whether a process of this user can make a tap device: tried, and gone again."""
    TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000  # linux/if_tun.h
    try:
        with open("/dev/net/tun", "r+b", buffering=0) as tun:
            fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"rwtry%d", IFF_TAP | IFF_NO_PI))
        return True
    except OSError:
        return False


def wait_for(condition, what):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    raise TimeoutError(f"waited 10 s for {what}")


def equal(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got!r}, wanted {wanted!r}")


def contains(got, wanted):
    for key, value in wanted.items():
        equal(got.get(key), value)


def refused(errors, call, *needles):
    """The client raises its own error, and the VMM's message is in it."""
    try:
        call()
    except errors.APIError as error:
        text = str(error)
        if "API fault: " not in text:
            raise AssertionError(f"no fault_message: {text}") from error
        for needle in needles:
            if needle not in text:
                raise AssertionError(f"{needle!r} isn't in {text!r}") from error
        return
    raise AssertionError("it was taken")


def configure(checks, errors, api, directory, is_real):
    """Everything before the start."""
    kernel, disk = directory / "kernel", directory / "disk"
    kernel.write_bytes(payload())
    disk.write_bytes(bytes(1 << 20))
    checks.run("describe", lambda: contains(api.describe.get().json(), {"state": "Not started"}))
    version = checks.run("version", lambda: api.version.get().json()["firecracker_version"])
    checks.run("version.semver", lambda: equal([part.isdigit() for part in version.split(".")], [True] * 3))
    checks.run("logger", lambda: api.logger.put(level="Debug", show_level=True))
    checks.run("machine_config.put", lambda: api.machine_config.put(vcpu_count=1, mem_size_mib=64))
    checks.run("machine_config.patch", lambda: api.machine_config.patch(mem_size_mib=128))
    wanted = {"vcpu_count": 1, "mem_size_mib": 128, "smt": False}
    checks.run("machine_config.get", lambda: contains(api.machine_config.get().json(), wanted))
    checks.run("machine_config.refused", lambda: refused(errors, lambda: api.machine_config.put(vcpu_count=0, mem_size_mib=1), "vcpu_count"))
    checks.run("start.refused", lambda: refused(errors, lambda: api.actions.put(action_type="InstanceStart")))
    checks.run("pause.refused", lambda: refused(errors, lambda: api.vm.patch(state="Paused")))
    checks.run("boot", lambda: api.boot.put(kernel_image_path=str(kernel), boot_args="console=ttyS0 reboot=k panic=1"))
    checks.run("drive", lambda: api.drive.put(drive_id="rootfs", path_on_host=str(disk), is_root_device=True, is_read_only=False))
    checks.run("drive.refused", lambda: refused(errors, lambda: api.drive.put(drive_id="a-b", path_on_host=str(disk), is_root_device=False)))
    checks.run("drive.second_root", lambda: refused(errors, lambda: api.drive.put(drive_id="other", path_on_host=str(disk), is_root_device=True)))
    checks.run("vsock", lambda: api.vsock.put(guest_cid=3, uds_path=str(directory / "v.sock")))
    checks.run("vsock.refused", lambda: refused(errors, lambda: api.vsock.put(guest_cid=2, uds_path="v"), "guest_cid"))
    if is_real and not may_make_taps():
        checks.skip("network", "this user can't make a tap device here")
    else:
        tap = f"rw{os.getpid()}"  # made by the VMM, and gone with it
        checks.run("network", lambda: api.network.put(iface_id="eth0", host_dev_name=tap, guest_mac="06:00:AC:10:00:02"))
        checks.run("network.refused", lambda: refused(errors, lambda: api.network.put(iface_id="eth1", host_dev_name=tap), "host_dev_name"))
        checks.run("mmds_config", lambda: api.mmds_config.put(version="V2", network_interfaces=["eth0"], ipv4_address="169.254.169.254"))
    data = {"latest": {"meta-data": {"instance-id": "i-1", "tags": ["a", 1, True]}}}
    checks.run("mmds.put", lambda: api.mmds.put(**data))
    checks.run("mmds.get", lambda: equal(api.mmds.get().json(), data))
    checks.run("mmds.patch", lambda: api.mmds.patch(latest={"user-data": "x"}))
    checks.run("vm_config", lambda: equal(api.vm_config.get().json()["drives"][0]["drive_id"], "rootfs"))


def live(checks, errors, vmm, directory, is_real):
    """From the start to the snapshot."""
    api = vmm.api
    checks.run("start", lambda: api.actions.put(action_type="InstanceStart"))
    checks.run("running", lambda: contains(api.describe.get().json(), {"state": "Running"}))
    if is_real and platform.machine() != "aarch64":
        output = directory / "first.out"
        checks.run("serial", lambda: wait_for(lambda: b"R" in output.read_bytes(), "the payload's byte"))
    checks.run("configured", lambda: refused(errors, lambda: api.machine_config.put(vcpu_count=1, mem_size_mib=128)))
    checks.run("snapshot.refused", lambda: refused(errors, lambda: snapshot(api, directory)))
    checks.run("pause", lambda: api.vm.patch(state="Paused"))
    checks.run("pause.again", lambda: api.vm.patch(state="Paused"))
    checks.run("paused", lambda: contains(api.describe.get().json(), {"state": "Paused"}))
    checks.run("snapshot", lambda: snapshot(api, directory))
    checks.run("resume", lambda: api.vm.patch(state="Resumed"))
    checks.run("drive.patch", lambda: api.drive.patch(drive_id="rootfs", path_on_host=str(directory / "disk")))
    limits = {"bandwidth": {"size": 1 << 20, "refill_time": 100}, "ops": {"size": 100, "refill_time": 100}}
    checks.run("drive.limits", lambda: api.drive.patch(drive_id="rootfs", rate_limiter=limits))
    off = {"ops": {"size": 0, "refill_time": 0}}
    checks.run("drive.limits_off", lambda: api.drive.patch(drive_id="rootfs", rate_limiter=off))
    left = lambda: api.vm_config.get().json()["drives"][0]["rate_limiter"]
    checks.run("drive.limits_left", lambda: equal([left()["bandwidth"]["size"], left()["ops"]], [1 << 20, None]))
    if not is_real or may_make_taps():
        checks.run("network.patch", lambda: api.network.patch(iface_id="eth0", rx_rate_limiter=limits))
    checks.run("flush_metrics", lambda: api.actions.put(action_type="FlushMetrics"))
    checks.run("running.again", lambda: contains(api.describe.get().json(), {"state": "Running"}))


def snapshot(api, directory):
    return api.create_snapshot.put(
        snapshot_type="Full", snapshot_path=str(directory / "state"), mem_file_path=str(directory / "memory")
    )


def restore(checks, errors, api, directory):
    """A second process takes the snapshot."""
    backend = {"backend_type": "File", "backend_path": str(directory / "memory")}
    missing = {"backend_type": "File"}
    checks.run("load.refused", lambda: refused(errors, lambda: api.load_snapshot.put(snapshot_path="/s", mem_backend=missing)))
    load = lambda: api.load_snapshot.put(snapshot_path=str(directory / "state"), mem_backend=backend)
    checks.run("load", load)
    checks.run("loaded", lambda: contains(api.describe.get().json(), {"state": "Paused"}))
    checks.run("load.resume", lambda: api.vm.patch(state="Resumed"))
    checks.run("load.running", lambda: contains(api.describe.get().json(), {"state": "Running"}))
    checks.run("load.again", lambda: refused(errors, load))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--binary")
    parser.add_argument("--socket")
    parser.add_argument("--restore-socket", help="a second server, for the snapshot")
    arguments = parser.parse_args()
    prepare()
    if arguments.prepare:
        return 0
    module, errors = load_api()
    checks = Checks()
    is_real = arguments.binary is not None
    with tempfile.TemporaryDirectory(prefix="ringwall-client-") as scratch:
        directory = pathlib.Path(scratch)
        vmm = Vmm(module, directory, arguments.binary, arguments.socket, "first")
        try:
            configure(checks, errors, vmm.api, directory, is_real)
            live(checks, errors, vmm, directory, is_real)
        finally:
            vmm.close()
        if is_real:
            (directory / "v.sock").unlink(missing_ok=True)
        if is_real or arguments.restore_socket:
            second = Vmm(module, directory, arguments.binary, arguments.restore_socket, "second")
            try:
                restore(checks, errors, second.api, directory)
            finally:
                second.close()
        if checks.failed and is_real:
            for name in ("first", "second"):
                for kind in ("out", "log"):
                    path = directory / f"{name}.{kind}"
                    if path.exists():
                        print(f"--- {name}.{kind}\n{path.read_text(errors='replace')[-4000:]}")
    print(json.dumps({"failed": checks.failed}))
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
