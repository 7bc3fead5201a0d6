//! The lists, tuples and dictionaries of a pickle that is being read, and what becomes of their items.

use super::pickle::{Container, Contents, Items, Memo, Row, Value};
use super::words::Word;
use crate::trace::fault::Fault;

#[derive(Debug, Default)]
pub(super) struct Arena {
    containers: Vec<Contents>,
    /// Places of containers that were given up.
    free: Vec<u32>,
    /// What the items of all containers take.
    items_bytes: usize,
    /// What is still to be given up.
    given_up: Vec<Value>,
}

impl Arena {
    pub(super) fn into_containers(self) -> Vec<Contents> {
        self.containers
    }

    /// How much memory all containers take, without the room that growing vectors have in reserve.
    pub(super) fn bytes(&self) -> usize {
        self.containers.len() * size_of::<Contents>() + self.items_bytes
    }

    pub(super) fn list(&mut self, byte: u64) -> Container {
        self.contain(byte, Items::Values(Vec::new()))
    }

    pub(super) fn dict(&mut self, byte: u64) -> Container {
        self.contain(byte, Items::Fields(Vec::new()))
    }

    fn contain(&mut self, byte: u64, items: Items) -> Container {
        let contents = Contents { byte, items, is_shared: false, is_taken: false, is_remembered: false, memo: 0 };
        if let Some(place) = self.free.pop() {
            self.containers[place as usize] = contents;
            return Container(place);
        }
        // Fewer than the machine's limit, or reading has ended.
        let place = self.containers.len() as u32;
        self.containers.push(contents);
        Container(place)
    }

    fn contents(&mut self, container: Container) -> &mut Contents {
        &mut self.containers[container.0 as usize]
    }

    /// Notes that a value is in one more place. A container stays from now on.
    pub(super) fn share(&mut self, value: Value) {
        if let Some(container) = value.container() {
            self.contents(container).is_shared = true;
        }
    }

    /// Notes what a value is remembered under. A container that is remembered twice stays.
    pub(super) fn remember(&mut self, value: Value, key: u32) {
        if let Value::List(container) | Value::Dict(container) = value {
            let contents = self.contents(container);
            contents.is_shared |= contents.is_remembered;
            (contents.is_remembered, contents.memo) = (true, key);
        }
    }

    /// Gives a value up, with everything in it that is nowhere else. What remembers it will find nothing.
    pub(super) fn give_up(&mut self, memo: &mut Memo, value: Value) {
        let mut next = Some(value);
        while let Some(value) = next {
            if let Some(container) = value.container() {
                self.give_up_container(memo, container);
            }
            next = self.given_up.pop();
        }
    }

    fn give_up_container(&mut self, memo: &mut Memo, container: Container) {
        let contents = self.contents(container);
        if contents.is_shared {
            return;
        }
        self.forget(memo, container);
        self.replace(container, Items::Values(Vec::new()));
        self.free.push(container.0);
    }

    fn forget(&mut self, memo: &mut Memo, container: Container) {
        let contents = self.contents(container);
        if std::mem::take(&mut contents.is_remembered) {
            memo.forget(contents.memo);
        }
    }

    /// Puts other items in a container. The values in the old ones are still to be given up.
    fn replace(&mut self, container: Container, items: Items) {
        let old = self.take(container);
        self.contents(container).items = items;
        let is_container = |value: &Value| value.container().is_some();
        match old {
            Items::Values(values) => self.given_up.extend(values.into_iter().filter(is_container)),
            Items::Fields(fields) => {
                self.given_up.extend(fields.into_iter().map(|(_, value)| value).filter(is_container));
            }
            Items::Entries(_) | Items::Blocks(_) | Items::Annotations(_) | Items::Row(_) => {}
        }
    }

    /// Sets keys of a dictionary: key, value, key, value.
    pub(super) fn set(
        &mut self,
        memo: &mut Memo,
        dict: Container,
        mut pairs: impl Iterator<Item = Value>,
    ) -> Result<(), Fault> {
        while let (Some(key), Some(value)) = (pairs.next(), pairs.next()) {
            let Value::Word(key) = key else {
                self.give_up(memo, key);
                self.give_up(memo, value);
                continue;
            };
            let contents = self.contents(dict);
            let before_bytes = contents.items.bytes();
            let unused = match &mut contents.items {
                _ if key == Word::Other => value,
                Items::Fields(fields) => match fields.iter_mut().find(|(found, _)| *found == key) {
                    Some((_, place)) => std::mem::replace(place, value),
                    None => {
                        fields.push((key, value));
                        Value::Other
                    }
                },
                Items::Row(Some(_)) => return Err(contents.fault("expected all keys of a dictionary at once")),
                _ => value,
            };
            self.items_bytes += contents.items.bytes() - before_bytes;
            self.give_up(memo, unused);
        }
        Ok(())
    }

