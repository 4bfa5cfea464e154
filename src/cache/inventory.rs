//! The inventory of a cache: the entries of the directory, joined with the rows of the index.
//!
//! It takes one pass over the directory and one over the rows. Nothing is decided here, and nothing is
//! changed.

use std::hash::BuildHasher;

use anyhow::Result;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::dir::{CacheDir, CachePlace, Unreadable};
use super::entry::{BadRow, EntryKind, Ghost, Image, Partial, Row, Seen};
use super::{pending, verified};
use crate::names::{ImageId, NameBuf, escaped};

/// The number of entries for which a list has memory from the start. An allocation of this size is a mapping
/// of its own, which grows without being copied and without leaving a hole. Its unused part takes no memory.
const ROOM: usize = 4096;

/// An entry in the cache that is none of Glance's.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    pub(crate) place: CachePlace,
    pub(crate) name: NameBuf,
    pub(crate) kind: EntryKind,
    pub(crate) size: u64,
}

/// The entries of the cache directory itself, joined with the rows of its index.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    /// Every image, with a row or an orphan, in directory order.
    pub(crate) images: Vec<Image>,
    /// In row order.
    pub(crate) ghosts: Vec<Ghost>,
    pub(crate) bad_rows: Vec<BadRow>,
    pub(crate) foreign: Vec<Foreign>,
    /// Entries that could not be looked at, with their directory.
    pub(crate) unreadable: Vec<(CachePlace, Unreadable)>,
    pub(crate) tracking: Tracking,
    /// True if the cost of a transaction grows with the index pages on which its rows lie.
    pub(super) rows_on_pages: bool,
    /// True if there is a note of rows that may be without their files.
    pub(super) has_note: bool,
    /// True if there may be ghosts that are not listed here.
    pub(super) ghosts_are_left: bool,
}

/// The way in which the index of a cache knows its images.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum Tracking {
    /// By rows: an image without one is an orphan.
    #[default]
    ByRow,
    /// By the files themselves (the xattr driver): there are no orphans and no ghosts.
    ByFile,
    /// The index cannot be read, for the reason given: only the files are known.
    Unknown(String),
}

impl Inventory {
    /// Scans the cache directory itself. The rows are joined afterwards. So a file that Glance publishes
    /// between the two looks like a ghost until [`Inventory::look_again`]; a tracked image never looks like
    /// an orphan.
    pub(crate) fn scan(dir: &CacheDir, tracking: Tracking) -> Result<Self> {
        let mut inventory = Inventory { tracking, images: Vec::with_capacity(ROOM), ..Inventory::default() };
        let unreadable =
            dir.scan(CachePlace::Base, |name, kind, seen| match (ImageId::new(name.as_bytes()), kind) {
                (Some(id), EntryKind::File) => inventory.images.push(Image { id, seen: *seen, row: None }),
                _ if kind == EntryKind::Directory && is_ours(name.as_bytes()) => {}
                _ if kind == EntryKind::File && name.as_bytes() == pending::NAME.to_bytes() => {
                    inventory.has_note = true;
                }
                _ => inventory.foreign.push(Foreign {
                    place: CachePlace::Base,
                    name: name.to_owned(),
                    kind,
                    size: seen.size,
                }),
            })?;
        inventory.unreadable.extend(unreadable.into_iter().map(|entry| (CachePlace::Base, entry)));
        Ok(inventory)
    }

    /// Takes the ghosts out: they were forgotten before, or are left to another run.
    pub(crate) fn leave_ghosts(&mut self) {
        self.ghosts.clear();
        self.ghosts_are_left = true;
    }

    /// Returns the images without their rows, to join them with another index.
    pub(crate) fn without_rows(&self) -> Self {
        let images = self.images.iter().map(|image| Image { row: None, ..*image }).collect();
        Inventory { images, ..Inventory::default() }
    }

