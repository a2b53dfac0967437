//! JSON of a client to typed values. `serde_json` bounds the depth (128) and refuses duplicate fields of a struct; the length is bounded by
//! whoever read the body.

use serde::de::DeserializeOwned;

use crate::error::RequestError;

/// Reads a whole body as a `T`, which must be an object: serde would take a list of a struct's fields too.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, RequestError> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    if first.is_some_and(|byte| *byte != b'{') {
        return Err(RequestError::NotObject);
    }
    serde_json::from_slice(body).map_err(RequestError::Json)
}
