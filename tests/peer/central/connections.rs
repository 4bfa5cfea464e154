//! Every way to name a database server, and servers that let nobody in.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::support::central::*;
use crate::support::env::*;
use crate::support::servers::{Database, Kind, MariaDb, PostgreSql, Server, Session};

fn every_way_to_a_server_is_really_taken(kind: Kind) {
    let odd = "p@ss/w:rd?x#y%z+1 &=\u{43f}\u{430}";
    let encoded: String = odd.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
    let c = five(kind);
    let (port, name, socket) = (c.db.port(), &c.db.name, c.db.server_file("s"));
    let directory = c.db.server_file("");
    if kind == MariaDb {
        c.db.sql(&format!("CREATE USER 'o@d'@'127.0.0.1' IDENTIFIED BY '{odd}'"));
        c.db.sql(&format!("GRANT SELECT ON {name}.* TO 'o@d'@'127.0.0.1'"));
        c.db.sql("CREATE USER nopass@'127.0.0.1'");
        c.db.sql(&format!("GRANT SELECT ON {name}.* TO nopass@'127.0.0.1'"));
    } else {
        c.db.sql(&format!("CREATE ROLE \"o@d\" LOGIN PASSWORD '{odd}'"));
        c.db.sql("GRANT SELECT ON cached_images, node_reference TO \"o@d\"");
    }
    let ca = c.db.server_file("ca.pem");
    let mut ways = if kind == MariaDb {
        vec![
            format!("mysql+pymysql://g:s3cret@localhost/{name}?unix_socket={socket}"),
            format!("mysql+mysqldb://g:s3cret@localhost:1/{name}?unix_socket={}", socket.replace('/', "%2F")),
            // Nothing to encrypt on a socket.
            format!(
                "mysql://g:s3cret@/{name}?unix_socket={socket}&ssl_ca={ca}\
                 &charset=utf8&charset=utf8mb4&plugin=dbcounter"
            ),
            format!("mariadb+pymysql://nopass:@127.0.0.1:{port}/{name}"),
            format!("mysql+pymysql://nopass@127.0.0.1:{port}/{name}"),
            format!("mysql+pymysql://g:s3cret@[::1]:{port}/{name}?ssl_ca={ca}"),
            format!("mysql+pymysql://o%40d:{encoded}@127.0.0.1:{port}/{name}"),
        ]
    } else {
        vec![
            format!("postgresql://g:s3cret@/{name}?host={directory}&port={port}"),
            format!("postgresql://g:s3cret@/{name}?host=127.0.0.1:1&host=127.0.0.1:{port}"),
            format!(
                "postgresql://g:s3cret@127.0.0.1:{port}/{name}?connect_timeout=0&application_name=a&application_name=b"
            ),
            format!("postgresql://g:s3cret@[::1]:{port}/{name}?sslmode=verify-full&sslrootcert={ca}"),
            format!("postgresql://o%40d:{encoded}@127.0.0.1:{port}/{name}"),
        ]
    };
    if TcpListener::bind("[::1]:0").is_err() {
        println!("NOT TRIED, because this machine has no ::1: a server there");
        ways.retain(|way| !way.contains("[::1]"));
    }
    for way in &ways {
        let conf = c.conf_with(&way.replace('$', "$$"), NODE, "");
        let run = c.env.raw(&["list", "--config-file", &conf]).ok();
        assert_eq!(run.stdout.lines().count(), 6, "{way}: {run:?}");
    }
    println!("{kind:?}: {} ways", ways.len());
}

#[test]
fn every_way_to_a_server_is_really_taken_on_mariadb() {
    every_way_to_a_server_is_really_taken(MariaDb);
}

#[test]
fn every_way_to_a_server_is_really_taken_on_postgresql() {
    every_way_to_a_server_is_really_taken(PostgreSql);
}

/// Runs `prune` with this URL: it has to fail within so many seconds, with nothing changed and no secret
/// told.
fn is_not_let_in(kind: Kind, at_most: u64, url: impl Fn(&Database) -> String) {
    let c = five(kind);
    let before = c.snapshot().1;
    let conf = c.conf_with(&url(&c.db), NODE, "");
    let run = c.env.raw(&["prune", "--max-size", "3000B", "--config-file", &conf]).code(3);
    let first = run.stderr.lines().next().unwrap_or_default();
    println!("{kind:?}: exit {} after {:.1} s: {first}", run.code, run.took.as_secs_f64());
    assert!(run.took < Duration::from_secs(at_most), "{:?}", run.took);
    let all = format!("{}{}", run.stdout, run.stderr);
    for secret in ["s3cret", "wr0ng", "'g'", "\"g\""] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
    assert_eq!(c.left(), "abcde");
    assert_eq!(c.snapshot().1, before);
}

