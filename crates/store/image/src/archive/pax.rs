//! PAX extension records, `LENGTH KEY=VALUE\n` each (POSIX.1-2001, pax, "pax Extended Header").
//!
//! Records are cut by their length, never at line ends: attribute values are binary.

use crate::archive::error::ReadArchiveError;

/// What the records of one entry say. Unknown keys are left out.
#[derive(Debug, Default, Clone)]
pub(crate) struct PaxRecords {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) modified: Option<(i64, u32)>,
    /// Extended attributes, names without the `SCHILY.xattr.` before them.
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether the entry is a sparse file in one of GNU tar's PAX forms.
    pub(crate) is_sparse: bool,
}

/// Reads all records of the header at `offset`.
pub(crate) fn parse(data: &[u8], offset: u64) -> Result<PaxRecords, ReadArchiveError> {
    let malformed = || ReadArchiveError::Pax { offset };
    let mut records = PaxRecords::default();
    let mut rest = data;
    while !rest.is_empty() {
        let (record, after) = split(rest).ok_or_else(malformed)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(malformed)?;
        let (key, value) = record.split_at_checked(equals).ok_or_else(malformed)?;
        let value = value.get(1..).ok_or_else(malformed)?;
        if key.is_empty() {
            return Err(malformed());
        }
        note(&mut records, key, value).ok_or_else(malformed)?;
        rest = after;
    }
    Ok(records)
}

/// Cuts off the first record, without its length and line end.
fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = data.iter().take(12).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(data.get(..blank)?)?).ok()?;
    let (record, after) = data.split_at_checked(length)?;
    let record = record.get(blank.checked_add(1)?..)?.strip_suffix(b"\n")?;
    Some((record, after))
}

/// Notes one record; `None` if its value is malformed. An empty value takes an earlier one back.
fn note(records: &mut PaxRecords, key: &[u8], value: &[u8]) -> Option<()> {
    let number = |value: &[u8]| {
        if value.is_empty() {
            Some(None)
        } else {
            decimal(value).map(Some)
        }
    };
    match key {
        b"path" => records.path = Some(value.to_vec()).filter(|value| !value.is_empty()),
        b"linkpath" => records.link = Some(value.to_vec()).filter(|value| !value.is_empty()),
        b"size" => records.size = number(value)?,
        b"uid" => records.uid = number(value)?,
        b"gid" => records.gid = number(value)?,
        b"mtime" if value.is_empty() => records.modified = None,
        b"mtime" => records.modified = Some(time(value)?),
        _ if key.starts_with(b"GNU.sparse.") => records.is_sparse = true,
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                records.attributes.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Some(())
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, &byte| {
        let digit = byte.checked_sub(b'0').filter(|&digit| digit < 10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Reads `-12.5` as 13 seconds before the epoch and half a second after that: nanoseconds count upwards.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanos = 0_u32;
    if let Some(fraction) = parts.next() {
        let mut digits = fraction.iter();
        for _ in 0..9 {
            let digit = match digits.next() {
                Some(byte) => byte.checked_sub(b'0').filter(|&digit| digit < 10)?,
                None => 0,
            };
            nanos = nanos * 10 + u32::from(digit);
        }
        if !digits.all(u8::is_ascii_digit) {
            return None;
        }
    }
    match (is_negative, nanos) {
        (false, _) => Some((seconds, nanos)),
        (true, 0) => Some((seconds.checked_neg()?, 0)),
        (true, _) => Some((seconds.checked_neg()?.checked_sub(1)?, 1_000_000_000 - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_cut_by_length() {
        let data = b"30 SCHILY.xattr.user.a=1\n2=\n3\n19 path=some/where\n";
        let records = parse(data, 0).expect("valid");
        assert_eq!(records.attributes, [(b"user.a".to_vec(), b"1\n2=\n3".to_vec())]);
        assert_eq!(records.path.as_deref(), Some(&b"some/where"[..]));
    }

    #[test]
    fn malformed_records_are_errors() {
        for data in [
            &b"x"[..],
            b"5 a=b",
            b"999 a=b\n",
            b"0 a=b\n",
            b"6 a=b\n\n",
            b"5 =b\n",
            b"6 size\n",
            b"10 size=x\n",
            b"99999999999999999999 a=b\n",
            b"12 size=-1\n",
        ] {
            assert!(parse(data, 0).is_err(), "{}", String::from_utf8_lossy(data));
        }
    }

    #[test]
    fn times_have_fractions_and_signs() {
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-12.5"), Some((-13, 500_000_000)));
        assert_eq!(time(b"1.1234567891"), Some((1, 123_456_789)));
        assert_eq!(time(b"1.x"), None);
        assert_eq!(time(b""), None);
    }
}
