//! Who a request runs as: names are looked up in the sandbox's own passwd. A sandbox of root's has 65,536 user ids, any other has one.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use ringwall_sys::user::Ids;

use crate::agent::Agent;
use crate::rights::Powers;

/// The user of every client that does not say otherwise.
const DEFAULT_USER: &str = "user";
/// Its ids where there are many and passwd does not say: those of E2B's templates.
const DEFAULT_IDS: Ids = Ids { uid: 1000, gid: 1000 };
/// Ids of a sandbox of root's, from 0 up; its user namespace maps no others.
const IDS: u32 = 65_536;
/// Largest account file read; they are a few KiB.
const MAX_ACCOUNTS_BYTES: u64 = 1024 * 1024;

/// Who the agent runs as.
#[derive(Debug)]
pub(crate) struct Identity {
    uid: u32,
    home: Option<PathBuf>,
    powers: Powers,
}

/// Who a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// Login name.
    pub(crate) name: String,
    /// Home directory.
    pub(crate) home: PathBuf,
    /// Whose rights its programs and files have; `None` for the agent's own, where there are no others.
    pub(crate) ids: Option<Ids>,
}

/// Why a user was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserError {
    #[error("invalid username: '{0}'")]
    Unknown(String),
    #[error("user '{name}' is not available in this sandbox: it has the one user id {uid}")]
    OtherId { name: String, uid: u32 },
    #[error("user '{name}' is not available in this sandbox: its ids {uid}:{gid} are not below {IDS}")]
    NotMapped { name: String, uid: u32, gid: u32 },
    #[error("the Authorization header is not Basic with a user name")]
    Malformed,
}

impl Identity {
    /// Asks the system.
    pub(crate) fn of_this_process() -> Self {
        Identity {
            uid: rustix::process::getuid().as_raw(),
            home: std::env::var_os("HOME")
                .filter(|home| !home.is_empty())
                .map(PathBuf::from),
            powers: Powers::of_this_process(),
        }
    }

    /// What this process was given to look after other users.
    pub(crate) fn powers(&self) -> Powers {
        self.powers
    }

    fn resolve(&self, name: &str, passwd: &str) -> Result<User, UserError> {
        if self.powers != Powers::OneUser {
            self.resolve_any(name, passwd)
        } else {
            self.resolve_own(name, passwd)
        }
    }

    /// Finds a user where there are many ids.
    fn resolve_any(&self, name: &str, passwd: &str) -> Result<User, UserError> {
        let found = accounts(passwd).find(|account| account.name == name);
        let (ids, home) = match (found, name) {
            (Some(account), _) => {
                let gid = account.gid.unwrap_or(account.uid);
                (Ids { uid: account.uid, gid }, account.home.into())
            }
            // Images need not know them; clients ask for both all the same.
            (None, "root") => (Ids { uid: 0, gid: 0 }, PathBuf::from("/root")),
            (None, DEFAULT_USER) => {
                let of_that_id = accounts(passwd).find(|account| account.uid == DEFAULT_IDS.uid);
                let gid = of_that_id.as_ref().and_then(|account| account.gid);
                let ids = Ids {
                    gid: gid.unwrap_or(DEFAULT_IDS.gid),
                    ..DEFAULT_IDS
                };
                let home = self
                    .home
                    .clone()
                    .or_else(|| of_that_id.map(|account| account.home.into()));
                (ids, home.unwrap_or_else(|| PathBuf::from("/")))
            }
            _ => return Err(UserError::Unknown(name.to_owned())),
        };
        let name = name.to_owned();
        if ids.uid >= IDS || ids.gid >= IDS {
            let Ids { uid, gid } = ids;
            return Err(UserError::NotMapped { name, uid, gid });
        }
        Ok(User {
            name,
            home,
            ids: Some(ids),
        })
    }

    /// Finds a user where there is one id.
    fn resolve_own(&self, name: &str, passwd: &str) -> Result<User, UserError> {
        let Some(account) = accounts(passwd).find(|account| account.name == name) else {
            // Images need not know E2B's default user; every client asks for it.
            if name != DEFAULT_USER {
                return Err(UserError::Unknown(name.to_owned()));
            }
            let of_own_id = || accounts(passwd).find(|account| account.uid == self.uid);
            let home = self.home.clone().or_else(|| of_own_id().map(|own| own.home.into()));
            return Ok(User {
                name: name.to_owned(),
                home: home.unwrap_or_else(|| PathBuf::from("/")),
                ids: None,
            });
        };
        if account.uid != self.uid {
            return Err(UserError::OtherId {
                name: name.to_owned(),
                uid: self.uid,
            });
        }
        Ok(User {
            name: name.to_owned(),
            home: account.home.into(),
            ids: None,
        })
    }
}

