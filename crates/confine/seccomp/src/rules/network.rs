//! Sockets. Families beyond Unix, IPv4, IPv6 and routing netlink are kernel surface that ordinary programs never touch.

use super::arguments::{SOCKET, SOCKET_OF_HOST, SOCKET_REFUSED, SOCKETPAIR, SOCKETPAIR_CONNECTED};
use super::{ALLOW, Group, Need, REFUSE, Rule};

pub(super) const GROUPS: &[Group] = &[
    // On sockets that the program has anyway: inherited, or a pair.
    Group {
        rule: ALLOW,
        names: &[
            "getpeername",
            "getsockname",
            "getsockopt",
            "recvfrom",
            "recvmmsg",
            "recvmsg",
            "sendmmsg",
            "sendmsg",
            "sendto",
            "setsockopt",
            "shutdown",
        ],
    },
    Group {
        rule: Rule::Where(
            Need::Namespaces,
            &Rule::Arguments(&SOCKET),
            &Rule::Where(
                Need::Network,
                &Rule::Arguments(&SOCKET_OF_HOST),
                &Rule::Arguments(&SOCKET_REFUSED),
            ),
        ),
        names: &["socket"],
    },
    Group {
        rule: Rule::Where(
            Need::Namespaces,
            &Rule::Arguments(&SOCKETPAIR),
            &Rule::Arguments(&SOCKETPAIR_CONNECTED),
        ),
        names: &["socketpair"],
    },
    // Without a socket of its own there is nothing to connect but an inherited one, which isn't the program's to aim.
    Group {
        rule: Rule::Where(Need::Network, &ALLOW, &REFUSE),
        names: &["accept", "accept4", "bind", "connect", "listen"],
    },
];
