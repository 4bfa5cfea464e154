//! TLS to database servers: whose certificate is accepted, and for which name.

use std::time::Duration;

use crate::support::central::*;
use crate::support::env::*;
use crate::support::servers::{Database, Kind, MariaDb, PostgreSql, Server};

fn tls_is_verified(kind: Kind) {
    let c = Central::new(kind, FIVE);
    let (ca, other) = (c.db.server_file("ca.pem"), c.db.server_file("other.pem"));
    let cases = if kind == MariaDb {
        vec![
            ("127.0.0.1", format!("ssl_ca={ca}"), 0),
            ("127.0.0.1", format!("ssl_ca={other}"), 3),
            ("127.0.0.1", "ssl=true".into(), 3),
            ("127.0.0.1", "ssl_verify_cert=false".into(), 0),
            ("localhost", format!("ssl_ca={ca}"), 3),
            ("localhost", format!("ssl_ca={ca}&ssl_check_hostname=false"), 0),
            ("localhost", format!("ssl_ca={other}&ssl_check_hostname=false"), 3),
            ("127.0.0.1", "ssl_ca=/nonexistent/ca.pem".into(), 3),
        ]
    } else {
        vec![
            ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}"), 0),
            ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={other}"), 3),
            ("127.0.0.1", "sslmode=require".into(), 3),
            ("127.0.0.1", "sslmode=prefer".into(), 0),
            ("127.0.0.1", "channel_binding=require".into(), 0),
            ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}&channel_binding=require"), 0),
            ("127.0.0.1", "sslmode=disable&channel_binding=require".into(), 3),
            ("127.0.0.1", "sslmode=disable".into(), 0),
            ("localhost", format!("sslmode=verify-full&sslrootcert={ca}"), 3),
            ("localhost", format!("sslmode=verify-ca&sslrootcert={ca}"), 0),
            ("localhost", format!("sslmode=require&sslrootcert={ca}"), 0),
            ("localhost", format!("sslmode=verify-ca&sslrootcert={other}"), 3),
            ("127.0.0.1", "sslmode=verify-full&sslrootcert=/nonexistent/ca.pem".into(), 3),
        ]
    };
    for (host, options, code) in cases {
        let url = format!("{}?{options}", c.db.url.replace("127.0.0.1", host));
        let conf = c.conf_with(&url, NODE, "");
        let run =
            c.env.raw(&["prune", "--dry-run", "--max-size", "3000B", "--config-file", &conf]).code(code);
        assert!(run.took < Duration::from_secs(5), "{options}: {:?}", run.took);
        assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
    }
}

#[test]
fn tls_is_verified_on_mariadb() {
    tls_is_verified(MariaDb);
}

#[test]
fn tls_is_verified_on_postgresql() {
    tls_is_verified(PostgreSql);
}

#[test]
fn an_account_that_needs_encryption_is_let_in_without_options_on_mariadb() {
    let c = Central::new(MariaDb, FIVE);
    let name = &c.db.name;
    c.db.sql(&format!("CREATE USER {name}@'127.0.0.1' IDENTIFIED BY 's3cret' REQUIRE SSL"));
    c.db.sql(&format!("GRANT SELECT ON {name}.* TO {name}@'127.0.0.1'"));
    let url = c.db.url.replace("g:", &format!("{name}:"));
    let list = |options: &str| {
        let conf = c.conf_with(&format!("{url}{options}"), NODE, "");
        c.env.raw(&["list", "--config-file", &conf])
    };
    for options in ["", "?charset=utf8", "?ssl_mode=PREFERRED"] {
        assert_eq!(list(options).ok().stdout.lines().count(), 6, "{options}");
    }
    let _ = list("?ssl_disabled=true").fails(3, &["cannot connect"]);
}

#[test]
fn an_ed25519_account_is_let_in_on_mariadb() {
    let server = Server::private(MariaDb);
    let c = Central::of(TestEnv::empty(Xattr), Database::on(&server, "glance"), NODE);
    c.images(FIVE);
    c.db.sql("INSTALL SONAME 'auth_ed25519'");
    c.db.sql("CREATE USER ed@'127.0.0.1' IDENTIFIED VIA ed25519 USING PASSWORD('s3cret')");
    c.db.sql(&format!("GRANT SELECT ON {}.* TO ed@'127.0.0.1'", c.db.name));
    let conf = c.conf_with(&c.db.url.replace("g:", "ed:"), NODE, "");
    assert_eq!(c.env.raw(&["list", "--config-file", &conf]).ok().stdout.lines().count(), 6);
    let conf = c.conf_with(&c.db.url.replace("g:s3cret", "ed:wr0ng"), NODE, "");
    let _ = c.env.raw(&["list", "--config-file", &conf]).fails(3, &["Access denied"]);
}

fn an_expired_certificate_is_refused(kind: Kind) {
    let server = Server::private(kind);
    let c = Central::of(TestEnv::empty(Xattr), Database::on(&server, "glance"), NODE);
    let ca = server.path("ca.pem");
    let options = match kind {
        MariaDb => [format!("ssl_ca={ca}"), format!("ssl_ca={ca}&ssl_check_hostname=false")],
        _ => ["full", "ca"].map(|how| format!("sslmode=verify-{how}&sslrootcert={ca}")),
    };
    let list = |options: &str| {
        let conf = c.conf_with(&format!("{}?{options}", c.db.url), NODE, "");
        c.env.raw(&["list", "--config-file", &conf])
    };
    for options in &options {
        let _ = list(options).ok();
    }
    server.expire();
    until("the new certificate", || list(&options[0]).code == 3);
    for options in &options {
        let _ = list(options).fails(3, &["xpired"]);
    }
}

#[test]
fn an_expired_certificate_is_refused_on_mariadb() {
    an_expired_certificate_is_refused(MariaDb);
}

#[test]
fn an_expired_certificate_is_refused_on_postgresql() {
    an_expired_certificate_is_refused(PostgreSql);
}