/// Finds the user of a request: the one it names, else the server's default.
pub(crate) fn resolve(agent: &Agent, name: Option<&str>) -> Result<User, UserError> {
    let settings = agent.settings.borrow();
    let name = name
        .filter(|name| !name.is_empty())
        .or(settings.default_user.as_deref())
        .unwrap_or(DEFAULT_USER);
    agent.identity.resolve(name, &read_accounts(Path::new("/etc/passwd")))
}

/// Finds the user of an RPC, from `Authorization: Basic base64("name:")`.
pub(crate) fn of_headers(agent: &Agent, headers: &HeaderMap) -> Result<User, UserError> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return resolve(agent, None);
    };
    let name = value.to_str().ok().and_then(basic_user).ok_or(UserError::Malformed)?;
    resolve(agent, Some(&name))
}

fn basic_user(header: &str) -> Option<String> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    Some(text.split_once(':').map_or(text.as_str(), |(name, _)| name).to_owned())
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: Option<u32>,
    home: &'a str,
}

/// Lines of passwd(5); those that make no sense are left out.
fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        let gid = fields.next().and_then(|gid| gid.parse().ok());
        let home = fields.nth(1).filter(|home| !home.is_empty()).unwrap_or("/");
        Some(Account { name, uid, gid, home })
    })
}

/// Reads passwd or group; the sandbox's programs may have made it anything, so never more than a bounded part.
pub(crate) fn read_accounts(path: &Path) -> String {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    if let Ok(file) = crate::paths::open_regular(path) {
        // What could be read is used: a missing account is then an unknown user.
        let _read = file.take(MAX_ACCOUNTS_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Finds the name of an id in passwd or group; the number when there is none.
pub(crate) fn name_of(id: u32, accounts_file: &str) -> String {
    accounts_file
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
        })
        .unwrap_or_else(|| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000::/home/user:/bin/sh\nbroken\nother:x:1000:5::/o:\n";

    fn identity(uid: u32, home: Option<&str>) -> Identity {
        Identity {
            uid,
            home: home.map(PathBuf::from),
            powers: Powers::OneUser,
        }
    }

    #[test]
    fn among_many_ids_every_account_is_accepted() {
        let me = Identity {
            powers: Powers::ManyUsers,
            ..identity(0, None)
        };
        let found = |name: &str, passwd: &str| {
            let user = me.resolve(name, passwd).unwrap();
            let ids = user.ids.unwrap();
            (ids.uid, ids.gid, user.home.to_string_lossy().into_owned())
        };
        assert_eq!(found("root", PASSWD), (0, 0, "/root".to_owned()));
        assert_eq!(found("user", PASSWD), (1000, 1000, "/home/user".to_owned()));
        assert_eq!(found("other", PASSWD), (1000, 5, "/o".to_owned()));
        assert_eq!(found("root", ""), (0, 0, "/root".to_owned()));
        assert_eq!(found("user", ""), (1000, 1000, "/".to_owned()));
        assert_eq!(
            found("user", "ubuntu:x:1000:7::/home/ubuntu:/bin/sh"),
            (1000, 7, "/home/ubuntu".to_owned())
        );
        assert_eq!(me.resolve("1000", PASSWD), Err(UserError::Unknown("1000".to_owned())));
        for passwd in ["far:x:65536:0::/:", "far:x:1:65536::/:", "far:x:4294967295:0::/:"] {
            assert!(
                matches!(me.resolve("far", passwd), Err(UserError::NotMapped { .. })),
                "{passwd}"
            );
        }
    }

    #[test]
    fn users_of_the_own_id_are_accepted() {
        let me = identity(1000, Some("/h"));
        assert_eq!(me.resolve("user", PASSWD).unwrap().home, Path::new("/home/user"));
        assert_eq!(me.resolve("other", PASSWD).unwrap().home, Path::new("/o"));
        let error = me.resolve("root", PASSWD).unwrap_err().to_string();
        assert_eq!(
            error,
            "user 'root' is not available in this sandbox: it has the one user id 1000"
        );
        assert_eq!(
            me.resolve("x", PASSWD).unwrap_err().to_string(),
            "invalid username: 'x'"
        );
    }

    #[test]
    fn default_user_needs_no_account() {
        let without = "root:x:0:0:root:/root:/bin/bash\n";
        assert_eq!(
            identity(7, Some("/h")).resolve("user", without).unwrap().home,
            Path::new("/h")
        );
        assert_eq!(
            identity(0, None).resolve("user", without).unwrap().home,
            Path::new("/root")
        );
        assert_eq!(identity(7, None).resolve("user", "").unwrap().home, Path::new("/"));
    }

    #[test]
    fn basic_header_gives_the_name() {
        assert_eq!(basic_user("Basic dXNlcjo=").as_deref(), Some("user"));
        assert_eq!(basic_user("Bearer dXNlcjo="), None);
        assert_eq!(basic_user("Basic !"), None);
    }

    #[test]
    fn ids_have_names() {
        assert_eq!(name_of(0, PASSWD), "root");
        assert_eq!(name_of(9, PASSWD), "9");
    }
}
