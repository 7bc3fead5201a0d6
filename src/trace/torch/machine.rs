//! The stack machine: a loop over instructions of one byte and what follows it, and a function for each kind of them. Their
//! codes are those that Python's `pickletools` lists.

use std::io::BufRead;

use super::arena::Arena;
use super::bytes::Bytes;
use super::pickle::{Memo, Pickle, Value};
use super::words::Word;
use crate::trace::fault::Fault;
use crate::units::exact;

/// What values may take on the stack, in containers and remembered. Vectors that grow take up to three times that.
const VALUES_BYTES_MAX: usize = if cfg!(test) { 2 << 20 } else { 2 << 30 };

/// What a remembered value takes in its table.
const MEMO_BYTES: usize = 32;

pub(super) struct Machine<'a> {
    bytes: Bytes<'a>,
    /// Where the instruction begins that is carried out.
    begin: u64,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: Memo,
    arena: Arena,
}

impl<'a> Machine<'a> {
    pub(super) fn new(reader: &'a mut dyn BufRead) -> Self {
        let (stack, marks) = (Vec::new(), Vec::new());
        Self { bytes: Bytes::new(reader), begin: 0, stack, marks, memo: Memo::default(), arena: Arena::default() }
    }

    pub(super) fn run(mut self) -> Result<Pickle, Fault> {
        loop {
            self.begin = self.bytes.at();
            let [code] = self.bytes.array("an instruction, or STOP at the end")?;
            if code == b'.' {
                let root = self.pop()?;
                return Ok(Pickle { containers: self.arena.into_containers(), root });
            }
            self.instruction(code)?;
            let stack_bytes = size_of_val(&*self.stack) + size_of_val(&*self.marks);
            if stack_bytes + self.memo.len() * MEMO_BYTES + self.arena.bytes() > VALUES_BYTES_MAX {
                let most = exact(VALUES_BYTES_MAX as u64);
                return Err(self.fault(format!("expected a pickle whose values take at most {most} of memory")));
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
            b'1' => self.give_up_since_mark()?,
            b'2' => {
                let top = self.top()?;
                self.arena.share(top);
                self.stack.push(top);
            }
            b'N' | 0x88 | 0x89 => self.stack.push(Value::Other),
            b'I' | b'J' | b'K' | b'M' | b'L' | 0x8a | 0x8b => self.integer(code)?,
            b'F' => {
                self.bytes.line("a number and a line feed")?;
                self.stack.push(Value::Other);
            }
            b'G' => {
                self.skip::<8>("a number")?;
                self.stack.push(Value::Other);
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
        let [number] = self.bytes.array("a protocol's number")?;
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
        let value = self.pop()?;
        self.give_up(value);
        Ok(())
    }

    fn integer(&mut self, code: u8) -> Result<(), Fault> {
        let value = match code {
            b'J' => Value::Int(i32::from_le_bytes(self.bytes.array("4 bytes of a number")?).into()),
            b'K' => Value::Int(u8::from_le_bytes(self.bytes.array("a number")?).into()),
            b'M' => Value::Int(u16::from_le_bytes(self.bytes.array("2 bytes of a number")?).into()),
            0x8a => {
                let len = u8::from_le_bytes(self.bytes.array("a number's length")?);
                self.long(len.into())?
            }
            0x8b => {
                let len = u32::from_le_bytes(self.bytes.array("a number's length")?);
                self.long(len.into())?
            }
            _ => self.decimal(code)?,
        };
        self.stack.push(value);
        Ok(())
    }

    /// Reads a number of protocol 0, which writes false and true as `00` and `01`.
    fn decimal(&mut self, code: u8) -> Result<Value, Fault> {
        let line = self.bytes.line("a number and a line feed")?;
        let digits = std::str::from_utf8(line.beginning()).unwrap_or("").trim();
        Ok(match (code, digits.strip_suffix('L').unwrap_or(digits)) {
            (b'I', "00" | "01") => Value::Other,
            (_, digits) => match (digits.parse::<i64>(), digits.parse::<u64>()) {
                (Ok(number), _) => Value::Int(number),
                (_, Ok(number)) => Value::Large(number),
                _ if digits.bytes().any(|byte| byte.is_ascii_digit()) => Value::Other,
                _ => return Err(self.fault("expected a whole number in decimal")),
            },
        })
    }

    fn text(&mut self, code: u8) -> Result<(), Fault> {
        if let b'S' | b'V' = code {
            let line = self.bytes.line("a text and a line feed")?;
            let line = match line.beginning() {
                // Only protocol 0's byte strings are in quotes. What is escaped in them stays so.
                [b'\'' | b'"', text @ ..] if code == b'S' => {
                    text.strip_suffix(b"'").or(text.strip_suffix(b"\"")).unwrap_or(text)
                }
                line => line,
            };
            self.stack.push(Value::Word(Word::of(line)));
            return Ok(());
        }
        let what = "a text's length";
        let len = match code {
            b'U' | 0x8c | b'C' => u8::from_le_bytes(self.bytes.array(what)?).into(),
            b'T' | b'X' | b'B' => u32::from_le_bytes(self.bytes.array(what)?).into(),
            _ => u64::from_le_bytes(self.bytes.array(what)?),
        };
        let mut text = [0; Word::BYTES_MAX];
        let kept = self.bytes.take(len, &mut text, "a text as long as it says")?;
        self.stack.push(Value::Word(Word::of(&text[..kept])));
        Ok(())
    }

    /// A number in two's complement, as few bytes as hold it.
    fn long(&mut self, len: u64) -> Result<Value, Fault> {
        let mut wide = [0; 16];
        let kept = self.bytes.take(len, &mut wide, "a number as long as it says")?;
        if len > 16 {
            return Ok(Value::Other);
        }
        if wide[..kept].last().is_some_and(|byte| byte & 0x80 != 0) {
            wide[kept..].fill(0xff);
        }
        let number = i128::from_le_bytes(wide);
        Ok(match (i64::try_from(number), u64::try_from(number)) {
            (Ok(number), _) => Value::Int(number),
            (_, Ok(number)) => Value::Large(number),
            _ => Value::Other,
        })
    }

    fn list(&mut self, code: u8) -> Result<(), Fault> {
        if let b']' | b'l' = code {
            let begin = if code == b']' { self.stack.len() } else { self.unmark()? };
            return self.new_list(begin);
        }
        let begin = match code {
            b'a' => {
                self.top()?;
                self.stack.len() - 1
            }
            _ => self.unmark()?,
        };
        match self.below(begin)? {
            Value::List(list) => {
                let items = self.stack.drain(begin..);
                self.arena.append(&mut self.memo, list, items)
            }
            // An object's own append is not called.
            Value::Other => {
                self.give_up_from(begin);
                Ok(())
            }
            _ => Err(self.fault("expected a list to append to")),
        }
    }

    /// Makes a list or a tuple of what is on the stack from `begin` on.
    fn new_list(&mut self, begin: usize) -> Result<(), Fault> {
        let list = self.arena.list(self.begin);
        self.arena.append(&mut self.memo, list, self.stack.drain(begin..))?;
        self.stack.push(Value::List(list));
        Ok(())
    }

    fn tuple(&mut self, code: u8) -> Result<(), Fault> {
        let begin = match code {
            b')' => self.stack.len(),
            b't' => self.unmark()?,
            _ => self.heights(usize::from(code - 0x84))?,
        };
        if begin == self.stack.len() {
            self.stack.push(Value::Empty);
            return Ok(());
        }
        self.new_list(begin)
    }

    fn dict(&mut self, code: u8) -> Result<(), Fault> {
        let begin = match code {
            b'}' => self.stack.len(),
            b's' => self.heights(2)?,
            _ => self.unmark()?,
        };
        if !(self.stack.len() - begin).is_multiple_of(2) {
            return Err(self.fault("expected a value for every key"));
        }
        let (dict, is_new) = match code {
            b'}' | b'd' => (Value::Dict(self.arena.dict(self.begin)), true),
            _ => (self.below(begin)?, false),
        };
        match dict {
            Value::Dict(dict) => {
                self.arena.set(&mut self.memo, dict, self.stack.drain(begin..))?;
                if code == b'u' {
                    self.arena.settle(&mut self.memo, dict);
                    self.run_below();
                }
            }
            Value::Other => self.give_up_from(begin),
            _ => return Err(self.fault("expected a dictionary to set a key of")),
        }
        if is_new {
            self.stack.push(dict);
        }
        Ok(())
    }

    /// Lets the row below the top of the stack wait in a run. The top may still be remembered, or get another key.
    fn run_below(&mut self) {
        let floor = self.marks.last().copied().unwrap_or(0);
        let Some(place) = self.stack.len().checked_sub(2).filter(|place| *place >= floor) else { return };
        let Value::Dict(dict) = self.stack[place] else { return };
        let below = (place > floor).then(|| self.stack[place - 1]);
        match self.arena.run(&mut self.memo, below, dict) {
            Some(value) => self.stack[place] = value,
            None => drop(self.stack.remove(place)),
        }
    }

    fn recall(&mut self, code: u8) -> Result<(), Fault> {
        let key = self.key(code)?;
        match self.memo.get(key) {
            Some(value) => {
                self.arena.share(value);
                self.stack.push(value);
                Ok(())
            }
            None => Err(self.fault(format!("expected a value remembered under {key}, and there is none"))),
        }
    }

    fn remember(&mut self, code: u8) -> Result<(), Fault> {
        let key = self.key(code)?;
        let top = self.top()?;
        self.arena.remember(top, key);
        self.memo.remember(key, top);
        Ok(())
    }

    /// What a value is remembered under.
    fn key(&mut self, code: u8) -> Result<u32, Fault> {
        let what = "a number to remember by";
        Ok(match code {
            b'h' | b'q' => u8::from_le_bytes(self.bytes.array(what)?).into(),
            b'j' | b'r' => u32::from_le_bytes(self.bytes.array(what)?),
            0x94 => self.memo.count,
            _ => {
                let line = self.bytes.line(what)?;
                let digits = std::str::from_utf8(line.bytes()).unwrap_or("");
                digits.trim().parse().map_err(|_| self.fault(format!("expected {what}")))?
            }
        })
    }

    /// What is no plain data: its parts leave the stack, and it stays unknown.
    fn object(&mut self, code: u8) -> Result<(), Fault> {
        let name = "a name and a line feed";
        let parts = match code {
            // Items of a set.
            0x90 => return self.give_up_since_mark(),
            // A buffer that may not be written is the same buffer.
            0x98 => return self.top().map(drop),
            // An empty set, and a buffer from outside the pickle.
            0x8f | 0x97 => 0,
            0x91 | b'o' => self.give_up_since_mark().map(|()| 0)?,
            b'c' | b'i' => {
                self.bytes.line(name)?;
                self.bytes.line(name)?;
                if code == b'i' { self.give_up_since_mark().map(|()| 0)? } else { 0 }
            }
            0x82 => self.skip::<1>("a number").map(|()| 0)?,
            0x83 => self.skip::<2>("a number").map(|()| 0)?,
            0x84 => self.skip::<4>("a number").map(|()| 0)?,
            b'P' => self.bytes.line(name).map(|_| 0)?,
            b'Q' => 1,
            0x93 | b'R' | b'b' | 0x81 => 2,
            0x92 => 3,
            _ => return Err(self.fault(format!("expected an instruction of a pickle, found {code:#04x}"))),
        };
        let begin = self.heights(parts)?;
        self.give_up_from(begin);
        self.stack.push(Value::Other);
        Ok(())
    }

    /// Never below the last mark: what is there belongs to another instruction.
    fn top(&self) -> Result<Value, Fault> {
        self.below(self.stack.len())
    }

    /// The value just below a height of the stack.
    fn below(&self, height: usize) -> Result<Value, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack[..height].last() {
            Some(value) if height > floor => Ok(*value),
            _ => Err(self.fault("expected a value on the stack, which has none")),
        }
    }

    fn pop(&mut self) -> Result<Value, Fault> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// The height of the stack below its last values.
    fn heights(&self, values: usize) -> Result<usize, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(values) {
            Some(height) if height >= floor => Ok(height),
            _ => Err(self.fault("expected a value on the stack, which has none")),
        }
    }

    /// Takes the last mark: the height of the stack at it.
    fn unmark(&mut self) -> Result<usize, Fault> {
        let mark = self.marks.pop();
        mark.ok_or_else(|| self.fault("expected a mark on the stack, which has none"))
    }

    fn give_up(&mut self, value: Value) {
        self.arena.give_up(&mut self.memo, value);
    }

    fn give_up_from(&mut self, begin: usize) {
        for value in self.stack.drain(begin..) {
            self.arena.give_up(&mut self.memo, value);
        }
    }

    fn give_up_since_mark(&mut self) -> Result<(), Fault> {
        let begin = self.unmark()?;
        self.give_up_from(begin);
        Ok(())
    }

    fn skip<const N: usize>(&mut self, what: &str) -> Result<(), Fault> {
        self.bytes.array::<N>(what).map(drop)
    }

    fn fault(&self, what: impl Into<String>) -> Fault {
        Fault::byte(self.begin, what)
    }
}
