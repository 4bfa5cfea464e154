//! The Cache API of Glance as a service, and work by the clock.
//!
//! One thread does everything; what takes long is done in children (`child`) or, as far as it asks others, on
//! threads of its own. [`serve`] reads the settings, opens everything, tells systemd that it is ready, and
//! waits for signals. A request comes through `listen`, `connection` and `gate` to `service`, which asks
//! `routes`, `auth` and `operations`, and is answered by `answer`.
//!
//! Promises: nothing hostile ends the service or blocks a probe of its health. SIGTERM stops the listeners,
//! lets requests and operations finish in time, and asks children to end after that. SIGHUP reads the
//! certificates and the policy again; what cannot be read leaves the old ones in force. Changes of the policy
//! are noticed without a signal, by a look at its files each second.

mod answer;
mod auth;
mod child;
mod connection;
mod gate;
mod health;
mod lanes;
mod listen;
mod metrics;
mod mounted;
mod needs;
mod notify;
mod operations;
mod periodic;
mod ready;
mod routes;
mod service;
pub(crate) mod settings;
mod tls;
mod upkeep;
mod verdict;
mod versions;

use std::ffi::{OsStr, OsString};
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use hyper::Request;
use hyper::body::Incoming;
use rustix::fs::{AtFlags, CWD, statat};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use self::answer::ApiAnswer;
use self::auth::{Auth, CacheOwner, KeystoneAuth};
use self::child::Children;
use self::connection::{Connections, Handler, SharedTls};
use self::health::{health, is_probe, note};
use self::listen::{Listener, Peer, listen, of_systemd};
use self::metrics::{Metrics, scrape_patience};
use self::needs::Needs;
use self::notify::notify;
use self::operations::Operations;
use self::ready::ReadyAnswers;
use self::service::Service;
use self::settings::{ListenPlace, ServeSettings, Strategy};
use self::versions::Discovery;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::{Selection, Settings};
use crate::interrupt::Interrupt;
use crate::net::wire::Waits;
use crate::openstack::keystone::settings::AuthTokenSettings;
use crate::openstack::keystone::validate::Validator;
use crate::openstack::policy::files::PolicyFiles;
use crate::output::log::Log;
use crate::output::oslo::Level;
use crate::output::{Format, Output, Verbosity};
use crate::run::Run;

/// Threads that wait for others: Keystone, the database, children.
const MOST_THREADS: usize = 32;
/// The interval at which a stopping service looks if everything has ended.
const LOOK: Duration = Duration::from_millis(20);
/// The time that children have after they were asked to end.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// The time between two looks for changes of the policy.
const POLICY_LOOK: Duration = Duration::from_secs(1);
/// Metrics take so many connections.
const METRICS_CONNECTIONS: usize = 8;

/// All that a service is started with.
pub(crate) struct Start {
    pub(crate) selection: Selection,
    pub(crate) config: Config,
    /// Places to listen at from the command line.
    pub(crate) places: Vec<ListenPlace>,
    /// The logs, and warnings about them.
    pub(crate) log: (Log, Vec<String>),
    /// The options of the command line that name them.
    pub(crate) log_options: Vec<OsString>,
    /// Only check the settings.
    pub(crate) is_check: bool,
}

