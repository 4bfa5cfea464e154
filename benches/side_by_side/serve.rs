//! The service beside a real glance-api: both have the same configuration, cache, database and Keystone.
//!
//! glance-api runs behind uWSGI with two processes of four threads. Each request is sent on eight
//! connections, to Glance and to the service in turn, and the medians of the rounds count. A new connection
//! for each request is what both are compared by, because uWSGI ends its connections; kept ones are shown
//! beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::json;

use super::cache::{self, Driver};
use super::load::{Load, Reuse, load};
use super::results::Service;
use super::running::{Keep, Servers, free_port};
use super::watch::MIB;
use super::{Bench, http};

const IMAGES: usize = 1000;
const ROUNDS: usize = 5;
/// The time of a round.
const TIME: Duration = Duration::from_secs(2);
/// How often the start is measured.
const STARTS: usize = 15;

/// A service that runs until it is dropped.
struct Ours {
    child: Child,
    address: String,
    /// Seconds from its start to its first answer.
    ready: f64,
}

impl Ours {
    fn start(binary: &Path, configurations: &[&Path]) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(binary);
        command.args(["serve", "--allow-root", "--bind", &address]);
        for file in configurations {
            command.arg("--config-file").arg(file);
        }
        command.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        let mut ours = Ours { child: command.spawn()?, address, ready: 0.0 };
        while std::net::TcpStream::connect(&ours.address).is_err() {
            ensure!(ours.child.try_wait()?.is_none(), "{} serve has ended", binary.display());
            ensure!(start.elapsed() < Duration::from_secs(10), "{} serve is not ready", binary.display());
            sleep(Duration::from_micros(200));
        }
        let answer = http::send(&ours.address, "GET /healthcheck", &[], None);
        ensure!(answer.status == 200, "{}", answer.text());
        ours.ready = start.elapsed().as_secs_f64();
        Ok(ours)
    }

    /// Returns a figure of the kernel about its memory, in bytes.
    fn memory(&self, name: &str) -> Result<f64> {
        memory(self.child.id(), name)
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn memory(pid: u32, name: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such figure")?;
    let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0)
}

/// Returns the resident memory of a process and of those that it has started, in bytes.
fn memory_of_all(pid: u32) -> Result<f64> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let mut sum = memory(pid, "VmRSS")?;
    for child in children.split_whitespace() {
        sum += memory(child.parse()?, "VmRSS")?;
    }
    Ok(sum)
}

/// Returns the median.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn medians(loads: &[Load]) -> Load {
    let of = |figure: fn(&Load) -> f64| median(loads.iter().map(figure).collect());
    let failed = loads.iter().map(|load| load.failed).sum();
    Load { rate: of(|load| load.rate), median: of(|load| load.median), most: of(|load| load.most), failed }
}

pub(super) fn table(bench: &mut Bench) -> Result<()> {
    println!("Serve: requests on eight connections, {IMAGES} images in the cache, nothing to prune");
    let (Some(glance), Some(keystone)) = (&bench.programs.glance, &bench.programs.keystone) else {
        println!("    left out: it needs Glance 33 and Keystone\n");
        return Ok(());
    };
    let keystone = start_keystone(keystone);
    let identity = format!("http://127.0.0.1:{}/v3", keystone.ports[0]);
    let glance = start_glance(glance, &identity);
    let theirs = format!("127.0.0.1:{}", glance.ports[0]);
    let token = token(&format!("127.0.0.1:{}", keystone.ports[0]))?;
    fill(&glance.dir.join("cache"))?;
    let configuration = glance.dir.join("etc/glance-api.conf");
    let starts: Vec<f64> = (0..STARTS)
        .map(|_| Ours::start(&bench.programs.ours, &[&configuration]).map(|ours| ours.ready))
        .collect::<Result<_>>()?;
    let ready = median(starts);
    let ours = Ours::start(&bench.programs.ours, &[&configuration])?;
    sleep(Duration::from_secs(1));
    let idle = ours.memory("VmRSS")?;
    println!(
        "{:48}{:>12}{:>7}{:>11}{:>11}{:>7}{:>11}{:>11}{:>11}",
        "", "glance/s", "ours/s", "times", "glance p50", "ours", "part", "glance p99", "ours p99"
    );
    let index = glance.dir.join("cache/cache.db");
    let mut requests = Vec::new();
    for request in [
        Request { line: "GET /v2/cache", times: 3.0, changing: None },
        Request { line: "POST /v2/cache/prune", times: 3.0, changing: None },
        Request { line: "GET /healthcheck", times: 0.0, changing: None },
        Request { line: "GET /v2/cache", times: 0.0, changing: Some(&index) },
        Request { line: "POST /v2/cache/prune", times: 0.0, changing: Some(&index) },
    ] {
        let loads = compare(bench, (&theirs, &ours.address), request, &token)?;
        requests.push((request.name(), loads));
    }
    let kept = (0..ROUNDS)
        .map(|_| load(&ours.address, "GET /healthcheck", &token, Reuse::Kept, TIME))
        .collect::<Result<Vec<Load>>>()?;
    let kept = medians(&kept);
    ensure!(kept.failed == 0, "GET /healthcheck, connections kept: {} answers are no 200", kept.failed);
    println!(
        "GET /healthcheck, connections kept: {:.0} a second, 99 of 100 within {}",
        kept.rate,
        ms(kept.most)
    );
    let peak = ours.memory("VmHWM")?;
    let master: u32 = fs::read_to_string(glance.dir.join("pid"))?.trim().parse()?;
    let memory = [idle, peak, memory_of_all(master)?];
    note(bench, Service { requests, kept, ready, memory });
    Ok(())
}

