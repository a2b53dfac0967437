// Calls every part of the E2B JavaScript SDK against one server.
//
// Started by matrix.py, which copies it beside the packages. Each check is on its own: its sandboxes are its own or the shared one, and
// its failure stops no other check. A result is one line of JSON behind `@@check `.

import { createHash, randomBytes } from 'node:crypto'
import fs from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import tls from 'node:tls'
import * as e2b from 'e2b'
import * as interpreter from '@e2b/code-interpreter'

const { Sandbox, Template } = e2b
const API_URL = process.env.RINGWALL_API_URL.replace(/\/+$/, '')
const API_KEY = process.env.E2B_API_KEY
const WIRE = new URL(API_URL)
const RUN = randomBytes(4).toString('hex')
const CHECKS = []
const MADE = new Set()
const TEMPLATES = new Set()

class Skip extends Error {}
class Wrong extends Error {}

// -- helpers -------------------------------------------------------------------------------------

function check(name, run, { timeout } = {}) {
  CHECKS.push({ name, run, timeout })
}

function short(value) {
  let text
  try {
    text = typeof value === 'string' ? JSON.stringify(value) : JSON.stringify(value, (_, v) => (v instanceof Set ? [...v] : v))
  } catch {
    text = String(value)
  }
  text ??= String(value)
  return text.length < 160 ? text : `${text.slice(0, 150)}... (${text.length} characters)`
}

function same(a, b) {
  if (Object.is(a, b)) return true
  if (a instanceof Set && b instanceof Set) return a.size === b.size && [...a].every((v) => b.has(v))
  if (a instanceof Uint8Array && b instanceof Uint8Array) return Buffer.compare(a, b) === 0
  if (typeof a !== 'object' || typeof b !== 'object' || !a || !b || Array.isArray(a) !== Array.isArray(b)) return false
  const keys = Object.keys(a)
  return keys.length === Object.keys(b).length && keys.every((k) => same(a[k], b[k]))
}

function eq(got, want, what) {
  if (!same(got, want)) throw new Wrong(`${what}: got ${short(got)}, want ${short(want)}`)
}

function that(condition, what) {
  if (!condition) throw new Wrong(what)
}

function brief(err) {
  const text = String(err?.message ?? err).replace(/\s+/g, ' ').trim()
  const cause = err?.cause ? ` (${String(err.cause.message ?? err.cause)})` : ''
  return `${err?.name ?? 'Error'}: ${text}${cause}`.slice(0, 350)
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms))
const sha256 = (data) => createHash('sha256').update(data).digest('hex')
const unknownId = () => 'i' + randomBytes(9).toString('hex')

async function until(ms, what, probe, pause = 250) {
  const end = Date.now() + ms
  for (;;) {
    const got = await probe()
    if (got) return got
    if (Date.now() > end) throw new Wrong(`not within ${ms} ms: ${what}`)
    await sleep(pause)
  }
}

async function raises(kinds, call) {
  kinds = Array.isArray(kinds) ? kinds : [kinds]
  let out
  try {
    out = await call()
  } catch (err) {
    if (kinds.some((k) => err instanceof k)) return err
    throw err
  }
  throw new Wrong(`no error, but ${short(out)}; want ${kinds.map((k) => k.name).join(' or ')}`)
}

async function create(...args) {
  return note(await Sandbox.create(...args))
}

function note(box) {
  MADE.add(box.sandboxId)
  return box
}

async function own(opts, use) {
  const template = opts.template
  const rest = { timeoutMs: 120_000, ...opts }
  delete rest.template
  const box = template ? await create(template, rest) : await create(rest)
  try {
    return await use(box)
  } finally {
    await box.kill().catch(() => {})
  }
}

const shared = {}
async function lazily(key, make) {
  shared[key] ??= make()
  try {
    return await shared[key]
  } catch (err) {
    throw new Wrong(`the shared sandbox could not be made: ${brief(err)}`)
  }
}
const theBox = () => lazily('box', () => create({ timeoutMs: 900_000, envs: { RW_GLOBAL: 'from-create' }, metadata: { suite: RUN } }))
const theInterpreter = () =>
  lazily('ci', async () => note(await interpreter.Sandbox.create({ timeoutMs: 900_000, envs: { RW_GLOBAL: 'from-create' } })))

const run = (box, cmd, opts) => box.commands.run(cmd, opts)
const out = async (box, cmd, opts) => (await run(box, cmd, opts)).stdout.trim()
const place = (name) => `/home/user/rw-js-${name}`

async function pages(paginator) {
  const rows = []
  while (paginator.hasNext) {
    rows.push(...(await paginator.nextItems()))
    that(rows.length < 10_000, 'the list does not end')
  }
  return rows
}

async function api(method, where, body, key = API_KEY) {
  const answer = await fetch(API_URL + where, {
    method,
    headers: { ...(key ? { 'X-API-Key': key } : {}), ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) },
    body: body === undefined ? undefined : JSON.stringify(body),
  })
  const text = await answer.text()
  let parsed = text
  try {
    parsed = text ? JSON.parse(text) : undefined
  } catch {}
  return { status: answer.status, body: parsed }
}

async function get(url, opts) {
  const answer = await fetch(url, opts)
  return { status: answer.status, body: Buffer.from(await answer.arrayBuffer()) }
}

// To the server's address, with the Host that names the sandbox.
function dial(host, text, body, onEnd) {
  return new Promise((done, fail) => {
    const parts = []
    // By TLS the certificate must be for the sandbox's own host name.
    const connect = WIRE.protocol === 'https:' ? tls.connect : net.connect
    const port = Number(WIRE.port || (WIRE.protocol === 'https:' ? 443 : 80))
    const wire = connect({ host: WIRE.hostname, port, servername: host.split(':')[0] }, () => {
      wire.write(text)
      if (body) wire.write(body)
    })
    wire.setTimeout(20_000, () => wire.destroy(new Error(`no answer from ${host} in 20 s`)))
    wire.on('error', fail)
    wire.on('data', (part) => {
      parts.push({ at: Date.now(), part })
      if (onEnd?.(Buffer.concat(parts.map((p) => p.part)))) wire.destroy()
    })
    wire.on('close', () => done(parts))
  })
}

async function viaHost(host, { method = 'GET', path = '/', body, headers = {} } = {}) {
  const lines = [`${method} ${path} HTTP/1.1`, `Host: ${host}`, 'Connection: close']
  for (const [k, v] of Object.entries(headers)) lines.push(`${k}: ${v}`)
  if (body) lines.push(`Content-Length: ${body.length}`)
  const parts = await dial(host, lines.join('\r\n') + '\r\n\r\n', body)
  const raw = Buffer.concat(parts.map((p) => p.part))
  const cut = raw.indexOf('\r\n\r\n')
  that(cut > 0 && raw.subarray(0, 7).toString() === 'HTTP/1.', `no HTTP answer from ${host}: ${short(raw.toString().slice(0, 80))}`)
  const head = raw.subarray(0, cut).toString()
  let rest = raw.subarray(cut + 4)
  if (/transfer-encoding: *chunked/i.test(head)) {
    const chunks = []
    for (;;) {
      const end = rest.indexOf('\r\n')
      const size = end < 0 ? 0 : parseInt(rest.subarray(0, end).toString(), 16)
      if (!size) break
      chunks.push(rest.subarray(end + 2, end + 2 + size))
      rest = rest.subarray(end + 4 + size)
    }
    rest = Buffer.concat(chunks)
  }
  return { status: Number(head.split(' ')[1]), body: rest, times: parts.map((p) => p.at) }
}

