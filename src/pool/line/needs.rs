//! What waiters need, in order of arrival: finds the first one whose need is small enough.
//!
//! ```text
//! node        1            least need of all
//!           2   3          of each half
//!          4 5 6 7         one leaf for each place; a waiter that comes gets the next place
//! ```
//!
//! A waiter that leaves keeps its place until the tree is built anew, which happens when no place is left, or when few of
//! them are taken. Either is paid for by the waiters that came or left since, so every call takes logarithmic time.

use super::{Need, Ticket};

/// The need of a waiter that is not to be found.
const HIDDEN: [u64; Need::KINDS] = [u64::MAX; Need::KINDS];

/// Places of the smallest tree, which is never given up.
const PLACES_LEAST: usize = 8;

/// A tree is built anew when less than this part of its places is taken.
const SPARSE: usize = 8;

#[cfg_attr(test, derive(Clone))]
#[derive(Debug)]
pub(super) struct Needs {
    /// The tickets by place, rising, and whether their waiters are still there.
    places: Vec<(Ticket, bool)>,
    /// Waiters that are there.
    len: usize,
    /// Of each kind of need. Node 0 is not used.
    least: Vec<[u64; Need::KINDS]>,
}

impl Needs {
    pub(super) fn new() -> Self {
        Self::with_room(0)
    }

    fn with_room(len: usize) -> Self {
        let places = (2 * len).next_power_of_two().max(PLACES_LEAST);
        Self { places: Vec::with_capacity(places), len: 0, least: vec![HIDDEN; 2 * places] }
    }

    fn room(&self) -> usize {
        self.least.len() / 2
    }

    /// Adds a waiter behind all others, to be found by its needs, or not to be found.
    pub(super) fn push(&mut self, ticket: Ticket, needs: Option<[u64; Need::KINDS]>) {
        debug_assert!(self.places.last().is_none_or(|(last, _)| *last < ticket), "waiters come in order");
        if self.places.len() == self.room() {
            self.rebuild();
        }
        let place = self.places.len();
        self.places.push((ticket, true));
        self.len += 1;
        self.set_place(place, needs.unwrap_or(HIDDEN));
    }

    /// Lets a waiter be found by its needs.
    pub(super) fn show(&mut self, ticket: Ticket, needs: [u64; Need::KINDS]) {
        if let Ok(place) = self.place(ticket) {
            self.set_place(place, needs);
        }
    }

    /// Takes a waiter out.
    pub(super) fn remove(&mut self, ticket: Ticket) {
        let Ok(place) = self.place(ticket) else { return };
        self.set_place(place, HIDDEN);
        self.len -= usize::from(std::mem::replace(&mut self.places[place].1, false));
        if self.room() > PLACES_LEAST && self.len < self.room() / SPARSE {
            self.rebuild();
        }
    }

    /// The first waiter behind `after` whose need of this kind is at most `most`.
    pub(super) fn first(&self, need: Need, after: Option<Ticket>, most: u64) -> Option<Ticket> {
        let start = after.map_or(0, |after| self.places.partition_point(|(ticket, _)| *ticket <= after));
        let fits = |node: usize| self.least[node][need as usize] <= most.min(u64::MAX - 1);
        if start >= self.room() || !fits(1) {
            return None;
        }
        // Up, from one subtree to the next on the right, until one has it; then down.
        let mut node = self.room() + start;
        while !fits(node) {
            while node % 2 == 1 {
                node /= 2;
            }
            if node == 0 {
                return None;
            }
            node += 1;
        }
        while node < self.room() {
            node = if fits(2 * node) { 2 * node } else { 2 * node + 1 };
        }
        Some(self.places[node - self.room()].0)
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        self.places.capacity() * size_of::<(Ticket, bool)>() + self.least.capacity() * size_of::<[u64; Need::KINDS]>()
    }

    fn place(&self, ticket: Ticket) -> Result<usize, usize> {
        self.places.binary_search_by_key(&ticket, |(ticket, _)| *ticket)
    }

    fn set_place(&mut self, place: usize, needs: [u64; Need::KINDS]) {
        let mut node = self.room() + place;
        self.least[node] = needs;
        while node > 1 {
            node /= 2;
            let [left, right] = [self.least[2 * node], self.least[2 * node + 1]];
            let least = std::array::from_fn(|kind| left[kind].min(right[kind]));
            if self.least[node] == least {
                return;
            }
            self.least[node] = least;
        }
    }

    /// Leaves out the places whose waiters have gone.
    fn rebuild(&mut self) {
        let mut new = Self::with_room(self.len + 1);
        let room = new.room();
        let there = self.places.iter().enumerate().filter(|(_, (_, is_there))| *is_there);
        for (place, (ticket, _)) in there {
            new.least[room + new.places.len()] = self.least[self.room() + place];
            new.places.push((*ticket, true));
        }
        for node in (1..room).rev() {
            new.least[node] = std::array::from_fn(|kind| new.least[2 * node][kind].min(new.least[2 * node + 1][kind]));
        }
        new.len = self.len;
        *self = new;
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Random programs beside a list, with many waiters and with few.
    #[test]
    fn the_first_small_enough_is_found() {
        for seed in 0..100 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (mut needs, mut model) = (Needs::new(), Vec::<(Ticket, [u64; 2])>::new());
            for number in 0..600u64 {
                let leaves = if number / 100 % 2 == 0 { 3 } else { 9 };
                if rng.random_range(0..10) < leaves && !model.is_empty() {
                    let (ticket, _) = model.remove(rng.random_range(0..model.len()));
                    needs.remove(ticket);
                    needs.remove(ticket);
                } else {
                    let need = [rng.random_range(0..50), rng.random_range(0..50)];
                    let is_shown = rng.random_range(0..3) > 0;
                    needs.push(Ticket(number), is_shown.then_some(need));
                    model.push((Ticket(number), if is_shown { need } else { HIDDEN }));
                }
                if !model.is_empty() && rng.random_range(0..4) == 0 {
                    let index = rng.random_range(0..model.len());
                    model[index].1 = [rng.random_range(0..50), rng.random_range(0..50)];
                    needs.show(model[index].0, model[index].1);
                }
                for need in [Need::Room, Need::Slab] {
                    let after = (rng.random_range(0..2) == 0).then(|| Ticket(rng.random_range(0..=number + 1)));
                    let most = if rng.random_range(0..9) == 0 { u64::MAX } else { rng.random_range(0..60) };
                    let is_it = |(ticket, needs): &&(Ticket, [u64; 2])| {
                        after.is_none_or(|after| *ticket > after) && needs[need as usize] <= most.min(u64::MAX - 1)
                    };
                    assert_eq!(needs.first(need, after, most), model.iter().find(is_it).map(|(ticket, _)| *ticket));
                }
                assert!(needs.room() <= (2 * SPARSE * model.len()).max(2 * PLACES_LEAST), "it shrinks");
            }
        }
    }
}
