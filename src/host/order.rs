//! The order in which images are removed from the caches of a host if space is needed on a file system.
//!
//! First the expired images of all caches on the file system are removed, oldest first. Then images are
//! removed by the priority of their cache and, within a cache, by their last use, least recently used first.
//! The removal stops as soon as enough space is free: not one image is removed in excess.
//!
//! [`by_priority`] and [`enough`] decide without I/O and without a clock; [`carry_out`] acts. The whole order
//! is planned before anything is removed, so that it is known beforehand if all images together could free
//! enough.
//!
//! The free space is always read from the file system. The removal of an image may free less than its blocks
//! (a process has it open, or its blocks are shared), or may free them later (XFS does so in the background).
//! If the released blocks should be enough but are not yet free, the run waits for them before it removes
//! another image. All these waits together have a limit.

use crate::cache::plan::PruneReason;
use crate::host::cache::{ImageCache, Item, Removing, Until};
use crate::os::space::Space;
use crate::units::Nanos;

/// A list that is sorted by priority, highest first. Things of the same priority stay in the order in which
/// they were added.
#[derive(Debug)]
pub(super) struct List<T>(Vec<(u32, T)>);

impl<T> List<T> {
    pub(super) fn new() -> Self {
        List(Vec::new())
    }

    pub(super) fn add(&mut self, priority: u32, thing: T) {
        let behind = self.0.partition_point(|(other, _)| *other >= priority);
        self.0.insert(behind, (priority, thing));
    }

    pub(super) fn into_vec(self) -> Vec<T> {
        self.0.into_iter().map(|(_, thing)| thing).collect()
    }
}

/// The part of a cache that decides about the order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    /// Images that may be removed, least recently used first.
    pub(crate) items: &'a [Item],
    /// Images that were not used for longer than this have expired.
    pub(crate) age: Option<Nanos>,
}

/// One image in the order of removal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pick {
    /// Position in the list of caches.
    pub(crate) cache: usize,
    /// Position in the cache's items.
    pub(crate) item: u32,
    pub(crate) expired: bool,
}

/// Returns how many items of a cache have expired. They are the first ones.
fn expired(view: View<'_>, now: Nanos) -> usize {
    let Some(age) = view.age else { return 0 };
    let limit = now.saturating_sub(age);
    view.items.partition_point(|item| item.last_use < limit)
}

