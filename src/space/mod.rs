//! Which bytes of one slab are free.
mod runs;
mod search;
mod tree;
mod update;
mod word;
pub use tree::RunTree;
#[cfg(test)]
mod tests;
