//! The picture: what every allocator reserved at its peak and what it could not do with less than, as SVG.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// What one allocator needs, in live peaks. Not a number where there is none.
pub struct Bars {
    pub name: &'static str,
    pub safe_ratio: f64,
    pub lowest_ratio: f64,
    pub reserved_ratio: f64,
}

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Outcome = Result<(), DrawingAreaErrorKind<std::io::Error>>;

// Pixels.
const WIDTH: i32 = 840;
const NAMES: i32 = 270;
const NUMBERS: i32 = 70;
const HEAD: i32 = 122;
const FOOT: i32 = 16;
const ROW: i32 = 30;
const BAR: i32 = 11;

/// Colours that also those can tell apart who do not see all, and grey prints.
const SAFE: RGBColor = RGBColor(0, 90, 156);
const RESERVED: RGBColor = RGBColor(230, 159, 0);
const INK: RGBColor = RGBColor(34, 34, 34);
const PALE: RGBColor = RGBColor(221, 221, 221);

/// Bars that are longer are broken, so that one does not make all others short.
const RATIO_MAX: f64 = 2.5;
const GRID: [f64; 5] = [0.5, 1.0, 1.5, 2.0, 2.5];

/// Writes the picture of those that have a figure: by the safe budget, then those that have none by the lowest, and at the end
/// by their peak those that cannot be held to one. `what` says what the figures are of.
pub fn write(path: &Path, bars: &[Bars], what: &str) -> Result<(), String> {
    let svg = svg(bars, what).map_err(|error| format!("{}: {error}", path.display()))?;
    std::fs::write(path, svg).map_err(|error| format!("{}: {error}", path.display()))
}

fn svg(bars: &[Bars], what: &str) -> Result<String, DrawingAreaErrorKind<std::io::Error>> {
    let bars = sorted(bars);
    let height = HEAD + ROW * bars.len() as i32 + FOOT;
    let mut svg = String::new();
    {
        let canvas = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
        canvas.fill(&WHITE)?;
        head(&canvas, what)?;
        scale(&canvas, height - FOOT)?;
        for (row, bars) in bars.iter().enumerate() {
            draw_bars(&canvas, HEAD + ROW * row as i32, bars)?;
        }
        bound(&canvas, height - FOOT)?;
        canvas.present()?;
    }
    Ok(svg)
}

fn sorted(bars: &[Bars]) -> Vec<&Bars> {
    let rank = |bars: &Bars| {
        let figures = [bars.safe_ratio, bars.lowest_ratio, bars.reserved_ratio];
        (0..).zip(figures).find(|(_, ratio)| ratio.is_finite())
    };
    let mut sorted: Vec<&Bars> = bars.iter().filter(|bars| rank(bars).is_some()).collect();
    sorted.sort_by(|a, b| rank(a).partial_cmp(&rank(b)).expect("they are finite"));
    sorted
}

fn head(canvas: &Canvas, what: &str) -> Outcome {
    text(canvas, "Peak memory by allocator", (16, 24), 22, HPos::Left, FontStyle::Bold)?;
    text(canvas, what, (16, 48), 15, HPos::Left, FontStyle::Normal)?;
    for (x, colour, meaning) in [(16, SAFE, "safe budget"), (136, RESERVED, "peak reserved")] {
        canvas.draw(&Rectangle::new([(x, 64), (x + 14, 78)], colour.filled()))?;
        text(canvas, meaning, (x + 20, 71), 15, HPos::Left, FontStyle::Normal)?;
    }
    text(canvas, "both by peak live, the bytes that were asked for", (264, 71), 15, HPos::Left, FontStyle::Normal)
}

fn scale(canvas: &Canvas, bottom: i32) -> Outcome {
    for ratio in GRID {
        canvas.draw(&PathElement::new([(x_of(ratio), HEAD - 6), (x_of(ratio), bottom)], PALE))?;
        let style = if ratio == 1.0 { FontStyle::Bold } else { FontStyle::Normal };
        text(canvas, &format!("{ratio:.1}"), (x_of(ratio), HEAD - 14), 14, HPos::Center, style)?;
    }
    Ok(())
}

/// Over the bars, so that it is seen which end at it.
fn bound(canvas: &Canvas, bottom: i32) -> Outcome {
    let x = x_of(1.0);
    canvas.draw(&PathElement::new([(x, HEAD - 6), (x, bottom)], INK.stroke_width(2)))?;
    text(canvas, "the bound", (x, HEAD - 28), 14, HPos::Center, FontStyle::Normal)
}

