//! MySQL and MariaDB.
//!
//! Statements use the text protocol. None is prepared, because a server may allow none.
//!
//! **No waiting for locks.** A transaction that waits for a lock makes others wait for the locks it holds. So
//! MariaDB is told to refuse at once, and the caller tries again. A transaction that never waits is not part
//! of a deadlock either, which the server might resolve by rolling Glance's transaction back. (Glance finds a
//! row by one index or another, and takes the locks of a row and of its index entries in an order that cannot
//! be matched here.) On MySQL the shortest possible wait is a second.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::anyhow;
use mysql::prelude::Queryable as _;
use mysql::{ClientIdentity, Conn, DriverError, OptsBuilder, SslOpts, Value};

use super::cell::Cell;
use super::tunnel::Tunnel;
use super::url::Address;
use super::worker::ServerConnection;
use crate::database::refusal::Refusal;
use crate::net::authorities::trusting_only;
use crate::net::tls::{TlsMode, system_authorities, without_manual};

/// The settings of the session. MariaDB is told not to wait for rows at all. To MySQL the part in `/*M! */`
/// is a comment, so that it waits a second, its least. The second line is for servers whose defaults protect
/// people at a prompt: they would cut long reads short, or refuse deletions.
const SESSION: [&str; 2] = [
    "SET SESSION innodb_lock_wait_timeout = 1 /*M! - 1 */, lock_wait_timeout = 1, autocommit = 1",
    "SET SESSION sql_safe_updates = 0, sql_big_selects = 1, sql_select_limit = 18446744073709551615",
];

