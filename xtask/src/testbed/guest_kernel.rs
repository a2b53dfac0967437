//! `cargo xtask guest-kernel ARCH`: builds the kernel of our guests from a Debian source package and the configurations in
//! guest/kernel.
//!
//! source.txt pins the package (`apt.rs` fetches it) -> `make tinyconfig` + common.config + ARCH.config -> every line of these
//! is looked for in the result -> `make vmlinux|Image` -> the cache, under a key of all inputs and the compiler's version.
//! Same inputs, same bytes: names and times in the kernel are fixed. A line that the kernel's configuration has dropped fails
//! the build: a guest that silently lacks a driver costs somebody a day.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use clap::ValueEnum;

use super::apt::{self, Apt};
use super::cache::{Cache, key};
use super::{TestbedError, at};
use crate::checkout::Workspace;
use crate::command;
use crate::packages::{self, Wanted};

/// Raised when the steps below change what comes out.
const RECIPE: &str = "1";
/// The lock that a build holds: it takes minutes, and testbeds that need no new kernel mustn't wait for it.
const LOCK: &str = "lock-guest-kernel";
/// What the kernel says about its build (Documentation/kbuild/reproducible-builds.rst); the same always.
const FIXED: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "2026-01-01 00:00:00 UTC"),
    ("KBUILD_BUILD_USER", "ringwall"),
    ("KBUILD_BUILD_HOST", "ringwall"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// An architecture that guests can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GuestArch {
    /// 64-bit x86: an ELF vmlinux with a PVH entry.
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit Arm: an Image.
    #[value(name = "aarch64")]
    Aarch64,
}

impl GuestArch {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Debian's name of it.
    const fn debian_arch(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The kernel's name of it (`ARCH=`, Documentation/kbuild/kbuild.rst).
    const fn kbuild_arch(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "arm64",
        }
    }

    /// What the names of the tools begin with (`CROSS_COMPILE=`).
    const fn tools(self) -> &'static str {
        match self {
            Self::X86_64 if cfg!(target_arch = "x86_64") => "",
            Self::X86_64 => "x86_64-linux-gnu-",
            Self::Aarch64 if cfg!(target_arch = "aarch64") => "",
            Self::Aarch64 => "aarch64-linux-gnu-",
        }
    }

    /// The target of make, and where it leaves what is booted.
    const fn product(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("vmlinux", "vmlinux"),
            Self::Aarch64 => ("Image", "arch/arm64/boot/Image"),
        }
    }

    /// The command line to boot it with. `reboot=k` and `panic=-1`: a reboot or a panic reaches the machine monitor at once.
    pub(crate) const fn command_line(self) -> &'static str {
        match self {
            // reboot=k: by the keyboard controller, which every monitor of this kind has; pci=off: no bus to look for
            // (Documentation/admin-guide/kernel-parameters.txt).
            Self::X86_64 => "console=ttyS0 reboot=k panic=-1 pci=off quiet",
            Self::Aarch64 => "console=ttyS0 panic=-1 quiet",
        }
    }
}

impl fmt::Display for GuestArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Arguments of `cargo xtask guest-kernel`.
#[derive(Debug, clap::Args)]
pub(crate) struct GuestKernelArgs {
    /// The guest's architecture; any can be built on any.
    #[arg(value_enum)]
    pub(crate) arch: GuestArch,
    /// Build it even if it is in the cache.
    #[arg(long)]
    pub(crate) refresh: bool,
}

/// A built kernel.
#[derive(Debug)]
pub(crate) struct GuestKernel {
    /// The vmlinux or Image.
    pub(crate) image: PathBuf,
    /// Its SHA-256.
    pub(crate) sha256: String,
}

/// Builds the kernel, or takes it from the cache, and prints where it is.
///
/// # Errors
/// [`TestbedError`].
pub(crate) fn run(args: &GuestKernelArgs) -> Result<(), TestbedError> {
    let workspace = Workspace::load()?;
    let kernel = prepare(&workspace.workspace_root, args.arch, args.refresh)?;
    println!("kernel: {}", kernel.image.display());
    println!("sha256: {}", kernel.sha256);
    println!("command line: {}", args.arch.command_line());
    Ok(())
}

