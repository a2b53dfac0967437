//! What the command line gives: descriptors by their numbers, taken before anything is opened, and files, opened before the process is confined.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use kvm_ioctls::Kvm;
use ringwall_vmm::files::{Access, Files, OpenFileError};
use ringwall_vmm_proto::{HostPath, MAX_DESCRIPTOR, Metrics, ValueError};
use thiserror::Error;

use crate::args::{Api, Args};

/// What was given and can't be used.
#[derive(Debug, Error)]
pub(crate) enum GivenError {
    #[error("there is no descriptor {number}")]
    NoDescriptor { number: u32 },
    #[error("the descriptors that were given can't be looked at")]
    Inherit(#[source] io::Error),
    #[error("descriptor {0} is not /dev/kvm")]
    NotKvm(u32),
    #[error("can't open /dev/kvm: {hint}")]
    Kvm {
        hint: &'static str,
        source: kvm_ioctls::Error,
    },
    #[error(transparent)]
    Path(#[from] ValueError),
    #[error(transparent)]
    File(#[from] OpenFileError),
}

impl GivenError {
    /// Whether the command line is wrong, and not the host.
    pub(crate) const fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NoDescriptor { .. } | Self::NotKvm(_) | Self::Path(_) | Self::File(_)
        )
    }
}

/// Descriptors that were open when the program began.
#[derive(Debug)]
pub(crate) struct Given {
    /// `--api-fd`.
    pub(crate) listener: Option<OwnedFd>,
    /// `--kvm-fd`, with its number.
    pub(crate) kvm: Option<(u32, OwnedFd)>,
    /// `--userfault-fd`.
    pub(crate) userfault: Option<File>,
    /// The others, which clients can name.
    pub(crate) files: Files,
}

impl Given {
    /// To be called once, before anything is opened.
    pub(crate) fn take(args: &Args, api: &Api) -> Result<Self, GivenError> {
        let mut files = Files::inherit().map_err(GivenError::Inherit)?;
        let mut flag = |number: Option<u32>| number.map(|number| inherited(&mut files, number)).transpose();
        let listener = match api {
            Api::Descriptor(number) => flag(Some(*number))?,
            Api::None | Api::Path(_) => None,
        };
        let kvm = flag(args.kvm_fd)?;
        let userfault = flag(args.userfault_fd)?;
        Ok(Self {
            listener,
            kvm: args.kvm_fd.zip(kvm),
            userfault: userfault.map(File::from),
            files,
        })
    }
}

/// A descriptor that a flag names. Clients can't name it any more.
fn inherited(files: &mut Files, number: u32) -> Result<OwnedFd, GivenError> {
    let small = u16::try_from(number).ok().filter(|number| *number <= MAX_DESCRIPTOR);
    let taken = match small {
        Some(small) => files.give_away(small),
        // `Files` has none of these.
        None => i32::try_from(number)
            .ok()
            .and_then(|number| ringwall_sys::inherited::take(number).ok()),
    };
    taken.ok_or(GivenError::NoDescriptor { number })
}

/// `/dev/kvm`, opened or given.
#[expect(unsafe_code, reason = "kvm-ioctls takes a descriptor by its number only")]
pub(crate) fn open_kvm(given: Option<(u32, OwnedFd)>) -> Result<Kvm, GivenError> {
    let Some((number, descriptor)) = given else {
        return Kvm::new().map_err(|source| GivenError::Kvm {
            hint: kvm_hint(source.errno()),
            source,
        });
    };
    // SAFETY: the descriptor is open and given away; that it is KVM's is asked next, by a call that is an error of any other.
    let kvm = unsafe { Kvm::from_raw_fd(descriptor.into_raw_fd()) };
    if kvm.get_api_version() == KVM_API_VERSION {
        Ok(kvm)
    } else {
        Err(GivenError::NotKvm(number))
    }
}

/// The one version that there is (Documentation/virt/kvm/api.rst, KVM_GET_API_VERSION).
const KVM_API_VERSION: i32 = 12;

const fn kvm_hint(errno: i32) -> &'static str {
    match errno {
        2 => "this machine has none; virtualization may be off in its firmware, or the module kvm is not loaded",
        13 => "this user may not; the group kvm may on most systems",
        _ => "it does not answer",
    }
}

/// What the command line names.
#[derive(Debug)]
pub(crate) struct Named {
    /// For snapshots, and named by nobody; there is none without /proc.
    pub(crate) pagemap: Option<File>,
    pub(crate) metadata: Option<Vec<u8>>,
    pub(crate) configuration: Option<Vec<u8>>,
    pub(crate) metrics: Option<(Metrics, File)>,
    /// A snapshot's state file.
    pub(crate) prepared_for: Option<File>,
}

impl Named {
    /// Opens all of it.
    pub(crate) fn open(args: &Args, files: &Files) -> Result<Self, GivenError> {
        let read = |what, flag, path: &Option<PathBuf>| -> Result<_, GivenError> {
            let Some(path) = path else { return Ok(None) };
            Ok(Some(files.read(what, &host_path(flag, path)?)?))
        };
        let metrics = match &args.metrics_path {
            Some(path) => {
                let metrics_path = host_path("--metrics-path", path)?;
                let file = files.open("metrics file", &metrics_path, Access::Record)?;
                Some((Metrics { metrics_path }, file))
            }
            None => None,
        };
        let prepared_for = match &args.prepared_for {
            Some(path) => Some(files.open("state file", &host_path("--prepared-for", path)?, Access::Read)?),
            None => None,
        };
        Ok(Self {
            pagemap: File::open("/proc/self/pagemap").ok(),
            metadata: read("metadata", "--metadata", &args.metadata)?,
            configuration: read("configuration", "--config-file", &args.config_file)?,
            metrics,
            prepared_for,
        })
    }
}

/// A path of the command line, or a descriptor.
pub(crate) fn host_path(flag: &'static str, path: &Path) -> Result<HostPath, GivenError> {
    Ok(HostPath::new(flag, path.display().to_string())?)
}
