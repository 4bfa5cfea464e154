//! The cache of one node of a central database, which may have many nodes.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::env::*;
use super::mounts::{Mount, Mounted};
use super::rights::give_to_nobody;
use super::servers::{Database, Kind, MariaDb, Session, SqliteFile};

pub(crate) const NODE: &str = "http://n1.example:9292";

/// A cache of one node of a central database.
pub(crate) struct Central {
    pub(crate) env: TestEnv,
    pub(crate) db: Database,
    pub(crate) node: &'static str,
}

impl Central {
    pub(crate) fn empty(kind: Kind) -> Self {
        let env = TestEnv::empty(Xattr);
        let db = Database::new(kind, &env.outside("glance.sqlite"));
        Self::of(env, db, NODE)
    }

    /// Makes a cache whose node the database gets to know.
    pub(crate) fn of(env: TestEnv, db: Database, node: &'static str) -> Self {
        db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{node}')"));
        Central { env, db, node }
    }

    pub(crate) fn new(kind: Kind, images: &[Image]) -> Self {
        let central = Self::empty(kind);
        central.images(images);
        central
    }

    pub(crate) fn images(&self, images: &[Image]) {
        for image in images {
            self.image(*image);
        }
    }

    pub(crate) fn image(&self, (letter, size, hours, hits): Image) {
        let used = self.env.now - (hours * 3600) as f64;
        self.env.file_at(id(letter), size, used, used);
        self.row_of(&id(letter), hours, size, hits);
    }

    pub(crate) fn row_of(&self, image_id: &str, hours: i64, size: u64, hits: i64) {
        let time = naive(self.env.now - (hours * 3600) as f64);
        self.db.sql(&format!(
            "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, \
             node_reference_id) SELECT \
             '{image_id}', '{time}', '{time}', {size}, {hits}, node_reference_id FROM node_reference WHERE \
             node_reference_url = '{}'",
            self.node
        ));
    }

    pub(crate) fn row(&self, image_id: &str, hours: i64) {
        self.row_of(image_id, hours, 1000, 0);
    }

    /// Makes many images of one byte, the first used longest ago.
    pub(crate) fn large(&self, count: usize) {
        let node = &self.db.rows(&format!(
            "SELECT node_reference_id FROM node_reference WHERE node_reference_url = '{}'",
            self.node
        ))[0][0];
        let values: Vec<String> = (0..count)
            .map(|n| {
                let used = self.env.now - (10 * count - n) as f64;
                self.env.file_at(nth_id(n), 1, used, used);
                format!("('{}', '{1}', '{1}', 1, 0, {node})", nth_id(n), naive(used))
            })
            .collect();
        for chunk in values.chunks(5000) {
            self.db.sql(&format!(
                "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, \
                 node_reference_id) VALUES {}",
                chunk.join(",")
            ));
        }
    }

    pub(crate) fn conf_with(&self, database: &str, node: &str, lines: &str) -> String {
        let node =
            if node.is_empty() { String::new() } else { format!("worker_self_reference_url = {node}\n") };
        let connection =
            if database.is_empty() { String::new() } else { format!("connection = {database}\n") };
        self.env.write(
            "glance-api.conf",
            format!(
                "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = \
                 centralized_db\n{node}{lines}\n[database]\n{connection}",
                self.env.dir().display(),
            ),
        )
    }

