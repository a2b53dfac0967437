//! Session tokens: when they end, and a code over that (HMAC-SHA-256, RFC 2104) with a key that is made at random when the machine is made
//! and kept nowhere else. So nothing is stored for a token, and those of another machine, or of the machine that a snapshot was taken of, are
//! not good here.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Bytes of the key: a block of the hash (RFC 2104 §3: a shorter one is filled up with zeros).
const KEY_BYTES: usize = 64;
/// Bytes of the time at which a token ends.
const END_BYTES: usize = 8;
/// Bytes of a token before it becomes text.
const TOKEN_BYTES: usize = END_BYTES + 32;
/// Longest life of a token in seconds: 6 hours (Firecracker, docs/mmds/mmds-user-guide.md).
const MAX_TTL_SECONDS: u64 = 21_600;

/// Makes and checks tokens.
pub(crate) struct Tokens {
    key: [u8; KEY_BYTES],
    begun: Instant,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the key.
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// How long a token is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ttl(u64);

impl Ttl {
    /// A number of seconds in decimal digits, from 1 to 6 hours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = text.parse().ok().filter(|_| is_number)?;
        (1..=MAX_TTL_SECONDS).contains(&seconds).then_some(Self(seconds))
    }

    pub(crate) const fn seconds(self) -> u64 {
        self.0
    }
}

impl Tokens {
    /// With a new key.
    pub(crate) fn new(now: Instant) -> rustix::io::Result<Self> {
        let mut key = [0; KEY_BYTES];
        crate::service::fill_random(&mut key)?;
        Ok(Self { key, begun: now })
    }

    /// A token that is good for so long.
    pub(crate) fn issue(&self, ttl: Ttl, now: Instant) -> String {
        let end = self.elapsed(now).saturating_add(Duration::from_secs(ttl.0));
        let end = u64::try_from(end.as_millis()).unwrap_or(0).to_be_bytes();
        let mut token = end.to_vec();
        token.extend(self.code(end).finalize().into_bytes());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Whether a token is one of ours and hasn't ended.
    pub(crate) fn is_good(&self, token: &str, now: Instant) -> bool {
        let mut bytes = [0; TOKEN_BYTES];
        if URL_SAFE_NO_PAD.decode_slice(token, &mut bytes) != Ok(TOKEN_BYTES) {
            return false;
        }
        let Some((end, code)) = bytes.split_first_chunk::<END_BYTES>() else {
            return false;
        };
        // In a time that does not depend on the code.
        self.code(*end).verify_slice(code).is_ok()
            && Duration::from_millis(u64::from_be_bytes(*end)) > self.elapsed(now)
    }

    fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun)
    }

    fn code(&self, end: [u8; END_BYTES]) -> Hmac<Sha256> {
        let mut code = Hmac::<Sha256>::new(&self.key.into());
        code.update(&end);
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_until_it_ends() {
        let now = Instant::now();
        let tokens = Tokens::new(now).unwrap();
        let token = tokens.issue(Ttl(10), now);
        assert_eq!(token.len(), 54);
        assert!(tokens.is_good(&token, now));
        assert!(tokens.is_good(&token, now + Duration::from_millis(9_999)));
        assert!(!tokens.is_good(&token, now + Duration::from_secs(10)));
        assert!(!Tokens::new(now).unwrap().is_good(&token, now), "another machine's");
    }

    #[test]
    fn no_byte_of_a_token_may_differ() {
        let now = Instant::now();
        let tokens = Tokens::new(now).unwrap();
        let token = tokens.issue(Ttl(10), now);
        for index in 0..token.len() {
            for byte in [b'A', b'_', b'+', b'=', b' '] {
                let mut changed = token.clone().into_bytes();
                if changed[index] != byte {
                    changed[index] = byte;
                    assert!(!tokens.is_good(&String::from_utf8(changed).unwrap(), now));
                }
            }
        }
        for changed in ["", "AAAA", &format!("{token}A"), &token[1..], &format!("{token}=")] {
            assert!(!tokens.is_good(changed, now), "{changed}");
        }
    }

    #[test]
    fn lives_of_tokens() {
        assert_eq!(Ttl::parse("1"), Some(Ttl(1)));
        assert_eq!(Ttl::parse("21600"), Some(Ttl(21_600)));
        for bad in ["", "0", "21601", "-1", "+1", "1.5", "1s", " 1", "99999999999999999999"] {
            assert_eq!(Ttl::parse(bad), None, "{bad:?}");
        }
    }
}
