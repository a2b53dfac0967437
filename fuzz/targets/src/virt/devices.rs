//! Devices, each behind its registers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use ringwall_devices::virtio::VirtioDevice;
use ringwall_devices::virtio::balloon::{Balloon, BalloonOptions};
use ringwall_devices::virtio::block::{Block, BlockOptions, CacheType, Engine, EngineChoice};
use ringwall_devices::virtio::net::{Backend, Net, NetOptions, Offloads};
use ringwall_devices::virtio::rng::{Entropy, Rng};
use ringwall_devices::virtio::vsock::fuzzing::{Outside, device};
use rustix::event::{EventfdFlags, eventfd};

use super::input::Input;
use super::machine::{MEMORY_BYTES, play};

/// Always the same bytes.
#[derive(Debug)]
struct Sevens;

impl Entropy for Sevens {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        bytes.fill(7);
        Ok(())
    }
}

/// The simplest device.
pub(super) fn make_rng() -> Box<dyn VirtioDevice> {
    Box::new(Rng::new(Box::new(Sevens)).expect("an event descriptor"))
}

/// A balloon with everything that it can do.
pub(super) fn make_balloon() -> Box<dyn VirtioDevice> {
    let options = BalloonOptions {
        target_mib: 0,
        deflate_on_oom: true,
        statistics_interval_s: 3600,
        reporting: true,
    };
    Box::new(Balloon::new(options, MEMORY_BYTES as u64).expect("event descriptors"))
}

/// Bytes of [`disk`].
pub(super) const DISK_BYTES: u64 = 64 * 1024;

/// What is behind [`make_block`].
pub(super) fn disk() -> File {
    let disk = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
    let disk = File::from(disk);
    disk.set_len(DISK_BYTES).expect("memory");
    disk
}

/// A disk whose operations are done at once.
pub(super) fn make_block(disk: &File) -> Box<dyn VirtioDevice> {
    let options = BlockOptions {
        cache: CacheType::Writeback,
        engine: EngineChoice::Only(Engine::Sync),
        ..BlockOptions::default()
    };
    let file = disk.try_clone().expect("a descriptor");
    Box::new(Block::new("disk", file, options).expect("a disk"))
}

/// A network card in front of a mirror.
pub(super) fn make_net() -> Box<dyn VirtioDevice> {
    let waiting = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("a descriptor");
    let packets = VecDeque::new();
    let card = Net::new("card", Box::new(Mirror { packets, waiting }), NetOptions::default());
    Box::new(card.expect("a card"))
}

/// The registers, rings and memory of the simplest device.
pub fn mmio(data: &[u8]) {
    play(&make_rng, &mut |_| (), data);
}

/// A balloon.
pub fn balloon(data: &[u8]) {
    play(&make_balloon, &mut |_| (), data);
}

/// A disk.
pub fn block(data: &[u8]) {
    let disk = disk();
    play(&|| make_block(&disk), &mut |_| (), data);
    let length = disk.metadata().expect("the file").len();
    assert_eq!(length, DISK_BYTES, "a guest can't make its disk longer");
}

/// A network card.
pub fn net(data: &[u8]) {
    play(&make_net, &mut |_| (), data);
}

/// Gives back what it was sent.
#[derive(Debug)]
struct Mirror {
    packets: VecDeque<Vec<u8>>,
    waiting: OwnedFd,
}

impl Backend for Mirror {
    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn begin(&mut self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        if self.packets.len() >= 8 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.packets.push_back(packet.to_vec());
        rustix::io::write(&self.waiting, &1_u64.to_ne_bytes())?;
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(packet) = self.packets.pop_front() else {
            let _empty = rustix::io::read(&self.waiting, &mut [0; 8]);
            return Ok(None);
        };
        buffer[..packet.len()].copy_from_slice(&packet);
        Ok(Some(packet.len()))
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.waiting.as_fd()
    }
}

/// A vsock device, with programs of the host that connect, talk and go.
pub fn vsock(data: &[u8]) {
    let outside = RefCell::new(None::<Outside>);
    let clients = RefCell::new(Vec::new());
    play(
        &|| {
            let (device, ends) = device().expect("descriptors");
            clients.borrow_mut().clear();
            outside.replace(Some(ends));
            Box::new(device)
        },
        &mut |input| act(input, outside.borrow().as_ref(), &mut clients.borrow_mut()),
        data,
    );
}

fn act(input: &mut Input<'_>, outside: Option<&Outside>, clients: &mut Vec<UnixStream>) {
    let Some(outside) = outside else {
        return;
    };
    clients.extend(outside.take_connected());
    let choice = input.byte();
    if choice & 7 == 0 {
        if clients.len() < 32
            && let Ok(mut client) = outside.connect()
        {
            let line = format!("CONNECT {}\n", choice % 10);
            let _gone = client.write_all(line.as_bytes());
            clients.push(client);
        }
        return;
    }
    let index = usize::from(choice >> 3) % clients.len().max(1);
    let Some(client) = clients.get_mut(index) else {
        return;
    };
    match choice & 7 {
        1..=3 => drop(client.write(&vec![choice; input.u16().into()])),
        4 => drop(client.read(&mut [0; 4096])),
        5 => drop(client.shutdown(std::net::Shutdown::Write)),
        6 => drop(client.shutdown(std::net::Shutdown::Read)),
        _ => drop(clients.swap_remove(index)),
    }
}
