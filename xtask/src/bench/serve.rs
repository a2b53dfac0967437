//! `cargo xtask bench serve`: the service from outside, over loopback, as a client sees it.
//!
//! The strict clock for a start: from the first byte of the create request to the last byte of its first command's result, each request
//! on a connection of its own. The peer in the same run is the same command started bare, by fork and exec.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ringwall_e2e::User;
use ringwall_e2e::serve::{Client, Sandbox, Server, resident_kib};
use serde_json::json;

use super::report::{self, Section};

/// The command of a start.
const COMMAND: &str = "echo hi";
/// How many starts at each number of callers.
const STARTS: u32 = 200;
/// Size of the file that is sent and fetched, MiB.
const FILE_MIB: usize = 256;
/// Commands run one after the other in one sandbox.
const COMMANDS: u32 = 300;

/// Arguments of `cargo xtask bench serve`.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// The binary to measure, in place of a fresh release build.
    #[arg(long, value_name = "PATH")]
    pub(super) ringwall: Option<PathBuf>,
    /// Sandboxes alive at once.
    #[arg(long, value_name = "N", default_value_t = 500)]
    alive: usize,
    /// Sandboxes made and killed one after the other.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    churn: u32,
    /// Sandboxes that wait in the server's pool.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pool: usize,
    /// Appends the figures to docs/benchmarks.md.
    #[arg(long)]
    pub(super) markdown: bool,
}

/// Runs all measurements.
///
/// # Errors
/// A request that failed: no figure is worth anything then.
pub(super) fn run(args: &ServeArgs, binary: &Path) -> Result<Vec<Section>, Box<dyn Error>> {
    ringwall_e2e::use_binary(binary);
    let user = if rustix::process::geteuid().is_root() {
        User::Root
    } else {
        User::Ordinary
    };
    let pool = args.pool.to_string();
    let mut sections = Vec::new();
    let server = Server::with(user, &["--pool", &pool, "--rate", "100000"]);
    let client = server.client();
    sections.push(starts(&client, args.pool)?);
    sections.push(commands(&client)?);
    sections.push(files(&client)?);
    sections.push(churn(&server, &client, args.churn)?);
    drop(server);
    // Without a pool: what waits there would be counted.
    let server = Server::with(user, &["--pool", "0", "--rate", "100000"]);
    sections.push(alive(&server, &server.client(), args.alive)?);
    Ok(sections)
}

fn create(client: &Client) -> Result<Sandbox, Box<dyn Error>> {
    let answer = client.try_create(&json!({"templateID": "base", "timeout": 600}))?;
    if answer.status != 201 {
        return Err(format!("create answered {answer:?}").into());
    }
    Ok(Sandbox::from_json(&answer.json()))
}

/// The strict clock, once.
fn start_once(client: &Client) -> Result<(Duration, Sandbox), Box<dyn Error>> {
    let begun = Instant::now();
    let sandbox = create(client)?;
    let ran = client.run(&sandbox, COMMAND)?;
    let took = begun.elapsed();
    if ran.out != "hi\n" {
        return Err(format!("the command gave {ran:?}").into());
    }
    Ok((took, sandbox))
}

/// A figure and the target it is held against.
fn verdict(what: &str, found: f64, most: f64) -> String {
    report::verdict(found <= most, &format!("{what}: {found:.1}, wanted at most {most:.0}"))
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}

