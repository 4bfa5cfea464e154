//! Calls to the Cache API of nodes: of the nodes that are named, or of all nodes of the central database.
//!
//! No cache directory is opened: each node does the work itself. Several nodes are asked at a time. One that
//! fails does not stop the others, and each node's outcome is in the report.
//!
//! After SIGINT or SIGTERM, no further node is asked; those that are at work have five seconds to answer. A
//! node whose answer is not waited for is `unknown`: it goes on by itself.

mod ask;
mod call;
pub(crate) mod look;
mod report;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use url::Url;

use self::ask::{Asker, Reply};
pub(crate) use self::call::NodesCall;
use self::report::NodeOutcome;
pub(crate) use self::report::NodesReport;
use crate::config::Config;
use crate::database::opening::Purpose;
use crate::exit::Failure;
use crate::host::glance::central::{cannot_start, connect, existing};
use crate::host::glance::open::GLANCE_PATIENCE;
use crate::host::glance::settings::{DatabaseSettings, Selection};
use crate::interrupt::Interrupt;
use crate::names::ImageId;
use crate::net::http::Client;
use crate::openstack::cache_api::{CacheCall, NodeStatus, is_exposed, node_url, same_server, shown_url};
use crate::openstack::clouds::Cloud;
use crate::openstack::keystone::catalog::ServiceSought;
use crate::openstack::keystone::error::{KeystoneError, Unhelpful};
use crate::openstack::keystone::session::KeystoneSession;
use crate::ops::clouds;
use crate::ops::fleet::REGISTERED;
use crate::output::Event;
use crate::output::progress::Bar;
use crate::run::Run;
use crate::units::count;

/// The time that nodes at work have after a signal.
const GRACE: Duration = Duration::from_secs(5);
/// Interval at which the run looks for signals.
const LOOK: Duration = Duration::from_millis(100);

/// A request to nodes.
#[derive(Debug)]
pub(crate) struct NodesRequest {
    pub(crate) call: NodesCall,
    /// The URLs that are named; `None` for all nodes of the central database.
    pub(crate) urls: Option<Vec<String>>,
    /// Takes the place of the port in each URL.
    pub(crate) port: Option<u16>,
    /// Nodes that are asked at a time.
    pub(crate) jobs: usize,
    /// The time that each node has.
    pub(crate) timeout: Duration,
    /// The cloud of clouds.yaml whose credentials are used.
    pub(crate) cloud: Option<String>,
}

/// A node that is to be asked, or the reason why it cannot be.
struct Aim {
    shown: String,
    url: Result<Url, Reply>,
    /// The same node with or without `/image` at the end of its URL, if the database has both.
    other: Option<Url>,
}

/// Has nodes do some work. A signal before the first is asked is no failure: the report then has no node.
///
/// Fails if no node is asked at all.
pub(crate) fn ask_nodes(
    run: &Run,
    selection: &Selection,
    config: &Config,
    request: &NodesRequest,
) -> Result<NodesReport, Failure> {
    run.catch_signals()?;
    match ask_aims(run, selection, config, request) {
        Err(_) if run.interrupt.raised() => {
            let mut report = NodesReport::new(&request.call, Vec::new());
            report.ending.stopped(run);
            Ok(report)
        }
        asked => asked,
    }
}

