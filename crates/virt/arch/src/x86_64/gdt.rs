//! Segments: descriptors for the table in memory, and the same as the registers that KVM sets (Intel SDM vol. 3 §3.4.5).

/// A segment as its register's hidden part holds it: what `kvm_segment` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The selector that loads it.
    pub(crate) selector: u16,
    /// Where it begins.
    pub(crate) base: u32,
    /// Its last offset, in bytes.
    pub(crate) limit: u32,
    /// Access rights: type in bits 0-3, then S, DPL (2), P.
    pub(crate) access: u8,
    /// AVL, L, D/B and G in bits 0-3.
    pub(crate) flags: u8,
}

/// The boot segments, in the order of the table after the null descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segments {
    /// For CS.
    pub(crate) code: Segment,
    /// For DS, ES, FS, GS and SS.
    pub(crate) data: Segment,
    /// For TR: VM entry wants one that is usable and busy, though no task is ever switched.
    pub(crate) task: Segment,
}

/// Present, code or data, privilege 0: code that may be read and was accessed; data that may be written and was accessed.
const ACCESS_CODE: u8 = 0x9b;
const ACCESS_DATA: u8 = 0x93;
/// Present, system, a busy 32- or 64-bit task state segment.
const ACCESS_TASK: u8 = 0x8b;
/// 4 KiB granularity with 32-bit, and with 64-bit code.
const FLAGS_32: u8 = 0xc;
const FLAGS_64: u8 = 0xa;
/// A flat segment's last offset.
const FLAT: u32 = 0xffff_ffff;
/// A task state segment's last offset.
const TASK_LIMIT: u32 = 0x67;

/// For PVH: flat 32-bit segments. The specification leaves the selectors open.
pub(crate) const FLAT_32: Segments = Segments {
    code: Segment {
        selector: 0x8,
        base: 0,
        limit: FLAT,
        access: ACCESS_CODE,
        flags: FLAGS_32,
    },
    data: Segment {
        selector: 0x10,
        base: 0,
        limit: FLAT,
        access: ACCESS_DATA,
        flags: FLAGS_32,
    },
    task: Segment {
        selector: 0x18,
        base: 0,
        limit: TASK_LIMIT,
        access: ACCESS_TASK,
        flags: 0,
    },
};

/// For the 64-bit boot protocol: `__BOOT_CS` is 0x10 and `__BOOT_DS` 0x18 (Documentation/arch/x86/boot.rst).
pub(crate) const FLAT_64: Segments = Segments {
    code: Segment {
        selector: 0x10,
        base: 0,
        limit: FLAT,
        access: ACCESS_CODE,
        flags: FLAGS_64,
    },
    data: Segment {
        selector: 0x18,
        base: 0,
        limit: FLAT,
        access: ACCESS_DATA,
        flags: FLAGS_32,
    },
    task: Segment {
        selector: 0x20,
        base: 0,
        limit: TASK_LIMIT,
        access: ACCESS_TASK,
        flags: 0,
    },
};

impl Segment {
    /// The descriptor as it is in memory.
    pub(crate) const fn descriptor(&self) -> u64 {
        let limit = if self.flags & 0x8 != 0 {
            self.limit >> 12
        } else {
            self.limit
        } as u64;
        let base = self.base as u64;
        (limit & 0xffff)
            | (base & 0xff_ffff) << 16
            | (self.access as u64) << 40
            | (limit >> 16 & 0xf) << 48
            | (self.flags as u64 & 0xf) << 52
            | (base >> 24) << 56
    }
}

impl Segments {
    /// The table, with each descriptor at its selector.
    pub(crate) fn table(&self) -> [u64; 6] {
        let mut table = [0; 6];
        for segment in [&self.code, &self.data, &self.task] {
            // A selector is the descriptor's offset in the table: bits 0-2 are privilege and table, zero here.
            if let Some(place) = table.get_mut(usize::from(segment.selector / 8)) {
                *place = segment.descriptor();
            }
        }
        table
    }
}
