//! What must be shown 2: real programs run unmodified in the default sandbox, as root and as an ordinary user.
//!
//! Every test is a list entry of that section. A program that the machine lacks is `SKIPPED` by name; a program that is there must
//! work. Scripts end in a marker line, so that a shell that died early can't pass.

#![expect(
    clippy::print_stdout,
    reason = "a skipped test must be seen, and stdout is where tests report"
)]

use std::path::Path;

use ringwall_e2e::{ORDINARY_UID, Outcome, User, World, users};

/// Ends a run that hangs; far above what any entry needs on a busy machine.
const TIME: &str = "--timeout=240s";

/// Where root's toolchains lie, if anywhere.
const ROOT_HOME: &str = "/root";

/// Says `SKIPPED` of what isn't on this machine.
fn lacks(program: &str) -> bool {
    let missing = !["/usr/bin", "/bin", "/usr/sbin"]
        .iter()
        .any(|directory| Path::new(directory).join(program).exists());
    if missing {
        println!("SKIPPED: {program}: not installed on this machine");
    }
    missing
}

/// Runs a script in bash inside a default sandbox, and expects its marker.
#[track_caller]
fn works(world: &World, script: &str) -> String {
    works_as(world, &[], script)
}

/// [`works`], with flags.
#[track_caller]
fn works_as(world: &World, flags: &[&str], script: &str) -> String {
    let script = format!("set -e; set -o pipefail\n{script}\necho all-done");
    let outcome = world.ringwall(&[&["run", TIME], flags, &["--", "bash", "-c", &script]].concat());
    let user = world.user();
    assert!(
        outcome.code == 0 && outcome.out.ends_with("all-done\n"),
        "as {user:?}: code {}\nout: {}\nerr: {}",
        outcome.code,
        outcome.out,
        outcome.err
    );
    outcome.out
}

/// Runs a Python script with the system's interpreter inside a default sandbox.
#[track_caller]
fn python(world: &World, script: &str) -> String {
    world.write("script.py", format!("{script}\nprint('all-done')\n"));
    works(world, "/usr/bin/python3 script.py")
}

