//! Opening a watch for a client, and turning its changes into events.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ringwall_agent_proto::filesystem::{FilesystemEvent, WatchEvent, WatchRequest};
use ringwall_agent_proto::process::Empty;
use ringwall_agent_proto::{Code, RpcError, envelope};

use super::entry::Accounts;
use super::failure::failure;
use super::operations;
use super::tree::Tree;
use crate::descriptor::{self, Watched};
use crate::rights::as_user;
use crate::rpc::stream::FrameSender;
use crate::users::User;

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
    user: User,
    /// Shared with the blocking thread that reads it: reading adds watches for new directories and looks at what has changed.
    state: Arc<Mutex<State>>,
    ready: Watched,
}

#[derive(Debug)]
struct State {
    tree: Tree,
    accounts: Option<Accounts>,
}

impl Watch {
    /// Starts watching what the request asks for.
    pub(super) async fn open(request: &WatchRequest, path: PathBuf, user: User) -> Result<Self, RpcError> {
        let (recursive, anywhere, entries) = (request.recursive, request.allow_network_mounts, request.include_entry);
        let state = as_user(&user, move || {
            let tree = open_tree(path, recursive, anywhere)?;
            let accounts = entries.then(Accounts::read);
            Ok::<_, RpcError>(State { tree, accounts })
        });
        let state = state.await??;
        let internal = |error: std::io::Error| failure(state.tree.root(), &error);
        let ready = state.tree.queue().and_then(descriptor::watch).map_err(internal)?;
        Ok(Watch {
            user,
            state: Arc::new(Mutex::new(state)),
            ready,
        })
    }

    /// Waits for events. Dropping the future may lose some, so that the watch is of no use afterwards.
    pub(super) async fn next(&mut self) -> std::io::Result<Vec<FilesystemEvent>> {
        loop {
            let mut guard = self.ready.readable().await?;
            let state = self.state.clone();
            let read = as_user(&self.user, move || {
                state.lock().unwrap_or_else(PoisonError::into_inner).read()
            });
            match read.await.map_err(std::io::Error::other)?? {
                Some(events) => return Ok(events),
                // What has come since the read makes it ready anew.
                None => guard.clear_ready(),
            }
        }
    }
}

impl State {
    /// Reads some of what has happened; `None` when there is nothing more.
    fn read(&mut self) -> std::io::Result<Option<Vec<FilesystemEvent>>> {
        let Some(changes) = self.tree.read()? else {
            return Ok(None);
        };
        let (root, accounts) = (self.tree.root(), &self.accounts);
        let event = |change: super::tree::Change| FilesystemEvent {
            name: change.path.to_string_lossy().into_owned(),
            kind: change.kind,
            entry: accounts
                .as_ref()
                .and_then(|accounts| operations::entry(&root.join(change.path), accounts))
                .map(Box::new),
        };
        Ok(Some(changes.into_iter().map(event).collect()))
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
