//! Real stores of images: private nginx servers, over http and https, and a private Ceph with rbd and
//! radosgw's S3.
//!
//! `tests/peer/stores.sh` runs the servers and stops them when this process ends; its first lines say what
//! they offer. Each test may have an nginx of its own; one Ceph serves all of them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;
use rusty_s3::{Bucket, Credentials, S3Action as _, UrlStyle};
use url::Url;

use super::needs;
use super::openstack::Keystone;
use super::running::{Keep, Servers, signal};

/// A web server of one test.
pub(crate) struct Nginx(Servers);

impl Nginx {
    pub(crate) fn start() -> Self {
        needs::nginx();
        Nginx(Servers::start(&mut Servers::script("stores.sh", "nginx"), 2, Keep::ForTheTest))
    }

    /// Puts a file where it is served.
    pub(crate) fn put(&self, name: &str, content: &[u8]) {
        fs::write(self.0.dir.join("www").join(name), content).unwrap();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.0.ports[0])
    }

    pub(crate) fn https_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.0.ports[1])
    }

    /// Returns the authority of its certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.0.dir.join("ca.pem")
    }

    /// Returns one line for each answered request: method, URI, status, bytes of the body, range.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.0.dir.join("access.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// Returns true if somebody is connected to it over http.
    pub(crate) fn is_connected(&self) -> bool {
        let established = format!(":{:04X} ", self.0.ports[0]);
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
        sockets.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            format!("{} ", fields[1]).ends_with(&established) && fields[3] == "01"
        })
    }

    /// Ends the server in the middle of what it does, with the process that is sending.
    pub(crate) fn kill(&self) {
        let master = fs::read_to_string(self.0.dir.join("pid")).unwrap();
        let master = master.trim();
        let workers = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
        signal(Signal::KILL, master);
        workers.split_whitespace().for_each(|worker| signal(Signal::KILL, worker));
    }

    /// Starts it again; not to be waited for.
    pub(crate) fn start_again(&self) {
        signal(Signal::USR1, &fs::read_to_string(self.0.dir.join("keeper")).unwrap());
    }
}

/// A Ceph cluster with a pool `images`, a user `glance`, and S3.
pub(crate) struct Ceph(Servers);

pub(crate) const ACCESS_KEY: &str = "AK";
/// A secret with characters that have a meaning in URLs.
pub(crate) const SECRET_KEY: &str = "s3cret/+Key";
/// A user of S3 with the same secret who may read nothing.
pub(crate) const OTHER_ACCESS_KEY: &str = "NOBODY";

impl Ceph {
    /// Returns the one that all tests share.
    pub(crate) fn shared() -> &'static Ceph {
        static CEPH: OnceLock<Ceph> = OnceLock::new();
        needs::ceph();
        CEPH.get_or_init(|| {
            Ceph(Servers::start(&mut Servers::script("stores.sh", "ceph"), 3, Keep::ForTheRun))
        })
    }

    /// Starts one that only the caller has, and whose Swift takes the tokens of this Keystone.
    pub(crate) fn behind(keystone: &Keystone, keep: Keep) -> Ceph {
        needs::ceph();
        let mut command = Servers::script("stores.sh", "ceph");
        Ceph(Servers::start(command.env("KEYSTONE", keystone.url()), 3, keep))
    }

    pub(crate) fn conf(&self) -> PathBuf {
        self.0.dir.join("ceph.conf")
    }

    pub(crate) fn fsid(&self) -> String {
        let conf = fs::read_to_string(self.conf()).unwrap();
        conf.lines().find_map(|line| line.strip_prefix("fsid = ")).unwrap().to_owned()
    }

    /// Runs `rbd` or another of its commands as admin.
    pub(crate) fn run(&self, line: &[&str]) {
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).env("CEPH_CONF", self.conf()).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes an RBD image with a protected snapshot `snap`, as Glance does, and returns its location.
    pub(crate) fn import(&self, image: &str, content: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new_in(&self.0.dir).unwrap();
        fs::write(file.path(), content).unwrap();
        let (path, name) = (file.path().to_str().unwrap(), format!("images/{image}"));
        let snapshot = format!("{name}@snap");
        self.run(&["rbd", "import", "--no-progress", path, &name]);
        self.run(&["rbd", "snap", "create", "--no-progress", &snapshot]);
        self.run(&["rbd", "snap", "protect", &snapshot]);
        format!("rbd://{}/images/{image}/snap", self.fsid())
    }

    /// Returns host and port of S3.
    pub(crate) fn s3(&self) -> String {
        format!("127.0.0.1:{}", self.0.ports[2])
    }

    /// Puts an object into a bucket, which is made when it is not there.
    pub(crate) fn put(&self, bucket: &str, key: &str, content: &[u8]) {
        let endpoint: Url = format!("http://{}", self.s3()).parse().unwrap();
        let bucket = Bucket::new(endpoint, UrlStyle::Path, bucket.to_owned(), "us-east-1").unwrap();
        let keys = Credentials::new(ACCESS_KEY, SECRET_KEY);
        let valid = Duration::from_secs(60);
        self.send(&bucket.create_bucket(&keys).sign(valid), b"");
        self.send(&bucket.put_object(Some(&keys), key).sign(valid), content);
    }

    fn send(&self, url: &Url, content: &[u8]) {
        let mut stream = TcpStream::connect(self.s3()).unwrap();
        let target = &url[url::Position::BeforePath..];
        let length = content.len();
        let host = self.s3();
        write!(
            stream,
            "PUT {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        stream.write_all(content).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "PUT {target}: {answer}");
    }
}

/// A way to a server that some connections break off on, and after them nobody gets there any more.
pub(crate) struct Cut {
    pub(crate) address: String,
}

impl Cut {
    pub(crate) fn start(server: &str, connections: usize, after: usize) -> Self {
        let (listener, server) = (TcpListener::bind("127.0.0.1:0").unwrap(), server.to_owned());
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for client in listener.incoming().take(connections) {
                let (mut client, mut server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                let (mut asks, mut asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut asks, &mut asked));
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut (&mut server).take(after as u64), &mut client);
                    let _ = client.shutdown(Shutdown::Both);
                    let _ = server.shutdown(Shutdown::Both);
                });
            }
        });
        Cut { address }
    }
}

/// Returns the location of an image on a server that says of no answer how long it is, for two requests.
pub(crate) fn sizeless(content: Vec<u8>) -> String {
    answering("HTTP/1.0 200 OK\r\n\r\n", content)
}

/// The location of an image on a server that answers so, for two requests.
pub(crate) fn answering(head: &'static str, content: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let location = format!("http://{}/image", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(head.as_bytes()).unwrap();
            // Who has no room for more hangs up.
            let _ = stream.write_all(&content);
        }
    });
    location
}