/// Makes a world whose binary can be started.
///
/// Another thread's fork may hold the copied binary open for writing until its exec, and then starting it fails with ETXTBSY. Once it
/// has started it always does: nobody opens it for writing again.
fn settled(user: User) -> World {
    let world = World::new(user);
    while let Err(error) = world.command(&["--version"]).output() {
        assert_eq!(error.kind(), std::io::ErrorKind::ExecutableFileBusy, "{error}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    world
}

/// Runs a check once per user, each in a world of its own.
fn each_user(check: impl Fn(&World)) {
    for user in users() {
        check(&settled(user));
    }
}

/// Runs a check once per user if the machine has the program.
fn each_user_with(program: &str, check: impl Fn(&World)) {
    if !lacks(program) {
        each_user(check);
    }
}

#[test]
fn bash_pipelines() {
    each_user(|world| {
        let out = works(
            world,
            "seq 1 20000 | grep 7 | wc -l; printf 'b\\na\\n' | sort | tr '\\n' ' '; cat <<<here; (exit 3) || echo status $?; \
             set +o pipefail; yes | head -n 1; trap 'echo trapped' USR1; kill -USR1 $$",
        );
        assert!(out.starts_with("6878\na b here\nstatus 3\ny\ntrapped\n"), "{out}");
    });
}

#[test]
fn bash_process_substitution_and_coprocesses() {
    each_user(|world| {
        let out = works(
            world,
            "diff <(seq 3) <(seq 3) && echo same; seq 3 > >(sort -r; ); wait; sleep 0.2; \
             coproc CAT { cat; }; echo through >&\"${CAT[1]}\"; read -r line <&\"${CAT[0]}\"; echo $line; \
             mkfifo pipe; (echo fifo > pipe) & cat pipe",
        );
        assert!(out.contains("same\n"), "{out}");
        assert!(out.contains("3\n2\n1\n"), "{out}");
        assert!(out.contains("through\nfifo\n"), "{out}");
    });
}

#[test]
fn bash_background_jobs() {
    each_user(|world| {
        let out = works(
            world,
            "for n in $(seq 1 50); do (sleep 0.05; echo $n > out.$n) & done; wait; cat out.* | sort -n | tail -n 1; \
             sleep 30 & kill $!; wait $! || echo ended $?",
        );
        assert!(out.starts_with("50\nended 143\n"), "{out}");
    });
}

#[test]
fn sort_xargs_and_find() {
    each_user(|world| {
        let out = works(
            world,
            "mkdir -p t/{a,b,c}/{1,2,3}; touch t/{a,b,c}/{1,2,3}/f; find t -type f | wc -l; \
             find t -type f -print0 | xargs -0 -n 1 -P 4 basename | sort -u; find t -name 1 -type d -exec rm -r {} +; find t -type f | wc -l; \
             seq 1 200000 | sort -R --parallel=2 -S 1M | sort -n -S 1M | tail -n 1; find /usr/bin -maxdepth 1 | wc -l | grep -qv '^0$'",
        );
        assert!(out.starts_with("9\nf\n6\n200000\n"), "{out}");
    });
}

#[test]
fn perl() {
    each_user_with("perl", |world| {
        let out = works(
            world,
            "perl -e 'use File::Temp; use POSIX; my $f = File::Temp->new; print $f \"x\"; my $p = fork; exit 4 unless $p; \
             waitpid $p, 0; print WEXITSTATUS($?), \"\\n\"; open my $d, \"-|\", \"echo piped\"; print <$d>'",
        );
        assert!(out.starts_with("4\npiped\n"), "{out}");
    });
}

#[test]
fn python_makes_a_venv() {
    each_user_with("python3", |world| {
        let out = works(
            world,
            "/usr/bin/python3 -m venv --without-pip venv; venv/bin/python -c 'import sys; print(sys.prefix != sys.base_prefix)'",
        );
        assert!(out.starts_with("True\n"), "{out}");
    });
}

#[test]
fn python_subprocess() {
    each_user_with("python3", |world| {
        let out = python(
            world,
            "import subprocess\n\
             print(subprocess.run(['cat'], input=b'in', capture_output=True).stdout)\n\
             print(subprocess.run('exit 5', shell=True).returncode)\n\
             print(subprocess.check_output('echo a | tr a b', shell=True, close_fds=True, start_new_session=True))\n\
             try: subprocess.run(['sleep', '30'], timeout=0.2)\n\
             except subprocess.TimeoutExpired: print('expired')",
        );
        assert!(out.starts_with("b'in'\n5\nb'b\\n'\nexpired\n"), "{out}");
    });
}

#[test]
fn python_multiprocessing() {
    each_user_with("python3", |world| {
        let out = python(
            world,
            "import multiprocessing, math\n\
             if __name__ == '__main__':\n\
             \x20   for method in ('fork', 'spawn', 'forkserver'):\n\
             \x20       context = multiprocessing.get_context(method)\n\
             \x20       with context.Pool(3) as pool: print(method, pool.map(math.factorial, range(5)))\n\
             \x20   queue, value = multiprocessing.Queue(), multiprocessing.Value('i', 3)\n\
             \x20   child = multiprocessing.Process(target=queue.put, args=(value.value,)); child.start(); print(queue.get()); child.join()",
        );
        // Children of spawn and forkserver import the script, and print its marker too.
        for line in [
            "fork [1, 1, 2, 6, 24]",
            "spawn [1, 1, 2, 6, 24]",
            "forkserver [1, 1, 2, 6, 24]",
            "3",
        ] {
            assert!(out.lines().any(|printed| printed == line), "{line}: {out}");
        }
    });
}

#[test]
fn python_threads_and_asyncio() {
    each_user_with("python3", |world| {
        let out = python(
            world,
            "import threading, asyncio, concurrent.futures as f\n\
             lock, total = threading.Lock(), [0]\n\
             def add():\n\
             \x20   for _ in range(1000):\n\
             \x20       with lock: total[0] += 1\n\
             threads = [threading.Thread(target=add) for _ in range(32)]\n\
             [t.start() for t in threads]; [t.join() for t in threads]; print(total[0])\n\
             print(sum(f.ThreadPoolExecutor(8).map(lambda n: n * n, range(10))))\n\
             async def main():\n\
             \x20   p = await asyncio.create_subprocess_exec('echo', 'async', stdout=asyncio.subprocess.PIPE)\n\
             \x20   print((await p.communicate())[0])\n\
             asyncio.run(main())",
        );
        assert!(out.starts_with("32000\n285\nb'async\\n'\n"), "{out}");
    });
}

#[test]
fn python_renames_through_directory_fds() {
    each_user_with("python3", |world| {
        world.write("below", "below\n");
        let out = python(
            world,
            "import os\n\
             os.mkdir('a'); os.mkdir('b'); open('a/f', 'w').write('content')\n\
             a, b, here = (os.open(d, os.O_RDONLY | os.O_DIRECTORY) for d in ('a', 'b', '.'))\n\
             os.rename('f', 'g', src_dir_fd=a, dst_dir_fd=b); print(os.listdir('a'), open('b/g').read())\n\
             os.rename('below', 'moved', src_dir_fd=here, dst_dir_fd=a); print(open('a/moved').read().strip())\n\
             os.link('moved', 'linked', src_dir_fd=a, dst_dir_fd=b); print(os.stat('b/linked').st_nlink)\n\
             os.symlink('g', 's', dir_fd=b); print(os.readlink('s', dir_fd=b))\n\
             os.rename('b', 'c'); print(sorted(os.listdir('c')))\n\
             os.replace('a/moved', 'c/g'); print(open('c/g').read().strip()); os.unlink('linked', dir_fd=b)",
        );
        assert!(
            out.starts_with("[] content\nbelow\n2\ng\n['g', 'linked', 's']\nbelow\n"),
            "{out}"
        );
        assert_eq!(
            world.read("below").as_deref(),
            Some("below\n"),
            "a captured rename reached the host"
        );
    });
}

/// Renaming a directory of the lower layer is where an overlay file system without redirects answers EXDEV.
///
/// mv(1) falls back to copying; a program that calls rename(2) alone fails.
#[test]
fn directories_that_the_host_made_are_renamed_by_copying() {
    each_user_with("python3", |world| {
        std::fs::create_dir(world.path("project/old")).unwrap();
        world.hand_over(&world.path("project/old"));
        world.write("old/kept", "kept\n");
        let out = python(
            world,
            "import errno, os, shutil, subprocess\n\
             try: os.rename('old', 'new'); print('renamed')\n\
             except OSError as error: print(errno.errorcode[error.errno])\n\
             shutil.move('old', 'new'); subprocess.run(['mv', 'new', 'newer'], check=True)\n\
             print(open('newer/kept').read().strip(), os.path.exists('old'), os.path.exists('new'))",
        );
        assert!(out.starts_with("EXDEV\nkept False False\n"), "{out}");
        assert_eq!(
            world.read("old/kept").as_deref(),
            Some("kept\n"),
            "a captured rename reached the host"
        );
    });
}

#[test]
fn python_sockets_on_localhost() {
    each_user_with("python3", |world| {
        let out = python(
            world,
            "import socket, threading, http.server, urllib.request\n\
             def answer(s):\n\
             \x20   c, _ = s.accept(); c.sendall(c.recv(99).upper()); c.close()\n\
             for family, address in ((socket.AF_INET, ('127.0.0.1', 0)), (socket.AF_UNIX, '/tmp/socket')):\n\
             \x20   s = socket.socket(family); s.bind(address); s.listen(); threading.Thread(target=answer, args=(s,)).start()\n\
             \x20   c = socket.socket(family); c.connect(s.getsockname()); c.sendall(b'hello'); print(c.recv(99))\n\
             h = http.server.HTTPServer(('localhost', 0), http.server.SimpleHTTPRequestHandler)\n\
             threading.Thread(target=h.handle_request).start()\n\
             print(urllib.request.urlopen(f'http://localhost:{h.server_port}/').status)\n\
             u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', 0)); u.sendto(b'datagram', u.getsockname()); print(u.recv(99))\n\
             p, q = socket.socketpair(); socket.send_fds(p, [b'x'], [1]); print(len(socket.recv_fds(q, 1, 1)[1]))",
        );
        assert!(out.starts_with("b'HELLO'\nb'HELLO'\n200\nb'datagram'\n1\n"), "{out}");
    });
}

#[test]
fn python_shared_memory_and_mmap() {
    each_user_with("python3", |world| {
        let out = python(
            world,
            "import mmap, os\n\
             from multiprocessing import shared_memory, Semaphore\n\
             m = shared_memory.SharedMemory(create=True, size=1 << 20); m.buf[0] = 7\n\
             n = shared_memory.SharedMemory(m.name); print(n.buf[0], os.path.exists('/dev/shm/' + m.name)); n.close(); m.close(); m.unlink()\n\
             a = mmap.mmap(-1, 4096); p = os.fork()\n\
             if p == 0: a[0] = 9; os._exit(0)\n\
             os.waitpid(p, 0); print(a[0])\n\
             f = open('mapped', 'w+b'); f.truncate(8192); v = mmap.mmap(f.fileno(), 8192); v[:5] = b'hello'; v.flush(); print(open('mapped', 'rb').read(5))\n\
             d = os.memfd_create('m'); os.write(d, b'memfd'); print(os.pread(d, 5, 0)); Semaphore(1).acquire()",
        );
        assert!(out.starts_with("7 True\n9\nb'hello'\nb'memfd'\n"), "{out}");
    });
}

#[test]
fn python_pseudo_terminal() {
    each_user_with("python3", |world| {
        let out = python(
            world,
            "import pty, sys; sys.stdout.flush()\n\
             print(pty.spawn(['sh', '-c', 'test -t 0 && test -t 1 && tty && stty rows 30 cols 90 && stty size']))",
        );
        assert!(out.contains("/dev/pts/0\r\n30 90\r\n"), "{out}");
    });
}

#[test]
fn script_makes_a_typescript() {
    each_user_with("script", |world| {
        let out = works(
            world,
            "script -qec 'tty; echo recorded' typescript; grep -c recorded typescript",
        );
        assert!(out.contains("/dev/pts/0\r\n"), "{out}");
    });
}

#[test]
fn sqlite() {
    each_user_with("python3", |world| {
        let out = python(
            world,
            "import sqlite3\n\
             for mode in ('delete', 'wal', 'truncate'):\n\
             \x20   c = sqlite3.connect(mode + '.db'); print(c.execute('pragma journal_mode=' + mode).fetchone()[0])\n\
             \x20   c.execute('create table t (n)'); c.executemany('insert into t values (?)', [(n,) for n in range(5000)]); c.commit()\n\
             \x20   d = sqlite3.connect(mode + '.db'); print(d.execute('select sum(n) from t').fetchone()[0]); c.execute('delete from t'); c.rollback(); c.execute('vacuum')",
        );
        assert!(
            out.starts_with("delete\n12497500\nwal\n12497500\ntruncate\n12497500\n"),
            "{out}"
        );
    });
    each_user_with("sqlite3", |world| {
        // A database that the host made, opened for writing: a copy-up under locks.
        let made = world
            .program("sqlite3")
            .args(["host.db", "create table t (n); insert into t values (1)"])
            .output();
        Outcome::from(made.unwrap()).expect(0);
        let out = works(
            world,
            "sqlite3 host.db 'insert into t values (2); select sum(n) from t'",
        );
        assert!(out.starts_with("3\n"), "{out}");
    });
}

#[test]
fn node() {
    each_user_with("node", |world| {
        world.write(
            "script.js",
            "const {execSync} = require('child_process'), fs = require('fs'), os = require('os'), http = require('http');\n\
             const {Worker} = require('worker_threads');\n\
             console.log(execSync('echo child').toString().trim(), os.cpus().length > 0);\n\
             fs.mkdirSync('deep/er', {recursive: true}); fs.writeFileSync('deep/er/f', 'x'); fs.renameSync('deep/er', 'moved');\n\
             fs.watch('moved').close(); console.log(fs.readdirSync('moved').join());\n\
             new Worker('require(\"worker_threads\").parentPort.postMessage(41 + 1)', {eval: true}).on('message', m => {\n\
               console.log(m);\n\
               const s = http.createServer((q, r) => r.end('served')).listen(0, '127.0.0.1', () =>\n\
                 http.get({port: s.address().port, host: '127.0.0.1'}, r => r.on('data', d => { console.log(d.toString()); s.close(); })));\n\
             });\n",
        );
        let out = works(world, "node script.js");
        assert!(out.starts_with("child true\nf\n42\nserved\n"), "{out}");
    });
}

#[test]
fn git() {
    each_user_with("git", |world| {
        // Made by the host's git: inside, it must still belong to whoever runs, or git refuses it as of dubious ownership.
        let host = "git init -q -b main old && cd old && echo 1 > f && git add f && \
                    git -c user.name=h -c user.email=h@h commit -qm host";
        Outcome::from(world.program("sh").args(["-c", host]).output().unwrap()).expect(0);
        let out = works(
            world,
            "export GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=e@e GIT_COMMITTER_NAME=n GIT_COMMITTER_EMAIL=e@e\n\
             cd old; git status --short; echo 2 >> f; git commit -qam inside; git log --format=%s; git stash list; git gc -q; git fsck; cd ..\n\
             git clone -q old copy; git -C copy log --format=%s | wc -l; git clone -q --no-local old far; git clone -q --shared old shared\n\
             git init -q -b main new; cd new; echo x > x; git add .; git commit -qm first; git checkout -qb side; git mv x y; git commit -qm second\n\
             git checkout -q main; git worktree add -q ../tree side; git merge -q side; git diff --stat HEAD~1 | tail -n 1; git rev-parse --show-toplevel",
        );
        let top = world.path("project/new");
        assert!(out.starts_with("inside\nhost\n2\n"), "{out}");
        assert!(
            out.contains(" 1 file changed, 0 insertions(+), 0 deletions(-)\n"),
            "{out}"
        );
        assert!(out.contains(&*top.to_string_lossy()), "{out}");
        assert!(!top.exists(), "a captured repository reached the host");
    });
}

#[test]
fn git_repository_is_sound_after_commit() {
    each_user_with("git", |world| {
        works_as(
            world,
            &["--changes", "commit"],
            "git init -q -b main r; cd r; seq 9 > f; git add .; git -c user.name=n -c user.email=e@e commit -qm first",
        );
        let check = "cd r && git fsck --strict && git status --porcelain && git log --format=%s";
        let out = Outcome::from(world.program("sh").args(["-c", check]).output().unwrap()).expect(0);
        assert_eq!(out, "first\n", "the host's git");
    });
}

#[test]
fn gcc_compiles_and_runs() {
    each_user_with("gcc", |world| {
        world.write(
            "hello.c",
            "#include <stdio.h>\n#include <pthread.h>\nstatic void *say(void *p) { puts(\"hello\"); return p; }\n\
             int main(void) { pthread_t t; pthread_create(&t, 0, say, 0); return pthread_join(t, 0); }\n",
        );
        let out = works(
            world,
            "gcc -O2 -pipe -pthread -o hello hello.c; ./hello; gcc -static -pthread -o still hello.c; ./still; gcc -o /tmp/t hello.c -pthread; /tmp/t",
        );
        assert!(out.starts_with("hello\nhello\nhello\n"), "{out}");
    });
}

#[test]
fn make_builds_in_parallel_and_only_once() {
    each_user_with("make", |world| {
        world.write(
            "Makefile",
            "OBJ := $(addsuffix .o,$(shell seq 1 20))\nall: $(OBJ)\n\tcat $^ > all\n%.o:\n\techo $* > $@\n.PHONY: all\n",
        );
        let out = works(
            world,
            "make -s -j4; sort -n all | tail -n 1; make -q 1.o && echo current",
        );
        assert!(out.starts_with("20\ncurrent\n"), "{out}");
    });
}

/// Returns the world's user's `ringwall run` with root's home and the given directories before the system's on PATH.
fn with_root_tools(world: &World, directories: &str, script: &str) -> Outcome {
    let script = format!("set -e; {script}\necho all-done");
    let path = format!("{directories}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let mut command = world.command(&["run", TIME, "--", "bash", "-c", &script]);
    command.env("HOME", ROOT_HOME).env("PATH", path);
    Outcome::from(command.output().expect("ringwall starts"))
}

#[test]
fn cargo_builds_offline() {
    if !users().contains(&User::Root) || !Path::new("/root/.cargo/bin/cargo").exists() {
        println!("SKIPPED: cargo: needs root and /root/.cargo/bin/cargo");
        return;
    }
    println!("SKIPPED: cargo as the ordinary user: its test home has no toolchain");
    let world = settled(User::Root);
    std::fs::create_dir(world.path("project/src")).unwrap();
    world.write(
        "Cargo.toml",
        "[package]\nname = \"tiny\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
    );
    world.write(
        "src/main.rs",
        "fn main() { println!(\"built by cargo\"); }\n#[test] fn passes() {}\n",
    );
    let outcome = with_root_tools(
        &world,
        "/root/.cargo/bin",
        "cargo run -q --offline; cargo test -q --offline",
    );
    assert!(outcome.out.starts_with("built by cargo\n"), "{outcome:?}");
    assert!(outcome.out.expect_end("1 passed"), "{outcome:?}");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(
        !world.path("project/target").exists(),
        "a captured build reached the host"
    );
}

/// Says whether a test's summary stands before the marker.
trait Summary {
    /// Returns whether the text holds the summary and ends in the marker.
    fn expect_end(&self, summary: &str) -> bool;
}

impl Summary for String {
    fn expect_end(&self, summary: &str) -> bool {
        self.contains(summary) && self.ends_with("all-done\n")
    }
}

#[test]
fn python_through_pyenv() {
    if !users().contains(&User::Root) || !Path::new("/root/.pyenv/shims/python3").exists() {
        println!("SKIPPED: pyenv: needs root and /root/.pyenv/shims/python3");
        return;
    }
    println!("SKIPPED: pyenv as the ordinary user: its test home has no pyenv");
    let world = settled(User::Root);
    let outcome = with_root_tools(
        &world,
        "/root/.pyenv/shims:/root/.pyenv/bin",
        "python3 -c 'import sys; print(sys.base_prefix)'; python3 -m venv --without-pip v; v/bin/python -c 'print(40 + 2)'; \
         python3 -c 'import multiprocessing as m; print(m.Pool(2).map(abs, [-1, -2]))'; \
         python3 -c 'import subprocess as s, sys; print(s.check_output([sys.executable, \"-c\", \"print(3)\"]))'",
    );
    assert!(outcome.out.starts_with("/root/.pyenv/versions/"), "{outcome:?}");
    assert!(outcome.out.contains("\n42\n[1, 2]\nb'3\\n'\nall-done\n"), "{outcome:?}");
}

#[test]
fn tar_of_5000_files_keeps_permissions() {
    each_user_with("tar", |world| {
        // A directory's size is the file system's own affair.
        let list = "find . -type d -printf '%P %m d\\n' -o -printf '%P %m %s %y %n %l\\n' | LC_ALL=C sort";
        let out = works_as(
            world,
            &["--changes", "commit"],
            &format!(
                "mkdir t; cd t; for d in $(seq 1 50); do mkdir d$d; for f in $(seq 1 100); do echo $d.$f > d$d/f$f; done; done\n\
                 chmod 600 d1/*; chmod 755 d2/*; chmod 444 d3/*; chmod 711 d4/f1; chmod 1777 d6; chmod 711 d7; ln -s f1 d8/link; ln d9/f1 d9/hard\n\
                 {list} > ../made; tar cf ../t.tar .; cd ..; mkdir u; tar xpf t.tar -C u; cd u; {list} > ../extracted; cd ..; cmp made extracted; wc -l < made\n\
                 stat -c %h u/d9/f1; stat -c %a u/d4/f1"
            ),
        );
        // Modes and links hold inside (set-id bits are refused by design, so there are none) ...
        assert!(out.starts_with("5053\n2\n711\n"), "{out}");
        // ... and, after commit, on the host, owned by the caller.
        let compare = format!("cd u && {list} | diff ../made -");
        let difference = Outcome::from(world.program("sh").args(["-c", &compare]).output().unwrap());
        assert_eq!(
            (difference.code, &*difference.out),
            (0, ""),
            "as {:?}: {}",
            world.user(),
            difference.err
        );
        let owner = match world.user() {
            User::Root => 0,
            User::Ordinary if rustix::process::geteuid().is_root() => ORDINARY_UID,
            User::Ordinary => rustix::process::geteuid().as_raw(),
        };
        let others = world
            .program("find")
            .args(["u", "!", "-uid", &owner.to_string()])
            .output()
            .unwrap();
        assert_eq!(Outcome::from(others).expect(0), "", "files of somebody else");
    });
}

#[test]
fn tar_extracts_over_what_the_host_made() {
    each_user_with("tar", |world| {
        let host = "mkdir d && for f in $(seq 1 200); do echo old > d/f$f; done && chmod 640 d/*";
        Outcome::from(world.program("sh").args(["-c", host]).output().unwrap()).expect(0);
        let out = works(
            world,
            "tar czf d.tgz d; rm -rf d; test ! -e d; tar xzf d.tgz; find d -type f -perm 640 | wc -l; mv d e; mkdir d; ls d | wc -l; cp -a e/. d; ls d | wc -l",
        );
        assert!(out.starts_with("200\n0\n200\n"), "{out}");
        assert!(world.path("project/d/f1").exists() && !world.path("project/e").exists());
    });
}

#[test]
fn dpkg_lists_packages() {
    each_user_with("dpkg", |world| {
        let inside = works(
            world,
            "dpkg -l | wc -l; dpkg -S /usr/bin/dpkg; dpkg-query -W -f '${Version}\\n' dpkg",
        );
        let outside = Outcome::from(world.program("sh").args(["-c", "dpkg -l | wc -l"]).output().unwrap()).expect(0);
        assert!(inside.starts_with(&outside), "outside {outside}, inside {inside}");
    });
}

#[test]
fn java_starts() {
    each_user_with("java", |world| {
        let outcome = world.ringwall(&["run", TIME, "--", "java", "-version"]);
        assert!(outcome.code == 0 && outcome.err.contains("version"), "{outcome:?}");
    });
}

#[test]
fn ordinary_files_of_a_system_are_there() {
    each_user(|world| {
        works(
            world,
            "getent passwd $(id -u) > /dev/null; whoami > /dev/null; getent hosts localhost > /dev/null; date > /dev/null; \
             test -r /etc/ssl/certs -o ! -e /usr/share/ca-certificates; echo x > /dev/null; head -c 9 /dev/urandom > /dev/null; \
             test -w /dev/shm; test -w /tmp; readlink /proc/self/exe > /dev/null; cat /proc/meminfo /proc/cpuinfo > /dev/null; nproc > /dev/null; locale > /dev/null",
        );
    });
}
