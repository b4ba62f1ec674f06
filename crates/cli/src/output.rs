//! What a command gives, and how it is printed.

use anyhow::{Context, Result};
use serde_json::Value;
use std::io::{self, ErrorKind, Write};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// The result of a command, in both forms.
#[derive(Debug)]
pub struct Report {
    /// For people; each line ended.
    pub text: String,
    /// For other tools.
    pub json: Value,
    /// Whether something was compared and found to differ: exit status 1.
    pub mismatch: bool,
}

impl Report {
    /// A result that compares nothing.
    pub fn new(text: impl Into<String>, json: Value) -> Report {
        Report {
            text: text.into(),
            json,
            mismatch: false,
        }
    }
}

/// Prints to stdout. A reader that has gone (`mlafuse presets | head -1`) is no error.
pub fn print(report: &Report, format: Format) -> Result<()> {
    let json;
    let text = match format {
        Format::Text => report.text.as_str(),
        Format::Json => {
            json = format!("{:#}\n", report.json);
            &json
        }
    };
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to stdout"),
    }
}

/// A line on stderr; nothing where there is none.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Which way a column of a table leans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells under a heading, each column as wide as its widest cell and two spaces apart.
pub fn table<const N: usize>(heading: [(&str, Align); N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.fold(heading[column].0.chars().count(), usize::max)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let cells = cells
            .iter()
            .zip(widths)
            .zip(heading)
            .map(|((cell, width), (_, align))| match align {
                Align::Left => format!("{cell:width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    let mut text = line(heading.map(|(name, _)| name));
    for row in rows {
        text += &line(row.each_ref().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["a".to_string(), "1".to_string()],
            ["long".to_string(), "10".to_string()],
        ];
        let text = table([("name", Align::Left), ("n", Align::Right)], &rows);
        assert_eq!(text, "name   n\na      1\nlong  10\n");
    }
}
