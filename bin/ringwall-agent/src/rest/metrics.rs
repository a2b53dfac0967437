//! `GET /metrics`: what the sandbox uses, from its cgroup where that can be seen, else from /proc.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Instant;

use http::StatusCode;
use ringwall_agent_proto::rest::Metrics;

use crate::agent::Agent;
use crate::body::{self, Reply};

/// CPU time at the last call: a share needs two points in time.
#[derive(Debug, Default)]
pub(crate) struct CpuClock(Cell<Option<(Instant, u64)>>);

impl CpuClock {
    /// Percent of all CPUs used since the last call; 0 the first time.
    fn percent(&self, used_us: u64, cpus: u32) -> f32 {
        let now = Instant::now();
        let Some((then, before)) = self.0.replace(Some((now, used_us))) else {
            return 0.0;
        };
        let available = now.duration_since(then).as_secs_f64() * f64::from(cpus.max(1));
        let used = std::time::Duration::from_micros(used_us.saturating_sub(before)).as_secs_f64();
        if available <= 0.0 {
            return 0.0;
        }
        let percent = (used / available * 100.0).clamp(0.0, 100.0);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "between 0 and 100, rounded to hundredths"
        )]
        let rounded = ((percent * 100.0).round() / 100.0) as f32;
        rounded
    }
}

/// Answers the request.
pub(crate) async fn metrics(agent: &Agent) -> Reply {
    // Off the event loop: /proc of a busy machine and a statvfs on a slow disk take their time.
    let read = tokio::task::spawn_blocking(|| (Usage::read(), disk())).await;
    let Ok((usage, (disk_used, disk_total))) = read else {
        return body::error(StatusCode::INTERNAL_SERVER_ERROR, "cannot read the metrics");
    };
    let cpus = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
    let metrics = Metrics {
        ts: jiff::Timestamp::now().as_second(),
        cpu_count: cpus,
        cpu_used_pct: agent.cpu.percent(usage.cpu_us, cpus),
        mem_total: usage.memory_total,
        mem_used: usage.memory_used,
        mem_cache: usage.memory_cache,
        disk_used,
        disk_total,
    };
    body::json(StatusCode::OK, &metrics)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Usage {
    cpu_us: u64,
    memory_total: u64,
    memory_used: u64,
    memory_cache: u64,
}

impl Usage {
    fn read() -> Self {
        let read = |path: PathBuf| std::fs::read_to_string(path).ok();
        let machine = Usage::of_machine(
            &read("/proc/meminfo".into()).unwrap_or_default(),
            &read("/proc/stat".into()).unwrap_or_default(),
        );
        let group = own_cgroup(&read("/proc/self/cgroup".into()).unwrap_or_default());
        let file = |name: &str| read(group.join(name));
        let Some(current) = file("memory.current").and_then(|text| text.trim().parse::<u64>().ok()) else {
            return machine;
        };
        let limit = file("memory.max").and_then(|text| text.trim().parse().ok());
        let cache = file("memory.stat").and_then(|text| field(&text, "file")).unwrap_or(0);
        let cpu = file("cpu.stat").and_then(|text| field(&text, "usage_usec"));
        Usage {
            cpu_us: cpu.unwrap_or(machine.cpu_us),
            memory_total: limit.unwrap_or(machine.memory_total).min(machine.memory_total.max(1)),
            memory_used: current.saturating_sub(cache),
            memory_cache: cache,
        }
    }

    fn of_machine(meminfo: &str, stat: &str) -> Self {
        let kib = |name: &str| field(meminfo, name).unwrap_or(0).saturating_mul(1024);
        let (total, available, cache) = (kib("MemTotal:"), kib("MemAvailable:"), kib("Cached:"));
        // First line: user nice system idle iowait irq softirq steal, in ticks of 10 ms (proc(5), USER_HZ is 100 everywhere).
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|word| word.parse().ok())
            .collect();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        let all: u64 = ticks.iter().sum();
        Usage {
            cpu_us: all.saturating_sub(idle).saturating_mul(10_000),
            memory_total: total,
            memory_used: total.saturating_sub(available),
            memory_cache: cache,
        }
    }
}

/// The value on the line that starts with the word `name`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

/// Directory of our cgroup (v2: the line `0::/path`).
fn own_cgroup(text: &str) -> PathBuf {
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    PathBuf::from("/sys/fs/cgroup").join(path.trim_start_matches('/'))
}

/// Bytes used and in all of the root file system.
fn disk() -> (u64, u64) {
    let Ok(found) = rustix::fs::statvfs("/") else {
        return (0, 0);
    };
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    (
        bytes(found.f_blocks.saturating_sub(found.f_bfree)),
        bytes(found.f_blocks),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_files_are_read() {
        let meminfo = "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\nCached: 10 kB\n";
        let usage = Usage::of_machine(meminfo, "cpu  10 0 5 100 7 1 1 0 0 0\ncpu0 1 1 1 1\n");
        assert_eq!(usage.memory_total, 1_024_000);
        assert_eq!(usage.memory_used, 600 * 1024);
        assert_eq!(usage.cpu_us, 17 * 10_000);
        assert_eq!(Usage::of_machine("", ""), Usage::default());
    }

    #[test]
    fn cgroup_is_found() {
        assert_eq!(own_cgroup("0::/a/b\n"), PathBuf::from("/sys/fs/cgroup/a/b"));
        assert_eq!(own_cgroup(""), PathBuf::from("/sys/fs/cgroup"));
    }

    #[test]
    fn share_needs_two_calls() {
        let clock = CpuClock::default();
        assert_eq!(clock.percent(1000, 2).to_bits(), 0.0_f32.to_bits());
        std::thread::sleep(std::time::Duration::from_millis(20));
        let share = clock.percent(11_000, 1);
        assert!(share > 0.0 && share <= 100.0, "{share}");
    }
}