/// Prints the rest of the figures, notes if they are what they should be, and keeps them all for the page.
fn note(bench: &mut Bench, service: Service) {
    let Service { kept, ready, memory: [idle, peak, theirs], .. } = &service;
    let [idle, peak] = [idle / MIB, peak / MIB];
    let ready_after = ms(*ready);
    println!(
        "ready after {ready_after}; idle {idle:.1} MiB, at most {peak:.1} MiB; Glance {:.1} MiB\n",
        theirs / MIB
    );
    let results = &mut bench.results;
    let what = format!("serve: /healthcheck {:.0} a second, at least 20,000", kept.rate);
    results.target(what, kept.rate >= 20_000.0);
    results.target(format!("serve: ready after {ready_after}, within 50 ms"), *ready < 0.05);
    results.target(format!("serve: idle {idle:.1} MiB, under 16"), idle < 16.0);
    results.target(format!("serve: under load {peak:.1} MiB, under 64"), peak < 64.0);
    results.service = Some(service);
}

/// A request that both are compared by.
#[derive(Clone, Copy, Debug)]
struct Request<'a> {
    line: &'static str,
    /// The service has to be so many times as fast; 0 if that is not asked of it.
    times: f64,
    /// The index that changes all the time, if one does: then no answer can be kept ready.
    changing: Option<&'a Path>,
}

impl Request<'_> {
    fn name(&self) -> String {
        let when = if self.changing.is_some() { ", while hits are counted" } else { "" };
        format!("{}{when}", self.line)
    }

    fn load(&self, address: &str, token: &str, time: Duration) -> Result<Load> {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let counting = self.changing.map(|index| scope.spawn(|| count_hits(index, &is_over)));
            let loaded = load(address, self.line, token, Reuse::New, time);
            is_over.store(true, Ordering::Relaxed);
            if let Some(Err(e)) = counting.map(|counting| counting.join().map_err(|_| anyhow!("no hits"))?) {
                return Err(e);
            }
            loaded
        })
    }
}

