//! Which of N things belong together: average linkage (Sokal & Michener 1958) on their distances.
//!
//! The two nearest clusters are joined until one is left; the distance of two clusters is the mean over pairs of members.
//! Leaves are drawn in the order of the tree, the cluster with the earlier first member first, so equal input gives an equal
//! picture. A group is what is joined below a given distance.

use kodama::{Method, linkage};

/// The tree of N things.
pub(super) struct Clusters {
    /// The N things in the tree's order.
    pub order: Vec<usize>,
    /// Neighbours in that order that are joined at no more than the distance asked for; all N, in order.
    pub groups: Vec<Vec<usize>>,
}

impl Clusters {
    /// Of `n` things with `distance(i, j)`, i < j, and groups up to the distance `within`.
    pub fn new(n: usize, distance: impl Fn(usize, usize) -> f64, within: f64) -> Self {
        let pairs = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
        let mut condensed: Vec<f64> = pairs.map(|(i, j)| distance(i, j)).collect();
        let mut clusters: Vec<Vec<usize>> = (0..n).map(|i| vec![i]).collect();
        let mut groups = clusters.clone();
        if n > 1 {
            for step in linkage(&mut condensed, n, Method::Average).steps() {
                let mut parts = [step.cluster1, step.cluster2].map(|c| std::mem::take(&mut clusters[c]));
                parts.sort_by_key(|members| members.iter().min().copied());
                let joined = parts.concat();
                if step.dissimilarity <= within {
                    groups.retain(|group| !joined.contains(&group[0]));
                    groups.push(joined.clone());
                }
                clusters.push(joined);
            }
        }
        let order = clusters.pop().unwrap_or_default();
        groups.sort_by_key(|group| order.iter().position(|i| *i == group[0]));
        Self { order, groups }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(points: &[f64], within: f64) -> Clusters {
        Clusters::new(points.len(), |i, j| (points[i] - points[j]).abs(), within)
    }

    /// 0 and 1 join at 1, 10 and 12 at 2, 5 with {0, 1} at 4.5, all at the mean of 10, 12, 9, 11, 5, 7 = 9.
    #[test]
    fn near_things_stand_together() {
        let points = [0.0, 10.0, 1.0, 12.0, 5.0];
        let clusters = of(&points, 4.0);
        assert_eq!(clusters.order, [0, 2, 4, 1, 3]);
        assert_eq!(clusters.groups, [vec![0, 2], vec![4], vec![1, 3]]);
        assert_eq!(of(&points, 4.5).groups, [vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(of(&points, 8.99).groups.len(), 2);
        assert_eq!(of(&points, 9.0).groups, [[0, 2, 4, 1, 3]]);
    }

    #[test]
    fn none_and_one_have_an_order_too() {
        assert!(of(&[], 1.0).order.is_empty() && of(&[], 1.0).groups.is_empty());
        assert_eq!(of(&[3.0], 1.0).groups, [[0]]);
    }

    /// Average linkage as its definition says, in cubic time.
    fn by_definition(points: &[f64], within: f64) -> Vec<Vec<usize>> {
        let mut clusters: Vec<Vec<usize>> = (0..points.len()).map(|i| vec![i]).collect();
        let mean = |a: &[usize], b: &[usize]| {
            let sum: f64 = a
                .iter()
                .flat_map(|i| b.iter().map(|j| (points[*i] - points[*j]).abs()))
                .sum();
            sum / (a.len() * b.len()) as f64
        };
        loop {
            let pairs = (0..clusters.len()).flat_map(|i| (i + 1..clusters.len()).map(move |j| (i, j)));
            let nearest = pairs
                .min_by(|a, b| mean(&clusters[a.0], &clusters[a.1]).total_cmp(&mean(&clusters[b.0], &clusters[b.1])));
            match nearest {
                Some((i, j)) if mean(&clusters[i], &clusters[j]) <= within => {
                    let other = clusters.remove(j);
                    clusters[i].extend(other);
                }
                _ => break,
            }
        }
        clusters.iter_mut().for_each(|members| members.sort_unstable());
        clusters.sort();
        clusters
    }

    proptest! {
        #[test]
        fn groups_are_those_of_the_definition(
            points in proptest::collection::vec(0.0f64..100.0, 1..12), within in 0.0f64..60.0,
        ) {
            let Clusters { order, groups } = of(&points, within);
            prop_assert_eq!(groups.concat(), order.clone());
            let mut all = order;
            all.sort_unstable();
            prop_assert_eq!(all, (0..points.len()).collect::<Vec<_>>());
            let mut sorted = groups;
            sorted.iter_mut().for_each(|group| group.sort_unstable());
            sorted.sort();
            prop_assert_eq!(sorted, by_definition(&points, within));
        }
    }
}
