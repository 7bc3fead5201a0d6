//! The stack machine: values, what it does not run, what it forgets, and where it says that something is wrong.

use super::pickle::{Items, Pickle, Value};
use super::words::Word;

fn read(mut bytes: &[u8]) -> Result<Pickle, String> {
    Pickle::read(&mut bytes).map_err(|fault| format!("{fault:?}"))
}

#[test]
fn numbers_of_every_width() {
    for (bytes, value) in [
        (&b"I-7\n."[..], Value::Int(-7)),
        (b"I01\n.", Value::Other),
        (b"L18446744073709551615L\n.", Value::Large(u64::MAX)),
        (b"L99999999999999999999999L\n.", Value::Other),
        (b"\x80\x02J\xff\xff\xff\xff.", Value::Int(-1)),
        (b"\x80\x02\x8a\x00.", Value::Int(0)),
        (b"\x80\x02\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00.", Value::Large(u64::MAX)),
        (b"\x80\x02\x8a\x08\xff\xff\xff\xff\xff\xff\xff\xff.", Value::Int(-1)),
        (b"\x80\x02\x8a\x11\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01.", Value::Other),
    ] {
        assert_eq!(read(bytes).unwrap().root, value, "{bytes:?}");
    }
}

#[test]
fn texts_of_every_kind() {
    for bytes in [
        &b"S'action'\n."[..],
        b"S\"action\"\n.",
        b"Vaction\n.",
        b"T\x06\x00\x00\x00action.",
        b"U\x06action.",
        b"X\x06\x00\x00\x00action.",
        b"\x8c\x06action.",
        b"\x8d\x06\x00\x00\x00\x00\x00\x00\x00action.",
        b"B\x06\x00\x00\x00action.",
        b"C\x06action.",
        b"\x8e\x06\x00\x00\x00\x00\x00\x00\x00action.",
        b"\x96\x06\x00\x00\x00\x00\x00\x00\x00action.",
    ] {
        assert_eq!(read(bytes).unwrap().root, Value::Word(Word::Action), "{bytes:?}");
    }
    // A text that is longer than what is kept of one, and one that begins like a word.
    assert_eq!(read(&[&b"C\xc8"[..], &[b'a'; 200], b"."].concat()).unwrap().root, Value::Word(Word::Other));
    assert_eq!(read(b"Voptimizer\n.").unwrap().root, Value::Word(Word::Other));
}

#[test]
fn what_would_run_is_unknown_and_does_not_run() {
    // `os.system("...")` in protocol 0.
    assert_eq!(read(b"cos\nsystem\n(S'false'\ntR.").unwrap().root, Value::Other);
}

#[test]
fn a_list_that_holds_itself_and_one_that_doubles_take_no_memory() {
    let own = read(b"\x80\x02]q\x00h\x00a.").unwrap();
    let Value::List(list) = own.root else { panic!("{:?}", own.root) };
    assert!(matches!(&own.contents(list).items, Items::Values(values) if **values == [own.root]));
    // Thirty lists, each of the last one twice: 2^30 values to a reader that copies.
    let mut bytes = b"\x80\x02]q\x00".to_vec();
    for key in 0..30 {
        bytes.extend([b']', b'q', key + 1, b'h', key, b'a', b'h', key, b'a']);
    }
    bytes.push(b'.');
    assert_eq!(read(&bytes).unwrap().containers.len(), 31);
}

/// A dictionary with call stacks of its own, many times: each takes the place of the one before.
#[test]
fn what_is_forgotten_gives_its_place_back() {
    let mut bytes = b"\x80\x04](".to_vec();
    for _ in 0..1000 {
        // {"action": "alloc", "addr": 1, "size": 1, "frames": [{"line": 7}]}
        bytes.extend(b"}\x94(\x8c\x06action\x8c\x05alloc\x8c\x04addrK\x01\x8c\x04sizeK\x01\x8c\x06frames]\x94}\x94\x8c\x04lineK\x07sau");
    }
    bytes.extend(b"e.");
    let pickle = read(&bytes).unwrap();
    let Value::List(list) = pickle.root else { panic!("{:?}", pickle.root) };
    assert!(matches!(&pickle.contents(list).items, Items::Entries(rows) if rows.len() == 1000));
    // The dictionaries of one `e` wait for it together, as rows; their call stacks are gone before.
    assert!(pickle.containers.len() <= 1003, "{}", pickle.containers.len());
}

