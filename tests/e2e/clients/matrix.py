#!/usr/bin/env python3
"""Runs the real, unmodified E2B clients against a `ringwall serve`.

    matrix.py --prepare [--only SET...]
    matrix.py --url http://127.0.0.1:PORT --key KEY [--only SET...] [--calls GLOB] [--ca FILE]

Standard library only. The client packages live in one directory per version set below
$RINGWALL_CACHE/clients (default ~/.cache/ringwall/clients).
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent

# A set's packages. A package without a version means the newest one at the time of --prepare.
PYTHON_SETS = {
    "A": ["e2b==2.15.2", "e2b-code-interpreter==2.4.1"],
    "B": ["e2b==2.29.5"],
    "C": ["e2b==2.50.0", "e2b-code-interpreter==2.10.0"],
    "D": ["e2b", "e2b-code-interpreter"],
}
JS_SETS = {"JS": ["e2b", "@e2b/code-interpreter"]}
SETS = [*PYTHON_SETS, *JS_SETS]

SCRIPT_TIMEOUT = 900
# A line of a client script that starts with this holds one result as JSON.
MARK = "@@check "
# Every result file entry has these keys.
STATUSES = ("ok", "FAIL", "SKIPPED")


def cache_dir() -> Path:
    root = os.environ.get("RINGWALL_CACHE") or os.path.expanduser("~/.cache/ringwall")
    return Path(root).absolute() / "clients"


def run_quiet(args: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(args, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode != 0:
        sys.stderr.write(done.stdout)
        raise SystemExit(f"matrix: `{' '.join(args)}` ended with {done.returncode}")


# -- preparing -------------------------------------------------------------------------------

def python_of(name: str) -> Path:
    return cache_dir() / f"py-{name}" / "bin" / "python"


def js_dir(name: str) -> Path:
    return cache_dir() / f"js-{name}"


def stamp_of(name: str) -> Path:
    base = js_dir(name) if name in JS_SETS else cache_dir() / f"py-{name}"
    return base / "ringwall-set.json"


def read_stamp(name: str) -> dict | None:
    try:
        return json.loads(stamp_of(name).read_text())
    except (OSError, ValueError):
        return None


def prepare(name: str, upgrade: bool) -> None:
    wanted = PYTHON_SETS.get(name) or JS_SETS[name]
    stamp = read_stamp(name)
    if stamp and stamp.get("wanted") == wanted and not upgrade:
        print(f"prepared {name}: {stamp['versions']} (cached)", flush=True)
        return
    if name in PYTHON_SETS:
        home = cache_dir() / f"py-{name}"
        if not python_of(name).exists():
            shutil.rmtree(home, ignore_errors=True)
            home.parent.mkdir(parents=True, exist_ok=True)
            run_quiet([sys.executable, "-m", "venv", str(home)])
        run_quiet([str(python_of(name)), "-m", "pip", "install", "--quiet",
                   "--disable-pip-version-check", "--no-input", "--upgrade", *wanted])
        code = ("import importlib.metadata as m\n"
                "for p in ('e2b','e2b-code-interpreter'):\n"
                "  try: print(p, m.version(p))\n"
                "  except m.PackageNotFoundError: pass\n")
        out = subprocess.run([str(python_of(name)), "-c", code], check=True, text=True,
                             stdout=subprocess.PIPE).stdout
        versions = ", ".join(out.strip().splitlines())
    else:
        home = js_dir(name)
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text('{"name":"ringwall-clients","private":true,"type":"module"}\n')
        (home / "package-lock.json").unlink(missing_ok=True)
        run_quiet(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error",
                   *[f"{p}@latest" for p in wanted]], cwd=home)
        versions = ", ".join(
            f"{p} {json.loads((home / 'node_modules' / p / 'package.json').read_text())['version']}"
            for p in wanted)
    stamp_of(name).write_text(json.dumps({"wanted": wanted, "versions": versions}))
    print(f"prepared {name}: {versions}", flush=True)


# -- running ---------------------------------------------------------------------------------

class Report:
    def __init__(self, json_path: str | None) -> None:
        self.rows: list[dict] = []
        self.json_path = json_path

    def add(self, row: dict) -> None:
        reason = " ".join(str(row.get("reason") or "").split())[:400]
        row["reason"] = reason
        self.rows.append(row)
        head = f"{row['set']} {row['name']}"
        if row["status"] == "ok":
            print(f"ok {head} ({row['ms']} ms)", flush=True)
        else:
            print(f"{row['status']} {head}: {reason or 'no reason given'}", flush=True)

    def finish(self) -> int:
        count = {s: sum(r["status"] == s for r in self.rows) for s in STATUSES}
        if not self.rows:
            self.add({"set": "-", "name": "matrix", "status": "FAIL", "ms": 0,
                      "reason": "no check was run"})
            count["FAIL"] = 1
        if self.json_path:
            Path(self.json_path).write_text(json.dumps(
                {"passed": count["ok"], "failed": count["FAIL"], "skipped": count["SKIPPED"],
                 "checks": self.rows}, indent=1) + "\n")
        if count["FAIL"]:
            print("\nfailures:")
            for row in self.rows:
                if row["status"] == "FAIL":
                    print(f"  {row['set']} {row['name']}: {row['reason'][:120]}")
        print(f"clients: {count['ok']} passed, {count['FAIL']} failed, {count['SKIPPED']} skipped",
              flush=True)
        return 1 if count["FAIL"] else 0


def client_env(url: str, key: str, ca: str | None, domain: str | None) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith("E2B_")}
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        env.pop(name, None)
        env.pop(name.upper(), None)
    # A domain alone, as E2B's own users have it, or the addresses of both planes.
    env.update({"E2B_DOMAIN": domain} if domain else {"E2B_API_URL": url, "E2B_SANDBOX_URL": url})
    env.update(RINGWALL_API_URL=url, E2B_API_KEY=key, PYTHONUNBUFFERED="1",
               PYTHONDONTWRITEBYTECODE="1", PYTHONWARNINGS="ignore", NO_PROXY="*")
    if url.startswith("https://"):
        env["RINGWALL_TLS"] = "1"
    if ca:
        # What OpenSSL's and httpx's defaults, and node's, look at.
        env.update(SSL_CERT_FILE=ca, NODE_EXTRA_CA_CERTS=ca)
    return env


def run_set(name: str, args: argparse.Namespace, report: Report) -> None:
    stamp = read_stamp(name)
    if stamp is None:
        report.add({"set": name, "name": "prepare", "status": "FAIL", "ms": 0,
                    "reason": "this set is not installed; run matrix.py --prepare"})
        return
    print(f"# set {name}: {stamp['versions']}", flush=True)
    env = client_env(args.url, args.key, args.ca, args.domain)
    if name in PYTHON_SETS:
        command = [str(python_of(name)), str(HERE / "python_client.py")]
        cwd = None
    else:
        # A module finds its packages beside itself, so the script goes where they are.
        shutil.copyfile(HERE / "js_client.mjs", js_dir(name) / "js_client.mjs")
        command = ["node", "js_client.mjs"]
        cwd = js_dir(name)
    command += ["--set", name, "--calls", args.calls, "--check-timeout", str(args.check_timeout)]
    if args.no_api:
        command.append("--no-api")
    began = time.monotonic()
    script = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", start_new_session=True)
    lines: queue.Queue[str | None] = queue.Queue()

    def pump() -> None:
        for line in script.stdout:
            lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    seen, finished, timed_out, tail = 0, False, False, []
    while True:
        left = began + args.script_timeout - time.monotonic()
        try:
            line = lines.get(timeout=max(left, 0.01))
        except queue.Empty:
            timed_out = True
            break
        if line is None:
            break
        if not line.startswith(MARK):
            if line.strip():
                tail = [*tail[-20:], line]
                if args.verbose:
                    print(f"# {name}| {line}", flush=True)
            continue
        row = json.loads(line[len(MARK):])
        if row.get("finished"):
            finished = True
            continue
        seen += 1
        report.add({"set": name, **row})
    if timed_out or script.poll() is None:
        try:
            script.wait(timeout=0 if timed_out else 10)
        except subprocess.TimeoutExpired:
            os.killpg(script.pid, signal.SIGKILL)
            script.wait()
    elapsed = int((time.monotonic() - began) * 1000)
    if timed_out:
        report.add({"set": name, "name": "script", "status": "FAIL", "ms": elapsed,
                    "reason": f"the script was still running after {args.script_timeout} s"})
    elif not finished:
        for line in tail:
            print(f"# {name}| {line}", flush=True)
        report.add({"set": name, "name": "script", "status": "FAIL", "ms": elapsed,
                    "reason": f"the script ended early with {script.returncode}: "
                              f"{tail[-1] if tail else 'no output'}"})
    print(f"# set {name}: {seen} checks in {elapsed / 1000:.1f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepare", action="store_true", help="install the client packages")
    parser.add_argument("--upgrade", action="store_true",
                        help="with --prepare: look for newer packages even if a set is installed")
    parser.add_argument("--url", help="where the server listens, http://127.0.0.1:PORT")
    parser.add_argument("--key", help="an API key of that server")
    parser.add_argument("--ca", metavar="FILE", help="authorities (PEM) that sign the certificate of an https server")
    parser.add_argument("--domain", help="tell the clients this domain and no URL; they insist on TLS then")
    parser.add_argument("--only", nargs="+", metavar="SET", help=f"of {' '.join(SETS)}")
    parser.add_argument("--calls", default="*", metavar="GLOB", help="run only the checks so named")
    parser.add_argument("--no-api", action="store_true",
                        help="run only the checks of the scripts themselves, which need no server")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--check-timeout", type=float, default=60)
    parser.add_argument("--script-timeout", type=float, default=SCRIPT_TIMEOUT)
    parser.add_argument("--verbose", action="store_true", help="show what the scripts print")
    args = parser.parse_args()

    names = [s for word in (args.only or SETS) for s in word.split(",") if s]
    for name in names:
        if name not in SETS:
            parser.error(f"there is no set {name}; the sets are {' '.join(SETS)}")
    if args.prepare:
        for name in names:
            prepare(name, args.upgrade)
        if not args.url:
            return 0
    if args.no_api:
        args.url, args.key = args.url or "http://127.0.0.1:9", args.key or "e2b_00"
    if not args.url or not args.key:
        parser.error("give --url and --key (or --prepare)")
    args.url = args.url.rstrip("/")
    report = Report(args.json)
    for name in names:
        run_set(name, args, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