/// Serves until a signal ends it.
pub(crate) fn serve(run: &Run, start: Start) -> Result<Exit, Failure> {
    let mut settings = ServeSettings::new(&start.config, &start.places)?;
    settings.has_sockets = run.environment.contains_key(OsStr::new("LISTEN_FDS"));
    // The unit of the socket is not there while the settings are checked.
    let needs_socket = start.is_check && settings.is_idle();
    settings.has_sockets |= needs_socket;
    if start.selection.directory(&start.config)?.is_none() {
        return Err(Failure::usage(anyhow!("image_cache_dir is not set"))
            .hint("set it in the configuration, or give --config-file with the file that sets it"));
    }
    let glance = Settings::new(&start.config, start.selection.clone())?;
    let cache_dir = glance.cache_dir.value.clone();
    let group = group(&cache_dir);
    let identity = Identity::read(run, &settings, &start.config).map_err(Failure::usage)?;
    let acceptor = settings.tls.as_ref().map(tls::acceptor).transpose().map_err(Failure::usage)?;
    settings.check_places()?;
    Needs { run, config: &start.config, glance: &glance, service: &settings }.check()?;
    if start.is_check {
        for warning in &start.log.1 {
            run.output.warning(warning);
        }
        // In the words of the start, but all that is wrong is a wrong setting here.
        for set in settings.all_places() {
            set.named(listen::check(&set.place)).map_err(Failure::usage)?;
        }
        run.output.print(if needs_socket {
            "the settings are in order for a socket that systemd hands over; without one, there is no \
             listener and no interval\n"
        } else {
            "the settings are in order\n"
        });
        return Ok(if run.output.has_failed() { Exit::Incomplete } else { Exit::Done });
    }
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(MOST_THREADS).build();
    let runtime = runtime.context("cannot start the service").map_err(Failure::cannot_start)?;
    let verbosity = match (run.output.is_quiet(), run.output.is_verbose()) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    };
    let output = Output::new(Format::Text, verbosity).in_environment(&run.environment);
    output.set_log(start.log);
    let local = LocalSet::new();
    let ended = local.block_on(&runtime, async {
        let listeners = listeners(&settings, group)?;
        if settings.strategy.value == Strategy::Keystone && identity.0.is_none() && !listeners.is_empty() {
            // Never without an identity: better no service than one for everybody.
            return Err(Failure::cannot_start(anyhow!("there is a listener that no setting announced")));
        }
        let metrics = match &settings.metrics {
            None => None,
            Some(set) => set.named(listen(&set.place, None)).map_err(Failure::cannot_start)?,
        };
        let children = Children::new(&start.selection.sources, start.log_options);
        let served = Served::new(children, &start.config, &cache_dir, settings, output);
        let auth = served.auth(identity, &cache_dir);
        served.run(run, auth, (listeners, metrics), SharedTls::new(acceptor)).await
    });
    // A thread may still wait for somebody who does not answer.
    runtime.shutdown_background();
    ended
}

/// Keystone and the policy, as the settings describe them. `None` if nobody is asked.
struct Identity(Option<(Validator, PolicyFiles)>);

impl Identity {
    /// Reads the settings and the policy. Keystone is not asked for anything yet.
    fn read(run: &Run, settings: &ServeSettings, config: &Config) -> Result<Self> {
        let is_asked = settings.strategy.value == Strategy::Keystone && settings.listens();
        if !is_asked {
            return Ok(Identity(None));
        }
        let waits = Waits::new(Interrupt::default());
        let mut keystone = AuthTokenSettings::from_config(config, &waits)?;
        keystone.check_certificates(config)?;
        let (policy, warnings) = PolicyFiles::load(config)?;
        for warning in keystone.remarks.iter().chain(&warnings) {
            run.output.warning(warning);
        }
        Ok(Identity(Some((Validator::new(keystone), policy))))
    }
}

/// Opens the listeners: those that systemd hands over, or those of the settings.
fn listeners(settings: &ServeSettings, group: Option<u32>) -> Result<Vec<Listener>, Failure> {
    let mut listeners = of_systemd().map_err(Failure::cannot_start)?;
    for listener in &listeners {
        settings.check_strategy(&listener.place())?;
    }
    if listeners.is_empty() {
        for set in &settings.places {
            listeners.extend(set.named(listen(&set.place, group)).map_err(Failure::cannot_start)?);
        }
    }
    if listeners.is_empty() && !settings.has_interval() {
        return Err(settings::nothing_to_do());
    }
    Ok(listeners)
}

/// Returns the places of all listeners in words.
fn shown_places(listeners: &[Listener], metrics: Option<&Listener>) -> String {
    let metrics = metrics.map(|listener| format!("metrics at {}", listener.shown()));
    let places: Vec<String> = listeners.iter().map(Listener::shown).collect();
    let places = if places.is_empty() { vec!["no listener".to_owned()] } else { places };
    places.into_iter().chain(metrics).collect::<Vec<_>>().join(", ")
}

/// Returns the group of the cache directory.
fn group(cache_dir: &Path) -> Option<u32> {
    statat(CWD, cache_dir, AtFlags::empty()).ok().map(|stat| stat.st_gid)
}

