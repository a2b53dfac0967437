//! Signed file URLs: the proof that whoever made the URL held the sandbox's access token.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// What a signed URL allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `GET /files`.
    Read,
    /// `POST /files`.
    Write,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
        }
    }
}

/// What is signed. `path` and `user` are the query's own text: clients sign what they send, before the server resolves it.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The `path` of the query.
    pub path: &'a str,
    /// Which method.
    pub operation: Operation,
    /// The `username` of the query, empty when there is none.
    pub user: &'a str,
    /// When the URL stops working, in seconds since 1970; never when `None`.
    pub expires_at: Option<i64>,
}

/// Why a URL was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Neither token nor signature.
    #[error("missing signature query parameter")]
    Missing,
    /// The signature does not fit.
    #[error("invalid signature")]
    Invalid,
    /// It fitted once.
    #[error("signature is already expired")]
    Expired,
}

/// Signs a claim with the sandbox's access token.
#[must_use]
pub fn sign(claim: &Claim<'_>, token: &str) -> String {
    let mut text = format!("{}:{}:{}:{token}", claim.path, claim.operation.name(), claim.user);
    if let Some(expires_at) = claim.expires_at {
        text.push_str(&format!(":{expires_at}"));
    }
    format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)))
}

/// Checks the signature of a claim at the time `now`, in seconds since 1970.
///
/// # Errors
/// [`SignatureError`].
pub fn verify(claim: &Claim<'_>, signature: Option<&str>, token: &str, now: i64) -> Result<(), SignatureError> {
    let signature = signature.ok_or(SignatureError::Missing)?;
    if !same(signature, &sign(claim, token)) {
        return Err(SignatureError::Invalid);
    }
    // Only after the signature: otherwise an unsigned time would be judged.
    match claim.expires_at {
        Some(expires_at) if expires_at < now => Err(SignatureError::Expired),
        _ => Ok(()),
    }
}

/// Compares two secrets in a time that tells nothing but whether their lengths differ.
#[must_use]
pub fn same(given: &str, wanted: &str) -> bool {
    given.as_bytes().ct_eq(wanted.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: Claim<'_> = Claim {
        path: "/tmp/a b",
        operation: Operation::Read,
        user: "user",
        expires_at: None,
    };

    #[test]
    fn signature_is_sha256_in_unpadded_base64() {
        // printf '/tmp/a b:read:user:secret' | sha256sum | xxd -r -p | base64 | tr -d =
        let expected = STANDARD_NO_PAD.encode(Sha256::digest(b"/tmp/a b:read:user:secret"));
        assert_eq!(sign(&CLAIM, "secret"), format!("v1_{expected}"));
        assert_eq!(expected.len(), 43);
    }

    #[test]
    fn anything_else_changes_the_signature() {
        let good = sign(&CLAIM, "secret");
        assert_eq!(verify(&CLAIM, Some(&good), "secret", 5), Ok(()));
        assert_eq!(verify(&CLAIM, None, "secret", 5), Err(SignatureError::Missing));
        assert_eq!(verify(&CLAIM, Some(&good), "other", 5), Err(SignatureError::Invalid));
        let write = Claim {
            operation: Operation::Write,
            ..CLAIM
        };
        assert_eq!(verify(&write, Some(&good), "secret", 5), Err(SignatureError::Invalid));
    }

    #[test]
    fn expiry_is_signed_and_checked() {
        let claim = Claim {
            expires_at: Some(100),
            ..CLAIM
        };
        let good = sign(&claim, "secret");
        assert_eq!(verify(&claim, Some(&good), "secret", 100), Ok(()));
        assert_eq!(verify(&claim, Some(&good), "secret", 101), Err(SignatureError::Expired));
        let later = Claim {
            expires_at: Some(1000),
            ..CLAIM
        };
        assert_eq!(verify(&later, Some(&good), "secret", 101), Err(SignatureError::Invalid));
    }
}