async function webSocketEcho(host, message) {
  const key = randomBytes(16).toString('base64')
  const data = Buffer.from(message)
  const mask = randomBytes(4)
  const frame = Buffer.concat([Buffer.from([0x81, 0x80 | data.length]), mask, Buffer.from(data.map((b, i) => b ^ mask[i % 4]))])
  const whole = (raw) => {
    const cut = raw.indexOf('\r\n\r\n')
    return cut > 0 && raw.length >= cut + 6 && raw.length >= cut + 6 + (raw[cut + 5] & 127)
  }
  const parts = await dial(
    host,
    `GET /ws HTTP/1.1\r\nHost: ${host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
    frame,
    whole
  )
  const raw = Buffer.concat(parts.map((p) => p.part))
  const cut = raw.indexOf('\r\n\r\n')
  const head = raw.subarray(0, cut).toString()
  that(/^HTTP\/1\.1 101 /.test(head), `the WebSocket was answered with ${short(head.split('\r\n')[0])}`)
  const want = createHash('sha1').update(key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64')
  that(head.includes(want), 'wrong Sec-WebSocket-Accept')
  return raw.subarray(cut + 6, cut + 6 + (raw[cut + 5] & 127)).toString()
}

// Runs in the sandbox: a page, an echo, a slow stream and a WebSocket echo.
const SERVER = `
import base64, hashlib, http.server, sys, time
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def send(self, body):
        self.send_response(200)
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
                self.wfile.write(b"6\\r\\npart %d\\r\\n" % n)
                self.wfile.flush()
                time.sleep(0.5)
            self.wfile.write(b"0\\r\\n\\r\\n")
            return
        self.send(b"page of " + self.path.encode())
    def socket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        a, b = self.rfile.read(2)
        mask = self.rfile.read(4)
        data = bytes(c ^ mask[i % 4] for i, c in enumerate(self.rfile.read(b & 127)))
        self.wfile.write(b"\\x81" + bytes([len(data)]) + data)
        self.wfile.flush()
        self.close_connection = True
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), H).serve_forever()
`

async function serve(box, port, headers = {}) {
  await box.files.write(`/tmp/rw-js-server-${port}.py`, SERVER)
  await run(box, `python3 /tmp/rw-js-server-${port}.py ${port} >/tmp/rw-js-server-${port}.log 2>&1`, { background: true, timeoutMs: 0 })
  const host = box.getHost(port)
  await until(15_000, `the server on port ${port} answers through ${host}`, async () => (await viaHost(host, { headers })).status === 200)
  return host
}

// -- life of a sandbox -----------------------------------------------------------------------------

check('life.defaults', async () => {
  const box = await create()
  try {
    const info = await box.getInfo()
    eq(info.sandboxId, box.sandboxId, 'sandboxId')
    eq(info.state, 'running', 'state')
    that(info.templateId && info.cpuCount >= 1 && info.memoryMB >= 16, `odd info ${short(info)}`)
    const life = (info.endAt - info.startedAt) / 1000
    that(life >= 290 && life <= 330, `the default timeout is ${life} s, want 300`)
    eq(await out(box, 'echo hello'), 'hello', 'stdout')
    eq(await box.isRunning(), true, 'isRunning')
  } finally {
    eq(await box.kill(), true, 'kill')
  }
  eq(await box.isRunning(), false, 'isRunning after kill')
  eq(await box.kill(), false, 'second kill')
  eq(await Sandbox.kill(unknownId()), false, 'kill of an unknown id')
})

check('life.options', async () => {
  const metadata = { suite: RUN, 'a b': 'c d&e=f%20', übung: 'naïve 🦀' }
  await own({ template: 'base', metadata, envs: { RW_A: '1', RW_B: "two 'words' $HOME é" } }, async (box) => {
    const info = await Sandbox.getInfo(box.sandboxId)
    eq(info.metadata, metadata, 'metadata')
    const left = (info.endAt - Date.now()) / 1000
    that(left >= 80 && left <= 121, `${left} s left of 120`)
    eq(await out(box, 'printf "%s|%s" "$RW_A" "$RW_B"'), "1|two 'words' $HOME é", 'envs')
    eq(await out(box, 'echo $RW_A', { envs: { RW_A: 'mine' } }), 'mine', "a command's env wins")
  })
})

check('life.secure_false', () => own({ secure: false }, async (box) => eq(await out(box, 'echo open'), 'open', 'stdout')))

check('life.expiry', async () => {
  const box = await create({ timeoutMs: 2000 })
  await until(20_000, 'a sandbox with a timeout of 2 s is gone', () =>
    Sandbox.getInfo(box.sandboxId).then(
      () => false,
      (err) => {
        if (err instanceof e2b.NotFoundError) return true
        throw err
      }
    )
  )
  eq(await box.isRunning(), false, 'isRunning')
  await raises([e2b.TimeoutError, e2b.NotFoundError], () => run(box, 'echo late'))
  eq(await box.kill(), false, 'kill')
})

check('life.dead_sandbox_errors', async () => {
  const box = await create({ timeoutMs: 60_000 })
  await box.kill()
  const gone = [e2b.TimeoutError, e2b.NotFoundError]
  await raises(gone, () => run(box, 'echo late'))
  await raises(gone, () => box.files.read('late.txt'))
  await raises(gone, () => box.files.list('/'))
  await raises(e2b.SandboxNotFoundError, () => box.getInfo())
  await raises(e2b.SandboxNotFoundError, () => box.setTimeout(60_000))
})

check('life.set_timeout', () =>
  own({ timeoutMs: 40_000 }, async (box) => {
    const before = (await box.getInfo()).endAt
    await box.setTimeout(400_000)
    const grown = ((await box.getInfo()).endAt - before) / 1000
    that(grown >= 330 && grown <= 400, `the end moved by ${grown} s`)
    await Sandbox.setTimeout(box.sandboxId, 100_000)
    const left = ((await box.getInfo()).endAt - Date.now()) / 1000
    that(left >= 80 && left <= 101, `${left} s left after it was set to 100`)
    await box.setTimeout(1000)
    await until(20_000, 'a sandbox whose timeout was set to 1 s is gone', async () => !(await box.isRunning()))
  })
)

check('life.connect', async () => {
  await own({ timeoutMs: 60_000 }, async (box) => {
    await box.files.write('kept.txt', 'kept')
    const other = await Sandbox.connect(box.sandboxId, { timeoutMs: 300_000 })
    eq(other.sandboxId, box.sandboxId, 'sandboxId')
    eq(await other.files.read('kept.txt'), 'kept', 'file')
    eq(await out(other, 'echo there'), 'there', 'stdout')
    that((await box.getInfo()).endAt - Date.now() > 250_000, 'connect made the life no longer')
    await box.connect({ timeoutMs: 30_000 })
    that((await box.getInfo()).endAt - Date.now() > 200_000, 'connect cut the life of a running sandbox')
  })
  await raises(e2b.NotFoundError, () => Sandbox.connect(unknownId()))
  await raises(e2b.NotFoundError, () => Sandbox.getInfo(unknownId()))
})

check('life.pause_resume', () =>
  own({}, async (box) => {
    await box.files.write('/tmp/kept.txt', 'kept over a pause')
    const counter = await run(box, 'n=0; while true; do n=$((n+1)); echo $n > /tmp/count; sleep 0.1; done', {
      background: true,
      timeoutMs: 0,
    })
    // The pause ends this stream; its error is of no interest.
    counter.wait().catch(() => {})
    await until(10_000, 'the counter runs', () => out(box, 'cat /tmp/count 2>/dev/null || true'))
    eq(await box.pause(), true, 'pause')
    eq((await Sandbox.getInfo(box.sandboxId)).state, 'paused', 'state')
    eq(await box.isRunning(), false, 'isRunning of a paused sandbox')
    eq(await box.pause(), false, 'second pause')
    await box.connect({ timeoutMs: 120_000 })
    eq((await box.getInfo()).state, 'running', 'state after resume')
    eq(await box.files.read('/tmp/kept.txt'), 'kept over a pause', 'file')
    that((await box.commands.list()).some((p) => p.pid === counter.pid), 'the process is not listed after resume')
    const one = Number(await out(box, 'cat /tmp/count'))
    await until(10_000, 'the process counts on after resume', async () => Number(await out(box, 'cat /tmp/count')) > one)
    eq(await Sandbox.pause(box.sandboxId), true, 'pause by id')
    eq(await box.kill(), true, 'kill of a paused sandbox')
  })
)

check('life.pause_filesystem', () =>
  own({}, async (box) => {
    await box.files.write('/home/user/kept.txt', 'kept on disk')
    const handle = await run(box, 'sleep 600', { background: true, timeoutMs: 0 })
    handle.wait().catch(() => {})
    eq(await box.pause({ keepMemory: false }), true, 'pause')
    await box.connect({ timeoutMs: 120_000 })
    eq(await box.files.read('/home/user/kept.txt'), 'kept on disk', 'file')
    that(!(await box.commands.list()).some((p) => p.pid === handle.pid), 'a process is still there after a pause without memory')
  })
)

check('life.timeout_pauses', () =>
  own({ timeoutMs: 6000, lifecycle: { onTimeout: 'pause' } }, async (box) => {
    const info = await box.getInfo()
    if (info.lifecycle) eq(info.lifecycle.onTimeout, 'pause', 'lifecycle.onTimeout')
    await box.files.write('/tmp/kept.txt', 'kept')
    await until(25_000, 'a sandbox with onTimeout=pause is paused', async () => (await Sandbox.getInfo(box.sandboxId)).state === 'paused')
    await box.connect({ timeoutMs: 60_000 })
    eq(await box.files.read('/tmp/kept.txt'), 'kept', 'file')
  })
)

check('life.auto_resume', () =>
  own({ lifecycle: { onTimeout: 'pause', autoResume: true } }, async (box) => {
    await box.files.write('/tmp/kept.txt', 'kept')
    await box.pause()
    eq(await box.files.read('/tmp/kept.txt'), 'kept', 'file read through a paused sandbox')
    eq((await box.getInfo()).state, 'running', 'state after traffic')
  })
)

// -- lists and information -------------------------------------------------------------------------

check('list.filters_and_pages', async () => {
  const tag = `${RUN} js list&=%`
  const boxes = await Promise.all([0, 1, 2].map((n) => create({ timeoutMs: 120_000, metadata: { 'list tag': tag, n: String(n) } })))
  try {
    const ids = new Set(boxes.map((b) => b.sandboxId))
    const metadata = { 'list tag': tag }
    const paginator = Sandbox.list({ query: { metadata }, limit: 2 })
    const first = await paginator.nextItems()
    eq(first.length, 2, 'rows of the first page')
    that(paginator.hasNext && paginator.nextToken, 'there is no second page')
    const second = await paginator.nextItems()
    eq(new Set([...first, ...second].map((i) => i.sandboxId)), ids, 'ids of both pages')
    eq(paginator.hasNext, false, 'hasNext after the last page')
    const one = await pages(Sandbox.list({ query: { metadata: { ...metadata, n: '1' } } }))
    eq(one.map((i) => i.sandboxId), [boxes[1].sandboxId], 'ids by two metadata values')
    eq(one[0].metadata, { ...metadata, n: '1' }, 'metadata in the list')
    eq(await pages(Sandbox.list({ query: { metadata: { 'list tag': tag + 'x' } } })), [], 'rows by an unknown value')
    await boxes[0].pause()
    const idsOf = async (state) => new Set((await pages(Sandbox.list({ query: { metadata, state } }))).map((i) => i.sandboxId))
    eq(await idsOf(['paused']), new Set([boxes[0].sandboxId]), 'ids of the paused')
    eq(await idsOf(['running']), new Set([boxes[1].sandboxId, boxes[2].sandboxId]), 'ids of the running')
    eq(await idsOf(['running', 'paused']), ids, 'ids of both states')
    const everything = new Set((await pages(Sandbox.list())).map((i) => i.sandboxId))
    that([...ids].every((i) => everything.has(i)), 'a list without a filter lacks sandboxes')
    const starts = async (order) => (await pages(Sandbox.list({ query: { metadata }, order }))).map((i) => +i.startedAt)
    const up = await starts('asc')
    eq(up, [...up].sort((a, b) => a - b), 'order asc')
    const down = await starts('desc')
    eq(down, [...down].sort((a, b) => b - a), 'order desc')
    eq(await pages(Sandbox.list({ query: { metadata, startedAfter: new Date(Date.now() + 3_600_000) } })), [], 'startedAfter')
    eq((await pages(Sandbox.list({ query: { metadata, template: 'base' } }))).length, 3, 'rows by template')
  } finally {
    await Promise.allSettled(boxes.map((b) => b.kill()))
  }
})

check('info.metrics', async () => {
  const box = await theBox()
  const rows = await until(
    15_000,
    'there is a metric',
    async () => {
      const got = await box.getMetrics()
      return got.length && got
    },
    1000
  )
  const row = rows.at(-1)
  that(row.cpuCount >= 1 && row.memTotal > 0 && row.diskTotal > 0, `odd metric ${short(row)}`)
  that(row.memUsed >= 0 && row.memUsed <= row.memTotal && row.cpuUsedPct >= 0, `odd metric ${short(row)}`)
  that(Math.abs(Date.now() - row.timestamp) < 120_000, `timestamp ${row.timestamp}`)
  const hour = 3_600_000
  eq(await Sandbox.getMetrics(box.sandboxId, { start: new Date(Date.now() - 2 * hour), end: new Date(Date.now() - hour) }), [], 'old metrics')
})

check('errors.control_plane', async () => {
  const bad = 'e2b_' + '0'.repeat(40)
  await raises(e2b.AuthenticationError, () => Sandbox.create({ apiKey: bad }))
  await raises(e2b.AuthenticationError, () => Sandbox.list({ apiKey: bad }).nextItems())
  const err = await raises(e2b.SandboxError, () => create('no-such-template-' + RUN))
  that(!(err instanceof e2b.TimeoutError), `odd error ${brief(err)}`)
})

// -- commands --------------------------------------------------------------------------------------

check('commands.run', async () => {
  const box = await theBox()
  const got = await run(box, 'echo out; echo err >&2')
  eq([got.stdout, got.stderr, got.exitCode], ['out\n', 'err\n', 0], 'result')
  eq((await run(box, 'true')).stdout, '', 'stdout of nothing')
  const err = await raises(e2b.CommandExitError, () => run(box, 'echo said; echo why >&2; exit 42'))
  eq([err.exitCode, err.stdout, err.stderr], [42, 'said\n', 'why\n'], 'error')
  const signal = await raises(e2b.CommandExitError, () => run(box, 'kill -9 $$'))
  that(signal.exitCode !== 0, 'exit code after a signal is 0')
})

check('commands.envs_cwd_user', async () => {
  const box = await theBox()
  eq(await out(box, 'echo $RW_GLOBAL'), 'from-create', "the sandbox's variable")
  const envs = { RW_X: 'a b', RW_Y: 'ü\'"$(id)`\\', RW_Z: '', RW_N: 'two\nlines' }
  eq((await run(box, 'printf "%s|%s|%s|%s" "$RW_X" "$RW_Y" "$RW_Z" "$RW_N"', { envs })).stdout, Object.values(envs).join('|'), 'envs')
  eq(await out(box, 'echo $PWD $HOME $USER'), '/home/user /home/user user', 'PWD HOME USER')
  eq(await out(box, 'pwd', { cwd: '/tmp' }), '/tmp', 'cwd')
  const err = await raises(e2b.InvalidArgumentError, () => run(box, 'pwd', { cwd: '/no/such/dir' }))
  that(err.message.includes('/no/such/dir'), `the error does not name the directory: ${brief(err)}`)
  eq(await out(box, 'id -un'), 'user', 'id -un')
  try {
    eq(await out(box, 'id -u', { user: 'root' }), '0', 'uid of user root')
  } catch (err) {
    if (!(err instanceof e2b.SandboxError || err instanceof e2b.AuthenticationError)) throw err
    that(/root|user/.test(err.message), `the error of user root does not say why: ${brief(err)}`)
  }
})

