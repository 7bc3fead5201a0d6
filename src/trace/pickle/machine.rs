//! The stack machine: a loop over instructions of one byte and what follows it, and a function for each kind of them. Their
//! codes are those that Python's `pickletools` lists.

use std::collections::HashMap;

use super::{Container, Contents, Pickle, Value, text};
use crate::trace::parse::Fault;

/// The most values on the stack, in containers and remembered: about 4 GiB where a file is made to reach it. An entry of a
/// snapshot is 15 values without its call stack.
const VALUES_MAX: usize = 1 << 27;

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    forgotten: &'a str,
    at: usize,
    /// Where the instruction begins that is carried out.
    begin: usize,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    containers: Vec<Contents>,
    /// In containers.
    values: usize,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8], forgotten: &'a str) -> Self {
        let (stack, marks, memo, containers) = (Vec::new(), Vec::new(), HashMap::new(), Vec::new());
        Self { bytes, forgotten, at: 0, begin: 0, stack, marks, memo, containers, values: 0 }
    }

    pub(super) fn run(mut self) -> Result<Pickle<'a>, Fault> {
        loop {
            self.begin = self.at;
            let [code] = self.array("an instruction, or STOP at the end")?;
            if code == b'.' {
                let root = self.pop()?;
                return Ok(Pickle { bytes: self.bytes, containers: self.containers, root });
            }
            self.instruction(code)?;
            if self.stack.len() + self.marks.len() + self.memo.len() + self.containers.len() + self.values > VALUES_MAX
            {
                return Err(self.fault(format!("expected at most {VALUES_MAX} values")));
            }
        }
    }

    fn instruction(&mut self, code: u8) -> Result<(), Fault> {
        match code {
            0x80 => self.protocol()?,
            // A frame's length helps readers of streams only.
            0x95 => self.skip::<8>("a frame's length")?,
            b'(' => self.marks.push(self.stack.len()),
            b'0' => self.pop_or_mark()?,
            b'1' => drop(self.since_mark()?),
            b'2' => self.stack.push(self.top()?),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'I' | b'J' | b'K' | b'M' | b'L' | 0x8a | 0x8b => self.integer(code)?,
            b'F' => {
                self.line("a number and a line feed")?;
                self.stack.push(Value::Float);
            }
            b'G' => {
                self.skip::<8>("a number")?;
                self.stack.push(Value::Float);
            }
            b'S' | b'V' | b'T' | b'U' | b'X' | 0x8c | 0x8d | b'B' | b'C' | 0x8e | 0x96 => self.text(code)?,
            b']' | b'l' | b'a' | b'e' => self.list(code)?,
            b')' | b't' | 0x85..=0x87 => self.tuple(code)?,
            b'}' | b'd' | b's' | b'u' => self.dict(code)?,
            b'g' | b'h' | b'j' => self.recall(code)?,
            b'p' | b'q' | b'r' | 0x94 => self.remember(code)?,
            _ => self.object(code)?,
        }
        Ok(())
    }

    fn protocol(&mut self) -> Result<(), Fault> {
        let [number] = self.array("a protocol's number")?;
        if number > 5 {
            return Err(self.fault(format!("expected a pickle of protocol 0 to 5, found {number}")));
        }
        Ok(())
    }

    fn pop_or_mark(&mut self) -> Result<(), Fault> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    fn integer(&mut self, code: u8) -> Result<(), Fault> {
        let value = match code {
            b'J' => Value::Int(i32::from_le_bytes(self.array("4 bytes of a number")?).into()),
            b'K' => Value::Int(u8::from_le_bytes(self.array("a number")?).into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array("2 bytes of a number")?).into()),
            0x8a => {
                let len = u8::from_le_bytes(self.array("a number's length")?);
                long(self.take(len.into(), "a number as long as it says")?)
            }
            0x8b => {
                let len = u32::from_le_bytes(self.array("a number's length")?);
                long(self.take(len as usize, "a number as long as it says")?)
            }
            _ => self.decimal(code)?,
        };
        self.stack.push(value);
        Ok(())
    }

    /// Of protocol 0; `00` and `01` are how it writes false and true.
    fn decimal(&mut self, code: u8) -> Result<Value, Fault> {
        let line = self.line("a number and a line feed")?;
        let digits = std::str::from_utf8(line).unwrap_or("").trim();
        Ok(match (code, digits.strip_suffix('L').unwrap_or(digits)) {
            (b'I', "00") => Value::Bool(false),
            (b'I', "01") => Value::Bool(true),
            (_, digits) => match (digits.parse::<i64>(), digits.parse::<u64>()) {
                (Ok(number), _) => Value::Int(number),
                (_, Ok(number)) => Value::Large(number),
                _ if digits.bytes().any(|byte| byte.is_ascii_digit()) => Value::Opaque,
                _ => return Err(self.fault("expected a whole number in decimal")),
            },
        })
    }

    fn text(&mut self, code: u8) -> Result<(), Fault> {
        let start = self.at;
        if let b'S' | b'V' = code {
            let line = self.line("a text and a line feed")?;
            // Only protocol 0's byte strings are in quotes. What is escaped in them stays so.
            let quoted = code == b'S' && line.len() >= 2 && line.first() == line.last();
            let (start, len) = if quoted { (start + 1, line.len() - 2) } else { (start, line.len()) };
            self.stack.push(Value::Text { start: start as u32, len: len as u32 });
            return Ok(());
        }
        let what = "a text's length";
        let len = match code {
            b'U' | 0x8c | b'C' => u8::from_le_bytes(self.array(what)?).into(),
            b'T' | b'X' | b'B' => u32::from_le_bytes(self.array(what)?).into(),
            _ => u64::from_le_bytes(self.array(what)?),
        };
        let start = self.at;
        // A length that does not fit is longer than the file too.
        self.take(usize::try_from(len).unwrap_or(usize::MAX), "a text as long as it says")?;
        self.stack.push(Value::Text { start: start as u32, len: len as u32 });
        Ok(())
    }

    fn list(&mut self, code: u8) -> Result<(), Fault> {
        let items = match code {
            b']' => Vec::new(),
            b'a' => vec![self.pop()?],
            _ => self.since_mark()?,
        };
        if let b']' | b'l' = code {
            let list = self.contain(items);
            self.stack.push(Value::List(list));
            return Ok(());
        }
        match self.top()? {
            Value::List(list) => self.extend(list, items),
            // An object's own append is not called.
            Value::Opaque => {}
            _ => return Err(self.fault("expected a list to append to")),
        }
        Ok(())
    }

    fn tuple(&mut self, code: u8) -> Result<(), Fault> {
        let items = match code {
            b')' => Vec::new(),
            b't' => self.since_mark()?,
            _ => {
                let mut items = Vec::new();
                for _ in 0x84..code {
                    items.push(self.pop()?);
                }
                items.reverse();
                items
            }
        };
        let tuple = self.contain(items);
        self.stack.push(Value::Tuple(tuple));
        Ok(())
    }

    fn dict(&mut self, code: u8) -> Result<(), Fault> {
        let mut items = match code {
            b'}' => Vec::new(),
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.since_mark()?,
        };
        if items.len() % 2 != 0 {
            return Err(self.fault("expected a value for every key"));
        }
        for pair in items.chunks_exact_mut(2) {
            self.forget(pair);
        }
        if let b'}' | b'd' = code {
            let dict = self.contain(items);
            self.stack.push(Value::Dict(dict));
            return Ok(());
        }
        match self.top()? {
            Value::Dict(dict) => self.extend(dict, items),
            Value::Opaque => {}
            _ => return Err(self.fault("expected a dictionary to set a key of")),
        }
        Ok(())
    }

    /// Empties a value whose key says so.
    fn forget(&mut self, pair: &mut [Value]) {
        let [Value::Text { start, len }, Value::List(list)] = *pair else { return };
        if text(self.bytes, start, len) == Some(self.forgotten.as_bytes()) {
            let items = std::mem::take(&mut self.containers[list.0 as usize].items);
            self.values -= items.len();
            pair[1] = Value::None;
        }
    }

    fn recall(&mut self, code: u8) -> Result<(), Fault> {
        let key = self.key(code)?;
        match self.memo.get(&key) {
            Some(value) => self.stack.push(*value),
            None => return Err(self.fault(format!("expected a value remembered under {key}, and there is none"))),
        }
        Ok(())
    }

    fn remember(&mut self, code: u8) -> Result<(), Fault> {
        let key = self.key(code)?;
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    /// What a value is remembered under.
    fn key(&mut self, code: u8) -> Result<u32, Fault> {
        let what = "a number to remember by";
        Ok(match code {
            b'h' | b'q' => u8::from_le_bytes(self.array(what)?).into(),
            b'j' | b'r' => u32::from_le_bytes(self.array(what)?),
            0x94 => self.memo.len() as u32,
            _ => {
                let digits = std::str::from_utf8(self.line(what)?).unwrap_or("");
                digits.trim().parse().map_err(|_| self.fault(format!("expected {what}")))?
            }
        })
    }

    /// What is no plain data: its parts leave the stack, and it stays unknown.
    fn object(&mut self, code: u8) -> Result<(), Fault> {
        let name = "a name and a line feed";
        let parts = match code {
            // Items of a set.
            0x90 => return self.since_mark().map(drop),
            // A buffer that may not be written is the same buffer.
            0x98 => return self.top().map(drop),
            // An empty set, and a buffer from outside the pickle.
            0x8f | 0x97 => 0,
            0x91 | b'o' => self.since_mark().map(|_| 0)?,
            b'c' | b'i' => {
                self.line(name)?;
                self.line(name)?;
                if code == b'i' { self.since_mark().map(|_| 0)? } else { 0 }
            }
            0x82 => self.skip::<1>("a number").map(|()| 0)?,
            0x83 => self.skip::<2>("a number").map(|()| 0)?,
            0x84 => self.skip::<4>("a number").map(|()| 0)?,
            b'P' => self.line(name).map(|_| 0)?,
            b'Q' => 1,
            0x93 | b'R' | b'b' | 0x81 => 2,
            0x92 => 3,
            _ => return Err(self.fault(format!("expected an instruction of a pickle, found {code:#04x}"))),
        };
        for _ in 0..parts {
            self.pop()?;
        }
        self.stack.push(Value::Opaque);
        Ok(())
    }

    /// Never below the last mark: what is there belongs to somebody else.
    fn top(&self) -> Result<Value, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(value) if self.stack.len() > floor => Ok(*value),
            _ => Err(self.fault("expected a value on the stack, which has none")),
        }
    }

    fn pop(&mut self) -> Result<Value, Fault> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn since_mark(&mut self) -> Result<Vec<Value>, Fault> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.fault("expected a mark on the stack, which has none")),
        }
    }

    fn contain(&mut self, items: Vec<Value>) -> Container {
        self.values += items.len();
        // Fewer than `VALUES_MAX`, or reading has ended.
        let container = Container(self.containers.len() as u32);
        self.containers.push(Contents { byte: self.begin as u32, items });
        container
    }

    fn extend(&mut self, container: Container, items: Vec<Value>) {
        self.values += items.len();
        self.containers[container.0 as usize].items.extend(items);
    }

    fn skip<const N: usize>(&mut self, what: &str) -> Result<(), Fault> {
        self.take(N, what).map(drop)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], Fault> {
        let taken = self.bytes[self.at..].get(..len);
        let taken = taken.ok_or_else(|| Fault::byte(self.at, format!("expected {what}, and the file ends")))?;
        self.at += len;
        Ok(taken)
    }

    /// The bytes up to a line feed.
    fn line(&mut self, what: &str) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|byte| *byte == b'\n');
        let len = len.ok_or_else(|| Fault::byte(self.at, format!("expected {what}, and the file ends")))?;
        self.at += len + 1;
        Ok(&rest[..len])
    }

    fn fault(&self, what: impl Into<String>) -> Fault {
        Fault::byte(self.begin, what)
    }
}

/// A number in two's complement, as few bytes as hold it.
fn long(bytes: &[u8]) -> Value {
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 16];
    match wide.get_mut(..bytes.len()) {
        Some(start) => start.copy_from_slice(bytes),
        None => return Value::Opaque,
    }
    let number = i128::from_le_bytes(wide);
    match (i64::try_from(number), u64::try_from(number)) {
        (Ok(number), _) => Value::Int(number),
        (_, Ok(number)) => Value::Large(number),
        _ => Value::Opaque,
    }
}