    /// Returns what joins rows to the images of this inventory.
    pub(crate) fn joiner(&mut self) -> Joiner<'_> {
        Joiner { inventory: self, hasher: DefaultHashBuilder::default(), by_id: None }
    }

    /// Looks again at ghosts and orphans. Between the scan and the rows Glance may have published an image,
    /// which is then no ghost, or removed one, which is then no orphan.
    pub(crate) fn look_again(&mut self, dir: &CacheDir) {
        let images = &mut self.images;
        self.ghosts.retain(|ghost| match dir.look(CachePlace::Base, ghost.id.as_name()) {
            Ok(Some((EntryKind::File, seen))) => {
                images.push(Image { id: ghost.id, seen, row: Some(ghost.row) });
                false
            }
            _ => true,
        });
        self.images.retain(|image| {
            image.row.is_some() || !matches!(dir.look(CachePlace::Base, image.id.as_name()), Ok(None))
        });
    }

    /// Returns the sum of the sizes of all images, orphans included. The limit is about this sum.
    pub(crate) fn size(&self) -> u64 {
        self.images.iter().fold(0, |sum, image| sum.saturating_add(image.seen.size))
    }

    /// True if an image should have a row and has none.
    pub(crate) fn is_orphan(&self, image: &Image) -> bool {
        image.row.is_none() && self.tracking == Tracking::ByRow
    }

    /// True if the files themselves are the index.
    pub(crate) fn tracked_by_file(&self) -> bool {
        self.tracking == Tracking::ByFile
    }

    /// Returns the orphans.
    pub(crate) fn orphans(&self) -> impl Iterator<Item = &Image> {
        self.images.iter().filter(|image| self.is_orphan(image))
    }

    /// Returns the number of rows that name an image, with or without its file.
    pub(crate) fn rows(&self) -> usize {
        self.ghosts.len() + self.images.iter().filter(|image| image.row.is_some()).count()
    }

    /// True if the files of most rows are missing. The directory is then more likely the wrong one, or not
    /// mounted, than that many images lost. Those that this program was removing when it was killed do not
    /// count.
    pub(crate) fn looks_misplaced(&self, dir: &CacheDir) -> bool {
        let present = self.rows() - self.ghosts.len();
        if present >= self.ghosts.len() {
            return false;
        }
        let ours = pending::noted(dir);
        present < self.ghosts.iter().filter(|ghost| !ours.contains(&ghost.id)).count()
    }
}

/// Joins rows to images, one at a time, so that the rows are never in memory a second time.
pub(crate) struct Joiner<'a> {
    inventory: &'a mut Inventory,
    hasher: DefaultHashBuilder,
    /// The positions of the images by the hash of their id. Made for the first row, because an index may have
    /// none.
    by_id: Option<HashTable<u32>>,
}

impl Joiner<'_> {
    /// Notes that the cost of a transaction grows with the index pages on which its rows lie.
    pub(super) fn rows_lie_on_pages(&mut self) {
        self.inventory.rows_on_pages = true;
    }

    /// Adds a row whose id names no image. `shown` is the escaped id.
    pub(super) fn bad_row(&mut self, key: i64, shown: String) {
        self.inventory.bad_rows.push(BadRow { key, shown });
    }

    /// Joins a row; `id` is the image id as it is in the index.
    pub(crate) fn row(&mut self, id: &[u8], row: Row) {
        let Some(id) = ImageId::new(id) else {
            self.bad_row(row.key, escaped(id));
            return;
        };
        let images = &mut self.inventory.images;
        let by_id = self.by_id.get_or_insert_with(|| by_id(images, &self.hasher));
        let found = by_id.find(self.hasher.hash_one(id), |p| images[*p as usize].id == id);
        match found {
            Some(position) => images[*position as usize].row = Some(row),
            None => self.inventory.ghosts.push(Ghost { id, row }),
        }
    }
}

fn by_id(images: &[Image], hasher: &DefaultHashBuilder) -> HashTable<u32> {
    let hash = |position: &u32| hasher.hash_one(images[*position as usize].id);
    let mut by_id = HashTable::with_capacity(images.len());
    for position in 0..images.len() as u32 {
        by_id.insert_unique(hash(&position), position, hash);
    }
    by_id
}

/// The entries of a subdirectory.
#[derive(Debug, Default)]
pub(crate) struct Partials {
    /// Regular files and symlinks, in directory order.
    pub(crate) entries: Vec<Partial>,
    pub(crate) foreign: Vec<Foreign>,
    pub(crate) unreadable: Vec<(CachePlace, Unreadable)>,
}

impl Partials {
    /// Scans a subdirectory. One that does not exist counts as empty.
    pub(crate) fn scan(dir: &CacheDir, place: CachePlace) -> Result<Self> {
        let mut found = Partials { entries: Vec::with_capacity(ROOM), ..Partials::default() };
        let unreadable = dir.scan(place, |name, kind, seen: &Seen| match kind {
            EntryKind::File | EntryKind::Symlink => {
                found.entries.push(Partial { name: name.to_owned(), kind, seen: *seen });
            }
            _ => found.foreign.push(Foreign { place, name: name.to_owned(), kind, size: seen.size }),
        })?;
        found.unreadable.extend(unreadable.into_iter().map(|entry| (place, entry)));
        Ok(found)
    }
}

