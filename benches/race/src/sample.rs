//! What many short rounds say together.

/// The middle value. Not a number if there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// Gives each of `count` racers its turn in every round, and begins every round with the next one. So all of them meet whatever
/// else the machine does. Returns what each racer's turns returned.
pub fn in_turn<T>(rounds: usize, count: usize, mut turn: impl FnMut(usize) -> T) -> Vec<Vec<T>> {
    let mut samples: Vec<Vec<T>> = (0..count).map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..rounds {
        for place in 0..count {
            let racer = (place + round) % count;
            samples[racer].push(turn(racer));
        }
    }
    samples
}

/// Returns the median of what one racer took by what the other took in the same round.
pub fn median_ratio(samples: &[f64], others: &[f64]) -> f64 {
    median(&samples.iter().zip(others).map(|(sample, other)| sample / other).collect::<Vec<_>>())
}

/// The n-th root of the product. Not a number if there is none.
pub fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_racer_has_its_turn_and_every_round_begins_with_the_next() {
        let mut order = Vec::new();
        let samples = in_turn(2, 3, |racer| {
            order.push(racer);
            order.len()
        });
        assert_eq!(order, [0, 1, 2, 1, 2, 0]);
        assert_eq!(samples, [[1, 6], [2, 4], [3, 5]]);
    }

    #[test]
    fn a_ratio_is_of_one_round() {
        assert_eq!(median_ratio(&[2.0, 30.0, 4.0], &[1.0, 10.0, 2.0]), 2.0);
        assert!(median_ratio(&[], &[]).is_nan());
    }
}
