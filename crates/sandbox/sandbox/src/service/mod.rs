//! What a service of sandboxes offers, whatever serves it and whoever asks: the API knows only this trait, the node implements it.

mod error;
mod request;
mod template;
mod view;

use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;

pub use error::ServiceError;
pub use request::{
    ConnectSandbox, CreateSandbox, Filter, ForkSandbox, Network, PauseSandbox, SnapshotFilter, TakeSnapshot,
};
pub use template::{
    BuildId, BuildLog, BuildRequest, BuildState, BuildStatus, ImageCredentials, NewTemplate, Step, TemplateBase,
    TemplateInfo, TemplateTag,
};
pub use view::{
    Connected, FileChange, Forked, LogEntry, Metrics, OnTimeout, Page, PauseMode, SandboxInfo, SandboxState,
    SnapshotInfo, StartedAs,
};

/// What a call gives once it is done.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, ServiceError>> + Send + 'a>>;

/// Whose sandboxes a call is about: the id of an API key. One owner never sees another's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(pub String);

/// A way into a sandbox.
#[derive(Debug)]
pub enum Stream {
    /// A Unix stream socket.
    Unix(OwnedFd),
    /// A TCP socket within the sandbox's network.
    Tcp(OwnedFd),
}

/// Everything that can be asked of a node. Calls are idempotent where their names are states (`pause`, `kill`).
pub trait SandboxService: Send + Sync + std::fmt::Debug {
    /// Makes a sandbox and returns when it can take its first command.
    fn create<'a>(&'a self, owner: &'a Owner, request: CreateSandbox) -> Pending<'a, SandboxInfo>;
    /// Resumes a paused sandbox, or prolongs a running one.
    fn connect<'a>(&'a self, owner: &'a Owner, id: &'a str, request: ConnectSandbox) -> Pending<'a, Connected>;
    /// Returns what is known about a sandbox.
    fn get<'a>(&'a self, owner: &'a Owner, id: &'a str) -> Pending<'a, SandboxInfo>;
    /// Returns the owner's sandboxes that match, one page of them.
    fn list<'a>(&'a self, owner: &'a Owner, filter: Filter) -> Pending<'a, Page<SandboxInfo>>;
    /// Ends a sandbox and removes its files.
    fn kill<'a>(&'a self, owner: &'a Owner, id: &'a str) -> Pending<'a, ()>;
    /// Sets when the sandbox ends: in so many seconds from now.
    fn set_timeout<'a>(&'a self, owner: &'a Owner, id: &'a str, seconds: u64) -> Pending<'a, ()>;
    /// Prolongs the sandbox's life to at least so many seconds from now; never shortens it.
    fn refresh<'a>(&'a self, owner: &'a Owner, id: &'a str, seconds: u64) -> Pending<'a, ()>;
    /// Freezes a sandbox.
    fn pause<'a>(&'a self, owner: &'a Owner, id: &'a str, request: PauseSandbox) -> Pending<'a, ()>;
    /// Freezes the files of a sandbox as a layer that new sandboxes can start from. The sandbox goes on, its processes anew.
    fn snapshot<'a>(&'a self, owner: &'a Owner, id: &'a str, request: TakeSnapshot) -> Pending<'a, SnapshotInfo>;
    /// Returns the owner's snapshots.
    fn snapshots<'a>(&'a self, owner: &'a Owner, filter: SnapshotFilter) -> Pending<'a, Page<SnapshotInfo>>;
    /// Makes copies of a sandbox: files, variables and metadata.
    fn fork<'a>(&'a self, owner: &'a Owner, id: &'a str, request: ForkSandbox) -> Pending<'a, Vec<Forked>>;
    /// Returns measurements between two moments (seconds since 1970, inclusive).
    fn metrics<'a>(
        &'a self,
        owner: &'a Owner,
        id: &'a str,
        start: Option<i64>,
        end: Option<i64>,
    ) -> Pending<'a, Vec<Metrics>>;
    /// Returns log lines of a sandbox, oldest first.
    fn logs<'a>(&'a self, owner: &'a Owner, id: &'a str) -> Pending<'a, Vec<LogEntry>>;
    /// Replaces the network rules.
    fn set_network<'a>(&'a self, owner: &'a Owner, id: &'a str, network: Network) -> Pending<'a, ()>;

    /// Compares the files of two sandboxes or snapshots: what changed going from the first to the second, by path.
    fn diff<'a>(&'a self, owner: &'a Owner, from: &'a str, to: &'a str) -> Pending<'a, Vec<FileChange>>;

    /// Returns what is known about a sandbox of anybody's; for the data plane, where the sandbox's own token is the proof of right.
    fn find<'a>(&'a self, id: &'a str) -> Pending<'a, SandboxInfo>;
    /// Returns every live sandbox's id and token, for URLs that are signed but name no sandbox.
    fn tokens(&self) -> Vec<(String, String)>;
    /// Connects to the agent of a sandbox; resumes it first if it is paused and asks for that.
    fn open_agent<'a>(&'a self, id: &'a str) -> Pending<'a, Stream>;
    /// Connects to a TCP port inside a sandbox. Port 49999 is the code interpreter, started when first asked for.
    fn open_port<'a>(&'a self, id: &'a str, port: u16) -> Pending<'a, Stream>;

    /// Announces a template: its name, and an id for what will be built.
    fn new_template<'a>(&'a self, owner: &'a Owner, request: NewTemplate) -> Pending<'a, (TemplateInfo, BuildId)>;
    /// Returns whether a file archive for COPY is there, by its hash.
    fn has_upload<'a>(&'a self, owner: &'a Owner, template: &'a str, hash: &'a str) -> Pending<'a, bool>;
    /// Returns the path that an archive is uploaded to, and then [`SandboxService::finish_upload`] is called.
    fn begin_upload<'a>(
        &'a self,
        owner: &'a Owner,
        template: &'a str,
        hash: &'a str,
    ) -> Pending<'a, std::path::PathBuf>;
    /// Takes an uploaded archive over.
    fn finish_upload<'a>(&'a self, owner: &'a Owner, hash: &'a str, file: &'a std::path::Path) -> Pending<'a, ()>;
    /// Makes a template of an uploaded archive of a root file system.
    fn import_template<'a>(
        &'a self,
        owner: &'a Owner,
        request: NewTemplate,
        archive: &'a std::path::Path,
    ) -> Pending<'a, TemplateInfo>;
    /// Returns a path that an archive of a root file system can be received at.
    fn begin_import(&self) -> std::path::PathBuf;
    /// Starts building.
    fn build<'a>(
        &'a self,
        owner: &'a Owner,
        template: &'a str,
        build: &'a str,
        request: BuildRequest,
    ) -> Pending<'a, ()>;
    /// Returns how a build goes, and its log from `offset` on.
    fn build_status<'a>(
        &'a self,
        owner: &'a Owner,
        template: &'a str,
        build: &'a str,
        offset: usize,
        limit: usize,
    ) -> Pending<'a, BuildStatus>;
    /// Returns the templates the owner may use.
    fn templates<'a>(&'a self, owner: &'a Owner) -> Pending<'a, Vec<TemplateInfo>>;
    /// Returns a template by id, name or name:tag.
    fn template<'a>(&'a self, owner: &'a Owner, name: &'a str) -> Pending<'a, TemplateInfo>;
    /// Removes a template or a snapshot.
    fn remove_template<'a>(&'a self, owner: &'a Owner, name: &'a str) -> Pending<'a, ()>;
    /// Gives the build that `target` names further tags.
    fn tag<'a>(&'a self, owner: &'a Owner, target: &'a str, tags: Vec<String>) -> Pending<'a, TemplateTag>;
    /// Takes tags away.
    fn untag<'a>(&'a self, owner: &'a Owner, name: &'a str, tags: Vec<String>) -> Pending<'a, ()>;

    /// Returns the owner of a key, if it is one.
    fn authenticate(&self, key: &str) -> Option<Owner>;
    /// Returns counts for the metrics page: name and value.
    fn counters(&self) -> Vec<(&'static str, u64)>;
}
