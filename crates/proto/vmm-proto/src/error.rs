//! Why a request is not one: of what is wrong with its form ([`RequestError`]) or with a value in it ([`ValueError`]).

use crate::parse::Method;

/// Why a request was refused before anybody acted on it. All of these are answered with status 400.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The path has no id where one belongs.
    #[error("the id in the path can't be empty")]
    EmptyId,
    /// The id has characters that none may have.
    #[error("an id is 1 to {max} ASCII letters, digits and underscores", max = crate::name::MAX_ID_BYTES)]
    InvalidId,
    /// Path and body name different resources.
    #[error("the path is about {path:?}, but the body about {body:?}")]
    IdMismatch {
        /// The id in the path.
        path: String,
        /// The id in the body.
        body: String,
    },
    /// A PUT or PATCH came without a body.
    #[error("a {method} request needs a body")]
    EmptyBody {
        /// The method.
        method: Method,
    },
    /// A GET came with a body.
    #[error("a GET request can't have a body")]
    BodyOnGet,
    /// No such path, or not with this method.
    #[error("there is no {method} {path}")]
    Unknown {
        /// The method.
        method: Method,
        /// The path, as sent.
        path: String,
    },
    /// The body is other JSON, or none at all.
    #[error("the body isn't a JSON object")]
    NotObject,
    /// The body isn't JSON, or lacks fields, or has too many, or of other types. The text is part of this error's.
    #[error("the body isn't what this request takes: {0}")]
    Json(serde_json::Error),
    /// A field has a value that can't be.
    #[error(transparent)]
    Value(#[from] ValueError),
}

/// Why a value was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the texts")]
pub enum ValueError {
    /// An id has characters that none may have.
    #[error("{field}: an id is 1 to {max} ASCII letters, digits and underscores", max = crate::name::MAX_ID_BYTES)]
    Id { field: &'static str },
    /// A path is empty.
    #[error("{field} is an empty path")]
    EmptyPath { field: &'static str },
    /// A path has a NUL byte.
    #[error("{field} has a NUL byte in it")]
    NulInPath { field: &'static str },
    /// A descriptor that can't have been given.
    #[error(
        "{field} names a descriptor, which is fd:{min} to fd:{max} (a file of that name is ./fd:N)",
        min = crate::path::MIN_DESCRIPTOR,
        max = crate::path::MAX_DESCRIPTOR
    )]
    Descriptor { field: &'static str },
    /// A path is longer than the kernel takes.
    #[error("{field} has {got} bytes; a path here has at most {max}")]
    LongPath {
        field: &'static str,
        got: usize,
        max: usize,
    },
    /// The number of vCPUs.
    #[error("vcpu_count is {got}; it is 1 to {max}", max = crate::machine::MAX_VCPUS)]
    VcpuCount { got: u8 },
    /// An odd number of vCPUs with threads.
    #[error("vcpu_count is {got}; with smt it is 1 or even")]
    OddVcpusWithSmt { got: u8 },
    /// The memory size.
    #[error("mem_size_mib is {got}; it is 1 to {max}", max = crate::machine::MAX_MEMORY_MIB)]
    MemorySize { got: u64 },
    /// The memory can't be made of huge pages.
    #[error("mem_size_mib is {got}; with huge_pages 2M it is even")]
    OddMemoryWithHugePages { got: u64 },
    /// A CPU template by name.
    #[error("cpu_template {name} is not supported; leave it out, or say None")]
    CpuTemplate { name: &'static str },
    /// A custom CPU template with something in it.
    #[error("cpu-config: {field} is not enforced by this VMM; only an empty template is taken")]
    CpuModifiers { field: &'static str },
    /// The kernel command line.
    #[error("boot_args has a byte {byte:#04x} at {at}; it is printable ASCII without line breaks")]
    BootArgsByte { byte: u8, at: usize },
    /// The kernel command line.
    #[error("boot_args has {got} bytes; at most {max} fit", max = crate::boot_source::MAX_BOOT_ARGS_BYTES)]
    LongBootArgs { got: usize },
    /// A drive by vhost-user.
    #[error("socket: drives by vhost-user are not supported")]
    VhostUserDrive,
    /// A drive without a file.
    #[error("path_on_host is missing")]
    NoDrivePath,
    /// The partition that the kernel command line will name.
    #[error("partuuid is 1 to {max} letters, digits, '-', '/' and '='", max = crate::drive::MAX_PARTUUID_BYTES)]
    PartUuid,
    /// A MAC address.
    #[error("guest_mac is six pairs of hexadecimal digits between colons")]
    Mac,
    /// A network device's name.
    #[error("host_dev_name is 1 to {max} characters, without '/' and white space", max = crate::network::MAX_DEVICE_NAME_BYTES)]
    DeviceName,
    /// The largest frame.
    #[error("mtu is {got}; it is {min} to 65535", min = crate::network::MIN_MTU)]
    Mtu { got: u32 },
    /// The guest's address on the vsock.
    #[error("guest_cid is {got}; it is 3 to 4294967294")]
    GuestCid { got: u32 },
    /// Free page hinting.
    #[error("free_page_hinting is not supported; free_page_reporting is")]
    FreePageHinting,
    /// A bucket that takes longer to fill than can be counted.
    #[error("refill_time is {got} ms; it is at most {max}", max = crate::rate_limiter::MAX_REFILL_MS)]
    RefillTime { got: u64 },
    /// Both ways to say where the memory is, or none.
    #[error("exactly one of mem_backend and mem_file_path says where the memory is")]
    MemoryBackend,
    /// State and memory in one file.
    #[error("snapshot_path and mem_file_path are the same file")]
    SameSnapshotFile,
    /// A list that no request needs to be so long.
    #[error("{field} has {got} entries; at most {max}")]
    LongList {
        field: &'static str,
        got: usize,
        max: usize,
    },
    /// One interface is named twice.
    #[error("{field} names {id} twice")]
    RepeatedId { field: &'static str, id: String },
    /// Two devices have one name.
    #[error("two have the {field} {id}")]
    DeviceTwice { field: &'static str, id: String },
    /// The metadata service's address.
    #[error("ipv4_address {got} isn't in 169.254.1.0 to 169.254.254.255")]
    MmdsAddress { got: std::net::Ipv4Addr },
    /// The metadata service's interfaces.
    #[error("network_interfaces names no interface")]
    NoMmdsInterfaces,
    /// An instance's id.
    #[error("an instance's id is 1 to {max} letters, digits and hyphens", max = crate::instance::MAX_INSTANCE_ID_BYTES)]
    InstanceId,
    /// A log filter.
    #[error("module is at most {max} bytes", max = crate::logger::MAX_MODULE_BYTES)]
    LogModule,
}
