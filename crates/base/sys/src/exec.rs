//! execve(2), with everything allocated beforehand.
#![expect(unsafe_code, reason = "execve takes arrays of pointers")]

use std::ffi::{CStr, CString};
use std::io;

/// A program's arguments and environment, ready for the kernel.
#[derive(Debug)]
pub struct Image {
    _arguments: Vec<CString>,
    _environment: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
}

impl Image {
    /// Prepares the arrays.
    #[must_use]
    pub fn new(arguments: Vec<CString>, environment: Vec<CString>) -> Self {
        let pointers = |strings: &[CString]| {
            strings
                .iter()
                .map(|text| text.as_ptr())
                .chain([std::ptr::null()])
                .collect::<Vec<_>>()
        };
        let (argv, envp) = (pointers(&arguments), pointers(&environment));
        Image {
            _arguments: arguments,
            _environment: environment,
            argv,
            envp,
        }
    }

    /// Becomes the program at `path`. Returns only on failure.
    #[must_use]
    pub fn exec(&self, path: &CStr) -> io::Error {
        // SAFETY: both arrays end in null and point into strings that `self` owns (a CString's buffer does not move with it).
        unsafe { libc::execve(path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        io::Error::last_os_error()
    }
}
