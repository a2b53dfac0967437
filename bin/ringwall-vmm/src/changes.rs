//! What clients may change of a machine's devices after its start.

use ringwall_devices::virtio::DeviceError;
use ringwall_devices::virtio::balloon::{Balloon, SetBalloonError};
use ringwall_devices::virtio::block::{Block, ReplaceDiskError};
use ringwall_devices::virtio::net::Net;
use ringwall_vmm::files::{Files, OpenFileError};
use ringwall_vmm::machine::Machine;
use ringwall_vmm::plan;
use ringwall_vmm_proto::{
    Answer, BalloonStatistics, BalloonStatisticsUpdate, BalloonUpdate, Drive, DriveUpdate, NetworkUpdate, RateLimiter,
};
use thiserror::Error;

/// A change that was not made.
#[derive(Debug, Error)]
pub(crate) enum ChangeError {
    #[error("there is no device {0}")]
    NoDevice(String),
    #[error(transparent)]
    File(#[from] OpenFileError),
    #[error("the drive's file can't be replaced")]
    Replace(#[from] ReplaceDiskError),
    #[error("the rate limiter can't be changed")]
    Limiter(#[from] ringwall_devices::rate_limiter::BucketError),
    #[error("the balloon can't be changed")]
    Balloon(#[from] SetBalloonError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("there is no keyboard")]
    NoKeyboard,
    #[error("the keys can't be pressed")]
    Press(#[from] ringwall_devices::i8042::PressError),
}

/// Changes a drive: another file, another rate limiter, or both. `known` is how it is configured.
pub(crate) fn drive(machine: &Machine, known: &Drive, update: &DriveUpdate, files: &Files) -> Result<(), ChangeError> {
    let id = update.drive_id.to_string();
    let attached = machine
        .device::<Block>(&id)
        .ok_or_else(|| ChangeError::NoDevice(id.clone()))?;
    let file = match &update.path_on_host {
        // Opened before the device is held: opening can take long.
        Some(path) => Some(files.open("drive", path, plan::drive_access(known))?),
        None => None,
    };
    let limits = update.rate_limiter.as_ref().map(plan::limits_as_told);
    let changed = attached.transport().with_device(|block: &mut Block, session| {
        let replaced = match file.map(|file| block.replace_disk(file, session)) {
            // The guest's fault, which its device's status must show.
            Some(Err(ReplaceDiskError::Device(error))) => return Err(error),
            Some(Err(error)) => Err(ChangeError::from(error)),
            Some(Ok(())) | None => Ok(()),
        };
        Ok(replaced.and_then(|()| match limits {
            Some(limits) => Ok(block.update_rate_limiter(limits)?),
            None => Ok(()),
        }))
    });
    changed.ok_or(ChangeError::NoDevice(id))??
}

/// Changes the rate limiters of a network interface; what the update does not name stays.
pub(crate) fn interface(machine: &Machine, update: &NetworkUpdate) -> Result<(), ChangeError> {
    let id = update.iface_id.to_string();
    let attached = machine
        .device::<Net>(&id)
        .ok_or_else(|| ChangeError::NoDevice(id.clone()))?;
    let told = |limiter: &Option<RateLimiter>| limiter.as_ref().map(plan::limits_as_told).unwrap_or_default();
    let (receive, transmit) = (told(&update.rx_rate_limiter), told(&update.tx_rate_limiter));
    let changed = attached
        .transport()
        .with_device(|net: &mut Net, _| Ok(net.update_rate_limiters(receive, transmit)));
    Ok(changed.ok_or(ChangeError::NoDevice(id))???)
}

fn with_balloon<T>(
    machine: &Machine,
    change: impl FnOnce(&mut Balloon, Option<&mut ringwall_devices::virtio::Session>) -> Result<T, SetBalloonError>,
) -> Result<T, ChangeError> {
    let none = || ChangeError::NoDevice(plan::BALLOON.to_owned());
    let attached = machine.device::<Balloon>(plan::BALLOON).ok_or_else(none)?;
    let changed = attached
        .transport()
        .with_device(|balloon: &mut Balloon, session| Ok(change(balloon, session)));
    Ok(changed.ok_or_else(none)???)
}

/// Changes how large the balloon is to be.
pub(crate) fn balloon(machine: &Machine, update: BalloonUpdate) -> Result<(), ChangeError> {
    with_balloon(machine, |balloon, session| {
        balloon.set_target(u64::from(update.amount_mib), session.as_deref())
    })
}

/// Changes how often the balloon asks the guest for statistics.
pub(crate) fn balloon_interval(machine: &Machine, update: BalloonStatisticsUpdate) -> Result<(), ChangeError> {
    with_balloon(machine, |balloon, session| {
        balloon.set_statistics_interval(update.stats_polling_interval_s, session.as_deref())
    })
}

/// Reads what the guest last said of its memory.
pub(crate) fn balloon_statistics(machine: &Machine) -> Result<Answer, ChangeError> {
    let summary = with_balloon(machine, |balloon, _| Ok(balloon.summary()))?;
    let told = summary.statistics;
    // Pages of 4 KiB.
    let mib = |pages: u32| pages / 256;
    Ok(Answer::BalloonStatistics(Box::new(BalloonStatistics {
        target_pages: summary.target_pages,
        actual_pages: summary.actual_pages,
        target_mib: mib(summary.target_pages),
        actual_mib: mib(summary.actual_pages),
        swap_in: told.swap_in,
        swap_out: told.swap_out,
        major_faults: told.major_faults,
        minor_faults: told.minor_faults,
        free_memory: told.free_memory,
        total_memory: told.total_memory,
        available_memory: told.available_memory,
        disk_caches: told.disk_caches,
        hugetlb_allocations: told.hugetlb_allocations,
        hugetlb_failures: told.hugetlb_failures,
        oom_kill: told.oom_kill,
        alloc_stall: told.alloc_stall,
        async_scan: told.async_scan,
        direct_scan: told.direct_scan,
        async_reclaim: told.async_reclaim,
        direct_reclaim: told.direct_reclaim,
    })))
}

/// Presses control, alt and delete.
pub(crate) fn control_alt_delete(machine: &Machine) -> Result<(), ChangeError> {
    Ok(machine
        .fixed()
        .press_control_alt_delete()
        .ok_or(ChangeError::NoKeyboard)??)
}
