//! The JSON of a Kineto trace, event by event. What is not looked at may be anything.

use std::fmt;
use std::io::BufRead;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What an event is called.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum Name {
    Memory,
    ProfilerStep,
    OptimizerStep,
    ZeroGrad,
    #[default]
    Other,
}

impl Name {
    fn of(text: &str) -> Self {
        match text {
            "[memory]" => Self::Memory,
            _ if text.starts_with("ProfilerStep#") => Self::ProfilerStep,
            _ if text.starts_with("Optimizer.step#") => Self::OptimizerStep,
            _ if text.starts_with("Optimizer.zero_grad#") => Self::ZeroGrad,
            _ => Self::Other,
        }
    }
}

/// What is read of an event.
#[derive(Default)]
pub(super) struct Event {
    pub(super) name: Name,
    pub(super) is_of_gpu: bool,
    pub(super) time_us: Option<f64>,
    pub(super) duration_us: Option<f64>,
    pub(super) args: Args,
}

#[derive(Default)]
pub(super) struct Args {
    pub(super) address: Option<i128>,
    pub(super) bytes: Option<i128>,
    pub(super) device_kind: Option<i128>,
    pub(super) device_index: Option<i128>,
    pub(super) reserved_bytes: Option<i128>,
}

/// What is done with an event; the error says what was expected in it.
type Add<'a> = dyn FnMut(&Event) -> Result<(), &'static str> + 'a;

pub(super) fn read(reader: &mut dyn BufRead, add: &mut Add<'_>) -> serde_json::Result<()> {
    let mut json = serde_json::Deserializer::from_reader(reader);
    Root(add).deserialize(&mut json)?;
    json.end()
}

/// The whole file: an object that has `traceEvents`, or these alone.
struct Root<'a, 'b>(&'a mut Add<'b>);

impl<'de> DeserializeSeed<'de> for Root<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Root<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"traceEvents\", or a list of events")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Text(|text: &str| text == "traceEvents"))? {
            match key {
                Some(true) => map.next_value_seed(Root(&mut *self.0))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(event) = list.next_element_seed(EventSeed)? {
            (self.0)(&event).map_err(|expected| serde::de::Error::custom(format!("expected {expected}")))?;
        }
        Ok(())
    }
}

struct EventSeed;

impl<'de> DeserializeSeed<'de> for EventSeed {
    type Value = Event;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Event, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EventSeed {
    type Value = Event;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
        #[derive(Clone, Copy)]
        enum Key {
            Name,
            Category,
            Time,
            Duration,
            Args,
        }
        let key_of = |text: &str| {
            Some(match text {
                "name" => Key::Name,
                "cat" => Key::Category,
                "ts" => Key::Time,
                "dur" => Key::Duration,
                "args" => Key::Args,
                _ => return None,
            })
        };
        let mut event = Event::default();
        while let Some(key) = map.next_key_seed(Text(key_of))? {
            match key.flatten() {
                Some(Key::Name) => event.name = map.next_value_seed(Text(Name::of))?.unwrap_or_default(),
                Some(Key::Category) => {
                    event.is_of_gpu =
                        map.next_value_seed(Text(|text: &str| text.starts_with("gpu_")))?.unwrap_or(false);
                }
                Some(Key::Time) => event.time_us = map.next_value_seed(Number)?.map(Found::float),
                Some(Key::Duration) => event.duration_us = map.next_value_seed(Number)?.map(Found::float),
                Some(Key::Args) => event.args = map.next_value_seed(ArgsSeed)?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(event)
    }
}

struct ArgsSeed;

impl<'de> DeserializeSeed<'de> for ArgsSeed {
    type Value = Args;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Args, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ArgsSeed {
    type Value = Args;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event's \"args\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Args, A::Error> {
        let mut args = Args::default();
        let place_of = |text: &str| {
            Some(match text {
                "Addr" => 0usize,
                "Bytes" => 1,
                "Device Type" => 2,
                "Device Id" => 3,
                "Total Reserved" => 4,
                _ => return None,
            })
        };
        while let Some(key) = map.next_key_seed(Text(place_of))? {
            let Some(place) = key.flatten() else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let number = map.next_value_seed(Number)?.and_then(Found::whole);
            let Args { address, bytes, device_kind, device_index, reserved_bytes } = &mut args;
            *[address, bytes, device_kind, device_index, reserved_bytes][place] = number;
        }
        Ok(args)
    }
}

/// What a function makes of a text; `None` where there is something else.
struct Text<F>(F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for Text<F> {
    type Value = Option<T>;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Option<T>, D::Error> {
        json.deserialize_any(self)
    }
}

/// A visitor of values of which only one kind is wanted.
macro_rules! ignore {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: serde::de::Error>(self, _: $type) -> Result<Self::Value, E> {
            Ok(None)
        })*

        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(None)
        }
    };
}

impl<'de, T, F: FnOnce(&str) -> T> Visitor<'de> for Text<F> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Option<T>, E> {
        Ok(Some((self.0)(text)))
    }

    ignore!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64);
}

struct Number;

#[derive(Clone, Copy)]
enum Found {
    Whole(i128),
    Float(f64),
}

impl Found {
    fn whole(self) -> Option<i128> {
        if let Self::Whole(number) = self { Some(number) } else { None }
    }

    fn float(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Float(number) => number,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Number {
    type Value = Option<Found>;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Option<Found>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Number {
    type Value = Option<Found>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Option<Found>, E> {
        Ok(Some(Found::Whole(number.into())))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Option<Found>, E> {
        Ok(Some(Found::Whole(number.into())))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Option<Found>, E> {
        Ok(Some(Found::Float(number)))
    }

    ignore!(visit_bool: bool, visit_str: &str);
}
