//! The central database on real MariaDB and PostgreSQL servers and in SQLite files, its tables made by the real Glance: every
//! measured oddity of Glance's own tools with it, what servers do while we work, and the fleet.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::env::*;
use crate::peer::script;
use crate::root::{Immutable, Mount, Mounted};
use crate::servers::{Database, KINDS, Kind, SERVERS, Server, Session};

const NODE: &str = "http://n1.example:9292";

/// A cache of one node of a central database.
struct Central {
    env: TestEnv,
    db: Database,
    node: &'static str,
}

impl Central {
    fn empty(kind: Kind) -> Self {
        let env = TestEnv::empty(Xattr);
        let db = Database::new(kind, &env.outside("glance.sqlite"));
        Self::of(env, db, NODE)
    }

    /// A cache whose node the database gets to know.
    fn of(env: TestEnv, db: Database, node: &'static str) -> Self {
        db.sql(&format!("INSERT INTO node_reference (node_reference_url) VALUES ('{node}')"));
        Central { env, db, node }
    }

    fn new(kind: Kind, images: &[Image]) -> Self {
        let central = Self::empty(kind);
        central.images(images);
        central
    }

    fn images(&self, images: &[Image]) {
        for image in images {
            self.image(*image);
        }
    }

    fn image(&self, (letter, size, hours, hits): Image) {
        let used = self.env.now - (hours * 3600) as f64;
        self.env.file_at(id(letter), size, used, used);
        self.row_of(&id(letter), hours, size, hits);
    }

    fn row_of(&self, image_id: &str, hours: i64, size: u64, hits: i64) {
        let time = naive(self.env.now - (hours * 3600) as f64);
        self.db.sql(&format!(
            "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, node_reference_id) SELECT \
             '{image_id}', '{time}', '{time}', {size}, {hits}, node_reference_id FROM node_reference WHERE \
             node_reference_url = '{}'",
            self.node
        ));
    }

    fn row(&self, image_id: &str, hours: i64) {
        self.row_of(image_id, hours, 1000, 0);
    }

    /// Many images of one byte, the first used longest ago.
    fn large(&self, count: usize) {
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
                "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, node_reference_id) VALUES {}",
                chunk.join(",")
            ));
        }
    }

    fn conf_with(&self, database: &str, node: &str, lines: &str) -> String {
        let node =
            if node.is_empty() { String::new() } else { format!("worker_self_reference_url = {node}\n") };
        let connection =
            if database.is_empty() { String::new() } else { format!("connection = {database}\n") };
        self.env.write(
            "glance-api.conf",
            format!(
                "[DEFAULT]\nimage_cache_dir = {}\nimage_cache_driver = centralized_db\n{node}{lines}\n[database]\n{connection}",
                self.env.dir().display(),
            ),
        )
    }

    fn conf(&self) -> String {
        self.conf_with(&self.db.url, self.node, "")
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    fn run(&self, command: &str, arguments: &[&str]) -> Run {
        let conf = self.conf();
        self.env.raw(&[&[command, "--config-file", &conf], arguments].concat())
    }

    /// The same as another user than root, with more lines in the configuration.
    #[must_use = "check the exit code: ok(), code(), fails()"]
    fn as_nobody(&self, arguments: &[&str], lines: &str) -> Run {
        let conf = self.conf_with(&self.db.url, self.node, lines);
        chmod(std::path::Path::new(&conf), 0o644);
        if self.db.kind == Kind::SqliteFile {
            // SQLite writes its journal beside it.
            give_to_nobody(&self.env.outside(""));
        }
        self.env.finish(self.env.nobodys().args(arguments).args(["--config-file", &conf]))
    }

    #[must_use = "check the exit code: ok(), code(), fails()"]
    fn prune(&self, limit: &str) -> Run {
        self.run("prune", &["--max-size", limit, "--lock-timeout", "2s"])
    }

    /// The ids in this node's rows, in order.
    fn ids(&self) -> Vec<String> {
        let rows = self.db.rows(&format!(
            "SELECT image_id FROM cached_images c JOIN node_reference n ON n.node_reference_id = c.node_reference_id \
             WHERE node_reference_url = '{}' ORDER BY image_id",
            self.node
        ));
        rows.into_iter().flatten().collect()
    }

    /// The letters of the images that are left, after asserting that files and rows agree.
    #[track_caller]
    fn left(&self) -> String {
        let rows: String = self.ids().iter().filter_map(|id| id.chars().next()).collect();
        assert_eq!(self.env.images(), rows, "files and rows differ: {:?}", self.db.kind);
        rows
    }

    /// Everything in the directory, and every row.
    fn snapshot(&self) -> (Value, Vec<Vec<String>>) {
        let rows = [
            self.db.rows("SELECT id, image_id, last_accessed, last_modified, size, hits FROM cached_images ORDER BY id"),
            self.db.rows("SELECT node_reference_id, node_reference_url FROM node_reference ORDER BY 1"),
        ];
        (json!(tree(self.env.dir())), rows.concat())
    }

    #[track_caller]
    fn prunes_as_if_nothing_were(&self) {
        self.prune("3000")
            .ok()
            .has(&json!({"total_files_pruned": 2, "total_bytes_pruned": 2000, "cache_size_after": 3000}));
        assert_eq!(self.env.images(), "cde", "{:?}", self.db.kind);
    }
}

fn five(kind: Kind) -> Central {
    Central::new(kind, FIVE)
}

/// Five images and an orphan that has been there for longer than Glance takes to insert a row.
///
/// The mount has to go before the cache, so it stands behind it.
fn with_an_old_orphan(kind: Kind) -> (Central, Mount) {
    let mounted = Mounted::ext4(Xattr, 8, "relatime");
    mounted.env.orphan('f', 700, 70);
    mounted.set_ctimes(&[id('f')], mounted.env.now as i64 - 700);
    let Mounted { mount, env } = mounted;
    let db = Database::new(kind, &env.outside("glance.sqlite"));
    let c = Central::of(env, db, NODE);
    c.images(FIVE);
    (c, mount)
}

/// The GRANTs of the README, one privilege each.
fn grants_of_the_readme(kind: Kind) -> Vec<String> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let of_kind = |line: &&str| {
        let of_kind = line.contains(" glance.") == (kind == Kind::MariaDb);
        line.starts_with("GRANT ") && of_kind && !line.contains("only for prefetch")
    };
    let one_each = |line: &str| {
        let (privileges, object) = line["GRANT ".len()..].split_once(" ON ").unwrap();
        let object = object.split(';').next().unwrap().to_owned();
        let grant = |privilege: &str| format!("GRANT {} ON {object}", privilege.trim());
        privileges.split(',').map(grant).collect::<Vec<_>>()
    };
    readme.lines().map(str::trim).filter(of_kind).flat_map(one_each).collect()
}