fn draw_bars(canvas: &Canvas, top: i32, bars: &Bars) -> Outcome {
    let style = if bars.name.starts_with("tensorpool") { FontStyle::Bold } else { FontStyle::Normal };
    text(canvas, bars.name, (NAMES - 10, top + ROW / 2), 15, HPos::Right, style)?;
    let middle = top + ROW / 2;
    let figures = [(middle - BAR, bars.safe_ratio, SAFE), (middle, bars.reserved_ratio, RESERVED)];
    for (y, ratio, colour) in figures {
        if ratio.is_finite() {
            draw_bar(canvas, y, ratio, colour)?;
        } else {
            let why =
                if bars.lowest_ratio.is_finite() { "no budget up to 2.0 is safe" } else { "no budget can be set" };
            text(canvas, why, (NAMES + 4, y + BAR / 2), 12, HPos::Left, FontStyle::Normal)?;
        }
    }
    let number = |at: (i32, i32), ratio: f64| text(canvas, &shown(ratio), at, 13, HPos::Left, style);
    if shown(bars.safe_ratio) == shown(bars.reserved_ratio) {
        return number((end_of(bars.safe_ratio) + 6, middle), bars.safe_ratio);
    }
    for (y, ratio, _) in figures.into_iter().filter(|(_, ratio, _)| ratio.is_finite()) {
        number((end_of(ratio) + 6, y + BAR / 2), ratio)?;
    }
    Ok(())
}

fn draw_bar(canvas: &Canvas, y: i32, ratio: f64, colour: RGBColor) -> Outcome {
    let end = end_of(ratio);
    canvas.draw(&Rectangle::new([(NAMES, y), (end, y + BAR - 1)], colour.filled()))?;
    if ratio > RATIO_MAX {
        canvas.draw(&Rectangle::new([(end - 16, y), (end - 11, y + BAR - 1)], WHITE.filled()))?;
    }
    Ok(())
}

fn shown(ratio: f64) -> String {
    format!("{ratio:.3}")
}

fn end_of(ratio: f64) -> i32 {
    x_of(ratio.min(RATIO_MAX))
}

fn text(canvas: &Canvas, words: &str, at: (i32, i32), size: i32, side: HPos, style: FontStyle) -> Outcome {
    let font = ("sans-serif", size).into_font().style(style);
    canvas.draw(&Text::new(words, at, font.color(&INK).pos(Pos::new(side, VPos::Center))))
}

fn x_of(ratio: f64) -> i32 {
    NAMES + (ratio / RATIO_MAX * f64::from(WIDTH - NAMES - NUMBERS)).round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_has_every_figure_in_order() {
        let of =
            |name, safe_ratio, lowest_ratio, reserved_ratio| Bars { name, safe_ratio, lowest_ratio, reserved_ratio };
        let bars = [
            of("wide", 20.25, 3.0, 30.5),
            of("<b>", 1.125, 1.0625, 1.25),
            of("same", 2.0, 2.0, 2.0001),
            of("no budget", f64::NAN, f64::NAN, 1.0),
            of("unsafe", f64::NAN, 1.75, 1.5),
            of("none", f64::NAN, f64::NAN, f64::NAN),
        ];
        let svg = svg(&bars, "3 workloads").unwrap();
        let words = [
            "&lt;b&gt;",
            "1.125",
            "1.250",
            "same",
            "2.000",
            "wide",
            "20.250",
            "30.500",
            "unsafe",
            "is safe",
            "1.500",
            "\nno budget\n",
            "can be set",
            "1.000",
        ];
        let places = words.map(|words| svg.find(words).unwrap_or_else(|| panic!("{words} is not in {svg}")));
        assert!(places.is_sorted(), "{places:?}");
        assert!(
            svg.contains("3 workloads")
                && svg.matches("2.000").count() == 1
                && !svg.contains("\nnone\n")
                && !svg.contains("NaN"),
            "{svg}"
        );
        // However long a bar is, it ends in the picture.
        let widths = svg.split(" width=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        let widths: Vec<i32> = widths.map(|width| width.parse().unwrap()).collect();
        assert!(widths.len() > 5 && widths.iter().all(|width| *width <= WIDTH), "{widths:?}");
    }
}