check('commands.timeout', async () => {
  const box = await theBox()
  const began = Date.now()
  await raises(e2b.TimeoutError, () => run(box, 'sleep 40', { timeoutMs: 1000 }))
  that(Date.now() - began < 15_000, `a timeout of 1 s took ${Date.now() - began} ms`)
  eq(await out(box, 'sleep 0.3; echo on', { timeoutMs: 0 }), 'on', 'timeoutMs 0')
})

check('commands.background', async () => {
  const box = await theBox()
  const handle = await run(box, 'sleep 0.5; echo late; echo oops >&2', { background: true })
  that(handle.pid > 0, `pid ${handle.pid}`)
  const got = await handle.wait()
  eq([got.stdout, got.stderr, got.exitCode], ['late\n', 'oops\n', 0], 'result')
  const sleeper = await run(box, 'sleep 300', { background: true, cwd: '/tmp', envs: { RW_L: '1' } })
  const row = (await box.commands.list()).find((p) => p.pid === sleeper.pid)
  that(row, 'the process is not listed')
  eq([row.cmd, row.args, row.cwd, row.envs.RW_L], ['/bin/bash', ['-l', '-c', 'sleep 300'], '/tmp', '1'], 'listed process')
  eq(await sleeper.kill(), true, 'kill')
  const err = await raises(e2b.CommandExitError, () => sleeper.wait())
  that(err.exitCode !== 0, 'exit code of a killed command is 0')
  eq(await box.commands.kill(4_000_001), false, 'kill of an unknown pid')
})