    pub(crate) fn conf(&self) -> String {
        self.conf_with(&self.db.url, self.node, "")
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn run(&self, command: &str, arguments: &[&str]) -> Run {
        let conf = self.conf();
        self.env.raw(&[&[command, "--config-file", &conf], arguments].concat())
    }

    /// Runs a command as another user than root, with more lines in the configuration.
    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn as_nobody(&self, arguments: &[&str], lines: &str) -> Run {
        let conf = self.conf_with(&self.db.url, self.node, lines);
        chmod(std::path::Path::new(&conf), 0o644);
        if self.db.kind == SqliteFile {
            // SQLite writes its journal beside it.
            give_to_nobody(&self.env.outside(""));
        }
        self.env.finish(self.env.nobodys().args(arguments).args(["--config-file", &conf]))
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    pub(crate) fn prune(&self, limit: &str) -> Run {
        self.run("prune", &["--max-size", &format!("{limit}B"), "--lock-timeout", "2s"])
    }

    /// Returns the ids in this node's rows, in order.
    pub(crate) fn ids(&self) -> Vec<String> {
        let rows = self.db.rows(&format!(
            "SELECT image_id FROM cached_images c JOIN node_reference n ON n.node_reference_id = \
             c.node_reference_id \
             WHERE node_reference_url = '{}' ORDER BY image_id",
            self.node
        ));
        rows.into_iter().flatten().collect()
    }

    /// Returns the letters of the images that are left, after asserting that files and rows agree.
    #[track_caller]
    pub(crate) fn left(&self) -> String {
        let rows: String = self.ids().iter().filter_map(|id| id.chars().next()).collect();
        assert_eq!(self.env.images(), rows, "files and rows differ: {:?}", self.db.kind);
        rows
    }

    /// Returns everything in the directory, and every row.
    pub(crate) fn snapshot(&self) -> (Value, Vec<Vec<String>>) {
        let rows = [
            self.db.rows(
                "SELECT id, image_id, last_accessed, last_modified, size, hits FROM cached_images \
                          ORDER BY id",
            ),
            self.db.rows("SELECT node_reference_id, node_reference_url FROM node_reference ORDER BY 1"),
        ];
        (json!(tree(self.env.dir())), rows.concat())
    }

    #[track_caller]
    pub(crate) fn prunes_to_cde(&self) {
        self.prune("3000")
            .ok()
            .has(&json!({"total_files_pruned": 2, "total_bytes_pruned": 2000, "cache_size_after": 3000}));
        assert_eq!(self.env.images(), "cde", "{:?}", self.db.kind);
    }
}

pub(crate) fn five(kind: Kind) -> Central {
    Central::new(kind, FIVE)
}

/// Five images and an orphan that has been there for longer than Glance takes to insert a row.
///
/// The mount has to go before the cache, so it stands behind it.
pub(crate) fn with_an_old_orphan(kind: Kind) -> (Central, Mount) {
    let mounted = Mounted::ext4(Xattr, 8, "relatime");
    mounted.env.orphan('f', 700, 70);
    mounted.set_ctimes(&[id('f')], mounted.env.now as i64 - 700);
    let Mounted { mount, env } = mounted;
    let db = Database::new(kind, &env.outside("glance.sqlite"));
    let c = Central::of(env, db, NODE);
    c.images(FIVE);
    (c, mount)
}

pub(crate) fn naive(time: f64) -> String {
    let days = (time / 86400.0).floor() as i64;
    let seconds = time as i64 - days * 86400;
    // Days since the epoch as a date, by Howard Hinnant's rule.
    let z = days + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}.000000")
}

/// Makes 50 nodes with 2000 images each; image `n` is on the nodes from `n % 50` on, so that some are on one
/// and some on many.
pub(crate) fn fleet(kind: Kind) -> Central {
    let c = Central::empty(kind);
    for node in 1..50 {
        c.db.sql(&format!(
            "INSERT INTO node_reference (node_reference_url) VALUES ('http://f{node:02}:9292')"
        ));
    }
    let keys: Vec<String> =
        c.db.rows("SELECT node_reference_id FROM node_reference ORDER BY node_reference_id")
            .into_iter()
            .flatten()
            .collect();
    let mut session = Session::open(&c.db);
    session.sql(kind.begin());
    for (position, key) in keys.iter().enumerate() {
        let values: Vec<String> = (0..2000)
            .map(|n| {
                let image = if n < 100 { n } else { 100_000 + position * 2000 + n };
                format!(
                    "('{}', '2026-01-{:02} 00:00:00', '2026-01-01 00:00:00', {}, 1, {key})",
                    nth_id(image),
                    1 + n % 28,
                    1000 + n
                )
            })
            .collect();
        session.sql(&format!(
            "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, \
             node_reference_id) VALUES {}",
            values.join(",")
        ));
    }
    session.sql("COMMIT");
    c
}

/// Returns the text of README.md and of all that is in docs.
pub(crate) fn documents() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).into_iter().flatten().map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let all = pages.chain([root.join("README.md")]);
    all.map(|path| fs::read_to_string(path).unwrap()).collect::<Vec<_>>().join("\n")
}

/// Returns the statements in the documents that grant privileges on this kind of server: those that only
/// `prefetch` needs, as the comment before them says, or the others.
pub(crate) fn grants(documents: &str, kind: Kind, only_for_prefetch: bool) -> Vec<&str> {
    let (mut comment, mut found) = ("", Vec::new());
    for line in documents.lines().map(str::trim) {
        if line.starts_with("--") || line.starts_with("```") {
            comment = line;
        }
        let of_kind = line.contains(" glance.") == (kind == MariaDb);
        if line.starts_with("GRANT ") && of_kind && comment.contains("only for prefetch") == only_for_prefetch
        {
            found.push(line);
        }
    }
    assert!(!found.is_empty(), "the documents grant nothing of that kind");
    found
}
