//! Attributes of KVM's in-kernel devices, as typed reads and writes.
#![expect(unsafe_code, reason = "KVM writes an attribute's value where it is told")]

use kvm_bindings::kvm_device_attr;
use kvm_ioctls::DeviceFd;
use vmm_sys_util::errno;

/// Reads a 32-bit attribute.
pub(super) fn get_u32(device: &DeviceFd, group: u32, attr: u64) -> Result<u32, errno::Error> {
    let mut value = 0_u32;
    let mut request = kvm_device_attr {
        group,
        attr,
        addr: (&raw mut value) as u64,
        flags: 0,
    };
    // SAFETY: `addr` points to a local of the size that attributes of 32 bits have; callers name only such groups.
    unsafe { device.get_device_attr(&mut request) }?;
    Ok(value)
}

/// Reads a 64-bit attribute.
pub(super) fn get_u64(device: &DeviceFd, group: u32, attr: u64) -> Result<u64, errno::Error> {
    let mut value = 0_u64;
    let mut request = kvm_device_attr {
        group,
        attr,
        addr: (&raw mut value) as u64,
        flags: 0,
    };
    // SAFETY: `addr` points to a local of 64 bits, the most that an attribute of the GIC's has.
    unsafe { device.get_device_attr(&mut request) }?;
    Ok(value)
}

/// Writes a 32-bit attribute.
pub(super) fn set_u32(device: &DeviceFd, group: u32, attr: u64, value: u32) -> Result<(), errno::Error> {
    device.set_device_attr(&kvm_device_attr {
        group,
        attr,
        addr: (&raw const value) as u64,
        flags: 0,
    })
}

/// Writes a 64-bit attribute.
pub(super) fn set_u64(device: &DeviceFd, group: u32, attr: u64, value: u64) -> Result<(), errno::Error> {
    device.set_device_attr(&kvm_device_attr {
        group,
        attr,
        addr: (&raw const value) as u64,
        flags: 0,
    })
}

/// Has the device do something that takes no value.
pub(super) fn command(device: &DeviceFd, group: u32, attr: u64) -> Result<(), errno::Error> {
    device.set_device_attr(&kvm_device_attr {
        group,
        attr,
        addr: 0,
        flags: 0,
    })
}
