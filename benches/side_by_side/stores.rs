//! One large image from real stores: a web server, Swift, and Glance's API, next to `curl` with the same digest.
//!
//! Curl logs in as the program does, so that the request for a token counts on both sides; then it reads the
//! object and has `sha512sum` hash it. The program also writes the image to the disk, and publishes it. All
//! servers are on this machine, and take their part of its processors. A glance-api that is asked for an image
//! that it has not cached writes it to its own cache meanwhile; for curl, too.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::make::{self, Driver};
use super::prefetch::{self, StoredImage};
use super::results::memory;
use super::running::{Keep, Servers};
use super::serve::{login, login_body, start_glance, start_keystone};
use super::watch::{MIB, Sample};
use super::{Bench, http};

const ROUNDS: usize = 5;
const SIZE: usize = 256;
/// The service user, whose password all of the commands have.
const USER: &str = "glance";
const PROJECT: &str = "service";

/// The servers, with the image in each of them.
struct ImageStores {
    keystone: Servers,
    nginx: Servers,
    swift: Servers,
    glance: Servers,
    /// A token of the user, and the path of the account in Swift.
    token: String,
    account: String,
}

/// One way to the image.
struct Way {
    name: &'static str,
    image: StoredImage,
    /// The URL that curl reads.
    url: String,
    needs_token: bool,
    arguments: &'static str,
    /// True if Glance is to cache the image during each run.
    is_cached_meanwhile: bool,
}

pub(super) fn table(bench: &mut Bench) -> Result<()> {
    println!("Stores: one image of {SIZE} MiB, next to curl | sha512sum");
    let programs = &bench.programs;
    let (Some(glance), Some(keystone), Some(swift)) = (&programs.glance, &programs.keystone, &programs.swift)
    else {
        println!("    left out: it needs Glance 33, Keystone and Swift\n");
        return Ok(());
    };
    let stores = ImageStores::start(glance, keystone, swift)?;
    let file = bench.dir.join("image");
    let content = prefetch::random(SIZE)?;
    fs::write(&file, &content)?;
    let ways = stores.put(&file, &content)?;
    drop(content);
    let images: Vec<&StoredImage> = ways[..3].iter().map(|way| &way.image).collect();
    prefetch::database(&bench.dir.join("glance.sqlite"), &images)?;
    println!("{:44}{:>9}{:>9}{:>9}{:>11}{:>9}", "", "curl", "ours", "times", "processor", "peak");
    for way in &ways {
        stores.compare(bench, way)?;
    }
    println!();
    Ok(())
}

impl ImageStores {
    fn start(glance: &Path, keystone: &Path, swift: &Path) -> Result<Self> {
        let keystone = start_keystone(keystone);
        let identity = identity(&keystone);
        let glance = start_glance(glance, &identity);
        let mut command = Servers::script("swift.sh", "swift");
        command.env("PYTHON", swift).env("KEYSTONE", &identity);
        let swift = Servers::start(&mut command, 5, Keep::ForTheTest);
        let nginx = Servers::start(&mut Servers::script("stores.sh", "nginx"), 2, Keep::ForTheTest);
        let answer = login(&format!("127.0.0.1:{}", keystone.ports[0]), USER, PROJECT)?;
        let token = answer.header("X-Subject-Token").context("no token")?.to_owned();
        let project = answer.json()["token"]["project"]["id"].as_str().context("no project")?.to_owned();
        Ok(ImageStores { keystone, nginx, swift, glance, token, account: format!("/v1/KEY_{project}") })
    }

    /// Puts the image into each store.
    fn put(&self, file: &Path, content: &[u8]) -> Result<[Way; 4]> {
        let [web, swift, glance] = [&self.nginx, &self.swift, &self.glance].map(|servers| address(servers));
        fs::copy(file, self.nginx.dir.join("www/image"))?;
        for name in ["images", "images/image"] {
            let content = if name == "images" { &[][..] } else { content };
            let line = format!("PUT {}/{name}", self.account);
            self.send(&swift, &line, &[], content, 201)?;
        }
        let wanted = json!({"name": "image", "disk_format": "raw", "container_format": "bare"}).to_string();
        let kind = [("Content-Type", "application/json")];
        let made = self.send(&glance, "POST /v2/images", &kind, wanted.as_bytes(), 201)?;
        let id = made.json()["id"].as_str().context("no id")?.to_owned();
        let kind = [("Content-Type", "application/octet-stream")];
        self.send(&glance, &format!("PUT /v2/images/{id}/file"), &kind, content, 204)?;
        let image = |id: &str, location: &str| StoredImage {
            id: id.to_owned(),
            path: file.to_owned(),
            location: location.to_owned(),
        };
        let way = |name, image, url, needs_token| Way {
            name,
            image,
            url,
            needs_token,
            arguments: "",
            is_cached_meanwhile: false,
        };
        let url = format!("http://{web}/image");
        let through_http =
            way("http (nginx)", image("00000000-0000-4000-8000-000000000000", &url), url, false);
        let url = format!("http://{swift}{}/images/image", self.account);
        let location = "swift+config://ref1/images/image";
        let through_swift = way("Swift", image("00000001-0000-4000-8000-000000000000", location), url, true);
        let of_glance = |name, is_cached_meanwhile| Way {
            arguments: " --via api",
            is_cached_meanwhile,
            ..way(name, image(&id, "cinder://volume"), format!("http://{glance}/v2/images/{id}/file"), true)
        };
        let (cached, caching) = (
            of_glance("glance-api, from its cache", false),
            of_glance("glance-api, caches it meanwhile", true),
        );
        Ok([through_http, through_swift, cached, caching])
    }

