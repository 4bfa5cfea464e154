//! The healthy caches of the side-by-side tests: sizes, ages, ties, hits, queued, invalid and incomplete
//! entries, limits from zero to above the size, stall times. Only what the contract and Glance's tools agree
//! on.

use serde_json::{Value, json};

use crate::support::env::{Driver, nth_id};

/// An image: id, size, seconds since its last use, hits.
type Cached = (String, u64, u64, u32);

pub(super) struct Shape {
    pub(super) name: String,
    pub(super) images: Vec<Cached>,
    /// Ids in the queue, with the age of each in seconds.
    queued: Vec<(String, u64)>,
    /// Ids, sizes and ages in seconds.
    invalid: Vec<(String, u64, u64)>,
    incomplete: Vec<(String, u64, u64)>,
    pub(super) limit: u64,
    pub(super) stall: u64,
}

impl Shape {
    /// Returns the request that makes Glance's driver make this cache.
    pub(super) fn request(&self, dir: &str, driver: Driver, now: f64) -> Value {
        let ago = |age: u64| now - age as f64;
        let images = self.images.iter().map(|(id, size, age, hits)| json!([id, size, ago(*age), hits]));
        let entry = |(id, size, age): &(String, u64, u64)| json!([id, size, ago(*age)]);
        json!({
            "dir": dir,
            "driver": driver.name(),
            "images": images.collect::<Vec<_>>(),
            "queued": self.queued.iter().map(|(id, age)| json!([id, ago(*age)])).collect::<Vec<_>>(),
            "invalid": self.invalid.iter().map(entry).collect::<Vec<_>>(),
            "incomplete": self.incomplete.iter().map(entry).collect::<Vec<_>>(),
        })
    }

    fn total(&self) -> u64 {
        self.images.iter().map(|image| image.1).sum()
    }
}

/// A small generator of numbers that are the same at every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A recipe for the images of a cache: their number, and a function from the position and random numbers to
/// size, age, hits.
type Recipe = (&'static str, usize, fn(usize, &mut Numbers) -> (u64, u64, u32));

const RECIPES: &[Recipe] = &[
    ("none", 0, |_, _| (0, 0, 0)),
    ("one", 1, |_, _| (1000, 3600, 0)),
    ("in-order", 8, |n, _| (1000, 9000 - 1000 * n as u64, 0)),
    ("in-reverse", 8, |n, _| (1000, 1000 * (n as u64 + 1), 1)),
    ("mixed", 12, |_, r| (r.below(5000), 60 + r.below(900_000), r.below(4) as u32)),
    // Ties: the same size in xattr (then the name decides in both), the row order in sqlite; ids ascend with
    // rows.
    ("all-tied", 9, |_, _| (700, 7200, 0)),
    ("tied-pairs", 10, |n, _| (500, 1000 * (6 - n as u64 / 2), 0)),
    ("tied-sizes-rise", 7, |n, _| (100 * (n as u64 + 1), 5000, 0)),
    ("empty-files", 9, |n, _| (if n % 2 == 0 { 0 } else { 800 }, 90_000 - 5000 * n as u64, 0)),
    ("one-giant", 6, |n, _| (if n == 3 { 50_000_000 } else { 10 }, 8000 - 900 * n as u64, 2)),
    ("giant-first", 6, |n, _| (if n == 0 { 50_000_000 } else { 10 }, 8000 - 900 * n as u64, 2)),
    ("very-old", 6, |n, _| (4096, 1_000_000_000 + 7 * n as u64, 0)),
    ("many", 60, |_, r| (1 + r.below(99_999), 30 + r.below(10_000_000), 0)),
];

/// Limits as parts of the total: per mille, and then bytes more or less.
const LIMITS: &[(&str, u64, i64)] = &[
    ("zero", 0, 0),
    ("third", 333, 0),
    ("half", 500, 0),
    ("all-but-one-byte", 1000, -1),
    ("all", 1000, 0),
    ("more", 1000, 1),
];

const STALLS: &[u64] = &[86400, 3600, 100, 1_000_000];

/// Returns the shapes of every recipe at every limit, with other entries beside.
pub(super) fn shapes() -> Vec<Shape> {
    let mut all = Vec::new();
    let mut numbers = Numbers(42);
    for (name, count, draw) in RECIPES {
        for (limit_name, per_mille, more) in LIMITS {
            let drawn: Vec<_> = (0..*count).map(|n| draw(n, &mut numbers)).collect();
            let images = drawn
                .into_iter()
                .enumerate()
                .map(|(n, (size, age, hits))| (nth_id(n), size, age, hits))
                .collect();
            let mut shape = Shape {
                name: format!("{name}-{limit_name}"),
                images,
                queued: others(0x100, all.len() % 4, &mut numbers)
                    .into_iter()
                    .map(|(id, _, age)| (id, age))
                    .collect(),
                invalid: others(0x200, all.len() % 5, &mut numbers),
                incomplete: others(0x300, all.len() % 6, &mut numbers),
                limit: 0,
                stall: STALLS[all.len() % STALLS.len()],
            };
            shape.limit = (shape.total() * per_mille / 1000).saturating_add_signed(*more);
            all.push(shape);
        }
    }
    all
}

/// Entries that are no images: ids of their own, any size, ages well away from every stall time.
fn others(first: usize, count: usize, numbers: &mut Numbers) -> Vec<(String, u64, u64)> {
    let ages = [5, 1800, 50_000, 500_000, 5_000_000];
    (0..count).map(|n| (nth_id(first + n), numbers.below(3000), ages[(numbers.below(5)) as usize])).collect()
}
