//! ARCHITECTURE.md has a table of bugs that other monitors have had, with the tests that would show them here. A test that is renamed or goes
//! must not leave the table saying that it is there.

use std::path::Path;

/// The head of the table.
const HEAD: &str = "| bug | tests |";
/// As many bugs as are known; a row that is lost by an edit is missed.
const BUGS: usize = 11;

/// The rows of the table: a bug, and its tests as file and name.
fn rows(document: &str) -> Vec<(&str, Vec<(&str, &str)>)> {
    let table = document.lines().skip_while(|line| *line != HEAD).skip(2);
    table
        .map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .map(|(bug, tests)| (bug, tests.split("; ").flat_map(named).collect()))
        .collect()
}

/// The tests of one file: "`file`: `name`, `name`".
fn named(of_file: &str) -> impl Iterator<Item = (&str, &str)> {
    let (file, names) = of_file.split_once(": ").unwrap_or((of_file, ""));
    names
        .split(", ")
        .map(move |name| (file.trim_matches('`'), name.trim_matches('`')))
}

/// Whether a file has a test with this name: a function after `#[test]` in Rust, or one of a shell script.
fn has_test(source: &str, name: &str) -> bool {
    let function = format!("fn {name}(");
    let shell = format!("{name}() {{");
    let is_rust = source.match_indices(&function).any(|(at, _)| {
        let before = source.get(..at).unwrap_or_default();
        before.lines().rev().take(8).any(|line| line.trim() == "#[test]")
    });
    is_rust || source.lines().any(|line| line == shell)
}

#[test]
fn every_test_of_the_bug_list_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let document = read("ARCHITECTURE.md");
    let rows = rows(&document);
    assert_eq!(rows.len(), BUGS, "rows of the table {HEAD:?}");
    let missing: Vec<String> = rows
        .iter()
        .flat_map(|(bug, tests)| tests.iter().map(move |test| (bug, test)))
        .filter(|(_, (file, name))| !has_test(&read(file), name))
        .map(|(bug, (file, name))| format!("{bug}: no test {name:?} in {file:?}"))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn a_test_is_known_by_its_attribute_and_name() {
    let source = "#[test]\nfn one() {}\n\n\n\n\n\n\n\n\nfn two() {}\n";
    assert!(has_test(source, "one"));
    assert!(!has_test(source, "two"));
    assert!(!has_test(source, "on"));
    assert!(has_test("net() {\n}\n", "net"));
    let table = "x\n| bug | tests |\n|---|---|\n| a b | `f`: `g`, `h`; `i`: `j` |\n\n| no | row |\n";
    assert_eq!(rows(table), [("a b", vec![("f", "g"), ("f", "h"), ("i", "j")])]);
    assert_eq!(rows("| a | `f` |"), []);
}
