//! Files of a cache directory that are read: entries of the queue, and the note of rows that may be without
//! files.

use std::fs;

use super::dir::CacheDir;
use super::pending;
use super::queue::Queue;
use crate::fuzzing::fuzz;

#[test]
fn queue_entries_and_notes_of_any_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["queue", "incomplete", "invalid"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let cache = CacheDir::open(dir.path()).unwrap().unwrap();
    let entry = dir.path().join("queue/8534f457-38d0-48ec-8f10-99c6c3e1b258");
    let note = dir.path().join(".glance-cache-pending");
    fuzz("queue-entry", |bytes| {
        fs::write(&entry, bytes).unwrap();
        fs::write(&note, bytes).unwrap();
        let queue = Queue::read(&cache).unwrap();
        assert_eq!(queue.images.len(), 1);
        let noted = pending::noted(&cache).len();
        format!("{} {}", queue.images[0].memory.is_some(), if noted > 0 { "noted" } else { "" })
    });
}
