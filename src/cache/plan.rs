//! Plans: which entries of a cache are removed, in which order and why. Decided without I/O and without a
//! clock.
//!
//! A plan holds all candidates in their order, and the goal. So an entry that cannot be removed is followed
//! by the next, and a dry run prints the same plan that would be carried out. Each entry has its reason. Only
//! the order among very many removed images may differ in the end.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::iter;

use super::dir::CachePlace;
use super::entry::{Image, Partial};
use super::inventory::{Inventory, Partials};
use super::usable::{Unusable, UnusableImages};
use crate::names::ImageId;
use crate::units::{Nanos, SECOND};

/// Orphans younger than this are left to Glance: it renames an image into place and inserts its row after.
pub(crate) const ADOPTION_AGE: Nanos = 600 * SECOND;

/// From this number of removed images on, their rows lie on most pages of an index in each batch, unless the
/// images are taken in the order of their rows.
const SCATTERED: usize = 10_000;
/// The number of stripes is the square root of the number of removed images, divided by this.
const STRIPE: usize = 14_000;

/// The images that a prune removes, unless they must stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The least recently used ones, until the cache is within its limits.
    #[default]
    OverLimit,
    /// These, whatever the limits. Their ids are [folded](ImageId::folded).
    Named(HashSet<ImageId>),
    /// Those that were neither cached nor used for longer than this, whatever the limits.
    Unused(Nanos),
    Everything,
}

impl Choice {
    fn takes(&self, image: &Image, last_use: Nanos, now: Nanos) -> bool {
        match self {
            Choice::OverLimit | Choice::Everything => true,
            Choice::Named(ids) => ids.contains(&image.id.folded()),
            Choice::Unused(age) => last_use.max(image.seen.mtime) < now.saturating_sub(*age),
        }
    }

    fn reason(&self) -> PruneReason {
        match self {
            Choice::OverLimit => PruneReason::LeastRecentlyUsed,
            Choice::Named(_) => PruneReason::Named,
            Choice::Unused(_) => PruneReason::Unused,
            Choice::Everything => PruneReason::Everything,
        }
    }
}

/// Why an image is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PruneReason {
    #[default]
    LeastRecentlyUsed,
    /// It was not used for longer than the age limit of its cache.
    Expired,
    /// Named by `--image`.
    Named,
    /// Not used within `--older-than`.
    Unused,
    /// `--everything` was given.
    Everything,
    /// Glance does not serve it any more.
    Unusable(Unusable),
}

impl PruneReason {
    pub(crate) fn text(self) -> &'static str {
        match self {
            PruneReason::LeastRecentlyUsed => "least recently used",
            PruneReason::Expired => "expired",
            PruneReason::Named => "asked for by --image",
            PruneReason::Unused => "not used within --older-than",
            PruneReason::Everything => "asked for by --everything",
            PruneReason::Unusable(why) => why.sentence(),
        }
    }
}

/// The limits of a cache, and the images that must stay.
#[derive(Clone, Debug, Default)]
pub(crate) struct PruneLimits {
    /// The images that are removed. The limits count only if it is [`Choice::OverLimit`].
    pub(crate) choice: Choice,
    /// In bytes. The cache is over its limit if the sizes of its images sum up to more.
    pub(crate) max_size: u64,
    /// In bytes. Once the cache is over its limit, it is pruned down to this, which is never more than
    /// `max_size`.
    pub(crate) target_size: u64,
    /// Bytes of the file system that have to be free; `None` if no such limit is set.
    pub(crate) min_free: Option<u64>,
    /// Images that were cached or used less than this ago stay.
    pub(crate) min_age: Nanos,
    /// Images that stay. Their ids are [folded](ImageId::folded), so that case does not matter.
    pub(crate) keep: HashSet<ImageId>,
    /// Images that are the first to be removed, because Glance does not serve them.
    pub(crate) unusable: UnusableImages,
}

/// Why an image stays although it would be the next to be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kept {
    /// Named by `--keep` or `--keep-from`.
    Listed,
    /// Cached or used less than `--min-age` ago.
    Young,
}

/// The goal of a prune: the bytes that are still to be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Goal {
    /// Bytes of the images' sizes.
    pub(crate) size: u64,
    /// Bytes of disk to be freed.
    pub(crate) free: u64,
}

impl Goal {
    /// A goal that no removal reaches: every candidate is removed, even an empty one.
    pub(crate) const EVERYTHING: Goal = Goal { size: u64::MAX, free: 0 };

    pub(crate) fn is_reached(self) -> bool {
        self.size == 0 && self.free == 0
    }

    /// True if the removal of this image brings the goal nearer.
    pub(super) fn wants(self, image: &Image) -> bool {
        self.size > 0 || (self.free > 0 && frees(image) > 0)
    }

    /// Returns the goal after the removal of this image.
    pub(crate) fn without(self, image: &Image) -> Goal {
        Goal { size: self.size.saturating_sub(image.seen.size), free: self.free.saturating_sub(frees(image)) }
    }
}

/// Returns the bytes of disk that the removal of an image frees: none while it has another link.
pub(crate) fn frees(image: &Image) -> u64 {
    if image.seen.links > 1 { 0 } else { image.seen.allocated }
}

