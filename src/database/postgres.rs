//! PostgreSQL.
//!
//! Statements are unnamed, and no setting but the encoding outlives its transaction. So a pooler between this
//! program and the server may switch servers between transactions, and gives no setting of ours to others.
//!
//! Nothing reads from the connection between two statements: it is driven while one runs. (The library's own
//! blocking client would do the same, but returns the end of the connection instead of the error that the
//! server, or a pooler, sent just before.)

use std::error::Error as _;
use std::panic::resume_unwind;
use std::time::Duration;

use anyhow::anyhow;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding, SslMode, TargetSessionAttrs};
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Config, Error, NoTls, Row, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::cell::Cell;
use super::url::Address;
use super::worker::ServerConnection;
use crate::database::refusal::Refusal;
use crate::net::tls::{TlsMode, client_config, without_manual};

/// The time without an answer after which the kernel gives a connection up.
const SILENCE: Duration = Duration::from_secs(10);

/// Deadlock; serialization failure; lock not available; row exists by now.
const RETRY: [&str; 4] = ["40P01", "40001", "55P03", "23505"];

/// Too many connections; starting up.
const LATER: [&str; 2] = ["53300", "57P03"];

/// The encoding of a database that holds any bytes.
const NO_ENCODING: &str = "SQL_ASCII";
/// Asks such a database for the bytes as they are. Otherwise it fails every read of one that is no UTF-8,
/// which the library asks for. (A pooler keeps this setting to its client.)
const AS_IT_IS: &str = "SET client_encoding = 'SQL_ASCII'";

/// The time to say goodbye to a server.
const GOODBYE: Duration = Duration::from_secs(1);

/// A connection to PostgreSQL.
pub(super) struct PostgreSql {
    /// Dropped before what drives it, which then says goodbye.
    client: Client,
    pump: Pump,
    address: Address,
    lost: bool,
}

/// The runtime in which the library's client and its connection work.
struct Pump {
    runtime: Runtime,
    /// `None` once it has ended, and the reason was reported.
    connection: Option<JoinHandle<Result<(), Error>>>,
}

impl PostgreSql {
    /// Connects. The limit is for the network only; the [`worker`](super::worker) bounds the whole wait.
    pub(super) fn connect(address: &Address, limit: Duration) -> Result<Self, Refusal> {
        let mut config = Config::new();
        config.dbname(&address.database).application_name("glance-cache");
        config.tcp_user_timeout(SILENCE).keepalives_idle(SILENCE / 2).keepalives_interval(SILENCE / 5);
        // The limit is divided among the hosts, so that the last one still has its turn.
        config.connect_timeout(limit / u32::try_from(address.hosts.len()).unwrap_or(1).max(1));
        if address.writable {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        if address.channel_binding {
            config.channel_binding(ChannelBinding::Require);
        }
        if let Some(user) = &address.user {
            config.user(user);
        }
        if let Some(password) = &address.password {
            config.password(password);
        }
        if let Some(options) = &address.options {
            config.options(options);
        }
        match &address.socket {
            Some((directory, port)) => drop(config.host_path(directory).port(*port)),
            None => {
                for (host, port) in &address.hosts {
                    config.host(host).port(*port);
                }
            }
        }
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Refusal::Broken(anyhow!(e).context("cannot use the network")))?;
        let connected = if address.tls.mode == TlsMode::Off || address.socket.is_some() {
            connect_to(runtime, config.ssl_mode(SslMode::Disable), NoTls)
        } else {
            let tls = MakeRustlsConnect::new(client_config(&address.tls).map_err(Refusal::Broken)?);
            let mode = if address.tls.mode == TlsMode::Offered { SslMode::Prefer } else { SslMode::Require };
            connect_to(runtime, config.ssl_mode(mode), tls)
        };
        let (client, pump, encoding) = connected.map_err(|e| match (refusal(address, &e), e.code()) {
            // The server itself refused. Unless it is full or starting, it will refuse again.
            (refusal, Some(code)) if !LATER.contains(&code.code()) => refusal,
            (refusal, Some(_)) => Refusal::Busy(refusal.into_error()),
            (refusal, None) => Refusal::Lost(refusal.into_error()),
        })?;
        let mut opened = PostgreSql { client, pump, address: address.clone(), lost: false };
        if encoding.as_deref() == Some(NO_ENCODING) {
            opened.execute(AS_IT_IS)?;
        }
        Ok(opened)
    }