/// Deadlock; lock wait timeout; row changed since the snapshot (MariaDB); lock not granted at once; row
/// exists by now; statement killed (by MySQL also when it shuts down, before it ends the connection).
const RETRY: [u16; 6] = [1213, 1205, 1020, 3572, 1062, 1317];
/// Too many connections: in all, of this user, or by its own limit.
const TOO_MANY: [u16; 3] = [1040, 1203, 1226];
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
    ///
    /// Where encryption is only to be used if the server offers it, a server that cannot encrypt, or not in a
    /// way that is supported here, is talked to without. A certificate that the client refuses may be one
    /// that the settings pin, which it cannot verify.
    pub(super) fn connect(address: &Address, limit: Duration) -> Result<Self, Refusal> {
        let encrypted = tls(address);
        let may_be_plain = address.tls.mode == TlsMode::Offered;
        let connected = match Self::open(address, limit, encrypted)? {
            Err(error) if may_be_plain && is_of_tls(&error) => Self::open(address, limit, None)?,
            Err(error) if may_be_pinned(address, &error) => Self::open_pinned(address, limit)?,
            connected => connected,
        };
        let connection = connected.map_err(|e| match (refusal(address, &e).0, &e) {
            // The server itself refused. Unless it is full, it will refuse again.
            (refusal, mysql::Error::MySqlError(e)) if !TOO_MANY.contains(&e.code) => refusal,
            (refusal, mysql::Error::MySqlError(_)) => Refusal::Busy(refusal.into_error()),
            (refusal, mysql::Error::DriverError(e)) if unsupported_login(e).is_some() => refusal,
            (refusal, _) => Refusal::Lost(refusal.into_error()),
        })?;
        Ok(MySql { connection, address: address.clone(), lost: false })
    }

    /// Connects once. Fails itself only if the certificate authorities cannot be used.
    fn open(
        address: &Address,
        limit: Duration,
        encrypted: Option<SslOpts>,
    ) -> Result<mysql::Result<Conn>, Refusal> {
        let options = options(address, limit).ssl_opts(encrypted);
        let options = match (&address.socket, address.hosts.first()) {
            (Some((path, _)), _) => options.socket(path.to_str()),
            (None, Some((host, port))) => options.ip_or_hostname(Some(host.clone())).tcp_port(*port),
            (None, None) => options,
        };
        trusting_only(&address.tls, || Conn::new(options)).map_err(Refusal::Broken)
    }

    /// Connects once, and has the certificate verified by the other end of a tunnel.
    fn open_pinned(address: &Address, limit: Duration) -> Result<mysql::Result<Conn>, Refusal> {
        let (host, port) = address.hosts.first().cloned().unwrap_or_default();
        let tunnel = Tunnel::open(&address.tls, &host, port, limit).map_err(Refusal::Lost)?;
        let connected = Conn::new(options(address, limit).socket(tunnel.path().to_str()));
        match connected {
            // If the server itself refused, it has said so.
            Err(error) if !matches!(error, mysql::Error::MySqlError(_)) => match tunnel.failure() {
                Some(why) => Err(Refusal::Lost(anyhow!("{}", address.without_credentials(&why)))),
                None => Ok(Err(error)),
            },
            connected => Ok(connected),
        }
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
        let rows: mysql::Result<Vec<mysql::Row>> = self.connection.query(with_texts(sql, texts));
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

/// Returns the options that do not depend on the way to the server.
fn options(address: &Address, limit: Duration) -> OptsBuilder {
    OptsBuilder::new()
        .user(address.user.clone())
        .pass(address.password.clone())
        .db_name(Some(address.database.clone()))
        .prefer_socket(false)
        .tcp_connect_timeout(Some(limit))
        .stmt_cache_size(0)
        .init(SESSION.to_vec())
}

/// True if the client has refused a certificate that the file of authorities may hold itself.
fn may_be_pinned(address: &Address, error: &mysql::Error) -> bool {
    address.tls.ca.is_some()
        && address.socket.is_none()
        && error.to_string().contains("invalid peer certificate")
}

/// Puts each text in the place of its `?`, as digits: nothing in it can be read as a part of the statement.
fn with_texts(sql: &str, texts: &[String]) -> String {
    texts.iter().fold(sql.to_owned(), |sql, text| {
        let digits = text.bytes().fold(String::new(), |mut digits, byte| {
            let _ = write!(digits, "{byte:02x}");
            digits
        });
        sql.replacen('?', &format!("_utf8mb4 X'{digits}'"), 1)
    })
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
    if tls.mode == TlsMode::Off {
        return None;
    }
    let identity = tls.identity.clone().map(|(certificate, key)| ClientIdentity::new(certificate, key));
    Some(
        SslOpts::default()
            .with_root_cert_path(tls.ca.clone().or_else(system_authorities))
            .with_client_identity(identity)
            .with_danger_skip_domain_validation(tls.mode == TlsMode::Authority)
            .with_danger_accept_invalid_certs(matches!(tls.mode, TlsMode::Offered | TlsMode::Unverified)),
    )
}

/// True if an error came before the login, because the server and this program share no encryption.
fn is_of_tls(error: &mysql::Error) -> bool {
    matches!(error, mysql::Error::TlsError(_) | mysql::Error::DriverError(DriverError::TlsNotSupported))
}

/// Returns the error for an account that logs in in a way which the client does not know.
fn unsupported_login(error: &DriverError) -> Option<String> {
    let name = match error {
        DriverError::UnknownAuthPlugin(name) => name,
        DriverError::CleartextPluginDisabled => "mysql_clear_password",
        DriverError::OldMysqlPasswordDisabled => "mysql_old_password",
        _ => return None,
    };
    Some(format!(
        "the account logs in with '{name}', which is not supported: use an account with \
         caching_sha2_password, mysql_native_password, ed25519 or parsec"
    ))
}

/// Returns the refusal for an error, and true if the connection is lost with it.
fn refusal(address: &Address, error: &mysql::Error) -> (Refusal, bool) {
    let (code, text) = match error {
        mysql::Error::MySqlError(e) => (e.code, format!("error {}: {}", e.code, e.message)),
        mysql::Error::DriverError(e) => (0, unsupported_login(e).unwrap_or_else(|| e.to_string())),
        mysql::Error::IoError(e) => (0, e.to_string()),
        mysql::Error::TlsError(e) => (0, e.to_string()),
        mysql::Error::CodecError(e) => (0, e.to_string()),
        e => (0, e.to_string()),
    };
    // Any other error is the network's, in one wrapping or another. After it the state of the connection is
    // unknown.
    let lost = !matches!(error, mysql::Error::MySqlError(_)) || GONE.contains(&code);
    let error = anyhow!("{}", address.without_credentials(&without_manual(text)));
    if RETRY.contains(&code) { (Refusal::Busy(error), lost) } else { (Refusal::Broken(error), lost) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;
    use crate::database::opening::Purpose;
    use crate::database::{Database, Patience};
    use crate::interrupt::{Interrupt, Wait};

    /// The packets that answer each packet of a client.
    type Answers = &'static [&'static [&'static [u8]]];

    const DENIED: &[&[u8]] = &[b"\xff\x15\x04#28000nobody gets in"];

    /// Starts a server without TLS that greets, and then answers each packet of a client with the next of
    /// these.
    fn server(answers: Answers) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A client goes away in the middle.
                let _ = serve(&mut stream.unwrap(), answers);
            }
        });
        port
    }

    fn serve(stream: &mut TcpStream, answers: Answers) -> std::io::Result<()> {
        let packet = |n: usize, body: &[u8]| [&[body.len() as u8, 0, 0, n as u8], body].concat();
        // Protocol 10; the eight bytes after the zero are half of the nonce.
        let greeting = b"\x0a8.0.0\0\x01\0\0\0nonce-89\0\x09\xa2\x2d\x02\0\x08\0\x15\0\0\0\0\0\0\0\0\0\0\
                         nonce-abcdef\0mysql_native_password\0";
        stream.write_all(&packet(0, greeting))?;
        for answer in answers {
            let mut head = [0; 4];
            stream.read_exact(&mut head)?;
            stream.read_exact(&mut vec![0; usize::from(head[0]) + (usize::from(head[1]) << 8)])?;
            for (n, body) in (usize::from(head[3]) + 1..).zip(*answer) {
                stream.write_all(&packet(n, body))?;
            }
        }
        stream.read(&mut [0]).map(drop)
    }

    /// Returns the error with which the connection to such a server ends.
    fn refused(answers: Answers) -> String {
        let url = format!("mysql://g:s3cret@127.0.0.1:{}/glance", server(answers));
        let limit = Duration::from_secs(10);
        let patience = Patience { limit, retries: Some(0), interval: limit };
        let wait = Wait { limit, interrupt: Interrupt::default() };
        let opened = Database::open(Address::parse(&url).unwrap(), patience, Purpose::Look, &wait);
        format!("{:#}", opened.err().unwrap().into_error())
    }

    #[test]
    fn a_way_to_log_in_that_is_not_supported_is_named() {
        let found = refused(&[&[b"\xfesha256_password\0nonce-89nonce-abcdef\0"]]);
        assert!(found.contains("'sha256_password', which is not supported: use an account with"), "{found}");
        let found = refused(&[&[b"\xfemysql_clear_password\0"]]);
        assert!(found.contains("'mysql_clear_password', which is not supported"), "{found}");
    }

    #[test]
    fn the_ways_to_log_in_of_mariadb_are_supported() {
        const ED25519: &[&[u8]] = &[b"\xfeclient_ed25519\0nonce-89nonce-abcdefnonce-89nonc"];
        const PARSEC: &[&[u8]] = &[b"\xfeparsec\0nonce-89nonce-abcdefnonce-89nonc"];
        const SALT: &[&[u8]] = &[b"P\0saltsaltsaltsaltss"];
        for answers in [&[ED25519, DENIED] as Answers, &[PARSEC, SALT, DENIED]] {
            let found = refused(answers);
            assert!(found.contains("nobody gets in"), "{found}");
        }
    }

    #[test]
    fn an_answer_that_makes_the_client_panic_is_reported_as_what_it_is() {
        const WELCOME: &[&[u8]] = &[b"\0\0\0\x02\0\0\0"];
        const COLUMN: &[u8] = b"\x03def\0\0\0\x01x\0\x0c\x21\0\xff\0\0\0\xfd\0\0\0\0\0";
        const END: &[u8] = b"\xfe\0\0\x02\0";
        // Two columns, where one was asked for.
        const TWO: &[&[u8]] = &[b"\x02", COLUMN, COLUMN, END, b"\x011\x012", END];
        let found = refused(&[WELCOME, TWO]);
        assert!(found.contains("the database client failed") && !found.contains("did not answer"), "{found}");
    }
}
