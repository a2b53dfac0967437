"""Calls every part of the E2B Python SDK that is installed beside it, sync and async, against one server.

Started by matrix.py inside each version set's environment. Every check is written once, against a `Side`: `await x(call, ...)`
calls the sync client in a thread or awaits the async client. Each check is on its own: its sandboxes are its own or the side's shared
one, and its failure stops no other check. A result is one line of JSON behind `@@check `.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import concurrent.futures
import contextlib
import datetime
import fnmatch
import hashlib
import importlib.metadata
import inspect
import io
import json
import os
import re
import secrets
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request

import e2b
from e2b.sandbox_sync.commands.command import Commands
from e2b.sandbox_sync.filesystem.filesystem import Filesystem

VERSION = tuple(int(n) for n in re.findall(r"\d+", importlib.metadata.version("e2b"))[:3])
try:
    CI_VERSION = tuple(int(n) for n in re.findall(
        r"\d+", importlib.metadata.version("e2b-code-interpreter"))[:3])
    import e2b_code_interpreter
except ImportError:
    CI_VERSION, e2b_code_interpreter = None, None

# For the requests that this script makes by itself; the clients may have been told a domain alone.
API_URL = os.environ["RINGWALL_API_URL"].rstrip("/")
API_KEY = os.environ["E2B_API_KEY"]
WIRE = urllib.parse.urlsplit(API_URL)


def resolve_localhost():
    """Names below .localhost are loopback (RFC 6761, section 6.3). systemd-resolved says so, a plain resolver may not; clients that insist
    on https://PORT-ID.DOMAIN need it."""
    ask = socket.getaddrinfo

    def getaddrinfo(host, *args, **kw):
        name = host.decode() if isinstance(host, bytes) else host
        return ask("127.0.0.1" if isinstance(name, str) and name.endswith(".localhost") else host, *args, **kw)

    socket.getaddrinfo = getaddrinfo


if WIRE.scheme == "https":
    resolve_localhost()
RUN = secrets.token_hex(4)
# Older versions have the general class only; newer ones derive from it.
NotFound = e2b.NotFoundException
FileNotFound = getattr(e2b, "FileNotFoundException", e2b.NotFoundException)
SandboxNotFound = getattr(e2b, "SandboxNotFoundException", e2b.NotFoundException)
UTC = datetime.timezone.utc

POOL = concurrent.futures.ThreadPoolExecutor(96)
CHECKS: list["Check"] = []
MADE: dict[str, None] = {}
TEMPLATES: dict[str, None] = {}


class Skip(Exception):
    """Ends a check without a verdict, with the reason."""


class Check:
    def __init__(self, name, run, sides, since, needs, timeout):
        self.name, self.run, self.sides, self.since, self.needs = name, run, sides, since, needs
        self.timeout = timeout


def check(name, *, sides=("sync", "async"), since=None, needs=None, timeout=None):
    """Registers a check. `since`: first e2b version with the call. `needs`: why it cannot run, or None."""

    def wrap(run):
        CHECKS.append(Check(name, run, sides, since, needs, timeout))
        return run

    return wrap


def eq(got, want, what="value"):
    if got != want:
        raise AssertionError(f"{what}: got {short(got)}, want {short(want)}")


def that(condition, what):
    if not condition:
        raise AssertionError(what)


def short(value):
    text = repr(value)
    return text if len(text) < 160 else f"{text[:150]}... ({len(text)} characters)"


def ago(when):
    """Seconds since a time stamp; one without a zone is UTC."""
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return (datetime.datetime.now(UTC) - when).total_seconds()


async def in_thread(call, *args, **kw):
    return await asyncio.get_running_loop().run_in_executor(POOL, lambda: call(*args, **kw))


def has_param(call, name):
    return name in inspect.signature(call).parameters


class Side:
    """The sync or the async client, and the sandbox that its checks share."""

    def __init__(self, name):
        self.name = name
        self.is_async = name == "async"
        self.Sandbox = e2b.AsyncSandbox if self.is_async else e2b.Sandbox
        self.Template = e2b.AsyncTemplate if self.is_async else e2b.Template
        self._shared = {}

    async def __call__(self, call, *args, **kw):
        if not self.is_async:
            return await in_thread(call, *args, **kw)
        out = call(*args, **kw)
        return await out if inspect.isawaitable(out) else out

    async def create(self, *args, cls=None, **kw):
        box = await self((cls or self.Sandbox).create, *args, **kw)
        MADE[box.sandbox_id] = None
        return box

    @contextlib.asynccontextmanager
    async def own(self, *args, **kw):
        """A sandbox of one check only."""
        kw.setdefault("timeout", 120)
        box = await self.create(*args, **kw)
        try:
            yield box
        finally:
            with contextlib.suppress(Exception):
                await self(box.kill)

    async def box(self):
        return await self._one("box", lambda: self.create(
            timeout=900, envs={"RW_GLOBAL": "from-create"}, metadata={"suite": RUN}))

    async def interpreter(self):
        if e2b_code_interpreter is None:
            raise Skip("this set has no e2b-code-interpreter")
        module = e2b_code_interpreter
        cls = module.AsyncSandbox if self.is_async else module.Sandbox
        return await self._one("ci", lambda: self.create(
            cls=cls, timeout=900, envs={"RW_GLOBAL": "from-create"}))

    async def _one(self, key, make):
        if key not in self._shared:
            self._shared[key] = asyncio.ensure_future(make())
        try:
            return await asyncio.shield(self._shared[key])
        except Exception as err:
            raise AssertionError(f"the shared sandbox could not be made: {brief(err)}") from err

    async def run(self, box, cmd, **kw):
        return await self(box.commands.run, cmd, **kw)

    async def out(self, box, cmd, **kw):
        return (await self.run(box, cmd, **kw)).stdout.strip()

    async def pages(self, paginator):
        rows = []
        while paginator.has_next:
            rows += await self(paginator.next_items)
            that(len(rows) < 10000, "the list does not end")
        return rows

    async def raises(self, kinds, call, *args, **kw):
        try:
            out = await self(call, *args, **kw)
        except kinds as err:
            return err
        raise AssertionError(f"no error, but {short(out)}; want {names(kinds)}")


def names(kinds):
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    return " or ".join(k.__name__ for k in kinds)


def brief(err):
    text = " ".join(str(err).split()) or repr(err)
    return f"{type(err).__name__}: {text}"[:350]


async def until(seconds, what, probe, pause=0.25):
    """Asks until the answer is true, and returns it."""
    end = time.monotonic() + seconds
    while True:
        got = await probe()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(pause)


def envd_version(info):
    return tuple(int(n) for n in re.findall(r"\d+", info.envd_version)[:3])


async def need_envd(x, box, least):
    got = envd_version(await x(box.get_info))
    if got < least:
        raise Skip(f"the server says envd {'.'.join(map(str, got))}; "
                   f"the client wants {'.'.join(map(str, least))}")


# -- plain HTTP, for what the clients leave to urllib and browsers ----------------------------------

class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args, **kw):
        return None


OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect)


def fetch(url, method="GET", body=None, headers=None, timeout=20):
    """(status, body, headers) of one request."""
    request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    try:
        with OPENER.open(request, timeout=timeout) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read(), err.headers


async def api(method, path, body=None, key=API_KEY, headers=None):
    """(status, parsed JSON or text) of one control-plane call."""
    headers = dict(headers or {})
    if key:
        headers["X-API-Key"] = key
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    status, raw, _ = await in_thread(fetch, API_URL + path, method, data, headers)
    try:
        return status, json.loads(raw) if raw else None
    except ValueError:
        return status, raw.decode(errors="replace")


async def envd(box, method, path, body=None, token="right", port="49983", headers=None):
    """(status, bytes, headers) of one data-plane call, routed by the sandbox headers."""
    send = {"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": port, **(headers or {})}
    if token == "right":
        token = getattr(box, "_envd_access_token", None)
    if token:
        send["X-Access-Token"] = token
    data = body
    if isinstance(body, (dict, list)):
        data = json.dumps(body).encode()
        send["Content-Type"] = "application/json"
    return await in_thread(fetch, API_URL + path, method, data, send)


def dial(host, timeout):
    """A connection to the server, by TLS if it speaks that: then its certificate must be for the sandbox's own host name."""
    secure = WIRE.scheme == "https"
    wire = socket.create_connection((WIRE.hostname, WIRE.port or (443 if secure else 80)), timeout)
    return ssl.create_default_context().wrap_socket(wire, server_hostname=host.split(":")[0]) if secure else wire


