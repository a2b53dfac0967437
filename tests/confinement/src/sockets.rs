//! The network and sockets: the host's loopback, cloud metadata, and families that reach into the kernel.

use std::io::Read;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use crate::Proof::{Nowhere, Ordinary, Root};
use crate::calls::{any, call, done, planted, succeeded};
use crate::{Attempt, Verdict, attempt};

pub(crate) const ATTEMPTS: &[Attempt] = &[
    attempt(
        "host-loopback",
        Ordinary,
        host_loopback,
        "services on the host's 127.0.0.1 trust who connects",
    ),
    attempt(
        "host-loopback-6",
        Nowhere("not every machine here has IPv6"),
        || tcp(&format!("[::1]:{}", planted("RW_HOST_PORT"))),
        "and on ::1",
    ),
    attempt(
        "metadata-tcp",
        Nowhere("there is no metadata service here"),
        || tcp("169.254.169.254:80"),
        "cloud metadata hands out credentials",
    ),
    attempt(
        "metadata-udp",
        Ordinary,
        || match UdpSocket::bind("0.0.0.0:0") {
            Ok(socket) => done(
                "send",
                socket.connect("127.0.0.2:9").and_then(|()| {
                    if std::env::var("RW_UNCONFINED").is_ok() {
                        Ok(0)
                    } else {
                        socket.send_to(b"x", "169.254.169.254:53")
                    }
                }),
            ),
            Err(error) => Verdict::Stopped(error.to_string()),
        },
        "a datagram carries secrets out",
    ),
    attempt(
        "abstract-socket",
        Ordinary,
        abstract_socket,
        "abstract sockets of the host have no file to hide",
    ),
    attempt(
        "path-socket",
        Ordinary,
        || done("connect", UnixStream::connect(planted("RW_UNIX_PATH"))),
        "a socket file outside (docker.sock) is a way out",
    ),
    attempt(
        "path-datagram",
        Ordinary,
        || match UnixDatagram::pair() {
            Ok((one, _two)) => done("sendto", one.send_to(b"x", planted("RW_UNIX_DGRAM"))),
            Err(error) => Verdict::Stopped(error.to_string()),
        },
        "a datagram socket pair can send to any path",
    ),
    attempt(
        "packet-socket",
        Root,
        || succeeded("AF_PACKET", call(libc::SYS_socket, &[17, 3, 0])),
        "it reads the wire",
    ),
    attempt(
        "raw-socket",
        Root,
        || succeeded("SOCK_RAW", call(libc::SYS_socket, &[2, 3, 1])),
        "it forges packets",
    ),
    attempt("netlink-link", Root, netlink_link, "it changes the network"),
    attempt(
        "netlink-uevent",
        Ordinary,
        || succeeded("NETLINK_KOBJECT_UEVENT", call(libc::SYS_socket, &[16, 3, 15])),
        "it hears of the host's devices",
    ),
    attempt(
        "netlink-audit",
        Root,
        || any([9_usize, 12].map(|protocol| succeeded("netlink", call(libc::SYS_socket, &[16, 3, protocol])))),
        "audit and packet filter",
    ),
    attempt(
        "vsock",
        Nowhere("no vsock in this kernel"),
        || succeeded("AF_VSOCK", call(libc::SYS_socket, &[40, 1, 0])),
        "it reaches the hypervisor",
    ),
    attempt(
        "af-alg",
        Nowhere("not every kernel here has AF_ALG"),
        || succeeded("AF_ALG", call(libc::SYS_socket, &[38, 5, 0])),
        "kernel crypto is attack surface",
    ),
    attempt(
        "odd-families",
        Nowhere("they are modules that the kernels here have not loaded"),
        || {
            any([4_usize, 5, 9, 15, 21, 29, 30, 31, 41, 44]
                .map(|family| succeeded("socket", call(libc::SYS_socket, &[family, 2, 0]))))
        },
        "rare protocol families are attack surface",
    ),
    attempt(
        "listen-outside",
        Ordinary,
        listen_outside,
        "a server of the program's must not be reachable from the host",
    ),
    attempt(
        "sysv-shm",
        Ordinary,
        || match planted("RW_SHM_KEY").parse::<usize>() {
            Ok(key) => succeeded("shmget", call(libc::SYS_shmget, &[key, 0, 0])),
            Err(_) => Verdict::Skipped("no segment planted".to_owned()),
        },
        "shared memory of the host's processes",
    ),
    attempt(
        "posix-mq",
        Ordinary,
        || {
            let name = c"rw-attempts";
            succeeded("mq_open", call(libc::SYS_mq_open, &[name.as_ptr() as usize, 0, 0, 0]))
        },
        "message queues of the host's processes",
    ),
];

