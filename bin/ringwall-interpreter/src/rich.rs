//! What a kernel shows, a MIME bundle, as E2B's clients expect it: a field for each type they know, the rest in `extra`.

use serde::Serialize;
use serde_json::{Map, Value};

/// Something to show, in every form the kernel offered.
#[derive(Debug, Serialize)]
pub(crate) struct Rich {
    /// Whether it is the cell's value.
    is_main_result: bool,
    /// The forms by the clients' names for them.
    #[serde(flatten)]
    forms: Map<String, Value>,
    /// Forms without a name, by MIME type.
    #[serde(skip_serializing_if = "Map::is_empty")]
    extra: Map<String, Value>,
}

impl Rich {
    /// Sorts a bundle's forms.
    pub(crate) fn from_bundle(bundle: Map<String, Value>, is_main_result: bool) -> Self {
        let mut rich = Self {
            is_main_result,
            forms: Map::new(),
            extra: Map::new(),
        };
        for (mime, value) in bundle {
            let value = join_lines(&mime, value);
            match field(&mime) {
                Some("text") => drop(rich.forms.insert("text".to_owned(), unquote(value))),
                Some(name) => drop(rich.forms.insert(name.to_owned(), value)),
                None => drop(rich.extra.insert(mime, value)),
            }
        }
        rich
    }
}

/// The clients' name for a MIME type.
fn field(mime: &str) -> Option<&'static str> {
    Some(match mime {
        "text/plain" => "text",
        "text/html" => "html",
        "text/markdown" => "markdown",
        "image/svg+xml" => "svg",
        "image/png" => "png",
        "image/jpeg" => "jpeg",
        "application/pdf" => "pdf",
        "text/latex" => "latex",
        "application/json" => "json",
        "application/javascript" => "javascript",
        "application/vnd.e2b.data.v1+json" => "data",
        "application/vnd.e2b.chart.v1+json" => "chart",
        _ => return None,
    })
}

/// Joins text given as a list of lines, which nbformat allows for everything but JSON.
fn join_lines(mime: &str, value: Value) -> Value {
    let is_json = mime == "application/json" || mime.ends_with("+json");
    match &value {
        Value::Array(lines) if !is_json && lines.iter().all(Value::is_string) => {
            Value::String(lines.iter().filter_map(Value::as_str).collect())
        }
        _ => value,
    }
}

/// Takes off one pair of single quotes: the value of a Python string is shown without them, as E2B does.
fn unquote(value: Value) -> Value {
    match value
        .as_str()
        .and_then(|text| text.strip_prefix('\''))
        .and_then(|text| text.strip_suffix('\''))
    {
        Some(text) => Value::String(text.to_owned()),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rich(bundle: Value) -> Value {
        let Value::Object(bundle) = bundle else {
            panic!("a bundle is an object")
        };
        serde_json::to_value(Rich::from_bundle(bundle, true)).unwrap()
    }

    #[test]
    fn every_known_type_has_its_field_and_the_rest_is_extra() {
        let bundle = json!({
            "text/plain": "t", "text/html": "h", "text/markdown": "m", "image/svg+xml": "s", "image/png": "p",
            "image/jpeg": "j", "application/pdf": "f", "text/latex": "l", "application/json": {"a": 1},
            "application/javascript": "js", "application/vnd.e2b.data.v1+json": {"d": []},
            "application/vnd.e2b.chart.v1+json": {"type": "line"}, "application/vnd.x+json": [1],
        });
        assert_eq!(
            rich(bundle),
            json!({
                "is_main_result": true, "text": "t", "html": "h", "markdown": "m", "svg": "s", "png": "p", "jpeg": "j",
                "pdf": "f", "latex": "l", "json": {"a": 1}, "javascript": "js", "data": {"d": []},
                "chart": {"type": "line"}, "extra": {"application/vnd.x+json": [1]},
            })
        );
    }

    #[test]
    fn one_pair_of_quotes_is_taken_off() {
        for (from, to) in [
            ("'a'", "a"),
            ("''a''", "'a'"),
            ("'", "'"),
            ("''", ""),
            ("'a", "'a"),
            ("\"a\"", "\"a\""),
        ] {
            assert_eq!(rich(json!({"text/plain": from}))["text"], json!(to), "{from}");
        }
    }

    #[test]
    fn lines_are_joined_but_not_in_json() {
        assert_eq!(rich(json!({"text/html": ["a\n", "b"]}))["html"], json!("a\nb"));
        assert_eq!(rich(json!({"application/json": ["a", "b"]}))["json"], json!(["a", "b"]));
    }
}
