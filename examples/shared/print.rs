//! Text for people: as wide as their terminal.

use std::io::IsTerminal;

/// Returns the columns that lines may have: those of the variable `COLUMNS`, or of the terminal. `None` for a file or a pipe, where
/// nothing is cut.
pub fn columns() -> Option<usize> {
    let named = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let terminal = || {
        let size = console::Term::stdout().size_checked().filter(|_| std::io::stdout().is_terminal());
        size.map(|(_, columns)| columns.into())
    };
    named.or_else(terminal).filter(|columns| *columns > 0)
}

/// Begins a line with so many spaces, and breaks it between words where it is too long.
pub fn wrapped(line: &str, indent: usize, columns: Option<usize>) -> String {
    let columns = columns.unwrap_or(usize::MAX);
    let mut text = " ".repeat(indent);
    if indent + line.chars().count() <= columns {
        return text + line;
    }
    let mut used = indent;
    for word in line.split(' ') {
        let width = word.chars().count();
        if used > indent && used + 1 + width > columns {
            text += "\n";
            text += &" ".repeat(indent);
            used = indent;
        } else if used > indent {
            text.push(' ');
            used += 1;
        }
        text += word;
        used += width;
    }
    text
}

/// Returns a number with a comma between thousands.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join(",")
}

/// A column of numbers.
pub struct Column {
    /// What stands above it, in two lines.
    pub names: [&'static str; 2],
    pub width: usize,
    /// Where the table is too wide, the column with the highest goes first; one of 0 stays.
    pub rank: u8,
}

/// A table whose first column has names, and which leaves columns out where the terminal is too narrow for all.
pub struct Table {
    first: &'static str,
    first_width: usize,
    columns: Vec<Column>,
    is_shown: Vec<bool>,
}

impl Table {
    /// The longest of the names has so many characters.
    pub fn new(first: &'static str, longest: usize, columns: Vec<Column>, room: Option<usize>) -> Self {
        /// A longer name that has no room shows its end.
        const NAME_LEAST: usize = 20;
        let room = room.unwrap_or(usize::MAX);
        let mut is_shown = vec![true; columns.len()];
        let width = |is_shown: &[bool]| -> usize {
            columns.iter().zip(is_shown).filter(|(_, is_shown)| **is_shown).map(|(column, _)| 1 + column.width).sum()
        };
        while width(&is_shown) + longest.min(NAME_LEAST) > room {
            let shown = (0..columns.len()).filter(|index| is_shown[*index] && columns[*index].rank > 0);
            let Some(next) = shown.max_by_key(|index| columns[*index].rank) else { break };
            is_shown[next] = false;
        }
        let first_width = longest.min(room.saturating_sub(width(&is_shown))).max(1);
        Self { first, first_width, columns, is_shown }
    }

    /// The width of the names.
    pub fn first_width(&self) -> usize {
        self.first_width
    }

    /// The names of the columns, in one line or two.
    pub fn head(&self) -> String {
        let line = |first: &str, place: usize| {
            let names: Vec<String> = self.columns.iter().map(|column| column.names[place].to_owned()).collect();
            self.row(first, &names)
        };
        match self.columns.iter().all(|column| column.names[0].is_empty()) {
            true => line(self.first, 1),
            false => format!("{}\n{}", line("", 0), line(self.first, 1)),
        }
    }

    /// A line with a cell for each column.
    pub fn row(&self, name: &str, cells: &[String]) -> String {
        let mut row = format!("{:<width$}", self.cut(name), width = self.first_width);
        for ((column, cell), is_shown) in self.columns.iter().zip(cells).zip(&self.is_shown) {
            if *is_shown {
                row += &format!(" {cell:>width$}", width = column.width);
            }
        }
        row
    }

    fn cut(&self, name: &str) -> String {
        let length = name.chars().count();
        if length <= self.first_width {
            return name.to_owned();
        }
        let end = name.chars().skip(length + 1 - self.first_width);
        std::iter::once('…').chain(end).collect()
    }
}
