//! Linux's own TCP as the guest's, with the checksums and large segments that it leaves to a card: this machine's, in a network namespace that
//! has nothing but a tap, whose other end is the service.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringwall_devices::virtio::net::{Backend, MAX_PACKET_BYTES, Offloads, PACKET_HEADER_BYTES, Segmentation, Tap};
use ringwall_vmm_proto::MmdsVersion;
use rustix::event::{EventfdFlags, PollFd, PollFlags, poll};

use super::support::{ADDRESS, parts, service};
use crate::Detour;

/// Told to the test inside the namespace.
const INSIDE: &str = "RINGWALL_TEST_INSIDE";
const NAME: &str = "tests::linux::linux_reads_metadata";
const PATIENCE: Duration = Duration::from_secs(30);

/// What is behind the service: nothing, but it counts what comes.
#[derive(Debug)]
struct Nowhere(OwnedFd, Arc<AtomicU64>);

impl Backend for Nowhere {
    fn offloads(&self) -> Offloads {
        let all = Segmentation::ALL;
        Offloads {
            sent: all,
            received: all,
        }
    }

    fn begin(&mut self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        // IPv6 looks for routers on every interface; what is of IPv4 is counted.
        let is_ipv4 = packet[PACKET_HEADER_BYTES + 12..][..2] == [8, 0];
        self.1.fetch_add(u64::from(is_ipv4), Ordering::Relaxed);
        Ok(())
    }

    fn receive(&mut self, _buffer: &mut [u8]) -> io::Result<Option<usize>> {
        Ok(None)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Passes packets between a tap and the service, for as long as the process lives. Counts those whose checksum was left to the card.
fn pump(mut tap: Tap, mut detour: Detour, unfinished: &AtomicU64) {
    let mut buffer = vec![0; MAX_PACKET_BYTES];
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(tap.descriptor(), PollFlags::IN),
            PollFd::from_borrowed_fd(detour.descriptor(), PollFlags::IN),
        ];
        poll(&mut fds, None).unwrap();
        while let Some(bytes) = tap.receive(&mut buffer).unwrap() {
            unfinished.fetch_add(u64::from(buffer[0] & 1), Ordering::Relaxed);
            detour.send(&buffer[..bytes]).unwrap();
        }
        while let Some(bytes) = detour.receive(&mut buffer).unwrap() {
            tap.send(&buffer[..bytes]).unwrap();
        }
    }
}

fn ask(request: &str) -> String {
    let mut stream = TcpStream::connect_timeout(&SocketAddrV4::new(ADDRESS, 80).into(), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn inside() {
    let ip = |words: &str| {
        assert!(
            Command::new("ip").args(words.split(' ')).status().unwrap().success(),
            "{words}"
        )
    };
    let long: String = (0..500_000_u32)
        .map(|index| char::from(b'a' + u8::try_from(index % 23).unwrap()))
        .collect();
    let metadata = serde_json::json!({ "a": "b", "long": long }).to_string();
    let behind = Arc::new(AtomicU64::new(0));
    let event = rustix::event::eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let service = Arc::new(service(MmdsVersion::V2, false, &metadata));
    let detour = Detour::new(Box::new(Nowhere(event, Arc::clone(&behind))), service, None).unwrap();
    let mut tap = Tap::open("m0").unwrap();
    tap.begin(tap.offloads()).unwrap();
    let unfinished = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&unfinished);
    std::thread::spawn(move || pump(tap, detour, &counter));
    ip("addr add 10.0.0.2/24 dev m0");
    ip("link set m0 up");
    ip(&format!("route add {ADDRESS} dev m0"));

    let answer = ask("PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\nConnection: close\r\n\r\n");
    let (status, token) = parts(&answer);
    assert_eq!(status, 200);
    let get = |path: &str, more: usize| {
        format!(
            "GET {path} HTTP/1.1\r\nX-metadata-token: {token}\r\nX: {}\r\nConnection: close\r\n\r\n",
            "x".repeat(more)
        )
    };
    for _ in 0..100 {
        assert_eq!(parts(&ask(&get("/a", 3800))), (200, "b"));
    }
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(parts(&ask(&get("/long", 0))), (200, long.as_str())));
        }
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(parts(&ask(&get("/a", 0))), (200, "b"));
                }
            });
        }
    });
    assert_eq!(behind.load(Ordering::Relaxed), 0, "packets passed the service");
    assert!(
        unfinished.load(Ordering::Relaxed) > 100,
        "checksums were left to the card"
    );
}

#[test]
fn linux_reads_metadata() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let has_tun = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .is_ok();
    let can_unshare = Command::new("unshare")
        .args(["--net", "ip", "link"])
        .output()
        .is_ok_and(|done| done.status.success());
    if !has_tun || !can_unshare {
        println!("SKIPPED: no tap device or network namespace can be had here");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    let done = command
        .arg("--net")
        .arg(program)
        .args(["--exact", NAME, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
}
