//! Opening a watch for a client, and turning its changes into events.

use std::path::PathBuf;

use ringwall_agent_proto::filesystem::{FilesystemEvent, WatchEvent, WatchRequest};
use ringwall_agent_proto::process::Empty;
use ringwall_agent_proto::{Code, RpcError, envelope};

use super::entry::Accounts;
use super::failure::failure;
use super::operations;
use super::tree::Tree;
use crate::descriptor::{self, Watched};
use crate::rpc::stream::FrameSender;

/// `f_type` of file systems that other machines change unseen (linux/magic.h): NFS, SMB, CIFS, SMB2, 9P, Ceph, AFS, FUSE.
const NETWORK_MAGICS: [u64; 8] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
    0x6573_5546,
];

/// A watch that is on.
#[derive(Debug)]
pub(super) struct Watch {
    tree: Tree,
    ready: Watched,
    accounts: Option<Accounts>,
}

impl Watch {
    /// Starts watching what the request asks for.
    pub(super) async fn open(request: &WatchRequest, path: PathBuf) -> Result<Self, RpcError> {
        let (recursive, anywhere) = (request.recursive, request.allow_network_mounts);
        let tree = blocking(move || open_tree(path, recursive, anywhere)).await??;
        let internal = |error: std::io::Error| failure(tree.root(), &error);
        let ready = tree.queue().and_then(descriptor::watch).map_err(internal)?;
        Ok(Watch {
            tree,
            ready,
            accounts: request.include_entry.then(Accounts::read),
        })
    }

    /// Waits for events. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> std::io::Result<Vec<FilesystemEvent>> {
        loop {
            let mut guard = self.ready.readable().await?;
            let Some(changes) = self.tree.read()? else {
                guard.clear_ready();
                continue;
            };
            let (root, accounts) = (self.tree.root(), &self.accounts);
            let event = |change: super::tree::Change| FilesystemEvent {
                name: change.path.to_string_lossy().into_owned(),
                kind: change.kind,
                // One lstat and little more; a batch is a few dozen.
                entry: accounts
                    .as_ref()
                    .and_then(|accounts| operations::entry(&root.join(change.path), accounts))
                    .map(Box::new),
            };
            return Ok(changes.into_iter().map(event).collect());
        }
    }
}

fn open_tree(path: PathBuf, recursive: bool, anywhere: bool) -> Result<Tree, RpcError> {
    let found = std::fs::metadata(&path).map_err(|error| failure(&path, &error))?;
    let invalid = |why: &str| RpcError::new(Code::InvalidArgument, format!("path '{}' {why}", path.display()));
    if !found.is_dir() {
        return Err(invalid("is not a directory"));
    }
    let is_network = rustix::fs::statfs(&path).is_ok_and(|found| {
        // A C long or unsigned, as the architecture has it; the magics are 32 bits.
        NETWORK_MAGICS.contains(&(u64::try_from(found.f_type).unwrap_or(0) & 0xffff_ffff))
    });
    if is_network && !anywhere {
        return Err(invalid(
            "is on a network file system, where changes by others are not seen: set allowNetworkMounts to watch it",
        ));
    }
    Tree::open(path.clone(), recursive).map_err(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::NOSPC | rustix::io::Errno::MFILE) => {
            RpcError::new(Code::ResourceExhausted, "the limit of watches is reached")
        }
        _ => failure(&path, &error),
    })
}

/// Streams a watch until its client is gone.
pub(super) async fn stream(mut watch: Watch, listener: FrameSender) {
    if listener.send(WatchEvent::Start(Empty {}).into_frame()).await.is_err() {
        return;
    }
    loop {
        let events = tokio::select! {
            events = watch.next() => events,
            () = listener.closed() => return,
        };
        let Ok(events) = events else {
            let error = RpcError::new(Code::Internal, "the watch has failed");
            // A client that is gone needs no end.
            let _gone = listener.send(envelope::end_of_stream(Some(error))).await;
            return;
        };
        for event in events {
            // Without room we wait: what happens meanwhile waits in the kernel's queue, which is bounded.
            if listener.send(WatchEvent::Filesystem(event).into_frame()).await.is_err() {
                return;
            }
        }
    }
}

/// Runs file work on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RpcError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| RpcError::new(Code::Internal, "the operation was cut short"))
}