/// Finds the nodes and the credentials, and asks.
fn ask_aims(
    run: &Run,
    selection: &Selection,
    config: &Config,
    request: &NodesRequest,
) -> Result<NodesReport, Failure> {
    let mut aims = match &request.urls {
        Some(urls) => named(urls, request.port)?,
        None => all_nodes(run, selection, config, request.port)?,
    };
    let cloud = find_cloud(run, Some(config), request.cloud.as_deref())?;
    let client =
        Client { trust: cloud.reach.trust.clone(), proxies: Vec::new(), waits: cloud.reach.waits.clone() };
    let certificate = cloud.reach.certificate.clone();
    let session = KeystoneSession::new(cloud.login, cloud.reach);
    session.token().map_err(no_token)?;
    if request.urls.is_none() {
        let sought = |interface| ServiceSought {
            service_type: "image",
            interface,
            region: cloud.region.as_deref(),
            settings: cloud.settings,
        };
        let found = ["public", "internal", "admin"].map(|interface| session.endpoint(&sought(interface)));
        spare_endpoints(run, found, cloud.image_endpoint, &mut aims);
    }
    let open = || aims.iter().filter_map(|aim| Some((aim.url.as_ref().ok()?, aim.shown.as_str())));
    check_certificates(&client, certificate.as_ref(), open().map(|(url, _)| url))?;
    warn_of_exposure(run, open());
    let asker = Asker {
        session: &session,
        client,
        certificate,
        timeout: request.timeout,
        stop: Interrupt::default(),
    };
    let mut report = NodesReport::new(&request.call, ask_all(run, &asker, request, aims));
    if run.interrupt.raised() {
        report.ending.stopped(run);
    } else if report.is_idle() {
        let reasons: Vec<String> = report.ending.errors.iter().map(ToString::to_string).collect();
        return Err(Failure::cannot_start(anyhow!("no node was asked: {}", reasons.join("; "))));
    }
    Ok(report)
}

/// Returns the credentials with which nodes are asked.
fn find_cloud(run: &Run, config: Option<&Config>, name: Option<&str>) -> Result<Cloud, Failure> {
    let cloud = clouds::find_cloud(run, config, name).map_err(Failure::usage)?;
    run.output.note(&format!("credentials: {}", cloud.source));
    Ok(cloud)
}

/// Fails if a node is asked with https, and the files of certificates for that cannot be used.
fn check_certificates<'a>(
    client: &Client,
    identity: Option<&(PathBuf, PathBuf)>,
    mut nodes: impl Iterator<Item = &'a Url>,
) -> Result<(), Failure> {
    if nodes.any(|url| url.scheme() == "https") {
        client.check_certificates(identity).map_err(Failure::usage)?;
    }
    Ok(())
}

/// Makes the failure of a run that gets no token.
fn no_token(error: KeystoneError) -> Failure {
    match error.kind {
        Unhelpful::Misconfigured => Failure::usage(error),
        Unhelpful::Unreachable | Unhelpful::Refused => Failure::cannot_start(error),
    }
}

/// Returns the nodes that the command line names.
fn named(urls: &[String], port: Option<u16>) -> Result<Vec<Aim>, Failure> {
    let aims = aims(urls, port);
    match aims.iter().find_map(|aim| Some((aim, aim.url.as_ref().err()?))) {
        None => Ok(aims),
        Some((aim, reply)) => {
            let reason = reply.message.clone().unwrap_or_default();
            Err(Failure::usage(anyhow!("cannot use --os-image-url {}: {reason}", aim.shown)))
        }
    }
}

/// Returns the nodes of the central database.
fn all_nodes(
    run: &Run,
    selection: &Selection,
    config: &Config,
    port: Option<u16>,
) -> Result<Vec<Aim>, Failure> {
    let settings = DatabaseSettings::new(config, selection);
    let mut database = existing(connect(&settings, Purpose::Look, &run.wait(GLANCE_PATIENCE))?)?;
    let urls = database.node_urls().map_err(cannot_start)?;
    if urls.is_empty() {
        let error = anyhow!("the database {} knows no node", database.shown());
        return Err(Failure::cannot_start(error).hint(REGISTERED));
    }
    let nodes = merged(aims(&urls, port));
    Ok(if port.is_some() { nodes.into_iter().map(root_first).collect() } else { nodes })
}

/// Returns the URL of a node without `/image` at its end.
fn root(url: &Url) -> Url {
    let mut root = url.clone();
    let path = url.path().trim_end_matches('/');
    root.set_path(path.strip_suffix("/image").unwrap_or(path));
    root
}

/// Has a node asked first without `/image`, which is the place of the API behind a web server: at another
/// port there is probably no web server.
fn root_first(aim: Aim) -> Aim {
    match &aim.url {
        Ok(url) if root(url) != *url => {
            let root = root(url);
            Aim { shown: shown_url(root.as_str().trim_end_matches('/')), other: aim.url.ok(), url: Ok(root) }
        }
        _ => aim,
    }
}

