//! E2B's shapes on the wire (field names and casing are theirs), and how they become ours and back.

mod sandbox;
mod template;

pub(crate) use sandbox::*;
pub(crate) use template::*;

/// A moment as RFC 3339 text.
pub(crate) fn time(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| "9999-12-31T23:59:59Z".to_owned(), |time| time.to_string())
}
