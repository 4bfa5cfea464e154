//! The settings of the service: what is refused, in which words, and that `--check` refuses all of it.

use crate::support::env::*;
use crate::support::running::free_port;
use crate::support::service::Service;

const NONE: &str = "auth_strategy = none";

/// Runs `serve` with settings that it refuses, with and without `--check`.
#[track_caller]
fn refused(env: &TestEnv, settings: &str, arguments: &[&str], code: i32, says: &[&str]) {
    let conf = env.conf(&format!("[cache_api]\n{NONE}\n{settings}\n"));
    let line = ["serve", "--allow-root", "--config-file", &conf];
    let run = env.raw(&[&line[..], arguments].concat()).fails(code, says);
    for word in ["integer", "out of range integral", "invalid socket", "invalid IP"] {
        assert!(!run.stderr.contains(word), "{word}: {run:?}");
    }
    env.raw(&[&line[..], arguments, &["--check"]].concat()).fails(2, says);
}

#[test]
fn a_check_refuses_whatever_the_start_would_refuse() {
    let env = TestEnv::sqlite(FIVE);
    let port = free_port();
    // With a socket of systemd, these would do.
    for (settings, arguments) in [("", &["--bind", "none"][..]), ("bind_port = 0", &[])] {
        let conf = env.conf(&format!("[cache_api]\n{NONE}\n{settings}\n"));
        let line = [&["serve", "--allow-root", "--config-file", &conf], arguments].concat();
        env.raw(&line).fails(2, &["there is nothing to do"]);
        let checked = env.raw(&[&line[..], &["--check"]].concat()).ok();
        assert!(checked.stdout.contains("in order for a socket that systemd hands over"), "{checked:?}");
    }
    for (bind, metrics) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "[::]"),
        ("127.0.0.1", "[::ffff:127.0.0.1]"),
        ("::1", "[::]"),
    ] {
        let settings = format!("bind_host = {bind}\nbind_port = {port}\nmetrics_bind = {metrics}:{port}");
        refused(&env, &settings, &[], 2, &["metrics_bind", &format!("{port}"), "at the same address"]);
    }
    let place = format!("127.0.0.1:{port}");
    refused(&env, "", &["--bind", &place, "--bind", &place], 2, &["at the same address"]);
    let socket = format!("unix:{}", env.outside("s.sock").display());
    refused(&env, "", &["--bind", &socket, "--bind", &socket], 2, &["at the same address"]);
    let long = format!("unix:/{}", "x".repeat(107));
    refused(&env, "", &["--bind", &long], 2, &["at most 107 bytes", "has 108"]);
    let file = env.write("file", "");
    refused(&env, "", &["--bind", &format!("unix:{file}")], 3, &["no socket: it is not replaced"]);
    let nowhere = format!("unix:{}/no/x.sock", env.outside("").display());
    refused(&env, "", &["--bind", &nowhere], 3, &["cannot listen at", "No such file or directory"]);
    // An address of documents, which no host has.
    let elsewhere = "192.0.2.1:0";
    let conf = env.conf(&Service::settings(&env, &format!("metrics_bind = {elsewhere}")));
    let line = ["serve", "--allow-root", "--config-file", &conf];
    let says = ["glance-api.conf:", ": [cache_api] metrics_bind: cannot listen at 192.0.2.1"];
    env.raw(&line).fails(3, &says);
    env.raw(&[&line[..], &["--check"]].concat()).fails(2, &says);
    if rustix::process::geteuid().is_root() {
        let conf = env.conf(&Service::settings(&env, ""));
        let line = ["serve", "--config-file", &conf];
        env.raw(&line).fails(2, &["does not run as root"]);
        env.raw(&[&line[..], &["--check"]].concat()).fails(2, &["does not run as root"]);
    }
}

#[test]
fn a_check_for_a_socket_of_systemd_judges_who_may_call() {
    let env = TestEnv::sqlite(FIVE);
    let settings = keystone("https://localhost:1", "interface = foo");
    let conf = env.conf(&format!("[cache_api]\nbind_port = 0\n{settings}\n"));
    let line = ["serve", "--allow-root", "--check", "--config-file", &conf];
    env.raw(&line).fails(2, &["[keystone_authtoken] interface is \"foo\""]);
}

#[test]
fn a_check_that_cannot_be_told_fails() {
    let env = TestEnv::sqlite(FIVE);
    let conf = env.conf(&Service::settings(&env, ""));
    let mut command = env.command("/bin/sh");
    let line = "exec \"$0\" serve --allow-root --check --config-file \"$1\" > /dev/full";
    env.finish(command.args(["-c", line, BINARY, &conf]))
        .fails(1, &["cannot write the result to standard output"]);
}

