//! Memory: mapping, locking, protecting, and where its pages lie.

use super::arguments::SELF_AS_FIRST;
use super::{ABSENT, ALLOW, Group, REFUSE, Rule};

pub(super) const GROUPS: &[Group] = &[
    Group {
        rule: ALLOW,
        names: &[
            "brk",
            "madvise",
            "map_shadow_stack",
            "mincore",
            "mlock",
            "mlock2",
            "mlockall",
            "mmap",
            "mprotect",
            "mremap",
            "mseal",
            "msync",
            "munlock",
            "munlockall",
            "munmap",
            "pkey_alloc",
            "pkey_free",
            "pkey_mprotect",
            "remap_file_pages",
            // NUMA placement of its own pages.
            "get_mempolicy",
            "mbind",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
    },
    Group {
        rule: Rule::Arguments(&SELF_AS_FIRST),
        names: &["move_pages"],
    },
    // Stops the kernel in the middle of a copy from user memory, at will: the favourite tool for winning its races.
    Group {
        rule: REFUSE,
        names: &["migrate_pages", "userfaultfd"],
    },
    // Pages that not even the host's administrator can read or move; off by default before 6.5, so callers cope.
    Group {
        rule: ABSENT,
        names: &["memfd_secret"],
    },
];