check('commands.connect_disconnect', async () => {
  const box = await theBox()
  const handle = await run(box, 'for i in 1 2 3 4; do sleep 0.4; echo tick $i; done; exit 3', { background: true })
  const seen = []
  const other = await box.commands.connect(handle.pid, { onStdout: (s) => void seen.push(s) })
  const err = await raises(e2b.CommandExitError, () => other.wait())
  eq(err.exitCode, 3, 'exit code through the second connection')
  that(seen.join('').includes('tick 4'), `output through the second connection: ${short(seen)}`)
  eq((await raises(e2b.CommandExitError, () => handle.wait())).stdout, 'tick 1\ntick 2\ntick 3\ntick 4\n', 'output through the first')
  const away = await run(box, 'sleep 1.2; echo done > /tmp/js-away; sleep 300', { background: true })
  await away.disconnect()
  await until(10_000, 'a command goes on after disconnect', () => box.files.exists('/tmp/js-away'))
  eq(await box.commands.kill(away.pid), true, 'kill')
  await raises(e2b.NotFoundError, () => box.commands.connect(4_000_001))
})

check('commands.streaming', async () => {
  const box = await theBox()
  const seen = []
  const errs = []
  const began = Date.now()
  const got = await run(box, 'for i in 1 2 3; do echo line $i; echo e$i >&2; sleep 0.6; done', {
    onStdout: (s) => void seen.push([Date.now() - began, s]),
    onStderr: (s) => void errs.push(s),
  })
  const total = Date.now() - began
  eq(seen.map((s) => s[1]).join(''), 'line 1\nline 2\nline 3\n', 'what onStdout saw')
  eq(errs.join(''), 'e1\ne2\ne3\n', 'what onStderr saw')
  eq(got.stdout, 'line 1\nline 2\nline 3\n', 'stdout')
  that(total - seen[0][0] > 1000, `the first line came at ${seen[0][0]} ms of ${total} ms`)
})

check('commands.stdin', async () => {
  const box = await theBox()
  eq(await out(box, 'cat; echo end', { timeoutMs: 10_000 }), 'end', 'a command without stdin reads nothing')
  const handle = await run(box, 'read a; echo got $a; sha256sum', { background: true, stdin: true })
  await box.commands.sendStdin(handle.pid, 'zeile ü\n')
  const data = Buffer.from('0123456789abcdef'.repeat(8192))
  await handle.sendStdin(data)
  await handle.sendStdin(new Uint8Array([0, 255, 128]))
  if (!box.commands.supportsStdinClose) {
    await handle.kill()
    throw new Skip("the server's envd version is too old for closeStdin")
  }
  await handle.closeStdin()
  const want = sha256(Buffer.concat([data, Buffer.from([0, 255, 128])]))
  eq((await handle.wait()).stdout, `got zeile ü\n${want}  -\n`, 'stdout')
})

check('commands.big_output', async () => {
  const box = await theBox()
  const got = await run(box, `python3 -c "import sys; sys.stdout.write(''.join('%09d\\n' % n for n in range(524288)))"`)
  let want = ''
  for (let n = 0; n < 524288; n++) want += String(n).padStart(9, '0') + '\n'
  eq(got.stdout.length, want.length, 'characters of 5 MB')
  eq(sha256(got.stdout), sha256(want), 'checksum')
})

check('commands.parallel', async () => {
  const box = await theBox()
  const all = [...Array(50).keys()]
  const got = await Promise.all(all.map((n) => run(box, `sleep 0.2; echo out ${n}; echo err ${n} >&2`)))
  eq(got.map((g) => [g.stdout, g.stderr]), all.map((n) => [`out ${n}\n`, `err ${n}\n`]), 'results')
})

check('commands.unicode_and_binary', async () => {
  const box = await theBox()
  eq(await out(box, "echo 'grüße 你好 🦀🚀 ✓'"), 'grüße 你好 🦀🚀 ✓', 'stdout')
  const cut = `python3 -c "import sys,time\nfor b in '🦀é好'.encode():\n  sys.stdout.buffer.write(bytes([b])); sys.stdout.flush(); time.sleep(0.02)"`
  eq((await run(box, cut)).stdout, '🦀é好', 'characters cut over several writes')
  const got = await run(box, "printf 'a\\xff\\xfe\\x00b\\n'; printf '\\xf0\\x9f'; printf 'no newline' >&2")
  that(got.stdout.startsWith('a') && got.stdout.includes('b\n') && got.stdout.includes('\0'), `stdout ${short(got.stdout)}`)
  eq(got.stderr, 'no newline', 'stderr')
})

// -- terminals -------------------------------------------------------------------------------------

function screen() {
  const made = { text: '' }
  const decoder = new TextDecoder()
  made.take = (data) => void (made.text += decoder.decode(data, { stream: true }))
  made.shows = (text) =>
    until(10_000, '', async () => made.text.includes(text), 50).catch(() => {
      throw new Wrong(`the terminal does not show ${short(text)} but ${short(made.text.slice(-120))}`)
    })
  return made
}
const typed = (box, handle, text) => box.pty.sendInput(handle.pid, new TextEncoder().encode(text))

