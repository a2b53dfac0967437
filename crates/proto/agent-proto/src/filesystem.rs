//! Messages of the service `filesystem.Filesystem`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::{int64, nullable, uint32};
use crate::process::Empty;

/// Name of the service in paths.
pub const SERVICE: &str = "filesystem.Filesystem";

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FileType {
    /// A device, a socket, a pipe.
    #[default]
    #[serde(rename = "FILE_TYPE_UNSPECIFIED")]
    Unspecified,
    /// A regular file.
    #[serde(rename = "FILE_TYPE_FILE")]
    File,
    /// A directory.
    #[serde(rename = "FILE_TYPE_DIRECTORY")]
    Directory,
    /// A symbolic link whose target can't be resolved.
    #[serde(rename = "FILE_TYPE_SYMLINK")]
    Symlink,
}

/// Everything known of one path. For a symbolic link, `kind`, `mode` and `size` are the target's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EntryInfo {
    /// Last component.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: FileType,
    /// Absolute path.
    pub path: String,
    /// Size in bytes.
    #[serde(with = "int64")]
    pub size: i64,
    /// Permission bits.
    pub mode: u32,
    /// The same as `ls -l` writes them.
    pub permissions: String,
    /// Name of the user, or the number.
    pub owner: String,
    /// Name of the group, or the number.
    pub group: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified_time: Option<String>,
    /// Where a symbolic link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
    /// What uploads stored with it.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Whether the path itself is a symbolic link.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_symlink: bool,
}

/// Request of `Stat`, `MakeDir`, `Remove`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PathRequest {
    /// Which.
    #[serde(deserialize_with = "nullable")]
    pub path: String,
}

/// Request of `Move`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MoveRequest {
    /// From.
    #[serde(deserialize_with = "nullable")]
    pub source: String,
    /// To.
    #[serde(deserialize_with = "nullable")]
    pub destination: String,
}

/// Request of `ListDir`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ListDirRequest {
    /// Which.
    #[serde(deserialize_with = "nullable")]
    pub path: String,
    /// How many levels; 0 means 1.
    #[serde(deserialize_with = "uint32::deserialize")]
    pub depth: u32,
}

/// Answer of `Stat`, `MakeDir`, `Move`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EntryResponse {
    /// The entry.
    pub entry: EntryInfo,
}

/// Answer of `ListDir`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ListDirResponse {
    /// Sorted by path.
    pub entries: Vec<EntryInfo>,
}

/// Request of `WatchDir` and `CreateWatcher`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WatchRequest {
    /// Which directory.
    #[serde(deserialize_with = "nullable")]
    pub path: String,
    /// All below it as well.
    #[serde(deserialize_with = "nullable")]
    pub recursive: bool,
    /// Send what is known of each path with its event.
    #[serde(deserialize_with = "nullable", alias = "include_entry")]
    pub include_entry: bool,
    /// Watch on network file systems too, where changes made elsewhere are not seen.
    #[serde(deserialize_with = "nullable", alias = "allow_network_mounts")]
    pub allow_network_mounts: bool,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventType {
    /// It is new here.
    #[serde(rename = "EVENT_TYPE_CREATE")]
    Create,
    /// Its contents changed.
    #[serde(rename = "EVENT_TYPE_WRITE")]
    Write,
    /// It is gone.
    #[serde(rename = "EVENT_TYPE_REMOVE")]
    Remove,
    /// It has another name now; this is the old one.
    #[serde(rename = "EVENT_TYPE_RENAME")]
    Rename,
    /// Its mode, owner or times changed.
    #[serde(rename = "EVENT_TYPE_CHMOD")]
    Chmod,
}

/// One change below a watched directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemEvent {
    /// Path relative to the watched directory.
    pub name: String,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// What is known of the path, if asked for and still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Box<EntryInfo>>,
}

/// One message of the stream `WatchDir`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchEvent {
    /// The watch is on; always the first.
    Start(Empty),
    /// A change.
    Filesystem(FilesystemEvent),
    /// Nothing, to keep the connection open.
    Keepalive(Empty),
}

impl WatchEvent {
    /// Frames the event for a stream.
    #[must_use]
    pub fn into_frame(self) -> bytes::Bytes {
        crate::envelope::message(&self)
    }
}

/// Answer of `CreateWatcher`, request of `GetWatcherEvents` and `RemoveWatcher`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WatcherRef {
    /// Names the watcher.
    #[serde(deserialize_with = "nullable", alias = "watcher_id")]
    pub watcher_id: String,
}

/// Answer of `GetWatcherEvents`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WatcherEvents {
    /// Since the last call.
    pub events: Vec<FilesystemEvent>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_written_in_protobuf_json() {
        let entry = EntryInfo {
            name: "a".to_owned(),
            kind: FileType::File,
            size: 7,
            ..EntryInfo::default()
        };
        let text = serde_json::to_string(&entry).unwrap();
        assert!(text.contains(r#""type":"FILE_TYPE_FILE""#) && text.contains(r#""size":"7""#));
        assert!(!text.contains("isSymlink"));
        let back: EntryInfo = serde_json::from_str(&text.replace(r#""7""#, "7")).unwrap();
        assert_eq!(back, entry);
    }

    #[test]
    fn watch_events_are_a_oneof() {
        let text = serde_json::to_string(&WatchEvent::Start(Empty {})).unwrap();
        assert_eq!(text, r#"{"start":{}}"#);
        let request: WatchRequest = serde_json::from_str(r#"{"path":"/a","includeEntry":true}"#).unwrap();
        assert!(request.include_entry && !request.recursive);
    }
}