def via_host(host, method="GET", path="/", body=b"", headers=None, timeout=20, stamps=None):
    """(status, body) of a request to a sandbox's port: to the server's address, with the Host that names the sandbox."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"{k}: {v}" for k, v in (headers or {}).items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    with dial(host, timeout) as wire:
        wire.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        raw = b""
        while True:
            part = wire.recv(65536)
            if not part:
                break
            if stamps is not None:
                stamps.append(time.monotonic())
            raw += part
    head, _, rest = raw.partition(b"\r\n\r\n")
    that(head.startswith(b"HTTP/1."), f"no HTTP answer from {host}: {short(raw[:80])}")
    status = int(head.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" in head.lower():
        whole, rest = rest, b""
        while whole:
            size, _, whole = whole.partition(b"\r\n")
            size = int(size.split(b";")[0] or b"0", 16)
            if size == 0:
                break
            rest, whole = rest + whole[:size], whole[size + 2:]
    return status, rest


def web_socket_echo(host, path, message):
    """Sends one text frame and returns the first frame that comes back."""
    key = base64.b64encode(os.urandom(16)).decode()
    with dial(host, 20) as wire:
        wire.sendall((f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n").encode())
        stream = wire.makefile("rb")
        status = stream.readline().decode(errors="replace")
        accept = ""
        while (line := stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode(errors="replace").partition(":")
            if name.lower() == "sec-websocket-accept":
                accept = value.strip()
        that(" 101 " in status, f"the WebSocket was answered with {status.strip()!r}")
        want = base64.b64encode(hashlib.sha1(
            (key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        eq(accept, want, "Sec-WebSocket-Accept")
        data, mask = message.encode(), os.urandom(4)
        head = bytes([0x81]) + (bytes([0x80 | len(data)]) if len(data) < 126
                                else bytes([0x80 | 126]) + struct.pack(">H", len(data)))
        wire.sendall(head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))
        first = stream.read(2)
        size = first[1] & 0x7F
        if size == 126:
            size = struct.unpack(">H", stream.read(2))[0]
        return stream.read(size).decode()


# Runs in the sandbox: a page, an echo, a slow stream and a WebSocket echo, on one port.
SERVER = r'''
import base64, hashlib, http.server, struct, sys, time
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def send(self, body, kind="text/plain"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        self.send(self.rfile.read(int(self.headers.get("Content-Length", 0))))
    def do_GET(self):
        if self.headers.get("Upgrade", "").lower() == "websocket":
            return self.socket()
        if self.path == "/slow":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for n in range(3):
                self.wfile.write(b"6\r\npart %d\r\n" % n)
                self.wfile.flush()
                time.sleep(0.5)
            self.wfile.write(b"0\r\n\r\n")
            return
        if self.path == "/host":
            return self.send(self.headers.get("Host", "").encode())
        self.send(b"page of " + self.path.encode())
    def socket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        a, b = self.rfile.read(2)
        size = b & 127
        if size == 126:
            size = struct.unpack(">H", self.rfile.read(2))[0]
        mask = self.rfile.read(4)
        data = bytes(c ^ mask[i % 4] for i, c in enumerate(self.rfile.read(size)))
        head = b"\x81" + (bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack(">H", len(data)))
        self.wfile.write(head + data)
        self.wfile.flush()
        self.close_connection = True
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), H).serve_forever()
'''


async def serve(x, box, port):
    """Starts that server in a sandbox and returns its host name once it answers."""
    await x(box.files.write, f"/tmp/rw-server-{port}.py", SERVER)
    await x.run(box, f"python3 /tmp/rw-server-{port}.py {port} >/tmp/rw-server-{port}.log 2>&1",
                background=True, timeout=0)
    host = box.get_host(port)

    async def up():
        return (await in_thread(via_host, host))[0] == 200

    await until(15, f"the server on port {port} answers through {host}", up)
    return host


# -- the client itself ------------------------------------------------------------------------------

@check("client.surface", sides=("offline",))
async def _(x):
    """Every call that this file makes exists in the installed version."""
    wanted = ["create", "connect", "kill", "get_info", "list", "set_timeout", "is_running", "pause",
              "beta_pause", "get_metrics", "get_host", "download_url", "upload_url",
              "create_snapshot", "list_snapshots", "delete_snapshot", "commands", "files", "pty"]
    if VERSION >= (2, 29, 5):
        wanted.append("update_network")
    if VERSION >= (2, 50):
        wanted.append("fork")
    for cls in (e2b.Sandbox, e2b.AsyncSandbox):
        missing = [n for n in wanted if not hasattr(cls, n)]
        that(not missing, f"{cls.__name__} lacks {missing}")
        for name in ("timeout", "metadata", "envs", "secure", "allow_internet_access", "network",
                     "lifecycle"):
            that(has_param(cls.create, name), f"{cls.__name__}.create has no {name}")
    for cls in (e2b.Template, e2b.AsyncTemplate):
        for name in ("build", "build_in_background", "get_build_status", "exists", "assign_tags",
                     "get_tags", "remove_tags", "from_template"):
            that(hasattr(cls, name), f"{cls.__name__} lacks {name}")
    for name in ("AuthenticationException", "BuildException", "CommandExitException",
                 "InvalidArgumentException", "NotFoundException", "PtySize", "SandboxQuery",
                 "SandboxState", "TimeoutException", "TemplateException", "ALL_TRAFFIC",
                 "FilesystemEventType", "FileType", "wait_for_port"):
        that(hasattr(e2b, name), f"e2b lacks {name}")
    if e2b_code_interpreter:
        for cls in (e2b_code_interpreter.Sandbox, e2b_code_interpreter.AsyncSandbox):
            for name in ("run_code", "create_code_context", "list_code_contexts",
                         "restart_code_context", "remove_code_context"):
                that(hasattr(cls, name), f"{cls.__name__} lacks {name}")


# -- life of a sandbox ------------------------------------------------------------------------------

@check("life.defaults")
async def _(x):
    box = await x.create()
    try:
        that(re.fullmatch(r"[a-z0-9-]{4,63}", box.sandbox_id), f"odd sandbox id {box.sandbox_id!r}")
        info = await x(box.get_info)
        eq(info.sandbox_id, box.sandbox_id, "sandbox_id")
        eq(info.state, e2b.SandboxState.RUNNING, "state")
        that(info.template_id, "no template_id")
        that(info.cpu_count >= 1, f"cpu_count {info.cpu_count}")
        that(info.memory_mb >= 16, f"memory_mb {info.memory_mb}")
        that(envd_version(info) >= (0, 1, 0), f"envd_version {info.envd_version}")
        that(-5 < ago(info.started_at) < 120, f"started_at {info.started_at}")
        life = (info.end_at - info.started_at).total_seconds()
        that(290 <= life <= 330, f"the default timeout is {life} s, want 300")
        eq(await x.out(box, "echo hello"), "hello", "stdout")
        eq(await x(box.is_running), True, "is_running")
    finally:
        eq(await x(box.kill), True, "kill")
    eq(await x(box.is_running), False, "is_running after kill")
    eq(await x(box.kill), False, "second kill")


@check("life.options")
async def _(x):
    metadata = {"suite": RUN, "a b": "c d&e=f%20", "übung": "naïve 🦀"}
    async with x.own("base", timeout=120, metadata=metadata,
                     envs={"RW_A": "1", "RW_B": "two words 'quoted' $HOME é"}) as box:
        info = await x(box.get_info)
        eq(info.metadata, metadata, "metadata")
        left = -ago(info.end_at)
        that(80 <= left <= 121, f"{left} s left of 120")
        eq(await x.out(box, 'printf "%s|%s" "$RW_A" "$RW_B"'), "1|two words 'quoted' $HOME é", "envs")
        eq(await x.out(box, "echo $RW_A", envs={"RW_A": "mine"}), "mine", "a command's env wins")
        static = await x(x.Sandbox.get_info, box.sandbox_id)
        eq(static.metadata, metadata, "metadata of the static get_info")


@check("life.secure_false")
async def _(x):
    async with x.own(secure=False) as box:
        eq(await x.out(box, "echo open"), "open", "stdout")
        await x(box.files.write, "open.txt", "open")
        eq(await x(box.files.read, "open.txt"), "open", "file")


@check("life.with_statement")
async def _(x):
    if x.is_async:
        async with await x.create(timeout=60) as box:
            eq(await x.out(box, "echo in"), "in", "stdout")
    else:
        box = await x.create(timeout=60)

        def block():
            with box as inner:
                return inner.commands.run("echo in").stdout

        eq(await in_thread(block), "in\n", "stdout")
    eq(await x(box.kill), False, "kill after the with statement")


@check("life.kill_static")
async def _(x):
    async with x.own() as box:
        eq(await x(x.Sandbox.kill, box.sandbox_id), True, "kill by id")
        eq(await x(x.Sandbox.kill, box.sandbox_id), False, "second kill by id")
        eq(await x(x.Sandbox.kill, "i" + secrets.token_hex(9)), False, "kill of an unknown id")


@check("life.dead_sandbox_errors")
async def _(x):
    box = await x.create(timeout=60)
    await x(box.kill)
    gone = (e2b.TimeoutException, NotFound)
    await x.raises(gone, box.commands.run, "echo late")
    await x.raises(gone, box.files.read, "late.txt")
    await x.raises(gone, box.files.list, "/")
    await x.raises(NotFound, box.get_info)
    await x.raises(NotFound, box.set_timeout, 60)


@check("life.expiry")
async def _(x):
    box = await x.create(timeout=2)
    began = time.monotonic()

    async def gone():
        try:
            await x(x.Sandbox.get_info, box.sandbox_id)
        except NotFound:
            return True

    await until(20, "a sandbox with timeout=2 is gone", gone)
    that(time.monotonic() - began > 0.5, "the sandbox was gone at once")
    eq(await x(box.is_running), False, "is_running")
    await x.raises((e2b.TimeoutException, NotFound), box.commands.run, "echo late")
    eq(await x(box.kill), False, "kill")


@check("life.set_timeout")
async def _(x):
    async with x.own(timeout=40) as box:
        before = (await x(box.get_info)).end_at
        await x(box.set_timeout, 400)
        after = (await x(box.get_info)).end_at
        grown = (after - before).total_seconds()
        that(330 <= grown <= 400, f"the end moved by {grown} s")
        await x(x.Sandbox.set_timeout, box.sandbox_id, 100)
        left = -ago((await x(box.get_info)).end_at)
        that(80 <= left <= 101, f"{left} s left after it was set to 100")
        await x(box.set_timeout, 1)

        async def gone():
            return not await x(box.is_running)

        await until(20, "a sandbox whose timeout was set to 1 is gone", gone)


@check("life.connect")
async def _(x):
    async with x.own(timeout=60) as box:
        await x(box.files.write, "kept.txt", "kept")
        other = await x(x.Sandbox.connect, box.sandbox_id, timeout=300)
        eq(other.sandbox_id, box.sandbox_id, "sandbox_id")
        # e2b 2.15.2 sends no E2b-Sandbox-Id after a static connect: only X-Access-Token says whose call it is.
        eq(await x(other.files.read, "kept.txt"), "kept", "file seen through the connection")
        eq(await x.out(other, "echo there"), "there", "stdout")
        that(-ago((await x(box.get_info)).end_at) > 250, "connect(timeout=300) made the life no longer")
        again = await x(box.connect, timeout=30)
        eq(again.sandbox_id, box.sandbox_id, "sandbox_id")
        that(-ago((await x(box.get_info)).end_at) > 200, "connect(timeout=30) cut the life of a running sandbox")
    await x.raises(NotFound, x.Sandbox.connect, "i" + secrets.token_hex(9))


@check("life.unknown_id")
async def _(x):
    await x.raises(SandboxNotFound, x.Sandbox.get_info, "i" + secrets.token_hex(9))
    await x.raises(SandboxNotFound, x.Sandbox.set_timeout, "i" + secrets.token_hex(9), 10)
    await x.raises(NotFound, x.Sandbox.pause, "i" + secrets.token_hex(9))


async def pause_and_resume(x, pause, box):
    await x(box.files.write, "/tmp/kept.txt", "kept over a pause")
    counter = await x.run(box, "n=0; while true; do n=$((n+1)); echo $n > /tmp/count; sleep 0.1; done",
                          background=True, timeout=0)

    async def counting():
        return await x.out(box, "cat /tmp/count 2>/dev/null || true")

    await until(10, "the counter runs", counting)
    first = await x(pause)
    that(first is not False, "the first pause returned False")
    eq((await x(x.Sandbox.get_info, box.sandbox_id)).state, e2b.SandboxState.PAUSED, "state")
    eq(await x(box.is_running), False, "is_running of a paused sandbox")
    second = await x(pause)
    that(not second or VERSION < (2, 29), f"the second pause returned {second!r}")
    back = await x(box.connect, timeout=120)
    eq(back.sandbox_id, box.sandbox_id, "sandbox_id after resume")
    eq((await x(box.get_info)).state, e2b.SandboxState.RUNNING, "state after resume")
    eq(await x(box.files.read, "/tmp/kept.txt"), "kept over a pause", "file")
    that(counter.pid in [p.pid for p in await x(box.commands.list)], "the process is not listed after resume")
    # Between the shell's emptying the file and its writing to it there is nothing in it.
    one = int(await until(10, "a count after resume", counting))

    async def further():
        got = await x.out(box, "cat /tmp/count")
        return got and int(got) > one

    await until(10, "the process counts on after resume", further)
    eq(await x(box.commands.kill, counter.pid), True, "kill of the process after resume")


@check("life.pause_resume")
async def _(x):
    async with x.own() as box:
        await pause_and_resume(x, box.pause, box)
        await x(x.Sandbox.pause, box.sandbox_id)
        await x(x.Sandbox.connect, box.sandbox_id, timeout=60)
        eq(await x(box.files.read, "/tmp/kept.txt"), "kept over a pause", "file after the second resume")
        await x(box.pause)
        eq(await x(box.kill), True, "kill of a paused sandbox")
        await x.raises(NotFound, box.get_info)


@check("life.beta_pause")
async def _(x):
    async with x.own() as box:
        await pause_and_resume(x, box.beta_pause, box)


@check("life.pause_filesystem", since=(2, 50))
async def _(x):
    async with x.own() as box:
        await x(box.files.write, "/home/user/kept.txt", "kept on disk")
        handle = await x.run(box, "sleep 600", background=True, timeout=0)
        kw = {"mode": "filesystem"} if has_param(e2b.Sandbox.create_snapshot, "mode") else {"keep_memory": False}
        eq(await x(box.pause, **kw), True, "pause")
        await x(box.connect, timeout=120)
        eq(await x(box.files.read, "/home/user/kept.txt"), "kept on disk", "file")
        that(handle.pid not in [p.pid for p in await x(box.commands.list)],
             "a process is still there after a pause without memory")


@check("life.reboot", since=(2, 50), needs=lambda: None if has_param(e2b.Sandbox.connect, "on_resume") else "no on_resume")
async def _(x):
    async with x.own() as box:
        await x(box.files.write, "/home/user/kept.txt", "kept on disk")
        await x.run(box, "sleep 600", background=True, timeout=0)
        await x(box.pause)
        await x(box.connect, timeout=120, on_resume="reboot")
        eq(await x(box.files.read, "/home/user/kept.txt"), "kept on disk", "file")
        eq([p for p in await x(box.commands.list) if "sleep 600" in " ".join(p.args)], [], "processes")


@check("life.timeout_pauses")
async def _(x):
    async with x.own(timeout=6, lifecycle={"on_timeout": "pause"}) as box:
        info = await x(box.get_info)
        if getattr(info, "lifecycle", None):
            eq(info.lifecycle["on_timeout"], "pause", "lifecycle.on_timeout")
        await x(box.files.write, "/tmp/kept.txt", "kept")

        async def paused():
            return (await x(x.Sandbox.get_info, box.sandbox_id)).state == e2b.SandboxState.PAUSED

        await until(25, "a sandbox with on_timeout=pause is paused", paused)
        await x(box.connect, timeout=60)
        eq(await x(box.files.read, "/tmp/kept.txt"), "kept", "file")


@check("life.beta_create_auto_pause", needs=lambda: None if hasattr(e2b.Sandbox, "beta_create") else "no beta_create")
async def _(x):
    box = await x(x.Sandbox.beta_create, timeout=6, auto_pause=True)
    MADE[box.sandbox_id] = None
    try:
        async def paused():
            return (await x(x.Sandbox.get_info, box.sandbox_id)).state == e2b.SandboxState.PAUSED

        await until(25, "a sandbox with auto_pause is paused", paused)
    finally:
        await x(x.Sandbox.kill, box.sandbox_id)


@check("life.auto_resume")
async def _(x):
    async with x.own(timeout=120, lifecycle={"on_timeout": "pause", "auto_resume": True}) as box:
        await x(box.files.write, "/tmp/kept.txt", "kept")
        await x(box.pause)
        eq((await x(x.Sandbox.get_info, box.sandbox_id)).state, e2b.SandboxState.PAUSED, "state")
        eq(await x(box.files.read, "/tmp/kept.txt"), "kept", "file read through a paused sandbox")
        eq((await x(box.get_info)).state, e2b.SandboxState.RUNNING, "state after traffic")


@check("life.idempotency_key", needs=lambda: None if has_param(e2b.Sandbox.create, "idempotency_key") else "no idempotency_key")
async def _(x):
    async with x.own(idempotency_key=f"suite-{RUN}-{x.name}") as box:
        eq(await x.out(box, "echo once"), "once", "stdout")


# -- lists and information --------------------------------------------------------------------------

@check("list.filters_and_pages")
async def _(x):
    tag = f"{RUN} {x.name} list&=%"
    query = e2b.SandboxQuery
    boxes = await asyncio.gather(*[
        x.create(timeout=120, metadata={"list tag": tag, "n": str(n)}) for n in range(3)])
    try:
        ids = {b.sandbox_id for b in boxes}
        paginator = x.Sandbox.list(query=query(metadata={"list tag": tag}), limit=2)
        first = await x(paginator.next_items)
        eq(len(first), 2, "rows of the first page")
        that(paginator.has_next and paginator.next_token, "there is no second page")
        second = await x(paginator.next_items)
        eq({i.sandbox_id for i in first + second}, ids, "ids of both pages")
        eq(paginator.has_next, False, "has_next after the last page")
        one = await x.pages(x.Sandbox.list(query=query(metadata={"list tag": tag, "n": "1"})))
        eq([i.sandbox_id for i in one], [boxes[1].sandbox_id], "ids by two metadata values")
        eq(one[0].metadata, {"list tag": tag, "n": "1"}, "metadata in the list")
        eq(one[0].state, e2b.SandboxState.RUNNING, "state in the list")
        none = await x.pages(x.Sandbox.list(query=query(metadata={"list tag": tag + "x"})))
        eq(none, [], "rows by an unknown metadata value")
        await x(boxes[0].pause)
        meta = {"list tag": tag}
        paused = await x.pages(x.Sandbox.list(query=query(metadata=meta, state=[e2b.SandboxState.PAUSED])))
        eq([i.sandbox_id for i in paused], [boxes[0].sandbox_id], "ids of the paused")
        running = await x.pages(x.Sandbox.list(query=query(metadata=meta, state=[e2b.SandboxState.RUNNING])))
        eq({i.sandbox_id for i in running}, ids - {boxes[0].sandbox_id}, "ids of the running")
        both = await x.pages(x.Sandbox.list(query=query(
            metadata=meta, state=[e2b.SandboxState.RUNNING, e2b.SandboxState.PAUSED])))
        eq({i.sandbox_id for i in both}, ids, "ids of both states")
        everything = {i.sandbox_id for i in await x.pages(x.Sandbox.list())}
        that(ids <= everything, "a list without a filter lacks sandboxes")
        fields = getattr(query, "__dataclass_fields__", {})
        if has_param(e2b.Sandbox.list, "order"):
            up = [i.started_at for i in await x.pages(x.Sandbox.list(query=query(metadata=meta), order="asc"))]
            down = [i.started_at for i in await x.pages(x.Sandbox.list(query=query(metadata=meta), order="desc"))]
            eq(up, sorted(up), "order=asc")
            eq(down, sorted(down, reverse=True), "order=desc")
        if "started_after" in fields:
            late = datetime.datetime.now(UTC) + datetime.timedelta(hours=1)
            eq(await x.pages(x.Sandbox.list(query=query(metadata=meta, started_after=late))), [], "started_after")
        if "template" in fields:
            got = await x.pages(x.Sandbox.list(query=query(metadata=meta, template="base")))
            eq({i.sandbox_id for i in got}, ids, "ids by template")
            got = await x.pages(x.Sandbox.list(query=query(metadata=meta, template="no-such-" + RUN)))
            eq(got, [], "ids by an unknown template")
    finally:
        await asyncio.gather(*[x(b.kill) for b in boxes], return_exceptions=True)


@check("info.metrics")
async def _(x):
    box = await x.box()

    async def some():
        return await x(box.get_metrics)

    rows = await until(15, "there is a metric", some, pause=1)
    row = rows[-1]
    that(row.cpu_count >= 1 and row.mem_total > 0 and row.disk_total > 0, f"odd metric {short(row)}")
    that(0 <= row.mem_used <= row.mem_total, f"mem_used {row.mem_used} of {row.mem_total}")
    that(0 <= row.disk_used <= row.disk_total, f"disk_used {row.disk_used} of {row.disk_total}")
    that(row.cpu_used_pct >= 0, f"cpu_used_pct {row.cpu_used_pct}")
    that(-5 < ago(row.timestamp) < 120, f"timestamp {row.timestamp}")
    now = datetime.datetime.now(UTC)
    rows = await x(x.Sandbox.get_metrics, box.sandbox_id, start=now - datetime.timedelta(hours=1), end=now)
    that(isinstance(rows, list), "static get_metrics with a start and an end")
    early = await x(box.get_metrics, start=now - datetime.timedelta(hours=2), end=now - datetime.timedelta(hours=1))
    eq(early, [], "metrics from before the sandbox")


# -- errors of the control plane --------------------------------------------------------------------

@check("errors.wrong_key")
async def _(x):
    bad = "e2b_" + "0" * 40
    await x.raises(e2b.AuthenticationException, x.Sandbox.create, api_key=bad)
    await x.raises(e2b.AuthenticationException, x.Sandbox.get_info, "i" + secrets.token_hex(9), api_key=bad)
    await x.raises(e2b.AuthenticationException, x.Sandbox.list(api_key=bad).next_items)


@check("errors.unknown_template")
async def _(x):
    try:
        box = await x.create("no-such-template-" + RUN)
    except e2b.SandboxException as caught:
        err = caught
    else:
        raise AssertionError(f"the sandbox {box.sandbox_id} was made from an unknown template")
    that(not isinstance(err, e2b.TimeoutException), f"odd error {brief(err)}")
    that(str(err).strip(), "the error says nothing")


# -- commands ---------------------------------------------------------------------------------------

@check("commands.run")
async def _(x):
    box = await x.box()
    got = await x.run(box, "echo out; echo err >&2")
    eq((got.stdout, got.stderr, got.exit_code), ("out\n", "err\n", 0), "result")
    got = await x.run(box, "true")
    eq((got.stdout, got.stderr, got.exit_code), ("", "", 0), "result of nothing")
    eq(await x.out(box, "for i in 1 2 3; do\n  echo $i\ndone | paste -sd,"), "1,2,3", "several lines")
    eq(await x.out(box, "shopt -q login_shell && echo login"), "login", "a login shell")


@check("commands.exit_code")
async def _(x):
    box = await x.box()
    err = await x.raises(e2b.CommandExitException, box.commands.run, "echo said; echo why >&2; exit 42")
    eq((err.exit_code, err.stdout, err.stderr), (42, "said\n", "why\n"), "exception")
    err = await x.raises(e2b.CommandExitException, box.commands.run, "no-such-program-here")
    eq(err.exit_code, 127, "exit code of an unknown program")
    err = await x.raises(e2b.CommandExitException, box.commands.run, "kill -9 $$")
    that(err.exit_code != 0, "exit code after a signal is 0")


@check("commands.envs")
async def _(x):
    box = await x.box()
    eq(await x.out(box, "echo $RW_GLOBAL"), "from-create", "the sandbox's variable")
    values = {"RW_X": "a b", "RW_Y": "ü'\"$(id)`\\", "RW_Z": "", "RW_N": "two\nlines"}
    got = await x.run(box, 'printf "%s|%s|%s|%s" "$RW_X" "$RW_Y" "$RW_Z" "$RW_N"', envs=values)
    eq(got.stdout, "|".join(values.values()), "the command's variables")
    eq(await x.out(box, "echo [$RW_X]"), "[]", "the variable in the next command")
    eq(await x.out(box, "echo $HOME $USER $LOGNAME"), "/home/user user user", "HOME USER LOGNAME")
    that("/usr/bin" in await x.out(box, "echo $PATH"), "PATH lacks /usr/bin")


@check("commands.cwd")
async def _(x):
    box = await x.box()
    eq(await x.out(box, "pwd"), "/home/user", "default directory")
    eq(await x.out(box, "pwd", cwd="/tmp"), "/tmp", "directory")
    err = await x.raises(e2b.SandboxException, box.commands.run, "pwd", cwd="/no/such/dir")
    that(isinstance(err, e2b.InvalidArgumentException), f"want InvalidArgumentException, got {brief(err)}")
    that("/no/such/dir" in str(err), f"the error does not name the directory: {brief(err)}")


@check("commands.user")
async def _(x):
    box = await x.box()
    eq(await x.out(box, "id -un"), "user", "id -un")
    that(await x.out(box, "id -u") != "0", "the default user is uid 0")
    eq(await x.out(box, "id -un", user="user"), "user", "id -un of user=user")
    try:
        eq(await x.out(box, "id -u", user="root"), "0", "uid of user=root")
    except (e2b.SandboxException, e2b.AuthenticationException) as err:
        that("root" in str(err) or "user" in str(err), f"the error of user=root does not say why: {brief(err)}")
    await x.raises((e2b.SandboxException, e2b.AuthenticationException), box.commands.run, "id", user="nobody-here")


@check("commands.timeout")
async def _(x):
    box = await x.box()
    mark = f"rw-timeout-{x.name}-{RUN}"
    began = time.monotonic()
    await x.raises(e2b.TimeoutException, box.commands.run, f"exec -a {mark} sleep 40", timeout=1)
    that(time.monotonic() - began < 15, f"timeout=1 took {time.monotonic() - began:.1f} s")

    async def ended():
        return await x.out(box, f"grep -lz ^{mark} /proc/[0-9]*/cmdline 2>/dev/null | wc -l") == "0"

    await until(10, "the process ends when its timeout is over", ended)
    eq(await x.out(box, "sleep 0.3; echo on", timeout=0), "on", "timeout=0")
    eq(await x.out(box, "echo still"), "still", "a command after a timeout")


@check("commands.background")
async def _(x):
    box = await x.box()
    handle = await x.run(box, "sleep 0.5; echo late; echo oops >&2", background=True)
    that(handle.pid > 0, f"pid {handle.pid}")
    got = await x(handle.wait)
    eq((got.stdout, got.stderr, got.exit_code), ("late\n", "oops\n", 0), "result")
    handle = await x.run(box, "exit 5", background=True)
    err = await x.raises(e2b.CommandExitException, handle.wait)
    eq(err.exit_code, 5, "exit code")


@check("commands.kill")
async def _(x):
    box = await x.box()
    handle = await x.run(box, "sleep 300", background=True)
    eq(await x(handle.kill), True, "kill")
    err = await x.raises(e2b.CommandExitException, handle.wait)
    that(err.exit_code != 0, "exit code of a killed command is 0")

    async def dead():
        return await x(handle.kill) is False

    await until(5, "a second kill is False", dead)
    other = await x.run(box, "sleep 300", background=True)
    eq(await x(box.commands.kill, other.pid), True, "kill by pid")
    eq(await x(box.commands.kill, 4_000_001), False, "kill of an unknown pid")


@check("commands.list")
async def _(x):
    box = await x.box()
    handle = await x.run(box, "sleep 301", background=True, envs={"RW_L": "1"}, cwd="/tmp")
    try:
        rows = {p.pid: p for p in await x(box.commands.list)}
        that(handle.pid in rows, f"pid {handle.pid} is not listed")
        row = rows[handle.pid]
        eq(row.cmd, "/bin/bash", "cmd")
        eq(list(row.args), ["-l", "-c", "sleep 301"], "args")
        eq(row.cwd, "/tmp", "cwd")
        eq(row.envs.get("RW_L"), "1", "env")
    finally:
        await x(handle.kill)

    async def gone():
        return handle.pid not in [p.pid for p in await x(box.commands.list)]

    await until(5, "a killed process leaves the list", gone)


@check("commands.connect")
async def _(x):
    box = await x.box()
    handle = await x.run(box, "for i in 1 2 3 4; do sleep 0.4; echo tick $i; done; exit 3", background=True)
    other = await x(box.commands.connect, handle.pid)
    eq(other.pid, handle.pid, "pid")
    err = await x.raises(e2b.CommandExitException, other.wait)
    eq(err.exit_code, 3, "exit code through the second connection")
    that("tick 4" in err.stdout, f"output through the second connection: {err.stdout!r}")
    err = await x.raises(e2b.CommandExitException, handle.wait)
    eq(err.stdout, "tick 1\ntick 2\ntick 3\ntick 4\n", "output through the first connection")
    await x.raises(NotFound, box.commands.connect, 4_000_001)


@check("commands.disconnect")
async def _(x):
    box = await x.box()
    path = f"/tmp/disconnect-{x.name}"
    handle = await x.run(box, f"sleep 1.2; echo done > {path}; sleep 300", background=True)
    await x(handle.disconnect)

    async def written():
        return await x(box.files.exists, path)

    await until(10, "a command goes on after disconnect", written)
    again = await x(box.commands.connect, handle.pid)
    eq(await x(again.kill), True, "kill through a new connection")


@check("commands.streaming")
async def _(x):
    box = await x.box()
    seen, errs = [], []
    began = time.monotonic()
    got = await x.run(box, "for i in 1 2 3; do echo line $i; echo e$i >&2; sleep 0.6; done",
                      on_stdout=lambda s: seen.append((time.monotonic() - began, s)), on_stderr=errs.append)
    total = time.monotonic() - began
    eq("".join(s for _, s in seen), "line 1\nline 2\nline 3\n", "what on_stdout saw")
    eq("".join(errs), "e1\ne2\ne3\n", "what on_stderr saw")
    eq(got.stdout, "line 1\nline 2\nline 3\n", "stdout")
    that(len(seen) >= 3, f"the output came in {len(seen)} parts")
    that(total - seen[0][0] > 1.0, f"the first line came at {seen[0][0]:.2f} s of {total:.2f} s")


@check("commands.stdin")
async def _(x):
    box = await x.box()
    eq(await x.out(box, "cat; echo end", timeout=10), "end", "a command without stdin reads nothing")
    handle = await x.run(box, "read a; echo got $a; read b; echo got $b", background=True, stdin=True)
    await x(box.commands.send_stdin, handle.pid, "first\n")
    await x(box.commands.send_stdin, handle.pid, "zweite ü\n")
    eq((await x(handle.wait)).stdout, "got first\ngot zweite ü\n", "stdout")
    await x.raises(e2b.SandboxException, box.commands.send_stdin, 4_000_001, "x")


@check("commands.close_stdin", needs=lambda: None if hasattr(e2b.CommandHandle, "close_stdin") else "no close_stdin")
async def _(x):
    box = await x.box()
    await need_envd(x, box, (0, 5, 2))
    handle = await x.run(box, "sha256sum", background=True, stdin=True)
    data = "0123456789abcdef" * 8192
    await x(handle.send_stdin, data)
    await x(box.commands.send_stdin, handle.pid, b"\x00\xff\x80tail")
    await x(handle.close_stdin)
    want = hashlib.sha256(data.encode() + b"\x00\xff\x80tail").hexdigest()
    eq((await x(handle.wait)).stdout.split()[0], want, "checksum of what was sent")


@check("commands.stream_input", needs=lambda: None if hasattr(Commands, "stream_input") else "no stream_input")
async def _(x):
    box = await x.box()
    handle = await x.run(box, "head -c 30 | wc -c; read rest", background=True, stdin=True)
    parts = ["ten chars.", b"ten bytes.", "ten more.."]
    if x.is_async:
        stream = box.commands.stream_input(handle.pid)
        for part in parts:
            await stream.send(part)
        await stream.close()
    else:
        await in_thread(box.commands.stream_input, handle.pid, parts)
    await x(box.commands.send_stdin, handle.pid, "\n")
    eq((await x(handle.wait)).stdout.strip(), "30", "bytes that arrived")


@check("commands.retain_output", needs=lambda: None if has_param(Commands.run, "retain_output") else "no retain_output")
async def _(x):
    box = await x.box()
    seen = []
    got = await x.run(box, "echo a; echo b", retain_output=False, on_stdout=seen.append)
    eq(got.stdout, None, "stdout")
    eq("".join(seen), "a\nb\n", "what on_stdout saw")


@check("commands.big_output")
async def _(x):
    box = await x.box()
    code = "import sys; sys.stdout.write(''.join('%09d\\n' % n for n in range(524288)))"
    got = await x.run(box, f'python3 -c "{code}"')
    want = "".join("%09d\n" % n for n in range(524288))
    eq(len(got.stdout), len(want), "characters of 5 MB")
    eq(hashlib.sha256(got.stdout.encode()).hexdigest(), hashlib.sha256(want.encode()).hexdigest(), "checksum")


@check("commands.parallel")
async def _(x):
    box = await x.box()
    got = await asyncio.gather(*[x.run(box, f"sleep 0.2; echo out {n}; echo err {n} >&2") for n in range(50)])
    eq([(g.stdout, g.stderr) for g in got], [(f"out {n}\n", f"err {n}\n") for n in range(50)], "results")


@check("commands.unicode")
async def _(x):
    box = await x.box()
    text = "grüße 你好 🦀🚀 \u00a0\u200b ✓"
    eq(await x.out(box, f"echo '{text}'"), text.strip(), "stdout")
    if VERSION < (2, 29):
        return  # This client decodes every part for itself.
    # One byte per write, so that characters end in the middle of a part.
    code = "import sys,time\nfor b in '🦀é好'.encode():\n  sys.stdout.buffer.write(bytes([b])); sys.stdout.flush(); time.sleep(0.02)"
    eq((await x.run(box, f'python3 -c "{code}"')).stdout, "🦀é好", "characters cut over several writes")


@check("commands.binary_output")
async def _(x):
    box = await x.box()
    got = await x.run(box, r"printf 'a\xff\xfe\x00b\n'; printf '\xf0\x9f'; printf 'no newline' >&2")
    that(got.stdout.startswith("a") and "b\n" in got.stdout and "\x00" in got.stdout, f"stdout {got.stdout!r}")
    eq(got.stderr, "no newline", "stderr")
    got = await x.run(box, "head -c 300000 /dev/urandom | tee /tmp/random-out | sha256sum >&2; cat /tmp/random-out")
    that(len(got.stdout) > 100000, f"{len(got.stdout)} characters of 300000 random bytes")


@check("commands.long_command")
async def _(x):
    box = await x.box()
    text = "x" * 100_000
    eq(await x.out(box, f"printf %s '{text}' | wc -c"), "100000", "length")


@check("commands.orphans")
async def _(x):
    """A command ends when its shell ends, also if a child still holds its output."""
    box = await x.box()
    began = time.monotonic()
    got = await x.run(box, "(sleep 20 >/dev/null 2>&1 &) ; echo started", timeout=30)
    eq(got.stdout, "started\n", "stdout")
    that(time.monotonic() - began < 10, f"the command took {time.monotonic() - began:.1f} s")


# -- terminals --------------------------------------------------------------------------------------

class Terminal:
    """A terminal whose output is collected: the async client calls back, the sync one is read in a thread."""

    def __init__(self, x, box):
        self.x, self.box, self.data, self.handle, self.reader = x, box, b"", None, None

    def take(self, data):
        self.data += bytes(data)

    async def create(self, rows=24, cols=80, **kw):
        size = e2b.PtySize(rows=rows, cols=cols)
        if self.x.is_async:
            self.handle = await self.box.pty.create(size, self.take, **kw)
        else:
            self.handle = await in_thread(self.box.pty.create, size, **kw)
            self._read()
        return self

    async def connect(self, pid, **kw):
        if self.x.is_async:
            self.handle = await self.box.pty.connect(pid, self.take, **kw)
        else:
            self.handle = await in_thread(self.box.pty.connect, pid, **kw)
            self._read()
        return self

    def _read(self):
        self.reader = asyncio.ensure_future(in_thread(self.handle.wait, on_pty=self.take))
        self.reader.add_done_callback(lambda f: f.cancelled() or f.exception())

    async def send(self, text):
        await self.x(self.box.pty.send_stdin, self.handle.pid, text.encode())

    async def shows(self, text, seconds=10):
        async def seen():
            return text.encode() in self.data

        try:
            await until(seconds, "", seen, pause=0.05)
        except AssertionError:
            raise AssertionError(f"the terminal does not show {text!r} but {short(self.data[-120:])}") from None

    async def end(self):
        """What waiting for the end gives: a result or the exception."""
        try:
            if self.x.is_async:
                return await asyncio.wait_for(self.handle.wait(), 15)
            return await asyncio.wait_for(asyncio.shield(self.reader), 15)
        except e2b.CommandExitException as err:
            return err


@check("pty.session")
async def _(x):
    box = await x.box()
    term = await Terminal(x, box).create(envs={"RW_PTY": "set"}, cwd="/tmp", timeout=60)
    try:
        await term.send("test -t 0 && echo is-a-$((1))-tty\n")
        await term.shows("is-a-1-tty")
        await term.send("stty size | tr ' ' x | sed 's/^/size=/'\n")
        await term.shows("size=24x80")
        await x(box.pty.resize, term.handle.pid, e2b.PtySize(rows=40, cols=120))
        await term.send("stty size | tr ' ' x | sed 's/^/size=/'\n")
        await term.shows("size=40x120")
        await term.send("echo \"[$TERM|$RW_PTY|$PWD|$(id -un)]\"\n")
        await term.shows("[xterm-256color|set|/tmp|user]")
        await term.send("exit 3\n")
        eq((await term.end()).exit_code, 3, "exit code")
    finally:
        await x(box.pty.kill, term.handle.pid)


@check("pty.kill")
async def _(x):
    box = await x.box()
    term = await Terminal(x, box).create(timeout=60)
    await term.send("echo up-$((2))\n")
    await term.shows("up-2")
    eq(await x(box.pty.kill, term.handle.pid), True, "kill")
    that((await term.end()).exit_code != 0, "exit code of a killed terminal is 0")
    eq(await x(box.pty.kill, 4_000_001), False, "kill of an unknown pid")


@check("pty.interrupt")
async def _(x):
    box = await x.box()
    term = await Terminal(x, box).create(timeout=60)
    try:
        await term.send("echo r''eady; sleep 100; echo after-$?\n")
        await term.shows("ready")
        await asyncio.sleep(0.3)
        await term.send("\x03")
        await term.send("echo code-$?\n")
        await term.shows("code-130")
    finally:
        await x(box.pty.kill, term.handle.pid)


@check("pty.connect")
async def _(x):
    box = await x.box()
    first = await Terminal(x, box).create(timeout=60)
    try:
        await first.send("echo one-$((1))\n")
        await first.shows("one-1")
        second = await Terminal(x, box).connect(first.handle.pid, timeout=60)
        eq(second.handle.pid, first.handle.pid, "pid")
        await second.send("echo two-$((2))\n")
        await second.shows("two-2")
        await first.shows("two-2")
    finally:
        eq(await x(box.pty.kill, first.handle.pid), True, "kill")


# -- files ------------------------------------------------------------------------------------------

def place(x, name):
    return f"/home/user/rw-{x.name}-{name}"


@check("files.text")
async def _(x):
    box = await x.box()
    path = place(x, "text") + "/new/deep dir/grüße 你好 🦀 'q' #1 100%&+?.txt"
    text = "line 1\r\nline 2\n\tgrüße 🦀\n"
    info = await x(box.files.write, path, text)
    eq((info.path, info.name), (path, path.rsplit("/", 1)[1]), "write's answer")
    eq(await x(box.files.read, path), text, "text")
    eq(await x(box.files.exists, path), True, "exists")
    await x(box.files.write, path, "short")
    eq(await x(box.files.read, path), "short", "text after the second write")
    await x(box.files.write, path, "")
    eq(await x(box.files.read, path), "", "empty text")
    await x(box.files.write, f"rw-{x.name}-relative.txt", "in the home")
    eq(await x(box.files.read, f"/home/user/rw-{x.name}-relative.txt"), "in the home", "a relative path")
    eq(await x.out(box, f"cat ~/rw-{x.name}-relative.txt; stat -c ' %U' ~/rw-{x.name}-relative.txt"),
       "in the home user", "the file in a command")


@check("files.bytes_and_streams")
async def _(x):
    box = await x.box()
    data = bytes(range(256)) * 40
    path = place(x, "bytes.bin")
    await x(box.files.write, path, data)
    eq(bytes(await x(box.files.read, path, format="bytes")), data, "bytes")
    await x(box.files.write, path + "2", io.BytesIO(data))
    eq(bytes(await x(box.files.read, path + "2", format="bytes")), data, "bytes of a stream")
    await x(box.files.write, path + "3", io.StringIO("from a text stream ü"))
    eq(await x(box.files.read, path + "3"), "from a text stream ü", "text of a stream")
    if x.is_async:
        parts = [p async for p in await box.files.read(path, format="stream")]
    else:
        parts = await in_thread(lambda: list(box.files.read(path, format="stream")))
    eq(b"".join(parts), data, "bytes read as a stream")


@check("files.many_at_once")
async def _(x):
    box = await x.box()
    base = place(x, "many")
    files = [{"path": f"{base}/d{n % 3}/file {n}.txt", "data": f"content {n}" if n % 2 else f"bytes {n}".encode()}
             for n in range(20)]
    got = await x(box.files.write_files, files)
    eq([g.path for g in got], [f["path"] for f in files], "paths")
    texts = await asyncio.gather(*[x(box.files.read, f["path"]) for f in files])
    eq(texts, [f"content {n}" if n % 2 else f"bytes {n}" for n in range(20)], "texts")
    eq(await x(box.files.write_files, []), [], "writing no file")


@check("files.octet_stream_and_gzip", needs=lambda: None if has_param(
    Filesystem.write, "gzip") else "no gzip option")
async def _(x):
    box = await x.box()
    await need_envd(x, box, (0, 5, 7))
    data = b"compress me " * 50_000
    for name, kw in (("octet", {"use_octet_stream": True}), ("gzip", {"gzip": True}),
                     ("multipart", {"use_octet_stream": False})):
        path = place(x, f"way/{name} ü.bin")
        info = await x(box.files.write, path, data, **kw)
        eq(info.path, path, f"path of {name}")
        eq(bytes(await x(box.files.read, path, format="bytes")), data, f"bytes of {name}")
    got = await x(box.files.read, place(x, "way/gzip ü.bin"), format="bytes", gzip=True)
    eq(bytes(got), data, "bytes read with gzip")


@check("files.metadata", needs=lambda: None if has_param(
    Filesystem.write, "metadata") else "no metadata option")
async def _(x):
    box = await x.box()
    await need_envd(x, box, (0, 6, 2))
    path = place(x, "meta.txt")
    info = await x(box.files.write, path, "with metadata", metadata={"origin": "suite", "kind": "a b"})
    eq(info.metadata, {"origin": "suite", "kind": "a b"}, "metadata of write")
    eq((await x(box.files.get_info, path)).metadata, {"origin": "suite", "kind": "a b"}, "metadata of get_info")
    rows = [e for e in await x(box.files.list, "/home/user") if e.path == path]
    eq(rows[0].metadata, {"origin": "suite", "kind": "a b"}, "metadata of list")


@check("files.large")
async def _(x):
    box = await x.box()
    data = os.urandom(1 << 20) * 20
    want = hashlib.sha256(data).hexdigest()
    path = place(x, "large.bin")
    await x(box.files.write, path, data, request_timeout=50)
    eq((await x.out(box, f"sha256sum {path}")).split()[0], want, "checksum in the sandbox")
    back = await x(box.files.read, path, format="bytes", request_timeout=50)
    eq(hashlib.sha256(bytes(back)).hexdigest(), want, "checksum of what was read")
    await x(box.files.remove, path)


@check("files.list")
async def _(x):
    box = await x.box()
    base = place(x, "list")
    await x(box.files.write_files, [{"path": f"{base}/a.txt", "data": "a"}, {"path": f"{base}/sub/b.txt", "data": "bb"},
                                    {"path": f"{base}/sub/deeper/c.txt", "data": "ccc"}])
    rows = await x(box.files.list, base)
    eq(sorted((e.name, e.type) for e in rows), [("a.txt", e2b.FileType.FILE), ("sub", e2b.FileType.DIR)], "depth 1")
    rows = await x(box.files.list, base, depth=2)
    eq(sorted(e.path[len(base):] for e in rows), ["/a.txt", "/sub", "/sub/b.txt", "/sub/deeper"], "depth 2")
    rows = await x(box.files.list, base, depth=3)
    eq(sorted(e.path[len(base):] for e in rows), ["/a.txt", "/sub", "/sub/b.txt", "/sub/deeper", "/sub/deeper/c.txt"],
       "depth 3")
    eq({e.name: e.size for e in rows if e.type == e2b.FileType.FILE}, {"a.txt": 1, "b.txt": 2, "c.txt": 3}, "sizes")
    await x(box.files.make_dir, f"{base}/empty")
    eq(await x(box.files.list, f"{base}/empty"), [], "an empty directory")
    await x.raises(FileNotFound, box.files.list, f"{base}/no-such")
    await x.raises(e2b.InvalidArgumentException, box.files.list, base, depth=0)


@check("files.info")
async def _(x):
    box = await x.box()
    path = place(x, "info.sh")
    await x(box.files.write, path, "echo 1\n")
    await x.run(box, f"chmod 750 {path}; ln -sf {path} {path}.link")
    info = await x(box.files.get_info, path)
    eq((info.name, info.path, info.type, info.size), (path.rsplit("/", 1)[1], path, e2b.FileType.FILE, 7), "entry")
    eq(info.mode & 0o777, 0o750, "mode")
    that(info.permissions.endswith("rwxr-x---"), f"permissions {info.permissions}")
    eq((info.owner, info.group), ("user", "user"), "owner and group")
    that(-5 < ago(info.modified_time) < 300, f"modified_time {info.modified_time}")
    eq(info.symlink_target, None, "symlink_target of a file")
    link = await x(box.files.get_info, path + ".link")
    eq(link.symlink_target, path, "symlink_target")
    folder = await x(box.files.get_info, "/home/user")
    eq(folder.type, e2b.FileType.DIR, "type of a directory")
    await x.raises(FileNotFound, box.files.get_info, path + ".none")


@check("files.dirs_rename_remove")
async def _(x):
    box = await x.box()
    base = place(x, "dirs")
    eq(await x(box.files.make_dir, f"{base}/one/two"), True, "make_dir")
    eq(await x(box.files.make_dir, f"{base}/one/two"), False, "second make_dir")
    await x(box.files.write, f"{base}/one/two/f.txt", "moved")
    moved = await x(box.files.rename, f"{base}/one/two/f.txt", f"{base}/one/g ü.txt")
    eq((moved.path, moved.name, moved.type), (f"{base}/one/g ü.txt", "g ü.txt", e2b.FileType.FILE), "rename's answer")
    eq(await x(box.files.read, f"{base}/one/g ü.txt"), "moved", "text after rename")
    eq(await x(box.files.exists, f"{base}/one/two/f.txt"), False, "exists of the old name")
    moved = await x(box.files.rename, f"{base}/one", f"{base}/three")
    eq(moved.type, e2b.FileType.DIR, "type of a renamed directory")
    await x(box.files.remove, f"{base}/three/g ü.txt")
    eq(await x(box.files.exists, f"{base}/three/g ü.txt"), False, "exists after remove")
    await x(box.files.write, f"{base}/three/two/again.txt", "x")
    await x(box.files.remove, base)
    eq(await x(box.files.exists, base), False, "exists after the directory's remove")
    await x.raises(FileNotFound, box.files.rename, f"{base}/none", f"{base}/none2")


@check("files.missing")
async def _(x):
    box = await x.box()
    for form in ("text", "bytes", "stream"):
        async def read(form=form):
            got = await x(box.files.read, "/home/user/no such file", format=form)
            if form == "stream":
                if x.is_async:
                    return [p async for p in got]
                return await in_thread(list, got)
            return got

        try:
            got = await read()
        except FileNotFound:
            continue
        raise AssertionError(f"no error from a missing file as {form}, but {short(got)}")
    eq(await x(box.files.exists, "/home/user/no such file"), False, "exists")
    await x.raises(e2b.SandboxException, box.files.read, "/home/user")


@check("files.user")
async def _(x):
    box = await x.box()
    await x(box.files.write, place(x, "mine.txt"), "mine", user="user")
    eq(await x(box.files.read, place(x, "mine.txt"), user="user"), "mine", "text")
    eq((await x(box.files.get_info, place(x, "mine.txt"))).owner, "user", "owner")
    await x.raises((e2b.SandboxException, e2b.AuthenticationException), box.files.read, "x", user="nobody-here")


@check("files.tilde")
async def _(x):
    box = await x.box()
    await x(box.files.write, place(x, "tilde/f.txt"), "home")
    rows = await x(box.files.list, f"~/rw-{x.name}-tilde")
    eq([e.path for e in rows], [place(x, "tilde/f.txt")], "paths below ~")
    eq(await x(box.files.exists, f"rw-{x.name}-tilde/f.txt"), True, "exists of a relative path")


# -- watching ---------------------------------------------------------------------------------------

class Watcher:
    def __init__(self, x, box):
        self.x, self.box, self.events, self.handle = x, box, [], None

    async def start(self, path, **kw):
        if self.x.is_async:
            self.handle = await self.box.files.watch_dir(path, self.events.append, **kw)
        else:
            self.handle = await in_thread(self.box.files.watch_dir, path, **kw)
        return self

    async def sees(self, kind, name, seconds=10):
        async def seen():
            if not self.x.is_async:
                self.events += await in_thread(self.handle.get_new_events)
            return [e for e in self.events if e.type == kind and e.name == name]

        try:
            return (await until(seconds, "", seen, pause=0.1))[0]
        except AssertionError:
            got = [(e.type.value, e.name) for e in self.events]
            raise AssertionError(f"no event {kind.value} {name!r} but {short(got)}") from None

    async def stop(self):
        await self.x(self.handle.stop)


@check("watch.events")
async def _(x):
    box = await x.box()
    base, kind = place(x, "watch"), e2b.FilesystemEventType
    await x(box.files.make_dir, base)
    watch = await Watcher(x, box).start(base)
    try:
        await x(box.files.write, f"{base}/new ü.txt", "1")
        await watch.sees(kind.CREATE, "new ü.txt")
        await watch.sees(kind.WRITE, "new ü.txt")
        await x.run(box, f"chmod 600 '{base}/new ü.txt'")
        await watch.sees(kind.CHMOD, "new ü.txt")
        await x(box.files.rename, f"{base}/new ü.txt", f"{base}/other.txt")
        await watch.sees(kind.RENAME, "new ü.txt")
        await x(box.files.remove, f"{base}/other.txt")
        await watch.sees(kind.REMOVE, "other.txt")
        # A watch that is not recursive says nothing of what is below a directory in it.
        await x(box.files.write, f"{base}/sub/inner.txt", "2")
        await watch.sees(kind.CREATE, "sub")
        await asyncio.sleep(0.3)
        await x(box.files.write, f"{base}/last.txt", "3")
        await watch.sees(kind.CREATE, "last.txt")
        that(not [e for e in watch.events if "inner" in e.name], "the watch is recursive")
    finally:
        await watch.stop()
    try:
        lost = await Watcher(x, box).start(f"{base}/no-such")
    except FileNotFound:
        return
    await lost.stop()
    raise AssertionError("no error from a watch of a missing directory")


@check("watch.recursive")
async def _(x):
    box = await x.box()
    base, kind = place(x, "watch-deep"), e2b.FilesystemEventType
    await x(box.files.make_dir, f"{base}/a/b")
    watch = await Watcher(x, box).start(base, recursive=True)
    try:
        await x(box.files.write, f"{base}/a/b/deep.txt", "1")
        await watch.sees(kind.WRITE, "a/b/deep.txt")
        await x(box.files.make_dir, f"{base}/c")
        await watch.sees(kind.CREATE, "c")
        await asyncio.sleep(0.3)
        await x(box.files.write, f"{base}/c/late.txt", "2")
        await watch.sees(kind.CREATE, "c/late.txt")
    finally:
        await watch.stop()


@check("watch.entry", needs=lambda: None if has_param(
    Filesystem.watch_dir, "include_entry") else "no include_entry")
async def _(x):
    box = await x.box()
    await need_envd(x, box, (0, 6, 3))
    base = place(x, "watch-entry")
    await x(box.files.make_dir, base)
    watch = await Watcher(x, box).start(base, include_entry=True)
    try:
        await x(box.files.write, f"{base}/e.txt", "12345")
        event = await watch.sees(e2b.FilesystemEventType.WRITE, "e.txt")
        that(event.entry is not None, "the event has no entry")
        eq((event.entry.path, event.entry.type), (f"{base}/e.txt", e2b.FileType.FILE), "entry")
    finally:
        await watch.stop()


# -- signed addresses -------------------------------------------------------------------------------

def form(name, data):
    """A multipart body with one file, and its content type."""
    mark = "rw" + secrets.token_hex(12)
    head = (f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            f"Content-Type: application/octet-stream\r\n\r\n").encode()
    return head + data + f"\r\n--{mark}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={mark}"}


async def get(url):
    status, body, _ = await in_thread(fetch, url)
    return status, body


@check("urls.download")
async def _(x):
    box = await x.box()
    path = place(x, "url/down ü&1.txt")
    await x(box.files.write, path, "by address")
    for kw in ({}, {"use_signature_expiration": 60}, {"user": "user"}, {"user": "user", "use_signature_expiration": 60}):
        url = box.download_url(path, **kw)
        eq(await get(url), (200, b"by address"), f"download_url({kw})")
    status, _ = await get(box.download_url(path + ".none"))
    eq(status, 404, "status of a missing file")
    url = box.download_url(path)
    parts = urllib.parse.urlsplit(url)
    query = dict(urllib.parse.parse_qsl(parts.query))

    def changed(**kw):
        return urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode(
            {k: v for k, v in {**query, **kw}.items() if v is not None})))

    for what, other in (("a wrong signature", changed(signature="v1_" + "A" * 43)),
                        ("no signature", changed(signature=None)),
                        ("another path", changed(path="/etc/hostname")),
                        ("an added expiration", changed(signature_expiration=str(int(time.time()) + 600)))):
        status, body = await get(other)
        that(status in (401, 403), f"{what} was answered with {status} {short(body)}")
    upload = box.upload_url(path)
    status, _ = await get(upload)
    that(status in (401, 403), f"a GET with an upload signature was answered with {status}")


@check("urls.expired")
async def _(x):
    box = await x.box()
    path = place(x, "url/expire.txt")
    await x(box.files.write, path, "soon gone")
    url = box.download_url(path, use_signature_expiration=1)
    old = box.download_url(path, use_signature_expiration=-30)
    status, _ = await get(old)
    that(status in (401, 403), f"an address that ended 30 s ago was answered with {status}")
    await asyncio.sleep(2.6)
    status, _ = await get(url)
    that(status in (401, 403), f"an address that ended a second ago was answered with {status}")


@check("urls.upload")
async def _(x):
    box = await x.box()
    for n, kw in enumerate(({}, {"use_signature_expiration": 60}, {"user": "user"})):
        path = place(x, f"url/up {n}.bin")
        data = os.urandom(70_000)
        body, headers = form("other-name.bin", data)
        status, answer, _ = await in_thread(fetch, box.upload_url(path, **kw), "POST", body, headers)
        eq(status, 200, f"status of upload_url({kw}): {short(answer)}")
        row = json.loads(answer)[0]
        eq((row["path"], row["type"]), (path, "file"), "answer")
        eq(bytes(await x(box.files.read, path, format="bytes")), data, "bytes")
    url = box.upload_url(place(x, "url/never.bin"))
    bad = re.sub(r"signature=[^&]+", "signature=v1_" + "B" * 43, url)
    body, headers = form("never.bin", b"never")
    status, _, _ = await in_thread(fetch, bad, "POST", body, headers)
    that(status in (401, 403), f"a wrong signature was answered with {status}")
    down = box.download_url(place(x, "url/never.bin"))
    status, _, _ = await in_thread(fetch, down, "POST", body, headers)
    that(status in (401, 403), f"a POST with a download signature was answered with {status}")
    eq(await x(box.files.exists, place(x, "url/never.bin")), False, "exists after refused uploads")


# -- ports ------------------------------------------------------------------------------------------

@check("ports.http")
async def _(x):
    box = await x.box()
    port = 8000 if x.is_async else 8100
    await x.run(box, f"mkdir -p /tmp/www-{port} && echo 'served by python' > '/tmp/www-{port}/a page.txt'")
    await x.run(box, f"python3 -m http.server {port} --directory /tmp/www-{port}", background=True, timeout=0)
    host = box.get_host(port)
    that(host.startswith(f"{port}-{box.sandbox_id}."), f"get_host gives {host}")

    async def up():
        return (await in_thread(via_host, host))[0] == 200

    await until(15, f"http.server answers through {host}", up)
    eq(await in_thread(via_host, host, "GET", "/a%20page.txt"), (200, b"served by python\n"), "page")
    status, _ = await in_thread(via_host, host, "GET", "/none")
    eq(status, 404, "status of a page that is not there")


@check("ports.methods_streams_websocket")
async def _(x):
    box = await x.box()
    host = await serve(x, box, 8001 if x.is_async else 8101)
    body = os.urandom(300_000)
    status, back = await in_thread(via_host, host, "POST", "/echo", body)
    eq((status, hashlib.sha256(back).hexdigest()), (200, hashlib.sha256(body).hexdigest()), "echo of a POST")
    eq(await in_thread(via_host, host, "GET", "/with?query=1&b=%20"), (200, b"page of /with?query=1&b=%20"), "path")
    stamps = []
    status, back = await in_thread(via_host, host, "GET", "/slow", b"", None, 20, stamps)
    eq((status, back), (200, b"part 0part 1part 2"), "slow page")
    that(stamps[-1] - stamps[0] > 0.7, "a slow page came all at once")
    eq(await in_thread(web_socket_echo, host, "/ws", "hello 🦀"), "hello 🦀", "WebSocket echo")
    eq(await in_thread(web_socket_echo, host, "/ws", "x" * 5000), "x" * 5000, "long WebSocket echo")


@check("ports.closed")
async def _(x):
    box = await x.box()
    status, body = await in_thread(via_host, box.get_host(9), "GET", "/")
    eq(status, 502, f"status of a closed port ({short(body)})")
    dead = await x.create(timeout=60)
    host = dead.get_host(8000)
    await x(dead.kill)
    status, body = await in_thread(via_host, host, "GET", "/")
    eq(status, 502, f"status of a dead sandbox ({short(body)})")


@check("ports.private")
async def _(x):
    async with x.own(network={"allow_public_traffic": False}) as box:
        token = getattr(box, "traffic_access_token", None)
        that(token, "allow_public_traffic=False gives no traffic_access_token")
        await x(box.files.write, "/tmp/s.py", SERVER)
        await x.run(box, "python3 /tmp/s.py 8002", background=True, timeout=0)
        host = box.get_host(8002)
        good = {"e2b-traffic-access-token": token}

        async def up():
            return (await in_thread(via_host, host, "GET", "/", b"", good))[0] == 200

        await until(15, "the port answers with the token", up)
        for what, headers in (("no token", {}), ("a wrong token", {"e2b-traffic-access-token": "wrong"})):
            status, _ = await in_thread(via_host, host, "GET", "/", b"", headers)
            that(status in (401, 403), f"{what} was answered with {status}")


# -- network rules ----------------------------------------------------------------------------------

TRY_OUT = ("python3 -c \"import socket; s=socket.create_connection(('{}',{}),3); print('connected')\" 2>/dev/null "
           "|| echo refused")


@check("network.no_internet")
async def _(x):
    async with x.own(allow_internet_access=False) as box:
        eq(await x.out(box, TRY_OUT.format("1.1.1.1", 443)), "refused", "a connection to the internet")
        eq(await x.out(box, "echo inside"), "inside", "a command")
        info = await x(box.get_info)
        if hasattr(info, "allow_internet_access"):
            eq(info.allow_internet_access, False, "allow_internet_access")


@check("network.deny_all")
async def _(x):
    async with x.own(network={"deny_out": [e2b.ALL_TRAFFIC]}) as box:
        eq(await x.out(box, TRY_OUT.format("1.1.1.1", 53)), "refused", "a connection to the internet")
        info = await x(box.get_info)
        if getattr(info, "network", None) is not None:
            eq(list(info.network["deny_out"]), [e2b.ALL_TRAFFIC], "network.deny_out")
        host = await serve(x, box, 8003)
        eq(await in_thread(via_host, host, "GET", "/in"), (200, b"page of /in"), "a connection from outside")


@check("network.update", since=(2, 29, 5))
async def _(x):
    async with x.own() as box:
        # What can't be enforced is refused, and changes nothing.
        err = await x.raises(e2b.SandboxException, box.update_network, {"allow_out": ["192.0.2.7"]})
        that("can't be enforced" in str(err), f"the refusal does not say why: {err}")
        await x(box.update_network, {"deny_out": [e2b.ALL_TRAFFIC]})
        info = await x(box.get_info)
        if getattr(info, "network", None) is not None:
            eq(list(info.network["deny_out"]), [e2b.ALL_TRAFFIC], "network.deny_out")
            eq(list(info.network["allow_out"]), [], "network.allow_out")
        eq(await x.out(box, TRY_OUT.format("1.1.1.1", 443)), "refused", "a connection to the internet")
        await x(x.Sandbox.update_network, box.sandbox_id, {"deny_out": ["198.51.100.0/24"]})
        info = await x(box.get_info)
        if getattr(info, "network", None) is not None:
            eq(list(info.network["deny_out"]), ["198.51.100.0/24"], "network.deny_out after the second change")
        eq(await x.out(box, "echo inside"), "inside", "a command")
    await x.raises(NotFound, x.Sandbox.update_network, "i" + secrets.token_hex(9), {"deny_out": []})


# -- snapshots and forks ----------------------------------------------------------------------------

@check("snapshots.all")
async def _(x):
    async with x.own() as box:
        await x(box.files.write, "/home/user/snap.txt", "in the snapshot")
        snap = await x(box.create_snapshot)
        try:
            that(snap.snapshot_id, "no snapshot_id")
            eq(await x.out(box, "echo on"), "on", "the source after create_snapshot")
            await x(box.files.write, "/home/user/snap.txt", "changed later")
            eq([s.snapshot_id for s in await x.pages(box.list_snapshots())], [snap.snapshot_id], "list_snapshots of the sandbox")
            rows = await x.pages(x.Sandbox.list_snapshots())
            that(snap.snapshot_id in [s.snapshot_id for s in rows], "the snapshot is not in the whole list")
            rows = await x.pages(x.Sandbox.list_snapshots(sandbox_id="i" + secrets.token_hex(9)))
            eq(rows, [], "snapshots of an unknown sandbox")
            copies = await asyncio.gather(*[x.create(snap.snapshot_id, timeout=120) for _ in range(2)])
            try:
                eq(len({box.sandbox_id, *[c.sandbox_id for c in copies]}), 3, "different ids")
                for copy in copies:
                    eq(await x(copy.files.read, "/home/user/snap.txt"), "in the snapshot", "file")
                    # pauseMode is "filesystem" in the process tiers: processes start anew.
                    eq(await x(copy.commands.list), [], "processes of the copy")
                await x(copies[0].files.write, "/home/user/snap.txt", "mine")
                eq(await x(copies[1].files.read, "/home/user/snap.txt"), "in the snapshot", "the other copy's file")
            finally:
                await asyncio.gather(*[x(c.kill) for c in copies], return_exceptions=True)
        finally:
            eq(await x(x.Sandbox.delete_snapshot, snap.snapshot_id), True, "delete_snapshot")
        eq(await x(x.Sandbox.delete_snapshot, snap.snapshot_id), False, "second delete_snapshot")
        try:
            late = await x.create(snap.snapshot_id)
        except e2b.SandboxException:
            pass
        else:
            raise AssertionError(f"sandbox {late.sandbox_id} was made from a deleted snapshot")


@check("snapshots.named", needs=lambda: None if has_param(e2b.Sandbox.create_snapshot, "name") else "no name option")
async def _(x):
    name = f"rw-snap-{x.name}-{RUN}"
    async with x.own() as box:
        await x(box.files.write, "/home/user/snap.txt", "named")
        snap = await x(x.Sandbox.create_snapshot, box.sandbox_id, name=name)
        try:
            that(any(name in n for n in [*snap.names, snap.snapshot_id]), f"the name is not in {snap}")
            if has_param(e2b.Sandbox.list_snapshots, "name"):
                rows = await x.pages(x.Sandbox.list_snapshots(name=name))
                eq([s.snapshot_id for s in rows], [snap.snapshot_id], "list_snapshots by name")
            async with x.own(name) as copy:
                eq(await x(copy.files.read, "/home/user/snap.txt"), "named", "file")
        finally:
            eq(await x(x.Sandbox.delete_snapshot, snap.snapshot_id), True, "delete_snapshot")


@check("snapshots.unknown")
async def _(x):
    await x.raises(NotFound, x.Sandbox.create_snapshot, "i" + secrets.token_hex(9))
    eq(await x(x.Sandbox.delete_snapshot, "no-such-snapshot-" + RUN), False, "delete of an unknown snapshot")


@check("fork.all", since=(2, 50))
async def _(x):
    async with x.own() as box:
        await x(box.files.write, "/home/user/fork.txt", "before the fork")
        forks = await x(box.fork, timeout=120, count=2)
        for one in forks:
            if not isinstance(one, Exception):
                MADE[one.sandbox_id] = None
        try:
            bad = [f for f in forks if isinstance(f, Exception)]
            that(not bad, f"a fork failed: {brief(bad[0]) if bad else ''}")
            eq(len({box.sandbox_id, *[f.sandbox_id for f in forks]}), 3, "different ids")
            for one in forks:
                eq(await x(one.files.read, "/home/user/fork.txt"), "before the fork", "file")
                eq(await x(one.commands.list), [], "processes of the fork")
            await x(forks[0].files.write, "/home/user/fork.txt", "mine")
            eq(await x(box.files.read, "/home/user/fork.txt"), "before the fork", "the source's file")
            eq(await x(forks[1].files.read, "/home/user/fork.txt"), "before the fork", "the other fork's file")
        finally:
            await asyncio.gather(*[x(f.kill) for f in forks if not isinstance(f, Exception)], return_exceptions=True)
        more = await x(x.Sandbox.fork, box.sandbox_id, timeout=60)
        eq(len(more), 1, "forks of a fork call without a count")
        that(not isinstance(more[0], Exception), f"a fork failed: {more[0]}")
        MADE[more[0].sandbox_id] = None
        await x(more[0].kill)
    await x.raises(NotFound, x.Sandbox.fork, "i" + secrets.token_hex(9))


# -- templates --------------------------------------------------------------------------------------

async def drop_template(template_id):
    with contextlib.suppress(Exception):
        await api("DELETE", "/templates/" + urllib.parse.quote(template_id, safe=""))


@check("template.build", timeout=240)
async def _(x):
    name = f"rw-tpl-{x.name}-{RUN}"
    eq(await x(x.Template.exists, name), False, "exists before the build")
    with tempfile.TemporaryDirectory() as folder:
        os.makedirs(f"{folder}/app/sub")
        open(f"{folder}/one.txt", "w").write("copied file\n")
        open(f"{folder}/app/main.py", "w").write("print('app')\n")
        open(f"{folder}/app/sub/data ü.txt", "w").write("data\n")
        # A server without root's privilege has sandboxes with one user; then everything is done as that one.
        async with x.own() as box:
            try:
                await x.run(box, "true", user="root")
                owner, by_root = "root", {"user": "root"}
            except Exception as err:  # which class it is differs by version
                that("not available" in str(err), f"odd refusal of root: {err}")
                owner, by_root = "user", {}
        recipe = (x.Template(file_context_path=folder).from_template("base")
                  .set_envs({"RW_BUILD": "seen in the build", "RW_TWO": "2"})
                  .copy("one.txt", "/opt/rw/one.txt", mode=0o644, **by_root)
                  .copy("app", "/opt/rw/app")
                  .run_cmd("printf '%s' \"$RW_BUILD\" > /home/user/rw-env; id -un > /home/user/rw-user")
                  .set_workdir("/opt/rw").run_cmd("pwd > /opt/rw/rw-pwd", **by_root)
                  .set_user("user").run_cmd(["touch /home/user/rw-a", "touch /home/user/rw-b"])
                  .set_start_cmd("python3 -m http.server 8055", e2b.wait_for_port(8055)))
        logs = []
        built = await x(x.Template.build, recipe, name, cpu_count=1, memory_mb=512, on_build_logs=logs.append)
    TEMPLATES[built.template_id] = None
    try:
        that(built.template_id and built.build_id, f"odd build {built}")
        that(logs, "the build logged nothing")
        eq(await x(x.Template.exists, name), True, "exists after the build")
        eq(await x(x.Template.alias_exists, name), True, "alias_exists")
        status = await x(x.Template.get_build_status, built)
        eq(getattr(status.status, "value", status.status), "ready", "status")
        async with x.own(name) as box:
            info = await x(box.get_info)
            eq(info.template_id, built.template_id, "template_id")
            eq(info.cpu_count, 1, "cpu_count")
            eq(await x.out(box, "cat /home/user/rw-env"), "seen in the build", "set_envs in run_cmd")
            eq(await x.out(box, "cat /opt/rw/rw-pwd"), "/opt/rw", "set_workdir in run_cmd")
            eq(await x.out(box, "cat '/opt/rw/app/sub/data ü.txt' /opt/rw/app/main.py"), "data\nprint('app')", "copied directory")
            eq(await x.out(box, "stat -c '%a %U' /opt/rw/one.txt"), f"644 {owner}", "mode and user of a copied file")
            eq(await x.out(box, "ls /home/user/rw-a /home/user/rw-b"), "/home/user/rw-a\n/home/user/rw-b", "a list of commands")
            status, _ = await in_thread(via_host, box.get_host(8055))
            eq(status, 200, "status of the start command's server")
        tagged = await x(x.Template.assign_tags, f"{name}:default", ["v1", "stable"])
        that({"v1", "stable"} <= {t.rsplit(":", 1)[-1] for t in tagged.tags}, f"assigned tags {tagged.tags}")
        tags = await x(x.Template.get_tags, built.template_id)
        that({"v1", "stable"} <= {t.tag for t in tags}, f"tags {[t.tag for t in tags]}")
        async with x.own(f"{name}:v1") as box:
            eq(await x.out(box, "cat /opt/rw/rw-pwd"), "/opt/rw", "a sandbox by tag")
        await x(x.Template.remove_tags, name, "v1")
        tags = await x(x.Template.get_tags, built.template_id)
        that("v1" not in {t.tag for t in tags}, "the tag is still there after remove_tags")
    finally:
        await drop_template(built.template_id)
        TEMPLATES.pop(built.template_id, None)
    eq(await x(x.Template.exists, name), False, "exists after the template was deleted")


@check("template.failing_step", timeout=120)
async def _(x):
    name = f"rw-bad-{x.name}-{RUN}"
    recipe = x.Template().from_template("base").run_cmd("echo fine").run_cmd("echo broken-step >&2; exit 7")
    logs = []
    err = await x.raises(e2b.BuildException, x.Template.build, recipe, name, cpu_count=1, memory_mb=512,
                         on_build_logs=logs.append)
    text = str(err)
    that("exit 7" in text or "7" in text or "broken-step" in text, f"the error does not name the step: {brief(err)}")
    said = " ".join(getattr(entry, "message", str(entry)) for entry in logs)
    that("broken-step" in said or "exit 7" in said, f"the logs do not show the step: {short(said)}")
    info = await x(x.Template.build_in_background, recipe, name, cpu_count=1, memory_mb=512)
    TEMPLATES[info.template_id] = None
    try:
        async def over():
            status = await x(x.Template.get_build_status, info)
            word = getattr(status.status, "value", status.status)
            return status if word in ("error", "ready") else None

        status = await until(90, "the build ends", over, pause=0.5)
        eq(getattr(status.status, "value", status.status), "error", "status")
        that(status.reason and status.reason.message, "the status has no reason")
        that(status.reason.step, "the reason names no step")
    finally:
        await drop_template(info.template_id)
        await drop_template(name)
        TEMPLATES.pop(info.template_id, None)


@check("template.unknown_base", timeout=60)
async def _(x):
    recipe = x.Template().from_template("no-such-base-" + RUN).run_cmd("true")
    await x.raises((e2b.BuildException, e2b.TemplateException, NotFound), x.Template.build, recipe, f"rw-none-{x.name}-{RUN}")
    eq(await x(x.Template.exists, "base"), True, "exists of base")


# -- code interpreter -------------------------------------------------------------------------------

def no_interpreter():
    if CI_VERSION is None:
        return "this set has no e2b-code-interpreter"
    if CI_VERSION < (2, 10) and os.environ.get("RINGWALL_TLS") != "1":
        return ("!!! NOT TESTED: e2b-code-interpreter " + ".".join(map(str, CI_VERSION)) + " speaks only TLS to "
                "49999-<id>.<domain>; matrix.py --url https://... runs it")
    return None


# The smallest PNG there is: one transparent pixel.
PIXEL = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==")


async def code(x, box, text, **kw):
    return await x(box.run_code, text, **kw)


@check("code.state", needs=no_interpreter)
async def _(x):
    box = await x.interpreter()
    got = await code(x, box, "rw_x = 20 + 1\nimport math")
    that(got.error is None, f"error {got.error}")
    eq(got.results, [], "results of an assignment")
    one = got.execution_count
    got = await code(x, box, "rw_x * 2")
    eq(got.text, "42", "text")
    eq(len(got.results), 1, "results")
    eq(got.results[0].is_main_result, True, "is_main_result")
    that(got.execution_count > one, f"execution_count {one} then {got.execution_count}")
    eq((await code(x, box, "math.floor(2.5)")).text, "2", "text of an imported module's call")
    eq((await code(x, box, "def rw_f(n):\n    return n * 'ü'\nrw_f(3)")).text.strip("'"), "üüü", "text of a function")


@check("code.output", needs=no_interpreter)
async def _(x):
    box = await x.interpreter()
    seen, errs, results = [], [], []
    began = time.monotonic()
    got = await code(x, box, "import sys, time\nfor n in range(3):\n    print('line', n, flush=True); time.sleep(0.5)\n"
                     "print('bad', file=sys.stderr)\n'value'",
                     on_stdout=lambda m: seen.append((time.monotonic() - began, m)), on_stderr=errs.append,
                     on_result=results.append)
    total = time.monotonic() - began
    eq("".join(got.logs.stdout), "line 0\nline 1\nline 2\n", "logs.stdout")
    eq("".join(got.logs.stderr), "bad\n", "logs.stderr")
    eq("".join(m.line for _, m in seen), "line 0\nline 1\nline 2\n", "what on_stdout saw")
    eq("".join(m.line for m in errs), "bad\n", "what on_stderr saw")
    eq([r.text.strip("'") for r in results], ["value"], "what on_result saw")
    that(total - seen[0][0] > 0.7, f"the first line came at {seen[0][0]:.2f} s of {total:.2f} s")
    big = await code(x, box, "print('y' * 1000000)")
    eq(len("".join(big.logs.stdout)), 1000001, "characters of a long line")


@check("code.results", needs=no_interpreter)
async def _(x):
    box = await x.interpreter()
    got = await code(x, box, "class RwHtml:\n    def _repr_html_(self): return '<b>bold</b>'\n    def __repr__(self): return 'plain'\nRwHtml()")
    eq((got.results[0].html, got.results[0].text), ("<b>bold</b>", "plain"), "html and text")
    got = await code(x, box, f"import base64\nclass RwPng:\n    def _repr_png_(self): return base64.b64decode('{PIXEL}')\nRwPng()")
    eq(base64.b64decode(got.results[0].png), base64.b64decode(PIXEL), "png")
    got = await code(x, box, "class RwMore:\n    def _repr_markdown_(self): return '# head'\n    def _repr_svg_(self): return '<svg/>'\n"
                     "    def _repr_latex_(self): return '$x$'\n    def _repr_json_(self): return {'a': [1, 2]}\nRwMore()")
    row = got.results[0]
    eq((row.markdown, row.svg, row.latex, row.json), ("# head", "<svg/>", "$x$", {"a": [1, 2]}), "markdown svg latex json")
    that({"markdown", "svg", "latex", "json"} <= set(row.formats()), f"formats {list(row.formats())}")
    got = await code(x, box, "display(RwHtml()); display(RwHtml()); 7")
    eq([(r.html, r.is_main_result) for r in got.results],
       [("<b>bold</b>", False), ("<b>bold</b>", False), (None, True)], "displayed results")
    eq(got.text, "7", "text of the main result")


@check("code.charts", needs=no_interpreter)
async def _(x):
    box = await x.interpreter()
    got = await code(x, box, "import importlib.util as u; bool(u.find_spec('matplotlib'))")
    if got.text != "True":
        raise Skip("the sandbox has no matplotlib")
    got = await code(x, box, "import matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4])\nplt.title('t')\nplt.show()", timeout=50)
    that(got.error is None, f"error {got.error}")
    that(any(r.png and base64.b64decode(r.png).startswith(b"\x89PNG") for r in got.results), "no png of a plot")


@check("code.error", needs=no_interpreter)
async def _(x):
    box = await x.interpreter()
    errors = []
    got = await code(x, box, "print('before')\ndef rw_boom():\n    raise ValueError('the reason')\nrw_boom()", on_error=errors.append)
    that(got.error is not None, "no error")
    eq((got.error.name, got.error.value), ("ValueError", "the reason"), "error")
    that("rw_boom" in got.error.traceback and "ValueError" in got.error.traceback, f"traceback {short(got.error.traceback)}")
    eq("".join(got.logs.stdout), "before\n", "output before the error")
    eq(len(errors), 1, "calls of on_error")
    got = await code(x, box, "this is no python")
    eq(got.error.name, "SyntaxError", "name of a syntax error")
    eq((await code(x, box, "1 + 1")).text, "2", "text after an error")


@check("code.envs", needs=no_interpreter)
async def _(x):
    box = await x.interpreter()
    ask = "import os; print(os.environ.get('RW_GLOBAL'), os.environ.get('RW_CALL'))"
    got = await code(x, box, ask, envs={"RW_CALL": "one call"})
    eq("".join(got.logs.stdout), "from-create one call\n", "variables")
    got = await code(x, box, ask)
    eq("".join(got.logs.stdout), "from-create None\n", "variables of the next call")


@check("code.contexts", needs=no_interpreter)
async def _(x):
    box = await x.interpreter()
    one = await x(box.create_code_context, cwd="/tmp")
    that(one.id, "no context id")
    eq((one.language, one.cwd), ("python", "/tmp"), "context")
    await code(x, box, "rw_shared = 'default'")
    got = await code(x, box, "import os; rw_shared = 'other'; print(os.getcwd())", context=one)
    eq("".join(got.logs.stdout), "/tmp\n", "directory of the context")
    eq((await code(x, box, "rw_shared")).text.strip("'"), "default", "the default context's value")
    eq((await code(x, box, "rw_shared", context=one)).text.strip("'"), "other", "the context's value")
    rows = await x(box.list_code_contexts)
    that(one.id in [c.id for c in rows], "the context is not listed")
    await x(box.restart_code_context, one)
    got = await code(x, box, "rw_shared", context=one)
    that(got.error is not None and got.error.name == "NameError", f"the value outlives a restart: {got}")
    await x(box.remove_code_context, one)
    that(one.id not in [c.id for c in await x(box.list_code_contexts)], "the context is listed after it was removed")
    await x.raises(NotFound, box.run_code, "1", context=one)
    eq((await code(x, box, "import os; os.getcwd()")).text.strip("'"), "/home/user", "the default context's directory")


@check("code.bash", needs=no_interpreter)
async def _(x):
    box = await x.interpreter()
    try:
        got = await code(x, box, "RW_SH=7; echo bash $RW_SH; echo bad >&2", language="bash")
    except e2b.SandboxException as err:
        if isinstance(err, e2b.TimeoutException):
            raise
        raise Skip(f"the server has no bash kernel: {brief(err)}") from None
    that(got.error is None, f"error {got.error}")
    that("bash 7\n" in "".join(got.logs.stdout), f"stdout {got.logs.stdout}")
    got = await code(x, box, "echo still $RW_SH", language="bash")
    that("still 7" in "".join(got.logs.stdout), f"a variable does not outlive the call: {got.logs.stdout}")


@check("code.javascript", needs=no_interpreter)
async def _(x):
    box = await x.interpreter()
    try:
        got = await code(x, box, "console.log('from js', 1 + 1)", language="javascript")
    except e2b.SandboxException as err:
        if isinstance(err, e2b.TimeoutException):
            raise
        raise Skip(f"the server has no javascript kernel: {brief(err)}") from None
    that(got.error is None, f"error {got.error}")
    that("from js 2" in "".join(got.logs.stdout), f"stdout {got.logs.stdout}")


@check("code.unknown_language", needs=no_interpreter)
async def _(x):
    box = await x.interpreter()
    await x.raises(e2b.SandboxException, box.run_code, "1", language="no-such-language")


@check("code.timeout", needs=no_interpreter)
async def _(x):
    box = await x.interpreter()
    context = await x(box.create_code_context)
    began = time.monotonic()
    await x.raises(e2b.TimeoutException, box.run_code, "import time\ntime.sleep(40)", context=context, timeout=2)
    that(time.monotonic() - began < 15, f"timeout=2 took {time.monotonic() - began:.1f} s")
    eq((await code(x, box, "6 * 7")).text, "42", "the default context after a timeout in another")
    # A client that goes away interrupts its code, so the context is free again.
    eq((await code(x, box, "6 * 7", context=context, timeout=20)).text, "42", "the context after its timeout")
    await x(box.remove_code_context, context.id)


@check("code.with_commands_and_files", needs=no_interpreter)
async def _(x):
    box = await x.interpreter()
    await x(box.files.write, "/home/user/in.csv", "a,b\n1,2\n")
    got = await code(x, box, "text = open('in.csv').read(); open('out.txt','w').write(text.upper()); text")
    that(got.error is None, f"error {got.error}")
    eq(await x(box.files.read, "/home/user/out.txt"), "A,B\n1,2\n", "file that the code wrote")
    eq(await x.out(box, "stat -c %U out.txt"), "user", "its owner")


@check("code.parallel_contexts", needs=no_interpreter)
async def _(x):
    box = await x.interpreter()
    contexts = [await x(box.create_code_context) for _ in range(2)]
    try:
        began = time.monotonic()
        got = await asyncio.gather(*[code(x, box, f"import time; time.sleep(1.5); {n} + 10", context=c)
                                     for n, c in enumerate(contexts)])
        eq([g.text for g in got], ["10", "11"], "texts")
        that(time.monotonic() - began < 2.9, "two contexts run one after the other")
    finally:
        await asyncio.gather(*[x(box.remove_code_context, c) for c in contexts], return_exceptions=True)


# -- the wire itself, where no client of this version goes ------------------------------------------

@check("wire.errors", sides=("sync",))
async def _(x):
    for path in ("/v2/sandboxes", "/sandboxes"):
        status, body = await api("GET", path, key=None)
        eq(status, 401, f"status of {path} without a key")
        that(isinstance(body, dict) and isinstance(body.get("code"), int) and isinstance(body.get("message"), str),
             f"the error's body is {short(body)}")
        status, body = await api("POST", path, {"timeout": 30})
        eq(status, 400, f"status of POST {path} without templateID")
        status, _ = await api("POST", path, {"templateID": "base", "timeout": "soon"})
        eq(status, 400, f"status of POST {path} with a timeout that is no number")
    status, body = await api("GET", "/sandboxes/i" + secrets.token_hex(9))
    eq((status, body.get("code")), (404, 404), "an unknown sandbox")
    status, _ = await api("GET", "/no/such/path")
    eq(status, 404, "status of an unknown path")


@check("wire.v1_and_v2", sides=("sync",))
async def _(x):
    for path in ("/sandboxes", "/v2/sandboxes"):
        body = {"templateID": "base", "timeout": 60, "metadata": {"wire": RUN}}
        status, made = await api("POST", path, {**body, "secure": True} if path == "/sandboxes" else body)
        eq(status, 201, f"status of POST {path}")
        for key in ("templateID", "sandboxID", "clientID", "envdVersion"):
            that(made.get(key), f"POST {path} gives no {key}")
        one = made["sandboxID"]
        MADE[one] = None
        try:
            status, row = await api("GET", f"/sandboxes/{one}")
            eq(status, 200, "status of GET")
            for key in ("templateID", "sandboxID", "clientID", "startedAt", "endAt", "envdVersion", "cpuCount",
                        "memoryMB", "diskSizeMB", "state"):
                that(key in row, f"GET /sandboxes/ID gives no {key}")
            for plan, want in ((f"{path}/{one}/connect", 200), (f"/sandboxes/{one}/pause", 204),
                               (f"/sandboxes/{one}/pause", 409), (f"{path}/{one}/connect", 201)):
                status, _ = await api("POST", plan, {"timeout": 60} if plan.endswith("connect") else None)
                eq(status, want, f"status of POST {plan.replace(one, 'ID')}")
            status, _ = await api("POST", f"/sandboxes/{one}/pause", {})
            eq(status, 204, "status of pause with {}")
            status, _ = await api("POST", f"/sandboxes/{one}/resume", {"timeout": 60})
            eq(status, 201, "status of resume")
            status, _ = await api("POST", f"/sandboxes/{one}/refreshes", {"duration": 90})
            eq(status, 204, "status of refreshes")
            for plan in ("/sandboxes", "/v2/sandboxes"):
                status, rows = await api("GET", f"{plan}?metadata=wire%3D{RUN}")
                eq((status, [r["sandboxID"] for r in rows]), (200, [one]), f"GET {plan} by metadata")
            status, logs = await api("GET", f"/sandboxes/{one}/logs")
            that(status == 200 and isinstance(logs.get("logs"), list), f"GET logs: {status} {short(logs)}")
            status, logs = await api("GET", f"/v2/sandboxes/{one}/logs")
            that(status == 200 and isinstance(logs.get("logs"), list), f"GET v2 logs: {status} {short(logs)}")
            status, many = await api("GET", f"/sandboxes/metrics?sandbox_ids={one}")
            that(status == 200 and isinstance(many.get("sandboxes"), dict), f"GET metrics: {status} {short(many)}")
        finally:
            status, _ = await api("DELETE", f"/sandboxes/{one}")
        eq(status, 204, "status of DELETE")
        status, _ = await api("DELETE", f"/sandboxes/{one}")
        eq(status, 404, "status of the second DELETE")


@check("wire.templates", sides=("sync",))
async def _(x):
    for path in ("/templates", "/v2/templates"):
        status, rows = await api("GET", path)
        eq(status, 200, f"status of GET {path}")
        that(isinstance(rows, list if path == "/templates" else (list, dict)), f"GET {path} gives {short(rows)}")
    status, row = await api("GET", "/templates/aliases/base")
    eq(status, 200, "status of the alias base")
    that(row.get("templateID") and isinstance(row.get("public"), bool), f"alias {short(row)}")
    status, _ = await api("GET", "/templates/aliases/no-such-" + RUN)
    eq(status, 404, "status of an unknown alias")


@check("wire.envd", sides=("sync",))
async def _(x):
    box = await x.box()
    eq((await envd(box, "GET", "/health", token=None))[0], 204, "status of /health")
    status, body, _ = await envd(box, "GET", "/metrics")
    eq(status, 200, "status of /metrics")
    that({"ts", "cpu_count", "mem_total", "mem_used", "disk_total"} <= set(json.loads(body)), f"/metrics gives {short(body)}")
    status, body, _ = await envd(box, "GET", "/envs")
    eq((status, json.loads(body).get("RW_GLOBAL")), (200, "from-create"), "/envs")
    for what, token in (("no", None), ("a wrong", "wrong")):
        for path, send in (("/process.Process/List", {}), ("/filesystem.Filesystem/Stat", {"path": "/"})):
            status, _, _ = await envd(box, "POST", path, send, token=token)
            eq(status, 401, f"status of {path} with {what} token")
    status, _, _ = await envd(box, "GET", "/files?path=/etc/hostname", token=None)
    eq(status, 401, "status of /files without a token")
    status, body, _ = await envd(box, "POST", "/filesystem.Filesystem/Stat", {"path": "/no/such"})
    eq((status, json.loads(body).get("code")), (404, "not_found"), "Stat of a missing file")
    status, body, _ = await envd(box, "GET", "/", port="9")
    eq(status, 502, "status of a closed port by header")
    that("port is not open" in json.loads(body)["message"], f"its message: {short(body)}")


@check("wire.stream", sides=("sync",))
async def _(x):
    """A stream's failure is inside it: 200, then an end frame with the error."""
    box = await x.box()

    def frames(raw):
        out = []
        while raw:
            flag, size = raw[0], struct.unpack(">I", raw[1:5])[0]
            out.append((flag, json.loads(raw[5:5 + size] or b"{}")))
            raw = raw[5 + size:]
        return out

    async def start(message):
        data = json.dumps(message).encode()
        status, raw, headers = await envd(box, "POST", "/process.Process/Start", b"\0" + struct.pack(">I", len(data)) + data,
                                          headers={"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"})
        eq(status, 200, f"status ({short(raw)})")
        eq(headers.get("Content-Type"), "application/connect+json", "Content-Type")
        that(headers.get("Content-Encoding") in (None, "identity"), "the stream is compressed")
        return frames(raw)

    got = await start({"process": {"cmd": "/bin/bash", "args": ["-l", "-c", "printf hi; exit 2"]}, "stdin": False})
    events = [next(iter(m["event"])) for flag, m in got if flag == 0]
    eq((events[0], events[-1]), ("start", "end"), f"events {events}")
    out = b"".join(base64.b64decode(m["event"]["data"]["stdout"]) for f, m in got if f == 0 and "stdout" in m["event"].get("data", {}))
    eq(out, b"hi", "stdout")
    eq(int(got[-2][1]["event"]["end"].get("exitCode", 0)), 2, "exitCode")
    eq((got[-1][0], "error" in got[-1][1]), (2, False), "end frame")
    got = await start({"process": {"cmd": "/bin/bash", "args": ["-c", "true"], "cwd": "/no/such"}})
    eq((len(got), got[-1][0], got[-1][1].get("error", {}).get("code")), (1, 2, "invalid_argument"), "frames of a bad cwd")