    /// Makes a row of a dictionary that has the keys of one. If something is wrong with them, the list says so that gets it.
    pub(super) fn settle(&mut self, memo: &mut Memo, dict: Container) {
        if let Ok(Some(row)) = self.contents(dict).row() {
            self.replace(dict, Items::Row(row));
            self.give_up(memo, Value::Other);
        }
    }

    /// Puts a dictionary that waits on the stack in the run that is below it there, or makes a run of it. Returns what is in its
    /// place then: itself if it is no row, nothing if it went into the run or is a row of no use.
    pub(super) fn run(&mut self, memo: &mut Memo, below: Option<Value>, dict: Container) -> Option<Value> {
        let contents = self.contents(dict);
        let Items::Row(row) = contents.items else { return Some(Value::Dict(dict)) };
        if contents.is_shared {
            return Some(Value::Dict(dict));
        }
        if let Some(row) = row {
            let run = if let Some(Value::Run(run)) = below { run } else { dict };
            if run == dict {
                self.replace(dict, Items::Values(Vec::new()));
            }
            let items = &mut self.contents(run).items;
            let before_bytes = items.bytes();
            let is_in_run = items.push_row(row);
            let after_bytes = items.bytes();
            self.items_bytes += after_bytes - before_bytes;
            if run == dict {
                self.forget(memo, dict);
                return Some(Value::Run(dict));
            }
            if !is_in_run {
                return Some(Value::Dict(dict));
            }
        }
        self.give_up(memo, Value::Dict(dict));
        None
    }

    /// Appends items to a list: dictionaries that are rows as rows.
    pub(super) fn append(
        &mut self,
        memo: &mut Memo,
        list: Container,
        items: impl Iterator<Item = Value>,
    ) -> Result<(), Fault> {
        for item in items {
            let row = match item {
                Value::Dict(dict) => self.contents(dict).row()?,
                _ => None,
            };
            let rows = if let Value::Run(run) = item { Some(self.take(run)) } else { None };
            let is_used_up = row.is_some() || rows.is_some();
            let list_items = &mut self.contents(list).items;
            let before_bytes = list_items.bytes();
            let is_of_its_kind = match (rows, row) {
                (Some(rows), _) => list_items.append(rows),
                (None, Some(row)) => row.is_none_or(|row| list_items.push_row(row)),
                (None, None) => list_items.push(item),
            };
            let after_bytes = list_items.bytes();
            self.items_bytes += after_bytes - before_bytes;
            if !is_of_its_kind {
                return Err(self.mixed(item, list));
            }
            if is_used_up {
                self.give_up(memo, item);
            }
        }
        Ok(())
    }

    fn take(&mut self, container: Container) -> Items {
        let items = std::mem::replace(&mut self.contents(container).items, Items::Values(Vec::new()));
        self.items_bytes -= items.bytes();
        items
    }

    fn mixed(&self, item: Value, list: Container) -> Fault {
        let place = if let Value::Dict(place) | Value::Run(place) = item { place } else { list };
        self.containers[place.0 as usize].fault("expected a list whose items are all of one kind")
    }
}

impl Items {
    /// Adds a value, if there are no rows.
    fn push(&mut self, value: Value) -> bool {
        if let Self::Values(values) = self {
            values.push(value);
            return true;
        }
        false
    }

    /// Adds a row, if there are none of another kind.
    fn push_row(&mut self, row: Row) -> bool {
        if self.is_empty() {
            *self = match row {
                Row::Entry(_) => Self::Entries(Vec::new()),
                Row::Block(_) => Self::Blocks(Vec::new()),
                Row::Annotation(_) => Self::Annotations(Vec::new()),
            };
        }
        match (self, row) {
            (Self::Entries(rows), Row::Entry(row)) => rows.push(row),
            (Self::Blocks(rows), Row::Block(row)) => rows.push(row),
            (Self::Annotations(rows), Row::Annotation(row)) => rows.push(row),
            _ => return false,
        }
        true
    }

    /// Adds all rows of a run, if there are none of another kind.
    fn append(&mut self, run: Self) -> bool {
        match (self, run) {
            (Self::Entries(rows), Self::Entries(more)) => rows.extend(more),
            (Self::Blocks(rows), Self::Blocks(more)) => rows.extend(more),
            (Self::Annotations(rows), Self::Annotations(more)) => rows.extend(more),
            (items, run) if items.is_empty() => *items = run,
            _ => return false,
        }
        true
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Values(values) if values.is_empty())
    }
}
