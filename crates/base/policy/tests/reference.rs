//! `docs/policy.md` is true: its examples load, print and load again, and every key that exists is in it.

use std::path::Path;

use ringwall_policy::{Origin, Policy, load_policy};

const REFERENCE: &str = include_str!("../../../../docs/policy.md");

fn load(text: &str) -> Policy {
    load_policy(
        text.as_bytes(),
        Origin {
            file: Path::new("docs/policy.md"),
            folder: Path::new("/docs"),
        },
    )
    .unwrap_or_else(|error| panic!("{error}"))
}

fn examples() -> Vec<&'static str> {
    REFERENCE
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect()
}

#[test]
fn the_examples_load_and_make_sense() {
    assert_eq!(examples().len(), 2);
    for example in examples() {
        let policy = load(example);
        assert_eq!(policy.check(), Ok(()), "{example}");
        assert_eq!(load(&policy.to_toml().unwrap()), policy, "{example}");
    }
}

#[test]
fn every_key_is_in_the_examples() {
    let text = examples().concat();
    // An unknown key's message lists the known ones: the loader's own list, so that no second one can go stale.
    for table in ["", "files.", "network.", "env.", "limits."] {
        let wrong = format!("{table}zzzzzz = 1");
        let origin = Origin {
            file: Path::new("x"),
            folder: Path::new("/"),
        };
        let message = load_policy(wrong.as_bytes(), origin).unwrap_err().to_string();
        let (_, known) = message.split_once("(known: ").unwrap();
        for key in known.trim_end_matches(')').split(", ") {
            let is_there = text
                .lines()
                .any(|line| line.starts_with(&format!("{key} = ")) || line == format!("[{key}]"));
            assert!(is_there, "{table}{key} is missing from docs/policy.md");
        }
    }
}
