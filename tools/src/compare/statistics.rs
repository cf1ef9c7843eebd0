//! Medians, ranges, and ratios of runs that belong together.

use serde::Serialize;

/// The middle and the ends of several measurements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// How many there were.
    pub(crate) count: usize,
}

impl Spread {
    /// Of any number of measurements; none without any.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let (&min, &max) = (values.first()?, values.last()?);
        let median = if count % 2 == 1 {
            values[count / 2]
        } else {
            f64::midpoint(values[count / 2 - 1], values[count / 2])
        };
        Some(Self {
            median,
            min,
            max,
            count,
        })
    }
}

/// A measurement and the round it belongs to.
pub(crate) type InRound = (usize, f64);

/// The ratios of `values` to `base`, each to that of its own round: what disturbed the machine
/// in a round disturbed both. Rounds that lack either do not count.
pub(crate) fn paired_ratio(values: &[InRound], base: &[InRound]) -> Option<Spread> {
    Spread::of(values.iter().filter_map(|&(round, value)| {
        let &(_, base) = base.iter().find(|&&(other, _)| other == round)?;
        (base > 0.0).then(|| value / base)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_middles() {
        let odd = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(
            (odd.min, odd.median, odd.max, odd.count),
            (1.0, 2.0, 3.0, 3)
        );
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([7.0]).unwrap().median, 7.0);
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was twice as fast in round 1: the ratio is the same in both.
        let (ours, base) = ([(0, 9.0), (1, 18.0)], [(1, 20.0), (0, 10.0)]);
        let ratio = paired_ratio(&ours, &base).unwrap();
        assert_eq!((ratio.min, ratio.median, ratio.max), (0.9, 0.9, 0.9));
    }

    #[test]
    fn a_round_that_lacks_one_does_not_count() {
        let ratio = paired_ratio(&[(0, 1.0), (2, 3.0)], &[(1, 5.0), (2, 2.0)]).unwrap();
        assert_eq!((ratio.median, ratio.count), (1.5, 1));
        assert_eq!(paired_ratio(&[(0, 1.0)], &[(0, 0.0)]), None);
        assert_eq!(paired_ratio(&[], &[(0, 1.0)]), None);
    }
}
