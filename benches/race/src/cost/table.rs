//! A table of figures: as Markdown, as a line of JSON, and, where it has an axis, as lines to draw.

use serde_json::{Map, Value, json};

/// A column of figures: its head, and the digits after the point.
pub struct Column {
    pub head: String,
    pub digits: usize,
}

/// Makes a column of nanoseconds, or of other figures that one digit is enough for.
pub fn ns(head: impl Into<String>) -> Column {
    Column { head: head.into(), digits: 1 }
}

/// Makes a column of ratios.
pub fn ratio(head: impl Into<String>) -> Column {
    Column { head: head.into(), digits: 2 }
}

/// The names of a row, and its figures. What is not a number is shown as a dash.
pub struct Row {
    pub names: Vec<String>,
    pub figures: Vec<f64>,
}

/// What the first figures of each row belong to, ascending.
pub struct Axis {
    pub what: &'static str,
    pub values: Vec<u64>,
}

pub struct Table {
    pub id: &'static str,
    pub title: String,
    /// Heads of the columns of names.
    pub names: &'static [&'static str],
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
    pub axis: Option<Axis>,
}

impl Table {
    pub fn new(
        id: &'static str,
        title: impl Into<String>,
        names: &'static [&'static str],
        columns: Vec<Column>,
    ) -> Self {
        Self { id, title: title.into(), names, columns, rows: Vec::new(), axis: None }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If it has more or fewer cells than the table has columns.
    pub fn push<const N: usize>(&mut self, names: [&str; N], figures: Vec<f64>) {
        assert_eq!((N, figures.len()), (self.names.len(), self.columns.len()), "a row of {}", self.id);
        self.rows.push(Row { names: names.map(str::to_owned).to_vec(), figures });
    }

    /// Writes the table as Markdown.
    pub fn markdown(&self) -> String {
        let heads = self.names.iter().copied().chain(self.columns.iter().map(|column| column.head.as_str()));
        let heads = heads.collect::<Vec<_>>().join(" | ");
        let rule = "---|".repeat(self.names.len()) + &"---:|".repeat(self.columns.len());
        let mut text = format!("{}: {}\n\n| {heads} |\n|{rule}\n", self.id, self.title);
        for row in &self.rows {
            let figures = row.figures.iter().zip(&self.columns).map(|(figure, column)| shown(*figure, column.digits));
            let cells: Vec<String> = row.names.iter().cloned().chain(figures).collect();
            text += &format!("| {} |\n", cells.join(" | "));
        }
        text
    }

    /// Writes the table as a value whose rows have a field for each column. What is not a number is null.
    pub fn json(&self) -> Value {
        let row = |row: &Row| {
            let names = self.names.iter().zip(&row.names).map(|(head, name)| ((*head).to_owned(), json!(name)));
            let figures = self.columns.iter().zip(&row.figures);
            Value::Object(
                names
                    .chain(figures.map(|(column, figure)| (column.head.clone(), json!(figure))))
                    .collect::<Map<_, _>>(),
            )
        };
        json!({ "table": self.id, "title": self.title, "rows": self.rows.iter().map(row).collect::<Vec<_>>() })
    }
}

fn shown(figure: f64, digits: usize) -> String {
    if figure.is_finite() { format!("{figure:.digits$}") } else { "-".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_written_as_markdown_and_as_json() {
        let mut table = Table::new("id", "what it is", &["allocator"], vec![ns("ns"), ratio("a / b")]);
        table.push(["x"], vec![1.25, f64::NAN]);
        table.push(["y"], vec![10.0, 2.0]);
        let text =
            "id: what it is\n\n| allocator | ns | a / b |\n|---|---:|---:|\n| x | 1.2 | - |\n| y | 10.0 | 2.00 |\n";
        assert_eq!(table.markdown(), text);
        let rows =
            json!([{ "allocator": "x", "ns": 1.25, "a / b": null }, { "allocator": "y", "ns": 10.0, "a / b": 2.0 }]);
        assert_eq!(table.json(), json!({ "table": "id", "title": "what it is", "rows": rows }));
    }

    #[test]
    #[should_panic(expected = "a row of id")]
    fn a_row_with_too_few_figures_is_refused() {
        Table::new("id", "", &["allocator"], vec![ns("ns"), ns("more")]).push(["x"], vec![1.0]);
    }
}