/// Takes the kernel from the cache, or builds it, which takes some minutes.
///
/// # Errors
/// [`TestbedError`].
pub(crate) fn prepare(checkout: &Path, arch: GuestArch, refresh: bool) -> Result<GuestKernel, TestbedError> {
    packages::require(Wanted::Build)?;
    packages::require(Wanted::Testbed)?;
    let inputs = Inputs::read(checkout, arch)?;
    let (name, key) = (format!("guest-kernel-{arch}"), inputs.key()?);
    let folder = match Cache::look_up(&name, &key).filter(|_| !refresh) {
        Some(folder) => folder,
        None => {
            let cache = Cache::open_locked_by(LOCK)?;
            cache.entry(&name, &key, refresh, |into| build(&cache, &inputs, into))?
        }
    };
    let image = folder.join(arch.product().0);
    let sum = command::text(Command::new("sha256sum").arg("--").arg(&image))?;
    Ok(GuestKernel {
        image,
        sha256: sum.split(' ').next().unwrap_or_default().to_owned(),
    })
}

/// All that decides about the kernel's bytes.
struct Inputs {
    arch: GuestArch,
    package: String,
    version: String,
    /// The settings of common.config and of the architecture's, one after the other.
    fragments: String,
}

impl Inputs {
    fn read(checkout: &Path, arch: GuestArch) -> Result<Self, TestbedError> {
        let folder = checkout.join("guest/kernel");
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(at(&path))
        };
        let pin = read("source.txt")?;
        let of_pin = |word: &'static str| {
            pinned(&pin, word).ok_or_else(|| TestbedError::Package {
                package: folder.join("source.txt"),
                wanted: word,
            })
        };
        Ok(Self {
            arch,
            package: of_pin("package")?,
            version: of_pin("version")?,
            fragments: settings(&(read("common.config")? + &read(&format!("{arch}.config"))?)),
        })
    }

    fn key(&self) -> Result<String, TestbedError> {
        let version =
            |tool: &str| command::output(Command::new(format!("{}{tool}", self.arch.tools())).arg("--version"));
        let (gcc, ld) = (version("gcc")?, version("ld")?);
        let texts = [RECIPE, self.arch.name(), &self.package, &self.version, &self.fragments];
        let fixed = FIXED.iter().flat_map(|(name, value)| [*name, *value]);
        Ok(key(texts
            .into_iter()
            .chain(fixed)
            .map(str::as_bytes)
            .chain([&*gcc, &*ld])))
    }
}

/// The word after `key` in source.txt.
fn pinned(text: &str, key: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(word, _)| *word == key)
        .map(|(_, value)| value.trim().to_owned())
}

/// The package's tar archive of the kernel's source, from the cache or apt.
fn source(cache: &Cache, inputs: &Inputs) -> Result<PathBuf, TestbedError> {
    let key = key([&inputs.package, &inputs.version].map(|text| text.as_bytes()));
    let folder = cache.entry("linux-source", &key, false, |into| {
        let apt = Apt::update(cache, "apt-source", inputs.arch.debian_arch())?;
        let found = apt.versions(&inputs.package)?;
        if !found.contains(&inputs.version) {
            return Err(TestbedError::NoSource {
                package: inputs.package.clone(),
                wanted: inputs.version.clone(),
                found,
            });
        }
        let deb = apt.download(&format!("{}={}", inputs.package, inputs.version), into)?;
        apt::unpack(&deb, into)?;
        fs::remove_file(&deb).map_err(at(&deb))?;
        let archive = into.join("usr/src").join(format!("{}.tar.xz", inputs.package));
        fs::rename(&archive, into.join("source.tar.xz")).map_err(at(&archive))?;
        let rest = into.join("usr");
        fs::remove_dir_all(&rest).map_err(at(&rest))
    })?;
    Ok(folder.join("source.tar.xz"))
}

