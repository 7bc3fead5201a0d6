//! Softmax cross-entropy with its gradient, in place: the logits become (softmax - onehot) * scale.
//!
//! Loss of row r, natural logarithm: log(sum over c of exp(z\[r, c\])) - z\[r, label\]; its derivative by the logits is
//! softmax(z\[r\]) - onehot(label) (Goodfellow, Bengio, Courville, Deep Learning, 2016, section 6.2.2.3). The row's maximum is
//! taken off first, so nothing overflows. `scale` is usually 1 / rows, for the gradient of the mean loss.

use crate::error::Result;

/// WGSL source.
pub const SHADER: &str = include_str!("../../shaders/softmax_cross_entropy.wgsl");

/// Binding 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Rows of the logits, number of labels and of losses.
    pub rows: u32,
    /// Columns of the logits.
    pub classes: u32,
    /// Index of the first label in binding 1.
    pub labels_offset: u32,
    /// Index of the first logit in binding 2.
    pub logits_offset: u32,
    /// Elements from a row of logits to the next, at least `classes`.
    pub logits_row_stride: u32,
    /// Index of the first loss in binding 3.
    pub loss_offset: u32,
    /// Factor of the gradient; the loss is not scaled.
    pub scale: f32,
    /// Fills the size up to a multiple of 16 bytes.
    pub padding: u32,
}

impl Params {
    /// Dense logits of `rows` x `classes`, everything at the start of its binding, the gradient of the mean loss.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if there are more than 2³² - 1 logits.
    pub fn new(rows: usize, classes: usize) -> Result<Self> {
        let scale = 1.0 / rows as f32;
        let (rows, classes) = super::narrow_matrix(rows, classes)?;
        Ok(Self {
            rows,
            classes,
            labels_offset: 0,
            logits_offset: 0,
            logits_row_stride: classes,
            loss_offset: 0,
            scale,
            padding: 0,
        })
    }

    /// Workgroups to dispatch: one per 64 rows.
    pub fn workgroups(&self) -> [u32; 3] {
        super::fold(self.rows.div_ceil(super::ROWS_PER_WORKGROUP))
    }
}

/// Host twin of `shaders/softmax_cross_entropy.wgsl`: `labels` and `loss` have `rows` elements, `logits` is `rows` x `classes`.
///
/// A label that is not below `classes` gives its row the loss NaN and the gradient 0, here and in the shader: the mistake
/// shows in the mean loss, nothing is read or written out of bounds and the weights are not touched by that row.
///
/// # Errors
///
/// [`ErrorKind::Shape`](crate::ErrorKind::Shape) if the parameters name elements that a slice does not have; nothing is
/// written then.
pub fn softmax_cross_entropy(params: &Params, labels: &[u32], logits: &mut [f32], loss: &mut [f32]) -> Result<()> {
    let p = params;
    let labels = &labels[super::range("labels", p.labels_offset, p.rows, labels.len())?];
    let loss_range = super::range("loss", p.loss_offset, p.rows, loss.len())?;
    let loss = &mut loss[loss_range];
    let classes = p.classes as usize;
    let rows = super::rows_range("logits", p.logits_offset, p.rows, p.classes, p.logits_row_stride, logits.len())?;
    if rows.range.is_empty() {
        loss.fill(f32::NAN);
    }
    for ((row, &label), loss) in logits[rows.range].chunks_mut(rows.stride).zip(labels).zip(loss) {
        *loss = one_row(&mut row[..classes], label as usize, p.scale);
    }
    Ok(())
}

/// Turns one row of logits into its gradient and returns its loss.
fn one_row(row: &mut [f32], label: usize, scale: f32) -> f32 {
    let Some(&label_logit) = row.get(label) else {
        row.fill(0.0);
        return f32::NAN;
    };
    let top = row.iter().copied().fold(row[0], f32::max);
    let mut sum = 0.0;
    for logit in row.iter_mut() {
        *logit = (*logit - top).exp();
        sum += *logit;
    }
    for (class, power) in row.iter_mut().enumerate() {
        let onehot = if class == label { 1.0 } else { 0.0 };
        *power = (*power / sum - onehot) * scale;
    }
    sum.ln() - (label_logit - top)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss_f64(row: &[f64], label: usize) -> f64 {
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter().map(|z| (z - top).exp()).sum::<f64>().ln() + top - row[label]
    }

    #[test]
    fn gradient_is_the_loss_s_finite_difference() {
        let z = [0.3, -1.2, 2.5, 0.0, 1.1];
        for label in 0..z.len() {
            let mut logits = z.map(|z| z as f32);
            let mut loss = [0.0];
            let params = Params { scale: 0.5, ..Params::new(1, z.len()).unwrap() };
            softmax_cross_entropy(&params, &[label as u32], &mut logits, &mut loss).unwrap();
            assert!((f64::from(loss[0]) - loss_f64(&z, label)).abs() < 1e-6);
            for class in 0..z.len() {
                let at = |step: f64| {
                    let mut moved = z;
                    moved[class] += step;
                    loss_f64(&moved, label)
                };
                let slope = 0.5 * (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((f64::from(logits[class]) - slope).abs() < 1e-6, "{class}: {} {slope}", logits[class]);
            }
        }
    }

    #[test]
    fn huge_logits_stay_finite() {
        let mut logits = [1e30, -1e30, 0.0];
        let mut loss = [0.0];
        softmax_cross_entropy(&Params::new(1, 3).unwrap(), &[0], &mut logits, &mut loss).unwrap();
        assert_eq!((loss, logits), ([0.0], [0.0; 3]));
    }

    #[test]
    fn a_label_without_a_class_gives_nan_and_no_gradient() {
        let mut logits = [1.0, 2.0, 7.0, 3.0, 4.0, 7.0];
        let mut loss = [0.0; 2];
        let params = Params { logits_row_stride: 3, ..Params::new(2, 2).unwrap() };
        softmax_cross_entropy(&params, &[2, 1], &mut logits, &mut loss).unwrap();
        assert!(loss[0].is_nan() && loss[1].is_finite());
        assert_eq!((logits[..3].to_vec(), logits[5]), (vec![0.0, 0.0, 7.0], 7.0));
        let mut none = [0.0; 2];
        softmax_cross_entropy(&Params::new(2, 0).unwrap(), &[0, 0], &mut [], &mut none).unwrap();
        assert!(none.iter().all(|loss| loss.is_nan()));
    }
}
