//! `/mmds`: the metadata itself. A JSON object, replaced by PUT and merged by PATCH (RFC 7396), bounded in bytes.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};

use crate::fault::{Fault, FaultStatus};

/// The metadata, which clients of the API change while guests read it. Held for single reads and changes only.
pub type SharedStore = Arc<Mutex<MmdsStore>>;

/// The metadata. Its depth is bounded by the JSON reader's, because merging never nests deeper than the deeper of the two.
#[derive(Debug, Clone, PartialEq)]
pub struct MmdsStore {
    value: Option<Map<String, Value>>,
    max_bytes: usize,
}

/// How metadata is written for a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataFormat {
    /// JSON.
    Json,
    /// As EC2's service has it: a text for a string, and for an object its keys, one a line, those of objects with a slash behind them.
    Imds,
}

/// Why metadata can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadMetadataError {
    /// There is nothing at the path.
    #[error("there is no such metadata")]
    NotFound,
    /// Neither a string nor an object.
    #[error("that metadata is no text and has no keys; ask for application/json")]
    NoText,
}

/// Why metadata wasn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreMetadataError {
    /// It is too long.
    #[error("the metadata would have more than {max} bytes")]
    TooLong {
        /// The bound in bytes.
        max: usize,
    },
    /// There is nothing to merge with.
    #[error("there is no metadata yet; PUT it first")]
    Empty,
}

impl From<StoreMetadataError> for Fault {
    fn from(error: StoreMetadataError) -> Self {
        let status = match error {
            StoreMetadataError::TooLong { .. } => FaultStatus::PayloadTooLarge,
            StoreMetadataError::Empty => FaultStatus::BadRequest,
        };
        Self::new(status, &error)
    }
}

impl MmdsStore {
    /// An empty store that takes up to `max_bytes` of JSON.
    pub const fn new(max_bytes: usize) -> Self {
        Self { value: None, max_bytes }
    }

    /// The metadata, `{}` if there is none.
    pub fn value(&self) -> Value {
        Value::Object(self.value.clone().unwrap_or_default())
    }

    /// What a guest gets at a path: a JSON Pointer (RFC 6901), in which slashes may be doubled, or be at the end.
    ///
    /// # Errors
    /// There is nothing, or nothing that the format can say. With no metadata at all there isn't anything at `/` either.
    pub fn read(&self, path: &str, format: MetadataFormat) -> Result<String, ReadMetadataError> {
        let mut keys = path.split('/').filter(|key| !key.is_empty());
        let whole = self.value.as_ref().ok_or(ReadMetadataError::NotFound)?;
        let Some(first) = keys.next() else {
            return Ok(match format {
                MetadataFormat::Json => json(whole)?,
                MetadataFormat::Imds => listing(whole),
            });
        };
        let mut value = whole.get(&*unescaped(first)).ok_or(ReadMetadataError::NotFound)?;
        for key in keys {
            value = member(value, &unescaped(key)).ok_or(ReadMetadataError::NotFound)?;
        }
        match (format, value) {
            (MetadataFormat::Json, value) => json(value),
            (MetadataFormat::Imds, Value::String(text)) => Ok(text.clone()),
            (MetadataFormat::Imds, Value::Object(object)) => Ok(listing(object)),
            (MetadataFormat::Imds, _) => Err(ReadMetadataError::NoText),
        }
    }

    /// Replaces the metadata.
    ///
    /// # Errors
    /// [`StoreMetadataError::TooLong`]; the old metadata stays.
    pub fn put(&mut self, value: Map<String, Value>) -> Result<(), StoreMetadataError> {
        self.value = Some(self.bounded(value)?);
        Ok(())
    }

    /// Merges into the metadata.
    ///
    /// # Errors
    /// [`StoreMetadataError::Empty`], [`StoreMetadataError::TooLong`]; the old metadata stays.
    pub fn patch(&mut self, patch: Map<String, Value>) -> Result<(), StoreMetadataError> {
        let mut merged = self.value.clone().ok_or(StoreMetadataError::Empty)?;
        merge(&mut merged, patch);
        self.value = Some(self.bounded(merged)?);
        Ok(())
    }

    fn bounded(&self, value: Map<String, Value>) -> Result<Map<String, Value>, StoreMetadataError> {
        match serde_json::to_string(&value) {
            Ok(text) if text.len() <= self.max_bytes => Ok(value),
            // A map of values always serializes; were it not so, it couldn't be answered either.
            Ok(_) | Err(_) => Err(StoreMetadataError::TooLong { max: self.max_bytes }),
        }
    }
}

/// What cannot be written can't be read; a value of strings, numbers and objects always can.
fn json(value: &impl serde::Serialize) -> Result<String, ReadMetadataError> {
    serde_json::to_string(value).map_err(|_| ReadMetadataError::NoText)
}

/// The keys of an object.
fn listing(object: &Map<String, Value>) -> String {
    let mut text = String::new();
    for (key, value) in object {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(key);
        if value.is_object() {
            text.push('/');
        }
    }
    text
}

/// A part of a JSON Pointer as the key that it means (RFC 6901 §4).
fn unescaped(part: &str) -> Cow<'_, str> {
    if part.contains('~') {
        Cow::Owned(part.replace("~1", "/").replace("~0", "~"))
    } else {
        Cow::Borrowed(part)
    }
}

