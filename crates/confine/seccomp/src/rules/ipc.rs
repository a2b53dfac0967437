//! System V IPC and POSIX message queues: keys and names shared by everyone in an IPC namespace.
//!
//! Landlock doesn't mediate them, so without that namespace they are denied.

use super::{ALLOW, Group, Need, REFUSE, Rule};

pub(super) const GROUPS: &[Group] = &[Group {
    rule: Rule::Where(Need::Namespaces, &ALLOW, &REFUSE),
    names: &[
        "mq_getsetattr",
        "mq_notify",
        "mq_open",
        "mq_timedreceive",
        "mq_timedsend",
        "mq_unlink",
        "msgctl",
        "msgget",
        "msgrcv",
        "msgsnd",
        "semctl",
        "semget",
        "semop",
        "semtimedop",
        "shmat",
        "shmctl",
        "shmdt",
        "shmget",
    ],
}];
