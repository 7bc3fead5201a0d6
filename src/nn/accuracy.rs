//! hit\[r\] = 1 if the largest logit of row r is at its label, else 0. Of equal logits the first counts.

use crate::error::Result;

/// WGSL source.
pub const SHADER: &str = include_str!("../../shaders/accuracy.wgsl");

/// Binding 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Rows of the logits, number of labels and of hits.
    pub rows: u32,
    /// Columns of the logits.
    pub classes: u32,
    /// Index of the first logit in binding 1.
    pub logits_offset: u32,
    /// Elements from a row of logits to the next, at least `classes`.
    pub logits_row_stride: u32,
    /// Index of the first label in binding 2.
    pub labels_offset: u32,
    /// Index of the first hit in binding 3.
    pub hit_offset: u32,
    /// Fills the size up to a multiple of 16 bytes.
    pub padding: [u32; 2],
}

impl Params {
    /// Dense logits of `rows` x `classes`, everything at the start of its binding.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if there are more than 2³² - 1 logits.
    pub fn new(rows: usize, classes: usize) -> Result<Self> {
        let (rows, classes) = super::narrow_matrix(rows, classes)?;
        Ok(Self {
            rows,
            classes,
            logits_offset: 0,
            logits_row_stride: classes,
            labels_offset: 0,
            hit_offset: 0,
            padding: [0; 2],
        })
    }

    /// Workgroups to dispatch: one per 64 rows.
    pub fn workgroups(&self) -> [u32; 3] {
        super::fold(self.rows.div_ceil(super::ROWS_PER_WORKGROUP))
    }
}

/// Host twin of `shaders/accuracy.wgsl`: `logits` is `rows` x `classes`, `labels` and `hit` have `rows` elements.
///
/// A label that names no class is never hit. A NaN is larger than nothing, but in the first place nothing is larger than it.
///
/// # Errors
///
/// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if the parameters name elements that a slice does not have; nothing is
/// written then.
pub fn accuracy(params: &Params, logits: &[f32], labels: &[u32], hit: &mut [f32]) -> Result<()> {
    let p = params;
    let labels = &labels[super::range("labels", p.labels_offset, p.rows, labels.len())?];
    let hit_range = super::range("hit", p.hit_offset, p.rows, hit.len())?;
    let hit = &mut hit[hit_range];
    let rows = super::rows_range("logits", p.logits_offset, p.rows, p.classes, p.logits_row_stride, logits.len())?;
    if rows.range.is_empty() {
        hit.fill(0.0);
    }
    for ((row, &label), hit) in logits[rows.range].chunks(rows.stride).zip(labels).zip(hit) {
        let row = &row[..p.classes as usize];
        let best = (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best });
        *hit = if best == label as usize { 1.0 } else { 0.0 };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_wins() {
        let logits = [1.0, 3.0, 3.0, 0.0, 0.0, 0.0, -1.0, -2.0, -0.5];
        let mut hit = [7.0; 5];
        accuracy(&Params::new(3, 3).unwrap(), &logits, &[1, 2, 2], &mut hit).unwrap();
        assert_eq!(hit, [1.0, 0.0, 1.0, 7.0, 7.0]);
        accuracy(&Params::new(3, 3).unwrap(), &logits, &[2, 0, 9], &mut hit).unwrap();
        assert_eq!(hit, [0.0, 1.0, 0.0, 7.0, 7.0]);
    }
}
