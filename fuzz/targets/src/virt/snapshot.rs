//! Snapshots that somebody made up.

use std::fs::File;

use ringwall_devices::i8042::I8042;
use ringwall_devices::rtc::Rtc;
use ringwall_devices::serial::Serial;
use ringwall_devices::system_control::{SystemControl, SystemEvents};
use ringwall_vmm::snapshot::document::Document;
use ringwall_vmm::snapshot::state_file;
use ringwall_vmm_proto::{Architecture, ConfigFile, Resources};

use super::devices;
use super::machine::restore;

/// The first byte says whether the rest is a whole state file, or the document of one whose head fits.
///
/// What is accepted is put into devices, as a load does; vCPUs and interrupt controllers are KVM's to check.
pub fn snapshot(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let decoded: Result<Document, _> = if choice & 1 == 0 {
        state_file::decode(data)
    } else {
        state_file::decode(state_file::around(data).as_slice())
    };
    let Ok(document) = decoded else {
        return;
    };
    assert!(!document.describe().is_empty());
    let _unfit = document.fingerprint.fits(&document.fingerprint);
    configuration(&document.configuration);
    board(document.board);
    for record in document.devices.into_iter().take(32) {
        match record.state.device_id {
            // The numbers of VIRTIO 1.2 §5.
            1 => restore(&devices::make_net, record.state),
            2 => {
                let disk = devices::disk();
                restore(&|| devices::make_block(&disk), record.state);
                assert_eq!(disk.metadata().expect("the file").len(), devices::DISK_BYTES);
            }
            5 => restore(&devices::make_balloon, record.state),
            19 => restore(
                &|| {
                    let (device, _outside) = ringwall_devices::virtio::vsock::fuzzing::device().expect("descriptors");
                    Box::new(device)
                },
                record.state,
            ),
            _ => restore(&devices::make_rng, record.state),
        }
    }
}

/// The configuration inside, which is parsed as a file is.
fn configuration(value: &serde_json::Value) {
    let bytes = serde_json::to_vec(value).expect("what was read can be written");
    config_file(&bytes);
}

/// A configuration file, for either architecture.
pub fn config_file(data: &[u8]) {
    let Ok(file) = ConfigFile::parse(data) else {
        return;
    };
    for architecture in [Architecture::X86_64, Architecture::Aarch64] {
        let mut resources = Resources::new(architecture);
        for action in file.actions.clone() {
            if resources.configure(action).is_err() {
                break;
            }
        }
        let machine = &resources.machine;
        assert!((1..=32).contains(&machine.vcpu_count().get()));
        assert!(machine.memory().bytes() >= 1 << 20);
    }
}

fn board(state: ringwall_vmm::board::BoardState) {
    let null = File::options().write(true).open("/dev/null").expect("/dev/null");
    let mut serial = Serial::new(Box::new(null)).expect("descriptors");
    if serial.restore(state.serial).is_ok() {
        serial.push_input(b"a");
        let _again = serial.save();
    }
    let events = std::sync::Arc::new(SystemEvents::new().expect("descriptors"));
    let mut control = SystemControl::new(events.clone());
    control.restore(state.control);
    if let Some(state) = &state.keyboard {
        let mut keyboard = I8042::new(events).expect("descriptors");
        keyboard.restore(state);
        let _full = keyboard.press_control_alt_delete();
        let _again = keyboard.save();
    }
    if let Some(state) = state.clock {
        let mut clock = Rtc::new();
        clock.restore(state);
    }
}