#[test]
fn a_check_passes_while_the_service_runs() {
    let env = TestEnv::sqlite(FIVE);
    let port = free_port();
    let conf = env.conf(&Service::settings(&env, &format!("bind_port = {port}")));
    let service = Service::at(&env, &conf, &[]);
    let check = env.raw(&["serve", "--allow-root", "--check", "--config-file", &conf]).ok();
    assert!(check.stdout.contains("in order"), "{check:?}");
    service.ask("GET /healthcheck", "").is(200);
}

#[test]
fn nonsense_is_no_setting() {
    let env = TestEnv::sqlite(FIVE);
    for (setting, says) in [
        (
            "prune_interval = 1ms",
            "[cache_api] prune_interval is \"1ms\", but must be at least 1 s, or 0 for never",
        ),
        (
            "clean_interval = 999ms",
            "[cache_api] clean_interval is \"999ms\", but must be at least 1 s, or 0 for never",
        ),
        (
            "prefetch_interval = 0.5",
            "[cache_api] prefetch_interval is \"0.5\", but must be at least 1 s, or 0 for never",
        ),
        ("poll_interval = 0", "[cache_api] poll_interval is \"0\", but must be at least 1 s"),
        ("poll_interval = 10ms", "[cache_api] poll_interval is \"10ms\", but must be at least 1 s"),
        ("prune_interval = 1000000w", "'1000000w' is too long: give at most 100000d"),
        ("operation_timeout = 0", "[cache_api] operation_timeout is \"0\", but must be at least 1 s"),
        (
            "client_socket_timeout = 1ms",
            "[cache_api] client_socket_timeout is \"1ms\", but must be at least 1 s",
        ),
        ("max_header_line = 100000000", "max_header_line is \"100000000\", but must be at most 65536"),
        ("max_connections = 100000000", "max_connections is \"100000000\", but must be at most 65536"),
        (
            "disable_by_file_path = off",
            "[cache_api] disable_by_file_path is \"off\", but must be an absolute path",
        ),
        (
            "cert_file = c.pem\nkey_file = /k.pem",
            "[cache_api] cert_file is \"c.pem\", but must be an absolute path",
        ),
        (
            "cert_file = /c.pem\nkey_file = k.pem",
            "[cache_api] key_file is \"k.pem\", but must be an absolute path",
        ),
        ("bind_socket = api.sock", "[cache_api] bind_socket is \"api.sock\", but must be an absolute path"),
        ("public_endpoint = foo", "[cache_api] public_endpoint is \"foo\", which is no http URL"),
        (
            "public_endpoint = http://u:s3cretpw@h",
            "[cache_api] public_endpoint is \"http://(credentials)@h\", but must not contain credentials",
        ),
        (
            "cert_file = /etc/passwd\nkey_file = /k.pem",
            "[cache_api] cert_file is \"/etc/passwd\", which has no",
        ),
        ("bind_host = 192.0.2.9", "[cache_api] auth_strategy = none is only for a Unix socket"),
        ("bind_port = 99999", "[cache_api] bind_port is 99999; a port is at most 65535"),
        ("bind_host = localhost", "[cache_api] bind_host is \"localhost\", which is no IP address"),
        ("metrics_bind = localhost:1", "[cache_api] metrics_bind is \"localhost:1\"; give IP-ADDRESS:PORT"),
    ] {
        refused(&env, setting, &[], 2, &[says, "glance-api.conf:"]);
    }
}

#[test]
fn the_line_of_a_service_that_is_ready_has_all_places() {
    let env = TestEnv::sqlite(FIVE);
    let service = Service::start(&env, "metrics_bind = 127.0.0.1:0");
    let log = service.stderr();
    let line = log.lines().find(|line| line.contains("is ready")).unwrap();
    assert!(line.contains("api.sock, metrics at 127.0.0.1:") && !line.ends_with(":0"), "{line}");
}

/// Runs `serve` with settings that it takes with a warning, with `--check`, and runs it.
#[track_caller]
fn warned(env: &TestEnv, settings: &str, says: &[&str]) {
    let conf = env.conf(&format!("{}{settings}\n", Service::settings(env, "")));
    env.raw(&["serve", "--allow-root", "--config-file", &conf, "--check"]).ok().says(says);
    let service = Service::at(env, &conf, &[]);
    assert!(says.iter().all(|words| service.stderr().contains(words)), "{says:?}: {}", service.stderr());
}

