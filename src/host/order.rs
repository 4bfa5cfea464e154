//! The order in which the image caches of a host give up images when space is needed.
//!
//! [`List`] keeps things sorted by priority, highest first, in order of registration among equals. [`by_priority`] and
//! [`enough`] decide without I/O and without a clock; [`carry_out`] acts.
//!
//! **Space** on a file system: expired images of all its caches are removed first, oldest first; then images by the
//! priority of their cache, least recently used first within a cache, until the space is there and not one image further.
//! The whole order is planned before anything is removed, so it is known beforehand if it can be enough.
//!
//! The file system says how much is free. Removing an image may free less than its blocks (a process has it open, its
//! blocks are shared) or free them later (XFS frees in the background): when the blocks released should be enough but are
//! not there, they are waited for, for a bounded time in all, before another image is removed.

use crate::host::cache::{ImageCache, Item, Removing, Until};
use crate::os::space::Space;
use crate::units::Nanos;

/// Things with a priority, highest first, in order of registration among equals.
#[derive(Debug)]
pub(crate) struct List<T>(Vec<(u32, T)>);

impl<T> List<T> {
    pub(crate) fn new() -> Self {
        List(Vec::new())
    }

    pub(crate) fn add(&mut self, priority: u32, thing: T) {
        let behind = self.0.partition_point(|(other, _)| *other >= priority);
        self.0.insert(behind, (priority, thing));
    }

    pub(crate) fn into_vec(self) -> Vec<T> {
        self.0.into_iter().map(|(_, thing)| thing).collect()
    }
}

/// A cache as planning sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    /// Images that may be removed, least recently used first.
    pub(crate) items: &'a [Item],
    /// Images not used for longer than this have expired.
    pub(crate) age: Option<Nanos>,
}

/// One step of a plan: an item of a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pick {
    /// Position in the list of caches.
    pub(crate) cache: usize,
    /// Position in the cache's items.
    pub(crate) item: u32,
    pub(crate) expired: bool,
}

/// Returns how many items of a cache have expired: they stand first.
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

/// Returns the part of an order that is enough to free `missing` bytes, if nothing comes between.
pub(crate) fn enough<'a>(order: &'a [Pick], caches: &[View<'_>], missing: u64) -> &'a [Pick] {
    let mut left = missing;
    let needed = order.iter().take_while(|pick| {
        let wanted = left > 0;
        left = left.saturating_sub(caches[pick.cache].items[pick.item as usize].frees);
        wanted
    });
    &order[..needed.count()]
}

/// Removes images in this order until the space is there.
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
        let reason = if expired { "expired" } else { "least recently used" };
        caches[cache].remove(&items, &mut Until::Space(space), reason, &mut removing[cache]);
        if removing[cache].interrupt.raised() {
            break;
        }
        if space.is_close() {
            caches[cache].tidy();
        }
    }
    // The last blocks may take their time, too.
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

    /// Items: (last use, bytes), least recently used first; the sizes are ten times what they free.
    fn stock(items: &[(Nanos, u64)]) -> Vec<Item> {
        items
            .iter()
            .map(|(last_use, frees)| Item { last_use: *last_use, size: frees * 10, frees: *frees })
            .collect()
    }

    /// The order as cache and item: `a0` is the first item of the first cache.
    fn shown(picks: &[Pick]) -> String {
        let show = |pick: &Pick| format!("{}{}", ["a", "b", "c"][pick.cache], pick.item);
        picks.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn expired_images_go_first_and_oldest_first_then_by_priority() {
        let (a, b) = (stock(&[(100, 5), (300, 5), (900, 5)]), stock(&[(50, 5), (200, 0), (950, 5)]));
        let order = |age_a, age_b| {
            let views = [View { items: &a, age: age_a }, View { items: &b, age: age_b }];
            shown(&by_priority(&views, NOW))
        };
        assert_eq!(order(None, None), "a0 a1 a2 b0 b2", "what frees nothing is left out");
        assert_eq!(order(Some(500), Some(500)), "b0 a0 a1 a2 b2");
        assert_eq!(order(None, Some(500)), "b0 a0 a1 a2 b2");
        assert_eq!(order(Some(0), Some(0)), "b0 a0 a1 a2 b2");
        assert_eq!(order(Some(900), None), "a0 a1 a2 b0 b2", "exactly as old as allowed has not expired");
        assert_eq!(order(Some(i64::MAX), None), "a0 a1 a2 b0 b2");
    }

    #[test]
    fn takes_what_is_needed_and_not_one_image_further() {
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
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

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
            let views: Vec<View<'_>> = stocks.iter().map(|(stock, age)| View { items: stock, age: *age }).collect();
            let order = by_priority(&views, 9);
            let item = |pick: &Pick| views[pick.cache].items[pick.item as usize];

            // Each image that frees anything once; expired ones before all others and oldest first, the rest by cache and use.
            let mut all: Vec<(usize, u32)> = order.iter().map(|pick| (pick.cache, pick.item)).collect();
            all.sort_unstable();
            let useful = views.iter().enumerate().flat_map(|(cache, view)| {
                let items = view.items.iter().enumerate().filter(|(_, item)| item.frees > 0);
                items.map(move |(item, _)| (cache, item as u32))
            });
            prop_assert!(all.into_iter().eq(useful));
            for pick in &order {
                prop_assert_eq!(pick.expired, views[pick.cache].age.is_some_and(|age| 9 - item(pick).last_use > age));
            }
            let expired = order.partition_point(|pick| pick.expired);
            prop_assert!(order[expired..].iter().all(|pick| !pick.expired));
            prop_assert!(order[..expired].is_sorted_by_key(|pick| item(pick).last_use));
            prop_assert!(order[expired..].is_sorted_by_key(|pick| (pick.cache, item(pick).last_use, pick.item)));

            // Enough, or everything; and not one image further.
            let picks = enough(&order, &views, missing);
            let freed = |picks: &[Pick]| picks.iter().map(|pick| item(pick).frees).sum::<u64>();
            prop_assert!(freed(picks) >= missing || picks.len() == order.len());
            if let Some((_, but_last)) = picks.split_last() {
                prop_assert!(freed(but_last) < missing);
            }
        }
    }
}