fn naive(time: f64) -> String {
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

macro_rules! tests {
    ($($name:ident $body:block)*) => {
        $(#[test]
        #[ignore = "needs the real Glance and real database servers: run tests/run"]
        fn $name() $body)*
    };
}

// -- Every row of the measured oddities that concerns this driver --

/// A row of the measured oddities, tried on one kind of database.
type Row = fn(Kind);

macro_rules! rows {
    ($($name:ident($kind:ident) $body:block)*) => {
        $(fn $name($kind: Kind) $body)*
        const ROWS: &[(&str, Row)] = &[$((stringify!($name), $name)),*];
    };
}

tests! {
    every_measured_row_holds_on_every_database {
        let run = |kind| {
            let fell = |(_, row): &&(&str, Row)| std::panic::catch_unwind(|| row(kind)).is_err();
            ROWS.iter().filter(fell).map(|(name, _)| format!("{name} ({kind:?})")).collect::<Vec<_>>()
        };
        let fallen: Vec<String> = std::thread::scope(|scope| {
            let threads = KINDS.map(|kind| scope.spawn(move || run(kind)));
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let tried = ROWS.len() * KINDS.len();
        println!("{} rows on {} databases: {} of {tried} hold", ROWS.len(), KINDS.len(), tried - fallen.len());
        assert!(fallen.is_empty(), "{fallen:#?}");
    }
}

rows! {
    row_01_over_the_limit(kind) {
        let c = five(kind);
        c.prunes_as_if_nothing_were();
        assert_eq!(c.left(), "cde");
    }

    row_02_size_equals_limit(kind) {
        let c = five(kind);
        c.prune("5000").ok().has(&json!({"total_files_pruned": 0}));
        assert_eq!(c.left(), "abcde");
    }

    row_03_limit_zero_spares_the_last_empty_image(kind) {
        let c = Central::new(kind, &[FIVE, &[('f', 0, 1, 0)]].concat());
        c.prune("0").ok();
        assert_eq!(c.left(), "f");
    }

    row_04_an_orphan_larger_than_the_limit(kind) {
        for (hours, left) in [(60, "bcde"), (1, "")] {
            let c = five(kind);
            c.env.orphan('f', 5000, hours);
            c.prune("4000").ok();
            assert_eq!(c.left(), left);
        }
    }

    row_05_a_row_without_a_file(kind) {
        let c = five(kind);
        c.row(&id('f'), 60);
        c.prune("3000").ok().has(&json!({"total_files_pruned": 2, "total_bytes_pruned": 2000, "ghosts_forgotten": 1}));
        assert_eq!(c.left(), "cde");
    }

    row_06_a_rows_size_is_wrong(kind) {
        let c = five(kind);
        c.db.sql("UPDATE cached_images SET size = 99999");
        c.prunes_as_if_nothing_were();
    }

    row_08_foreign_files_in_the_base(kind) {
        let c = five(kind);
        let foreign = ["README", ".hidden", "glance-cache-clean", "x.db"];
        for name in foreign {
            c.env.file(name, 5000, 90);
        }
        c.prunes_as_if_nothing_were();
        assert!(foreign.iter().all(|name| c.env.path(name).exists()));
    }

    row_09_a_link_in_the_base_to_a_large_file_outside(kind) {
        let c = five(kind);
        let target = c.env.outside("large");
        fs::File::create(&target).unwrap().set_len(10_000).unwrap();
        c.env.link(id('f'), &target);
        c.row(&id('f'), 60);
        c.prune("3000").ok().has(&json!({"total_files_pruned": 2, "total_bytes_pruned": 2000, "ghosts_forgotten": 1}));
        assert_eq!(c.ids().len(), 3);
        assert!(target.exists() && c.env.path(id('f')).is_symlink());
    }

    row_10_a_dangling_link_in_the_base(kind) {
        let c = five(kind);
        c.env.link(id('f'), "/nonexistent/target");
        c.row(&id('f'), 60);
        c.prune("3000").ok().has(&json!({"total_files_pruned": 2, "ghosts_forgotten": 1}));
    }

    row_11_a_directory_in_the_base(kind) {
        let c = five(kind);
        fs::create_dir(c.env.path(id('f'))).unwrap();
        c.prune("3000").ok().has(&json!({"total_files_pruned": 2}));
        assert_eq!((c.env.images().as_str(), c.ids().len()), ("cdef", 3));
    }

    row_12_rows_that_point_outside(kind) {
        let c = five(kind);
        fs::create_dir(c.env.outside("outside")).unwrap();
        let victim = c.env.write("outside/victim", "x");
        for name in ["../outside/victim", "/etc/passwd", "..", "incomplete/../../outside/victim"] {
            c.row(name, 90);
        }
        c.prunes_as_if_nothing_were();
        assert!(fs::exists(&victim).unwrap());
        c.run("clean", &["--repair"]).ok().has(&json!({"rows_dropped": 4}));
        assert!(fs::exists(&victim).unwrap());
        assert_eq!(c.left(), "cde");
    }

    row_13_rows_that_name_a_directory(kind) {
        let c = five(kind);
        for name in ["", "invalid", "."] {
            c.row(name, 90);
        }
        c.prunes_as_if_nothing_were();
        assert!(c.env.path("invalid").exists());
        c.run("clean", &["--repair"]).ok().has(&json!({"rows_dropped": 3}));
        assert_eq!(c.left(), "cde", "repair drops the rows that can name no image");
    }

    row_14_names_that_are_no_uuid(kind) {
        let c = five(kind);
        c.env.file("not-a-uuid", 5000, 90);
        c.row("not-a-uuid", 90);
        c.prunes_as_if_nothing_were();
        assert!(c.env.path("not-a-uuid").exists());
    }

    row_15_and_16_hostile_names(kind) {
        let c = five(kind);
        for name in [&b"bad\xff\xfename"[..], b"new\nline\x1b[31m"] {
            let name = std::ffi::OsStr::from_bytes(name);
            c.env.file(name, 10, 90);
            c.env.file(std::path::Path::new("invalid").join(name), 10, 90);
            c.env.file(std::path::Path::new("incomplete").join(name), 10, 90);
        }
        c.prunes_as_if_nothing_were();
        let run = c.run("clean", &["-v"]).ok().has(&json!({"invalid_files": 2, "stalled_files": 2}));
        assert!(!run.stderr.contains('\u{1b}') && !run.stdout.contains('\u{1b}'));
    }

    row_18_the_next_image_is_immutable(kind) {
        let c = five(kind);
        let held = Immutable::new(c.env.path(id('a')));
        c.prune("3000").fails(1, &["Operation not permitted"]).has(&json!({"total_files_pruned": 2}));
        assert_eq!(c.left(), "ade", "the next in order was taken instead");
        drop(held);
    }

    row_20_a_row_that_cannot_be_deleted(kind) {
        let c = five(kind);
        match kind {
            Kind::MariaDb => c.db.sql("CREATE TRIGGER t BEFORE DELETE ON cached_images FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'"),
            Kind::PostgreSql => c.db.sql("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'; CREATE TRIGGER t BEFORE DELETE ON cached_images FOR EACH ROW EXECUTE FUNCTION f()"),
            Kind::SqliteFile => c.db.sql("CREATE TRIGGER t BEFORE DELETE ON cached_images BEGIN SELECT RAISE(ABORT, 'no'); END"),
        }
        c.prune("3000").fails(3, &["no"]);
        assert_eq!(c.left(), "abcde", "an index that refuses costs no file");
    }

    row_20_a_row_whose_deletion_does_nothing(kind) {
        let c = five(kind);
        match kind {
            // No trigger there can pass a row over. Rows that are not in the table itself are the nearest: they are not reached by
            // its primary key.
            Kind::MariaDb => {
                c.db.sql("RENAME TABLE cached_images TO elsewhere");
                c.db.sql("CREATE VIEW cached_images AS SELECT * FROM elsewhere");
            }
            Kind::PostgreSql => c.db.sql("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER t BEFORE DELETE ON cached_images FOR EACH ROW EXECUTE FUNCTION f()"),
            Kind::SqliteFile => c.db.sql("CREATE TRIGGER t BEFORE DELETE ON cached_images BEGIN SELECT RAISE(IGNORE); END"),
        }
        c.prune("3000").code(3);
        assert_eq!(c.left(), "abcde");
    }

    row_21_and_22_the_index_is_held_by_a_writer(kind) {
        for begin in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
            let c = five(kind);
            let before = c.snapshot();
            let mut other = Session::open(&c.db);
            other.sql(if kind == Kind::SqliteFile { begin } else { "BEGIN" });
            other.sql(&format!("UPDATE cached_images SET hits = hits + 1 WHERE image_id = '{}'", id('a')));
            let run = c.prune("3000").code(3);
            assert!(run.took < Duration::from_secs(8), "{:?}", run.took);
            other.sql("ROLLBACK");
            assert_eq!(c.snapshot().1, before.1);
            c.prunes_as_if_nothing_were();
        }
    }

    row_node_unset_unknown_or_nearly_right(kind) {
        let c = five(kind);
        let before = c.snapshot().1;
        for (node, says) in [
            ("", "worker_self_reference_url is not set"),
            ("http://n1.example:9292/", "is http://n1.example:9292 meant?"),
            ("https://n1.example:9292", "is http://n1.example:9292 meant?"),
            ("http://n1.example:9293", "is http://n1.example:9292 meant?"),
            ("http://other:9292", "a glance-api that is started with this URL registers it"),
        ] {
            let conf = c.conf_with(&c.db.url, node, "image_cache_max_size = 3000");
            for command in [&["prune"][..], &["prune", "--dry-run"], &["clean", "--repair"], &["list"], &["status"]] {
                let run = c.env.raw(&[command, &["--config-file", &conf]].concat());
                run.fails(2, &[says, NODE]);
            }
            c.env.old("glance-cache-pruner", &["--config-file", &conf]).fails(1, &[NODE]);
            let roomy = c.conf_with(&c.db.url, node, "image_cache_max_size = 5000");
            c.env.old("glance-cache-pruner", &["--config-file", &roomy]).ok().silent();
        }
        assert_eq!(c.left(), "abcde");
        assert_eq!(c.snapshot().1, before, "nothing was registered");
    }

    row_database_unset_missing_or_without_tables(kind) {
        let c = five(kind);
        let tool = |database: &str| {
            let conf = c.conf_with(database, NODE, "image_cache_max_size = 3000");
            c.env.raw(&["prune", "--config-file", &conf])
        };
        tool("").fails(2, &["[database] connection is not set"]);
        tool("nonsense s3cret").fails(2, &["is not understood"]);
        if kind == Kind::SqliteFile {
            tool("sqlite:////nonexistent/dir/x").fails(3, &["/nonexistent/dir"]);
            tool(&format!("sqlite:///{}", c.env.outside("absent").display())).fails(3, &["glance-manage db_sync"]);
            let empty = c.env.outside("empty.sqlite");
            rusqlite::Connection::open(&empty).unwrap().execute_batch("CREATE TABLE images (id)").unwrap();
            tool(&format!("sqlite:///{}", empty.display())).fails(3, &["node_reference", "glance-manage db_sync"]);
            assert!(!c.env.outside("absent").exists());
        } else {
            tool(&c.db.url.replace(&c.db.name, "absent")).fails(3, &["absent"]);
            let bare = Database::new(kind, std::path::Path::new(""));
            bare.sql("DROP TABLE cached_images; ");
            bare.sql("DROP TABLE node_reference");
            tool(&bare.url).fails(3, &["glance-manage db_sync"]);
        }
        assert_eq!(c.left(), "abcde");
    }

    row_31_the_driver_in_another_case(kind) {
        let c = five(kind);
        let conf = fs::read_to_string(c.conf()).unwrap().replace("= centralized_db", "= CENTRALIZED_DB");
        let conf = c.env.write("other.conf", conf);
        c.env.raw(&["prune", "--config-file", &conf, "--max-size", "3000"]).ok();
        assert_eq!(c.left(), "cde");
    }

    row_32_to_34_the_cache_directory_is_unset_empty_or_relative(kind) {
        let c = five(kind);
        let dir = format!("image_cache_dir = {}", c.env.dir().display());
        let with = |line: &str| {
            let conf = c.conf_with(&c.db.url, NODE, "image_cache_max_size = 3000");
            c.env.write("other.conf", fs::read_to_string(conf).unwrap().replace(&dir, line))
        };
        for line in ["", "image_cache_dir ="] {
            let conf = with(line);
            for command in ["prune", "clean"] {
                c.env.raw(&[command, "--config-file", &conf]).fails(2, &["image_cache_dir"]);
            }
            for tool in ["glance-cache-pruner", "glance-cache-cleaner"] {
                c.env.old(tool, &["--config-file", &conf]).fails(1, &["image_cache_dir"]);
            }
            assert!(!c.env.outside("incomplete").exists());
        }
        assert_eq!(c.left(), "abcde");
        c.env.raw(&["prune", "--config-file", &with("image_cache_dir = ./cache/")]).ok();
        assert_eq!(c.left(), "cde");
    }

    row_35_and_36_the_cache_directory_is_missing_or_a_file(kind) {
        let c = Central::empty(kind);
        fs::remove_dir_all(c.env.dir()).unwrap();
        c.prune("0").ok();
        assert!(!c.env.dir().exists());
        fs::write(c.env.dir(), "x").unwrap();
        c.prune("0").code(2);
    }

    row_36_the_cache_directory_is_not_searchable(kind) {
        for mode in [0o000, 0o600, 0o444] {
            let c = five(kind);
            c.env.file("invalid/x", 1, 1);
            give_to_nobody(c.env.dir());
            chmod(c.env.dir(), mode);
            for command in [&["prune", "--max-size", "3000"][..], &["clean"]] {
                c.as_nobody(command, "").fails(3, &[c.env.dir().to_str().unwrap()]);
            }
            assert_eq!((c.left().as_str(), c.env.names("invalid").len()), ("abcde", 1));
        }
    }

    row_37_the_directory_cannot_be_written(kind) {
        let c = five(kind);
        give_to_nobody(c.env.dir());
        chmod(c.env.dir(), 0o555);
        // With the locks elsewhere it comes as far as the images.
        let locks = c.env.outside("locks");
        fs::create_dir(&locks).unwrap();
        give_to_nobody(&locks);
        for (lock_path, code) in [(String::new(), 3), (format!("[oslo_concurrency]\nlock_path = {}", locks.display()), 1)] {
            let run = c.as_nobody(&["prune", "--max-size", "3000"], &lock_path);
            assert!(run.code == code && !run.stderr.is_empty(), "{run:?}");
            assert_eq!(c.left(), "abcde", "a file that cannot be removed keeps its row");
        }
    }

    row_39_two_pruners_at_once(kind) {
        let c = Central::empty(kind);
        c.large(400);
        let conf = c.conf();
        let start = || {
            let mut command = c.env.command(BINARY);
            command.args(["prune", "--config-file", &conf, "--max-size", "200"]);
            Running::start(&mut command, &c.env.outside(""))
        };
        let (one, other) = (start(), start());
        let _ = (one.wait().ok(), other.wait().ok());
        assert_eq!(c.ids().len(), 200);
        assert!((200..400).all(|n| c.env.path(nth_id(n)).exists()), "the most recently used are left");
    }

    row_40_two_cleaners_at_once(kind) {
        let c = Central::empty(kind);
        for n in 0..3000 {
            fs::write(c.env.path("invalid").join(nth_id(n)), "").unwrap();
        }
        let conf = c.conf();
        let runs = [0, 1].map(|_| Running::start(c.env.command(BINARY).args(["clean", "--config-file", &conf]), &c.env.outside("")));
        let cleaned: u64 = runs.map(|run| run.wait().ok().json()["total_files_cleaned"].as_u64().unwrap()).iter().sum();
        assert_eq!((cleaned, c.env.names("invalid").len()), (3000, 0));
    }

    row_41_and_42_clean_goes_by_the_stall_time(kind) {
        for (stall, left) in [("100", vec!["future", "young"]), ("0", vec!["future"])] {
            let c = five(kind);
            c.env.file("invalid/new", 1, 0);
            c.env.file("incomplete/old", 1, 1);
            c.env.file_at("incomplete/young", 1, c.env.now - 50.0, c.env.now - 50.0);
            c.env.file("incomplete/future", 1, -5);
            c.run("clean", &["--stall-time", stall]).ok();
            assert_eq!((c.env.names("incomplete"), c.env.names("invalid").len()), (left.into_iter().map(str::to_owned).collect(), 0));
            assert_eq!(c.left(), "abcde");
        }
    }

    row_43_and_44_links_in_the_subdirectories(kind) {
        let c = five(kind);
        let file = c.env.write("file", "x");
        c.env.write("directory/file", "x");
        set_times(std::path::Path::new(&file), 0.0, 0.0);
        for (name, target) in [("file", &file[..]), ("directory", c.env.outside("directory").to_str().unwrap()), ("nothing", "/nonexistent")] {
            c.env.link(format!("invalid/{name}"), target);
        }
        c.env.link("incomplete/young", &file);
        c.run("clean", &[]).ok().has(&json!({"invalid_files": 3, "stalled_files": 0}));
        assert!(c.env.names("invalid").is_empty() && c.env.names("incomplete") == ["young"]);
        assert!(fs::exists(&file).unwrap() && c.env.outside("directory/file").exists());
    }

    row_45_invalid_itself_is_a_link(kind) {
        let c = five(kind);
        c.env.write("directory/file", "x");
        fs::remove_dir(c.env.path("invalid")).unwrap();
        c.env.link("invalid", c.env.outside("directory"));
        c.env.file("incomplete/old", 1, 100);
        for arguments in [&[][..], &["--repair"]] {
            let run = c.run("clean", arguments);
            assert!(run.code != 0 && run.stderr.contains("invalid"), "{run:?}");
        }
        assert!(c.env.outside("directory/file").exists());
        assert_eq!(c.left(), "abcde");
    }

    row_46_directories_and_fifos_in_invalid(kind) {
        let c = five(kind);
        fs::create_dir(c.env.path("invalid/directory")).unwrap();
        c.env.fifo("invalid/fifo");
        c.env.file("invalid/x", 1, 1);
        let run = c.run("clean", &[]).has(&json!({"invalid_files": 1}));
        assert!(run.code <= 1, "{run:?}");
        assert_eq!(c.env.names("invalid"), ["directory", "fifo"]);
    }

    row_47_and_48_immutable_files_in_the_subdirectories(kind) {
        let c = five(kind);
        for name in ["invalid/1", "invalid/2", "invalid/3", "incomplete/1", "incomplete/2", "incomplete/3"] {
            c.env.file(name, 1, 100);
        }
        let held = ["invalid/2", "incomplete/2"].map(|name| Immutable::new(c.env.path(name)));
        c.run("clean", &[]).code(1).has(&json!({"invalid_files": 2, "stalled_files": 2}));
        assert_eq!((c.env.names("invalid"), c.env.names("incomplete")), (vec!["2".to_owned()], vec!["2".to_owned()]));
        drop(held);
    }

    row_49_invalid_is_not_readable(kind) {
        let c = five(kind);
        c.env.file("invalid/x", 1, 100);
        c.env.file("incomplete/y", 1, 100);
        give_to_nobody(c.env.dir());
        chmod(&c.env.path("invalid"), 0);
        let run = c.as_nobody(&["clean"], "").says(&["invalid"]);
        let stalled = c.env.names("incomplete").len();
        assert!((run.code, stalled) == (1, 0) || (run.code, stalled) == (3, 1), "{run:?}");
        chmod(&c.env.path("invalid"), 0o755);
        assert_eq!(c.env.names("invalid"), ["x"]);
    }

    row_50_subdirectories_are_missing(kind) {
        let c = five(kind);
        for sub in ["incomplete", "invalid", "queue"] {
            fs::remove_dir(c.env.path(sub)).unwrap();
        }
        c.run("clean", &[]).ok();
        c.prunes_as_if_nothing_were();
        // A store's directory, misspelt as a cache's: its files are no image of this node.
        let c = Central::empty(kind);
        for sub in ["incomplete", "invalid", "queue"] {
            fs::remove_dir(c.env.path(sub)).unwrap();
        }
        c.env.orphan('a', 1000, 9);
        c.prune("0").fails(2, &["does not look like an image cache"]);
        assert_eq!(c.env.images(), "a");
    }
}

// -- What else a driver has to do --

tests! {
    clean_needs_neither_database_nor_node {
        let c = five(Kind::SqliteFile);
        c.env.file("incomplete/old", 10, 90);
        c.env.file("invalid/any", 10, 0);
        for database in ["mysql+pymysql://g:s3cret@127.0.0.1:1/glance", "", "nonsense", "mysql://g:$nope@h/glance"] {
            let conf = c.conf_with(database, "", "");
            c.env.raw(&["clean", "--config-file", &conf]).ok();
            c.env.old("glance-cache-cleaner", &["--config-file", &conf]).ok().silent();
        }
        assert_eq!((c.env.names("incomplete").len(), c.env.names("invalid").len()), (0, 0));
        assert_eq!(c.left(), "abcde");
    }

    without_a_driver_set_the_database_tells {
        for c in KINDS.map(five) {
            let conf = fs::read_to_string(c.conf()).unwrap().replace("image_cache_driver = centralized_db\n", "");
            let conf = c.env.write("unset.conf", conf);
            let status = c.env.raw(&["status", "--config-file", &conf, "--format", "json"]).ok();
            status.has(&json!({"driver": "centralized_db", "driver_why": "found this node in the database"}));
            c.env.raw(&["prune", "--config-file", &conf, "--max-size", "3000"]).ok();
            assert_eq!(c.left(), "cde");
            // A node that it does not know: the directory tells, and shows nothing.
            let other = fs::read_to_string(&conf).unwrap().replace(NODE, "http://other");
            let other = c.env.write("other.conf", other);
            c.env.raw(&["prune", "--config-file", &other, "--max-size", "0"]).fails(2, &["nothing shows which index"]);
            let down = fs::read_to_string(&conf).unwrap().replace(&c.db.url, "postgresql://g:s3cret@127.0.0.1:1/glance");
            let down = c.env.write("down.conf", down);
            c.env.raw(&["prune", "--config-file", &down, "--max-size", "0"]).fails(3, &["image_cache_driver is not set"]);
            assert_eq!(c.left(), "cde");
        }
    }

    flags_name_database_and_node {
        for c in KINDS.map(five) {
            let dir = c.env.dir().to_str().unwrap().to_owned();
            let file = c.env.write("url", format!("{}\n", c.db.url));
            c.env.raw(&["prune", "--cache-dir", &dir, "--driver", "centralized_db", "--database-file", &file, "--node", NODE, "--max-size", "3000"]).ok();
            assert_eq!(c.left(), "cde");
            // Another directory than the configured one: the configured database is not its index.
            let conf = c.conf().replace("glance-api.conf", "moved.conf");
            fs::write(&conf, fs::read_to_string(c.conf()).unwrap().replace(&dir, "/nonexistent")).unwrap();
            c.env.raw(&["prune", "--config-file", &conf, "--cache-dir", &dir, "--driver", "centralized_db", "--max-size", "0"])
                .fails(2, &["[database] connection is not set"]);
            let run = c.env.raw(&["status", "--cache-dir", &dir, "--database", "mysql://g:s3cret@h/d"]);
            assert!(!run.fails(2, &["process list", "--database-file"]).stderr.contains("s3cret"));
        }
    }

    repair_forgets_adopts_and_drops {
        for c in KINDS.map(five) {
            c.env.orphan('f', 700, 30);
            let ctime_is_now = c.run("clean", &["--repair"]).ok();
            ctime_is_now.has(&json!({"ghosts_forgotten": 0, "orphans_adopted": 0, "rows_dropped": 0, "orphans_too_young": 1}));
            c.row(&id('9'), 60);
            c.row("../x", 60);
            let before = c.snapshot();
            c.run("clean", &["--repair", "--dry-run"]).ok();
            assert_eq!(c.snapshot(), before, "a dry run changes nothing");
            c.run("clean", &["--repair"]).ok()
                .has(&json!({"ghosts_forgotten": 1, "orphans_adopted": 0, "rows_dropped": 1, "orphans_too_young": 1}));
            let before = c.snapshot();
            c.run("clean", &["--repair"]).ok();
            assert_eq!(c.snapshot(), before, "run twice, the second run changes nothing");
        }
    }

    list_tells_what_the_rows_say_in_utc {
        for c in KINDS.map(five) {
            c.db.sql("UPDATE cached_images SET last_accessed = '2024-01-12 17:58:48', hits = 7");
            let conf = c.conf();
            for zone in ["UTC", "Asia/Tokyo", "America/New_York"] {
                let mut command = c.env.command(BINARY);
                command.env("TZ", zone).args(["list", "--config-file", &conf, "--format", "json"]);
                let list = c.env.finish(&mut command).ok().json();
                assert_eq!(list["cached_images"].as_array().unwrap().len(), 5);
                assert_eq!(list["cached_images"][0]["last_accessed"], json!(1_705_082_328.0));
                assert_eq!(list["cached_images"][0]["hits"], json!(7));
            }
            let before = c.snapshot();
            c.run("list", &[]).ok();
            c.run("status", &[]).ok();
            c.run("prune", &["--dry-run", "--max-size", "0"]).ok().has(&json!({"total_files_pruned": 5}));
            assert_eq!(c.snapshot(), before, "nothing is changed by looking");
        }
    }

    ties_go_by_row_order {
        for kind in KINDS {
            let c = Central::new(kind, &[('d', 1000, 9, 0), ('a', 1000, 9, 0), ('c', 1000, 9, 0), ('b', 1000, 9, 0)]);
            c.prune("2000").ok();
            assert_eq!(c.left(), "bc");
        }
    }

    what_was_used_since_the_plan_stays {
        for c in KINDS.map(five) {
            let mut glance = Session::open(&c.db);
            glance.sql(if c.db.kind == Kind::PostgreSql { "BEGIN" } else if c.db.kind == Kind::MariaDb { "START TRANSACTION" } else { "BEGIN IMMEDIATE" });
            glance.sql(&format!("UPDATE cached_images SET hits = hits + 1 WHERE image_id = '{}'", id('a')));
            let mut command = c.env.command(BINARY);
            command.args(["prune", "--config-file", &c.conf(), "--max-size", "3000"]);
            let run = Running::start(&mut command, &c.env.outside(""));
            // Meanwhile it reads the rows as they were, and then waits for the row that is held.
            std::thread::sleep(Duration::from_millis(700));
            assert_eq!(c.env.images(), "abcde", "nothing goes before its row is sure");
            glance.sql("COMMIT");
            run.wait().ok().has(&json!({"total_files_pruned": 2, "left_alone": 1}));
            assert_eq!(c.left(), "ade", "{:?}", c.db.kind);
        }
    }

    a_commit_that_is_refused_is_repeated {
        // PostgreSQL can be made to refuse at COMMIT, as Galera does: here the first that deletes and the first that inserts.
        let (c, _mount) = with_an_old_orphan(Kind::PostgreSql);
        for event in ["delete", "insert"] {
            c.db.sql(&format!(
                "CREATE SEQUENCE {event}s; CREATE FUNCTION refuse_{event}() RETURNS trigger LANGUAGE plpgsql AS \
                 'BEGIN IF nextval(''{event}s'') = 1 THEN RAISE EXCEPTION ''certification failed'' USING ERRCODE = ''40001''; END IF; RETURN NULL; END'; \
                 CREATE CONSTRAINT TRIGGER {event} AFTER {event} ON cached_images DEFERRABLE INITIALLY DEFERRED \
                 FOR EACH ROW EXECUTE FUNCTION refuse_{event}()",
            ));
        }
        let again = || c.db.sql("SELECT setval('deletes', 1, false)");
        let insert = |name: &str| {
            c.db.sql("ALTER TABLE cached_images DISABLE TRIGGER insert");
            c.row(name, 60);
            c.db.sql("ALTER TABLE cached_images ENABLE TRIGGER insert");
        };
        insert(&id('9'));
        c.run("clean", &["--repair"]).ok().has(&json!({"ghosts_forgotten": 1, "orphans_adopted": 1}));
        insert("no-uuid");
        again();
        c.run("clean", &["--repair"]).ok().has(&json!({"rows_dropped": 1}));
        insert(&id('9'));
        again();
        c.prune("6000").ok().has(&json!({"ghosts_forgotten": 1, "total_files_pruned": 0}));
        again();
        c.prune("3000").ok().has(&json!({"total_files_pruned": 3, "cache_size_after": 3000}));
        assert_eq!(c.left(), "cde");
        let dead = Central::of(TestEnv::empty(Xattr), c.db.clone(), "http://dead:9292");
        c.db.sql("DROP TRIGGER insert ON cached_images");
        dead.row(&id('a'), 60);
        again();
        c.run("clean", &["--forget-node", dead.node]).ok().has(&json!({"rows_forgotten": 1, "node_removed": true}));
    }

    a_limit_for_connecting_does_not_limit_what_comes_after {
        for kind in SERVERS {
            let c = five(kind);
            let mut glance = Session::open(&c.db);
            glance.sql("BEGIN");
            glance.sql(&format!("UPDATE cached_images SET hits = hits + 1 WHERE image_id = '{}'", id('a')));
            let conf = c.conf_with(&format!("{}?connect_timeout=1", c.db.url), NODE, "");
            let mut command = c.env.command(BINARY);
            let run = Running::start(command.args(["prune", "--config-file", &conf, "--max-size", "3000"]), &c.env.outside(""));
            std::thread::sleep(Duration::from_secs(4));
            glance.sql("ROLLBACK");
            run.wait().ok().has(&json!({"total_files_pruned": 2}));
            assert_eq!(c.left(), "cde");
        }
    }

    a_database_that_takes_no_writes_costs_no_file {
        let c = five(Kind::PostgreSql);
        c.db.sql(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", c.db.name));
        c.prune("3000").fails(3, &["read-only"]);
        let url = format!("{}?target_session_attrs=read-write&connect_timeout=1", c.db.url);
        let conf = c.conf_with(&url, NODE, "");
        c.env.raw(&["prune", "--config-file", &conf, "--max-size", "3000", "--dry-run"]).fails(3, &["cannot connect"]);
        c.run("list", &[]).ok();
        assert_eq!(c.env.images(), "abcde");
        let server = Server::private(Kind::MariaDb);
        let c = Central::of(TestEnv::empty(Xattr), Database::on(&server, "glance"), NODE);
        c.images(FIVE);
        c.db.sql("CREATE USER glance@'127.0.0.1' IDENTIFIED BY 'pr1vate'");
        c.db.sql("GRANT ALL ON glance.* TO glance@'127.0.0.1'");
        c.db.sql("SET GLOBAL read_only = ON");
        let conf = c.conf_with(&c.db.url.replace("g:s3cret", "glance:pr1vate"), NODE, "");
        c.env.raw(&["prune", "--config-file", &conf, "--max-size", "3000"]).fails(3, &["read-only"]);
        assert_eq!(c.left(), "abcde");
    }

    odd_settings_of_a_server_make_no_difference {
        let server = Server::private(Kind::MariaDb);
        for (n, (set, to, reset)) in [
            ("sql_safe_updates", "1", "0"),
            ("sql_select_limit", "1", "DEFAULT"),
            ("max_join_size", "10", "DEFAULT"),
            ("sql_mode", "'ANSI_QUOTES,ONLY_FULL_GROUP_BY,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT'", "DEFAULT"),
            ("sql_mode", "'ORACLE'", "DEFAULT"),
            ("tx_isolation", "'READ-UNCOMMITTED'", "'REPEATABLE-READ'"),
            ("tx_isolation", "'SERIALIZABLE'", "'REPEATABLE-READ'"),
            ("autocommit", "0", "1"),
            ("completion_type", "'CHAIN'", "'NO_CHAIN'"),
            ("completion_type", "'RELEASE'", "'NO_CHAIN'"),
            ("time_zone", "'+09:00'", "'SYSTEM'"),
            ("collation_connection", "latin1_bin", "utf8mb4_general_ci"),
            ("wait_timeout", "2", "DEFAULT"),
        ].into_iter().enumerate() {
            let node: &'static str = Box::leak(format!("http://n{n}:9292").into());
            let c = Central::of(TestEnv::empty(Xattr), Database::on(&server, "glance"), node);
            c.images(FIVE);
            c.row(&id('9'), 60);
            c.row("no-uuid", 60);
            let mut root = Session::open(&c.db);
            root.sql(&format!("SET GLOBAL {set} = {to}"));
            let runs = [
                c.run("status", &["--all-nodes"]),
                c.run("list", &["--all-nodes"]),
                c.run("clean", &["--repair"]),
                c.prune("3000"),
            ];
            root.sql(&format!("SET GLOBAL {set} = {reset}"));
            let [_, list, repair, _] = runs.map(Run::ok);
            assert!(list.stdout.contains(&id('e')), "{set} = {to}: {list:?}");
            repair.has(&json!({"ghosts_forgotten": 1, "rows_dropped": 1}));
            assert_eq!(c.left(), "cde", "{set} = {to}");
        }
        for set in [
            "default_transaction_isolation = 'serializable'",
            "timezone = 'Asia/Tokyo'",
            "datestyle = 'German, DMY'",
            "standard_conforming_strings = off",
            "idle_in_transaction_session_timeout = '5s'",
        ] {
            let c = five(Kind::PostgreSql);
            c.row(&id('9'), 60);
            c.db.sql(&format!("ALTER DATABASE {} SET {set}", c.db.name));
            c.run("list", &["--all-nodes"]).ok();
            c.run("clean", &["--repair"]).ok().has(&json!({"ghosts_forgotten": 1}));
            c.prune("3000").ok();
            assert_eq!(c.left(), "cde", "{set}");
        }
    }

    two_nodes_share_one_database {
        for kind in KINDS {
            let one = Central::empty(kind);
            let other = Central::of(TestEnv::empty(Xattr), one.db.clone(), "http://n2.example:9292");
            one.large(600);
            other.large(600);
            let start = |c: &Central| {
                let mut command = c.env.command(BINARY);
                command.args(["prune", "--config-file", &c.conf(), "--max-size", "100"]);
                Running::start(&mut command, &c.env.outside(""))
            };
            let (first, second) = (start(&one), start(&other));
            first.wait().ok().has(&json!({"total_files_pruned": 500}));
            second.wait().ok().has(&json!({"total_files_pruned": 500}));
            for c in [&one, &other] {
                assert_eq!(c.ids().len(), 100);
                assert!(c.ids().iter().all(|id| c.env.path(id).exists()));
            }
        }
    }

    the_grants_of_the_readme_are_enough_and_none_is_too_many {
        for kind in SERVERS {
            let grants = grants_of_the_readme(kind);
            // With all of them, then with each left out in turn.
            for left_out in std::iter::once(None).chain((0..grants.len()).map(Some)) {
                let (c, _mount) = with_an_old_orphan(kind);
                c.row(&id('9'), 60);
                let dead = Central::of(TestEnv::empty(Xattr), c.db.clone(), "http://dead:9292");
                dead.row(&id('a'), 60);
                let name = &c.db.name;
                let user = if kind == Kind::MariaDb {
                    c.db.sql(&format!("CREATE USER {name}@'127.0.0.1' IDENTIFIED BY 'pr1vate'"));
                    format!("{name}@'127.0.0.1'")
                } else {
                    c.db.sql(&format!("CREATE ROLE {name} LOGIN PASSWORD 'pr1vate'"));
                    name.clone()
                };
                for (_, grant) in grants.iter().enumerate().filter(|(n, _)| Some(*n) != left_out) {
                    let sql = grant.replace("glance.", &format!("{name}.")).replace("'glance_cache'@'%'", &user).replace("glance_cache", &user);
                    c.db.sql(&sql);
                }
                let conf = c.conf_with(&c.db.url.replace("g:s3cret", &format!("{name}:pr1vate")), NODE, "");
                let runs = [
                    &["status", "--all-nodes"][..],
                    &["list"],
                    &["clean", "--repair"],
                    &["prune", "--max-size", "3000"],
                    &["clean", "--forget-node", "http://dead:9292"],
                ]
                .map(|command| c.env.raw(&[command, &["--config-file", &conf]].concat()));
                println!("{kind:?} without {:?}: {:?}", left_out.map(|n| &grants[n]), runs.each_ref().map(|run| run.code));
                if let Some(n) = left_out {
                    assert!(runs.iter().any(|run| run.code > 0), "{} is not needed", grants[n]);
                    assert!(c.ids().iter().all(|id| c.env.path(id).exists() || id.starts_with('9')), "files went without their rows");
                } else {
                    let [_, _, repair, prune, forget] = runs.map(Run::ok);
                    repair.has(&json!({"ghosts_forgotten": 1, "orphans_adopted": 1}));
                    prune.has(&json!({"total_files_pruned": 3}));
                    forget.has(&json!({"rows_forgotten": 1, "node_removed": true}));
                }
            }
        }
    }

    tls_is_verified {
        for kind in SERVERS {
            let c = Central::new(kind, FIVE);
            let (ca, other) = (c.db.server_file("ca.pem"), c.db.server_file("other.pem"));
            let cases = if kind == Kind::MariaDb {
                vec![
                    ("127.0.0.1", format!("ssl_ca={ca}"), 0),
                    ("127.0.0.1", format!("ssl_ca={other}"), 3),
                    ("127.0.0.1", "ssl=true".into(), 3),
                    ("127.0.0.1", "ssl_verify_cert=false".into(), 0),
                    ("localhost", format!("ssl_ca={ca}"), 3),
                    ("localhost", format!("ssl_ca={ca}&ssl_check_hostname=false"), 0),
                    ("localhost", format!("ssl_ca={other}&ssl_check_hostname=false"), 3),
                    ("127.0.0.1", "ssl_ca=/nonexistent/ca.pem".into(), 3),
                ]
            } else {
                vec![
                    ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}"), 0),
                    ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={other}"), 3),
                    ("127.0.0.1", "sslmode=require".into(), 3),
                    ("127.0.0.1", "sslmode=prefer".into(), 0),
                    ("127.0.0.1", "sslmode=disable".into(), 0),
                    ("localhost", format!("sslmode=verify-full&sslrootcert={ca}"), 3),
                    ("localhost", format!("sslmode=verify-ca&sslrootcert={ca}"), 0),
                    ("localhost", format!("sslmode=require&sslrootcert={ca}"), 0),
                    ("localhost", format!("sslmode=verify-ca&sslrootcert={other}"), 3),
                    ("127.0.0.1", "sslmode=verify-full&sslrootcert=/nonexistent/ca.pem".into(), 3),
                ]
            };
            for (host, options, code) in cases {
                let url = format!("{}?{options}", c.db.url.replace("127.0.0.1", host));
                let conf = c.conf_with(&url, NODE, "");
                let run = c.env.raw(&["prune", "--dry-run", "--max-size", "3000", "--config-file", &conf]).code(code);
                assert!(run.took < Duration::from_secs(5), "{options}: {:?}", run.took);
                assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
            }
        }
    }

    an_expired_certificate_is_refused {
        for kind in SERVERS {
            let server = Server::private(kind);
            let c = Central::of(TestEnv::empty(Xattr), Database::on(&server, "glance"), NODE);
            let ca = server.path("ca.pem");
            let options = match kind {
                Kind::MariaDb => [format!("ssl_ca={ca}"), format!("ssl_ca={ca}&ssl_check_hostname=false")],
                _ => ["full", "ca"].map(|how| format!("sslmode=verify-{how}&sslrootcert={ca}")),
            };
            let list = |options: &str| {
                let conf = c.conf_with(&format!("{}?{options}", c.db.url), NODE, "");
                c.env.raw(&["list", "--config-file", &conf])
            };
            for options in &options {
                let _ = list(options).ok();
            }
            server.expire();
            until("the new certificate", || list(&options[0]).code == 3);
            for options in &options {
                let _ = list(options).fails(3, &["xpired"]);
            }
        }
    }

    every_way_to_a_server_is_really_taken {
        let odd = "p@ss/w:rd?x#y%z+1 &=\u{43f}\u{430}";
        let encoded: String = odd.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
        for kind in SERVERS {
            let c = five(kind);
            let (port, name, socket) = (c.db.port(), &c.db.name, c.db.server_file("s"));
            let directory = c.db.server_file("");
            if kind == Kind::MariaDb {
                c.db.sql(&format!("CREATE USER 'o@d'@'127.0.0.1' IDENTIFIED BY '{odd}'"));
                c.db.sql(&format!("GRANT SELECT ON {name}.* TO 'o@d'@'127.0.0.1'"));
                c.db.sql("CREATE USER nopass@'127.0.0.1'");
                c.db.sql(&format!("GRANT SELECT ON {name}.* TO nopass@'127.0.0.1'"));
            } else {
                c.db.sql(&format!("CREATE ROLE \"o@d\" LOGIN PASSWORD '{odd}'"));
                c.db.sql("GRANT SELECT ON cached_images, node_reference TO \"o@d\"");
            }
            let ca = c.db.server_file("ca.pem");
            let mut ways = if kind == Kind::MariaDb {
                vec![
                    format!("mysql+pymysql://g:s3cret@localhost/{name}?unix_socket={socket}"),
                    format!("mysql+mysqldb://g:s3cret@localhost:1/{name}?unix_socket={}", socket.replace('/', "%2F")),
                    // Nothing to encrypt on a socket.
                    format!("mysql://g:s3cret@/{name}?unix_socket={socket}&ssl_ca={ca}&charset=utf8&charset=utf8mb4&unheard_of=1"),
                    format!("mariadb+pymysql://nopass:@127.0.0.1:{port}/{name}"),
                    format!("mysql+pymysql://nopass@127.0.0.1:{port}/{name}"),
                    format!("mysql+pymysql://g:s3cret@[::1]:{port}/{name}?ssl_ca={ca}"),
                    format!("mysql+pymysql://o%40d:{encoded}@127.0.0.1:{port}/{name}"),
                ]
            } else {
                vec![
                    format!("postgresql://g:s3cret@/{name}?host={directory}&port={port}"),
                    format!("postgresql://g:s3cret@/{name}?host=127.0.0.1:1&host=127.0.0.1:{port}"),
                    format!("postgresql://g:s3cret@127.0.0.1:{port}/{name}?connect_timeout=0&unheard_of=1&unheard_of=2"),
                    format!("postgresql://g:s3cret@[::1]:{port}/{name}?sslmode=verify-full&sslrootcert={ca}"),
                    format!("postgresql://o%40d:{encoded}@127.0.0.1:{port}/{name}"),
                ]
            };
            if TcpListener::bind("[::1]:0").is_err() {
                println!("NOT TRIED, because this machine has no ::1: a server there");
                ways.retain(|way| !way.contains("[::1]"));
            }
            for way in &ways {
                let conf = c.conf_with(&way.replace('$', "$$"), NODE, "");
                let run = c.env.raw(&["list", "--config-file", &conf]).ok();
                assert_eq!(run.stdout.lines().count(), 6, "{way}: {run:?}");
            }
            println!("{kind:?}: {} ways", ways.len());
        }
    }

    a_server_that_does_not_let_us_in_costs_seconds {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent_port = silent.local_addr().unwrap().port();
        // A listener whose queue is full drops what comes: a black hole.
        let hole = TcpListener::bind("127.0.0.1:0").unwrap();
        let hole_address = hole.local_addr().unwrap();
        let queue: Vec<TcpStream> =
            std::iter::from_fn(|| TcpStream::connect_timeout(&hole_address, Duration::from_millis(300)).ok()).take(10_000).collect();
        for kind in SERVERS {
            let c = Central::new(kind, FIVE);
            let before = c.snapshot().1;
            let port = c.db.port().to_string();
            for (what, url, at_most) in [
                ("wrong password", c.db.url.replace("s3cret", "wr0ng%2Fpass"), 2),
                ("unknown user", c.db.url.replace("g:", "nobody:"), 2),
                ("refused", c.db.url.replace(&port, "1"), 2),
                ("no such database", c.db.url.replace(&c.db.name, "absent"), 2),
                ("black hole", c.db.url.replace(&port, &hole_address.port().to_string()), 12),
                ("silent", c.db.url.replace(&port, &silent_port.to_string()), 12),
                ("black hole, two seconds", c.db.url.replace(&port, &hole_address.port().to_string()) + "?connect_timeout=2", 4),
                ("unresolvable", c.db.url.replace("127.0.0.1", "no-such-host.invalid"), 12),
            ] {
                let conf = c.conf_with(&url, NODE, "");
                let run = c.env.raw(&["prune", "--max-size", "3000", "--config-file", &conf]).code(3);
                println!("{kind:?}: {what}: exit {} after {:.1} s: {}", run.code, run.took.as_secs_f64(), run.stderr.lines().next().unwrap_or_default());
                assert!(run.took < Duration::from_secs(at_most), "{what}: {:?}", run.took);
                let all = format!("{}{}", run.stdout, run.stderr);
                for secret in ["s3cret", "wr0ng", "'g'", "\"g\""] {
                    assert!(!all.contains(secret), "{what}: {secret} in {all}");
                }
            }
            assert_eq!(c.left(), "abcde");
            assert_eq!(c.snapshot().1, before);
            if kind == Kind::PostgreSql {
                let hosts = format!("@/{}?host=127.0.0.1:{}&host=127.0.0.1:{port}", c.db.name, hole_address.port());
                let url = c.db.url.replace(&format!("@127.0.0.1:{port}/{}", c.db.name), &hosts);
                let conf = c.conf_with(&url, NODE, "");
                let run = c.env.raw(&["prune", "--dry-run", "--max-size", "3000", "--config-file", &conf]).ok();
                assert!(run.took < Duration::from_secs(8), "{:?}", run.took);
            }
            // Attempts go on as the options say, within the limit.
            let conf = c.conf_with(&c.db.url.replace(&port, "1"), NODE, "").replace("glance-api", "retry");
            let text = fs::read_to_string(c.env.outside("glance-api.conf")).unwrap();
            fs::write(&conf, text + "max_retries = 2\nretry_interval = 1\n").unwrap();
            let run = c.env.raw(&["prune", "--max-size", "3000", "--config-file", &conf]).code(3);
            assert!((2..4).contains(&run.took.as_secs()), "{:?}", run.took);
        }
        drop(queue);
    }

    a_server_stopped_killed_or_hung_in_the_middle_leaves_at_worst_ghosts {
        for kind in SERVERS {
            let mut server = Server::private(kind);
            for (n, way) in ["stopped", "killed", "hung", "cut"].into_iter().enumerate() {
                let env = TestEnv::empty(Xattr);
                let node: &'static str = ["http://a", "http://b", "http://c", "http://d"][n];
                let c = Central::of(env, Database::on(&server, "glance"), node);
                c.large(20_000);
                let mut command = c.env.command(BINARY);
                command.args(["prune", "--config-file", &c.conf(), "--max-size", "10"]);
                let run = Running::start(&mut command, &c.env.outside(""));
                until("the first file to go", || !c.env.path(nth_id(300)).exists());
                match way {
                    "stopped" => server.signal(if kind == Kind::MariaDb { "-TERM" } else { "-INT" }),
                    "killed" => server.crash(),
                    "cut" => c.db.cut_others(),
                    _ => server.signal("-STOP"),
                }
                // PostgreSQL serves a connection with a process of its own, which a hung parent does not keep from working.
                let run = run.wait();
                match way {
                    "hung" => server.signal("-CONT"),
                    "cut" => {}
                    _ => server.restart(),
                }
                let (rows, files): (std::collections::BTreeSet<_>, std::collections::BTreeSet<_>) =
                    (c.ids().into_iter().collect(), c.env.names("").into_iter().filter(|name| name.len() == 36).collect());
                println!(
                    "{kind:?} {way}: exit {} after {:.1} s; {} files, {} rows, {} orphans, {} ghosts; {}",
                    run.code, run.took.as_secs_f64(), files.len(), rows.len(),
                    files.difference(&rows).count(), rows.difference(&files).count(), run.stderr.lines().next().unwrap_or_default()
                );
                assert!(run.code == 1 || (run.code == 0 && files.len() == 10), "{way}: {run:?}");
                assert_eq!(files.difference(&rows).count(), 0, "orphans were made");
                assert!(run.took < Duration::from_secs(30), "{:?}", run.took);
                c.run("prune", &["--max-size", "10", "--forget-all"]).ok();
                assert_eq!((c.ids().len(), c.env.names("").iter().filter(|name| name.len() == 36).count()), (10, 10));
            }
        }
    }

    side_by_side_with_the_real_pruner {
        // Sizes, hours since the last use (ties among them), rows without files; then the limit.
        let shapes: [(&str, &[Image], &str, u64); 8] = [
            ("plain", FIVE, "", 3000),
            ("within", FIVE, "", 5000),
            ("all", FIVE, "", 0),
            ("ties", &[('d', 900, 5, 1), ('a', 800, 5, 2), ('c', 700, 5, 0), ('b', 600, 5, 9), ('e', 500, 4, 1)], "", 1700),
            ("ghosts", FIVE, "89", 2500),
            ("empty ones", &[('a', 0, 9, 0), ('b', 1000, 8, 0), ('c', 0, 7, 0), ('d', 1000, 6, 0)], "", 1000),
            ("one large", &[('a', 10, 9, 0), ('b', 1_000_000, 8, 3), ('c', 10, 7, 0)], "", 20),
            ("reversed", &[('f', 300, 1, 0), ('e', 300, 2, 0), ('d', 300, 3, 0), ('c', 300, 4, 0), ('b', 300, 5, 0)], "7", 650),
        ];
        for kind in KINDS {
            let mut differing = Vec::new();
            // Only SQLite has an order among images used in the same second; MariaDB and PostgreSQL take any of them.
            let shapes: Vec<_> = shapes.iter().filter(|shape| shape.0 != "ties" || kind == Kind::SqliteFile).collect();
            for (name, images, ghosts, limit) in &shapes {
                let outcome = |real: bool| {
                    let c = Central::new(kind, images);
                    ghosts.chars().for_each(|ghost| c.row(&id(ghost), 99));
                    let conf = c.conf_with(&c.db.url, NODE, &format!("image_cache_max_size = {limit}"));
                    if real {
                        let run = c.env.finish(c.env.command(script("glance-cache-pruner")).args(["--config-file", &conf]));
                        assert_eq!(run.code, 0, "the real pruner: {}", run.stderr);
                    } else {
                        c.env.old("glance-cache-pruner", &["--config-file", &conf]).ok().silent();
                    }
                    (c.env.images(), c.db.rows("SELECT id, image_id, size, hits FROM cached_images ORDER BY id"))
                };
                let (theirs, ours) = (outcome(true), outcome(false));
                // Ghosts go at once here, and in their turn there.
                let same_files = theirs.0 == ours.0;
                if !same_files || (ghosts.is_empty() && theirs.1 != ours.1) {
                    differing.push(format!("{name}: theirs {theirs:?}, ours {ours:?}"));
                }
            }
            println!("{kind:?}: {} caches, {} differ", shapes.len(), differing.len());
            assert!(differing.is_empty(), "{kind:?}: {differing:#?}");
        }
    }
}

// -- The fleet --

/// 50 nodes with 2000 images each; image `n` is on the nodes from `n % 50` on, so that some are on one and some on many.
fn fleet(kind: Kind) -> Central {
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
    session.sql(if kind == Kind::PostgreSql {
        "BEGIN"
    } else if kind == Kind::MariaDb {
        "START TRANSACTION"
    } else {
        "BEGIN"
    });
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
            "INSERT INTO cached_images (image_id, last_accessed, last_modified, size, hits, node_reference_id) VALUES {}",
            values.join(",")
        ));
    }
    session.sql("COMMIT");
    c
}