/// Counts a hit of an image twenty times a second, as a Glance does whose images are booted.
fn count_hits(index: &Path, is_over: &AtomicBool) -> Result<()> {
    let index = rusqlite::Connection::open(index)?;
    index.busy_timeout(Duration::from_secs(5))?;
    while !is_over.load(Ordering::Relaxed) {
        index.execute("UPDATE cached_images SET hits = hits + 1 WHERE image_id = ?", [cache::nth_id(0)])?;
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Sends a request to both in turn, prints a line, and notes if the service is so many times as fast.
fn compare(
    bench: &mut Bench,
    (theirs, ours): (&str, &str),
    request: Request<'_>,
    token: &str,
) -> Result<[Load; 2]> {
    let (line, times) = (request.name(), request.times);
    let (mut of_theirs, mut of_ours) = (Vec::new(), Vec::new());
    // The first requests make both know the token.
    for address in [theirs, ours] {
        request.load(address, token, Duration::from_millis(500))?;
    }
    // The service keeps an answer ready as soon as nothing has changed for two seconds.
    sleep(Duration::from_secs(2));
    for _ in 0..ROUNDS {
        of_theirs.push(request.load(theirs, token, TIME)?);
        of_ours.push(request.load(ours, token, TIME)?);
    }
    let (theirs, ours) = (medians(&of_theirs), medians(&of_ours));
    let (factor, part) = (ours.rate / theirs.rate, ours.median / theirs.median);
    println!(
        "{line:48}{:>12.0}{:>7.0}{factor:>11.1}{:>11}{:>7}{part:>11.2}{:>11}{:>11}",
        theirs.rate,
        ours.rate,
        ms(theirs.median),
        ms(ours.median),
        ms(theirs.most),
        ms(ours.most)
    );
    ensure!(ours.failed == 0, "{line}: {} answers of the service are no 200", ours.failed);
    if theirs.failed > 0 {
        println!("    Glance failed {} times; its figures are those of its other answers", theirs.failed);
    }
    if times > 0.0 {
        let what = format!("serve: {line}: {factor:.1} times Glance's rate, at least {times}");
        bench.results.target(what, factor >= times);
        let what = format!("serve: {line}: {part:.2} of Glance's latency, at most 0.5");
        bench.results.target(what, part <= 0.5);
    }
    Ok([theirs, ours])
}

fn ms(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

pub(super) fn start_keystone(python: &Path) -> Servers {
    let mut command = Servers::script("openstack.sh", "keystone");
    command.env("PYTHON", python);
    Servers::start(&mut command, 1, Keep::ForTheTest)
}

pub(super) fn start_glance(python: &Path, identity: &str) -> Servers {
    let mut command = Servers::script("openstack.sh", "glance");
    command.env("PYTHON", python).env("PROCESSES", "2");
    let paste: PathBuf =
        python.parent().and_then(Path::parent).unwrap_or(python).join("etc/glance/glance-api-paste.ini");
    Servers::prepared(&mut command, 1, Keep::ForTheTest, |dir, ports| {
        let made = ["etc", "cache", "store", "staging", "tasks"]
            .iter()
            .try_for_each(|name| fs::create_dir(dir.join(name)));
        let copied = made.and_then(|()| fs::copy(&paste, dir.join("etc/api-paste.ini")));
        let text = configuration(dir, ports[0], identity);
        let written = copied.and_then(|_| fs::write(dir.join("etc/glance-api.conf"), text));
        assert!(written.is_ok(), "cannot prepare {}: {written:?}", dir.display());
    })
}

fn configuration(dir: &Path, port: u16, identity: &str) -> String {
    let dir = dir.display();
    format!(
        "[DEFAULT]\nlog_file = {dir}/glance.log\nimage_cache_dir = {dir}/cache\nimage_cache_driver = sqlite\n\
         worker_self_reference_url = http://127.0.0.1:{port}\nnode_staging_uri = file://{dir}/staging\n\
         enabled_backends = fs:file\n[database]\nconnection = sqlite:///{dir}/glance.sqlite\n\
         [paste_deploy]\nflavor = keystone+cachemanagement\nconfig_file = {dir}/etc/api-paste.ini\n\
         [glance_store]\ndefault_backend = fs\n[fs]\nfilesystem_store_datadir = {dir}/store\n\
         [os_glance_staging_store]\nfilesystem_store_datadir = {dir}/staging\n\
         [os_glance_tasks_store]\nfilesystem_store_datadir = {dir}/tasks\n\
         [oslo_concurrency]\nlock_path = {dir}\n\
         [oslo_policy]\nenforce_scope = true\nenforce_new_defaults = true\n\
         [keystone_authtoken]\nwww_authenticate_uri = {identity}\nauth_url = {identity}\nauth_type = password\n\
         project_domain_id = default\nuser_domain_id = default\nproject_name = service\nusername = glance\n\
         password = glancepw\n"
    )
}

/// Returns a token of the administrator.
fn token(keystone: &str) -> Result<String> {
    let answer = login(keystone, "admin", "admin")?;
    Ok(answer.header("X-Subject-Token").context("no token")?.to_owned())
}

/// Logs in to a Keystone as a user of a project, and returns its answer.
pub(super) fn login(keystone: &str, user: &str, project: &str) -> Result<http::Answer> {
    let headers = [("Content-Type", "application/json")];
    let body = login_body(user, project);
    let answer = http::send(keystone, "POST /v3/auth/tokens", &headers, Some(body.as_bytes()));
    ensure!(answer.status == 201, "Keystone gives no token: {}", answer.text());
    Ok(answer)
}

/// Returns the request for a token. The password of each user is made of the name.
pub(super) fn login_body(user: &str, project: &str) -> String {
    let domain = json!({"id": "default"});
    let user = json!({"name": user, "domain": domain, "password": format!("{user}pw")});
    let identity = json!({"methods": ["password"], "password": {"user": user}});
    let scope = json!({"project": {"name": project, "domain": domain}});
    json!({"auth": {"identity": identity, "scope": scope}}).to_string()
}

/// Puts images into the cache.
fn fill(dir: &Path) -> Result<()> {
    cache::make(dir, Driver::Sqlite);
    let last = 1_700_000_000.0;
    let mut rows = String::from("BEGIN;");
    for n in 0..IMAGES {
        let id = cache::nth_id(n);
        cache::sparse_file(&dir.join(&id), 1024, last, last);
        rows += &cache::row(&id, last, last, 1024, 0);
    }
    let index = rusqlite::Connection::open(dir.join("cache.db"))?;
    index.execute_batch(&(rows + "COMMIT;"))?;
    Ok(())
}
