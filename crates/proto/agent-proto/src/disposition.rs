//! The file name in a part of a multipart upload. Kept whole: E2B clients put a path with slashes there.

use percent_encoding::percent_decode_str;

/// The parameters of a `Content-Disposition` header that uploads use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disposition {
    /// The form field.
    pub name: Option<String>,
    /// The path; `filename*` wins over `filename` (RFC 6266 §4.3).
    pub filename: Option<String>,
}

/// Reads the value of a `Content-Disposition` header. What can't be understood is left out.
#[must_use]
pub fn parse(header: &str) -> Disposition {
    let mut found = Disposition::default();
    let mut extended = None;
    let mut rest = header.split_once(';').map_or("", |(_, rest)| rest);
    while let Some((key, value)) = rest.split_once('=') {
        let (value, after) = take_value(value);
        match key.trim().trim_start_matches(';').trim().to_ascii_lowercase().as_str() {
            "name" => found.name = Some(value),
            "filename" => found.filename = Some(value),
            "filename*" => extended = decode_extended(&value),
            _ => {}
        }
        rest = after;
    }
    found.filename = extended.or(found.filename);
    found
}

/// Takes a token or a quoted string; returns it and what follows.
fn take_value(text: &str) -> (String, &str) {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, after) = text.split_once(';').unwrap_or((text, ""));
        return (value.trim().to_owned(), after);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(at.saturating_add(1)..).unwrap_or("")),
            // Only these two are escapes: browsers send a lone backslash as itself.
            '\\' if matches!(characters.clone().next(), Some((_, '"' | '\\'))) => {
                value.extend(characters.next().map(|(_, escaped)| escaped));
            }
            _ => value.push(character),
        }
    }
    (value, "")
}

/// Decodes `UTF-8'lang'percent%20encoded` (RFC 8187).
fn decode_extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_, encoded) = rest.split_once('\'')?;
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    percent_decode_str(encoded).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filename(header: &str) -> Option<String> {
        parse(header).filename
    }

    #[test]
    fn directories_stay() {
        let found = parse(r#"form-data; name="file"; filename="/tmp/a dir/b;c=.txt""#);
        assert_eq!(found.name.as_deref(), Some("file"));
        assert_eq!(found.filename.as_deref(), Some("/tmp/a dir/b;c=.txt"));
    }

    #[test]
    fn escapes_tokens_and_extended_names() {
        assert_eq!(filename(r#"form-data; filename="a\"b""#).as_deref(), Some("a\"b"));
        assert_eq!(
            filename("form-data; filename=plain; name=file").as_deref(),
            Some("plain")
        );
        assert_eq!(
            filename("form-data; filename=x; filename*=UTF-8''%2Ftmp%2F%c3%a9").as_deref(),
            Some("/tmp/é")
        );
        assert_eq!(filename("form-data"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in ".*") {
            let found = parse(&text);
            proptest::prop_assert!(found.filename.is_none_or(|name| name.len() <= text.len()));
        }
    }
}