/// Returns the order in which images are removed to free space. Images that would free nothing are left out.
pub(crate) fn by_priority(caches: &[View<'_>], now: Nanos) -> Vec<Pick> {
    let expired: Vec<usize> = caches.iter().map(|view| expired(*view, now)).collect();
    let picks = |old: bool| {
        caches.iter().zip(&expired).enumerate().flat_map(move |(cache, (view, expired))| {
            let items = if old { 0..*expired } else { *expired..view.items.len() };
            let useful = items.filter(|item| view.items[*item].frees > 0);
            useful.map(move |item| Pick { cache, item: item as u32, expired: old })
        })
    };
    let mut order: Vec<Pick> = picks(true).collect();
    order.sort_by_key(|pick| caches[pick.cache].items[pick.item as usize].last_use);
    order.extend(picks(false));
    order
}

/// Returns the first part of an order, up to the image whose removal frees the last of `missing` bytes.
pub(crate) fn enough<'a>(order: &'a [Pick], caches: &[View<'_>], missing: u64) -> &'a [Pick] {
    let mut left = missing;
    let needed = order.iter().take_while(|pick| {
        let wanted = left > 0;
        left = left.saturating_sub(caches[pick.cache].items[pick.item as usize].frees);
        wanted
    });
    &order[..needed.count()]
}

/// Removes images in this order until enough space is free.
pub(crate) fn carry_out(
    caches: &mut [&mut dyn ImageCache],
    order: &[Pick],
    space: &mut Space<'_>,
    removing: &mut [Removing<'_>],
) {
    let same = |a: &Pick, b: &Pick| (a.cache, a.expired) == (b.cache, b.expired);
    for picks in order.chunk_by(same) {
        if space.is_there() {
            return;
        }
        let Pick { cache, expired, .. } = picks[0];
        let items: Vec<u32> = picks.iter().map(|pick| pick.item).collect();
        let reason = if expired { PruneReason::Expired } else { PruneReason::LeastRecentlyUsed };
        caches[cache].remove(&items, &mut Until::Space(space), reason, &mut removing[cache]);
        if removing[cache].interrupt.raised() {
            break;
        }
        if space.is_close() {
            caches[cache].tidy();
        }
    }
    // The file system may take its time to free the last blocks, too.
    space.is_there();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Nanos = 1000;

    #[test]
    fn the_list_is_sorted_by_priority_then_by_registration() {
        for (added, expected) in [
            (&[][..], ""),
            (&[(75, 'i'), (50, 'n'), (25, 't'), (60, 'g')], "ignt"),
            (&[(1, 'a'), (1, 'b'), (2, 'c'), (1, 'd'), (2, 'e')], "ceabd"),
        ] {
            let mut list = List::new();
            for (priority, thing) in added {
                list.add(*priority, *thing);
            }
            assert_eq!(list.into_vec().into_iter().collect::<String>(), expected);
        }
    }

    /// Makes items of (last use, bytes freed), least recently used first. Their sizes are ten times the bytes
    /// freed.
    fn stock(items: &[(Nanos, u64)]) -> Vec<Item> {
        items
            .iter()
            .map(|(last_use, frees)| Item { last_use: *last_use, size: frees * 10, frees: *frees })
            .collect()
    }

    /// Shows an order as cache and item: `a0` is the first item of the first cache.
    fn shown(picks: &[Pick]) -> String {
        let show = |pick: &Pick| format!("{}{}", ["a", "b", "c"][pick.cache], pick.item);
        picks.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn expired_images_are_removed_first_and_oldest_first_then_by_priority() {
        let (a, b) = (stock(&[(100, 5), (300, 5), (900, 5)]), stock(&[(50, 5), (200, 0), (950, 5)]));
        let order = |age_a, age_b| {
            let views = [View { items: &a, age: age_a }, View { items: &b, age: age_b }];
            shown(&by_priority(&views, NOW))
        };
        assert_eq!(order(None, None), "a0 a1 a2 b0 b2", "an image that frees nothing is left out");
        assert_eq!(order(Some(500), Some(500)), "b0 a0 a1 a2 b2");
        assert_eq!(order(None, Some(500)), "b0 a0 a1 a2 b2");
        assert_eq!(order(Some(0), Some(0)), "b0 a0 a1 a2 b2");
        assert_eq!(
            order(Some(900), None),
            "a0 a1 a2 b0 b2",
            "an image exactly as old as allowed is not expired"
        );
        assert_eq!(order(Some(i64::MAX), None), "a0 a1 a2 b0 b2");
    }

    #[test]
    fn takes_what_is_needed_and_not_one_image_more() {
        let (a, b) = (stock(&[(1, 4), (2, 4)]), stock(&[(3, 4)]));
        let views = [View { items: &a, age: None }, View { items: &b, age: None }];
        let order = by_priority(&views, NOW);
        for (missing, expected) in
            [(0, ""), (1, "a0"), (4, "a0"), (5, "a0 a1"), (8, "a0 a1"), (9, "a0 a1 b0"), (99, "a0 a1 b0")]
        {
            assert_eq!(shown(enough(&order, &views, missing)), expected, "{missing} missing");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2000,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn every_list_is_sorted_and_fair(priorities in prop::collection::vec(0..5_u32, 0..20)) {
            let mut list = List::new();
            for (n, priority) in priorities.iter().enumerate() {
                list.add(*priority, (std::cmp::Reverse(*priority), n));
            }
            let things = list.into_vec();
            prop_assert!(things.is_sorted() && things.len() == priorities.len());
        }

        #[test]
        fn every_order_of_removal_keeps_its_promises(
            caches in prop::collection::vec(
                (prop::collection::vec((0..9_i64, 0..4_u64), 0..8), prop::option::of(0..9_i64)), 0..4),
            missing in 0..60_u64,
        ) {
            let stocks: Vec<(Vec<Item>, Option<Nanos>)> = caches
                .into_iter()
                .map(|(mut items, age)| {
                    items.sort_unstable();
                    (stock(&items), age)
                })
                .collect();
            let views: Vec<View<'_>> =
                stocks.iter().map(|(stock, age)| View { items: stock, age: *age }).collect();
            let order = by_priority(&views, 9);
            let item = |pick: &Pick| views[pick.cache].items[pick.item as usize];

            // Each image that frees anything is there once: expired ones first, oldest first, then the rest
            // by cache and last use.
            let mut all: Vec<(usize, u32)> = order.iter().map(|pick| (pick.cache, pick.item)).collect();
            all.sort_unstable();
            let useful = views.iter().enumerate().flat_map(|(cache, view)| {
                let items = view.items.iter().enumerate().filter(|(_, item)| item.frees > 0);
                items.map(move |(item, _)| (cache, item as u32))
            });
            prop_assert!(all.into_iter().eq(useful));
            for pick in &order {
                let is_old = |age| 9 - item(pick).last_use > age;
                prop_assert_eq!(pick.expired, views[pick.cache].age.is_some_and(is_old));
            }
            let expired = order.partition_point(|pick| pick.expired);
            prop_assert!(order[expired..].iter().all(|pick| !pick.expired));
            prop_assert!(order[..expired].is_sorted_by_key(|pick| item(pick).last_use));
            let rest = &order[expired..];
            prop_assert!(rest.is_sorted_by_key(|pick| (pick.cache, item(pick).last_use, pick.item)));

            // The images taken are enough, or are all there are; and without the last one they were not
            // enough.
            let picks = enough(&order, &views, missing);
            let freed = |picks: &[Pick]| picks.iter().map(|pick| item(pick).frees).sum::<u64>();
            prop_assert!(freed(picks) >= missing || picks.len() == order.len());
            if let Some((_, but_last)) = picks.split_last() {
                prop_assert!(freed(but_last) < missing);
            }
        }
    }
}
