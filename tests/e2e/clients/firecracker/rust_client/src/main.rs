//! Drives a VMM through a life with the crate firecracker-rs-sdk, unmodified: `rust_client BINARY DIRECTORY SOCKET RESTORE_SOCKET`.
//!
//! DIRECTORY holds `kernel` and `disk`. One line per check: `ok NAME` or `FAIL NAME: reason`. The exit code is 1 after any failure.

use std::fmt::Debug;
use std::path::Path;
use std::process::ExitCode;

use firecracker_rs_sdk::firecracker::FirecrackerOption;
use firecracker_rs_sdk::instance::Instance;
use firecracker_rs_sdk::models::*;

type Outcome<T> = Result<T, firecracker_rs_sdk::Error>;

/// Counts what failed.
#[derive(Default)]
struct Checks {
    failed: usize,
}

impl Checks {
    fn ok<T>(&mut self, name: &str, outcome: Outcome<T>) -> Option<T> {
        match outcome {
            Ok(value) => {
                println!("ok {name}");
                Some(value)
            }
            Err(error) => {
                self.failed += 1;
                println!("FAIL {name}: {error:?}");
                None
            }
        }
    }

    fn refused<T: Debug>(&mut self, name: &str, outcome: Outcome<T>) {
        match outcome {
            Err(_) => println!("ok {name}"),
            Ok(value) => {
                self.failed += 1;
                println!("FAIL {name}: it was taken: {value:?}");
            }
        }
    }

    fn equal<T: Debug + PartialEq>(&mut self, name: &str, got: Option<T>, wanted: T) {
        if got.as_ref() == Some(&wanted) {
            println!("ok {name}");
        } else {
            self.failed += 1;
            println!("FAIL {name}: got {got:?}, wanted {wanted:?}");
        }
    }
}

fn start(checks: &mut Checks, binary: &str, socket: &Path, name: &str) -> Option<Instance> {
    let mut instance = checks.ok(
        "build",
        FirecrackerOption::new(binary).api_sock(socket).id(name).build(),
    )?;
    checks.ok("start_vmm", instance.start_vmm())?;
    Some(instance)
}

fn state(instance: &mut Instance) -> Option<instance_info::State> {
    instance.describe_instance().ok().map(|info| info.state)
}

fn configure(checks: &mut Checks, vm: &mut Instance, directory: &Path) {
    checks.equal("state", state(vm), instance_info::State::NotStarted);
    let version = checks.ok("version", vm.get_firecracker_version());
    let numbers = version.map(|version| {
        version
            .firecracker_version
            .split('.')
            .all(|part| part.parse::<u32>().is_ok())
    });
    checks.equal("version.numbers", numbers, true);
    let machine = MachineConfiguration {
        cpu_template: None,
        smt: Some(false),
        mem_size_mib: 64,
        track_dirty_pages: Some(true),
        vcpu_count: 1,
        huge_pages: Some(HugePageOption::None),
    };
    checks.ok("machine.put", vm.put_machine_configuration(&machine));
    let larger = MachineConfiguration {
        mem_size_mib: 128,
        ..machine.clone()
    };
    checks.ok("machine.patch", vm.patch_machine_configuration(&larger));
    let got = checks.ok("machine.get", vm.get_machine_configuration());
    checks.equal("machine.same", got, larger);
    let none = MachineConfiguration {
        vcpu_count: 0,
        ..machine
    };
    checks.refused("machine.refused", vm.put_machine_configuration(&none));
    checks.refused("start.refused", vm.start());
    let boot = BootSource {
        boot_args: Some("console=ttyS0 reboot=k panic=1".into()),
        initrd_path: None,
        kernel_image_path: directory.join("kernel"),
    };
    checks.ok("boot", vm.put_guest_boot_source(&boot));
    let drive = Drive {
        drive_id: "rootfs".into(),
        partuuid: None,
        is_root_device: true,
        cache_type: Some(CacheType::Unsafe),
        is_read_only: false,
        path_on_host: directory.join("disk"),
        rate_limiter: None,
        io_engine: Some(IoEngine::Sync),
        socket: None,
    };
    checks.ok("drive", vm.put_guest_drive_by_id(&drive));
    checks.refused(
        "drive.refused",
        vm.put_guest_drive_by_id(&Drive {
            drive_id: "a-b".into(),
            ..drive
        }),
    );
    let balloon = Balloon {
        amount_mib: 0,
        deflate_on_oom: true,
        stats_polling_interval_s: Some(1),
    };
    checks.ok("balloon", vm.put_balloon(&balloon));
    let got = checks.ok("balloon.get", vm.describe_balloon_config());
    checks.equal("balloon.same", got, balloon);
    checks.ok("entropy", vm.put_entropy_device(&EntropyDevice { rate_limiter: None }));
    let vsock = Vsock {
        guest_cid: 3,
        uds_path: directory.join("v.sock"),
        vsock_id: None,
    };
    checks.ok("vsock", vm.put_guest_vsock(&vsock));
    let config = checks.ok("config", vm.get_export_vm_config());
    let kernel = config
        .and_then(|config| config.boot_source)
        .map(|boot| boot.kernel_image_path);
    checks.equal("config.kernel", kernel, directory.join("kernel"));
}

fn live(checks: &mut Checks, vm: &mut Instance, directory: &Path) {
    checks.ok("start", vm.start());
    checks.equal("running", state(vm), instance_info::State::Running);
    checks.refused("start.again", vm.start());
    checks.ok("pause", vm.pause());
    checks.equal("paused", state(vm), instance_info::State::Paused);
    let snapshot = SnapshotCreateParams {
        mem_file_path: directory.join("memory"),
        snapshot_path: directory.join("state"),
        snapshot_type: Some(SnapshotType::Full),
        version: None,
    };
    checks.ok("snapshot", vm.create_snapshot(&snapshot));
    checks.ok("resume", vm.resume());
    checks.equal("running.again", state(vm), instance_info::State::Running);
    if cfg!(target_arch = "x86_64") {
        checks.ok("ctrl_alt_del", vm.stop());
    }
}

fn restore(checks: &mut Checks, vm: &mut Instance, directory: &Path) {
    let backend = MemoryBackend {
        backend_type: memory_backend::BackendType::File,
        backend_path: directory.join("memory"),
    };
    let load = SnapshotLoadParams {
        enable_diff_snapshots: None,
        mem_file_path: None,
        mem_backend: Some(backend),
        resume_vm: Some(true),
        snapshot_path: directory.join("state"),
    };
    checks.ok("load", vm.load_snapshot(&load));
    checks.equal("load.running", state(vm), instance_info::State::Running);
    checks.ok("load.pause", vm.pause());
    checks.equal("load.paused", state(vm), instance_info::State::Paused);
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [binary, directory, socket, restore_socket] = arguments.as_slice() else {
        eprintln!("rust_client BINARY DIRECTORY SOCKET RESTORE_SOCKET");
        return ExitCode::from(2);
    };
    let directory = Path::new(directory);
    let mut checks = Checks::default();
    // The client ends its process when it is dropped.
    if let Some(mut vm) = start(&mut checks, binary, Path::new(socket), "first") {
        configure(&mut checks, &mut vm, directory);
        live(&mut checks, &mut vm, directory);
    }
    drop(std::fs::remove_file(directory.join("v.sock")));
    if let Some(mut vm) = start(&mut checks, binary, Path::new(restore_socket), "second") {
        restore(&mut checks, &mut vm, directory);
    }
    println!("{} failed", checks.failed);
    if checks.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