#[test]
fn the_start_refuses_what_each_operation_would_refuse() {
    let env = TestEnv::sqlite(FIVE);
    for (setting, says) in [
        (
            "image_cache_max_size = 10GB",
            "image_cache_max_size is \"10GB\", but must be a whole number of 0 or more, without a unit",
        ),
        ("image_cache_max_size = -1", "image_cache_max_size is \"-1\", but must be a whole number of 0 or"),
        ("image_cache_max_size =", "image_cache_max_size is \"\", but must be a whole number of 0 or more"),
        ("image_cache_stall_time = 1d", "image_cache_stall_time is \"1d\", but must be a whole number of 0"),
        (
            "image_cache_driver = redis",
            "image_cache_driver is \"redis\", but must be one of centralized_db, sqlite, xattr",
        ),
        ("image_cache_dir = cache", "image_cache_dir is \"cache\", but a service needs an absolute path"),
    ] {
        refused(&env, &format!("[DEFAULT]\n{setting}"), &[], 2, &[says, "glance-api.conf:"]);
    }
    let file = env.write("file", "");
    let says = ["cannot use the directory set by", "glance-api.conf:"];
    refused(&env, &format!("[DEFAULT]\nimage_cache_dir = {file}"), &[], 2, &says);
}

#[test]
fn the_start_refuses_a_wrong_database_where_it_is_needed() {
    let env = TestEnv::sqlite(FIVE);
    let central = "[DEFAULT]\nimage_cache_driver = centralized_db";
    let set = "image_cache_driver is centralized_db";
    refused(&env, central, &[], 2, &[set, "[database] connection is not set", "glance-api.conf:"]);
    let wrong = "[database]\nconnection = s3cret";
    let url = "cannot use the URL of the database in [database] connection (set by ";
    let says = [url, "glance-api.conf:", "it must be a URL such as"];
    for (settings, arguments, why) in [
        (central, &["--bind", "none"][..], set),
        ("prefetch_interval = 15m", &["--bind", "none"], "[cache_api] prefetch_interval is 15m"),
        ("", &[], "the calls of the API ask the database"),
    ] {
        let interval = if settings == central { "prune_interval = 5m\n" } else { "" };
        let settings = format!("{interval}{settings}\n{wrong}");
        refused(&env, &settings, arguments, 2, &[&says[..], &[why]].concat());
        let conf = env.conf(&format!("[cache_api]\n{NONE}\n{settings}\n"));
        let line = ["serve", "--allow-root", "--check", "--config-file", &conf];
        let run = env.raw(&[&line[..], arguments].concat()).code(2);
        assert!(!run.stderr.contains("s3cret"), "{run:?}");
    }
    let connection = "[database]\nconnection = mysql://glance@localhost/glance";
    let says = [set, "worker_self_reference_url is not set", "glance-api.conf:"];
    refused(&env, &format!("{central}\n{connection}"), &[], 2, &says);
    let retries = format!("prefetch_interval = 15m\n{connection}\nmax_retries = many");
    refused(&env, &retries, &["--bind", "none"], 2, &["[database] max_retries is \"many\", but must be"]);
}

#[test]
fn the_start_refuses_prefetches_that_can_fetch_nothing() {
    let env = TestEnv::sqlite(FIVE);
    let none = ["--bind", "none"];
    let interval = "[cache_api] prefetch_interval is 15m";
    let says = [interval, "needs Glance's database", "[database] connection is not set", "glance-api.conf:"];
    refused(&env, "prefetch_interval = 15m", &none, 2, &says);
    let connection = "[database]\nconnection = mysql://glance@localhost/glance";
    let settings = format!("prefetch_interval = 15m\n{connection}\n[glance_store]\nweight = heavy");
    refused(&env, &settings, &none, 2, &["[glance_store] weight is \"heavy\"", "glance-api.conf:"]);
    let settings = format!("prefetch_interval = 15m\n{connection}\n[glance_store]\nstores = cinder");
    let says = [interval, "images of cinder are read through Glance's API only", "there are no credentials"];
    refused(&env, &settings, &none, 2, &says);
    let settings = format!("[cache_api]\nprefetch_interval = 15m\n{connection}\n[glance_store]\n");
    warned(
        &env,
        &format!("{settings}stores = file,cinder"),
        &["images of cinder are read through", "credent"],
    );
}

