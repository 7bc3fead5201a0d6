//! How the pool's tables stay small: each is as long as what it holds, within a factor, and says what memory it has.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

/// A table of so many entries is small whatever it holds.
const SMALL: usize = 64;

/// What an `Arc` has beside its value: two counts.
pub(super) const ARC_BYTES: usize = 2 * size_of::<usize>();

/// The memory of a vector in bytes, without what its items point to.
pub(super) fn vec_bytes<T>(vec: &Vec<T>) -> u64 {
    (vec.capacity() * size_of::<T>()) as u64
}

/// What a list of boxes has, with what is in them.
pub(super) fn boxes_bytes<T>(list: &Vec<Box<T>>) -> u64 {
    vec_bytes(list) + (list.len() * size_of::<T>()) as u64
}

/// The memory of a hash map in bytes, without what its items point to. A map has a power of two of places, of which it fills
/// seven eighths, and a byte for each beside the item.
pub(super) fn map_bytes<K, V, H>(map: &HashMap<K, V, H>) -> u64 {
    let places = map.capacity().div_ceil(7) * 8;
    (places * (size_of::<(K, V)>() + 1)) as u64
}

/// The memory of a B-tree of `len` entries in bytes, about. A tree whose entries came in order fills 6 of the 11 places of a
/// node, and one node in seven has 12 pointers beside them.
pub(super) fn tree_bytes<T>(len: usize) -> u64 {
    const NODE_BYTES: usize = 16 + 12 * size_of::<usize>() / 7;
    (len.div_ceil(6) * (11 * size_of::<T>() + NODE_BYTES)) as u64
}

/// Gives back what a vector has in reserve, if that is three quarters of it: so the cost is a part of what it took to fill it.
pub(super) fn keep_small<T>(vec: &mut Vec<T>) {
    if vec.capacity() > SMALL && vec.len() < vec.capacity() / 4 {
        vec.shrink_to((2 * vec.len()).max(SMALL));
    }
}

/// As [`keep_small`], for a hash map.
pub(super) fn keep_small_map<K: Eq + Hash, V, H: BuildHasher>(map: &mut HashMap<K, V, H>) {
    if map.capacity() > 2 * SMALL && map.len() < map.capacity() / 4 {
        map.shrink_to((2 * map.len()).max(SMALL));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_shrink_when_they_are_mostly_empty_and_not_before() {
        let mut vec: Vec<u32> = (0..10_000).collect();
        let full_bytes = vec_bytes(&vec);
        vec.truncate(5000);
        keep_small(&mut vec);
        assert_eq!(vec_bytes(&vec), full_bytes);
        vec.truncate(100);
        keep_small(&mut vec);
        assert_eq!((vec.len(), vec.capacity()), (100, 200));
        let mut map: HashMap<u32, u32> = (0..10_000).map(|number| (number, number)).collect();
        let full_bytes = map_bytes(&map);
        assert!((16_384 * 9..16_384 * 9 + 100).contains(&full_bytes), "{full_bytes}");
        map.retain(|number, _| *number < 100);
        keep_small_map(&mut map);
        assert_eq!(map.len(), 100);
        assert!(map_bytes(&map) <= 512 * 9, "{}", map_bytes(&map));
    }
}