@check("git.basic", needs=lambda: None if hasattr(e2b.Sandbox, "git") else "no git module")
async def _(x):
    box = await x.box()
    if await x.out(box, "command -v git || true") == "":
        raise Skip("the base template has no git")
    path = place(x, "git")
    await x(box.git.init, path)
    await x(box.files.write, f"{path}/a.txt", "a")
    status = await x(box.git.status, path)
    that(not status.is_clean, "a new file leaves the status clean")


# -- running ----------------------------------------------------------------------------------------

OUT = threading.Lock()


def emit(**row):
    with OUT:
        sys.stdout.write("@@check " + json.dumps(row) + "\n")
        sys.stdout.flush()


async def one_check(chk, side, timeout, gate):
    name = f"{side.name}/{chk.name}" if side else chk.name
    if chk.since and VERSION < chk.since:
        return emit(name=name, status="SKIPPED", ms=0, reason=f"e2b {'.'.join(map(str, VERSION))} has no such call")
    why = chk.needs() if chk.needs else None
    if why:
        return emit(name=name, status="SKIPPED", ms=0, reason=f"e2b {'.'.join(map(str, VERSION))} has {why}")
    async with gate:
        began = time.monotonic()
        status, reason = "ok", ""
        try:
            await asyncio.wait_for(chk.run(side), chk.timeout or timeout)
        except Skip as err:
            status, reason = "SKIPPED", str(err)
        except (TimeoutError, asyncio.TimeoutError):
            if time.monotonic() - began < (chk.timeout or timeout) - 0.5:
                status, reason = "FAIL", "TimeoutError: a socket got no answer" + where(sys.exc_info()[2])
            else:
                status, reason = "FAIL", f"still running after {chk.timeout or timeout:.0f} s"
        except AssertionError as err:
            status, reason = "FAIL", f"{err}{where(err.__traceback__)}"
        except Exception as err:
            status, reason = "FAIL", f"{brief(err)}{where(err.__traceback__)}"
        emit(name=name, status=status, ms=int((time.monotonic() - began) * 1000), reason=reason)


