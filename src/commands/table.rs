//! How commands print: aligned columns, or the whole as JSON or YAML.

use std::io::Write;

use serde::Serialize;

use super::{Error, say};

/// Blanks between columns.
const GAP: usize = 3;

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// On a terminal.
    On,
    /// Anywhere else, and where `NO_COLOR` is set.
    Off,
}

/// How something is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For reading.
    Text(Colour),
    /// The same with everything.
    Wide(Colour),
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// What a piece of text means, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Nothing in particular.
    Plain,
    /// A heading.
    Head,
    /// As it should be.
    Good,
    /// It may pass by itself.
    Passing,
    /// Somebody has to change something.
    Bad,
}

impl Colour {
    /// `text` in the colour of `tone`.
    #[must_use]
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if self == Self::Off || text.is_empty() => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Head => "1",
            Tone::Good => "32",
            Tone::Passing => "33",
            Tone::Bad => "31",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Whether a column holds words or numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words begin together.
    Left,
    /// Numbers end together.
    Right,
}

/// A table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<(Tone, Vec<String>)>,
}

impl Table {
    /// A table with these columns.
    #[must_use]
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; cells beyond the columns are left out.
    pub fn row(&mut self, tone: Tone, cells: Vec<String>) {
        self.rows.push((tone, cells.into_iter().map(|cell| printable(&cell)).collect()));
    }

    /// The lines of the table, its head first.
    #[must_use]
    pub fn lines(&self, colour: Colour) -> Vec<String> {
        let wide = |text: &str| text.chars().count();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|(_, row)| row.get(column));
            cells.map(|cell| wide(cell)).chain([wide(&self.columns[column].0)]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let parts =
                cells.iter().zip(&widths).zip(&self.columns).map(|((cell, width), (_, align))| {
                    match align {
                        Align::Left => format!("{cell:<width$}"),
                        Align::Right => format!("{cell:>width$}"),
                    }
                });
            parts.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end().to_owned()
        };
        let head: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let head = colour.paint(Tone::Head, &line(&head));
        let rows = self.rows.iter().map(|(tone, cells)| colour.paint(*tone, &line(cells)));
        [head].into_iter().chain(rows).collect()
    }
}

/// `text` without control characters: what members and users write must not steer a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// Prints `value` as JSON or YAML.
///
/// # Errors
/// If it cannot be written.
pub fn data(
    out: &mut (impl Write + ?Sized),
    format: Format,
    value: &impl Serialize,
) -> Result<(), Error> {
    let unwritable = |error: &dyn std::fmt::Display| Error::Refused(format!("no output: {error}"));
    let text = match format {
        Format::Yaml => serde_yaml::to_string(value).map_err(|error| unwritable(&error))?,
        _ => serde_json::to_string_pretty(value).map_err(|error| unwritable(&error))?,
    };
    say(out, text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&[("NAME", Align::Left), ("GPUS", Align::Right)]);
        table.row(Tone::Plain, vec!["uni-nörth".into(), "8".into()]);
        table.row(Tone::Bad, vec!["b".into(), "12345".into()]);
        assert_eq!(
            table.lines(Colour::Off),
            ["NAME         GPUS", "uni-nörth       8", "b           12345"]
        );
        let coloured = table.lines(Colour::On);
        assert!(coloured[2].starts_with("\u{1b}[31mb") && coloured[2].ends_with("\u{1b}[0m"));
        assert_eq!(coloured[1], "uni-nörth       8");
    }

    #[test]
    fn nobody_steers_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\nc"), "a [31mb c");
    }
}