/// All entries of a snapshot that C++ writes are in one batch, and wait for its end.
#[test]
fn values_have_a_limit_that_counts_what_they_take() {
    let entry = |more: &[u8]| [b"}(\x8c\x06action\x8c\x05alloc\x8c\x04addrK\x01\x8c\x04sizeK\x01", more, b"u"].concat();
    let batch = |item: Vec<u8>, times| [b"\x80\x04](".into(), item.repeat(times), b"e.".to_vec()].concat();
    // 60,000 rows of 32 bytes are within 2 MiB; 10,000 dictionaries of 6 keys are not.
    assert!(read(&batch(entry(b""), 60_000)).is_ok());
    let pair = |key: &str| [&[0x8c, key.len() as u8], key.as_bytes(), b"N"].concat();
    let pairs = ["addr", "size", "name", "device", "stage", "blocks"].map(pair).concat();
    for item in [[b"}(", &*pairs, b"u"].concat(), b"]".repeat(6), b"(".repeat(30), b"](NNNNNNNNNNe".into()] {
        let Err(fault) = read(&batch(item.clone(), 10_000)) else { panic!("{item:?} is read") };
        assert!(fault.contains("values take at most 2,097,152 bytes"), "{item:?}: {fault}");
    }
    // What is of no use is remembered without room for it.
    assert!(read(&batch(b"N\x940".repeat(20), 10_000)).is_ok());
}

/// Whatever a program does with rows that wait: `2` doubles one, `0` drops it, and `h` recalls one that was remembered.
#[test]
fn rows_that_wait_are_items_in_their_order() {
    let entry = |size: u8| [b"}(\x8c\x06action\x8c\x05alloc\x8c\x04addrK\x01\x8c\x04sizeK", &[size][..], b"u"].concat();
    let block = |size: u8| [b"}(\x8c\x05state\x8c\x04idle\x8c\x04sizeK", &[size][..], b"u"].concat();
    let none = b"}(\x8c\x06action\x8c\x08snapshotu".to_vec();
    let read = |parts: &[&[u8]]| read(&[b"\x80\x04](", &*parts.concat(), b"e."].concat());
    let sizes = |parts: &[&[u8]]| {
        let pickle = read(parts).unwrap();
        let Value::List(list) = pickle.root else { panic!("{:?}", pickle.root) };
        let Items::Entries(rows) = &pickle.contents(list).items else { panic!("{:?}", pickle.contents(list)) };
        rows.iter().map(|row| row.bytes).collect::<Vec<_>>()
    };
    assert_eq!(sizes(&[&entry(1), &none, &entry(2), &entry(3), &none]), [1, 2, 3]);
    assert_eq!(sizes(&[&none, &none, &entry(1), b"22", &entry(2), b"2", &entry(3)]), [1, 1, 1, 2, 2, 3]);
    assert_eq!(sizes(&[&entry(1), &entry(2), &entry(3), b"0", &entry(4)]), [1, 2, 4]);
    assert_eq!(sizes(&[&entry(1), b"e(", &entry(2), &entry(3), b"e(", &entry(4), &entry(5)]), [1, 2, 3, 4, 5]);
    // One that became part of a run is unknown later, as what was given up is; a run that is doubled is not two.
    for parts in [
        &[&entry(1)[..], b"q\x07", &entry(2), b"h\x07"][..],
        &[&entry(1), &entry(2), b"02"],
        &[&entry(1), &block(2)],
        &[&entry(1), &entry(2), &block(2), &block(2)],
    ] {
        assert!(read(parts).unwrap_err().contains("items are all of one kind"));
    }
    // Both lists get what is theirs.
    let nested = [b"](", &*entry(2), &entry(3), b"e"].concat();
    assert!(read(&[&entry(1), &nested]).unwrap_err().contains("of one kind"));
    assert!(read(&[&nested, &nested, b")"]).is_ok());
    // Nothing of it is a list of rows, and nothing breaks.
    for end in
        [&b"0000"[..], b"q\x01h\x01", b"02u", b"0p1\n2", b"000\x85", b"0\x86\x87", b"0s", b"0a", b"0R0", b"0b", b"02ea"]
    {
        let _ = read(&[&entry(1), &entry(2), &entry(3), end]);
        let _ = read(&[b"}(", &entry(1), &entry(2), &entry(3), end, b"u"]);
    }
}

#[test]
fn an_entry_gets_all_its_keys_at_once() {
    let keys = b"\x8c\x06action\x8c\x05alloc\x8c\x04addrK\x01\x8c\x04sizeK\x01";
    let again = |keys: &[u8]| read(&[b"\x80\x04]}(", keys, b"u(\x8c\x04addrK\x02ua."].concat());
    assert!(again(keys).unwrap_err().contains("expected all keys of a dictionary at once"));
    // One that has not all of its keys yet gets more, and so does one of no use.
    assert!(again(b"\x8c\x06action\x8c\x05alloc\x8c\x04sizeK\x01").is_ok());
    assert!(again(b"\x8c\x06action\x8c\x08snapshot").is_ok());
}

/// A dictionary that was given up is unknown where it is recalled, whatever has its place now.
#[test]
fn what_was_given_up_is_unknown_later() {
    // [{"frames": x = []}, [], x]
    let pickle = read(b"\x80\x04](}(\x8c\x06frames]q\x05u]h\x05e.").unwrap();
    let Value::List(list) = pickle.root else { panic!("{:?}", pickle.root) };
    let Items::Values(values) = &pickle.contents(list).items else { panic!("no values") };
    assert!(matches!(values[..], [Value::Dict(_), Value::List(_), Value::Other]), "{values:?}");
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