fn build(cache: &Cache, inputs: &Inputs, into: &Path) -> Result<(), TestbedError> {
    let arch = inputs.arch;
    let archive = source(cache, inputs)?;
    println!(
        "guest kernel {arch}: building {} {}; this takes some minutes",
        inputs.package, inputs.version
    );
    let begun = Instant::now();
    let tree = into.join("source");
    fs::create_dir(&tree).map_err(at(&tree))?;
    let mut unpack = Command::new("tar");
    unpack
        .args(["-x", "-J", "--strip-components=1", "-f"])
        .arg(&archive)
        .arg("-C")
        .arg(&tree);
    command::run(&mut unpack)?;

    command::output(make(inputs, &tree).arg("tinyconfig"))?;
    let config = tree.join(".config");
    let tiny = fs::read_to_string(&config).map_err(at(&config))?;
    // A later line takes the place of an earlier one (Documentation/kbuild/kconfig.rst).
    fs::write(&config, tiny + &inputs.fragments).map_err(at(&config))?;
    command::output(make(inputs, &tree).arg("olddefconfig"))?;
    let made = fs::read_to_string(&config).map_err(at(&config))?;
    let lines = unmet(&inputs.fragments, &made);
    if !lines.is_empty() {
        return Err(TestbedError::Unmet { arch, lines });
    }

    let (target, product) = arch.product();
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    command::run(make(inputs, &tree).arg(format!("-j{jobs}")).arg(target))?;
    let product = tree.join(product);
    fs::rename(&product, into.join(target)).map_err(at(&product))?;
    fs::rename(&config, into.join("config")).map_err(at(&config))?;
    fs::remove_dir_all(&tree).map_err(at(&tree))?;
    println!("guest kernel {arch}: built in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn make(inputs: &Inputs, tree: &Path) -> Command {
    let mut make = Command::new("nice");
    make.args(["make", "-s", "-C"]).arg(tree);
    make.arg(format!("ARCH={}", inputs.arch.kbuild_arch()));
    make.arg(format!("CROSS_COMPILE={}", inputs.arch.tools()));
    // What a caller's make or shell has set would get into the kernel, or into its build.
    for name in [
        "MAKEFLAGS",
        "MFLAGS",
        "KCFLAGS",
        "KAFLAGS",
        "KCPPFLAGS",
        "LOCALVERSION",
        "KCONFIG_CONFIG",
    ] {
        make.env_remove(name);
    }
    make.envs(FIXED).envs([("LC_ALL", "C"), ("TZ", "UTC")]);
    make
}

/// What a fragment says, without comments and empty lines: a reworded comment is no other kernel.
fn settings(fragment: &str) -> String {
    let lines = fragment
        .lines()
        .filter(|line| line.starts_with("CONFIG_") || unset_name(line).is_some());
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The name in a line `# CONFIG_NAME is not set`.
fn unset_name(line: &str) -> Option<&str> {
    let name = line.strip_prefix("# ")?.strip_suffix(" is not set")?;
    name.starts_with("CONFIG_").then_some(name)
}

/// The settings that the final configuration lacks. `# CONFIG_X is not set` is met as well where the kernel has no X at all
/// under this configuration.
fn unmet(settings: &str, config: &str) -> Vec<String> {
    let has = |line: &str| config.lines().any(|made| made == line);
    let sets = |name: &str| {
        config
            .lines()
            .any(|made| made.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
    };
    let is_unmet = |line: &&str| unset_name(line).map_or_else(|| !has(line), sets);
    settings.lines().filter(is_unmet).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_line_is_named_and_a_comment_is_none() {
        let fragments = "# About X is not set\nCONFIG_A=y\nCONFIG_B=32\n# CONFIG_C is not set\n# CONFIG_D is not set\n\nCONFIG_E=y\n";
        let config = "CONFIG_A=y\nCONFIG_B=8\n# CONFIG_C is not set\nCONFIG_D=m\nCONFIG_DE=y\n";
        assert_eq!(
            unmet(&settings(fragments), config),
            ["CONFIG_B=32", "# CONFIG_D is not set", "CONFIG_E=y"]
        );
    }

    #[test]
    fn the_pin_is_read() {
        let text = "# version of what\npackage linux-source-6.12\nversion 6.12.1-1~deb12u1\n";
        assert_eq!(pinned(text, "package").as_deref(), Some("linux-source-6.12"));
        assert_eq!(pinned(text, "version").as_deref(), Some("6.12.1-1~deb12u1"));
        assert_eq!(pinned(text, "hash"), None);
    }

    #[test]
    fn the_checkouts_inputs_are_whole() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for arch in GuestArch::ALL {
            let inputs = Inputs::read(&checkout, arch).unwrap();
            assert!(inputs.fragments.contains("CONFIG_VIRTIO_MMIO=y"), "{arch}");
            assert!(inputs.package.starts_with("linux-source-"), "{}", inputs.package);
        }
    }
}
