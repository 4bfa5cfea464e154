//! MySQL and MariaDB.
//!
//! Everything goes over the text protocol or a statement prepared for one use; the server is told not to let us wait for
//! locks, because whoever waits here holds others up: the caller tries again instead. Nor can who never waits be part of a
//! deadlock, which the server might end at Glance's cost: Glance finds a row by one index or another and so takes the locks of a
//! row and of its index entries in an order that we cannot keep to. That is MariaDB; on MySQL a second is the least.

use std::time::Duration;

use anyhow::anyhow;
use mysql::prelude::Queryable as _;
use mysql::{ClientIdentity, Conn, OptsBuilder, SslOpts, Value};

use super::url::Address;
use super::worker::Client;
use super::{Cell, Refusal};
use crate::net::authorities::trusting_only;
use crate::net::tls::{TlsMode, system_authorities};

/// MariaDB does not let us wait for rows at all; MySQL, to which that part is a comment, does for a second, its least. The others
/// are for servers set up to mistrust people at a prompt, which would cut our reads short or refuse our deletions.
const SESSION: [&str; 2] = [
    "SET SESSION innodb_lock_wait_timeout = 1 /*M! - 1 */, lock_wait_timeout = 1, autocommit = 1",
    "SET SESSION sql_safe_updates = 0, sql_big_selects = 1, sql_select_limit = 18446744073709551615",
];

/// Deadlock; lock wait timeout; the row changed since the snapshot (MariaDB); lock not granted at once; the row is there by now.
const RETRY: [u16; 5] = [1213, 1205, 1020, 3572, 1062];
/// Too many connections.
const TOO_MANY: u16 = 1040;
/// The server shuts down, or the Galera node has left its cluster, or the connection was killed, or idle for too long.
const GONE: [u16; 7] = [1047, 1053, 1927, 2006, 2013, 3169, 4031];

pub(super) struct MySql {
    connection: Conn,
    address: Address,
    lost: bool,
}

impl MySql {
    /// Connects. The limit is for the network alone: whoever asks waits no longer than it wants to, for this and for all else.
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
            // The server has spoken; unless it is full, it will say the same again.
            (refusal, mysql::Error::MySqlError(e)) if e.code != TOO_MANY => refusal,
            (refusal, _) => Refusal::Busy(refusal.into_error()),
        })?;
        Ok(MySql { connection, address: address.clone(), lost: false })
    }

    fn noted<T>(&mut self, result: mysql::Result<T>) -> Result<T, Refusal> {
        result.map_err(|e| {
            let (refusal, lost) = refusal(&self.address, &e);
            self.lost |= lost;
            refusal
        })
    }
}

impl Client for MySql {
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
        // Times are asked for as numbers.
        Value::NULL | Value::Date(..) | Value::Time(..) => Cell::Null,
    }
}

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

/// What went wrong, and whether the connection is gone with it.
fn refusal(address: &Address, error: &mysql::Error) -> (Refusal, bool) {
    let (code, text) = match error {
        mysql::Error::MySqlError(e) => (e.code, format!("error {}: {}", e.code, e.message)),
        mysql::Error::DriverError(e) => (0, e.to_string()),
        mysql::Error::IoError(e) => (0, e.to_string()),
        mysql::Error::TlsError(e) => (0, e.to_string()),
        mysql::Error::CodecError(e) => (0, e.to_string()),
        e => (0, e.to_string()),
    };
    // What is not the server's word is the network's, in one wrapping or another, and leaves nobody knowing what comes next.
    let lost = !matches!(error, mysql::Error::MySqlError(_)) || GONE.contains(&code);
    let error = anyhow!("{}", address.without_credentials(&text));
    if RETRY.contains(&code) { (Refusal::Busy(error), lost) } else { (Refusal::Broken(error), lost) }
}