check('pty.session', async () => {
  const box = await theBox()
  const seen = screen()
  const term = await box.pty.create({ rows: 24, cols: 80, onData: seen.take, envs: { RW_PTY: 'set' }, cwd: '/tmp' })
  try {
    await typed(box, term, "stty size | tr ' ' x | sed 's/^/size=/'\n")
    await seen.shows('size=24x80')
    await box.pty.resize(term.pid, { rows: 40, cols: 120 })
    await typed(box, term, "stty size | tr ' ' x | sed 's/^/size=/'\n")
    await seen.shows('size=40x120')
    await typed(box, term, 'echo "[$TERM|$RW_PTY|$PWD|$(id -un)]"\n')
    await seen.shows('[xterm-256color|set|/tmp|user]')
    await typed(box, term, "echo r''eady; sleep 100\n")
    await seen.shows('ready')
    await sleep(300)
    await typed(box, term, '\x03')
    await typed(box, term, 'echo code-$?\n')
    await seen.shows('code-130')
    await typed(box, term, 'exit 3\n')
    eq((await raises(e2b.CommandExitError, () => term.wait())).exitCode, 3, 'exit code')
  } finally {
    await box.pty.kill(term.pid)
  }
})

check('pty.connect_kill', async () => {
  const box = await theBox()
  const one = screen()
  const two = screen()
  const term = await box.pty.create({ rows: 24, cols: 80, onData: one.take })
  await typed(box, term, 'echo one-$((1))\n')
  await one.shows('one-1')
  const second = await box.pty.connect(term.pid, { onData: two.take })
  eq(second.pid, term.pid, 'pid')
  await typed(box, second, 'echo two-$((2))\n')
  await two.shows('two-2')
  await one.shows('two-2')
  eq(await box.pty.kill(term.pid), true, 'kill')
  const err = await raises(e2b.CommandExitError, () => term.wait())
  that(err.exitCode !== 0, 'exit code of a killed terminal is 0')
  await second.wait().catch(() => {})
  eq(await box.pty.kill(4_000_001), false, 'kill of an unknown pid')
})

// -- files -----------------------------------------------------------------------------------------

check('files.kinds', async () => {
  const box = await theBox()
  const where = place('text') + "/new/deep dir/grüße 你好 🦀 'q' #1 100%&+?.txt"
  const text = 'line 1\r\nline 2\n\tgrüße 🦀\n'
  const info = await box.files.write(where, text)
  eq([info.path, info.name], [where, where.split('/').pop()], "write's answer")
  eq(await box.files.read(where), text, 'text')
  await box.files.write(where, '')
  eq(await box.files.read(where), '', 'empty text')
  const data = Buffer.concat([...Array(40)].map(() => Buffer.from([...Array(256).keys()])))
  const exact = data.buffer.slice(data.byteOffset, data.byteOffset + data.length)
  const bin = place('bytes.bin')
  for (const [what, body] of [
    ['ArrayBuffer', exact],
    ['Blob', new Blob([data])],
    ['ReadableStream', new Blob([data]).stream()],
  ]) {
    await box.files.write(bin, body)
    eq(Buffer.from(await box.files.read(bin, { format: 'bytes' })), data, `bytes of ${what}`)
  }
  eq(Buffer.from(await (await box.files.read(bin, { format: 'blob' })).arrayBuffer()), data, 'blob')
  const parts = []
  for await (const part of await box.files.read(bin, { format: 'stream' })) parts.push(part)
  eq(Buffer.concat(parts), data, 'stream')
})

check('files.many_at_once', async () => {
  const box = await theBox()
  const base = place('many')
  const files = [...Array(20).keys()].map((n) => ({ path: `${base}/d${n % 3}/file ${n}.txt`, data: `content ${n}` }))
  eq((await box.files.write(files)).map((f) => f.path), files.map((f) => f.path), 'paths')
  eq(await Promise.all(files.map((f) => box.files.read(f.path))), files.map((f) => f.data), 'texts')
})

check('files.ways_and_metadata', async () => {
  const box = await theBox()
  const data = 'compress me '.repeat(50_000)
  for (const [name, opts] of Object.entries({ octet: { useOctetStream: true }, gzip: { gzip: true }, multipart: { useOctetStream: false } })) {
    const where = place(`way/${name} ü.bin`)
    eq((await box.files.write(where, data, opts)).path, where, `path of ${name}`)
    eq(await box.files.read(where), data, `text of ${name}`)
  }
  eq(await box.files.read(place('way/gzip ü.bin'), { gzip: true }), data, 'text read with gzip')
  const where = place('meta.txt')
  const metadata = { origin: 'suite', kind: 'a b' }
  eq((await box.files.write(where, 'x', { metadata })).metadata, metadata, 'metadata of write')
  eq((await box.files.getInfo(where)).metadata, metadata, 'metadata of getInfo')
})

check('files.large', async () => {
  const box = await theBox()
  const data = Buffer.concat([...Array(20)].map(() => randomBytes(1 << 20)))
  const where = place('large.bin')
  await box.files.write(where, new Blob([data]), { requestTimeoutMs: 50_000 })
  eq((await out(box, `sha256sum ${where}`)).split(' ')[0], sha256(data), 'checksum in the sandbox')
  eq(sha256(await box.files.read(where, { format: 'bytes', requestTimeoutMs: 50_000 })), sha256(data), 'checksum of what was read')
  await box.files.remove(where)
})

check('files.tree', async () => {
  const box = await theBox()
  const base = place('tree')
  eq(await box.files.makeDir(`${base}/sub/deeper`), true, 'makeDir')
  eq(await box.files.makeDir(`${base}/sub/deeper`), false, 'second makeDir')
  await box.files.write(`${base}/a.sh`, 'echo 1\n')
  await box.files.write(`${base}/sub/b.txt`, 'bb')
  const names = async (depth) => new Set((await box.files.list(base, { depth })).map((e) => `${e.type} ${e.path.slice(base.length)}`))
  eq(await names(1), new Set(['file /a.sh', 'dir /sub']), 'depth 1')
  eq(await names(2), new Set(['file /a.sh', 'dir /sub', 'file /sub/b.txt', 'dir /sub/deeper']), 'depth 2')
  eq(await box.files.list(`${base}/sub/deeper`), [], 'an empty directory')
  await run(box, `chmod 750 ${base}/a.sh; ln -sf ${base}/a.sh ${base}/link`)
  const info = await box.files.getInfo(`${base}/a.sh`)
  eq([info.name, info.type, info.size, info.mode & 0o777, info.owner, info.group], ['a.sh', 'file', 7, 0o750, 'user', 'user'], 'info')
  that(Math.abs(Date.now() - info.modifiedTime) < 300_000, `modifiedTime ${info.modifiedTime}`)
  eq((await box.files.getInfo(`${base}/link`)).symlinkTarget, `${base}/a.sh`, 'symlinkTarget')
  const moved = await box.files.rename(`${base}/a.sh`, `${base}/b ü.sh`)
  eq([moved.path, moved.name], [`${base}/b ü.sh`, 'b ü.sh'], "rename's answer")
  eq(await box.files.exists(`${base}/a.sh`), false, 'exists of the old name')
  await box.files.remove(base)
  eq(await box.files.exists(base), false, 'exists after remove')
})

check('files.missing', async () => {
  const box = await theBox()
  const missing = '/home/user/no such file'
  for (const format of ['text', 'bytes', 'blob', 'stream']) {
    await raises(e2b.FileNotFoundError, async () => {
      const got = await box.files.read(missing, { format })
      if (format === 'stream') for await (const _ of got);
      return got
    })
  }
  await raises(e2b.FileNotFoundError, () => box.files.list(missing))
  await raises(e2b.FileNotFoundError, () => box.files.getInfo(missing))
  await raises(e2b.FileNotFoundError, () => box.files.rename(missing, missing + '2'))
  eq(await box.files.exists(missing), false, 'exists')
  await raises(e2b.SandboxError, () => box.files.read('/home/user'))
})

