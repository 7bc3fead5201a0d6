//! The bar of a command that takes long.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

/// Makes a bar on standard error, which draws nothing where `is_hidden` or where standard error is no terminal.
///
/// A bar that is dropped takes itself off the terminal, so that an error leaves no half of it there. What may be long belongs in
/// `{wide_msg}`, which is cut to what the line has left.
pub fn new(template: &str, length: Option<u64>, is_hidden: bool) -> ProgressBar {
    let target = if is_hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style = ProgressStyle::with_template(template).expect("the template is right");
    ProgressBar::with_draw_target(length, target).with_style(style).with_finish(ProgressFinish::AndClear)
}
