//! Extended registers (FPU, SSE, AVX and later): the one state whose size depends on the host.
#![expect(
    unsafe_code,
    reason = "KVM reads and writes as many bytes as it says, not as the type has"
)]

use kvm_bindings::{Xsave, kvm_xsave};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use zerocopy::{FromBytes, IntoBytes};

use crate::state::Hex;
use crate::x86_64::kvm::state::MAX_XSAVE_BYTES;
use crate::x86_64::kvm::vcpu::{VcpuError, refused};

/// How many bytes KVM transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct XsaveSize {
    /// By `KVM_SET_XSAVE` and `KVM_GET_XSAVE2`: at least the 4096 of `kvm_xsave`.
    bytes: usize,
    /// Whether there is `KVM_GET_XSAVE2`.
    two: bool,
}

impl XsaveSize {
    /// Asks KVM. This program never enables features by `arch_prctl(2)` afterwards, so that the answer stays true.
    pub(super) fn of(vm: &VmFd) -> Self {
        let bytes = usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0);
        Self {
            bytes: bytes.max(size_of::<kvm_xsave>()),
            two: bytes > 0,
        }
    }

    /// An area of at least this size.
    fn area(self) -> Result<Xsave, VcpuError> {
        let beyond = self
            .bytes
            .saturating_sub(size_of::<kvm_xsave>())
            .div_ceil(size_of::<u32>());
        Xsave::new(beyond).map_err(|_| VcpuError::ExtendedRegisters {
            bytes: self.bytes,
            most: MAX_XSAVE_BYTES,
        })
    }
}

/// Reads the extended registers, without the zeros at their end.
pub(super) fn get(vcpu: &VcpuFd, size: XsaveSize) -> Result<Hex<MAX_XSAVE_BYTES>, VcpuError> {
    let mut bytes;
    if size.two {
        let mut area = size.area()?;
        // SAFETY: the area has as many bytes as KVM_CAP_XSAVE2 says, and no feature is enabled after that was asked.
        unsafe { vcpu.get_xsave2(&mut area) }.map_err(refused("KVM_GET_XSAVE2"))?;
        bytes = area.as_fam_struct_ref().xsave.region.as_bytes().to_vec();
        bytes.extend_from_slice(area.as_slice().as_bytes());
    } else {
        bytes = vcpu
            .get_xsave()
            .map_err(refused("KVM_GET_XSAVE"))?
            .region
            .as_bytes()
            .to_vec();
    }
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last.saturating_add(1));
    bytes.truncate(used);
    Hex::new(&bytes).ok_or(VcpuError::ExtendedRegisters {
        bytes: used,
        most: MAX_XSAVE_BYTES,
    })
}

/// Sets the extended registers.
pub(super) fn set(vcpu: &VcpuFd, size: XsaveSize, saved: &Hex<MAX_XSAVE_BYTES>) -> Result<(), VcpuError> {
    let saved = saved.as_slice();
    let too_large = || VcpuError::ExtendedRegisters {
        bytes: saved.len(),
        most: size.bytes,
    };
    if saved.len() > size.bytes {
        return Err(too_large());
    }
    let mut padded = saved.to_vec();
    padded.resize(size.bytes.next_multiple_of(size_of::<u32>()), 0);
    let (region, beyond) = padded.split_at_checked(size_of::<kvm_xsave>()).ok_or_else(too_large)?;
    let mut area = size.area()?;
    // SAFETY: the length of the flexible array is not changed.
    let header = unsafe { area.as_mut_fam_struct() };
    header.xsave = kvm_xsave::read_from_bytes(region).map_err(|_| too_large())?;
    for (word, bytes) in area.as_mut_slice().iter_mut().zip(beyond.as_chunks().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    // SAFETY: the area has as many bytes as KVM_CAP_XSAVE2 says (4096 without it), and no feature is enabled after that was asked.
    unsafe { vcpu.set_xsave2(&area) }.map_err(refused("KVM_SET_XSAVE"))
}
