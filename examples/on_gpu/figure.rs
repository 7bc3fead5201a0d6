//! One measured figure, and what it must be.

use std::error::Error;

use serde_json::{Value, json};

use crate::shared::print::thousands;

/// What a part returns: its figures, or why there are none.
pub type Figures = Result<Vec<Figure>, Box<dyn Error>>;

/// A number or a text with its name, unit and criterion.
#[derive(Clone, Debug)]
pub struct Figure {
    pub name: String,
    pub value: Value,
    pub unit: String,
    pub must: Option<String>,
    /// `None` without a criterion, and where the run is too small to judge.
    pub met: Option<bool>,
}

impl Figure {
    pub fn new(name: impl Into<String>, value: impl Into<Value>, unit: &str) -> Self {
        Self { name: name.into(), value: value.into(), unit: unit.to_owned(), must: None, met: None }
    }

    /// Makes a figure of a device or a driver, which is not a number.
    pub fn text(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(name, text.into(), "")
    }

    /// States what the figure must be. It is judged only where `is_judged`.
    pub fn must(mut self, must: impl Into<String>, met: bool, is_judged: bool) -> Self {
        self.must = Some(must.into());
        self.met = is_judged.then_some(met);
        self
    }

    pub fn at_most(self, most: f64, is_judged: bool) -> Self {
        let met = self.value.as_f64().is_some_and(|value| value <= most);
        self.must(format!("at most {most}"), met, is_judged)
    }

    pub fn at_least(self, least: f64, is_judged: bool) -> Self {
        let met = self.value.as_f64().is_some_and(|value| value >= least);
        self.must(format!("at least {least}"), met, is_judged)
    }

    /// States that the figure must be no more bytes than this.
    pub fn within(self, bytes: u64) -> Self {
        let met = self.value.as_u64().is_some_and(|value| value <= bytes);
        self.must(format!("at most {}", thousands(bytes)), met, true)
    }

    /// States that the figure must be exactly this number.
    pub fn exactly(self, number: u64) -> Self {
        let met = self.value.as_u64() == Some(number);
        self.must(thousands(number), met, true)
    }

    pub fn to_json(&self) -> Value {
        let Self { name, value, unit, must, met } = self;
        json!({ "figure": name, "value": value, "unit": unit, "must": must, "met": met })
    }

    /// Reads what [`to_json`](Self::to_json) wrote. `None` for anything else, and for a number that is not finite.
    pub fn from_json(json: &Value) -> Option<Self> {
        let text = |key: &str| json[key].as_str().map(str::to_owned);
        let value = json["value"].clone();
        let is_there = !value.is_null();
        let (name, unit) = (text("figure")?, text("unit")?);
        is_there.then(|| Self { name, value, unit, must: text("must"), met: json["met"].as_bool() })
    }

    /// Returns the value as people read it, with its unit.
    pub fn shown(&self) -> String {
        let value = match &self.value {
            Value::String(text) => text.clone(),
            value => match (value.as_u64(), value.as_f64()) {
                (Some(whole), _) => thousands(whole),
                (None, Some(number)) if number != 0.0 && number.abs() < 0.01 => format!("{number:.2e}"),
                (None, Some(number)) => format!("{number:.3}"),
                (None, None) => value.to_string(),
            },
        };
        if self.unit.is_empty() { value } else { format!("{value} {}", self.unit) }
    }
}

/// Returns the middle value.
///
/// # Panics
/// If there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
