//! Ids and secrets from the kernel's random numbers.

use rustix::rand::{GetRandomFlags, getrandom};

/// Digits of ids: lower case, because ids become host names.
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Returns random bytes. Blocks only before the kernel's pool is ready for the first time after boot.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // Reads of up to 256 bytes are neither cut short nor interrupted once the pool is ready (getrandom(2)).
        if let Ok(count) = getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            filled += count;
        }
    }
    bytes
}

fn text<const N: usize>(prefix: &str) -> String {
    let digits = random::<N>().map(|byte| char::from(DIGITS[usize::from(byte & 31)]));
    prefix.chars().chain(digits).collect()
}

/// An id of a sandbox: 95 random bits; a valid label of a host name and a valid sandbox name.
pub(crate) fn sandbox() -> String {
    text::<19>("i")
}

/// An id of a layer.
pub(crate) fn layer() -> String {
    text::<19>("l")
}

/// An id of a template.
pub(crate) fn template() -> String {
    text::<19>("t")
}

/// An id of a snapshot.
pub(crate) fn snapshot() -> String {
    text::<19>("s")
}

/// A secret of 256 bits, as hexadecimal digits.
pub(crate) fn secret() -> String {
    hex(&random::<32>())
}

/// An API key: the form that E2B clients check for.
pub(crate) fn api_key() -> String {
    format!("e2b_{}", hex(&random::<20>()))
}

/// Returns bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_and_differ() {
        let (one, two) = (sandbox(), sandbox());
        assert_ne!(one, two);
        assert_eq!(one.len(), 20);
        assert!(one.parse::<ringwall_types::SandboxName>().is_ok());
        assert_eq!(api_key().len(), 44);
    }
}