fn millis(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

fn bare() -> Result<Duration, Box<dyn Error>> {
    let begun = Instant::now();
    let output = Command::new("/bin/bash")
        .args(["-c", COMMAND])
        .stdin(Stdio::null())
        .output()?;
    if output.stdout != b"hi\n" {
        return Err("the bare command failed".into());
    }
    Ok(begun.elapsed())
}

fn starts(client: &Client, pool: usize) -> Result<Section, Box<dyn Error>> {
    let mut section = Section {
        title: format!("serve-start: create to first command's result, ms (pool of {pool}, {STARTS} starts each)"),
        head: ["callers", "p50", "p95", "p99", "p50 / bare p50", "failures"]
            .map(str::to_owned)
            .into(),
        rows: Vec::new(),
        notes: Vec::new(),
    };
    let mut alone = (0..STARTS / 4).map(|_| bare()).collect::<Result<Vec<_>, _>>()?;
    alone.sort_unstable();
    let bare_p50 = percentile(&alone, 50);
    for callers in [1_u32, 2, 10, 50] {
        let left = AtomicU32::new(STARTS.max(callers * 4));
        let failures = AtomicU32::new(0);
        let mut times: Vec<Duration> = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..callers)
                .map(|_| {
                    scope.spawn(|| {
                        let mut times = Vec::new();
                        while left
                            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                            .is_ok()
                        {
                            match start_once(client) {
                                Ok((took, sandbox)) => {
                                    times.push(took);
                                    drop(client.kill(&sandbox));
                                }
                                Err(error) => {
                                    println!("a start failed: {error}");
                                    failures.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        }
                        times
                    })
                })
                .collect();
            callers
                .into_iter()
                .flat_map(|caller| caller.join().unwrap_or_default())
                .collect()
        });
        times.sort_unstable();
        let p50 = percentile(&times, 50);
        section.rows.push(vec![
            callers.to_string(),
            millis(p50),
            millis(percentile(&times, 95)),
            millis(percentile(&times, 99)),
            format!("{:.1}", p50.as_secs_f64() / bare_p50.as_secs_f64()),
            failures.load(Ordering::Relaxed).to_string(),
        ]);
        if callers == 1 {
            section
                .notes
                .push(verdict("p50 at one caller, ms", p50.as_secs_f64() * 1000.0, 10.0));
        }
        if callers == 50 {
            section.notes.push(verdict(
                "failures at 50 callers",
                f64::from(failures.load(Ordering::Relaxed)),
                0.0,
            ));
        }
    }
    section
        .notes
        .push(format!("bare `bash -c` by fork and exec: p50 {} ms", millis(bare_p50)));
    Ok(section)
}

fn commands(client: &Client) -> Result<Section, Box<dyn Error>> {
    let sandbox = create(client)?;
    let mut rows = Vec::new();
    for callers in [1_u32, 8] {
        let each = COMMANDS / callers;
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..callers)
                .map(|_| {
                    scope.spawn(|| (0..each).all(|_| client.run(&sandbox, COMMAND).is_ok_and(|ran| ran.code == 0)))
                })
                .collect();
            threads.into_iter().all(|thread| thread.join().unwrap_or(false))
        })
        .then_some(())
        .ok_or("a command failed")?;
        let rate = f64::from(each * callers) / begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..callers {
                scope.spawn(|| (0..each).all(|_| bare().is_ok()));
            }
        });
        let bare_rate = f64::from(each * callers) / begun.elapsed().as_secs_f64();
        rows.push(vec![
            callers.to_string(),
            format!("{rate:.0}"),
            format!("{bare_rate:.0}"),
            format!("{:.2}", rate / bare_rate),
        ]);
    }
    drop(client.kill(&sandbox));
    Ok(Section {
        title: "serve-commands: commands per second in one sandbox, a connection each".to_owned(),
        head: ["callers", "ringwall", "bare", "ratio"].map(str::to_owned).into(),
        rows,
        notes: Vec::new(),
    })
}

/// Sends `bytes` over loopback to a thread that throws them away; returns MB/s.
fn loopback(bytes: &[u8]) -> Result<f64, Box<dyn Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let sink = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; 64 << 10];
        while stream.read(&mut buffer)? > 0 {}
        stream.write_all(b"k")
    });
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(bytes)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    let rate = mb_per_s(bytes.len(), begun.elapsed());
    sink.join().map_err(|_| "the sink failed")??;
    Ok(rate)
}

fn mb_per_s(bytes: usize, took: Duration) -> f64 {
    // Exact up to 2^53 bytes.
    bytes as f64 / 1e6 / took.as_secs_f64()
}

fn files(client: &Client) -> Result<Section, Box<dyn Error>> {
    let sandbox = create(client)?;
    let content: Vec<u8> = (0..FILE_MIB << 20)
        .map(|index| u8::try_from(index % 251).unwrap_or(0))
        .collect();
    let plain = loopback(&content)?;
    let begun = Instant::now();
    let answer = client.write(&sandbox, "/home/user/big", &content)?;
    let up = mb_per_s(content.len(), begun.elapsed());
    if answer.status != 200 {
        return Err(format!("the upload answered {answer:?}").into());
    }
    let begun = Instant::now();
    let answer = client.read(&sandbox, "/home/user/big")?;
    let down = mb_per_s(content.len(), begun.elapsed());
    if answer.body != content {
        return Err("the file came back changed".into());
    }
    drop(client.kill(&sandbox));
    let row = |name: &str, rate: f64| vec![name.to_owned(), format!("{rate:.0}"), format!("{:.2}", rate / plain)];
    Ok(Section {
        title: format!("serve-files: {FILE_MIB} MiB into and out of a sandbox, MB/s"),
        head: ["", "MB/s", "of plain loopback"].map(str::to_owned).into(),
        rows: vec![row("upload", up), row("download", down), row("plain loopback", plain)],
        notes: Vec::new(),
    })
}