/// The plan of a prune. Positions are those of [`Inventory::images`].
#[derive(Debug, Default)]
pub(crate) struct PrunePlan {
    /// All images that may be removed, in this order.
    pub(crate) candidates: Vec<u32>,
    pub(crate) kept: Vec<(u32, Kept)>,
    pub(crate) goal: Goal,
    /// Why the candidates are removed, unless they are unusable.
    pub(crate) reason: PruneReason,
    /// The candidates that Glance does not serve. They come first.
    pub(crate) unusable: UnusableImages,
    /// Images that were named and are not in the cache, not even as a row without a file. Their ids are
    /// folded and sorted.
    pub(crate) absent: Vec<ImageId>,
}

impl PrunePlan {
    /// Returns the plan to remove these images, all of them.
    pub(crate) fn of_all(candidates: Vec<u32>, reason: PruneReason) -> Self {
        PrunePlan { candidates, goal: Goal::EVERYTHING, reason, ..PrunePlan::default() }
    }

    /// Returns why an image is removed.
    pub(crate) fn reason_for(&self, image: &Image) -> PruneReason {
        self.unusable.get(image.id).map_or(self.reason, PruneReason::Unusable)
    }

    /// Returns the images that are removed if all goes to plan.
    pub(crate) fn victims<'a>(&'a self, inventory: &'a Inventory) -> impl Iterator<Item = &'a Image> {
        let mut goal = self.goal;
        self.candidates.iter().map(|position| &inventory.images[*position as usize]).filter(move |image| {
            let goes = goal.wants(image);
            if goes {
                goal = goal.without(image);
            }
            goes
        })
    }

    /// Returns the candidates, the removed ones in an order that changes few pages of an index at a time. The
    /// same images are removed, two to three times as fast in an index of a million rows.
    pub(super) fn by_page(&self, inventory: &Inventory) -> Cow<'_, [u32]> {
        let victims = if inventory.rows_on_pages { self.victims(inventory).count() } else { 0 };
        // Free space is measured again and again, and may be enough before all of them are removed.
        if victims < SCATTERED || self.goal.free > 0 {
            return Cow::Borrowed(&self.candidates);
        }
        Cow::Owned(self.striped(inventory, victims, (victims / STRIPE).isqrt() + 1))
    }

    /// Returns the candidates. All removed ones but the last are sorted by stripes of ids, and in each stripe
    /// by row.
    ///
    /// An index holds its rows in the order of their keys, and a second tree in the order of their ids.
    /// Sorted by one of them, the rows of a batch lie close together there and are scattered over the other.
    /// In stripes they lie on some of the pages of both.
    fn striped(&self, inventory: &Inventory, victims: usize, stripes: usize) -> Vec<u32> {
        let mut order = self.candidates.clone();
        // The goal is not reached before the last one. So all others are removed, in whatever order.
        order[..victims.saturating_sub(1)].sort_by_cached_key(|position| {
            let image = &inventory.images[*position as usize];
            (
                ((u64::from(image.id.leading()) * stripes as u64) >> 32) as u32,
                image.row.map_or(i64::MIN, |row| row.key),
            )
        });
        order
    }
}

/// Plans a prune: nothing if the cache is within its limits, else the least recently used images first. If
/// images are chosen otherwise, all of the chosen ones are removed, in the same order. Images that Glance
/// does not serve come before all others.
///
/// `available` is the free space of the file system now, in bytes. The index says when an image was last
/// used; for orphans, which have no row, it is the later of access and modification time. Ties are resolved
/// by row order, for images without rows by size and then by name.
pub(crate) fn prune(inventory: &Inventory, limits: &PruneLimits, available: u64, now: Nanos) -> PrunePlan {
    let size = inventory.size();
    let goal = match limits.choice {
        Choice::OverLimit => Goal {
            size: if size > limits.max_size { size.saturating_sub(limits.target_size) } else { 0 },
            free: limits.min_free.map_or(0, |wanted| wanted.saturating_sub(available)),
        },
        _ => Goal::EVERYTHING,
    };
    let mut plan = PrunePlan {
        goal,
        reason: limits.choice.reason(),
        unusable: if limits.choice == Choice::OverLimit {
            limits.unusable.clone()
        } else {
            UnusableImages::default()
        },
        absent: absent(inventory, &limits.choice),
        ..PrunePlan::default()
    };
    if goal.is_reached() {
        return plan;
    }
    let (mut first, mut order) = (Vec::new(), Vec::with_capacity(inventory.images.len()));
    for (position, image) in inventory.images.iter().enumerate() {
        let position = position as u32;
        let last_use = image.last_use(inventory.tracked_by_file());
        if !limits.choice.takes(image, last_use, now) {
            continue;
        }
        if !limits.keep.is_empty() && limits.keep.contains(&image.id.folded()) {
            plan.kept.push((position, Kept::Listed));
        } else if limits.min_age > 0 && last_use.max(image.seen.mtime) > now.saturating_sub(limits.min_age) {
            plan.kept.push((position, Kept::Young));
        } else {
            let part = if plan.unusable.get(image.id).is_some() { &mut first } else { &mut order };
            part.push((last_use, image.row.map_or(i64::MAX, |row| row.key), position));
        }
    }
    let images = &inventory.images;
    for part in [&mut first, &mut order] {
        part.sort_unstable_by(|(use_a, row_a, a), (use_b, row_b, b)| {
            use_a.cmp(use_b).then(row_a.cmp(row_b)).then_with(|| {
                let (a, b) = (&images[*a as usize], &images[*b as usize]);
                a.seen.size.cmp(&b.seen.size).then(a.id.cmp(&b.id))
            })
        });
    }
    plan.candidates = first.into_iter().chain(order).map(|(_, _, position)| position).collect();
    plan
}