/// Returns the URL of a database with another port.
fn at_port(database: &Database, port: u16) -> String {
    database.url.replace(&database.port().to_string(), &port.to_string())
}

/// A listener whose queue is full drops what comes: a black hole.
struct Hole {
    listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Hole {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
        let queue = std::iter::from_fn(connect).take(10_000).collect();
        Hole { listener, _queue: queue }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }
}

fn a_wrong_password(kind: Kind) {
    is_not_let_in(kind, 2, |db| db.url.replace("s3cret", "wr0ng%2Fpass"));
}

#[test]
fn a_wrong_password_on_mariadb() {
    a_wrong_password(MariaDb);
}

#[test]
fn a_wrong_password_on_postgresql() {
    a_wrong_password(PostgreSql);
}

fn an_unknown_user(kind: Kind) {
    is_not_let_in(kind, 2, |db| db.url.replace("g:", "nobody:"));
}

#[test]
fn an_unknown_user_on_mariadb() {
    an_unknown_user(MariaDb);
}

#[test]
fn an_unknown_user_on_postgresql() {
    an_unknown_user(PostgreSql);
}

fn a_refused_connection(kind: Kind) {
    is_not_let_in(kind, 2, |db| at_port(db, 1));
}

#[test]
fn a_refused_connection_on_mariadb() {
    a_refused_connection(MariaDb);
}

#[test]
fn a_refused_connection_on_postgresql() {
    a_refused_connection(PostgreSql);
}

fn an_unknown_database(kind: Kind) {
    is_not_let_in(kind, 2, |db| db.url.replace(&db.name, "absent"));
}

#[test]
fn an_unknown_database_on_mariadb() {
    an_unknown_database(MariaDb);
}

#[test]
fn an_unknown_database_on_postgresql() {
    an_unknown_database(PostgreSql);
}

fn a_black_hole(kind: Kind) {
    let hole = Hole::new();
    is_not_let_in(kind, 12, |db| at_port(db, hole.port()));
}

#[test]
fn a_black_hole_on_mariadb() {
    a_black_hole(MariaDb);
}

#[test]
fn a_black_hole_on_postgresql() {
    a_black_hole(PostgreSql);
}

fn a_black_hole_with_a_limit_of_two_seconds(kind: Kind) {
    let hole = Hole::new();
    is_not_let_in(kind, 4, |db| at_port(db, hole.port()) + "?connect_timeout=2");
}

#[test]
fn a_black_hole_with_a_limit_of_two_seconds_on_mariadb() {
    a_black_hole_with_a_limit_of_two_seconds(MariaDb);
}

#[test]
fn a_black_hole_with_a_limit_of_two_seconds_on_postgresql() {
    a_black_hole_with_a_limit_of_two_seconds(PostgreSql);
}

fn a_silent_server(kind: Kind) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    is_not_let_in(kind, 12, |db| at_port(db, silent.local_addr().unwrap().port()));
}

#[test]
fn a_silent_server_on_mariadb() {
    a_silent_server(MariaDb);
}

#[test]
fn a_silent_server_on_postgresql() {
    a_silent_server(PostgreSql);
}

fn a_host_that_cannot_be_resolved(kind: Kind) {
    is_not_let_in(kind, 12, |db| db.url.replace("127.0.0.1", "no-such-host.invalid"));
}

#[test]
fn a_host_that_cannot_be_resolved_on_mariadb() {
    a_host_that_cannot_be_resolved(MariaDb);
}

#[test]
fn a_host_that_cannot_be_resolved_on_postgresql() {
    a_host_that_cannot_be_resolved(PostgreSql);
}

fn attempts_go_on_as_the_options_say(kind: Kind) {
    let c = five(kind);
    let conf = c.conf_with(&at_port(&c.db, 1), NODE, "").replace("glance-api", "retry");
    let text = fs::read_to_string(c.env.outside("glance-api.conf")).unwrap();
    fs::write(&conf, text + "max_retries = 2\nretry_interval = 1\n").unwrap();
    let run = c.env.raw(&["prune", "--max-size", "3000B", "--config-file", &conf]).code(3);
    assert!((2..4).contains(&run.took.as_secs()), "{:?}", run.took);
}

