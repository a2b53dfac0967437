//! Reaching ports inside.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};

use ringwall_sys::pass_fd;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::sandbox::Sandbox;

fn dial(sandbox: &Sandbox) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let address = SocketAddrUnix::new(sandbox.ports_socket()).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    socket
}

fn ask(socket: &OwnedFd, packet: &[u8]) -> (Vec<u8>, Vec<OwnedFd>) {
    pass_fd::send(socket.as_fd(), packet, &[]).unwrap();
    pass_fd::receive(socket.as_fd()).unwrap().unwrap()
}

#[test]
fn an_open_port_comes_as_a_socket() {
    let sandbox = Sandbox::start();
    let socket = dial(&sandbox);
    let four = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = four.local_addr().unwrap().port();
    let (answer, mut fds) = ask(&socket, &port.to_le_bytes());
    assert_eq!((answer.as_slice(), fds.len()), (&[0][..], 1));
    let mut stream = TcpStream::from(fds.remove(0));
    stream.set_nonblocking(false).unwrap();
    let (mut peer, _) = four.accept().unwrap();
    peer.write_all(b"hello").unwrap();
    drop(peer);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    drop(four);
    assert_eq!(
        ask(&socket, &port.to_le_bytes()).0,
        [1],
        "the same connection goes on being served"
    );
    assert_eq!(ask(&socket, &[1, 2, 3]).0, [2]);
    if let Ok(six) = TcpListener::bind("[::1]:0") {
        let port = six.local_addr().unwrap().port();
        let (answer, fds) = ask(&dial(&sandbox), &port.to_le_bytes());
        assert_eq!((answer.as_slice(), fds.len()), (&[0][..], 1));
    } else {
        eprintln!("SKIPPED: no IPv6 loopback");
    }
}
