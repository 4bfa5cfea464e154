//! The order in which images are verified, and the end of a run. Decided without I/O and without a clock.

use std::time::Duration;

use crate::cache::entry::Image;
use crate::cache::verified::{RunTally, Verified};
use crate::units::Nanos;

/// So many broken images are needed before a run doubts its own findings.
pub(super) const MANY: u64 = 10;

/// Returns the positions of the images in the order in which they are verified: those that were never
/// verified first, and then the ones that were verified longest ago. Among equals the file that was written
/// longest ago comes first.
///
/// A run that moves images begins with those that are known to be broken, unless it would not move them.
pub(super) fn order(images: &[Image], memory: &Verified, moves: bool) -> Vec<u32> {
    let moves_known = moves && !are_mostly_broken(memory.runs(), MANY);
    let mut order: Vec<u32> = (0..images.len() as u32).collect();
    order.sort_by_cached_key(|position| {
        let image = &images[*position as usize];
        let last = memory.of(image);
        let is_known = moves_known && last.is_some_and(|verification| verification.is_broken);
        let at = last.map_or(Nanos::MIN, |verification| verification.at);
        (!is_known, at, image.seen.mtime, image.id)
    });
    order
}

/// The limits of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Budget {
    /// Bytes to read, at most; `None` without a limit. An image that is larger is read all the same, if it
    /// is the first: otherwise no run would ever read it.
    pub(crate) bytes: Option<u64>,
    /// The time after which no further image is begun.
    pub(crate) time: Option<Duration>,
}

impl Budget {
    /// True if an image of this size may be begun, after so many bytes and so long a time.
    pub(super) fn admits(&self, size: u64, read: u64, elapsed: Duration) -> bool {
        let fits = self.bytes.is_none_or(|most| read == 0 || read.saturating_add(size) <= most);
        fits && self.time.is_none_or(|most| elapsed < most)
    }
}

/// True if more than half of the images are broken that the last run has read, or the last two, or any number
/// of the last runs, and if these are at least so many. Then the disk, or the database, is more likely at
/// fault than each of the images. The tallies are those of the runs, the last one first.
///
/// That older runs found sound images is no excuse, because a disk fails from some day on. Sound images that
/// are found later are one.
pub(super) fn are_mostly_broken(runs: impl Iterator<Item = RunTally>, at_least: u64) -> bool {
    let (mut broken, mut examined) = (0, 0);
    for run in runs {
        broken += run.broken;
        examined += run.examined;
        if broken >= at_least && broken * 2 > examined {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::entry::Seen;
    use crate::names::ImageId;
    use crate::units::SECOND;

    fn image(number: usize, mtime: Nanos) -> Image {
        let id = ImageId::new(format!("{number:08x}-0000-0000-0000-000000000000").as_bytes()).unwrap();
        let seen = Seen { inode: 1, size: 1, allocated: 0, atime: 0, mtime, ctime: 0, links: 1, owner: 0 };
        Image { id, seen, row: None }
    }

    #[test]
    fn a_budget_ends_a_run_but_never_starves_a_large_image() {
        let second = Duration::from_secs(1);
        for (bytes, time, size, read, elapsed, expected) in [
            (None, None, u64::MAX, u64::MAX, second, true),
            (Some(10), None, 10, 0, second, true),
            (Some(10), None, 11, 0, second, true),
            (Some(10), None, 5, 5, second, true),
            (Some(10), None, 6, 5, second, false),
            (Some(0), None, 0, 0, second, true),
            (None, Some(second), 1, 0, second, false),
            (None, Some(2 * second), 1, 9, second, true),
            (Some(10), Some(second), 1, 0, Duration::ZERO, true),
        ] {
            let budget = Budget { bytes, time };
            assert_eq!(budget.admits(size, read, elapsed), expected, "{budget:?} {size} {read}");
        }
    }

    #[test]
    fn many_broken_images_of_the_last_runs_are_in_doubt() {
        let mostly = |runs: &[(u64, u64)], at_least| {
            let tallies =
                runs.iter().map(|(broken, examined)| RunTally { broken: *broken, examined: *examined });
            are_mostly_broken(tallies, at_least)
        };
        for (runs, expected) in [
            (&[][..], false),
            (&[(9, 9)], false),
            (&[(10, 10)], true),
            (&[(10, 20)], false),
            (&[(11, 21)], true),
            (&[(20, 1000)], false),
            // A few each night are many together.
            (&[(4, 4), (3, 3), (2, 2)], false),
            (&[(4, 4), (3, 3), (3, 3)], true),
            (&[(1, 1), (9, 9), (0, 1000)], true),
            // Sound images that were found since outweigh them.
            (&[(0, 8), (9, 9), (1, 1)], true),
            (&[(0, 10), (9, 9), (1, 1)], false),
            (&[(1, 30), (12, 12)], false),
        ] {
            assert_eq!(mostly(runs, MANY), expected, "{runs:?}");
        }
        assert!(!mostly(&[(0, 5)], 1) && !mostly(&[(1, 2)], 1));
        assert!(mostly(&[(1, 1)], 1) && mostly(&[(1, 2), (3, 3)], 1));
    }

    #[test]
    fn a_run_that_moves_images_begins_with_the_known_broken_ones() {
        let images: Vec<Image> = (0..30).map(|n| image(n, n as Nanos)).collect();
        let mut memory = Verified::default();
        for (n, image) in images.iter().enumerate().take(29) {
            memory.note(image, n as Nanos * SECOND, [7, 20].contains(&n));
        }
        assert_eq!(order(&images, &memory, true)[..4], [7, 20, 29, 0]);
        assert_eq!(order(&images, &memory, false)[..2], [29, 0]);
        for image in &images[..20] {
            memory.note(image, 50 * SECOND, true);
        }
        assert_eq!(order(&images, &memory, true)[..2], [29, 20], "they would not be moved");
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 500,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn every_image_gets_its_turn_and_the_longest_unverified_is_first(
            known in prop::collection::vec(prop::option::of(0..9_i64), 0..20),
            per_run in 1..5_usize,
        ) {
            let images: Vec<Image> = (0..known.len()).map(|n| image(n, n as Nanos)).collect();
            let mut memory = Verified::default();
            for (image, at) in images.iter().zip(&known) {
                if let Some(at) = at {
                    memory.note(image, at * SECOND, false);
                }
            }
            let first = order(&images, &memory, false);
            let mut all = first.clone();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..images.len() as u32), "each image once");
            let at = |position: &u32| known[*position as usize];
            prop_assert!(first.is_sorted_by_key(at), "never verified first, then oldest first");
            // Runs that read a few images each have read all of them after as many runs as it takes.
            for clock in 100..100 + images.len().div_ceil(per_run) as Nanos {
                for position in order(&images, &memory, false).into_iter().take(per_run) {
                    memory.note(&images[position as usize], clock * SECOND, false);
                }
            }
            prop_assert!(images.iter().all(|image| memory.of(image).unwrap().at >= 100 * SECOND));
        }
    }
}