#[test]
fn a_start_warns_of_what_may_be_mended_while_it_runs() {
    let env = TestEnv::sqlite(FIVE);
    let missing = env.outside("no").display().to_string();
    warned(
        &env,
        &format!("[DEFAULT]\nimage_cache_dir = {missing}"),
        &["warning: cache directory", "does not exist; until then, each operation fails"],
    );
    warned(
        &env,
        &format!("[glance_cache]\nkeep_from = {missing}"),
        &["warning: cannot use keep_from (set by ", "until then, no image is pruned"],
    );
    let connection = "[database]\nconnection = mysql://glance@localhost/glance";
    let settings = format!("{connection}\n[glance_store]\nweight = heavy");
    warned(&env, &settings, &["[glance_store] weight is \"heavy\"", "queued images are not fetched"]);
}

#[test]
fn a_pipe_in_the_settings_is_not_waited_for() {
    let env = TestEnv::sqlite(FIVE);
    let pipe = env.outside("pipe").display().to_string();
    system(&["mkfifo", &pipe]);
    warned(&env, &format!("[glance_cache]\nkeep_from = {pipe}"), &["it is not a regular file"]);
    let conf = env.conf(&format!("image_cache_max_size = 3000\n[glance_cache]\nkeep_from = {pipe}"));
    env.raw(&["prune", "--config-file", &conf]).fails(2, &["keep_from", "it is not a regular file"]);
    // On the command line, somebody writes to it.
    let line = "exec \"$0\" prune --cache-dir \"$1\" --max-size 1000B --keep-from <(echo \"$2\")";
    let mut shell = env.command("/bin/bash");
    env.finish(shell.args(["-c", line, BINARY, env.dir().to_str().unwrap(), &id('a')])).ok();
    assert_eq!(env.left(), "a");
}

#[test]
fn a_wrong_setting_that_nothing_needs_is_a_warning() {
    let env = TestEnv::sqlite(FIVE);
    let unneeded = "nothing that this service does needs it";
    for (interval, settings, says) in [
        (
            "prune_interval",
            "image_cache_stall_time = 1d",
            ["image_cache_stall_time is \"1d\", but must be", unneeded],
        ),
        (
            "clean_interval",
            "image_cache_max_size = 10GB",
            ["image_cache_max_size is \"10GB\", but", unneeded],
        ),
        ("clean_interval", "image_cache_driver = redis", ["image_cache_driver is \"redis\", but", unneeded]),
        (
            "prune_interval",
            "[database]\nconnection = nonsense",
            [
                "cannot use the URL of the database",
                "prune does not remove first what Glance no longer serves",
            ],
        ),
    ] {
        let conf = format!("[cache_api]\n{NONE}\n{interval} = 5m\n[DEFAULT]\n{settings}\n");
        let conf = env.conf(&conf);
        let line = ["serve", "--allow-root", "--check", "--bind", "none", "--config-file", &conf];
        env.raw(&line).ok().says(&[&["warning: "][..], &says].concat());
    }
}

/// Returns the settings of a service that asks a Keystone at this address.
fn keystone(url: &str, lines: &str) -> String {
    format!(
        "auth_strategy = keystone\n[keystone_authtoken]\nauth_type = password\nauth_url = {url}\n\
         username = glance\npassword = s3cret\nproject_name = service\nuser_domain_name = Default\n\
         project_domain_name = Default\nwww_authenticate_uri = https://keystone.example:5000\n{lines}"
    )
}

#[test]
fn the_start_refuses_settings_with_which_keystone_is_never_asked() {
    let env = TestEnv::sqlite(FIVE);
    let certificates = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates");
    let (junk, empty) = (env.write("junk", "junk\n"), env.write("empty", ""));
    let only = format!("{certificates}/server.pem");
    let no = env.outside("no").display().to_string();
    let (cafile, certfile) = ("[keystone_authtoken] cafile is ", "[keystone_authtoken] certfile is ");
    for (lines, option, file) in [
        (format!("cafile = {no}"), cafile, &no),
        (format!("cafile = {junk}"), cafile, &junk),
        (format!("cafile = {empty}"), cafile, &empty),
        (format!("cafile = {certificates}/server.key"), cafile, &format!("{certificates}/server.key")),
        (format!("certfile = {only}"), certfile, &only),
        (format!("certfile = {only}\nkeyfile = {junk}"), certfile, &only),
        (format!("certfile = {no}"), certfile, &no),
    ] {
        let option = format!("{option}{file:?}, but must be a file with ");
        let says = ["glance-api.conf:", &*option];
        refused(&env, &keystone("https://localhost:1", &lines), &[], 2, &says);
    }
    let pipe = env.outside("pipe").display().to_string();
    system(&["mkfifo", &pipe]);
    for name in ["cafile", "certfile", "keyfile"] {
        let other = if name == "keyfile" { format!("certfile = {only}\n") } else { String::new() };
        let lines = format!("{other}{name} = {pipe}");
        refused(&env, &keystone("https://localhost:1", &lines), &[], 2, &["it is not a regular file"]);
    }
    let says = ["[keystone_authtoken] interface is \"foo\", but must be one of public, internal, admin"];
    refused(&env, &keystone("http://localhost:1", "interface = foo"), &[], 2, &says);
    let says = ["glance-api.conf:", ": cannot use [keystone_authtoken] auth_url: it is not a URL"];
    refused(&env, &keystone("localhost", ""), &[], 2, &says);
    let login = keystone("http://localhost:1", "").replace("auth_type = password", "auth_type = v2password");
    let says = ["glance-api.conf:", ": [keystone_authtoken] auth_type: the plugin \"v2password\""];
    refused(&env, &login, &[], 2, &says);
}

