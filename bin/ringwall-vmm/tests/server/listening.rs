//! Where the server listens, and how it ends.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use ringwall_vmm_bin::api::{Limits, Link, ListenError, Listener, Server, UnmetNeedError, check_needs};
use ringwall_vmm_proto::{Method, parse};
use vmm_sys_util::eventfd::EventFd;

use crate::fake::Fake;

#[test]
fn only_the_owner_may_connect() {
    let fake = Fake::start();
    let mode = std::fs::metadata(fake.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_existing_path_is_never_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, "mine").unwrap();
    assert!(matches!(Listener::bind(&path), Err(ListenError::Exists { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    assert!(matches!(Listener::bind(&link), Err(ListenError::Exists { .. })));
    let gone = directory.path().join("no/such/directory");
    assert!(matches!(Listener::bind(&gone), Err(ListenError::Bind { .. })));
    let long = directory.path().join("x".repeat(200));
    assert!(matches!(Listener::bind(&long), Err(ListenError::Bind { .. })));
}

#[test]
fn a_given_socket_is_used_if_it_listens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("given");
    let bound = UnixListener::bind(&path).unwrap();
    let listener = Listener::from_fd(OwnedFd::from(bound)).unwrap();
    let (link, _requests) = Link::new(EventFd::new(0).unwrap());
    let server = Server::new(listener, link, Limits::default()).unwrap();
    let stopper = server.stopper();
    let thread = std::thread::spawn(|| server.run());
    assert!(UnixStream::connect(&path).is_ok());
    stopper.stop();
    thread.join().unwrap();
    assert!(UnixStream::connect(&path).is_err());

    let (stream, _other) = UnixStream::pair().unwrap();
    assert!(matches!(
        Listener::from_fd(stream.into()),
        Err(ListenError::WrongDescriptor)
    ));
    let datagram = UnixDatagram::unbound().unwrap();
    assert!(matches!(
        Listener::from_fd(datagram.into()),
        Err(ListenError::WrongDescriptor)
    ));
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(
        Listener::from_fd(file.into()),
        Err(ListenError::WrongDescriptor)
    ));
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(matches!(
        Listener::from_fd(tcp.into()),
        Err(ListenError::WrongDescriptor)
    ));
}

#[test]
fn a_vmm_that_is_gone_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let (link, requests) = Link::new(EventFd::new(0).unwrap());
    drop(requests);
    let server = Server::new(Listener::bind(&path).unwrap(), link, Limits::default()).unwrap();
    let _running = server.spawn(|| {}).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 500 "), "{text}");
    assert!(text.ends_with(r#"{"fault_message":"the VMM has ended"}"#), "{text}");
}

#[test]
fn what_an_action_names_is_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let check = |path: &std::path::Path, is_read_only: bool| {
        let body = serde_json::json!({
            "drive_id": "d", "path_on_host": path, "is_root_device": false, "is_read_only": is_read_only
        });
        check_needs(
            &parse(Method::Put, "/drives/d", body.to_string().as_bytes())
                .unwrap()
                .action,
            &ringwall_vmm::files::Files::default(),
        )
    };
    assert!(check(&file, false).is_ok());
    assert!(check(&file, true).is_ok());
    assert!(matches!(
        check(&directory.path().join("none"), true),
        Err(UnmetNeedError::Open { .. })
    ));
    assert!(matches!(
        check(directory.path(), true),
        Err(UnmetNeedError::NotFile { .. })
    ));
    assert!(matches!(
        check(directory.path(), false),
        Err(UnmetNeedError::NotFile { .. })
    ));
    assert!(matches!(
        check("/dev/null".as_ref(), true),
        Err(UnmetNeedError::NotFile { .. })
    ));
    // A named pipe is seen for what it is without waiting for somebody at its other end.
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(matches!(check(&pipe, true), Err(UnmetNeedError::NotFile { .. })));
}
