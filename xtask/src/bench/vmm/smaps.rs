//! Memory of a VMM, its guest's told apart: `/proc/PID/smaps` (proc_pid_smaps(5)).

use std::collections::BTreeMap;

/// What a process has in memory, in kB.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Usage {
    /// Resident, the guest's memory apart.
    pub(super) rss: f64,
    /// The same, divided among the processes that share it.
    pub(super) pss: f64,
    /// Of `rss`, what no other process has.
    pub(super) private: f64,
    /// Resident of the guest.
    pub(super) guest_rss: f64,
    /// The guest's share.
    pub(super) guest_pss: f64,
    /// `rss` by what is mapped.
    pub(super) by_name: BTreeMap<String, f64>,
}

/// Reads a process's usage. The guest's memory is every mapping of at least `guest_bytes`: nothing else in a VMM is as large.
///
/// # Errors
/// It ended, or it may not be looked at.
pub(super) fn usage(pid: u32, guest_bytes: u64) -> Result<Usage, String> {
    let path = format!("/proc/{pid}/smaps");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    Ok(parse(&text, guest_bytes))
}

fn parse(text: &str, guest_bytes: u64) -> Usage {
    let mut usage = Usage::default();
    let (mut is_guest, mut name) = (false, String::new());
    for line in text.lines() {
        if let Some((bytes, mapped)) = mapping(line) {
            is_guest = bytes >= guest_bytes;
            name = mapped;
            continue;
        }
        let Some((key, kb)) = amount(line) else { continue };
        match (key, is_guest) {
            ("Rss", true) => usage.guest_rss += kb,
            ("Pss", true) => usage.guest_pss += kb,
            ("Rss", false) => {
                usage.rss += kb;
                *usage.by_name.entry(name.clone()).or_default() += kb;
            }
            ("Pss", false) => usage.pss += kb,
            ("Private_Clean" | "Private_Dirty", false) => usage.private += kb,
            _ => {}
        }
    }
    usage
}

/// The size and name of a mapping, from the line that begins it.
fn mapping(line: &str) -> Option<(u64, String)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let bytes = u64::from_str_radix(end, 16)
        .ok()?
        .checked_sub(u64::from_str_radix(start, 16).ok()?)?;
    let rights = words.next()?;
    let name = words
        .nth(3)
        .and_then(|path| path.rsplit('/').next())
        .unwrap_or("anonymous");
    Some((bytes, format!("{name} {rights}")))
}

fn amount(line: &str) -> Option<(&str, f64)> {
    let (key, value) = line.split_once(':')?;
    Some((key, value.trim().strip_suffix("kB")?.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
00400000-00500000 r-xp 00001000 08:01 12   /bin/ringwall-vmm
Size:               1024 kB
Rss:                 700 kB
Pss:                  70 kB
Private_Clean:         0 kB
Private_Dirty:         0 kB
VmFlags: rd ex
7f0000000000-7f0008000000 rw-p 00000000 08:01 13   /s/memory
Rss:                8300 kB
Pss:                 830 kB
Private_Dirty:         8 kB
7f0009000000-7f0009001000 rw-p 00000000 00:00 0
Rss:                   4 kB
Pss:                   4 kB
Private_Dirty:         4 kB
";

    #[test]
    fn the_guest_is_told_apart() {
        let usage = parse(TEXT, 128 << 20);
        assert_eq!((usage.rss, usage.pss, usage.private), (704.0, 74.0, 4.0));
        assert_eq!((usage.guest_rss, usage.guest_pss), (8300.0, 830.0));
        assert_eq!(usage.by_name.get("ringwall-vmm r-xp"), Some(&700.0));
        assert_eq!(usage.by_name.get("anonymous rw-p"), Some(&4.0));
    }

    #[test]
    fn what_is_no_smaps_is_nothing() {
        assert_eq!(parse("a-b c\nRss: x kB\n:", 1), Usage::default());
    }
}
