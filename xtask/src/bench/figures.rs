//! What is reckoned from the samples: pure.

/// The figures of one contestant's samples, in the samples' unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figures {
    /// The smallest sample.
    pub(super) min: f64,
    /// A quarter of the samples is below this.
    pub(super) p25: f64,
    /// Half of the samples is below this.
    pub(super) median: f64,
    /// All but a twentieth of the samples is below this.
    pub(super) p95: f64,
    /// All but a hundredth of the samples is below this.
    pub(super) p99: f64,
}

impl Figures {
    /// Reckons the figures; `None` without samples.
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            p25: percentile(&sorted, 25)?,
            median: percentile(&sorted, 50)?,
            p95: percentile(&sorted, 95)?,
            p99: percentile(&sorted, 99)?,
        })
    }
}

/// The nearest-rank percentile: always a sample that was really measured, so few rounds give no invented value.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let figures = Figures::of(&samples).unwrap();
        assert_eq!(
            figures,
            Figures {
                min: 1.0,
                p25: 50.0,
                median: 100.0,
                p95: 190.0,
                p99: 198.0
            }
        );
    }

    #[test]
    fn one_sample_is_every_figure_and_none_is_none() {
        let figures = Figures::of(&[7.0]).unwrap();
        assert_eq!(
            [figures.min, figures.p25, figures.median, figures.p95, figures.p99],
            [7.0; 5]
        );
        assert_eq!(Figures::of(&[]), None);
    }
}
