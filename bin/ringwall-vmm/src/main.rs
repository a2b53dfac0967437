//! `ringwall-vmm`: one virtual machine per process.

mod confine;
mod console;
mod host;

use std::process::ExitCode;

use ringwall_vmm_proto::{Action, ConfigFile, Controller, InstanceId};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let file = std::fs::read(&args[1]).unwrap();
    let kvm = kvm_ioctls::Kvm::new().unwrap();
    let controller = Controller::new(
        ringwall_vmm_proto::Architecture::NATIVE,
        InstanceId::new("anonymous-instance").unwrap(),
        env!("CARGO_PKG_VERSION"),
        51200,
    );
    let mut host = host::Host::new(kvm, controller).unwrap();
    for action in ConfigFile::parse(&file).unwrap().actions {
        host.act(action).unwrap();
    }
    host.act(Action::Start).unwrap();
    loop {
        let (_, end) = host.turn().unwrap();
        if let Some(end) = end {
            eprintln!("{end:?}");
            return ExitCode::from(end.code());
        }
    }
}
