//! Pickles as data: protocols 0 to 5, read into values, and nothing in them executed.
//!
//! A pickle is a program for a small stack machine. This one knows all its instructions, and those that would look up a
//! name, call it or ask it to restore itself leave an [`Opaque`](Value::Opaque) value where their result would be.
//!
//! A value may stand in many places, and hold itself: so lists, tuples and dictionaries lie in one arena, and a value is a
//! number there. Reading is a loop, and its memory a multiple of the file's size: a text is a range of the file, what is
//! remembered is a number, and a limit ends a file that only copies. A key's values may be forgotten as soon as they
//! are complete: the call stacks are most of a snapshot.

mod machine;

use self::machine::Machine;
use super::parse::Fault;

const _: () = assert!(size_of::<Value>() == 16);

/// A value. What a container holds is in its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// Over 2^63.
    Large(u64),
    Float,
    /// Bytes or text, as a range of the file.
    Text {
        start: u32,
        len: u32,
    },
    List(Container),
    Tuple(Container),
    Dict(Container),
    /// What is no plain data, or a number over 2^64.
    Opaque,
}

/// A container's place in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Container(u32);

/// A pickle's values.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    bytes: &'a [u8],
    containers: Vec<Contents>,
    root: Value,
}

#[derive(Debug)]
struct Contents {
    /// Where in the file it begins.
    byte: u32,
    /// Of a dictionary: key, value, key, value.
    items: Vec<Value>,
}

impl<'a> Pickle<'a> {
    /// The values, without those of the keys called `forgotten`, whose place is empty.
    pub(super) fn read(bytes: &'a [u8], forgotten: &'a str) -> Result<Self, Fault> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(Fault::whole("expected a pickle of less than 4 GiB"));
        }
        Machine::new(bytes, forgotten).run()
    }

    pub(super) fn root(&self) -> Value {
        self.root
    }

    /// How many lists, tuples and dictionaries there are.
    pub(super) fn containers(&self) -> usize {
        self.containers.len()
    }

    /// Where a container begins in the file.
    pub(super) fn byte(&self, container: Container) -> usize {
        self.containers[container.0 as usize].byte as usize
    }

    /// The items of a list or a tuple.
    pub(super) fn items(&self, container: Container) -> &[Value] {
        &self.containers[container.0 as usize].items
    }

    /// A dictionary's value for a key: the last one set.
    pub(super) fn get(&self, dict: Container, key: &str) -> Option<Value> {
        let pairs = self.containers[dict.0 as usize].items.chunks_exact(2);
        pairs.rev().find(|pair| self.text(pair[0]) == Some(key.as_bytes())).map(|pair| pair[1])
    }

    /// The bytes of a text.
    pub(super) fn text(&self, value: Value) -> Option<&'a [u8]> {
        match value {
            Value::Text { start, len } => text(self.bytes, start, len),
            _ => None,
        }
    }
}

fn text(bytes: &[u8], start: u32, len: u32) -> Option<&[u8]> {
    bytes.get(start as usize..)?.get(..len as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Pickle<'_>, String> {
        Pickle::read(bytes, "frames").map_err(|fault| format!("{fault:?}"))
    }

    #[test]
    fn numbers_of_every_width() {
        for (bytes, value) in [
            (&b"I-7\n."[..], Value::Int(-7)),
            (b"I01\n.", Value::Bool(true)),
            (b"L18446744073709551615L\n.", Value::Large(u64::MAX)),
            (b"L99999999999999999999999L\n.", Value::Opaque),
            (b"\x80\x02J\xff\xff\xff\xff.", Value::Int(-1)),
            (b"\x80\x02\x8a\x00.", Value::Int(0)),
            (b"\x80\x02\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00.", Value::Large(u64::MAX)),
            (b"\x80\x02\x8a\x08\xff\xff\xff\xff\xff\xff\xff\xff.", Value::Int(-1)),
            (b"\x80\x02\x8a\x11\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01.", Value::Opaque),
        ] {
            assert_eq!(read(bytes).unwrap().root(), value, "{bytes:?}");
        }
    }

    #[test]
    fn what_would_run_is_opaque_and_does_not_run() {
        // `os.system("...")` in protocol 0.
        let pickle = read(b"cos\nsystem\n(S'false'\ntR.").unwrap();
        assert_eq!(pickle.root(), Value::Opaque);
    }

    #[test]
    fn a_list_that_holds_itself_and_one_that_doubles_take_no_memory() {
        let own = read(b"\x80\x02]q\x00h\x00a.").unwrap();
        let Value::List(list) = own.root() else { panic!("{:?}", own.root()) };
        assert_eq!(own.items(list), [own.root()]);
        // Thirty lists, each of the last one twice: 2^30 values to whoever copies.
        let mut bytes = b"\x80\x02]q\x00".to_vec();
        for key in 0..30 {
            bytes.extend([b']', b'q', key + 1, b'h', key, b'a', b'h', key, b'a']);
        }
        bytes.push(b'.');
        let doubling = read(&bytes).unwrap();
        assert_eq!((doubling.containers.len(), doubling.containers.iter().map(|c| c.items.len()).sum()), (31, 60));
    }

    #[test]
    fn faults_name_the_byte() {
        for (bytes, place, what) in [
            (&b"\x80\x02"[..], 2, "STOP"),
            (b"\x80\x09.", 0, "protocol 0 to 5, found 9"),
            (b"\x80\x02a.", 2, "a value on the stack"),
            (b"\x80\x02(1u.", 4, "a mark"),
            (b"\x80\x02}(NNNu.", 7, "a value for every key"),
            (b"\x80\x02h\x07.", 2, "remembered under 7"),
            (b"\x80\x02X\xff\xff\xff\xffab.", 7, "the file ends"),
            (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.", 11, "the file ends"),
            (b"\x80\x02\xff.", 2, "found 0xff"),
            (b"\x80\x02K\x01K\x02a.", 6, "a list"),
        ] {
            let fault = read(bytes).unwrap_err();
            assert!(fault.contains(&format!("Byte({place})")) && fault.contains(what), "{bytes:?}: {fault}");
        }
    }
}
