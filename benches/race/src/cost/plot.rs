//! The picture: a panel of lines for each table that has an axis, both of its scales logarithmic, as SVG.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::table::{Axis, Table};
use crate::report::thousands;

type Fault = DrawingAreaErrorKind<std::io::Error>;
type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

// Pixels.
const WIDTH: i32 = 980;
const PANEL_WIDTH: i32 = WIDTH / 2;
const PLOT_HEIGHT: i32 = 210;
const LEFT: i32 = 80;
const RIGHT: i32 = 34;
const HEAD: i32 = 44;
const LEGEND_ROW: i32 = 17;
const FOOT: i32 = 46;
const TITLE: i32 = 40;

const INK: RGBColor = RGBColor(34, 34, 34);
const PALE: RGBColor = RGBColor(221, 221, 221);
/// Okabe and Ito's, which people who see few colours can tell apart.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 90, 156),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(204, 121, 167),
    RGBColor(120, 120, 120),
];

/// Writes the picture of the tables that have an axis.
pub fn write(path: &Path, tables: &[Table]) -> Result<(), String> {
    let fails = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let panels: Vec<(&Table, &Axis)> = tables.iter().filter_map(|table| Some((table, table.axis.as_ref()?))).collect();
    if panels.is_empty() {
        return Err(fails(
            &"no part that was measured has lines to draw, as live, slabs, threads, batch, waiters and labels have",
        ));
    }
    let svg = svg(&panels).map_err(|error| fails(&error))?;
    std::fs::write(path, svg).map_err(|error| fails(&error))
}

fn svg(panels: &[(&Table, &Axis)]) -> Result<String, Fault> {
    let height = |(table, _): &(&Table, &Axis)| HEAD + PLOT_HEIGHT + FOOT + LEGEND_ROW * table.rows.len() as i32;
    let rows: Vec<i32> = panels.chunks(2).map(|row| row.iter().map(height).max().unwrap_or(0)).collect();
    let mut svg = String::new();
    {
        let size = (WIDTH as u32, (TITLE + rows.iter().sum::<i32>()) as u32);
        let canvas = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        canvas.fill(&WHITE)?;
        text(&canvas, "Cost of one operation", (16, 22), 20, HPos::Left, FontStyle::Bold)?;
        let mut top = TITLE;
        for (panels, height) in panels.chunks(2).zip(rows) {
            for (place, (table, axis)) in panels.iter().enumerate() {
                draw(&canvas, table, axis, (PANEL_WIDTH * place as i32, top))?;
            }
            top += height;
        }
        canvas.present()?;
    }
    Ok(svg)
}

/// A scale from values to pixels.
struct Scale {
    least: f64,
    most: f64,
    from: i32,
    to: i32,
}

impl Scale {
    fn at(&self, value: f64) -> i32 {
        let part = (value.ln() - self.least.ln()) / (self.most.ln() - self.least.ln());
        self.from + (part * f64::from(self.to - self.from)).round() as i32
    }
}

/// The powers of ten that enclose all values.
fn decades(values: impl Iterator<Item = f64>) -> (i32, i32) {
    let (least, most) =
        values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    let low = least.log10().floor() as i32;
    (low, (most.log10().ceil() as i32).max(low + 1))
}