check('watch.events', async () => {
  const box = await theBox()
  const base = place('watch')
  await box.files.makeDir(`${base}/a/b`)
  const seen = []
  let ended = 0
  const watch = await box.files.watchDir(base, (event) => void seen.push(event), { recursive: true, includeEntry: true, onExit: () => void ended++ })
  const sees = (type, name) =>
    until(10_000, '', async () => seen.find((e) => e.type === type && e.name === name), 100).catch(() => {
      throw new Wrong(`no event ${type} ${name} but ${short(seen.map((e) => [e.type, e.name]))}`)
    })
  await box.files.write(`${base}/new.txt`, '12345')
  await sees('create', 'new.txt')
  const written = await sees('write', 'new.txt')
  that(written.entry?.path === `${base}/new.txt`, `entry ${short(written.entry)}`)
  await run(box, `chmod 600 ${base}/new.txt`)
  await sees('chmod', 'new.txt')
  await box.files.rename(`${base}/new.txt`, `${base}/other.txt`)
  await sees('rename', 'new.txt')
  await box.files.remove(`${base}/other.txt`)
  await sees('remove', 'other.txt')
  await box.files.write(`${base}/a/b/deep.txt`, '1')
  await sees('write', 'a/b/deep.txt')
  await watch.stop()
  await until(5000, 'onExit is called after stop', async () => ended)
  await raises(e2b.FileNotFoundError, () => box.files.watchDir(`${base}/no-such`, () => {}))
})

check('urls.signed', async () => {
  const box = await theBox()
  const where = place('url/down ü&1.txt')
  await box.files.write(where, 'by address')
  for (const opts of [{}, { useSignatureExpiration: 60_000 }, { user: 'user' }]) {
    const got = await get(await box.downloadUrl(where, opts))
    eq([got.status, got.body.toString()], [200, 'by address'], `downloadUrl(${short(opts)})`)
  }
  const bad = new URL(await box.downloadUrl(where))
  bad.searchParams.set('signature', 'v1_' + 'A'.repeat(43))
  that([401, 403].includes((await get(bad)).status), 'a wrong signature is not refused')
  const other = new URL(await box.downloadUrl(where))
  other.searchParams.set('path', '/etc/hostname')
  that([401, 403].includes((await get(other)).status), 'the signature of another path is not refused')
  const data = randomBytes(70_000)
  const form = new FormData()
  form.append('file', new Blob([data]), 'other-name.bin')
  const up = await get(await box.uploadUrl(place('url/up.bin')), { method: 'POST', body: form })
  eq(up.status, 200, `status of an upload (${short(up.body.toString())})`)
  eq(Buffer.from(await box.files.read(place('url/up.bin'), { format: 'bytes' })), data, 'uploaded bytes')
  const refused = await get(await box.downloadUrl(place('url/never.bin')), { method: 'POST', body: form })
  that([401, 403].includes(refused.status), 'a POST with a download signature is not refused')
})

// -- ports -----------------------------------------------------------------------------------------

check('ports.all', async () => {
  const box = await theBox()
  const host = await serve(box, 8201)
  that(host.startsWith(`8201-${box.sandboxId}.`), `getHost gives ${host}`)
  const body = randomBytes(300_000)
  const echo = await viaHost(host, { method: 'POST', path: '/echo', body })
  eq([echo.status, sha256(echo.body)], [200, sha256(body)], 'echo of a POST')
  eq((await viaHost(host, { path: '/with?query=1' })).body.toString(), 'page of /with?query=1', 'page')
  const slow = await viaHost(host, { path: '/slow' })
  eq(slow.body.toString(), 'part 0part 1part 2', 'slow page')
  that(slow.times.at(-1) - slow.times[0] > 700, 'a slow page came all at once')
  eq(await webSocketEcho(host, 'hello 🦀'), 'hello 🦀', 'WebSocket echo')
  eq((await viaHost(box.getHost(9))).status, 502, 'status of a closed port')
  const dead = await create({ timeoutMs: 60_000 })
  await dead.kill()
  eq((await viaHost(dead.getHost(8201))).status, 502, 'status of a dead sandbox')
})

check('ports.private', () =>
  own({ network: { allowPublicTraffic: false } }, async (box) => {
    that(box.trafficAccessToken, 'allowPublicTraffic=false gives no trafficAccessToken')
    const host = await serve(box, 8202, { 'e2b-traffic-access-token': box.trafficAccessToken })
    that([401, 403].includes((await viaHost(host)).status), 'a request without the token is not refused')
  })
)

const tryOut = `python3 -c "import socket; socket.create_connection(('1.1.1.1',443),3); print('connected')" 2>/dev/null || echo refused`

check('network.no_internet', () =>
  own({ allowInternetAccess: false }, async (box) => {
    eq(await out(box, tryOut), 'refused', 'a connection to the internet')
    eq((await box.getInfo()).allowInternetAccess, false, 'allowInternetAccess')
  })
)

check('network.deny_and_update', () =>
  own({ network: { denyOut: [e2b.ALL_TRAFFIC] } }, async (box) => {
    eq(await out(box, tryOut), 'refused', 'a connection to the internet')
    eq((await box.getInfo()).network?.denyOut, [e2b.ALL_TRAFFIC], 'network.denyOut')
    await box.updateNetwork({ denyOut: ['198.51.100.0/24'] })
    eq((await box.getInfo()).network?.denyOut, ['198.51.100.0/24'], 'network.denyOut after updateNetwork')
    // What can't be enforced is refused, and changes nothing.
    const refused = await raises(e2b.SandboxError, () => Sandbox.updateNetwork(box.sandboxId, { allowOut: ['192.0.2.7'] }))
    that(refused.message.includes("can't be enforced"), `the refusal does not say why: ${refused.message}`)
    eq((await box.getInfo()).network?.allowOut, [], 'network.allowOut')
    eq(await out(box, 'echo inside'), 'inside', 'a command')
    await raises(e2b.NotFoundError, () => Sandbox.updateNetwork(unknownId(), { denyOut: [] }))
  })
)

// -- snapshots, forks, templates -------------------------------------------------------------------

check('snapshots.all', () =>
  own({}, async (box) => {
    await box.files.write('/home/user/snap.txt', 'in the snapshot')
    const name = `rw-snap-js-${RUN}`
    const snap = await box.createSnapshot({ name })
    try {
      that([...(snap.names ?? []), snap.snapshotId].some((n) => n.includes(name)), `the name is not in ${short(snap)}`)
      await box.files.write('/home/user/snap.txt', 'changed later')
      eq((await pages(box.listSnapshots())).map((s) => s.snapshotId), [snap.snapshotId], 'listSnapshots of the sandbox')
      eq((await pages(Sandbox.listSnapshots({ name }))).map((s) => s.snapshotId), [snap.snapshotId], 'listSnapshots by name')
      that((await pages(Sandbox.listSnapshots())).some((s) => s.snapshotId === snap.snapshotId), 'the snapshot is not in the whole list')
      for (const template of [snap.snapshotId, name]) {
        await own({ template }, async (copy) => eq(await copy.files.read('/home/user/snap.txt'), 'in the snapshot', `file from ${template}`))
      }
    } finally {
      eq(await Sandbox.deleteSnapshot(snap.snapshotId), true, 'deleteSnapshot')
    }
    eq(await Sandbox.deleteSnapshot(snap.snapshotId), false, 'second deleteSnapshot')
    await raises(e2b.SandboxError, () => create(snap.snapshotId))
    await raises(e2b.NotFoundError, () => Sandbox.createSnapshot(unknownId()))
  })
)

