//! Whose rights the agent's own work has: its capabilities, and file work done in the name of a request's user.
//!
//! A sandbox of root's has many user ids. The agent is uid 0 there, with the few capabilities that looking after other users' programs takes,
//! and must touch no path that a client names but by [`as_user`]. It may also have been given what root's programs are to have; these are not
//! in effect for itself. In a sandbox of an ordinary user's there is one id and nothing to change.

use std::io;

use ringwall_agent_proto::{Code, RpcError};
use ringwall_sys::capabilities::{Capabilities, Sets, clear_ambient};
use ringwall_sys::user::{FileRightsGuard, Ids};

use crate::users::User;

/// Why work was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RightsError {
    #[error("the operation was cut short")]
    Cut,
    #[error("the rights of user '{name}' can't be taken: {source}")]
    NotTaken { name: String, source: io::Error },
}

impl From<RightsError> for RpcError {
    fn from(error: RightsError) -> Self {
        RpcError::new(Code::Internal, error.to_string())
    }
}

/// What the keeper has given this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Powers {
    /// Nothing that is used: there is one user.
    OneUser,
    /// What it takes to act as other users.
    ManyUsers,
    /// The same, and what root's programs are to have.
    ManyUsersAndRoot,
}

impl Powers {
    /// Asks the system. Exactly what a keeper gives counts: a root with all capabilities is a test's.
    pub(crate) fn of_this_process() -> Self {
        let Ok(held) = Sets::of_this_thread() else {
            return Powers::OneUser;
        };
        match held.permitted {
            _ if !rustix::process::getuid().is_root() || held.effective != held.permitted => Powers::OneUser,
            Capabilities::LOOK_AFTER_USERS => Powers::ManyUsers,
            Capabilities::LOOK_AFTER_ROOT => Powers::ManyUsersAndRoot,
            _ => Powers::OneUser,
        }
    }

    /// What a program of a user starts with.
    pub(crate) fn of_program(self, user: Option<Ids>) -> Capabilities {
        match (self, user) {
            (Powers::ManyUsersAndRoot, Some(Ids { uid: 0, .. })) => Capabilities::OF_ROOT,
            _ => Capabilities::NONE,
        }
    }
}

/// Keeps what is held from all that this process executes. For the first thread, before there are others.
///
/// # Errors
/// What capset(2) or prctl(2) says.
pub(crate) fn keep_from_programs() -> io::Result<()> {
    clear_ambient()?;
    let held = Sets::of_this_thread()?;
    let effective = match Powers::of_this_process() {
        // The rest is for a child between its fork and its exec.
        Powers::ManyUsersAndRoot => Capabilities::LOOK_AFTER_USERS,
        Powers::OneUser | Powers::ManyUsers => held.effective,
    };
    let kept = Sets {
        effective,
        inheritable: Capabilities::NONE,
        ..held
    };
    kept.apply()
}

/// Leaves a thread for file work no capability but those to take users' rights: with others it could do what the user may not.
///
/// # Errors
/// What capset(2) says.
pub(crate) fn reduce_to_file_work(powers: Powers) -> io::Result<()> {
    let kept = match powers {
        // Out of effect while the thread works for any other user than root.
        Powers::ManyUsersAndRoot => Capabilities::FILES_OF_ANYBODY,
        Powers::ManyUsers | Powers::OneUser => Capabilities::ACT_AS_USERS,
    };
    let kept = Sets {
        effective: kept,
        permitted: kept,
        inheritable: Capabilities::NONE,
    };
    kept.apply()
}

/// Runs file work on a blocking thread, with the rights of a user. Never on the first thread: changing its ids would make the kernel forget
/// that it is to die with the keeper.
///
/// # Errors
/// When the work has not run to its end.
pub(crate) async fn as_user<T: Send + 'static>(
    user: &User,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RightsError> {
    let Some(ids) = user.ids else {
        return tokio::task::spawn_blocking(work).await.map_err(|_| RightsError::Cut);
    };
    let done = tokio::task::spawn_blocking(move || {
        let _rights = FileRightsGuard::take(ids)?;
        Ok(work())
    });
    done.await
        .map_err(|_| RightsError::Cut)?
        .map_err(|source| RightsError::NotTaken {
            name: user.name.clone(),
            source,
        })
}
