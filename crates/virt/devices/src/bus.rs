//! Which device answers at an address, for MMIO and for x86's ports.

/// A device behind registers. Called by vCPU threads, so it must not wait for anything.
pub trait BusDevice: Send {
    /// Reads `data.len()` bytes (1 to 8, any of them, at any alignment: it is the guest's choice) at `offset` from the device's base.
    /// What is not defined reads as zero.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Writes likewise. What is not defined is ignored.
    fn write(&mut self, offset: u64, data: &[u8]);
}
