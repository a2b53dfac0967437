//! Using up what all share. Each is bounded, and asks for a little more than its limit.

use std::fs;
use std::io::Write;

use crate::Proof::Ordinary;
use crate::calls::{call, fork, touch, wait};
use crate::files::scratch;
use crate::{Attempt, Verdict};

/// Limits that `flags` set below.
const PIDS: usize = 32;
const FILES: usize = 64;
const MEMORY: usize = 64 << 20;
const DISK: usize = 8 << 20;

pub(crate) const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "fork-bomb",
        why: "processes are limited",
        proof: Ordinary,
        flags: &["--pids", "32"],
        make: fork_bomb,
    },
    Attempt {
        name: "thread-bomb",
        why: "threads count as processes",
        proof: Ordinary,
        flags: &["--pids", "32"],
        make: thread_bomb,
    },
    Attempt {
        name: "descriptor-exhaustion",
        why: "open files are limited",
        proof: Ordinary,
        flags: &["--files", "64"],
        make: descriptors,
    },
    Attempt {
        name: "memory-bomb",
        why: "memory is limited",
        proof: Ordinary,
        flags: &["-m", "64M"],
        make: memory_bomb,
    },
    Attempt {
        name: "disk-filling",
        why: "what is added to disk is limited",
        proof: Ordinary,
        flags: &["--disk", "8M"],
        make: disk_filling,
    },
    Attempt {
        name: "tmp-filling",
        why: "so is what is added to /tmp",
        proof: Ordinary,
        flags: &["--disk", "8M"],
        make: tmp_filling,
    },
    Attempt {
        name: "many-small-files",
        why: "so is what many small files add",
        proof: Ordinary,
        flags: &["--disk", "8M"],
        make: many_small_files,
    },
    Attempt {
        name: "time",
        why: "wall time is limited",
        proof: Ordinary,
        flags: &["--timeout", "300ms"],
        make: || {
            std::thread::sleep(std::time::Duration::from_secs(3));
            Verdict::Escaped("it ran on".to_owned())
        },
    },
];

fn fork_bomb() -> Verdict {
    let mut children = Vec::new();
    for _ in 0..PIDS * 2 {
        match fork(|| {
            std::thread::sleep(std::time::Duration::from_secs(2));
            0
        }) {
            Ok(pid) => children.push(pid),
            Err(error) => {
                end(&children);
                return Verdict::Stopped(format!("errno {error} at {}", children.len()));
            }
        }
    }
    end(&children);
    Verdict::Escaped(format!("{} processes", children.len()))
}

fn end(children: &[i32]) {
    for &child in children {
        let _ = call(libc::SYS_kill, &[usize::try_from(child).unwrap_or(0), 9]);
    }
    for &child in children {
        wait(child);
    }
}

fn thread_bomb() -> Verdict {
    let mut threads = Vec::new();
    for _ in 0..PIDS * 2 {
        match std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(|| std::thread::sleep(std::time::Duration::from_millis(500)))
        {
            Ok(thread) => threads.push(thread),
            Err(error) => return Verdict::Stopped(error.to_string()),
        }
    }
    Verdict::Escaped(format!("{} threads", threads.len()))
}

fn descriptors() -> Verdict {
    let mut open = Vec::new();
    while open.len() < FILES * 2 {
        match fs::File::open("/dev/null") {
            Ok(file) => open.push(file),
            Err(error) => return Verdict::Stopped(format!("{error} at {}", open.len())),
        }
    }
    Verdict::Escaped(format!("{} descriptors", open.len()))
}

fn memory_bomb() -> Verdict {
    if touch(MEMORY * 3) {
        Verdict::Escaped("three times the limit".to_owned())
    } else {
        Verdict::Stopped("mmap failed".to_owned())
    }
}

fn fill(path: &str) -> Verdict {
    let result = fs::File::create(path).and_then(|mut file| {
        let block = vec![1_u8; 1 << 20];
        // A limit that kills needs a moment to see it.
        for _ in 0..DISK / (1 << 20) * 4 {
            file.write_all(&block)?;
            std::thread::sleep(std::time::Duration::from_millis(25));
        }
        Ok(())
    });
    drop(fs::remove_file(path));
    match result {
        Ok(()) => Verdict::Escaped("four times the limit".to_owned()),
        Err(error) => Verdict::Stopped(error.to_string()),
    }
}

fn disk_filling() -> Verdict {
    fill("filling")
}

fn tmp_filling() -> Verdict {
    fill(&scratch("filling"))
}

fn many_small_files() -> Verdict {
    let block = vec![1_u8; 256 << 10];
    let mut result = fs::create_dir("many");
    for index in 0..DISK / block.len() * 4 {
        result = result.and_then(|()| fs::write(format!("many/{index}"), &block));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(fs::remove_dir_all("many"));
    match result {
        Ok(()) => Verdict::Escaped("four times the limit".to_owned()),
        Err(error) => Verdict::Stopped(error.to_string()),
    }
}
