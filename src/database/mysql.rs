//! MySQL and MariaDB.
//!
//! Statements use the text protocol, or are prepared for one use.
//!
//! **No waiting for locks.** A transaction that waits for a lock makes others wait for the locks it holds. So
//! MariaDB is told to refuse at once, and the caller tries again. A transaction that never waits is not part
//! of a deadlock either, which the server might resolve by rolling Glance's transaction back. (Glance finds a
//! row by one index or another, and takes the locks of a row and of its index entries in an order that cannot
//! be matched here.) On MySQL the shortest possible wait is a second.

use std::time::Duration;

use anyhow::anyhow;
use mysql::prelude::Queryable as _;
use mysql::{ClientIdentity, Conn, OptsBuilder, SslOpts, Value};

use super::cell::Cell;
use super::url::Address;
use super::worker::ServerConnection;
use crate::database::refusal::Refusal;
use crate::net::authorities::trusting_only;
use crate::net::tls::{TlsMode, system_authorities};

/// The settings of the session. MariaDB is told not to wait for rows at all. To MySQL the part in `/*M! */`
/// is a comment, so that it waits a second, its least. The second line is for servers whose defaults protect
/// people at a prompt: they would cut long reads short, or refuse deletions.
const SESSION: [&str; 2] = [
    "SET SESSION innodb_lock_wait_timeout = 1 /*M! - 1 */, lock_wait_timeout = 1, autocommit = 1",
    "SET SESSION sql_safe_updates = 0, sql_big_selects = 1, sql_select_limit = 18446744073709551615",
];

/// Deadlock; lock wait timeout; row changed since the snapshot (MariaDB); lock not granted at once; row
/// exists by now.
const RETRY: [u16; 5] = [1213, 1205, 1020, 3572, 1062];
/// Too many connections.
const TOO_MANY: u16 = 1040;
/// The server is shutting down, or the Galera node has left its cluster, or the connection was killed or idle
/// for too long.
const GONE: [u16; 7] = [1047, 1053, 1927, 2006, 2013, 3169, 4031];

/// A connection to MySQL or MariaDB.
pub(super) struct MySql {
    connection: Conn,
    address: Address,
    lost: bool,
}

impl MySql {
    /// Connects. The limit is for the network only; the [`worker`](super::worker) bounds the whole wait.
    pub(super) fn connect(address: &Address, limit: Duration) -> Result<Self, Refusal> {
        let options = OptsBuilder::new()
            .user(address.user.clone())
            .pass(address.password.clone())
            .db_name(Some(address.database.clone()))
            .prefer_socket(false)
            .tcp_connect_timeout(Some(limit))
            .stmt_cache_size(0)
            .ssl_opts(tls(address))
            .init(SESSION.to_vec());
        let options = match (&address.socket, address.hosts.first()) {
            (Some((path, _)), _) => options.socket(path.to_str()),
            (None, Some((host, port))) => options.ip_or_hostname(Some(host.clone())).tcp_port(*port),
            (None, None) => options,
        };
        let connected = trusting_only(&address.tls, || Conn::new(options)).map_err(Refusal::Broken)?;
        let connection = connected.map_err(|e| match (refusal(address, &e).0, &e) {
            // The server itself refused. Unless it is full, it will refuse again.
            (refusal, mysql::Error::MySqlError(e)) if e.code != TOO_MANY => refusal,
            (refusal, _) => Refusal::Busy(refusal.into_error()),
        })?;
        Ok(MySql { connection, address: address.clone(), lost: false })
    }

    /// Remembers if an error ended the connection.
    fn noted<T>(&mut self, result: mysql::Result<T>) -> Result<T, Refusal> {
        result.map_err(|e| {
            let (refusal, lost) = refusal(&self.address, &e);
            self.lost |= lost;
            refusal
        })
    }
}

impl ServerConnection for MySql {
    fn query(&mut self, sql: &str, texts: &[String]) -> Result<Vec<Vec<Cell>>, Refusal> {
        let rows: mysql::Result<Vec<mysql::Row>> = if texts.is_empty() {
            self.connection.query(sql)
        } else {
            self.connection.exec(sql, texts.to_vec())
        };
        let rows = self.noted(rows)?;
        Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(cell).collect()).collect())
    }

    fn execute(&mut self, sql: &str) -> Result<u64, Refusal> {
        let result = self.connection.query_drop(sql);
        self.noted(result)?;
        Ok(self.connection.affected_rows())
    }

    fn is_lost(&self) -> bool {
        self.lost
    }
}

fn cell(value: Value) -> Cell {
    match value {
        Value::Int(number) => Cell::Integer(number),
        Value::UInt(number) => Cell::Integer(i64::try_from(number).unwrap_or(i64::MAX)),
        Value::Float(number) => Cell::Real(number.into()),
        Value::Double(number) => Cell::Real(number),
        Value::Bytes(bytes) => Cell::Text(String::from_utf8_lossy(&bytes).into_owned()),
        // Times are asked for as numbers, so that none of these is one.
        Value::NULL | Value::Date(..) | Value::Time(..) => Cell::Null,
    }
}

/// Returns how TLS is used; `None` is without.
fn tls(address: &Address) -> Option<SslOpts> {
    let tls = &address.tls;
    if tls.mode <= TlsMode::Offered {
        return None;
    }
    let identity = tls.identity.clone().map(|(certificate, key)| ClientIdentity::new(certificate, key));
    Some(
        SslOpts::default()
            .with_root_cert_path(tls.ca.clone().or_else(system_authorities))
            .with_client_identity(identity)
            .with_danger_skip_domain_validation(tls.mode == TlsMode::Authority)
            .with_danger_accept_invalid_certs(tls.mode == TlsMode::Unverified),
    )
}

/// Returns the refusal for an error, and true if the connection is lost with it.
fn refusal(address: &Address, error: &mysql::Error) -> (Refusal, bool) {
    let (code, text) = match error {
        mysql::Error::MySqlError(e) => (e.code, format!("error {}: {}", e.code, e.message)),
        mysql::Error::DriverError(e) => (0, e.to_string()),
        mysql::Error::IoError(e) => (0, e.to_string()),
        mysql::Error::TlsError(e) => (0, e.to_string()),
        mysql::Error::CodecError(e) => (0, e.to_string()),
        e => (0, e.to_string()),
    };
    // Any other error is the network's, in one wrapping or another. After it the state of the connection is
    // unknown.
    let lost = !matches!(error, mysql::Error::MySqlError(_)) || GONE.contains(&code);
    let error = anyhow!("{}", address.without_credentials(&text));
    if RETRY.contains(&code) { (Refusal::Busy(error), lost) } else { (Refusal::Broken(error), lost) }
}
