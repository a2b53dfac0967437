//! What is printed: tables as they come, and the same text for docs/benchmarks.md.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

/// A value of a table's row.
pub(super) type Cell = String;

/// One benchmark's table and what is to be said about it.
#[derive(Debug)]
pub(super) struct Section {
    /// The benchmark's name and what it measures.
    pub(super) title: String,
    /// The columns' heads; the first column is text, the others are figures.
    pub(super) head: Vec<Cell>,
    /// The rows.
    pub(super) rows: Vec<Vec<Cell>>,
    /// Targets met and missed, contestants left out.
    pub(super) notes: Vec<String>,
}

/// One target, as a sentence of the report.
pub(super) fn verdict(is_met: bool, what: &str) -> String {
    format!("{}: {what}", if is_met { "met" } else { "MISSED" })
}

impl Section {
    fn width(&self, column: usize) -> usize {
        let cells = std::iter::once(&self.head).chain(&self.rows);
        cells
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    }

    fn line(&self, row: &[Cell], between: &str) -> String {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = self.width(column);
            if column == 0 {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        cells.collect::<Vec<_>>().join(between).trim_end().to_owned()
    }

    /// For a terminal.
    fn plain(&self) -> String {
        let mut lines = vec![String::new(), self.title.clone()];
        let table = std::iter::once(&self.head)
            .chain(&self.rows)
            .filter(|row| !row.is_empty());
        lines.extend(table.map(|row| format!("  {}", self.line(row, "  "))));
        lines.extend(self.notes.iter().map(|note| format!("  {note}")));
        lines.join("\n")
    }

    /// For docs/benchmarks.md.
    fn markdown(&self) -> String {
        let row = |cells: &[Cell]| format!("| {} |", self.line(cells, " | "));
        let rule = (0..self.head.len()).map(|column| {
            let width = self.width(column).max(2);
            if column == 0 {
                "-".repeat(width)
            } else {
                format!("{}:", "-".repeat(width - 1))
            }
        });
        let mut lines = vec![format!("#### {}", self.title)];
        if !self.head.is_empty() {
            lines.extend([String::new(), row(&self.head)]);
            lines.push(format!("| {} |", rule.collect::<Vec<_>>().join(" | ")));
            lines.extend(self.rows.iter().map(|cells| row(cells)));
        }
        if !self.notes.is_empty() {
            lines.push(String::new());
            lines.extend(self.notes.iter().map(|note| format!("- {note}")));
        }
        lines.join("\n")
    }
}

/// The report of one `cargo xtask bench run`.
#[derive(Debug)]
pub(super) struct Report {
    heading: Vec<String>,
    sections: Vec<Section>,
}

impl Report {
    /// Prints what was measured where.
    pub(super) fn start(heading: Vec<String>) -> Self {
        heading.iter().for_each(|line| println!("{line}"));
        Self {
            heading,
            sections: Vec::new(),
        }
    }

    /// Prints a section at once, as the next one may take minutes.
    pub(super) fn section(&mut self, section: Section) {
        println!("{}", section.plain());
        self.sections.push(section);
    }

    /// Appends everything to docs/benchmarks.md.
    ///
    /// # Errors
    /// It couldn't be written.
    pub(super) fn append_to_docs(&self) -> io::Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
        let mut text = String::new();
        if let Some((title, rest)) = self.heading.split_first() {
            text.push_str(&format!("\n### {title}\n\n"));
            rest.iter().for_each(|line| text.push_str(&format!("- {line}\n")));
        }
        for section in &self.sections {
            text.push_str(&format!("\n{}\n", section.markdown()));
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)?
            .write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> Section {
        Section {
            title: "start: a thing".to_owned(),
            head: vec!["ms".to_owned(), "median".to_owned()],
            rows: vec![vec!["bare".to_owned(), "0.50".to_owned()]],
            notes: vec![verdict(false, "too slow")],
        }
    }

    #[test]
    fn the_terminal_gets_aligned_columns() {
        let expected = "\nstart: a thing\n  ms    median\n  bare    0.50\n  MISSED: too slow";
        assert_eq!(section().plain(), expected);
    }

    #[test]
    fn the_document_gets_a_table() {
        let expected =
            "#### start: a thing\n\n| ms   | median |\n| ---- | -----: |\n| bare |   0.50 |\n\n- MISSED: too slow";
        assert_eq!(section().markdown(), expected);
    }
}
