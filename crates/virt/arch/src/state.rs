//! How state is written into snapshots and read back. A snapshot is hostile: each value has its exact length or its bound, checked while
//! it is read and before anything is allocated for it.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// At most `MAX` values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> List<T, MAX> {
    /// A list, or the vector again if it is too long.
    pub(crate) fn new(values: Vec<T>) -> Result<Self, Vec<T>> {
        if values.len() > MAX {
            Err(values)
        } else {
            Ok(Self(values))
        }
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &self.0
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize, const MAX: usize> Serialize for List<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Values<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "at most {MAX} values")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                // The announced length may be a lie: it sizes nothing.
                let mut values = Vec::new();
                while let Some(value) = sequence.next_element()? {
                    if values.len() == MAX {
                        return Err(A::Error::invalid_length(MAX.saturating_add(1), &self));
                    }
                    values.push(value);
                }
                Ok(List(values))
            }
        }

        deserializer.deserialize_seq(Values(PhantomData))
    }
}

/// At most `MAX` bytes, written as hexadecimal digits: a third of what a list of numbers takes, and readable.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Hex<const MAX: usize>(Vec<u8>);

impl<const MAX: usize> Hex<MAX> {
    /// The bytes, or nothing if there are too many.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= MAX).then(|| Self(bytes.to_vec()))
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize> fmt::Debug for Hex<MAX> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

impl<const MAX: usize> Serialize for Hex<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble });
        let text: String = self
            .0
            .iter()
            .flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)])
            .collect();
        serializer.serialize_str(&text)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Hex<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits<const MAX: usize>;

        impl<const MAX: usize> Visitor<'_> for Digits<MAX> {
            type Value = Hex<MAX>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "at most {MAX} bytes as pairs of hexadecimal digits")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                if text.len() > MAX.saturating_mul(2) {
                    return Err(E::invalid_length(text.len(), &self));
                }
                let (pairs, rest) = text.as_bytes().as_chunks::<2>();
                if !rest.is_empty() {
                    return Err(E::invalid_length(text.len(), &self));
                }
                let bytes = pairs.iter().map(|pair| byte(*pair)).collect::<Option<Vec<u8>>>();
                bytes.map(Hex).ok_or_else(|| E::custom("not a hexadecimal digit"))
            }
        }

        deserializer.deserialize_str(Digits)
    }
}

/// The byte that two lower-case hexadecimal digits are.
const fn byte(pair: [u8; 2]) -> Option<u8> {
    let [high, low] = pair;
    match (nibble(high), nibble(low)) {
        (Some(high), Some(low)) => Some(high << 4 | low),
        _ => None,
    }
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Serialises a structure of KVM's as its bytes, which have exactly its length; for `#[serde(with = "…")]`.
#[cfg(target_arch = "x86_64")]
pub(crate) mod raw {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use zerocopy::{FromBytes, Immutable, IntoBytes};

    use super::Hex;

    /// Longer than any structure of fixed size that KVM has (`kvm_xsave`).
    const MAX_BYTES: usize = 4096;

    pub(crate) fn serialize<T: IntoBytes + Immutable, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Hex::<MAX_BYTES>(value.as_bytes().to_vec()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: FromBytes, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let bytes = Hex::<MAX_BYTES>::deserialize(deserializer)?;
        T::read_from_bytes(bytes.as_slice()).map_err(|_| {
            let wanted = format!("{} bytes", size_of::<T>());
            D::Error::invalid_length(bytes.as_slice().len(), &wanted.as_str())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_bytes_are_bounded() {
        let list: List<u8, 2> = serde_json::from_str("[1, 2]").unwrap();
        assert_eq!(list.as_slice(), [1, 2]);
        let error = serde_json::from_str::<List<u8, 2>>("[1, 2, 3]").unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid length 3, expected at most 2 values at line 1 column 9"
        );
        assert!(List::<u8, 2>::new(vec![0; 3]).is_err());
        for bad in ["\"a\"", "\"AB\"", "\"0102030\"", "\"010203\"", "[1]", "\"é\""] {
            assert!(serde_json::from_str::<Hex<2>>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_read_as_written() {
        let bytes = Hex::<4>::new(&[0, 0x9a, 0xff]).unwrap();
        let text = serde_json::to_string(&bytes).unwrap();
        assert_eq!(text, "\"009aff\"");
        assert_eq!(serde_json::from_str::<Hex<4>>(&text).unwrap(), bytes);
    }
}