    fn send(
        &self,
        address: &str,
        line: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        status: u16,
    ) -> Result<http::Answer> {
        let headers = [&[("X-Auth-Token", self.token.as_str())], headers].concat();
        let answer = http::send(address, line, &headers, Some(body));
        ensure!(answer.status == status, "{line}: {} {}", answer.status, answer.text());
        Ok(answer)
    }

    /// Has both read the image in turn, and prints a line.
    fn compare(&self, bench: &mut Bench, way: &Way) -> Result<()> {
        let script = self.script(bench, way)?;
        // Glance caches it now, if it has not yet.
        bench.measured(&["/bin/sh".into(), script.display().to_string()])?;
        let rounds = bench.rounds(ROUNDS);
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for round in 0..2 * rounds {
            if way.is_cached_meanwhile {
                self.forget(&way.image.id)?;
            }
            if round % 2 == 0 {
                theirs.push(bench.measured(&["/bin/sh".into(), script.display().to_string()])?);
            } else {
                ours.push(self.fetch(bench, way)?);
            }
            if way.is_cached_meanwhile {
                ensure!(self.cached(&way.image.id).exists(), "Glance has not cached the image");
            }
        }
        let (theirs, ours) = (Sample::medians(&theirs), Sample::medians(&ours));
        let (ratio, name) = (theirs.wall / ours.wall, way.name);
        println!(
            "{name:44}{:>7.2} s{:>7.2} s{ratio:>9.2}{:>9.2} s{:>9}",
            theirs.wall,
            ours.wall,
            ours.cpu,
            memory(ours.peak)
        );
        let results = &mut bench.results;
        results.target(format!("{name}: {ratio:.2} of curl's throughput, at least 0.9"), ratio >= 0.9);
        let peak = memory(ours.peak);
        results.target(format!("{name}: peak {peak}, under 32 MiB"), ours.peak < 32.0 * MIB);
        Ok(())
    }

    /// Removes the image from the cache of Glance.
    fn forget(&self, id: &str) -> Result<()> {
        self.send(&address(&self.glance), &format!("DELETE /v2/cache/{id}"), &[], &[], 204)?;
        ensure!(!self.cached(id).exists(), "Glance keeps the image in its cache");
        Ok(())
    }

    fn cached(&self, id: &str) -> PathBuf {
        self.glance.dir.join("cache").join(id)
    }

    /// Writes what curl does.
    fn script(&self, bench: &Bench, way: &Way) -> Result<PathBuf> {
        let dir = bench.dir.display();
        let digest = prefetch::digest("sha512sum", &way.image.path)?;
        fs::write(bench.dir.join("login.json"), login_body(USER, PROJECT))?;
        let path = bench.dir.join("curl.sh");
        let mut script = fs::File::create(&path)?;
        let mut header = String::new();
        if way.needs_token {
            header = "-H \"X-Auth-Token: $token\" ".to_owned();
            writeln!(
                script,
                "token=$(curl -sf -D - -o /dev/null -H 'Content-Type: application/json' -d @{dir}/login.json \
                 {}/auth/tokens | tr -d '\\r' | sed -n 's/^[Xx]-[Ss]ubject-[Tt]oken: //p')",
                identity(&self.keystone)
            )?;
        }
        writeln!(script, "curl -sf {header}{} | sha512sum | grep -q ^{digest}", way.url)?;
        Ok(path)
    }

    /// Has the program fetch the image into a new cache.
    fn fetch(&self, bench: &mut Bench, way: &Way) -> Result<Sample> {
        let cache = bench.next_cache();
        make::cache(&cache, Driver::Sqlite, 0, 0)?;
        fs::write(cache.join("queue").join(&way.image.id), "")?;
        rustix::fs::syncfs(fs::File::open(&cache)?)?;
        let conf = bench.dir.join("stores.conf");
        fs::write(&conf, self.configuration(bench))?;
        let command = format!(
            "{} prefetch --config-file {}{}",
            bench.programs.ours.display(),
            conf.display(),
            way.arguments
        );
        let sample = bench.measured(&["/bin/sh".into(), "-c".into(), command])?;
        let bytes = fs::metadata(cache.join(&way.image.id)).context("the image was not fetched")?.len();
        ensure!(bytes == (SIZE as f64 * MIB) as u64, "{}: {bytes} bytes", way.name);
        fs::remove_dir_all(&cache)?;
        Ok(sample)
    }

    fn configuration(&self, bench: &Bench) -> String {
        let (identity, cache) = (identity(&self.keystone), bench.cache());
        format!(
            "[DEFAULT]\nimage_cache_dir = {0}\nimage_cache_driver = sqlite\n\
             image_cache_max_size = 1099511627776\n\
             [database]\nconnection = sqlite:///{1}/glance.sqlite\n\
             [glance_store]\nstores = http,swift\nswift_store_auth_address = {identity}\n\
             swift_store_user = {PROJECT}:{USER}\nswift_store_key = {USER}pw\n\
             swift_store_endpoint = http://{2}{3}\n\
             [cache_api]\nglance_api_url = http://{4}\n\
             [keystone_authtoken]\nauth_url = {identity}\nauth_type = password\nusername = {USER}\n\
             user_domain_id = default\npassword = {USER}pw\nproject_name = {PROJECT}\n\
             project_domain_id = default\n\
             [oslo_concurrency]\nlock_path = {0}\n",
            cache.display(),
            bench.dir.display(),
            address(&self.swift),
            self.account,
            address(&self.glance)
        )
    }
}

/// Returns host and port of the first of some servers.
fn address(servers: &Servers) -> String {
    format!("127.0.0.1:{}", servers.ports[0])
}

fn identity(keystone: &Servers) -> String {
    format!("http://{}/v3", address(keystone))
}
