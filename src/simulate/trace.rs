//! Trace files: comma-separated rows below a header, plain or packed with gzip.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use std::str::FromStr;

use csv::{ReaderBuilder, StringRecord};
use flate2::read::MultiGzDecoder;

use super::Error;

/// A file read whole: its columns by name, and its rows with their lines.
#[derive(Debug)]
pub struct Table {
    path: String,
    header: StringRecord,
    rows: Vec<StringRecord>,
}

/// One row, which knows where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    table: &'a Table,
    cells: &'a StringRecord,
}

impl Table {
    /// Reads the file at `path`, which must have all of `columns`.
    ///
    /// # Errors
    /// It cannot be read, lacks a column, or a row has more or fewer cells than the header.
    pub fn read(path: &Path, columns: &[&str]) -> Result<Self, Error> {
        let name = path.display().to_string();
        let failed = |source| Error::Read { path: name.clone(), source };
        let mut reader = ReaderBuilder::new().from_reader(open(path).map_err(failed)?);
        let broken = |error: csv::Error| broken(&name, error);
        let header = reader.headers().map_err(broken)?.clone();
        let missing: Vec<&str> = columns
            .iter()
            .filter(|column| !header.iter().any(|name| name == **column))
            .copied()
            .collect();
        if !missing.is_empty() {
            let what = format!("the header lacks {}", missing.join(", "));
            return Err(Error::Row { path: name.clone(), line: 1, what });
        }
        let rows = reader.records().collect::<Result<_, _>>().map_err(broken)?;
        Ok(Self { path: name.clone(), header, rows })
    }

    /// The names of its columns, in order.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.header.iter()
    }

    /// Its rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(move |cells| Row { table: self, cells })
    }

    /// The place of a column, if it is there.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }
}

impl<'a> Row<'a> {
    /// The text of a column; `None` if the file has no such column.
    #[must_use]
    pub fn text(&self, column: &str) -> Option<&'a str> {
        self.cells.get(self.table.column(column)?)
    }

    /// The number in the column at `place`, as found with [`Table::column`].
    ///
    /// # Errors
    /// What is there is no such number.
    pub fn at<T: FromStr>(&self, place: usize) -> Result<T, Error> {
        let (name, cell) = (self.table.header.get(place), self.cells.get(place));
        let cell = cell.unwrap_or_default();
        cell.trim().parse().map_err(|_| {
            let name = name.unwrap_or_default();
            self.wrong(format!("{name} is {cell:?}, which is no whole number in its range"))
        })
    }

    /// The number in a column.
    ///
    /// # Errors
    /// What is there is no such number, or there is no such column.
    pub fn number<T: FromStr>(&self, column: &str) -> Result<T, Error> {
        match self.table.column(column) {
            Some(place) => self.at(place),
            None => Err(self.wrong(format!("the header lacks {column}"))),
        }
    }

    /// This row makes no sense: `what` says why.
    #[must_use]
    pub fn wrong(&self, what: String) -> Error {
        let line = self.cells.position().map_or(0, csv::Position::line);
        Error::Row { path: self.table.path.clone(), line, what }
    }
}

/// The file, unpacked if it begins as gzip does.
fn open(path: &Path) -> std::io::Result<Box<dyn Read>> {
    let mut file = File::open(path)?;
    let mut start = Vec::new();
    file.by_ref().take(2).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(match start == [0x1f, 0x8b] {
        true => Box::new(MultiGzDecoder::new(BufReader::new(file))),
        false => Box::new(BufReader::new(file)),
    })
}

fn broken(path: &str, error: csv::Error) -> Error {
    let line = error.position().map_or(1, csv::Position::line);
    let path = path.to_owned();
    match error.into_kind() {
        csv::ErrorKind::Io(source) => Error::Read { path, source },
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            let what = format!("{len} cells, where the header has {expected_len}");
            Error::Row { path, line, what }
        }
        csv::ErrorKind::Utf8 { .. } => Error::Row { path, line, what: "it is not UTF-8".into() },
        _ => Error::Row { path, line, what: "it is no row of comma-separated values".into() },
    }
}