tests! {
    the_fleet_at_a_glance {
        for kind in KINDS {
            let c = fleet(kind);
            let before = c.db.rows("SELECT COUNT(*), SUM(size) FROM cached_images");
            let run = c.run("status", &["--all-nodes", "--format", "json"]).ok();
            println!("{kind:?}: status --all-nodes, 50 nodes and 100,000 rows: {:.0} ms", run.took.as_secs_f64() * 1e3);
            let status = run.json();
            assert_eq!(status["total"], json!({"nodes": 50, "images": 100_000, "bytes": 199_950_000_u64, "different_images": 95_100}));
            assert_eq!(status["nodes"].as_array().unwrap().len(), 50);
            let own = status["nodes"].as_array().unwrap().iter().find(|node| node["node"] == NODE).unwrap();
            assert_eq!(own, &json!({"node": NODE, "images": 2000, "bytes": 3_999_000, "hits": 2000, "this_node": true,
                "oldest_use": "2026-01-01T00:00:00Z", "newest_use": "2026-01-28T00:00:00Z"}));
            assert_eq!(status["on_most_nodes"][0], json!({"image_id": nth_id(0), "nodes": 50, "bytes": 1000, "hits": 50}));
            assert_eq!(status["on_one_node"]["images"], json!(95_000));
            assert_eq!(status["on_one_node"]["largest"][0]["bytes"], json!(2999));
            let text = c.run("status", &["--all-nodes"]).ok();
            assert!(text.stdout.contains("50 nodes, 95100 different images"), "{}", text.stdout);
            // Needs no cache directory.
            let file = c.env.write("url", &c.db.url);
            c.env.raw(&["status", "--all-nodes", "--database-file", &file]).ok();

            let list = c.run("list", &["--image", &nth_id(7), "--format", "json"]).ok().json();
            assert_eq!(list["nodes"].as_array().unwrap().len(), 50);
            assert_eq!(list["cached_images"][0]["hits"], json!(1));
            // More than the harness takes from a run.
            let conf = c.conf();
            let all = c.env.command(BINARY).args(["list", "--all-nodes", "--format", "json", "--config-file", &conf]).output();
            let all: Value = serde_json::from_slice(&all.unwrap().stdout).unwrap();
            assert_eq!(all["cached_images"].as_array().unwrap().len(), 100_000);
            assert_eq!(c.db.rows("SELECT COUNT(*), SUM(size) FROM cached_images"), before);
        }
    }

    a_dead_node_is_forgotten {
        for kind in KINDS {
            let c = fleet(kind);
            let count = || c.db.rows("SELECT COUNT(*) FROM cached_images")[0][0].clone();
            let forget = |arguments: &[&str]| c.run("clean", &[&["--forget-node"], arguments].concat());
            forget(&["http://f07:9292", "--dry-run"]).ok().has(&json!({"rows_forgotten": 2000, "node_removed": true, "dry_run": true}));
            assert_eq!(count(), "100000");
            forget(&[NODE]).fails(2, &["is this node itself"]);
            for other in ["http://f07:9292/", "HTTP://F07:9292", "http://f07:9292 "] {
                forget(&[other]).fails(2, &["is http://f07:9292 meant?"]);
            }
            forget(&["http://f\u{f3}7:9292"]).fails(2, &["knows no node"]);
            forget(&["http://f07:9292"]).ok().has(&json!({"node": "http://f07:9292", "rows_forgotten": 2000, "node_removed": true, "errors": []}));
            assert_eq!(count(), "98000");
            assert!(c.db.rows("SELECT 1 FROM node_reference WHERE node_reference_url = 'http://f07:9292'").is_empty());
            forget(&["http://f07:9292"]).fails(2, &["knows no node"]);
            // Something else refers to it: the node stays.
            if kind != Kind::SqliteFile {
                c.db.sql("CREATE TABLE other (n BIGINT, FOREIGN KEY (n) REFERENCES node_reference (node_reference_id))");
                c.db.sql("INSERT INTO other SELECT node_reference_id FROM node_reference WHERE node_reference_url = 'http://f08:9292'");
                forget(&["http://f08:9292"]).ok().has(&json!({"rows_forgotten": 2000, "node_removed": false}));
                assert_eq!(count(), "96000");
            }
        }
    }
}