def where(tb):
    lines = [f.lineno for f in traceback.extract_tb(tb) if f.filename == __file__ and f.name == "_"]
    return f" (line {lines[-1]})" if lines else ""


async def sweep(before):
    """Kills what is left, then looks whether the list is empty."""
    for template_id in list(TEMPLATES):
        await drop_template(template_id)

    async def kill(one):
        with contextlib.suppress(Exception):
            await in_thread(e2b.Sandbox.kill, one)

    listed = {}
    paginator = e2b.Sandbox.list()
    while paginator.has_next:
        for info in await in_thread(paginator.next_items):
            listed[info.sandbox_id] = info
    await asyncio.gather(*[kill(i) for i in MADE if i in listed])
    left = []
    paginator = e2b.Sandbox.list()
    while paginator.has_next:
        left += [i.sandbox_id for i in await in_thread(paginator.next_items) if i.sandbox_id not in before]
    strange = [i for i in left if i not in MADE]
    that(not strange, f"sandboxes are left that no check knows of: {strange}")
    that(not left, f"sandboxes are left: {left}")


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", default="?")
    parser.add_argument("--calls", default="*")
    parser.add_argument("--check-timeout", type=float, default=60)
    parser.add_argument("--no-api", action="store_true")
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("RINGWALL_CLIENT_JOBS", "4")))
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()

    def chosen(chk, side):
        return any(fnmatch.fnmatchcase(name, args.calls)
                   for name in (chk.name, f"{side}/{chk.name}", chk.name.split(".")[0]))

    if args.list:
        print("\n".join(f"{s}/{c.name}" for c in CHECKS for s in c.sides))
        return
    gate = asyncio.Semaphore(args.jobs)
    sides = {name: Side(name) for name in ("sync", "async")}
    todo, left_out = [], 0
    for chk in CHECKS:
        for side in chk.sides:
            if chosen(chk, side) and (side == "offline" or not args.no_api):
                if chk.needs is no_interpreter and no_interpreter():
                    left_out += 1
                else:
                    todo.append((chk, sides.get(side)))
    if left_out:
        emit(name="code.*", status="SKIPPED", ms=0, reason=f"{no_interpreter()} ({left_out} checks)")
    # The long ones first, so that they are not alone at the end.
    todo.sort(key=lambda pair: not pair[0].name.startswith(("template.build", "life.", "list.")))
    before = set()
    if not args.no_api:
        with contextlib.suppress(Exception):
            paginator = e2b.Sandbox.list()
            while paginator.has_next:
                before |= {i.sandbox_id for i in await in_thread(paginator.next_items)}
    await asyncio.gather(*[one_check(c, s, args.check_timeout, gate) for c, s in todo])
    if not args.no_api:
        last = Check("final.no_sandbox_left", lambda side: sweep(before), (), None, None, 60)
        await one_check(last, None, args.check_timeout, gate)
    emit(finished=True)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(3)
    # A thread whose check ran out of time may still wait in a socket.
    sys.stdout.flush()
    os._exit(0)
