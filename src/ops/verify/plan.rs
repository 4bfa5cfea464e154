//! The order in which images are verified, and the end of a run. Decided without I/O and without a clock.

use std::time::Duration;

use crate::cache::entry::Image;
use crate::cache::verified::Verified;
use crate::units::Nanos;

/// So many broken images are needed before a run doubts its own findings.
const MANY: u64 = 10;

/// Returns the positions of the images in the order in which they are verified: those that were never
/// verified first, and then the ones that were verified longest ago. Among equals the file that was written
/// longest ago comes first.
pub(super) fn order(images: &[Image], memory: &Verified) -> Vec<u32> {
    let mut order: Vec<u32> = (0..images.len() as u32).collect();
    order.sort_by_cached_key(|position| {
        let image = &images[*position as usize];
        let at = memory.of(image).map_or(Nanos::MIN, |verification| verification.at);
        (at, image.seen.mtime, image.id)
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

/// True if so many images are broken that the disk, or the database, is more likely at fault than each of
/// them. Then no further image is moved.
pub(super) fn is_doubtful(broken: u64, examined: u64) -> bool {
    broken >= MANY && broken * 2 > examined
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
    fn half_of_many_broken_images_are_in_doubt() {
        for (broken, examined, expected) in
            [(0, 0, false), (9, 9, false), (10, 10, true), (10, 20, false), (11, 21, true), (20, 1000, false)]
        {
            assert_eq!(is_doubtful(broken, examined), expected, "{broken} of {examined}");
        }
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
            let first = order(&images, &memory);
            let mut all = first.clone();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..images.len() as u32), "each image once");
            let at = |position: &u32| known[*position as usize];
            prop_assert!(first.is_sorted_by_key(at), "never verified first, then oldest first");
            // Runs that read a few images each have read all of them after as many runs as it takes.
            for clock in 100..100 + images.len().div_ceil(per_run) as Nanos {
                for position in order(&images, &memory).into_iter().take(per_run) {
                    memory.note(&images[position as usize], clock * SECOND, false);
                }
            }
            prop_assert!(images.iter().all(|image| memory.of(image).unwrap().at >= 100 * SECOND));
        }
    }
}
