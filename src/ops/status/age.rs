//! The images of a cache by the time since their last use.
//!
//! Decided without I/O and without a clock.

use serde::Serialize;

use crate::host::cache::Tally;
use crate::units::{Nanos, SECOND};

/// A day, a week, a month and a quarter, in seconds.
const AGES: [i64; 4] = [86_400, 7 * 86_400, 30 * 86_400, 90 * 86_400];

/// The images whose last use lies between two times. Bytes are their sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(super) struct AgeGroup {
    /// Seconds since the last use, at least; 0 for the first group.
    pub(super) older_than: i64,
    /// Seconds since the last use, at most; `None` for the last group.
    pub(super) younger_than: Option<i64>,
    #[serde(flatten)]
    pub(super) images: Tally,
    /// These images and all that were not used for longer: what `prune --older-than` removes.
    pub(super) all_older: Tally,
}

/// Groups images by the time since their last use. Each is given by its last use and its size.
pub(super) fn by_age(images: impl Iterator<Item = (Nanos, u64)>, now: Nanos) -> Vec<AgeGroup> {
    let mut groups = [Tally::default(); AGES.len() + 1];
    for (last_use, size) in images {
        let age = now.saturating_sub(last_use);
        groups[AGES.iter().filter(|limit| age > **limit * SECOND).count()].add(size);
    }
    let mut all_older = Tally::default();
    let mut found: Vec<AgeGroup> = Vec::new();
    for (position, images) in groups.into_iter().enumerate().rev() {
        all_older.count += images.count;
        all_older.bytes = all_older.bytes.saturating_add(images.bytes);
        let older_than = if position == 0 { 0 } else { AGES[position - 1] };
        found.push(AgeGroup { older_than, younger_than: AGES.get(position).copied(), images, all_older });
    }
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_image_is_in_one_group_and_older_ones_are_summed_up() {
        const DAY: Nanos = 86_400 * SECOND;
        let now = 1_000 * DAY;
        // In the future, at the edges of groups, and never used.
        let images = [
            (now + DAY, 1),
            (now, 2),
            (now - DAY, 4),
            (now - DAY - 1, 8),
            (now - 7 * DAY - 1, 16),
            (now - 90 * DAY, 32),
            (now - 90 * DAY - 1, 64),
            (0, 128),
            (i64::MIN, 256),
        ];
        let groups = by_age(images.into_iter(), now);
        let bytes: Vec<u64> = groups.iter().map(|group| group.images.bytes).collect();
        assert_eq!(bytes, [7, 8, 16, 32, 448]);
        let older: Vec<u64> = groups.iter().map(|group| group.all_older.bytes).collect();
        assert_eq!(older, [511, 504, 496, 480, 448]);
        assert_eq!(groups.iter().map(|group| group.images.count).sum::<u64>(), images.len() as u64);
        let edges: Vec<_> = groups.iter().map(|group| (group.older_than, group.younger_than)).collect();
        assert_eq!(edges[0], (0, Some(86_400)));
        assert_eq!(edges[4], (90 * 86_400, None));
    }
}