/// Returns the named images that are not in the cache. An entry that could not be looked at may be one.
fn absent(inventory: &Inventory, choice: &Choice) -> Vec<ImageId> {
    let Choice::Named(ids) = choice else { return Vec::new() };
    let mut absent = ids.clone();
    let unreadable = inventory.unreadable.iter();
    let unreadable = unreadable.filter_map(|(_, (name, _))| ImageId::new(name.as_name().as_bytes()));
    let images = inventory.images.iter().map(|image| image.id);
    for id in images.chain(inventory.ghosts.iter().map(|ghost| ghost.id)).chain(unreadable) {
        absent.remove(&id.folded());
    }
    let mut absent: Vec<ImageId> = absent.into_iter().collect();
    absent.sort_unstable();
    absent
}

/// The ages from which on entries of the subdirectories are removed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CleanLimits {
    pub(crate) stall_time: Nanos,
    pub(crate) invalid_grace: Nanos,
}

/// Why a clean removes an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CleanReason {
    Invalid,
    Stalled,
}

/// The plan of a clean.
#[derive(Debug, Default)]
pub(crate) struct CleanPlan {
    invalid: Vec<Partial>,
    stalled: Vec<Partial>,
    /// Stalled entries that stay because a process has them open for writing, with the id of that process.
    pub(crate) kept_open: Vec<(Partial, i32)>,
}

impl CleanPlan {
    /// Returns the entries to be removed, in this order, each with its reason.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (CleanReason, &Partial)> {
        let invalid = self.invalid.iter().map(|entry| (CleanReason::Invalid, entry));
        invalid.chain(self.stalled.iter().map(|entry| (CleanReason::Stalled, entry)))
    }

    /// As [`CleanPlan::entries`], but from the two directories in turn: two threads then seldom need the same
    /// one.
    pub(super) fn alternating(&self) -> impl Iterator<Item = (CleanReason, &Partial)> {
        let mut invalid = self.invalid.iter().map(|entry| (CleanReason::Invalid, entry));
        let mut stalled = self.stalled.iter().map(|entry| (CleanReason::Stalled, entry));
        let mut is_odd = false;
        iter::from_fn(move || {
            is_odd = !is_odd;
            if is_odd {
                invalid.next().or_else(|| stalled.next())
            } else {
                stalled.next().or_else(|| invalid.next())
            }
        })
    }
}

/// True if an incomplete entry was last written longer than the stall time ago. A time in the future is not.
pub(crate) fn is_stalled(entry: &Partial, limits: CleanLimits, now: Nanos) -> bool {
    entry.seen.mtime < now.saturating_sub(limits.stall_time)
}

/// Plans a clean. `writers` names a process for each inode that is open for writing.
pub(crate) fn clean(
    invalid: Partials,
    incomplete: Partials,
    limits: CleanLimits,
    now: Nanos,
    writers: &HashMap<u64, i32>,
) -> CleanPlan {
    let mut plan = CleanPlan { invalid: invalid.entries, stalled: incomplete.entries, kept_open: Vec::new() };
    // Filtered in place: a second list would be the largest thing in memory. Without any grace, entries with
    // a time in the future are removed, too.
    plan.invalid.retain(|entry| {
        limits.invalid_grace == 0 || entry.seen.mtime < now.saturating_sub(limits.invalid_grace)
    });
    plan.stalled.retain(|entry| {
        let stalled = is_stalled(entry, limits, now);
        match writers.get(&entry.seen.inode) {
            Some(pid) if stalled => {
                plan.kept_open.push((entry.clone(), *pid));
                false
            }
            _ => stalled,
        }
    });
    plan
}

impl CleanReason {
    /// Returns the directory of such an entry.
    pub(crate) fn place(self) -> CachePlace {
        match self {
            CleanReason::Invalid => CachePlace::Invalid,
            CleanReason::Stalled => CachePlace::Incomplete,
        }
    }
}

/// The plan of a repair. Besides, all ghosts and bad rows of the inventory are removed.
#[derive(Debug, Default)]
pub(crate) struct RepairPlan {
    /// Orphans that get a row.
    pub(crate) adopt: Vec<Image>,
    /// Orphans that are too young: Glance may be about to insert their rows.
    pub(crate) young: Vec<ImageId>,
}

