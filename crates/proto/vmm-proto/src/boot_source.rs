//! `/boot-source`: the kernel, its command line and its initial RAM disk.

use serde::{Deserialize, Serialize};

use crate::error::ValueError;
use crate::path::HostPath;

/// The command line if the client gives none: no way out but a reset, no bus that isn't there, no waiting for a keyboard (the parameters are in
/// the kernel's Documentation/admin-guide/kernel-parameters.txt).
pub const DEFAULT_BOOT_ARGS: &str =
    "reboot=k panic=1 pci=off nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd";

/// Longest command line in bytes, without the NUL: `COMMAND_LINE_SIZE` of x86 (arch/x86/include/asm/setup.h, 2048) and arm64
/// (arch/arm64/include/uapi/asm/setup.h, 2048).
pub const MAX_BOOT_ARGS_BYTES: usize = 2047;

/// The body of PUT.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct WireBootSource {
    kernel_image_path: String,
    #[serde(default)]
    initrd_path: Option<String>,
    #[serde(default)]
    boot_args: Option<String>,
}

/// What boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootSource {
    /// The kernel.
    #[serde(rename = "kernel_image_path")]
    pub kernel: HostPath,
    /// The initial RAM disk.
    #[serde(rename = "initrd_path")]
    pub initrd: Option<HostPath>,
    boot_args: Option<String>,
}

impl BootSource {
    /// The command line: the client's, or the default. The devices' parameters are not in it.
    pub fn command_line(&self) -> &str {
        self.boot_args.as_deref().unwrap_or(DEFAULT_BOOT_ARGS)
    }
}

impl TryFrom<WireBootSource> for BootSource {
    type Error = ValueError;

    fn try_from(wire: WireBootSource) -> Result<Self, ValueError> {
        if let Some(args) = &wire.boot_args {
            check_arguments(args)?;
        }
        Ok(Self {
            kernel: HostPath::new("kernel_image_path", wire.kernel_image_path)?,
            initrd: wire
                .initrd_path
                .map(|path| HostPath::new("initrd_path", path))
                .transpose()?,
            boot_args: wire.boot_args,
        })
    }
}

/// The kernel reads bytes up to the NUL; others than printable ASCII would be cut or misread.
fn check_arguments(args: &str) -> Result<(), ValueError> {
    if args.len() > MAX_BOOT_ARGS_BYTES {
        return Err(ValueError::LongBootArgs { got: args.len() });
    }
    match args.bytes().enumerate().find(|(_, byte)| !matches!(byte, b' '..=b'~')) {
        Some((at, byte)) => Err(ValueError::BootArgsByte { byte, at }),
        None => Ok(()),
    }
}