/// Bytes of memory that the whole machine has available.
fn available() -> Result<f64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .ok_or("no MemAvailable")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0)
}

/// PSS of a process, in kB (proc_pid_smaps(5), smaps_rollup).
fn pss_kb(pid: i32) -> Result<u64, Box<dyn Error>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .ok_or("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn alive(server: &Server, client: &Client, count: usize) -> Result<Section, Box<dyn Error>> {
    let before = available()?;
    let server_before = resident_kib(server.pid());
    let begun = Instant::now();
    let sandboxes = (0..count).map(|_| create(client)).collect::<Result<Vec<_>, _>>()?;
    let took = begun.elapsed();
    std::thread::sleep(Duration::from_secs(2));
    let delta = before - available()?;
    let grown = resident_kib(server.pid()).saturating_sub(server_before);
    let mut pss = 0;
    for sandbox in &sandboxes {
        for field in ["keeper", "init"] {
            pss += pss_kb(server.recorded(&sandbox.id, field))?;
        }
    }
    let all_answer = sandboxes
        .iter()
        .all(|sandbox| client.run(sandbox, COMMAND).is_ok_and(|ran| ran.out == "hi\n"));
    if !all_answer {
        return Err("not all of the sandboxes answer".into());
    }
    let each = count as f64;
    let pss_each = pss as f64 / each;
    for sandbox in &sandboxes {
        drop(client.kill(sandbox));
    }
    Ok(Section {
        title: format!("serve-alive: {count} sandboxes at once, per sandbox"),
        head: ["", "kB"].map(str::to_owned).into(),
        rows: vec![
            vec!["whole machine".to_owned(), format!("{:.0}", delta / 1024.0 / each)],
            vec!["PSS of agent and keeper".to_owned(), format!("{pss_each:.0}")],
            vec!["server".to_owned(), format!("{:.1}", grown as f64 / each)],
        ],
        notes: vec![
            verdict("PSS of agent and keeper, kB", pss_each, 3072.0),
            format!(
                "made in {:.1} s, one after the other, without a pool",
                took.as_secs_f64()
            ),
        ],
    })
}

/// Files and directories below a directory.
fn entries(directory: &Path) -> usize {
    let found = std::fs::read_dir(directory).into_iter().flatten().flatten();
    found
        .map(|entry| {
            1 + if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                entries(&entry.path())
            } else {
                0
            }
        })
        .sum()
}

/// Descriptors that a process has open.
fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn churn(server: &Server, client: &Client, count: u32) -> Result<Section, Box<dyn Error>> {
    let pid = server.pid();
    let disk = || entries(&server.state());
    // Past the first: what is made once and stays.
    for _ in 0..count / 20 {
        client.kill(&start_once(client)?.1)?;
    }
    std::thread::sleep(Duration::from_secs(2));
    let (memory, fds, files) = (resident_kib(pid), descriptors(pid), disk());
    let begun = Instant::now();
    for _ in 0..count {
        client.kill(&create(client)?)?;
    }
    let took = begun.elapsed();
    std::thread::sleep(Duration::from_secs(2));
    let row = |name: &str, before: u64, after: u64| vec![name.to_owned(), before.to_string(), after.to_string()];
    Ok(Section {
        title: format!("serve-churn: {count} sandboxes made and killed, one after the other"),
        head: ["the server's", "before", "after"].map(str::to_owned).into(),
        rows: vec![
            row("resident kB", memory, resident_kib(pid)),
            row("descriptors", fds as u64, descriptors(pid) as u64),
            row("files and directories", files as u64, disk() as u64),
        ],
        notes: vec![format!(
            "{:.1} ms for each pair",
            took.as_secs_f64() * 1000.0 / f64::from(count)
        )],
    })
}
