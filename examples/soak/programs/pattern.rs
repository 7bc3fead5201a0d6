//! What is written into a block, so that whoever reads it knows whether it is still the same.
//!
//! A byte depends on its place and on the pattern alone, so parts of a block can be written and looked at by themselves.

use tensorpool::{Backend, Block, Result};

/// Bytes looked at in one place.
const SAMPLE_BYTES: u64 = 16;
/// A whole block is written and read in parts of this.
const PART_BYTES: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Another one for each number.
    Unique(u64),
    /// The first so many of these bytes, again and again.
    Repeat([u8; 4], usize),
}

impl Pattern {
    /// The bytes from `at`, which is a multiple of 8.
    fn write(self, at: u64, bytes: &mut [u8]) {
        match self {
            Self::Unique(number) => {
                for (word, bytes) in (at / 8..).zip(bytes.chunks_mut(8)) {
                    let mixed = (number ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
                    let mixed = mixed ^ mixed >> 32;
                    bytes.copy_from_slice(&mixed.to_le_bytes()[..bytes.len()]);
                }
            }
            Self::Repeat(pattern, len) => {
                for (place, byte) in (at..).zip(bytes) {
                    *byte = pattern[(place % len as u64) as usize];
                }
            }
        }
    }
}

/// What is known of the bytes of a block.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    pattern: Pattern,
    /// The first bytes of the block that it is about.
    bytes: u64,
    /// Whether all of them; else both ends and the middle.
    is_whole: bool,
}

impl Content {
    /// Writes a pattern into all of a block, or into its ends and its middle.
    pub fn write<B: Backend>(block: &mut Block<B>, pattern: Pattern, is_whole: bool) -> Result<Self> {
        let content = Self { pattern, bytes: block.bytes(), is_whole };
        content.each_part(is_whole, |at, expected| block.upload(at, expected))?;
        Ok(content)
    }

    /// Repeats bytes over all of a block.
    pub fn fill<B: Backend>(block: &mut Block<B>, pattern: [u8; 4], len: usize) -> Result<Self> {
        block.fill(block.bytes(), &pattern[..len])?;
        Ok(Self { pattern: Pattern::Repeat(pattern, len), bytes: block.bytes(), is_whole: true })
    }

    /// What a zeroed block has.
    pub fn zeros<B: Backend>(block: &Block<B>) -> Self {
        Self { pattern: Pattern::Repeat([0; 4], 1), bytes: block.bytes(), is_whole: true }
    }

    /// Copies what is known of a block into another one; what is then known of that.
    pub fn copy<B: Backend>(self, from: &Block<B>, to: &mut Block<B>) -> Result<Option<Self>> {
        let bytes = self.bytes.min(to.bytes());
        to.copy_from(0, from, 0, bytes)?;
        Ok((self.is_whole || bytes == self.bytes).then_some(Self { bytes, ..self }))
    }

    /// Looks at the bytes that are known: some, or all if `is_whole`.
    pub fn verify<B: Backend>(self, block: &Block<B>, is_whole: bool) -> Result<()> {
        match self.differs(block, is_whole)? {
            Some(difference) => panic!("{difference}"),
            None => Ok(()),
        }
    }

    /// As [`verify`](Self::verify); says what differs.
    pub fn differs<B: Backend>(self, block: &Block<B>, is_whole: bool) -> Result<Option<String>> {
        let mut found = [0; PART_BYTES];
        let mut difference = None;
        self.each_part(is_whole && self.is_whole, |at, expected| {
            let found = &mut found[..expected.len()];
            block.download(at, found)?;
            if found != expected && difference.is_none() {
                let what = format!("{found:x?} where {self:?} was: {expected:x?}");
                difference = Some(format!("byte {at} and on of {block:?}: {what}"));
            }
            Ok(())
        })?;
        Ok(difference)
    }

    /// What is known of a block that has so many bytes now.
    pub fn within(self, bytes: u64) -> Option<Self> {
        if bytes >= self.bytes { Some(self) } else { self.is_whole.then_some(Self { bytes, ..self }) }
    }

    fn each_part(self, is_whole: bool, mut part: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = [0; PART_BYTES];
        let mut at_bytes = |at: u64, most: u64| {
            let expected = &mut buffer[..(self.bytes - at).min(most) as usize];
            self.pattern.write(at, expected);
            part(at, expected)
        };
        if is_whole {
            return (0..self.bytes).step_by(PART_BYTES).try_for_each(|at| at_bytes(at, PART_BYTES as u64));
        }
        let places = [0, self.bytes / 2, self.bytes.saturating_sub(8)];
        places.into_iter().try_for_each(|at| at_bytes(at & !7, SAMPLE_BYTES))
    }
}
