//! A real Glance 33 and the service prune one cache at once, while those who may not knock at the service.

use std::fs::{self, File};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock};

use super::Beside;
use crate::support::env::*;
use crate::support::http::{self, Answer};
use crate::support::openstack::{GlanceApi, Keystone};

/// So many images of a thousand bytes, of which ten fit.
const IMAGES: usize = 400;

/// The longest time for an answer that waits for nobody.
const AT_ONCE: Duration = Duration::from_millis(100);

struct Scene {
    glance: GlanceApi,
    address: String,
    beside: Beside,
    admin: String,
    member: String,
}

fn ask(address: &str, line: &str, token: &str) -> Answer {
    let body = line.starts_with("POST").then_some(&b""[..]);
    http::send(address, line, &[("X-Auth-Token", token)], body)
}

impl Scene {
    fn new() -> Self {
        let keystone = Keystone::shared();
        let glance = GlanceApi::start(keystone, "sqlite", "image_cache_max_size = 10000");
        let beside = Beside::start(&glance, "");
        let (admin, member) = (keystone.token("admin", "admin"), keystone.token("demo", "demo"));
        let address = glance.address();
        let scene = Scene { glance, address, beside, admin, member };
        // Glance makes its index with its first request, and both know the tokens after theirs.
        for address in scene.addresses() {
            assert_eq!(ask(address, "POST /v2/cache/prune", &scene.admin).status, 200);
            assert_eq!(ask(address, "POST /v2/cache/prune", &scene.member).status, 403);
        }
        scene
    }

    /// Returns the addresses of Glance and of the service.
    fn addresses(&self) -> [&str; 2] {
        [&self.address, self.beside.address()]
    }

    /// Has so many images in the cache, the first used longest ago.
    fn fill(&self) {
        let mut rows = String::from("BEGIN;");
        for n in 0..IMAGES {
            let last = now().floor() - (10 * IMAGES - n) as f64;
            sparse_file(&self.glance.cache().join(nth_id(n)), 1000, last, last);
            rows.push_str(&row(&nth_id(n), last, last, 1000, 0));
        }
        self.index().execute_batch(&(rows + "COMMIT;")).unwrap();
    }

    fn index(&self) -> rusqlite::Connection {
        let index = rusqlite::Connection::open(self.glance.cache().join("cache.db")).unwrap();
        index.busy_timeout(Duration::from_secs(10)).unwrap();
        index
    }

    /// Returns the images in the cache, by their files and by the index, which have to be the same.
    #[track_caller]
    fn left(&self) -> Vec<String> {
        let files: Vec<String> =
            names(&self.glance.cache()).into_iter().filter(|name| name.len() == 36).collect();
        let index = self.index();
        let mut rows = index.prepare("SELECT image_id FROM cached_images ORDER BY image_id").unwrap();
        let rows: Vec<String> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(files, rows);
        files
    }
}

/// Prunes in both at once, round after round, while members knock at the service. Every image is removed by
/// one of the two, and the ten that were used last stay.
#[test]
fn both_prune_at_once() {
    let scene = Scene::new();
    let mut removed_by = [0, 0];
    let mut waited = Vec::new();
    for round in 0..6 {
        scene.fill();
        let (prunes, knocks) = thread::scope(|scope| {
            let scene = &scene;
            let prune = |address| scope.spawn(move || ask(address, "POST /v2/cache/prune", &scene.admin));
            let [theirs, ours] = scene.addresses();
            // Each is the first one in every other round.
            let (theirs, ours) = if round % 2 == 0 {
                let theirs = prune(theirs);
                (theirs, prune(ours))
            } else {
                let ours = prune(ours);
                (prune(theirs), ours)
            };
            let knocking: Vec<_> = (0..8)
                .map(|n| {
                    scope.spawn(move || {
                        let start = Instant::now();
                        let (line, status) = if n % 2 == 0 {
                            ("POST /v2/cache/prune", 403)
                        } else {
                            ("GET /healthcheck", 200)
                        };
                        let answer = ask(scene.beside.address(), line, &scene.member);
                        assert_eq!(answer.status, status, "{}", answer.text());
                        start.elapsed()
                    })
                })
                .collect();
            let knocks: Vec<Duration> = knocking.into_iter().map(|knock| knock.join().unwrap()).collect();
            ([theirs.join().unwrap(), ours.join().unwrap()], knocks)
        });
        waited.extend(knocks);
        let mut removed = 0;
        for (n, prune) in prunes.iter().enumerate() {
            assert_eq!(prune.status, 200, "{n}: {}", prune.text());
            let files = prune.json()["total_files_pruned"].as_u64().unwrap();
            removed += files;
            removed_by[n] += files;
        }
        let left = scene.left();
        assert_eq!(left, (IMAGES - 10..IMAGES).map(nth_id).collect::<Vec<_>>());
        assert_eq!(removed as usize + left.len(), IMAGES, "{prunes:?}");
        for name in left {
            fs::remove_file(scene.glance.cache().join(name)).unwrap();
        }
        scene.index().execute_batch("DELETE FROM cached_images").unwrap();
    }
    waited.sort();
    println!(
        "6 rounds: Glance removed {}, the service {}; {} knocks meanwhile, median {:?}, longest {:?}",
        removed_by[0],
        removed_by[1],
        waited.len(),
        waited[waited.len() / 2],
        waited.last().unwrap()
    );
    // The machine is busy with both prunes, so that some may take longer.
    assert!(waited[waited.len() / 2] < AT_ONCE, "{waited:?}");
}

/// While somebody holds the lock of prune, Glance's members wait with everybody else; the service's do not.
#[test]
fn members_do_not_wait_for_the_lock() {
    let scene = Scene::new();
    scene.fill();
    let lock =
        File::options().append(true).open(scene.glance.directory().join("glance-cache-prune")).unwrap();
    fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    thread::scope(|scope| {
        let prunes = scene.addresses().map(|address| {
            let scene = &scene;
            scope.spawn(move || ask(address, "POST /v2/cache/prune", &scene.admin))
        });
        until("the child of the service", || !children(scene.beside.service.pid()).is_empty());
        for (line, token, status) in [
            ("POST /v2/cache/prune", &scene.member, 403),
            ("GET /healthcheck", &scene.member, 200),
            ("GET /v2/cache", &scene.admin, 200),
        ] {
            let mut took: Vec<Duration> = (0..50)
                .map(|_| {
                    let start = Instant::now();
                    let answer = ask(scene.beside.address(), line, token);
                    assert_eq!(answer.status, status, "{}", answer.text());
                    start.elapsed()
                })
                .collect();
            took.sort();
            println!(
                "50 times {line}, {status}, while the lock is held: median {:?}, longest {:?}",
                took[25], took[49]
            );
            // A machine on which other tests run may take its time now and then.
            assert!(took[40] < AT_ONCE, "{line}: {took:?}");
        }
        // The real one, for comparison: its four threads are taken by members.
        let start = Instant::now();
        let members: Vec<_> = (0..4)
            .map(|_| {
                let scene = &scene;
                scope.spawn(move || ask(scene.addresses()[0], "POST /v2/cache/prune", &scene.member))
            })
            .collect();
        thread::sleep(Duration::from_secs(1));
        drop(lock);
        for prune in prunes {
            assert_eq!(prune.join().unwrap().status, 200);
        }
        for member in members {
            assert_eq!(member.join().unwrap().status, 403);
        }
        println!("Glance's members waited {:?}, as long as the lock was held", start.elapsed());
        assert!(start.elapsed() >= Duration::from_secs(1));
    });
    assert_eq!(scene.left().len(), 10);
}
