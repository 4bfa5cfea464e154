//! The commands of the clients about the cache, with what each of them prints and its exit code: the same
//! from a Glance 33 and from the service.

use std::fmt::Write as _;
use std::process::Output;

use regex::Regex;
use serde_json::{Value, json};

use crate::support::env::{TestEnv, until};
use crate::support::http;
use crate::support::openstack::{GlanceApi, Keystone, client};

/// The limit of the cache: the image C and the image B fit, the image A does not fit with them.
pub(super) const SETTINGS: &str = "image_cache_max_size = 40";

/// An id that no image has.
const UNKNOWN: &str = "11111111-1111-4111-8111-111111111111";

/// A command, its exit code and its lines. A, B and C stand for images, T for a time, U for [`UNKNOWN`].
type Step = (&'static str, i32, &'static [&'static str]);

const HEAD: &str = "| ID | State | Last Accessed (UTC) | Last Modified (UTC) | Size | Hits |";

/// What python-glanceclient has. Its exit code is 0 for most refusals.
const GLANCE: &[Step] = &[
    ("cache-list", 0, &[HEAD, "| A | cached | T | T | 10 | 0 |", "| C | cached | T | T | 36 | 0 |"]),
    ("cache-prune", 0, &["Pruned 1 file(s), 10 byte(s)."]),
    ("cache-clean", 0, &[]),
    ("cache-queue B", 0, &[]),
    ("cache-list", 0, &[HEAD, "| B | cached | T | T | 4 | 0 |", "| C | cached | T | T | 36 | 0 |"]),
    (
        "cache-nodes-list B",
        0,
        &[
            "'HTTP 409 Conflict: Centralized caching is not enabled': Unable to list cached nodes for image 'B'.",
        ],
    ),
    ("cache-delete B", 0, &[]),
    ("cache-clear --target queue", 0, &[]),
    ("cache-list", 0, &[HEAD, "| C | cached | T | T | 36 | 0 |"]),
    ("cache-clear --target cache", 0, &[]),
    ("cache-list", 0, &[HEAD]),
    ("cache-clear", 0, &[]),
    (
        "cache-queue U",
        0,
        &["'HTTP 404 Not Found: Image U not found.': Unable to queue image 'U' for caching."],
    ),
];

/// What a user without the role gets.
const GLANCE_AS_MEMBER: &[Step] = &[
    ("cache-list", 1, &["HTTP 403 Forbidden: You are not authorized to complete cache_list action."]),
    ("cache-prune", 0, &["You are not permitted to prune the image cache."]),
];

/// What python-openstackclient has.
const OPENSTACK: &[Step] = &[
    ("cached image list", 0, &[HEAD, "| A | cached | T | T | 10 | 0 |", "| C | cached | T | T | 36 | 0 |"]),
    ("cached image delete A", 0, &[]),
    ("cached image queue B", 0, &[]),
    ("cached image list", 0, &[HEAD, "| B | cached | T | T | 4 | 0 |", "| C | cached | T | T | 36 | 0 |"]),
    ("cached image clear --queue", 0, &[]),
    ("cached image clear --cache", 0, &[]),
    ("cached image clear", 0, &[]),
    ("cached image list", 0, &[]),
];

/// What comes where images can be looked for by their names, too: in Glance.
pub(super) const NO_IMAGE: &str = "No Image found for U";
/// What comes of it with the service alone, which knows images by their ids.
pub(super) const NO_SEARCH: &str = "NotFoundException: 404: Client Error for url: URL/v2/images?name=U, The resource could not be found.<br \
     /><br />";

/// The place that the clients call, and a glance-api that fills the cache behind it.
pub(super) struct Scene<'a> {
    pub(super) keystone: &'a Keystone,
    pub(super) glance: &'a GlanceApi,
    /// The URL that the clients are given.
    pub(super) url: String,
    /// A, B and C.
    images: Vec<String>,
    token: String,
    /// For the clients' files.
    env: TestEnv,
}

impl<'a> Scene<'a> {
    pub(super) fn new(keystone: &'a Keystone, glance: &'a GlanceApi, url: String) -> Self {
        let token = keystone.token("admin", "admin");
        let images = [10, 4, 36].map(|size| glance.upload(&token, &vec![b'x'; size]));
        let env = TestEnv::empty(crate::support::env::Sqlite);
        Scene { keystone, glance, url, images: images.to_vec(), token, env }
    }

    /// Has A and C in the cache, and nothing else.
    fn fill(&self) {
        let cleared = self.glance.call("DELETE /v2/cache", &self.token, None);
        assert_eq!(cleared.status, 204, "{}", cleared.text());
        for image in [0, 2] {
            self.glance.download(&self.token, &self.images[image]);
            until("the image to be cached", || self.is_cached(image));
        }
    }

    fn is_cached(&self, image: usize) -> bool {
        self.glance.cache().join(&self.images[image]).exists()
    }

    /// Runs the commands one after the other, and returns how many there were.
    #[track_caller]
    fn run(&self, name: &str, steps: &[Step], variables: &[(&str, &str)]) -> usize {
        for (line, code, lines) in steps {
            let arguments: Vec<&str> = line.split(' ').map(|word| self.real(word)).collect();
            let ran = client(name, &arguments, variables);
            let printed = self.printed(&ran);
            println!("{name} {line}: {:?}, {printed:?}", ran.status.code());
            assert_eq!(printed, *lines, "{name} {line} at {}", self.url);
            assert_eq!(ran.status.code(), Some(*code), "{name} {line}: {printed:?}");
            if line.ends_with("queue B") {
                until("the image to be fetched", || self.is_cached(1));
            }
        }
        steps.len()
    }

    fn real<'b>(&'b self, word: &'b str) -> &'b str {
        match word {
            "A" => &self.images[0],
            "B" => &self.images[1],
            "C" => &self.images[2],
            "U" => UNKNOWN,
            word => word,
        }
    }

    /// Returns what a command has printed: sorted lines without the frames of tables, with the words of the
    /// steps in place of ids and times.
    fn printed(&self, ran: &Output) -> Vec<String> {
        let text = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
        let mut text = text.replace(UNKNOWN, "U");
        for (image, word) in self.images.iter().zip(["A", "B", "C"]) {
            text = text.replace(image, word);
        }
        let time = Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?").unwrap();
        let text = time.replace_all(&text, "T");
        let is_shown = |line: &&str| {
            // Said about any endpoint that does not come from the catalogue.
            let is_noise = *line == "Cannot determine endpoint data for service image";
            !is_noise && !line.starts_with("+-") && !line.trim().is_empty()
        };
        let squeezed = text.lines().filter(is_shown);
        let mut lines: Vec<String> =
            squeezed.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        // The head of a table stays first.
        let rows = usize::from(lines.first().is_some_and(|line| line == HEAD));
        lines[rows..].sort();
        lines
    }

    /// Runs all commands of python-glanceclient.
    #[track_caller]
    pub(super) fn glance(&self) -> usize {
        self.fill();
        let (auth, url) = (self.keystone.url(), &self.url);
        let openrc = |user: &'static str, password: &'static str, project: &'static str| {
            [
                ("OS_AUTH_URL", auth.clone()),
                ("OS_USERNAME", user.to_owned()),
                ("OS_PASSWORD", password.to_owned()),
                ("OS_PROJECT_NAME", project.to_owned()),
                ("OS_USER_DOMAIN_ID", "default".to_owned()),
                ("OS_PROJECT_DOMAIN_ID", "default".to_owned()),
                ("OS_IMAGE_URL", url.clone()),
            ]
        };
        let run = |steps: &[Step], variables: &[(&str, String)]| {
            let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
            self.run("glance", steps, &variables)
        };
        run(GLANCE, &openrc("admin", "adminpw", "admin"))
            + run(GLANCE_AS_MEMBER, &openrc("demo", "demopw", "demo"))
    }

    /// Writes a file with the cloud `it`, and returns its path.
    fn clouds(&self) -> String {
        let mut text = String::from("clouds:\n  it:\n    region_name: RegionOne\n");
        let _ = write!(text, "    image_endpoint_override: {}\n    auth:\n", self.url);
        for (key, value) in [
            ("auth_url", self.keystone.url().as_str()),
            ("username", "admin"),
            ("password", "adminpw"),
            ("project_name", "admin"),
            ("user_domain_id", "default"),
            ("project_domain_id", "default"),
        ] {
            let _ = writeln!(text, "      {key}: {value}");
        }
        self.env.write("clouds.yaml", text)
    }

    /// Runs all commands of python-openstackclient. An image that nobody knows gets this answer.
    #[track_caller]
    pub(super) fn openstack(&self, unknown: &str) -> usize {
        self.fill();
        let clouds = self.clouds();
        let variables = [("OS_CLIENT_CONFIG_FILE", clouds.as_str()), ("OS_CLOUD", "it")];
        let count = self.run("openstack", OPENSTACK, &variables);
        let ran = client("openstack", &["cached", "image", "queue", UNKNOWN], &variables);
        let unknown = unknown.replace("URL", &self.url);
        let expected = [
            "Failed to queue 1 of 1 images".to_owned(),
            format!("Failed to queue image with name or ID 'U': {unknown}"),
        ];
        assert_eq!((self.printed(&ran), ran.status.code()), (expected.to_vec(), Some(1)));
        count + 1
    }

    /// Calls all that openstacksdk has. The nodes that have A are these, or why they are not known.
    #[track_caller]
    pub(super) fn sdk(&self, nodes: &Value) -> usize {
        self.fill();
        let clouds = self.clouds();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/python/sdk_cache.py");
        let variables = [("OS_CLIENT_CONFIG_FILE", clouds.as_str()), ("OS_CLOUD", "it")];
        let ran = client("python", &[script, "A", "B"].map(|word| self.real(word)), &variables);
        let printed = self.printed(&ran).join("\n");
        assert!(ran.status.success(), "{printed}");
        // Sorting has taken them out of order.
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let text =
            self.images.iter().zip(["A", "B", "C"]).fold(text, |text, (id, word)| text.replace(id, word));
        let mut answers: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {text}")))
            .collect();
        println!("openstacksdk: {text}");
        let pruned = answers.iter_mut().find(|answer| answer[0] == "prune").unwrap();
        // More keys are fine.
        pruned[1] = json!([pruned[1]["total_files_pruned"], pruned[1]["total_bytes_pruned"]]);
        let (a, b, c) = (json!(["A", 10, 0]), json!(["B", 4, 0]), json!(["C", 36, 0]));
        let unknown = format!("404: 404 Not Found: Image {UNKNOWN} not found.");
        let expected = json!([
            ["list", [[a, c], []]],
            ["prune", [1, 10]],
            ["clean", null],
            ["queue", [[b, c], []]],
            ["nodes", nodes],
            ["delete", null],
            ["list", [[c], []]],
            ["clear queue", null],
            ["list", [[c], []]],
            ["clear", null],
            ["list", [[], []]],
            ["delete again", null],
            ["delete unknown", unknown],
        ]);
        assert_eq!(json!(answers), expected, "at {}", self.url);
        answers.len()
    }

    /// Sends a request without a client.
    pub(super) fn ask(&self, line: &str) -> http::Answer {
        let address = self.url.strip_prefix("http://").unwrap();
        http::send(address, line, &[("X-Auth-Token", &self.token)], None)
    }
}