    /// Remembers if an error ended the connection.
    fn noted<T>(&mut self, result: Result<T, Error>) -> Result<T, Refusal> {
        result.map_err(|e| {
            // The server announces the end of the connection before it comes.
            let severity = e.as_db_error().and_then(DbError::parsed_severity);
            self.lost |= matches!(severity, Some(Severity::Fatal | Severity::Panic));
            refusal(&self.address, &e)
        })
    }
}

impl ServerConnection for PostgreSql {
    fn query(&mut self, sql: &str, texts: &[String]) -> Result<Vec<Vec<Cell>>, Refusal> {
        let numbered =
            (1..=texts.len()).fold(sql.to_owned(), |sql, n| sql.replacen('?', &format!("${n}"), 1));
        let texts: Vec<(&(dyn ToSql + Sync), Type)> =
            texts.iter().map(|text| (text as &(dyn ToSql + Sync), Type::TEXT)).collect();
        let result = self.pump.run(self.client.query_typed(&numbered, &texts));
        let rows = self.noted(result)?;
        rows.iter()
            .map(|row| (0..row.len()).map(|column| cell(row, column)).collect())
            .collect::<Result<_, _>>()
            .map_err(|e| refusal(&self.address, &e))
    }

    fn execute(&mut self, sql: &str) -> Result<u64, Refusal> {
        let result = self.pump.run(self.client.execute_typed(sql, &[]));
        self.noted(result)
    }

    fn is_lost(&self) -> bool {
        self.lost || self.client.is_closed()
    }
}

/// Connects, and returns the encoding of the database, too.
fn connect_to<T>(runtime: Runtime, config: &Config, tls: T) -> Result<(Client, Pump, Option<String>), Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = runtime.block_on(config.connect(tls))?;
    let encoding = connection.parameter("server_encoding").map(str::to_owned);
    let connection = Some(runtime.spawn(connection));
    Ok((client, Pump { runtime, connection }, encoding))
}

impl Pump {
    /// Runs a statement. If the connection ends meanwhile, the error is what the server said of the
    /// statement, or else why the connection ended.
    fn run<T>(&mut self, statement: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let result = self.runtime.block_on(statement);
        let has_ended = result.as_ref().is_err_and(Error::is_closed);
        let Some(connection) = self.connection.take_if(|_| has_ended) else { return result };
        match self.runtime.block_on(async { timeout(GOODBYE, connection).await }) {
            Ok(Ok(Err(why))) => Err(why),
            Ok(Err(failed)) if failed.is_panic() => resume_unwind(failed.into_panic()),
            _ => result,
        }
    }
}

impl Drop for Pump {
    /// Tells the server that the connection ends, if that is not known yet.
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // A server that does not take the goodbye finds out by itself.
            let _ = self.runtime.block_on(async { timeout(GOODBYE, connection).await });
        }
    }
}

/// A text, in which bytes that are no UTF-8 are replaced: a database without an encoding
/// (`SQL_ASCII`) holds any.
struct Lossy(String);

impl<'a> FromSql<'a> for Lossy {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Lossy(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(kind: &Type) -> bool {
        <String as FromSql>::accepts(kind)
    }
}

fn cell(row: &Row, column: usize) -> Result<Cell, Error> {
    let kind = row.columns()[column].type_().clone();
    let cell = match kind {
        Type::INT8 => row.try_get::<_, Option<i64>>(column)?.map(Cell::Integer),
        Type::INT4 => row.try_get::<_, Option<i32>>(column)?.map(|number| Cell::Integer(number.into())),
        Type::FLOAT8 => row.try_get::<_, Option<f64>>(column)?.map(Cell::Real),
        _ => row.try_get::<_, Option<Lossy>>(column)?.map(|text| Cell::Text(text.0)),
    };
    Ok(cell.unwrap_or(Cell::Null))
}

fn refusal(address: &Address, error: &Error) -> Refusal {
    let text = match error.as_db_error() {
        Some(e) => format!("error {}: {}", e.code().code(), e.message()),
        None => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            without_manual(text)
        }
    };
    let retry = error.code().is_some_and(|code| RETRY.contains(&code.code()));
    let error = anyhow!("{}", address.without_credentials(&text));
    if retry { Refusal::Busy(error) } else { Refusal::Broken(error) }
}
