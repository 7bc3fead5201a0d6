//! What can be taken from a problem without losing anything, so that what is left can be searched.
//!
//! **Full spans.** A buffer that covers every section can be put at the bottom of any packing. Take a packing of height H
//! in which such a buffer, of size s, lies at offset o. It meets every other buffer in time, so each of them lies wholly
//! below o, or wholly above the buffer's top. Shift those below up by s and put the buffer at 0. The shifted ones end
//! where the buffer's top was or lower, and nothing of the others begins below that; among themselves both kinds lie as
//! before. The height is still H. So full spans are stacked first, and the least height of the whole is their sum and
//! the least height of the rest. With slabs this does not hold (a shifted buffer may straddle a boundary), and nothing
//! is stripped.
//!
//! **Components.** If no buffer covers both sections s - 1 and s, no buffer before s is alive with one after it: both
//! sides are packed apart, and the least height is the larger of the two.
//!
//! **Clipping.** Of the buffers that meet a window of sections W, two that share a section share one in W: their spans
//! are intervals that each meet the interval W, and of three intervals that meet pairwise all three have a section in
//! common (the largest of the three firsts is in all of them). So if they are packed with their spans clipped to W, the
//! packing is right for the whole spans.
//!
//! Each lemma makes room for the others: without its full spans a problem may fall apart, and a part has full spans of
//! its own.

use super::effort::Effort;
use super::problem::Problem;

/// A part of a problem that is connected and has no full span.
#[derive(Debug)]
pub(super) struct Atom {
    /// Where the buffers are in the problem.
    pub ids: Vec<u32>,
    /// The height of what is stacked under it.
    pub base: u64,
    pub problem: Problem,
}

/// A problem taken apart.
#[derive(Debug, Default)]
pub(super) struct Reduced {
    /// Full spans, with their offsets.
    pub stacked: Vec<(u32, u64)>,
    /// The height of the highest of those.
    pub height: u64,
    pub atoms: Vec<Atom>,
}

/// Buffers that are looked at, in all rounds together, for each buffer of the problem. Onions of lifetimes would take
/// as many rounds as there are buffers; what is not reduced further is only harder to search.
const VISITS_PER_BUFFER_MAX: usize = 64;

/// Takes the buffers `ids` of a problem apart, their lifetimes clipped to a window of times. The caller has counted
/// [`Problem::making`] for them; what the limit leaves no room for is not reduced further.
pub(super) fn reduce(
    problem: &Problem,
    ids: Vec<u32>,
    window: (u64, u64),
    strip: bool,
    effort: &mut Effort<'_>,
) -> Reduced {
    let mut visits_left = VISITS_PER_BUFFER_MAX.saturating_mul(ids.len());
    let mut reduced = Reduced::default();
    let mut open = vec![(ids, window, 0)];
    while let Some((ids, window, base)) = open.pop() {
        let part = problem.part(&ids, window);
        let is_last = visits_left < ids.len();
        visits_left = visits_left.saturating_sub(ids.len());
        let (mut stacked, rest): (Vec<u32>, Vec<u32>) =
            if strip { split_off_full_spans(&part) } else { (Vec::new(), (0..part.len() as u32).collect()) };
        let parts = if !stacked.is_empty() {
            vec![rest]
        } else if is_last {
            Vec::new()
        } else {
            components(&part)
        };
        let is_reduced = !stacked.is_empty() || parts.len() > 1;
        let parts_units = parts.iter().filter(|part| !part.is_empty()).map(|part| Problem::making(part.len())).sum();
        if !is_reduced || !effort.take(parts_units) {
            reduced.atoms.push(Atom { ids, base, problem: part });
            continue;
        }
        // Any order is right here. Those that live longest outside of the window are in the fewest others' way at the
        // bottom.
        let width = |index: &u32| problem.width(ids[*index as usize] as usize);
        stacked.sort_by_key(|index| std::cmp::Reverse(width(index)));
        let mut base: u64 = base;
        for index in &stacked {
            reduced.stacked.push((ids[*index as usize], base));
            base += part.sizes[*index as usize];
        }
        reduced.height = reduced.height.max(base);
        let outer = |part: Vec<u32>| part.iter().map(|index| ids[*index as usize]).collect::<Vec<u32>>();
        // Each part's own times: a component of a clipped problem lies within the window.
        open.extend(parts.into_iter().rev().filter(|part| !part.is_empty()).map(|part| (outer(part), window, base)));
    }
    reduced
}

/// The buffers that cover every section, and the others.
fn split_off_full_spans(problem: &Problem) -> (Vec<u32>, Vec<u32>) {
    let sections = problem.sections();
    (0..problem.len() as u32).partition(|id| problem.width(*id as usize) as usize == sections)
}

/// Sets of buffers such that no two of different sets share a section.
fn components(problem: &Problem) -> Vec<Vec<u32>> {
    // How many more spans go on over the boundary before each section than over the one before it.
    let mut change = vec![0i64; problem.sections() + 1];
    for span in &problem.spans {
        change[span.first as usize + 1] += 1;
        change[span.end as usize] -= 1;
    }
    let (mut crossing, mut component) = (0, 0);
    let mut component_of = Vec::with_capacity(problem.sections());
    for (section, change) in change[..problem.sections()].iter().enumerate() {
        crossing += change;
        component += usize::from(section > 0 && crossing == 0);
        component_of.push(component);
    }
    let mut components = vec![Vec::new(); component + 1];
    for (id, span) in (0..).zip(&problem.spans) {
        components[component_of[span.first as usize]].push(id);
    }
    components
}