check('fork.all', () =>
  own({}, async (box) => {
    await box.files.write('/home/user/fork.txt', 'before the fork')
    const forks = await box.fork({ timeoutMs: 120_000, count: 2 })
    forks.filter((f) => !(f instanceof Error)).forEach(note)
    try {
      for (const one of forks) {
        if (one instanceof Error) throw one
        eq(await one.files.read('/home/user/fork.txt'), 'before the fork', 'file')
        // pauseMode is "filesystem" in the process tiers: processes start anew.
        eq(await one.commands.list(), [], 'processes of the fork')
      }
      eq(new Set([box, ...forks].map((b) => b.sandboxId)).size, 3, 'different ids')
      await forks[0].files.write('/home/user/fork.txt', 'mine')
      eq(await box.files.read('/home/user/fork.txt'), 'before the fork', "the source's file")
    } finally {
      await Promise.allSettled(forks.map((f) => f.kill?.()))
    }
    await raises(e2b.NotFoundError, () => Sandbox.fork(unknownId()))
  })
)

const dropTemplate = (id) => api('DELETE', '/templates/' + encodeURIComponent(id)).catch(() => {})

check(
  'template.build',
  async () => {
    const name = `rw-tpl-js-${RUN}`
    eq(await Template.exists(name), false, 'exists before the build')
    // A server without root's privilege has sandboxes with one user; then everything is done as that one.
    let [owner, byRoot] = ['root', { user: 'root' }]
    await own({}, async (box) => {
      try {
        await run(box, 'true', { user: 'root' })
      } catch (error) {
        that(error.message.includes('not available'), `odd refusal of root: ${error.message}`)
        ;[owner, byRoot] = ['user', {}]
      }
    })
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'rw-js-'))
    let built
    const logs = []
    try {
      fs.mkdirSync(`${folder}/app/sub`, { recursive: true })
      fs.writeFileSync(`${folder}/one.txt`, 'copied file\n')
      fs.writeFileSync(`${folder}/app/sub/data ü.txt`, 'data\n')
      const recipe = Template({ fileContextPath: folder })
        .fromTemplate('base')
        .setEnvs({ RW_BUILD: 'seen in the build' })
        .copy('one.txt', '/opt/rw/one.txt', { mode: 0o644, ...byRoot })
        .copy('app', '/opt/rw/app')
        .runCmd("printf '%s' \"$RW_BUILD\" > /home/user/rw-env")
        .setWorkdir('/opt/rw')
        .runCmd('pwd > /opt/rw/rw-pwd', byRoot)
        .setUser('user')
        .setStartCmd('python3 -m http.server 8055', e2b.waitForPort(8055))
      built = await Template.build(recipe, name, { cpuCount: 1, memoryMB: 512, onBuildLogs: (entry) => void logs.push(entry) })
    } finally {
      fs.rmSync(folder, { recursive: true, force: true })
    }
    TEMPLATES.add(built.templateId)
    try {
      that(built.templateId && built.buildId && logs.length, `odd build ${short(built)} with ${logs.length} log entries`)
      eq(await Template.exists(name), true, 'exists after the build')
      eq((await Template.getBuildStatus(built)).status, 'ready', 'status')
      await own({ template: name }, async (box) => {
        eq((await box.getInfo()).templateId, built.templateId, 'templateId')
        eq(await out(box, 'cat /home/user/rw-env'), 'seen in the build', 'setEnvs in runCmd')
        eq(await out(box, 'cat /opt/rw/rw-pwd'), '/opt/rw', 'setWorkdir in runCmd')
        eq(await out(box, "cat '/opt/rw/app/sub/data ü.txt'"), 'data', 'copied directory')
        eq(await out(box, "stat -c '%a %U' /opt/rw/one.txt"), `644 ${owner}`, 'mode and user of a copied file')
        eq((await viaHost(box.getHost(8055))).status, 200, "status of the start command's server")
      })
      await Template.assignTags(`${name}:default`, ['v1', 'stable'])
      const tags = async () => (await Template.getTags(built.templateId)).map((t) => t.tag)
      that((await tags()).includes('v1'), 'the tag is not there')
      await own({ template: `${name}:v1` }, async (box) => eq(await out(box, 'cat /opt/rw/rw-pwd'), '/opt/rw', 'a sandbox by tag'))
      await Template.removeTags(name, 'v1')
      that(!(await tags()).includes('v1'), 'the tag is still there after removeTags')
    } finally {
      await dropTemplate(built.templateId)
      TEMPLATES.delete(built.templateId)
    }
  },
  { timeout: 240 }
)

check(
  'template.failing_step',
  async () => {
    const name = `rw-bad-js-${RUN}`
    const recipe = Template().fromTemplate('base').runCmd('echo fine').runCmd('echo broken-step >&2; exit 7')
    const logs = []
    const err = await raises(e2b.BuildError, () =>
      Template.build(recipe, name, { cpuCount: 1, memoryMB: 512, onBuildLogs: (entry) => void logs.push(entry.message) })
    )
    that(/7|broken-step/.test(err.message), `the error does not name the step: ${brief(err)}`)
    that(/broken-step|exit 7/.test(logs.join(' ')), `the logs do not show the step: ${short(logs)}`)
    const info = await Template.buildInBackground(recipe, name, { cpuCount: 1, memoryMB: 512 })
    TEMPLATES.add(info.templateId)
    try {
      const status = await until(90_000, 'the build ends', async () => {
        const got = await Template.getBuildStatus(info)
        return ['error', 'ready'].includes(got.status) && got
      })
      eq(status.status, 'error', 'status')
      that(status.reason?.message && status.reason?.step, `reason ${short(status.reason)}`)
    } finally {
      await dropTemplate(info.templateId)
      await dropTemplate(name)
      TEMPLATES.delete(info.templateId)
    }
  },
  { timeout: 120 }
)

// -- code interpreter ------------------------------------------------------------------------------

const PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=='
const unquoted = (text) => text?.replace(/^'|'$/g, '')

check('code.state_and_output', async () => {
  const box = await theInterpreter()
  eq((await box.runCode('rw_x = 21')).results, [], 'results of an assignment')
  const got = await box.runCode('rw_x * 2')
  eq([got.text, got.results.length, got.results[0]?.isMainResult], ['42', 1, true], 'result')
  that(got.executionCount > 1, `executionCount ${got.executionCount}`)
  const seen = []
  const errs = []
  const results = []
  const began = Date.now()
  const long = await box.runCode(
    "import sys, time\nfor n in range(3):\n    print('line', n, flush=True); time.sleep(0.5)\nprint('bad', file=sys.stderr)\n'value'",
    {
      onStdout: (m) => void seen.push([Date.now() - began, m.line]),
      onStderr: (m) => void errs.push(m.line),
      onResult: (r) => void results.push(unquoted(r.text)),
    }
  )
  const total = Date.now() - began
  eq(long.logs.stdout.join(''), 'line 0\nline 1\nline 2\n', 'logs.stdout')
  eq([seen.map((s) => s[1]).join(''), errs.join(''), results], ['line 0\nline 1\nline 2\n', 'bad\n', ['value']], 'what the callbacks saw')
  that(total - seen[0][0] > 700, `the first line came at ${seen[0][0]} ms of ${total} ms`)
})

check('code.results_and_errors', async () => {
  const box = await theInterpreter()
  const html = (await box.runCode("class JsHtml:\n    def _repr_html_(self): return '<b>bold</b>'\n    def __repr__(self): return 'plain'\nJsHtml()")).results[0]
  eq([html.html, html.text], ['<b>bold</b>', 'plain'], 'html and text')
  const png = (await box.runCode(`import base64\nclass JsPng:\n    def _repr_png_(self): return base64.b64decode('${PIXEL}')\nJsPng()`)).results[0]
  eq(Buffer.from(png.png, 'base64').toString('base64'), PIXEL, 'png')
  const errors = []
  const bad = await box.runCode("print('before')\ndef js_boom():\n    raise ValueError('the reason')\njs_boom()", { onError: (e) => void errors.push(e) })
  eq([bad.error?.name, bad.error?.value], ['ValueError', 'the reason'], 'error')
  that(bad.error.traceback.includes('js_boom'), `traceback ${short(bad.error.traceback)}`)
  eq([bad.logs.stdout.join(''), errors.length], ['before\n', 1], 'output before the error and calls of onError')
})

