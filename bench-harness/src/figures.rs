//! Medians over rounds, and the percentiles that are reported of a histogram.

use hdrhistogram::Histogram;

/// The median; the lower of the two middle values of an even number. Zero of nothing.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count => values[(count - 1) / 2],
    }
}

/// The smallest of the values that at least this part of all does not exceed. Zero of nothing.
pub fn quantile_of_sorted(values: &[f64], quantile: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
    let rank = (values.len() as f64 * quantile).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank within the slice")]
    let index = (rank as usize).saturating_sub(1);
    values.get(index).or(values.last()).copied().unwrap_or(0.0)
}

/// What is reported of latencies: metric, unit, value.
pub fn latency_metrics(latency_ns: &Histogram<u64>) -> Vec<(&'static str, &'static str, f64)> {
    #[expect(clippy::cast_precision_loss, reason = "a latency in nanoseconds stays below 2^53")]
    let at = |quantile| latency_ns.value_at_quantile(quantile).min(latency_ns.max()) as f64;
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)]
        .map(|(metric, quantile)| (metric, "ns", at(quantile)))
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The median of odd, even, single and no values, whatever their order.
    #[test]
    fn median_takes_the_middle() {
        for (mut values, expected) in
            [(vec![3.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0, 3.0, 2.0], 2.0), (vec![7.0], 7.0), (vec![], 0.0)]
        {
            assert_eq!(median(&mut values).to_bits(), f64::to_bits(expected), "{values:?}");
        }
    }

    /// A quantile is the value of its rank; of few values a high one is the last.
    #[test]
    fn quantiles_are_ranks() {
        let values: Vec<f64> = (1..=1000).map(f64::from).collect();
        let found = [0.0, 0.5, 0.99, 0.999, 1.0].map(|quantile| quantile_of_sorted(&values, quantile));
        assert_eq!(found, [1.0, 500.0, 990.0, 999.0, 1000.0]);
        assert_eq!(quantile_of_sorted(&[1.0, 2.0], 0.999).to_bits(), 2.0f64.to_bits());
        assert_eq!(quantile_of_sorted(&[], 0.5).to_bits(), 0.0f64.to_bits());
    }

    /// Of the numbers 1 to 1000 each percentile is its own rank, exactly, and the maximum the last.
    #[test]
    fn percentiles_are_ranks() {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 1_000_000, 3).unwrap();
        for value in 1..=1000 {
            histogram.record(value).unwrap();
        }
        let found: Vec<_> = latency_metrics(&histogram);
        let expected = [("p50", 500.0), ("p90", 900.0), ("p99", 990.0), ("p999", 999.0), ("max", 1000.0)];
        assert_eq!(found, expected.map(|(metric, value)| (metric, "ns", value)).to_vec());
    }
}