/// Plans a repair: which orphans get a row.
pub(crate) fn repair(inventory: &Inventory, now: Nanos) -> RepairPlan {
    let mut plan = RepairPlan::default();
    for image in inventory.orphans() {
        if image.seen.ctime < now.saturating_sub(ADOPTION_AGE) {
            plan.adopt.push(*image);
        } else {
            plan.young.push(image.id);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::entry::{EntryKind, Ghost, Row, Seen};
    use super::super::inventory::Tracking;
    use super::*;
    use crate::names::NameBuf;

    const NOW: Nanos = 1_000_000 * SECOND;

    fn id(digit: char) -> ImageId {
        ImageId::new(format!("00000000-0000-0000-0000-00000000000{digit}").as_bytes()).unwrap()
    }

    fn seen(size: u64, used: i64) -> Seen {
        let used = used * SECOND;
        Seen { inode: 1, size, allocated: size, atime: used, mtime: used, ctime: used, links: 1, owner: 0 }
    }

    /// An image with a row: (digit, size, seconds of last use, row key).
    fn tracked(digit: char, size: u64, used: i64, key: i64) -> Image {
        let row = Row { key, last_accessed: used as f64, last_modified: 0.0, size: 0, hits: 0 };
        Image { id: id(digit), seen: seen(size, 0), row: Some(row) }
    }

    fn orphan(digit: char, size: u64, used: i64) -> Image {
        Image { id: id(digit), seen: seen(size, used), row: None }
    }

    fn inventory(images: &[Image]) -> Inventory {
        Inventory { images: images.to_vec(), ..Inventory::default() }
    }

    fn victims(inventory: &Inventory, limits: &PruneLimits, available: u64) -> String {
        let plan = prune(inventory, limits, available, NOW);
        assert_eq!(
            plan.candidates.len() + plan.kept.len(),
            if plan.goal.is_reached() { 0 } else { inventory.images.len() },
            "every image is a candidate or kept"
        );
        plan.victims(inventory).map(|image| image.id.as_str().chars().last().unwrap()).collect()
    }

    fn limit(max_size: u64) -> PruneLimits {
        PruneLimits { max_size, target_size: max_size, ..PruneLimits::default() }
    }

    fn five() -> Inventory {
        inventory(&[
            tracked('c', 1000, 30, 3),
            tracked('a', 1000, 10, 1),
            tracked('e', 1000, 50, 5),
            tracked('b', 1000, 20, 2),
            tracked('d', 1000, 40, 4),
        ])
    }

    #[test]
    fn removes_least_recently_used_until_the_limit_holds() {
        for (max, expected) in [
            (u64::MAX, ""),
            (5000, ""),
            (4999, "a"),
            (4000, "a"),
            (3999, "ab"),
            (3000, "ab"),
            (1, "abcde"),
            (0, "abcde"),
        ] {
            assert_eq!(victims(&five(), &limit(max), 0), expected, "limit {max}");
        }
    }

    #[test]
    fn what_glance_does_not_serve_is_removed_first_and_only_when_over_the_limit() {
        let unusable = UnusableImages::deleted([id('d'), id('e'), id('f')].into_iter());
        let at = |max_size| PruneLimits { unusable: unusable.clone(), ..limit(max_size) };
        for (max, expected) in [(5000, ""), (4999, "d"), (3000, "de"), (2000, "dea"), (0, "deabc")] {
            assert_eq!(victims(&five(), &at(max), 0), expected, "limit {max}");
        }
        let (images, kept) = (five(), PruneLimits { keep: HashSet::from([id('d')]), ..at(4000) });
        assert_eq!(victims(&images, &kept, 0), "e", "a list of images to keep counts all the same");
        let plan = prune(&images, &at(2000), 0, NOW);
        let reasons: Vec<_> = plan.victims(&images).map(|image| plan.reason_for(image).text()).collect();
        assert_eq!(reasons, ["its record is deleted", "its record is deleted", "least recently used"]);
    }

    #[test]
    fn prunes_to_the_target_only_when_over_the_limit() {
        let at = |max, target| PruneLimits { max_size: max, target_size: target, ..PruneLimits::default() };
        assert_eq!(victims(&five(), &at(4500, 2000), 0), "abc");
        assert_eq!(victims(&five(), &at(5000, 2000), 0), "");
    }

    #[test]
    fn frees_disk_by_blocks_and_passes_over_what_frees_none() {
        let mut images = five();
        images.images[1].seen.links = 2;
        images.images[3].seen.allocated = 0;
        let limits = PruneLimits { min_free: Some(10_000), ..limit(u64::MAX) };
        assert_eq!(victims(&images, &limits, 10_000), "");
        assert_eq!(victims(&images, &limits, 9_999), "c");
        assert_eq!(victims(&images, &limits, 8_500), "cd");
        let both = PruneLimits { max_size: 4000, target_size: 4000, ..limits };
        assert_eq!(
            victims(&images, &both, 9_000),
            "ac",
            "the size takes the linked image, the disk the next that helps"
        );
    }

    #[test]
    fn orphans_take_their_turn_by_their_own_times() {
        let images = inventory(&[tracked('a', 10, 10, 1), orphan('b', 10, 5), orphan('c', 10, 15)]);
        assert_eq!(victims(&images, &limit(0), 0), "bac");
    }

    #[test]
    fn by_page_goes_by_the_ids_first_digits_and_then_by_row() {
        let image = |id: &str, used, key| Image {
            id: ImageId::new(format!("{id}-0000-0000-0000-000000000000").as_bytes()).unwrap(),
            ..tracked('0', 1000, used, key)
        };
        let mut images = inventory(&[
            image("00000000", 10, 3),
            image("ffffffff", 20, 1),
            image("7fffffff", 30, 2),
            image("80000000", 40, 9),
            image("40000000", 50, 1),
            image("00000001", 60, 0),
        ]);
        images.rows_on_pages = true;
        let plan = prune(&images, &limit(1000), 0, NOW);
        assert_eq!(plan.by_page(&images), plan.candidates, "few images go by last use");
        assert_eq!(
            plan.striped(&images, 5, 1),
            [1, 2, 0, 3, 4, 5],
            "the fifth is the last to go, whatever its row"
        );
        assert_eq!(plan.striped(&images, 5, 2), [2, 0, 1, 3, 4, 5]);
        assert_eq!(plan.striped(&images, 6, 4), [0, 4, 2, 3, 1, 5]);
    }

    #[test]
    fn very_many_images_go_by_page_unless_free_space_is_the_goal() {
        let count = SCATTERED as u32;
        let image = |n: u32| Image {
            id: ImageId::new(
                format!("{:08x}-0000-0000-0000-000000000000", n.wrapping_mul(0x9e37_79b9)).as_bytes(),
            )
            .unwrap(),
            ..tracked('0', 1, i64::from(n), i64::from(n * 7 % count))
        };
        let mut images = inventory(&(0..count).map(image).collect::<Vec<_>>());
        let everything = prune(&images, &limit(0), 0, NOW);
        assert_eq!(everything.by_page(&images), everything.candidates, "an index without pages");
        images.rows_on_pages = true;
        assert_eq!(everything.by_page(&images), everything.striped(&images, SCATTERED, 1));
        assert_ne!(everything.by_page(&images), everything.candidates);
        let all_but_one = prune(&images, &limit(1), 0, NOW);
        assert_eq!(all_but_one.by_page(&images), all_but_one.candidates);
        let free = PruneLimits { min_free: Some(1), ..limit(0) };
        let for_space = prune(&images, &free, 0, NOW);
        assert_eq!(for_space.by_page(&images), for_space.candidates);
    }

    #[test]
    fn a_plan_of_all_images_has_its_reason() {
        let images = five();
        let plan = PrunePlan::of_all(vec![1, 0], PruneReason::Expired);
        assert_eq!(plan.reason_for(&images.images[1]), PruneReason::Expired);
        assert_eq!(plan.victims(&images).map(|image| image.id).collect::<Vec<_>>(), [id('a'), id('c')]);
    }

    #[test]
    fn breaks_ties_by_row_order_and_without_rows_by_size_and_name() {
        let rows = inventory(&[
            tracked('a', 1, 7, 3),
            tracked('b', 2, 7, 1),
            tracked('c', 3, 7, 2),
            orphan('d', 1, 7),
        ]);
        assert_eq!(victims(&rows, &limit(0), 0), "bcad");
        let mut files =
            inventory(&[orphan('c', 2, 7), orphan('b', 2, 7), orphan('a', 3, 7), orphan('d', 1, 7)]);
        files.tracking = Tracking::ByFile;
        assert_eq!(victims(&files, &limit(0), 0), "dbca");
    }

    #[test]
    fn times_of_other_types_sort_as_sqlite_sorts_them() {
        let mut images = five();
        images.images[0].row.as_mut().unwrap().last_accessed = f64::INFINITY; // text
        images.images[2].row.as_mut().unwrap().last_accessed = f64::NEG_INFINITY; // NULL
        assert_eq!(victims(&images, &limit(0), 0), "eabdc");
    }

    #[test]
    fn keeps_listed_images_in_any_case_and_young_ones() {
        let keep =
            HashSet::from([ImageId::new(id('a').as_str().to_uppercase().as_bytes()).unwrap().folded()]);
        assert_eq!(victims(&five(), &PruneLimits { keep, ..limit(3000) }, 0), "bc");
        let min_age = NOW - 35 * SECOND;
        assert_eq!(victims(&five(), &PruneLimits { min_age, ..limit(0) }, 0), "abc");
        let mut fresh = five();
        fresh.images[1].seen.mtime = NOW + SECOND;
        assert_eq!(victims(&fresh, &PruneLimits { min_age, ..limit(0) }, 0), "bc");
    }

    #[test]
    fn a_choice_counts_whatever_the_limit() {
        let mut images = five();
        images.images[3].seen.size = 0;
        let chosen = |choice| PruneLimits { choice, ..limit(u64::MAX) };
        let removed = |limits| {
            let plan = prune(&images, &limits, 0, NOW);
            let letters = plan.victims(&images).map(|image| image.id.as_str().chars().last().unwrap());
            (letters.collect::<String>(), plan.absent)
        };
        let named = Choice::Named(HashSet::from([id('d'), id('b'), id('f')]));
        assert_eq!(removed(chosen(named)), ("bd".to_owned(), vec![id('f')]), "even an empty one");
        let age = |seconds| NOW - seconds * SECOND;
        assert_eq!(removed(chosen(Choice::Unused(age(31)))).0, "abc");
        assert_eq!(removed(chosen(Choice::Unused(age(30)))).0, "ab", "exactly as old is not older");
        assert_eq!(removed(chosen(Choice::Unused(i64::MAX))).0, "");
        assert_eq!(removed(chosen(Choice::Everything)).0, "abcde");
        let keep = HashSet::from([id('a'), id('e')]);
        assert_eq!(removed(PruneLimits { keep, ..chosen(Choice::Everything) }).0, "bcd");
    }

    #[test]
    fn an_image_that_was_just_cached_is_not_old() {
        let mut images = five();
        images.images[1].seen.mtime = NOW;
        let limits = PruneLimits { choice: Choice::Unused(NOW / 2), ..limit(0) };
        let plan = prune(&images, &limits, 0, NOW);
        assert!(plan.victims(&images).all(|image| image.id != id('a')));
        assert_eq!(plan.candidates.len(), 4);
    }

    #[test]
    fn cleans_invalid_entries_at_once_and_stalled_ones_by_their_age() {
        let partials = |ages: &[i64]| Partials {
            entries: ages
                .iter()
                .map(|age| {
                    let seen = Seen { inode: age.unsigned_abs(), ..seen(1, NOW / SECOND - age) };
                    Partial {
                        name: NameBuf::new(age.to_string().as_bytes()).unwrap(),
                        kind: EntryKind::File,
                        seen,
                    }
                })
                .collect(),
            ..Partials::default()
        };
        let run = |stall: i64, grace: i64, writers: &[(u64, i32)]| {
            let limits = CleanLimits { stall_time: stall * SECOND, invalid_grace: grace * SECOND };
            let writers = writers.iter().copied().collect();
            let plan = clean(partials(&[5, 0, -5]), partials(&[200, 100, 99, 0, -5]), limits, NOW, &writers);
            let names = |entries: Vec<&Partial>| {
                entries.iter().map(|e| e.name.to_string()).collect::<Vec<_>>().join(" ")
            };
            let kind = |reason| plan.entries().filter(|e| e.0 == reason).map(|e| e.1).collect();
            let kept = plan.kept_open.iter().map(|e| &e.0).collect();
            [names(kind(CleanReason::Invalid)), names(kind(CleanReason::Stalled)), names(kept)]
        };
        assert_eq!(run(100, 0, &[]), ["5 0 -5", "200", ""]);
        assert_eq!(run(0, 0, &[]), ["5 0 -5", "200 100 99", ""]);
        assert_eq!(run(100, 1, &[]), ["5", "200", ""]);
        assert_eq!(run(98, 5, &[(200, 4711), (99, 1)]), ["", "100", "200 99"]);
        assert_eq!(run(i64::MAX / SECOND, i64::MAX / SECOND, &[]), ["", "", ""]);
    }

    #[test]
    fn adopts_only_orphans_that_glance_cannot_be_publishing() {
        let now = NOW / SECOND;
        let images =
            inventory(&[orphan('a', 1, now - 601), orphan('b', 1, now - 600), tracked('c', 1, 1, 1)]);
        let plan = repair(&images, NOW);
        assert_eq!(plan.adopt.iter().map(|i| i.id).collect::<Vec<_>>(), [id('a')]);
        assert_eq!(plan.young, [id('b')]);
    }

    // -- Properties of every plan --

    /// Any cache, crowded with ties: up to twenty images with and without rows, links and blocks on disk.
    fn any_inventory() -> impl Strategy<Value = Inventory> {
        let image = (0..4_u64, 0..3_u64, 1..3_u32, 0..5_i64, 0..5_i64, prop::option::of(0..5_i64), 0..4_i64);
        (prop::collection::vec(image, 0..20), any::<bool>()).prop_map(|(images, by_row)| {
            let images = images.into_iter().enumerate();
            let images = images.map(|(n, (size, blocks, links, used, changed, row_used, key))| {
                let id = ImageId::new(format!("{n:08x}-0000-0000-0000-000000000000").as_bytes()).unwrap();
                let seen = Seen {
                    inode: n as u64,
                    allocated: blocks,
                    links,
                    atime: used * SECOND,
                    mtime: changed * SECOND,
                    ctime: changed * SECOND,
                    ..seen(size, 0)
                };
                let row = row_used.filter(|_| by_row).map(|used| Row {
                    key,
                    last_accessed: [f64::NEG_INFINITY, f64::INFINITY, 1.5, 2.0, 3.0][used as usize],
                    last_modified: 0.0,
                    size: 0,
                    hits: 0,
                });
                Image { id, seen, row }
            });
            let tracking = if by_row { Tracking::ByRow } else { Tracking::ByFile };
            Inventory { images: images.collect(), tracking, ..Inventory::default() }
        })
    }

    prop_compose! {
        fn any_limits()(
            max_size in prop_oneof![0..40_u64, Just(u64::MAX)],
            target in 0..=100_u64,
            min_free in prop::option::of(0..40_u64),
            min_age in prop_oneof![Just(0), 0..6_i64, Just(i64::MAX / SECOND)],
            keep in prop::collection::hash_set(0..20_u32, 0..6),
            unusable in prop::collection::hash_set(0..20_u32, 0..6),
        ) -> PruneLimits {
            let text = |n| format!("{n:08x}-0000-0000-0000-000000000000");
            let id = |n| ImageId::new(text(n).as_bytes()).unwrap().folded();
            let target_size = (u128::from(max_size) * u128::from(target) / 100) as u64;
            let keep = keep.into_iter().map(id).collect();
            PruneLimits {
                choice: Choice::OverLimit,
                max_size,
                target_size,
                min_free,
                min_age: min_age * SECOND,
                keep,
                unusable: UnusableImages::deleted(unusable.into_iter().map(id)),
            }
        }
    }

    fn numbered(n: u32) -> ImageId {
        ImageId::new(format!("{n:08x}-0000-0000-0000-000000000000").as_bytes()).unwrap()
    }

    /// Any choice but by the limits. Some named images are not in the cache.
    fn any_choice() -> impl Strategy<Value = Choice> {
        let named = prop::collection::hash_set(0..26_u32, 0..8);
        prop_oneof![
            named.prop_map(|ids| Choice::Named(ids.into_iter().map(numbered).collect())),
            prop_oneof![0..6_i64, Just(i64::MAX / SECOND)].prop_map(|age| Choice::Unused(age * SECOND)),
            Just(Choice::Everything),
        ]
    }

    const CLOCK: Nanos = 4 * SECOND;

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2000,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn every_prune_keeps_its_promises(
            inventory in any_inventory(),
            limits in any_limits(),
            available in 0..40_u64,
            stripes in 1..5_usize,
        ) {
            let plan = prune(&inventory, &limits, available, CLOCK);
            let size = inventory.size();
            let by_file = inventory.tracked_by_file();
            let victims: Vec<&Image> = plan.victims(&inventory).collect();
            let gone: HashSet<ImageId> = victims.iter().map(|image| image.id).collect();

            // With nothing to reach there is nothing to do; otherwise each image is a candidate or kept,
            // once.
            if size <= limits.max_size && limits.min_free.is_none_or(|wanted| wanted <= available) {
                prop_assert!(plan.goal.is_reached() && plan.candidates.is_empty() && plan.kept.is_empty());
                return Ok(());
            }
            let kept = plan.kept.iter().map(|kept| kept.0);
            let mut all: Vec<u32> = plan.candidates.iter().copied().chain(kept).collect();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..inventory.images.len() as u32));

            // The images that must stay are kept, and no others.
            for (position, image) in inventory.images.iter().enumerate() {
                let listed = limits.keep.contains(&image.id);
                let used = image.last_use(by_file).max(image.seen.mtime);
                let young = limits.min_age > 0 && used > CLOCK.saturating_sub(limits.min_age);
                let kept = plan.kept.iter().find(|kept| kept.0 == position as u32).map(|kept| kept.1);
                prop_assert_eq!(kept, if listed { Some(Kept::Listed) } else { young.then_some(Kept::Young) });
                prop_assert!(kept.is_none() || !gone.contains(&image.id));
            }

            // Unusable images first, then least recently used first.
            let place = |position: &u32| {
                let image = &inventory.images[*position as usize];
                (limits.unusable.get(image.id).is_none(), image.last_use(by_file))
            };
            let order: Vec<(bool, Nanos)> = plan.candidates.iter().map(place).collect();
            prop_assert!(order.is_sorted());

            // The limits are kept, or no image is left that would help; without the last removed image they
            // would not be.
            let freed: u64 = victims.iter().map(|image| frees(image)).sum();
            let bytes: u64 = victims.iter().map(|image| image.seen.size).sum();
            let reached = |bytes: u64, freed: u64| {
                (size <= limits.max_size || size - bytes <= limits.target_size)
                    && limits.min_free.is_none_or(|wanted| wanted <= available + freed)
            };
            let too_large = size > limits.max_size && size - bytes > limits.target_size;
            let helps = |image: &&Image| frees(image) > 0 || too_large;
            let left = plan.candidates.iter().map(|position| &inventory.images[*position as usize]);
            let helpful = left.filter(|image| !gone.contains(&image.id)).any(|image| helps(&image));
            prop_assert!(reached(bytes, freed) || !helpful);
            if let Some(last) = victims.last() {
                prop_assert!(!reached(bytes - last.seen.size, freed - frees(last)));
            }

            // In the order of pages the same images are removed.
            if plan.goal.free == 0 {
                let order = plan.striped(&inventory, victims.len(), stripes);
                let by_page = PrunePlan { candidates: order, goal: plan.goal, ..PrunePlan::default() };
                let ids: HashSet<ImageId> = by_page.victims(&inventory).map(|image| image.id).collect();
                prop_assert_eq!(&ids, &gone);
                prop_assert_eq!(&by_page.candidates[victims.len()..], &plan.candidates[victims.len()..]);
            }

            // A second plan for the rest removes nothing more.
            let images = inventory.images.iter().filter(|image| !gone.contains(&image.id)).copied().collect();
            let after = Inventory { images, tracking: inventory.tracking.clone(), ..Inventory::default() };
            let again = prune(&after, &limits, available + freed, CLOCK);
            prop_assert!(again.victims(&after).next().is_none());
        }

        #[test]
        fn every_choice_removes_what_was_chosen_and_not_protected(
            inventory in any_inventory(),
            limits in any_limits(),
            choice in any_choice(),
            ghosts in prop::collection::hash_set(20..24_u32, 0..3),
            available in 0..40_u64,
        ) {
            let mut inventory = inventory;
            let row = Row { key: 0, last_accessed: 0.0, last_modified: 0.0, size: 0, hits: 0 };
            inventory.ghosts = ghosts.iter().map(|n| Ghost { id: numbered(*n), row }).collect();
            let limits = PruneLimits { choice: choice.clone(), ..limits };
            let plan = prune(&inventory, &limits, available, CLOCK);
            let by_file = inventory.tracked_by_file();
            let is_chosen = |image: &Image| match &choice {
                Choice::OverLimit => unreachable!(),
                Choice::Named(ids) => ids.contains(&image.id),
                Choice::Unused(age) => CLOCK - image.last_use(by_file).max(image.seen.mtime) > *age,
                Choice::Everything => true,
            };

            // Each chosen image is removed or kept, once, whatever the limits; no other one is.
            let kept = plan.kept.iter().map(|kept| kept.0);
            let mut all: Vec<u32> = plan.candidates.iter().copied().chain(kept).collect();
            all.sort_unstable();
            let chosen = |position: &u32| is_chosen(&inventory.images[*position as usize]);
            prop_assert!(all.into_iter().eq((0..inventory.images.len() as u32).filter(chosen)));
            prop_assert_eq!(plan.victims(&inventory).count(), plan.candidates.len());

            // The protected ones stay, and no others.
            for image in plan.victims(&inventory) {
                let used = image.last_use(by_file).max(image.seen.mtime);
                let young = limits.min_age > 0 && used > CLOCK.saturating_sub(limits.min_age);
                prop_assert!(!limits.keep.contains(&image.id) && !young);
            }
            for (position, why) in &plan.kept {
                let image = &inventory.images[*position as usize];
                prop_assert_eq!(limits.keep.contains(&image.id), *why == Kept::Listed);
            }

            // Least recently used first, and never out of the order of last use if interrupted.
            let last_use = |position: &u32| inventory.images[*position as usize].last_use(by_file);
            prop_assert!(plan.candidates.is_sorted_by_key(last_use));

            // Named images that are neither there nor known to the index are reported, and no others.
            let known: HashSet<ImageId> = inventory.images.iter().map(|image| image.id)
                .chain(inventory.ghosts.iter().map(|ghost| ghost.id)).collect();
            let mut absent: Vec<ImageId> = match &choice {
                Choice::Named(ids) => ids.difference(&known).copied().collect(),
                _ => Vec::new(),
            };
            absent.sort_unstable();
            prop_assert_eq!(&plan.absent, &absent);

            // A second plan for the rest removes nothing more.
            let gone: HashSet<ImageId> = plan.victims(&inventory).map(|image| image.id).collect();
            inventory.images.retain(|image| !gone.contains(&image.id));
            let again = prune(&inventory, &limits, available, CLOCK);
            prop_assert!(again.candidates.is_empty());
        }

        #[test]
        fn every_clean_keeps_its_promises(
            ages in prop::collection::vec((any::<bool>(), -3..9_i64), 0..20),
            stall in prop_oneof![0..9_i64, Just(i64::MAX / SECOND)],
            grace in prop_oneof![Just(0), 0..9_i64],
            open in prop::collection::hash_set(0..20_u64, 0..4),
        ) {
            let partial = |(n, age): (usize, i64)| Partial {
                name: NameBuf::new(n.to_string().as_bytes()).unwrap(),
                kind: EntryKind::File,
                seen: Seen { inode: n as u64, ..seen(1, NOW / SECOND - age) },
            };
            let of = |invalid: bool| {
                let those = ages.iter().enumerate().filter(move |(_, (place, _))| *place == invalid);
                let entries = those.map(|(n, (_, age))| partial((n, *age))).collect();
                Partials { entries, ..Partials::default() }
            };
            let writers: HashMap<u64, i32> = open.iter().map(|inode| (*inode, 1)).collect();
            let limits = CleanLimits { stall_time: stall * SECOND, invalid_grace: grace * SECOND };
            let plan = clean(of(true), of(false), limits, NOW, &writers);
            for (n, (invalid, age)) in ages.iter().enumerate() {
                let of_this = plan.entries().filter(|(_, entry)| entry.seen.inode == n as u64);
                let removed: Vec<CleanReason> = of_this.map(|(reason, _)| reason).collect();
                let kept_open = plan.kept_open.iter().filter(|(e, _)| e.seen.inode == n as u64).count();
                let stalled = !invalid && *age > stall;
                let expected = match invalid {
                    true if grace == 0 || *age > grace => vec![CleanReason::Invalid],
                    false if stalled && !open.contains(&(n as u64)) => vec![CleanReason::Stalled],
                    _ => vec![],
                };
                prop_assert_eq!(removed, expected, "age {}", age);
                prop_assert_eq!(kept_open, usize::from(stalled && open.contains(&(n as u64))));
            }
        }

        #[test]
        fn every_repair_takes_each_orphan_once(inventory in any_inventory(), now in 0..1300_i64) {
            let plan = repair(&inventory, now * SECOND);
            let mut found: Vec<ImageId> = plan.adopt.iter().map(|image| image.id).chain(plan.young).collect();
            found.sort_unstable();
            let mut orphans: Vec<ImageId> = inventory.orphans().map(|image| image.id).collect();
            orphans.sort_unstable();
            prop_assert_eq!(found, orphans);
            let is_old = |image: &Image| now * SECOND - image.seen.ctime > ADOPTION_AGE;
            prop_assert!(plan.adopt.iter().all(|image| image.row.is_none() && is_old(image)));
        }
    }
}
