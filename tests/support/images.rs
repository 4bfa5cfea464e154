//! Contents of images, their digests, and the smallest database of Glance that a prefetch can read.

use std::fs;
use std::io::Write as _;

use super::env::{TestEnv, id};

/// Returns the content of a test image.
pub(crate) fn content(letter: char, size: usize) -> Vec<u8> {
    let mut state = u64::from(u32::from(letter)) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let mut bytes: Vec<u8> = (0..size.div_ceil(4)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(size);
    bytes
}

/// Returns a digest, by the system's own tool.
pub(crate) fn digest(tool: &str, bytes: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let output = std::process::Command::new(tool).arg(file.path()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// Makes a database with one image of zeros and just the columns that a prefetch reads. Returns its URL.
pub(crate) fn small_database(env: &TestEnv, letter: char, size: usize) -> String {
    let (store, file) = (env.outside("store").join(id(letter)), env.outside("glance.sqlite"));
    fs::create_dir_all(store.parent().unwrap()).unwrap();
    fs::write(&store, vec![0; size]).unwrap();
    let db = rusqlite::Connection::open(&file).unwrap();
    db.execute_batch(&format!(
        "CREATE TABLE images (id, status, deleted, size, checksum, os_hash_algo, os_hash_value);
         CREATE TABLE image_locations (id, image_id, value, meta_data, status, deleted);
         INSERT INTO images VALUES ('{id}', 'active', 0, {size}, '{md5}', NULL, NULL);
         INSERT INTO image_locations VALUES (1, '{id}', 'file://{store}', '{{}}', 'active', 0);",
        id = id(letter),
        md5 = digest("md5sum", &vec![0; size]),
        store = store.display(),
    ))
    .unwrap();
    format!("sqlite:///{}", file.display())
}