/// A service that runs.
struct Served {
    settings: ServeSettings,
    operations: Rc<Operations>,
    metrics: Rc<Metrics>,
    output: Rc<Output>,
}

impl Served {
    fn new(
        children: Rc<Children>,
        config: &Config,
        cache_dir: &Path,
        settings: ServeSettings,
        output: Output,
    ) -> Self {
        let metrics = Rc::new(Metrics::new(&settings.intervals));
        let ready = ReadyAnswers::new(config, cache_dir.to_owned());
        let limits = (settings.lock_timeout, settings.operation_timeout);
        let output = Rc::new(output);
        let operations = Operations::new(children, Rc::clone(&metrics), ready, limits, Rc::clone(&output));
        Served { settings, operations, metrics, output }
    }

    /// Returns what makes out callers.
    fn auth(&self, identity: Identity, cache_dir: &Path) -> Auth {
        let (metrics, output) = (Rc::clone(&self.metrics), Rc::clone(&self.output));
        match identity.0 {
            Some((validator, policy)) => {
                Auth::Keystone(Box::new(KeystoneAuth::new(validator, policy, metrics, output)))
            }
            None => Auth::Socket(CacheOwner::new(cache_dir.to_owned())),
        }
    }

    /// Serves until a signal comes, and ends in order.
    async fn run(
        &self,
        run: &Run,
        auth: Auth,
        (listeners, metrics): (Vec<Listener>, Option<Listener>),
        tls: Rc<SharedTls>,
    ) -> Result<Exit, Failure> {
        let settings = &self.settings;
        let signals = Signals::register().context("cannot catch signals").map_err(Failure::cannot_start)?;
        let mut signals = signals;
        let places = shown_places(&listeners, metrics.as_ref());
        let service = Rc::new(Service {
            auth,
            operations: Rc::clone(&self.operations),
            versions: Discovery::new(
                settings.tls.is_some(),
                settings.public_endpoint.clone(),
                settings.glance_api.clone(),
                Rc::clone(&self.output),
            ),
            output: Rc::clone(&self.output),
            disable_by_file: settings.disable_by_file.clone(),
            has_database: settings.has_database,
        });
        let connections = Connections::new(settings.max_connections, settings.limits);
        let handler: Handler = {
            let service = Rc::clone(&service);
            Rc::new(move |peer, request| Box::pin(Rc::clone(&service).answer(peer, request)))
        };
        let mut accepting: Vec<JoinHandle<()>> = Vec::new();
        for listener in listeners {
            let accept = Rc::clone(&connections).accept(listener, Rc::clone(&tls), Rc::clone(&handler));
            accepting.push(spawn_local(accept));
        }
        // They stay until the end, so that the end can be watched.
        let _metrics = metrics.map(|listener| self.serve_metrics(listener));
        // The device of the images that are there now.
        let _ = self.operations.check_mount().await;
        let (operations, output) = (Rc::clone(&self.operations), Rc::clone(&self.output));
        periodic::start(operations, output, &settings.intervals, settings.listens() && settings.has_database);
        if service.auth.has_policy() {
            let service = Rc::clone(&service);
            spawn_local(async move {
                loop {
                    sleep(POLICY_LOOK).await;
                    service.auth.refresh_policy();
                }
            });
        }
        self.output.event(Level::Info, &format!("glance-cache serve is ready: {places}"), &[]);
        notify(run, &format!("READY=1\nSTATUS=serving at {places}\n"));
        service.auth.log_in();
        while signals.next().await == SIGHUP {
            self.reload(&tls, &service.auth);
        }
        notify(run, "STOPPING=1\n");
        accepting.iter().for_each(JoinHandle::abort);
        self.drain(&connections, &mut signals).await;
        self.output.event(Level::Info, "glance-cache serve has ended", &[]);
        Ok(Exit::Done)
    }