fn tcp(address: &str) -> Verdict {
    match address.parse::<SocketAddr>() {
        Ok(address) => done(
            "connect",
            TcpStream::connect_timeout(&address, Duration::from_millis(500)),
        ),
        Err(error) => Verdict::Skipped(error.to_string()),
    }
}

/// The listener says a word, so that a listener of somebody else's inside does not count.
fn host_loopback() -> Verdict {
    let address = format!("127.0.0.1:{}", planted("RW_HOST_PORT"));
    let mut word = String::new();
    match TcpStream::connect(&address).and_then(|stream| stream.take(64).read_to_string(&mut word)) {
        Ok(_) if word.contains("rw-listener") => Verdict::Escaped(format!("connected to {address}")),
        Ok(_) => Verdict::Stopped("another listener".to_owned()),
        Err(error) => Verdict::Stopped(error.to_string()),
    }
}

fn abstract_socket() -> Verdict {
    use std::os::linux::net::SocketAddrExt;
    let name = planted("RW_ABSTRACT");
    match std::os::unix::net::SocketAddr::from_abstract_name(name) {
        Ok(address) => done("connect", UnixStream::connect_addr(&address)),
        Err(error) => Verdict::Skipped(error.to_string()),
    }
}

/// Asks rtnetlink for a new dummy link; the answer's error number says whether it was allowed.
fn netlink_link() -> Verdict {
    let socket = match call(libc::SYS_socket, &[16, 3, 0]) {
        Ok(socket) => usize::try_from(socket).unwrap_or(0),
        Err(error) => return Verdict::Stopped(format!("socket: errno {error}")),
    };
    // RTM_DELLINK (17) of interface 999999 with NLM_F_REQUEST | NLM_F_ACK: EPERM without rights, ENODEV with them.
    let mut message = [0_u8; 32];
    message[0] = 32;
    message[4] = 17;
    message[6] = 5;
    message[20..24].copy_from_slice(&999_999_i32.to_ne_bytes());
    if let Err(error) = call(libc::SYS_sendto, &[socket, message.as_ptr() as usize, 32, 0, 0, 0]) {
        return Verdict::Stopped(format!("send: errno {error}"));
    }
    let mut answer = [0_u8; 256];
    let _ = call(
        libc::SYS_recvfrom,
        &[socket, answer.as_mut_ptr() as usize, answer.len(), 0, 0, 0],
    );
    let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    match -error {
        libc::EPERM | libc::EACCES => Verdict::Stopped("EPERM".to_owned()),
        other => Verdict::Escaped(format!("rtnetlink answered {other}")),
    }
}

/// Binds a port that the suite then tries to reach; only a bind that leaves the sandbox matters, which the port tells: it is the
/// suite's own, and taken on the host.
fn listen_outside() -> Verdict {
    let port = planted("RW_HOST_PORT");
    if std::env::var("RW_UNCONFINED").is_ok() {
        return done("listen", std::net::TcpListener::bind("127.0.0.1:0"));
    }
    match std::net::TcpListener::bind(format!("127.0.0.1:{port}")) {
        Ok(_) => Verdict::Stopped("it is free here: another network".to_owned()),
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {
            Verdict::Escaped("the port is taken: this is the host's network".to_owned())
        }
        Err(error) => Verdict::Stopped(error.to_string()),
    }
}