fn draw(canvas: &Canvas, table: &Table, axis: &Axis, (left, top): (i32, i32)) -> Result<(), Fault> {
    let points = axis.values.len();
    // A logarithm has no place for 0, which a time that was taken off can leave.
    let lines: Vec<Vec<(f64, f64)>> = table
        .rows
        .iter()
        .map(|row| axis.values.iter().map(|value| *value as f64).zip(row.figures.iter().copied()))
        .map(|line| line.take(points).filter(|(_, ns)| ns.is_finite() && *ns >= 1.0).collect())
        .collect();
    let all = || lines.iter().flatten();
    if all().next().is_none() {
        return text(canvas, &table.title, (left + 16, top + 10), 13, HPos::Left, FontStyle::Bold);
    }
    let (low, high) = decades(all().map(|(_, ns)| *ns));
    let (first, last) = (axis.values[0] as f64, axis.values[points - 1] as f64);
    let x = Scale { least: first, most: last.max(first + 1.0), from: left + LEFT, to: left + PANEL_WIDTH - RIGHT };
    let bottom = top + HEAD + PLOT_HEIGHT;
    let y = Scale { least: 10f64.powi(low), most: 10f64.powi(high), from: bottom, to: top + HEAD };
    text(canvas, &table.title, (left + 16, top + 14), 13, HPos::Left, FontStyle::Bold)?;
    for decade in low..=high {
        let ns = 10f64.powi(decade);
        canvas.draw(&PathElement::new([(x.from, y.at(ns)), (x.to, y.at(ns))], PALE))?;
        let words = format!("{} ns", thousands(ns as usize));
        text(canvas, &words, (x.from - 6, y.at(ns)), 12, HPos::Right, FontStyle::Normal)?;
    }
    for value in &axis.values {
        let at = x.at(*value as f64);
        canvas.draw(&PathElement::new([(at, bottom), (at, bottom + 4)], INK))?;
        text(canvas, &thousands(*value as usize), (at, bottom + 13), 12, HPos::Center, FontStyle::Normal)?;
    }
    text(canvas, axis.what, ((x.from + x.to) / 2, bottom + 28), 12, HPos::Center, FontStyle::Normal)?;
    for (number, (row, line)) in table.rows.iter().zip(&lines).enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let place = |&(value, ns): &(f64, f64)| (x.at(value), y.at(ns));
        canvas.draw(&PathElement::new(line.iter().map(place).collect::<Vec<_>>(), colour.stroke_width(2)))?;
        for point in line {
            canvas.draw(&Circle::new(place(point), 3, colour.filled()))?;
        }
        let legend = bottom + FOOT + LEGEND_ROW * number as i32;
        canvas.draw(&Rectangle::new([(x.from, legend - 2), (x.from + 16, legend + 2)], colour.filled()))?;
        text(canvas, &row.names.join(", "), (x.from + 24, legend), 12, HPos::Left, FontStyle::Normal)?;
    }
    Ok(())
}

fn text(canvas: &Canvas, words: &str, at: (i32, i32), size: i32, side: HPos, style: FontStyle) -> Result<(), Fault> {
    let font = ("sans-serif", size).into_font().style(style);
    canvas.draw(&Text::new(words, at, font.color(&INK).pos(Pos::new(side, VPos::Center))))
}

#[cfg(test)]
mod tests {
    use super::super::table::ns;
    use super::*;

    fn table(figures: &[Vec<f64>]) -> Table {
        let mut table = Table::new("id", "ns & more", &["allocator"], vec![ns("1"), ns("10"), ns("100"), ns("last")]);
        table.axis = Some(Axis { what: "blocks", values: vec![1, 10, 100] });
        for (number, figures) in figures.iter().enumerate() {
            table.push([&format!("line {number}")], figures.clone());
        }
        table
    }

    #[test]
    fn every_line_is_drawn_inside_its_panel() {
        let table = table(&[vec![10.0, 100.0, 1000.0, 9e9], vec![20.0, f64::NAN, 0.0, 9e9]]);
        let svg = svg(&[(&table, table.axis.as_ref().unwrap())]).unwrap();
        for words in ["ns &amp; more", "line 0", "line 1", "blocks", "10 ns", "1,000 ns"] {
            assert!(svg.contains(words), "{words} is not in {svg}");
        }
        // Of the second line one figure can be drawn. The figure behind the axis is no point.
        assert_eq!(svg.matches("<circle").count(), 4, "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let (left, right) = (LEFT, PANEL_WIDTH - RIGHT);
        let (top, bottom) = (TITLE + HEAD, TITLE + HEAD + PLOT_HEIGHT);
        let number = |text: &str, key: &str| -> i32 {
            let rest = text.split(&format!(" {key}=\"")).nth(1).unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        let places: Vec<_> = svg.lines().filter(|line| line.starts_with("<circle")).collect();
        let places: Vec<_> = places.iter().map(|line| (number(line, "cx"), number(line, "cy"))).collect();
        assert_eq!(places[0], (left, bottom));
        assert_eq!(places[2], (right, top));
    }

    #[test]
    fn tables_without_an_axis_are_no_picture() {
        let mut table = table(&[]);
        table.axis = None;
        let error = write(Path::new("no/such/file.svg"), &[table]).err().unwrap();
        assert!(error.contains("no/such/file.svg: no part"), "{error}");
    }
}