/// True for the names of Glance's subdirectories, and of the directory of this program.
fn is_ours(name: &[u8]) -> bool {
    CachePlace::SUBDIRECTORIES.iter().any(|place| place.name().as_bytes() == name)
        || name == verified::PLACE.to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> ImageId {
        ImageId::new(
            "00000000-0000-0000-0000-00000000000".chars().chain([digit]).collect::<String>().as_bytes(),
        )
        .unwrap()
    }

    fn image(digit: char) -> Image {
        let seen =
            Seen { inode: 1, size: 10, allocated: 0, atime: 0, mtime: 0, ctime: 0, links: 1, owner: 0 };
        Image { id: id(digit), seen, row: None }
    }

    fn row(key: i64) -> Row {
        Row { key, last_accessed: 0.0, last_modified: 0.0, size: 10, hits: 0 }
    }

    #[test]
    fn joins_rows_to_files_and_names_what_is_left_over() {
        let mut inventory = Inventory { images: vec![image('a'), image('b')], ..Inventory::default() };
        let mut joiner = inventory.joiner();
        joiner.row(id('b').as_str().as_bytes(), row(1));
        joiner.row(id('c').as_str().as_bytes(), row(2));
        joiner.row(b"../outside/victim", row(3));
        joiner.row(b"", row(4));
        assert_eq!(inventory.orphans().map(|i| i.id).collect::<Vec<_>>(), [id('a')]);
        assert_eq!(inventory.ghosts.iter().map(|g| g.id).collect::<Vec<_>>(), [id('c')]);
        assert_eq!(
            inventory.bad_rows.iter().map(|r| r.shown.as_str()).collect::<Vec<_>>(),
            ["../outside/victim", ""]
        );
        assert_eq!(inventory.size(), 20);
    }

    #[test]
    fn with_the_xattr_index_every_image_is_tracked() {
        let inventory =
            Inventory { images: vec![image('a')], tracking: Tracking::ByFile, ..Inventory::default() };
        assert_eq!(inventory.orphans().count(), 0);
    }

    #[test]
    fn a_directory_that_lacks_more_than_half_of_the_rows_looks_misplaced() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        for (present, missing, misplaced) in [
            (0, 0, false),
            (1, 0, false),
            (0, 1, true),
            (1, 1, false),
            (1, 2, true),
            (2, 3, true),
            (3, 3, false),
        ] {
            let mut inventory = Inventory::default();
            for _ in 0..present {
                inventory.images.push(Image { row: Some(row(1)), ..image('a') });
            }
            for _ in 0..missing {
                inventory.ghosts.push(Ghost { id: id('b'), row: row(2) });
            }
            let found = inventory.looks_misplaced(&dir);
            assert_eq!(found, misplaced, "{present} present, {missing} missing");
        }
    }

    #[test]
    fn what_a_killed_run_was_removing_does_not_count_as_missing() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        let ghost = |letter| Ghost { id: id(letter), row: row(1) };
        let inventory = Inventory { ghosts: vec![ghost('b'), ghost('c')], ..Inventory::default() };
        assert!(inventory.looks_misplaced(&dir), "as an unmounted directory");
        let mut note = pending::PendingRows::default();
        note.write(&dir, [id('b')].into_iter());
        assert!(inventory.looks_misplaced(&dir), "half of them are known");
        note.write(&dir, [id('c'), id('b')].into_iter());
        assert!(!inventory.looks_misplaced(&dir));
        assert_eq!(Inventory::scan(&dir, Tracking::ByRow).unwrap().foreign.len(), 0);
        pending::remove(&dir);
        assert!(inventory.looks_misplaced(&dir));
        std::fs::create_dir(temporary.path().join(".glance-cache-pending")).unwrap();
        pending::PendingRows::default().write(&dir, [id('b')].into_iter());
        assert!(inventory.looks_misplaced(&dir), "a note that cannot be made or read is none");
    }

    #[test]
    fn ghosts_and_orphans_are_looked_at_again() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        let path = |digit| temporary.path().join(id(digit).as_str());
        std::fs::write(path('a'), "published").unwrap();
        std::fs::create_dir(path('b')).unwrap();
        std::fs::write(path('d'), "an orphan").unwrap();
        let ghost = |digit| Ghost { id: id(digit), row: row(1) };
        let mut inventory = Inventory {
            ghosts: ['a', 'b', 'c'].map(ghost).into(),
            images: vec![image('d'), image('e'), Image { row: Some(row(2)), ..image('f') }],
            ..Inventory::default()
        };
        inventory.look_again(&dir);
        assert_eq!(inventory.ghosts.iter().map(|ghost| ghost.id).collect::<Vec<_>>(), [id('b'), id('c')]);
        let images: Vec<_> = inventory.images.iter().map(|image| (image.id, image.row.is_some())).collect();
        assert_eq!(images, [(id('d'), false), (id('f'), true), (id('a'), true)]);
        assert_eq!(inventory.images[2].seen.size, 9);
        assert!(inventory.without_rows().images.iter().all(|image| image.row.is_none()));
    }

    #[test]
    fn only_the_directories_of_glance_and_of_this_program_are_not_foreign() {
        let temporary = tempfile::tempdir().unwrap();
        for name in ["incomplete", "invalid", "queue", "other", verified::PLACE.to_str().unwrap()] {
            std::fs::create_dir(temporary.path().join(name)).unwrap();
        }
        let dir = CacheDir::open(temporary.path()).unwrap().unwrap();
        std::fs::write(temporary.path().join(id('a').as_str()), "image").unwrap();
        let inventory = Inventory::scan(&dir, Tracking::ByFile).unwrap();
        let foreign: Vec<_> = inventory.foreign.iter().map(|foreign| foreign.name.to_string()).collect();
        assert_eq!((foreign, inventory.images.len()), (vec!["other".to_owned()], 1));
        assert!(inventory.tracked_by_file());
    }
}