check('code.envs_and_contexts', async () => {
  const box = await theInterpreter()
  const ask = "import os; print(os.environ.get('RW_GLOBAL'), os.environ.get('RW_CALL'))"
  eq((await box.runCode(ask, { envs: { RW_CALL: 'one call' } })).logs.stdout.join(''), 'from-create one call\n', 'variables')
  eq((await box.runCode(ask)).logs.stdout.join(''), 'from-create None\n', 'variables of the next call')
  const one = await box.createCodeContext({ cwd: '/tmp' })
  eq([one.language, one.cwd], ['python', '/tmp'], 'context')
  await box.runCode("js_shared = 'default'")
  eq((await box.runCode("import os; js_shared = 'other'; print(os.getcwd())", { context: one })).logs.stdout.join(''), '/tmp\n', 'directory')
  eq(unquoted((await box.runCode('js_shared')).text), 'default', "the default context's value")
  that((await box.listCodeContexts()).some((c) => c.id === one.id), 'the context is not listed')
  await box.restartCodeContext(one)
  eq((await box.runCode('js_shared', { context: one })).error?.name, 'NameError', 'error after a restart')
  await box.removeCodeContext(one)
  that(!(await box.listCodeContexts()).some((c) => c.id === one.id), 'the context is listed after it was removed')
  await raises(e2b.NotFoundError, () => box.runCode('1', { context: one }))
})

check('code.timeout', async () => {
  const box = await theInterpreter()
  const context = await box.createCodeContext()
  const began = Date.now()
  await raises(e2b.TimeoutError, () => box.runCode('import time\ntime.sleep(40)', { context, timeoutMs: 2000 }))
  that(Date.now() - began < 15_000, `a timeout of 2 s took ${Date.now() - began} ms`)
  eq((await box.runCode('6 * 7', { context, timeoutMs: 20_000 })).text, '42', 'the context after its timeout')
  await box.removeCodeContext(context)
})

for (const [language, text, want] of [
  ['bash', 'RW_SH=7; echo bash $RW_SH', 'bash 7'],
  ['javascript', "console.log('from js', 1 + 1)", 'from js 2'],
]) {
  check(`code.${language}`, async () => {
    const box = await theInterpreter()
    let got
    try {
      got = await box.runCode(text, { language })
    } catch (err) {
      if (err instanceof e2b.SandboxError && !(err instanceof e2b.TimeoutError)) throw new Skip(`the server has no ${language} kernel: ${brief(err)}`)
      throw err
    }
    that(!got.error, `error ${short(got.error)}`)
    that(got.logs.stdout.join('').includes(want), `stdout ${short(got.logs.stdout)}`)
  })
}

// -- running ---------------------------------------------------------------------------------------

const emit = (row) => process.stdout.write('@@check ' + JSON.stringify(row) + '\n')

async function one(chk, seconds) {
  const limit = (chk.timeout ?? seconds) * 1000
  const began = Date.now()
  let status = 'ok'
  let reason = ''
  let timer
  try {
    await Promise.race([
      chk.run(),
      new Promise((_, fail) => (timer = setTimeout(() => fail(new Wrong(`still running after ${limit / 1000} s`)), limit))),
    ])
  } catch (err) {
    status = err instanceof Skip ? 'SKIPPED' : 'FAIL'
    const line = /js_client\.mjs:(\d+)/g
    const lines = [...String(err?.stack ?? '').matchAll(line)].map((m) => m[1])
    reason = (err instanceof Skip || err instanceof Wrong ? err.message : brief(err)) + (status === 'FAIL' && lines.length ? ` (lines ${lines.slice(0, 3).join(' ')})` : '')
  }
  clearTimeout(timer)
  emit({ name: chk.name, status, ms: Date.now() - began, reason })
}

async function sweep(before) {
  for (const id of TEMPLATES) await dropTemplate(id)
  await Promise.allSettled([...MADE].map((id) => Sandbox.kill(id)))
  const left = (await pages(Sandbox.list())).map((i) => i.sandboxId).filter((id) => !before.has(id))
  that(!left.length, `sandboxes are left: ${short(left)}`)
}

async function main() {
  const args = process.argv.slice(2)
  const value = (name, fallback) => (args.includes(name) ? args[args.indexOf(name) + 1] : fallback)
  const glob = new RegExp(`^${value('--calls', '*').replace(/[.+^${}()|\\]/g, '\\$&').replace(/\*/g, '.*').replace(/\?/g, '.')}$`)
  const seconds = Number(value('--check-timeout', 60))
  const chosen = (name) => glob.test(name) || glob.test(name.split('.')[0])
  const surface = {
    name: 'client.surface',
    run: async () => {
      for (const name of ['create', 'connect', 'kill', 'getInfo', 'list', 'setTimeout', 'pause', 'getMetrics', 'createSnapshot', 'listSnapshots', 'deleteSnapshot', 'fork', 'updateNetwork'])
        that(typeof Sandbox[name] === 'function', `Sandbox has no static ${name}`)
      for (const name of ['connect', 'fork', 'getHost', 'isRunning', 'setTimeout', 'updateNetwork', 'kill', 'pause', 'createSnapshot', 'listSnapshots', 'uploadUrl', 'downloadUrl', 'getInfo', 'getMetrics'])
        that(typeof Sandbox.prototype[name] === 'function', `a Sandbox has no ${name}`)
      for (const name of ['build', 'buildInBackground', 'getBuildStatus', 'exists', 'assignTags', 'removeTags', 'getTags'])
        that(typeof Template[name] === 'function', `Template has no ${name}`)
      for (const name of ['runCode', 'createCodeContext', 'removeCodeContext', 'listCodeContexts', 'restartCodeContext'])
        that(typeof interpreter.Sandbox.prototype[name] === 'function', `the interpreter has no ${name}`)
      for (const name of ['AuthenticationError', 'BuildError', 'CommandExitError', 'FileNotFoundError', 'InvalidArgumentError', 'NotFoundError', 'SandboxError', 'SandboxNotFoundError', 'TimeoutError'])
        that(typeof e2b[name] === 'function', `e2b has no ${name}`)
      eq(e2b.ALL_TRAFFIC, '0.0.0.0/0', 'ALL_TRAFFIC')
    },
  }
  if (chosen(surface.name)) await one(surface, seconds)
  if (!args.includes('--no-api')) {
    const before = new Set(
      await pages(Sandbox.list()).then(
        (rows) => rows.map((i) => i.sandboxId),
        () => []
      )
    )
    const rank = (chk) => (chk.name === 'template.build' ? 0 : /^(life|list)\./.test(chk.name) ? 1 : 2)
    const todo = CHECKS.filter((chk) => chosen(chk.name)).sort((a, b) => rank(a) - rank(b))
    const jobs = Number(process.env.RINGWALL_CLIENT_JOBS ?? 4)
    await Promise.all(
      [...Array(jobs)].map(async () => {
        for (let chk; (chk = todo.shift()); ) await one(chk, seconds)
      })
    )
    await one({ name: 'final.no_sandbox_left', run: () => sweep(before) }, seconds)
  }
  emit({ finished: true })
}

// A stream that a pause or a kill ended may still reject after its check is over.
process.on('unhandledRejection', (err) => console.log(`unhandled: ${brief(err)}`))
await main()
process.exit(0)
