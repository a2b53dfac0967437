//! Judges what a microVM would need. The tier itself is not in this build; what the machine has is said all the same.

use std::fs::{File, OpenOptions};
use std::io;

use crate::facts::Facts;
use crate::kernel_calls;
use crate::requirement::{Need, Requirement};

/// The only version there is since Linux 2.6.22 (kernel `Documentation/virt/kvm/api.rst`, 4.1).
const API_VERSION: i32 = 12;

const NO_TIER: &str = "the microvm tier can't be used";

/// What opening `/dev/kvm` gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// There is none.
    Absent,
    /// It is there, but can't be opened: the errno.
    Closed(i32),
    /// It was opened; this is the API's version.
    Open(i32),
}

impl Device {
    /// Opens the device for a moment.
    pub(crate) fn open() -> Device {
        let opened: io::Result<File> = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        match opened {
            Ok(kvm) => Device::Open(kernel_calls::kvm_api_version(&kvm)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Device::Absent,
            Err(error) => Device::Closed(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
}

/// Judges the device and the hardware behind it.
pub(crate) fn judge(facts: &Facts, device: &Device, architecture: &str) -> Vec<Requirement> {
    vec![
        judge_device(facts, device, architecture),
        judge_hardware(facts, device, architecture),
    ]
}

fn judge_device(facts: &Facts, device: &Device, architecture: &str) -> Requirement {
    let name = "/dev/kvm";
    match *device {
        Device::Open(API_VERSION) => Requirement::found(name, Need::Required, "can be opened, API version 12"),
        Device::Open(version) => Requirement::missing(
            name,
            Need::Required,
            format!("answers with API version {version}, not 12"),
            NO_TIER,
        ),
        Device::Closed(errno) if errno == libc::EACCES => {
            Requirement::missing(name, Need::Required, "is there, but this user may not open it", NO_TIER)
                .with_fix("sudo usermod -aG kvm $USER, then log in again")
        }
        Device::Closed(errno) => {
            let value = format!(
                "is there, but opening it fails ({})",
                crate::namespaces::errno_text(errno)
            );
            Requirement::missing(name, Need::Required, value, NO_TIER)
        }
        Device::Absent => {
            let fix = if facts.is_container {
                "start the container with --device /dev/kvm"
            } else if facts.has_virtualisation_flag {
                "sudo modprobe kvm_intel (Intel) or kvm_amd (AMD)"
            } else if architecture == "aarch64" {
                "boot the kernel at EL2 (in a VM: ask for nested virtualisation)"
            } else {
                "switch on VT-x or SVM in the firmware (in a VM: ask for nested virtualisation)"
            };
            Requirement::missing(name, Need::Required, "is not there", NO_TIER).with_fix(fix)
        }
    }
}

fn judge_hardware(facts: &Facts, device: &Device, architecture: &str) -> Requirement {
    let name = "hardware virtualisation";
    let is_there = matches!(device, Device::Open(_) | Device::Closed(_));
    match (architecture, is_there) {
        // There KVM exists only where the kernel was entered at EL2 (kernel arch/arm64/kvm/arm.c, kvm_arm_init).
        ("aarch64", true) => Requirement::found(name, Need::Required, "the kernel runs at EL2"),
        ("aarch64", false) => Requirement::missing(name, Need::Required, "no sign of EL2 without /dev/kvm", NO_TIER),
        (_, _) if facts.has_virtualisation_flag => {
            Requirement::found(name, Need::Required, "the CPU has it (vmx or svm)")
        }
        (_, true) => {
            let value = "/dev/kvm without vmx or svm: software virtualisation (PVM)";
            Requirement::missing(
                name,
                Need::Required,
                value,
                "ordinary guests crawl or never boot: `auto` chooses a process tier",
            )
            .with_fix("use a machine with VT-x or SVM, or a VM with nested virtualisation")
        }
        (_, false) => Requirement::missing(name, Need::Required, "the CPU shows neither vmx nor svm", NO_TIER)
            .with_fix("switch on VT-x or SVM in the firmware (in a VM: ask for nested virtualisation)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requirement::Status;

    fn judged(has_flag: bool, device: Device, architecture: &str) -> (Requirement, Requirement) {
        let facts = Facts {
            has_virtualisation_flag: has_flag,
            ..Facts::default()
        };
        let mut all = judge(&facts, &device, architecture);
        let hardware = all.pop().expect("hardware");
        (all.pop().expect("device"), hardware)
    }

    #[test]
    fn kvm_without_the_cpus_flags_is_software() {
        let (device, hardware) = judged(false, Device::Open(12), "x86_64");
        assert_eq!((device.status, hardware.status), (Status::Found, Status::Missing));
        assert!(hardware.value.contains("PVM"));
        assert_eq!(judged(true, Device::Open(12), "x86_64").1.status, Status::Found);
        assert_eq!(
            judged(false, Device::Open(12), "aarch64").1.status,
            Status::Found,
            "no flags exist there"
        );
    }

    #[test]
    fn each_way_to_lack_the_device_has_its_fix() {
        let fix = |flag, device, arch| judged(flag, device, arch).0.fix.unwrap_or_default();
        assert!(fix(true, Device::Closed(libc::EACCES), "x86_64").contains("usermod -aG kvm"));
        assert!(fix(true, Device::Absent, "x86_64").contains("modprobe"));
        assert!(fix(false, Device::Absent, "x86_64").contains("firmware"));
        assert!(fix(false, Device::Absent, "aarch64").contains("EL2"));
        assert_eq!(judged(true, Device::Open(11), "x86_64").0.status, Status::Missing);
    }
}
