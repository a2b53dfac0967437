//! The type of guest memory.

use vm_memory::GuestMemoryMmap;
use vm_memory::bitmap::AtomicBitmap;

/// Guest memory: mapped regions, each with a bitmap of the pages that the VMM itself wrote if writes are tracked (KVM's own log
/// knows only of the guest's).
///
/// Volatile access only: the guest writes it while we read. Whatever is read must be copied once and decided on as copied.
pub type GuestRam = GuestMemoryMmap<Option<AtomicBitmap>>;
