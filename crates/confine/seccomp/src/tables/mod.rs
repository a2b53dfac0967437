//! The system call tables of both architectures, name to number, and the way back for reports.
//!
//! Both are compiled on every host, so that a filter for one can be built and tested on the other. A table holds facts
//! only; what is allowed is said in [`crate::rules`].

mod aarch64;
mod x86_64;

use crate::arch::Arch;

/// One row: a system call's name and its number.
pub(crate) type Row = (&'static str, u16);

/// All numbers of both tables are below this: 6.18 ends at 469, and new calls are numbered alike on all architectures.
pub(crate) const SLOTS: usize = 512;

/// The rows of `arch`, sorted by name.
pub(crate) const fn rows(arch: Arch) -> &'static [Row] {
    match arch {
        Arch::X86_64 => x86_64::ROWS,
        Arch::Aarch64 => aarch64::ROWS,
    }
}

/// Returns the name of system call `number` on `arch`, if these tables know it.
#[must_use]
pub fn name_of(arch: Arch, number: u32) -> Option<&'static str> {
    static X86_64: Names<{ Names::<0>::text_length(Arch::X86_64) }> = Names::new(Arch::X86_64);
    static AARCH64: Names<{ Names::<0>::text_length(Arch::Aarch64) }> = Names::new(Arch::Aarch64);
    match arch {
        Arch::X86_64 => X86_64.get(number),
        Arch::Aarch64 => AARCH64.get(number),
    }
}

/// Returns the number of the system call called `name` on `arch`, if these tables know it.
#[must_use]
pub fn number_of(arch: Arch, name: &str) -> Option<u32> {
    let rows = rows(arch);
    let at = rows.binary_search_by(|row| row.0.cmp(name)).ok()?;
    rows.get(at).map(|row| u32::from(row.1))
}

/// Finds `name` in `rows` while compiling, where `binary_search_by` can't be called.
pub(crate) const fn number_in(rows: &[Row], name: &str) -> Option<u16> {
    let (mut low, mut high) = (0, rows.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match compare(rows[middle].0.as_bytes(), name.as_bytes()) {
            0 => return Some(rows[middle].1),
            ..0 => low = middle + 1,
            1.. => high = middle,
        }
    }
    None
}

/// Orders two strings as `Ord` does: negative, 0 or positive.
const fn compare(left: &[u8], right: &[u8]) -> i32 {
    let mut at = 0;
    while at < left.len() && at < right.len() {
        if left[at] != right[at] {
            return left[at] as i32 - right[at] as i32;
        }
        at += 1;
    }
    if left.len() == right.len() {
        0
    } else if left.len() < right.len() {
        -1
    } else {
        1
    }
}

/// The names of one architecture by number, as one text and offsets: an array of `&str` would be 8 KiB of relocations
/// that a static-pie executable resolves at every start, for a table that only a denial needs.
struct Names<const LENGTH: usize> {
    text: [u8; LENGTH],
    /// Where each name starts; it ends where the next starts, and an unknown number has an empty one.
    starts: [u16; SLOTS + 1],
}

impl<const LENGTH: usize> Names<LENGTH> {
    const fn text_length(arch: Arch) -> usize {
        let (rows, mut at, mut length) = (rows(arch), 0, 0);
        while at < rows.len() {
            length += rows[at].0.len();
            at += 1;
        }
        assert!(length <= u16::MAX as usize, "starts are u16");
        length
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "text_length asserts it; runs while compiling only"
    )]
    const fn new(arch: Arch) -> Self {
        let rows = rows(arch);
        let mut by_number = [""; SLOTS];
        let mut at = 0;
        while at < rows.len() {
            assert!(
                at == 0 || compare(rows[at - 1].0.as_bytes(), rows[at].0.as_bytes()) < 0,
                "sorted, no name twice"
            );
            let slot = &mut by_number[rows[at].1 as usize];
            assert!(slot.is_empty(), "no number twice");
            *slot = rows[at].0;
            at += 1;
        }
        let mut names = Self {
            text: [0; LENGTH],
            starts: [0; SLOTS + 1],
        };
        let (mut number, mut end) = (0, 0);
        while number < SLOTS {
            names.starts[number] = end as u16;
            let name = by_number[number].as_bytes();
            let mut letter = 0;
            while letter < name.len() {
                names.text[end] = name[letter];
                end += 1;
                letter += 1;
            }
            number += 1;
        }
        names.starts[SLOTS] = end as u16;
        names
    }

    fn get(&self, number: u32) -> Option<&str> {
        let number = usize::try_from(number).ok()?;
        let (start, end) = (self.starts.get(number)?, self.starts.get(number + 1)?);
        let name = self.text.get(usize::from(*start)..usize::from(*end))?;
        std::str::from_utf8(name).ok().filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_to_each_other() {
        for arch in Arch::ALL {
            for &(name, number) in rows(arch) {
                assert_eq!(name_of(arch, u32::from(number)), Some(name));
                assert_eq!(number_of(arch, name), Some(u32::from(number)));
                assert_eq!(number_in(rows(arch), name), Some(number));
            }
        }
        assert_eq!(name_of(Arch::X86_64, 0), Some("read"));
        assert_eq!(name_of(Arch::Aarch64, 63), Some("read"));
        assert_eq!(name_of(Arch::X86_64, 400), None);
        assert_eq!(name_of(Arch::X86_64, u32::MAX), None);
        assert_eq!(number_of(Arch::Aarch64, "open"), None);
    }

    #[test]
    fn calls_from_424_on_have_one_number_everywhere() {
        // include/uapi/asm-generic/unistd.h: "new syscalls ... same number on all architectures", since Linux 5.1.
        for number in 424..600 {
            if let (Some(x86), Some(arm)) = (name_of(Arch::X86_64, number), name_of(Arch::Aarch64, number)) {
                assert_eq!(x86, arm, "{number}");
            }
        }
    }
}