#[test]
fn attempts_go_on_as_the_options_say_on_mariadb() {
    attempts_go_on_as_the_options_say(MariaDb);
}

#[test]
fn attempts_go_on_as_the_options_say_on_postgresql() {
    attempts_go_on_as_the_options_say(PostgreSql);
}

#[test]
fn of_several_hosts_the_next_is_taken_on_postgresql() {
    let (c, hole) = (five(PostgreSql), Hole::new());
    let port = c.db.port();
    let hosts = format!("@/{}?host=127.0.0.1:{}&host=127.0.0.1:{port}", c.db.name, hole.port());
    let url = c.db.url.replace(&format!("@127.0.0.1:{port}/{}", c.db.name), &hosts);
    let conf = c.conf_with(&url, NODE, "");
    let run = c.env.raw(&["prune", "--dry-run", "--max-size", "3000B", "--config-file", &conf]).ok();
    assert!(run.took < Duration::from_secs(8), "{:?}", run.took);
}

/// With oslo.db's own pause of ten seconds there would be no second attempt at all.
fn a_server_that_is_full_for_a_moment_is_asked_again(kind: Kind) {
    let c = five(kind);
    let name = c.db.name.clone();
    if kind == MariaDb {
        c.db.sql(&format!(
            "CREATE USER {name}@'127.0.0.1' IDENTIFIED BY 's3cret' WITH MAX_USER_CONNECTIONS 1"
        ));
        c.db.sql(&format!("GRANT SELECT ON {name}.* TO {name}@'127.0.0.1'"));
    } else {
        c.db.sql(&format!("CREATE ROLE {name} LOGIN PASSWORD 's3cret' CONNECTION LIMIT 1"));
        c.db.sql(&format!("GRANT SELECT ON cached_images, node_reference TO {name}"));
    }
    let url = c.db.url.replace("//g:", &format!("//{name}:"));
    let plain = url.split_once("://").unwrap().1;
    let session = if kind == MariaDb {
        Session::MySql(mysql::Conn::new(format!("mysql://{plain}").as_str()).unwrap())
    } else {
        let client = postgres::Client::connect(&format!("postgresql://{plain}"), postgres::NoTls);
        Session::PostgreSql(client.unwrap())
    };
    let conf = c.conf_with(&url, NODE, "");
    let held = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1500));
        drop(session);
    });
    let run = c.env.raw(&["list", "--config-file", &conf]).ok();
    println!("{kind:?}: {:.1} s", run.took.as_secs_f64());
    assert!(run.took > Duration::from_secs(1), "the session was not in the way: {:?}", run.took);
    held.join().unwrap();
}

#[test]
fn a_server_that_is_full_for_a_moment_is_asked_again_on_mariadb() {
    a_server_that_is_full_for_a_moment_is_asked_again(MariaDb);
}

#[test]
fn a_server_that_is_full_for_a_moment_is_asked_again_on_postgresql() {
    a_server_that_is_full_for_a_moment_is_asked_again(PostgreSql);
}

#[test]
fn a_server_that_prepares_no_statements_will_do_on_mariadb() {
    let server = Server::private(MariaDb);
    let c = Central::of(TestEnv::empty(Xattr), Database::on(&server, "glance"), NODE);
    c.images(FIVE);
    c.db.sql("SET GLOBAL max_prepared_stmt_count = 0");
    c.run("status", &["--all-nodes"]).ok();
    c.prune("3000").ok();
    assert_eq!(c.left(), "cde");
}

/// A synchronous standby that is away: the commit is done on the server, and confirmed by nobody.
#[test]
fn a_commit_without_an_answer_is_not_said_to_have_changed_nothing_on_postgresql() {
    let server = Server::private(PostgreSql);
    let c = Central::of(TestEnv::empty(Xattr), Database::on(&server, "glance"), NODE);
    c.images(FIVE);
    c.row(&id('f'), 60);
    c.db.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    c.db.sql("SELECT pg_reload_conf()");
    let run = c.run("clean", &["--repair", "--lock-timeout", "1s"]).code(3);
    println!("{}", run.stderr);
    assert!(run.stderr.contains("not known if"), "{}", run.stderr);
    assert!(!run.stderr.contains("nothing was changed"), "{}", run.stderr);
}