/// What an object or array has at a key.
fn member<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(object) => object.get(key),
        Value::Array(array) => {
            // Digits without a zero before them (RFC 6901 §4).
            let is_index = key == "0" || (!key.starts_with('0') && key.bytes().all(|byte| byte.is_ascii_digit()));
            array.get(key.parse::<usize>().ok().filter(|_| is_index)?)
        }
        _ => None,
    }
}

/// RFC 7396 §2: objects merge, null removes, everything else replaces.
fn merge(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(&key);
            }
            Value::Object(patch) => {
                let entry = target.entry(key).or_insert(Value::Null);
                if !entry.is_object() {
                    *entry = Value::Object(Map::new());
                }
                if let Value::Object(inner) = entry {
                    merge(inner, patch);
                }
            }
            other => {
                target.insert(key, other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn patches_merge_as_rfc_7396_says() {
        // Appendix A's examples whose documents are objects.
        for (original, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r"{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            (r"{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            let mut store = MmdsStore::new(1000);
            store.put(object(original)).unwrap();
            store.patch(object(patch)).unwrap();
            assert_eq!(store.value(), Value::Object(object(result)), "{original} {patch}");
        }
    }

    #[test]
    fn what_does_not_fit_leaves_the_old_metadata() {
        let mut store = MmdsStore::new(12);
        assert_eq!(store.patch(object("{}")), Err(StoreMetadataError::Empty));
        assert_eq!(store.value(), Value::Object(Map::new()));
        store.put(object(r#"{"a":"1234"}"#)).unwrap();
        assert_eq!(
            store.put(object(r#"{"a":"12345"}"#)),
            Err(StoreMetadataError::TooLong { max: 12 })
        );
        assert_eq!(
            store.patch(object(r#"{"b":1}"#)),
            Err(StoreMetadataError::TooLong { max: 12 })
        );
        assert_eq!(store.value(), Value::Object(object(r#"{"a":"1234"}"#)));
    }

    const TREE: &str = r#"{
        "latest": {"meta-data": {"ami-id": "ami-1", "macs": {"02:29": {}}, "n": 5, "list": ["a", {"b": "c"}]}, "user-data": "two\nlines"},
        "a/b": "slash", "c~d": "tilde", "empty": "", "none": null
    }"#;

    #[test]
    fn guests_read_texts_and_lists_of_keys() {
        let mut store = MmdsStore::new(1000);
        store.put(object(TREE)).unwrap();
        for (path, expected) in [
            ("/", Ok("a/b\nc~d\nempty\nlatest/\nnone")),
            ("", Ok("a/b\nc~d\nempty\nlatest/\nnone")),
            ("/latest", Ok("meta-data/\nuser-data")),
            ("/latest/meta-data/", Ok("ami-id\nlist\nmacs/\nn")),
            ("//latest//meta-data", Ok("ami-id\nlist\nmacs/\nn")),
            ("/latest/meta-data/ami-id", Ok("ami-1")),
            ("/latest/meta-data/macs", Ok("02:29/")),
            ("/latest/meta-data/macs/02:29/", Ok("")),
            ("/latest/user-data", Ok("two\nlines")),
            ("/latest/meta-data/list/1/b", Ok("c")),
            ("/a~1b", Ok("slash")),
            ("/c~0d", Ok("tilde")),
            ("/empty", Ok("")),
            ("/none", Err(ReadMetadataError::NoText)),
            ("/latest/meta-data/n", Err(ReadMetadataError::NoText)),
            ("/latest/meta-data/list", Err(ReadMetadataError::NoText)),
            ("/latest/meta-data/list/01", Err(ReadMetadataError::NotFound)),
            ("/latest/meta-data/list/2", Err(ReadMetadataError::NotFound)),
            ("/latest/meta-data/list/-", Err(ReadMetadataError::NotFound)),
            ("/latest/meta-data/list/+1", Err(ReadMetadataError::NotFound)),
            ("/latest/meta-data/ami-id/x", Err(ReadMetadataError::NotFound)),
            ("/a/b", Err(ReadMetadataError::NotFound)),
            ("/other", Err(ReadMetadataError::NotFound)),
        ] {
            let read = store.read(path, MetadataFormat::Imds);
            assert_eq!(read.as_deref().map_err(|error| *error), expected, "{path}");
        }
    }

    #[test]
    fn guests_read_json_of_anything() {
        let mut store = MmdsStore::new(1000);
        assert_eq!(store.read("/", MetadataFormat::Json), Err(ReadMetadataError::NotFound));
        assert_eq!(store.read("/", MetadataFormat::Imds), Err(ReadMetadataError::NotFound));
        store.put(object(TREE)).unwrap();
        for (path, expected) in [
            ("/latest/meta-data/ami-id", r#""ami-1""#),
            ("/latest/meta-data/n", "5"),
            ("/latest/meta-data/list", r#"["a",{"b":"c"}]"#),
            ("/none", "null"),
            ("/latest/meta-data/macs/", r#"{"02:29":{}}"#),
        ] {
            assert_eq!(
                store.read(path, MetadataFormat::Json).as_deref(),
                Ok(expected),
                "{path}"
            );
        }
        let whole = store.read("/", MetadataFormat::Json).unwrap();
        assert_eq!(object(&whole), object(TREE));
    }
}