    /// Serves metrics, and the health for services without a listener, at an address of their own.
    fn serve_metrics(&self, listener: Listener) -> JoinHandle<()> {
        let connections = Connections::new(METRICS_CONNECTIONS, self.settings.limits);
        let (operations, metrics) = (Rc::clone(&self.operations), Rc::clone(&self.metrics));
        let (disable_by_file, output) = (self.settings.disable_by_file.clone(), Rc::clone(&self.output));
        let handler: Handler = Rc::new(move |_: Peer, request: Request<Incoming>| {
            let (operations, metrics) = (Rc::clone(&operations), Rc::clone(&metrics));
            let (disable_by_file, output) = (disable_by_file.clone(), Rc::clone(&output));
            Box::pin(async move {
                let answer = match request.uri().path() {
                    _ if is_probe(&request) => health(&request, disable_by_file.as_deref()),
                    "/metrics" => {
                        let state = operations.exposition(scrape_patience(request.headers())).await;
                        ApiAnswer::text(state + &metrics.text())
                    }
                    _ => return (answer::Problem::no_resource().answer(request.headers()), None),
                };
                note(&output, &request, &answer);
                (answer, None)
            })
        });
        spawn_local(connections.accept(listener, SharedTls::new(None), handler))
    }

    /// Reads the certificates and the policy again. Each is a line in the log.
    fn reload(&self, tls: &SharedTls, auth: &Auth) {
        match self.settings.tls.as_ref().map(tls::acceptor) {
            Some(Ok(acceptor)) => {
                tls.replace(acceptor);
                self.output.event(Level::Info, "SIGHUP: read the certificates again", &[]);
            }
            Some(Err(e)) => {
                let line = format!("SIGHUP: the old certificate stays in use: {e:#}");
                self.output.event(Level::Error, &line, &[]);
            }
            None if auth.has_policy() => {}
            None => {
                let line = "SIGHUP: there is no certificate and no policy to read again";
                self.output.event(Level::Info, line, &[]);
            }
        }
        if auth.has_policy() && !auth.refresh_policy() {
            let (level, line) = if auth.has_outdated_policy() {
                (Level::Error, "SIGHUP: the policy is still wrong, and the old one stays in force")
            } else {
                (Level::Info, "SIGHUP: the policy has not changed")
            };
            self.output.event(level, line, &[]);
        }
    }

    /// Lets requests and operations finish, and asks children to end when the time is up or a second signal
    /// comes.
    async fn drain(&self, connections: &Connections, signals: &mut Signals) {
        connections.close();
        self.operations.end();
        let is_busy = || connections.are_busy() || self.operations.are_ongoing();
        let end = Instant::now() + self.settings.shutdown_timeout;
        let mut is_asked_again = false;
        while is_busy() && Instant::now() < end && !is_asked_again {
            // Nobody would be served by certificates that are read again now.
            is_asked_again = timeout(LOOK, signals.next()).await.is_ok_and(|signal| signal != SIGHUP);
        }
        if !self.operations.are_ongoing() {
            return;
        }
        let why = if is_asked_again { "a second signal has come" } else { "the time is up" };
        self.output.event(Level::Warning, &format!("{why}: operations are asked to end"), &[]);
        let end = Instant::now() + LAST_WAIT;
        while is_busy() && Instant::now() < end {
            // One that begins now is asked, too.
            self.operations.children.terminate();
            sleep(LOOK).await;
        }
    }
}

/// The signals that a service listens to: the handler of each writes to a socket of its own.
struct Signals([(i32, UnixStream); 3]);

impl Signals {
    fn register() -> std::io::Result<Self> {
        let listen = |number: i32| {
            let (receiver, sender) = std::os::unix::net::UnixStream::pair()?;
            signal_hook::low_level::pipe::register(number, sender)?;
            receiver.set_nonblocking(true)?;
            Ok::<_, std::io::Error>((number, UnixStream::from_std(receiver)?))
        };
        Ok(Signals([listen(SIGTERM)?, listen(SIGINT)?, listen(SIGHUP)?]))
    }

    /// Waits for the next signal, and returns its number.
    async fn next(&mut self) -> i32 {
        poll_fn(|context| {
            for (number, receiver) in &mut self.0 {
                // Signals of one kind that came meanwhile are one.
                let mut bytes = [MaybeUninit::uninit(); 64];
                if Pin::new(receiver).poll_read(context, &mut ReadBuf::uninit(&mut bytes)).is_ready() {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }
}
