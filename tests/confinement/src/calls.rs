//! System calls by number, and verdicts from their results.
#![expect(unsafe_code, reason = "the checks make calls that no safe wrapper offers")]

use std::ffi::CString;

use crate::Verdict;

/// Makes a system call. Errors are positive numbers.
pub(crate) fn call(number: libc::c_long, args: &[usize]) -> Result<i64, i32> {
    let arg = |index: usize| args.get(index).copied().unwrap_or(0);
    // SAFETY: every caller passes numbers, or addresses of values that outlive the call and are as large as the call needs; a call
    // that gets through nonetheless only harms this short-lived test process.
    let result = unsafe { libc::syscall(number, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    if result < 0 {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        Ok(result)
    }
}

/// Returns text for a call.
pub(crate) fn text(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// Errors by which a sandbox refuses.
const REFUSALS: [i32; 5] = [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::EAFNOSUPPORT, libc::EROFS];

/// A call that must not even be looked at by the kernel: anything but a refusal is an escape, also an error about its arguments.
pub(crate) fn reached(what: &str, result: Result<i64, i32>) -> Verdict {
    match result {
        Err(error) if REFUSALS.contains(&error) => Verdict::Stopped(format!("{what}: errno {error}")),
        Err(error) => Verdict::Escaped(format!("{what} reached the kernel: errno {error}")),
        Ok(value) => Verdict::Escaped(format!("{what} returned {value}")),
    }
}

/// A call that must not succeed.
pub(crate) fn succeeded(what: &str, result: Result<i64, i32>) -> Verdict {
    match result {
        Ok(value) => Verdict::Escaped(format!("{what} returned {value}")),
        Err(error) => Verdict::Stopped(format!("{what}: errno {error}")),
    }
}

/// The same for std's results.
pub(crate) fn done<T>(what: &str, result: std::io::Result<T>) -> Verdict {
    match result {
        Ok(_) => Verdict::Escaped(format!("{what} worked")),
        Err(error) => Verdict::Stopped(format!("{what}: {error}")),
    }
}

/// The worst of several verdicts.
pub(crate) fn any(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    let mut stopped = None;
    let mut skipped = None;
    for verdict in verdicts {
        match verdict {
            Verdict::Escaped(_) => return verdict,
            Verdict::Stopped(_) => stopped = Some(verdict),
            Verdict::Skipped(_) => skipped = Some(verdict),
        }
    }
    stopped
        .or(skipped)
        .unwrap_or(Verdict::Skipped("nothing to try".to_owned()))
}

/// What the suite planted, by name; the attempt can't be made without it.
pub(crate) fn planted(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| format!("/nonexistent/{name}"))
}

/// A planted process id.
pub(crate) fn host_pid() -> usize {
    planted("RW_HOST_PID").parse().unwrap_or(0)
}

/// Forks; the child runs `child` and exits with its result. Returns the child's pid, or the error.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> Result<i32, i32> {
    // SAFETY: this program has one thread.
    match unsafe { libc::fork() } {
        0 => {
            let code = child();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(code) }
        }
        pid if pid > 0 => Ok(pid),
        _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
    }
}

/// Waits for a child and returns its raw status.
pub(crate) fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the pointer is to a live integer.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    status
}

/// The `int 0x80` entry of x86: getpid by its i386 number. Returns what came back.
#[cfg(target_arch = "x86_64")]
pub(crate) fn i386_getpid() -> i64 {
    let mut value: i64 = 20;
    // SAFETY: getpid has no arguments and touches no memory; the entry preserves all registers but rax and r8-r11.
    unsafe {
        std::arch::asm!("int 0x80", inout("rax") value, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    value
}

/// An aligned page of memory for a thread bomb or a mapping: maps `bytes` and touches each page. Returns whether it worked.
pub(crate) fn touch(bytes: usize) -> bool {
    // SAFETY: an anonymous mapping at an address of the kernel's choice.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return false;
    }
    for offset in (0..bytes).step_by(4096) {
        let page = memory.cast::<u8>().wrapping_add(offset);
        // SAFETY: the page is inside the mapping just made.
        unsafe { page.write_volatile(1) };
    }
    true
}

/// Lets a child inherit `file` as descriptor 200, which no other will be.
pub(crate) fn keep_in_child(command: &mut std::process::Command, file: std::fs::File) {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    let before_exec = move || {
        // SAFETY: both are plain numbers; the file lives as long as this closure.
        unsafe { libc::dup2(file.as_raw_fd(), 200) };
        Ok(())
    };
    // SAFETY: dup2 is async-signal-safe.
    unsafe { command.pre_exec(before_exec) };
}

/// Gives a child mount and UTS namespaces of its own, with nothing propagating out.
pub(crate) fn unshare_in_child(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let before_exec = || {
        let private = c"/".as_ptr() as usize;
        call(libc::SYS_unshare, &[0x0002_0000 | 0x0400_0000])
            .and_then(|_| call(libc::SYS_mount, &[0, private, 0, 1 << 18 | 16384, 0]))
            .map(drop)
            .map_err(std::io::Error::from_raw_os_error)
    };
    // SAFETY: only system calls are made.
    unsafe { command.pre_exec(before_exec) };
}