/// Makes one node of two whose URLs differ only by `/image` at the end.
///
/// That is the place of the Image API behind a web server. The database has both URLs if the setting of
/// glance-api was changed. No URL tells which of them is right, so the second one is kept for a node that
/// does not have the API at the first.
fn merged(aims: Vec<Aim>) -> Vec<Aim> {
    let mut nodes: Vec<Aim> = Vec::new();
    for aim in aims {
        let is_same = |node: &&mut Aim| match (&node.url, &aim.url) {
            (Ok(first), Ok(second)) => node.other.is_none() && root(first) == root(second),
            _ => false,
        };
        match nodes.iter_mut().find(is_same) {
            Some(node) => node.other = aim.url.ok(),
            None => nodes.push(aim),
        }
    }
    nodes
}

/// Returns the nodes with these URLs, each once.
fn aims(urls: &[String], port: Option<u16>) -> Vec<Aim> {
    let mut seen = BTreeSet::new();
    let aim = |text: &String| {
        let mut shown = shown_url(text);
        let url = node_url(text).map(|mut url| {
            if port.is_some() && url.set_port(port).is_ok() {
                shown = shown_url(url.as_str().trim_end_matches('/'));
            }
            url
        });
        let url = url.map_err(|reason| Reply::new(NodeStatus::InvalidUrl, reason.to_owned()));
        Aim { shown, url, other: None }
    };
    let is_new = |aim: &Aim| aim.url.as_ref().map_or(true, |url| seen.insert(url.to_string()));
    urls.iter().map(aim).filter(is_new).collect()
}

/// Takes out the nodes whose URL is an endpoint of the catalogue: behind that is any node, not this one.
fn spare_endpoints(
    run: &Run,
    found: [Result<Url, KeystoneError>; 3],
    override_url: Option<Url>,
    aims: &mut [Aim],
) {
    if let Some(error) = found.iter().find_map(|found| found.as_ref().err().filter(|_| found.is_err())) {
        run.output.note(&format!("nodes are not compared with every endpoint of the catalogue: {error}"));
    }
    let endpoints: Vec<Url> = found.into_iter().filter_map(Result::ok).chain(override_url).collect();
    for aim in aims {
        let Ok(url) = &aim.url else { continue };
        if endpoints.iter().any(|endpoint| same_server(url, endpoint)) {
            let message = "it is the endpoint of the image service, probably a load balancer in front of \
                           other nodes; to ask it all the same, give it as --os-image-url";
            aim.url = Err(Reply::new(NodeStatus::NotAsked, message.to_owned()));
        }
    }
}

/// Warns once of nodes to which the token would go unencrypted.
fn warn_of_exposure<'a>(run: &Run, nodes: impl Iterator<Item = (&'a Url, &'a str)>) {
    let exposed = nodes.filter(|(url, _)| is_exposed(url));
    let shown: Vec<&str> = exposed.map(|(_, shown)| shown).collect();
    if let [first, others @ ..] = &shown[..] {
        let others = match others.len() {
            0 => String::new(),
            number => format!(" and {}", count(number as u64, "other node")),
        };
        run.output.warning(&format!("the token goes unencrypted to {first}{others}: use https"));
    }
}

