//! The metadata filter of list calls: percent-encoded three times over by E2B's clients. The query's own encoding is undone by the query
//! parser, then the text is a form (`k=v&k2=v2`), whose parts are themselves encoded.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// Most pairs taken.
const MAX_PAIRS: usize = 64;

/// A filter that can't be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParseMetadataError {
    /// A part is no pair.
    #[error("metadata: {0:?} is not key=value")]
    NoPair(String),
    /// A part is not UTF-8 once decoded.
    #[error("metadata: not UTF-8")]
    NoText,
    /// Too many pairs.
    #[error("metadata: more than {MAX_PAIRS} pairs")]
    TooMany,
}

/// Reads the value of the query's `metadata`, decoded once.
///
/// # Errors
/// [`ParseMetadataError`].
pub fn parse_metadata(text: &str) -> Result<BTreeMap<String, String>, ParseMetadataError> {
    let mut pairs = BTreeMap::new();
    for part in text.split('&').filter(|part| !part.is_empty()) {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| ParseMetadataError::NoPair(part.chars().take(64).collect()))?;
        if pairs.len() >= MAX_PAIRS {
            return Err(ParseMetadataError::TooMany);
        }
        pairs.insert(decode(&decode_form(key)?)?, decode(&decode_form(value)?)?);
    }
    Ok(pairs)
}

fn decode_form(text: &str) -> Result<String, ParseMetadataError> {
    decode(&text.replace('+', " "))
}

fn decode(text: &str) -> Result<String, ParseMetadataError> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| ParseMetadataError::NoText)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_clients_send_is_read() {
        // {"a":"b c"} goes over the wire as a%3Db%252520c; the query parser has undone one encoding.
        assert_eq!(
            parse_metadata("a=b%2520c").unwrap(),
            BTreeMap::from([("a".into(), "b c".into())])
        );
        assert_eq!(parse_metadata("").unwrap(), BTreeMap::new());
        assert_eq!(parse_metadata("a"), Err(ParseMetadataError::NoPair("a".into())));
        assert_eq!(parse_metadata("a=%25FF"), Err(ParseMetadataError::NoText));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".*") {
            drop(parse_metadata(&text));
        }
    }
}
