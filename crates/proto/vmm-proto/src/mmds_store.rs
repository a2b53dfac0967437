//! `/mmds`: the metadata itself. A JSON object, replaced by PUT and merged by PATCH (RFC 7396), bounded in bytes.

use serde_json::{Map, Value};

use crate::fault::{Fault, FaultStatus};

/// The metadata. Its depth is bounded by the JSON reader's, because merging never nests deeper than the deeper of the two.
#[derive(Debug, Clone, PartialEq)]
pub struct MmdsStore {
    value: Option<Map<String, Value>>,
    max_bytes: usize,
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
}