#[test]
fn a_key_that_is_not_that_of_the_certificate_is_told() {
    let env = TestEnv::sqlite(FIVE);
    let certificates = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates");
    let files = |key: &str| format!("cert_file = {certificates}/server.pem\nkey_file = {key}");
    let says =
        ["glance-api.conf:", ": [cache_api] cert_file is ", ": the key is not that of the certificate"];
    refused(&env, &files(&format!("{certificates}/pinned.key")), &[], 2, &says);
    refused(&env, &files("/nonexist"), &[], 2, &["[cache_api] key_file is \"/nonexist\": cannot read a key"]);
}

/// A log that cannot be written does not stop the start.
#[test]
fn a_check_warns_of_a_log_that_cannot_be_written() {
    let env = TestEnv::sqlite(FIVE);
    let conf = env.conf(&Service::settings(&env, ""));
    let line = ["serve", "--allow-root", "--check", "--config-file", &conf];
    let log = env.outside("no/x.log").display().to_string();
    env.raw(&[&line[..], &["--log-file", &log]].concat()).ok().says(&["warning: cannot log to ", &log]);
}

#[test]
fn what_keystones_middleware_takes_is_taken_with_a_warning() {
    let env = TestEnv::sqlite(FIVE);
    let certificates = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates");
    let mut both = std::fs::read_to_string(format!("{certificates}/server.pem")).unwrap();
    both += &std::fs::read_to_string(format!("{certificates}/server.key")).unwrap();
    let both = env.write("both.pem", both);
    let ignored = "[keystone_authtoken] identity_uri is ignored beside auth_type: remove it";
    for (url, lines, says) in [
        (
            "http",
            "http_request_max_retries = -1".to_owned(),
            &["max_retries is -1, which is taken for 0"][..],
        ),
        ("http", "http_request_max_retries = 99".to_owned(), &["max_retries is 99, which is taken for 10"]),
        ("http", "keyfile = /no".to_owned(), &["[keystone_authtoken] keyfile is ignored: without certfile"]),
        (
            "http",
            "identity_uri = http://old:35357\nadmin_user = a\nadmin_password = s3cret$x".to_owned(),
            &[ignored, "admin_user is ignored beside auth_type", "admin_password is ignored beside"],
        ),
        ("http", "cafile = /no".to_owned(), &["no connection uses it, as auth_url"]),
        ("https", format!("cafile = {certificates}/ca.pem\ncertfile = {both}"), &[]),
        ("https", "insecure = true\ncafile = /no".to_owned(), &["insecure is set"]),
        (
            "http",
            "www_authenticate_uri = foo".to_owned(),
            &["www_authenticate_uri is \"foo\", which is no http"],
        ),
        ("http", "interface =".to_owned(), &[]),
        ("http", "interface = adminURL".to_owned(), &[]),
    ] {
        let settings = format!("[cache_api]\n{}", keystone(&format!("{url}://localhost:1"), &lines));
        let conf = env.conf(&format!("{}{settings}\n", Service::settings(&env, "")));
        let run = env.raw(&["serve", "--allow-root", "--check", "--config-file", &conf]).ok().says(says);
        assert!(!run.stderr.contains("s3cret"), "{run:?}");
        let warnings = run.stderr.lines().filter(|line| line.starts_with("warning: "));
        assert!(warnings.clone().all(|line| line.contains("glance-api.conf:")), "{run:?}");
        assert_eq!(warnings.count(), says.len(), "{lines}: {run:?}");
    }
    let settings = keystone("http://localhost:1", "").replace("project_name = service\n", "");
    let conf = env.conf(&format!("{}[cache_api]\n{settings}\n", Service::settings(&env, "")));
    let says =
        ["warning: [keystone_authtoken] project_name is not set: unless the user has a default project"];
    env.raw(&["serve", "--allow-root", "--check", "--config-file", &conf]).ok().says(&says);
}