/// Asks all nodes, several at a time, and returns their outcomes in the order of the nodes.
fn ask_all(run: &Run, asker: &Asker<'_>, request: &NodesRequest, aims: Vec<Aim>) -> Vec<NodeOutcome> {
    let (call, next) = (&request.call, AtomicUsize::new(0));
    let open: Vec<(usize, &Aim, &Url)> =
        aims.iter().enumerate().filter_map(|(n, aim)| Some((n, aim, aim.url.as_ref().ok()?))).collect();
    let mut outcomes: Vec<Option<NodeOutcome>> = aims.iter().map(|_| None).collect();
    let interrupt = run.interrupt.clone();
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..request.jobs.min(open.len()) {
            let (sender, interrupt, open, next) = (sender.clone(), interrupt.clone(), &open, &next);
            scope.spawn(move || {
                while !interrupt.raised() {
                    let Some((n, aim, url)) = open.get(next.fetch_add(1, Ordering::Relaxed)) else {
                        return;
                    };
                    let outcome = ask_one(asker, call, (aim, url), &interrupt);
                    if sender.send((*n, outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        collect(run, asker, (call, open.len()), &receiver, &mut outcomes);
    });
    let outcome = |(aim, outcome): (Aim, Option<NodeOutcome>)| {
        outcome.unwrap_or_else(|| {
            let reply = aim.url.err().unwrap_or_else(|| Reply::new(NodeStatus::NotAsked, None));
            NodeOutcome::new(call, aim.shown, reply, 0, 0.0)
        })
    };
    aims.into_iter().zip(outcomes).map(outcome).collect()
}

/// Takes the outcomes as they come, until all threads have ended. After a signal, they end soon.
fn collect(
    run: &Run,
    asker: &Asker<'_>,
    (call, total): (&NodesCall, usize),
    receiver: &mpsc::Receiver<(usize, NodeOutcome)>,
    outcomes: &mut [Option<NodeOutcome>],
) {
    let bar = Bar::new(&run.output, call.doing(), total as u64, None);
    let (mut done, mut since) = (0, None);
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok((n, outcome)) => {
                run.output.did(|| Event {
                    sentence: outcome.sentence(call),
                    facts: vec![("node", outcome.node.clone()), ("status", outcome.status.to_string())],
                });
                outcomes[n] = Some(outcome);
                done += 1;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        bar.show(done);
        if let Some(signal) = run.interrupt.signal() {
            let since = *since.get_or_insert_with(Instant::now);
            if since.elapsed() >= GRACE {
                asker.stop.raise(signal);
            }
        }
    }
}

/// Asks one node for all that it is to do.
fn ask_one(
    asker: &Asker<'_>,
    call: &NodesCall,
    (aim, url): (&Aim, &Url),
    interrupt: &Interrupt,
) -> NodeOutcome {
    let start = Instant::now();
    let ask = |url: &Url| match call {
        NodesCall::Prune => (asker.ask(url, CacheCall::Prune), 0),
        NodesCall::Clean => (asker.ask(url, CacheCall::Clean), 0),
        NodesCall::Queue(images) => queue(asker, url, images, interrupt),
    };
    let (mut shown, (mut reply, mut queued)) = (aim.shown.clone(), ask(url));
    if reply.is_elsewhere
        && let Some(other) = aim.other.as_ref().filter(|_| !interrupt.raised())
    {
        let (second, number) = ask(other);
        if !second.is_elsewhere {
            (shown, reply, queued) = (shown_url(other.as_str().trim_end_matches('/')), second, number);
        }
    }
    NodeOutcome::new(call, shown, reply, queued, start.elapsed().as_secs_f64())
}

/// Puts images into the queue of a node. Returns the first failure, with the messages of all of them, and how
/// many images are in the queue.
fn queue(asker: &Asker<'_>, url: &Url, images: &[ImageId], interrupt: &Interrupt) -> (Reply, u64) {
    let (mut first, mut messages, mut queued): (Option<Reply>, Vec<String>, u64) = (None, Vec::new(), 0);
    let mut last = Reply::new(NodeStatus::Done, None);
    for (n, id) in images.iter().enumerate() {
        if n > 0 && interrupt.raised() {
            messages.push(format!("stopped before {}", count((images.len() - n) as u64, "image")));
            first.get_or_insert_with(|| Reply::new(NodeStatus::Failed, None));
            break;
        }
        let reply = asker.ask(url, CacheCall::Queue(*id));
        match reply.status {
            NodeStatus::Done => {
                queued += 1;
                last = reply;
            }
            status => {
                messages.extend(reply.message.as_ref().map(|message| format!("image {id}: {message}")));
                // Only this failure may be that of the image alone.
                let is_over = status != NodeStatus::Failed || reply.is_elsewhere;
                first.get_or_insert(reply);
                if is_over {
                    break;
                }
            }
        }
    }
    let reply = match first {
        None => last,
        Some(first) => Reply { message: Some(messages.join("; ")).filter(|text| !text.is_empty()), ..first },
    };
    (reply, queued)
}
