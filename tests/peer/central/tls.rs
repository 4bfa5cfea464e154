//! TLS to database servers: whose certificate is accepted, and for which name.

use std::time::Duration;

use crate::support::central::*;
use crate::support::env::*;
use crate::support::servers::{Database, Kind, MariaDb, PostgreSql, Server, Session};

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

/// Two kinds of accounts that MySQL does not have; the second is MariaDB's since 11.6.
#[test]
fn accounts_of_mariadb_are_let_in_on_mariadb() {
    let server = Server::private(MariaDb);
    let c = Central::of(TestEnv::empty(Xattr), Database::on(&server, "glance"), NODE);
    c.images(FIVE);
    let mut root = Session::open(&c.db);
    root.sql("INSTALL SONAME 'auth_ed25519'");
    let has_parsec = root.try_sql("INSTALL SONAME 'auth_parsec'").is_ok();
    let plugins = ["ed25519", "parsec"];
    for plugin in plugins.into_iter().take(1 + usize::from(has_parsec)) {
        root.sql(&format!(
            "CREATE USER {plugin}@'127.0.0.1' IDENTIFIED VIA {plugin} USING PASSWORD('s3cret')"
        ));
        root.sql(&format!("GRANT SELECT ON {}.* TO {plugin}@'127.0.0.1'", c.db.name));
        let list = |account: &str| {
            let conf = c.conf_with(&c.db.url.replace("g:s3cret", account), NODE, "");
            c.env.raw(&["list", "--config-file", &conf])
        };
        assert_eq!(list(&format!("{plugin}:s3cret")).ok().stdout.lines().count(), 6, "{plugin}");
        let _ = list(&format!("{plugin}:wr0ng")).fails(3, &["Access denied"]);
        println!("{plugin} is let in");
    }
    if !has_parsec {
        println!("NOT TRIED, because this MariaDB does not have it: parsec");
    }
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
    server.present("expired.pem");
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

/// As administrators make them: self-signed, of X.509 version 3 and 1, and one of version 1 that an authority
/// signed. The file that is trusted is the certificate itself.
fn a_pinned_certificate_is_trusted_as_itself(kind: Kind) {
    let server = Server::private(kind);
    let c = Central::of(TestEnv::empty(Xattr), Database::on(&server, "glance"), NODE);
    c.images(FIVE);
    let openssl = |arguments: &str| {
        let line: Vec<String> = arguments
            .split(' ')
            .map(|word| if word.contains('.') { server.path(word) } else { word.into() })
            .collect();
        system(&[vec!["openssl"], line.iter().map(String::as_str).collect()].concat());
    };
    openssl(
        "req -x509 -days 2 -key server.key -subj /CN=localhost -addext subjectAltName=DNS:localhost -out pinned.pem",
    );
    openssl("req -new -key server.key -subj /CN=localhost -out old.csr");
    openssl("x509 -req -days 2 -in old.csr -signkey server.key -out pinned-old.pem");
    openssl("x509 -req -days 2 -in old.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out old.pem");
    let list = |host: &str, trusted: &str| {
        let file = server.path(trusted);
        let options = match kind {
            MariaDb => format!("ssl_ca={file}"),
            _ => format!("sslmode=verify-full&sslrootcert={file}"),
        };
        let url = format!("{}?{options}", c.db.url.replace("127.0.0.1", host));
        c.env.raw(&["list", "--config-file", &c.conf_with(&url, NODE, "")])
    };
    for name in ["pinned.pem", "pinned-old.pem", "old.pem"] {
        server.present(name);
        until("the new certificate", || list("localhost", name).code == 0);
        assert_eq!(list("localhost", name).ok().stdout.lines().count(), 6, "{name}");
        let _ = list("127.0.0.1", name).fails(3, &["cannot connect"]);
        let _ = list("localhost", "other.pem").fails(3, &["cannot connect"]);
        let by_authority = list("localhost", "ca.pem").fails(3, &["cannot connect"]);
        let is_named = by_authority.stderr.contains("X.509 version 1, which is not supported");
        assert_eq!(is_named, name != "pinned.pem", "{name}: {}", by_authority.stderr);
    }
}

#[test]
fn a_pinned_certificate_is_trusted_as_itself_on_mariadb() {
    a_pinned_certificate_is_trusted_as_itself(MariaDb);
}

#[test]
fn a_pinned_certificate_is_trusted_as_itself_on_postgresql() {
    a_pinned_certificate_is_trusted_as_itself(PostgreSql);
}
