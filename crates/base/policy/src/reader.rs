//! A parsed TOML value with its place in the file, and the reading of one value as one type.
//!
//! Each accessor either returns an owned value or a problem that carries the place; a value is looked at once.

use std::ops::Range;
use std::path::PathBuf;

use ringwall_types::{ByteSize, CpuShare, WallTime};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::load::PolicyProblem;

/// A problem and the bytes of the file it is about.
pub(crate) struct Located {
    pub(crate) span: Range<usize>,
    pub(crate) problem: PolicyProblem,
}

/// One value, with the key that leads to it as people write it (`limits.memory`).
pub(crate) struct Entry<'t, 'i> {
    pub(crate) key: &'t str,
    pub(crate) key_span: Range<usize>,
    path: String,
    value: &'t Spanned<DeValue<'i>>,
}

/// Returns a table's entries in the file's order, so that the first mistake in the file is the one reported.
pub(crate) fn entries<'t, 'i>(table: &'t DeTable<'i>, parent: &str) -> Vec<Entry<'t, 'i>> {
    let mut list: Vec<Entry<'t, 'i>> = table
        .iter()
        .map(|(key, value)| {
            let name: &str = key.get_ref();
            let path = if parent.is_empty() {
                name.to_owned()
            } else {
                format!("{parent}.{name}")
            };
            Entry {
                key: name,
                key_span: key.span(),
                path,
                value,
            }
        })
        .collect();
    list.sort_by_key(|entry| entry.key_span.start);
    list
}

impl<'t, 'i> Entry<'t, 'i> {
    /// Locates a problem at this value.
    pub(crate) fn problem(&self, source: impl Into<PolicyProblem>) -> Located {
        Located {
            span: self.value.span(),
            problem: source.into(),
        }
    }

    fn wrong_type(&self, wanted: &'static str) -> Located {
        wrong_type(&self.path, self.value, wanted)
    }

    /// Reads a table.
    pub(crate) fn table(&self) -> Result<&'t DeTable<'i>, Located> {
        self.value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.wrong_type("a table"))
    }

    /// Reads a string.
    pub(crate) fn text(&self) -> Result<&'t str, Located> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong_type("a string"))
    }

    /// Reads a word or other text that has a type of its own.
    pub(crate) fn parsed<T>(&self) -> Result<T, Located>
    where
        T: std::str::FromStr,
        PolicyProblem: From<T::Err>,
    {
        self.text()?.parse().map_err(|error: T::Err| self.problem(error))
    }

    /// Reads `true` or `false`.
    pub(crate) fn boolean(&self) -> Result<bool, Located> {
        self.value
            .get_ref()
            .as_bool()
            .ok_or_else(|| self.wrong_type("true or false"))
    }

    /// Reads a path as it stands.
    pub(crate) fn path(&self) -> Result<PathBuf, Located> {
        self.text().map(PathBuf::from)
    }

    /// Reads a whole number from 1 to `u32::MAX`.
    pub(crate) fn count(&self) -> Result<u32, Located> {
        let DeValue::Integer(integer) = self.value.get_ref() else {
            return Err(self.wrong_type("a whole number"));
        };
        u32::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| {
                self.problem(PolicyProblem::BadCount {
                    key: self.path.clone(),
                    given: integer.to_string(),
                })
            })
    }

    /// Reads bytes: `"512M"`, or a whole number.
    pub(crate) fn size(&self) -> Result<ByteSize, Located> {
        match self.value.get_ref() {
            DeValue::Integer(integer) => integer.to_string().parse().map_err(|error| self.bad_value(error)),
            DeValue::String(text) => text.parse().map_err(|error| self.bad_value(error)),
            _ => Err(self.wrong_type("a size such as \"512M\"")),
        }
    }

    /// Reads a time: `"1m30s"`, or a whole number of seconds.
    pub(crate) fn time(&self) -> Result<WallTime, Located> {
        match self.value.get_ref() {
            DeValue::Integer(integer) => integer.to_string().parse().map_err(|error| self.bad_value(error)),
            DeValue::String(text) => text.parse().map_err(|error| self.bad_value(error)),
            _ => Err(self.wrong_type("a time such as \"30s\"")),
        }
    }

    /// Reads a number of CPUs: `1.5` or `2`.
    pub(crate) fn cpus(&self) -> Result<CpuShare, Located> {
        match self.value.get_ref() {
            DeValue::Integer(integer) => integer.to_string().parse().map_err(|error| self.bad_value(error)),
            DeValue::Float(float) => float.as_str().parse().map_err(|error| self.bad_value(error)),
            _ => Err(self.wrong_type("a number such as 1.5")),
        }
    }

    fn bad_value(&self, error: ringwall_types::ParseLimitError) -> Located {
        self.problem(PolicyProblem::BadLimit {
            key: self.path.clone(),
            expected: error.expected,
            given: error.text,
        })
    }

    /// Reads a list of strings, each with its own place.
    pub(crate) fn list(&self) -> Result<Vec<(Range<usize>, &'t str)>, Located> {
        let wanted = "a list of strings";
        let array = self.value.get_ref().as_array().ok_or_else(|| self.wrong_type(wanted))?;
        array
            .iter()
            .map(|item| match item.get_ref().as_str() {
                Some(text) => Ok((item.span(), text)),
                None => Err(wrong_type(&self.path, item, wanted)),
            })
            .collect()
    }
}

fn wrong_type(key: &str, value: &Spanned<DeValue<'_>>, wanted: &'static str) -> Located {
    let problem = PolicyProblem::WrongType {
        key: key.to_owned(),
        wanted,
        got: value.get_ref().type_str(),
    };
    Located {
        span: value.span(),
        problem,
    }
}
