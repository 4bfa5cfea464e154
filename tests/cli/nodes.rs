//! `prune`, `clean` and `prefetch` on nodes: requests, answers of every kind, totals, exit codes, signals.
//!
//! Nodes and Keystone are doubles here.

use std::fs;
use std::io::Write as _;
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::double::{Double, answer, database, keystone, ok, send};
use crate::support::env::*;

const TOKEN: &str = "s3cr3t-t0ken";
const ZERO: &str = r#"{"total_files_pruned": 0, "total_bytes_pruned": 0}"#;

/// Runs a command with a token in the environment, which must not be shown anywhere.
#[must_use = "check the exit code: ok(), code(), fails()"]
fn run(env: &TestEnv, arguments: &[&str]) -> Run {
    let run = env.finish(env.command(BINARY).args(arguments).env("OS_TOKEN", TOKEN));
    assert!(!(run.stdout.clone() + &run.stderr).contains(TOKEN), "{}{}", run.stdout, run.stderr);
    run
}

/// Runs a command with a password for this Keystone.
#[must_use = "check the exit code: ok(), code(), fails()"]
fn run_with_password(env: &TestEnv, keystone: &Double, arguments: &[&str]) -> Run {
    let mut command = env.command(BINARY);
    command.args(arguments).env("OS_AUTH_URL", keystone.url()).env("OS_USERNAME", "admin");
    command.env("OS_PASSWORD", "pa55word").env("OS_PROJECT_NAME", "admin");
    let run = env.finish(&mut command);
    let said = run.stdout.clone() + &run.stderr;
    assert!(!said.contains("pa55word") && !said.contains("token-"), "{said}");
    run
}

/// Returns the options that name these nodes.
fn named(nodes: &[&Double]) -> Vec<String> {
    nodes.iter().flat_map(|node| ["--os-image-url".to_owned(), node.url()]).collect()
}

/// Runs a command on these nodes.
#[must_use = "check the exit code: ok(), code(), fails()"]
fn on(env: &TestEnv, command: &[&str], nodes: &[&Double]) -> Run {
    let nodes = named(nodes);
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    run(env, &[command, &nodes].concat())
}

/// A node that repeats the token in its answer does not bring it into the output: `run` looks for it.
#[test]
fn a_token_that_a_node_repeats_is_not_shown() {
    let env = TestEnv::sqlite(&[]);
    let node = Double::says(answer("500 Oops", "", &format!("you sent {TOKEN}, and more")));
    on(&env, &["prune"], &[&node]).code(1).says(&["it answers 500: you sent ***, and more"]);
}

/// The token may come back in other forms than it was sent in.
#[test]
fn a_token_that_a_node_repeats_in_another_form_is_not_shown_either() {
    let env = TestEnv::sqlite(&[]);
    for form in ["s3cr3t%2Dt0ken", "s3cr3t\\u002dt0ken", "s3cr3t&#45;t0ken", "s3cr3t-<b>t0ken</b>"] {
        let node = Double::says(answer("500 Oops", "", &format!("you sent {form}, and more")));
        let run = on(&env, &["prune"], &[&node]).code(1).says(&["it answers 500"]);
        assert!(!(run.stdout.clone() + &run.stderr).contains("t0ken"), "{}", run.stderr);
        let headers = format!("Location: http://127.0.0.1:1/{form}\r\n");
        let node = Double::says(answer("302 Found", &headers, ""));
        let run = on(&env, &["prune"], &[&node]).code(1).says(&["which is not followed"]);
        assert!(!(run.stdout.clone() + &run.stderr).contains("t0ken"), "{}", run.stderr);
    }
    let node = Double::says(answer("302 Found", "Location: http://other.example/v2\r\n", ""));
    let says = "it redirects to http://other.example/v2, which is not followed";
    on(&env, &["prune"], &[&node]).code(1).says(&[says]);
}

/// A list is shown as it comes, but for the token.
#[test]
fn a_token_in_a_list_of_a_node_is_not_shown() {
    let env = TestEnv::sqlite(&[]);
    let body = format!(
        r#"{{"cached_images": [{{"image_id": "x {TOKEN}"}}], "queued_images": ["{TOKEN}", "{}", "s3cr3t%2Dt0ken"]}}"#,
        id('a')
    );
    let node = Double::says(ok(&body));
    let result = on(&env, &["list", "--format", "json"], &[&node]).ok().json();
    assert_eq!(result["queued_images"], json!(["***", id('a'), ""]));
    assert_eq!(result["cached_images"][0]["image_id"], "x ***");
}

/// A token or a password with a line break is a mistake of who set it, and is not sent.
#[test]
fn a_secret_with_control_characters_is_refused() {
    let env = TestEnv::sqlite(&[]);
    let (node, keystone) = (Double::prunes(1, 1), keystone("http://127.0.0.1:1"));
    let prune = |variables: &[(&str, &str)]| {
        let mut command = env.command(BINARY);
        command.args(["prune", "--os-image-url", &node.url()]).envs(variables.iter().copied());
        env.finish(&mut command)
    };
    for token in ["s3cret\n", "s3\tcret", "s3 cret", "s3cr\u{e9}t"] {
        let run = prune(&[("OS_TOKEN", token)]).fails(2, &["OS_TOKEN: it is no token"]);
        assert!(!run.stderr.contains("s3"), "{}", run.stderr);
    }
    let url = keystone.url();
    let user = [("OS_AUTH_URL", &*url), ("OS_USERNAME", "u"), ("OS_PASSWORD", "s3cret\n")];
    let run = prune(&user).fails(2, &["OS_PASSWORD: it has a line break or another control character"]);
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
    assert_eq!((node.lines().len(), keystone.lines().len()), (0, 0));
}

/// Returns the status of each node.
fn statuses(result: &Value) -> Vec<&str> {
    result["nodes"].as_array().unwrap().iter().map(|node| node["status"].as_str().unwrap()).collect()
}

#[test]
fn a_sum_that_is_too_large_is_the_largest_number() {
    let env = TestEnv::sqlite(FIVE);
    let (one, two) = (Double::prunes(u64::MAX, u64::MAX), Double::prunes(2, 1000));
    on(&env, &["prune"], &[&one, &two])
        .ok()
        .has(&json!({"total_files_pruned": u64::MAX, "total_bytes_pruned": u64::MAX, "nodes_done": 2}));
}

#[test]
fn named_nodes_are_asked_and_added_up() {
    let env = TestEnv::sqlite(FIVE);
    let (one, two) = (Double::prunes(5, 8000), Double::prunes(2, 1000));
    let run = on(&env, &["prune"], &[&one, &two]).ok();
    assert_eq!(run.stderr, "");
    let run = run.has(&json!({
        "total_files_pruned": 7, "total_bytes_pruned": 9000, "nodes_asked": 2, "nodes_done": 2,
        "errors": [], "dry_run": false,
    }));
    let result = run.json();
    assert_eq!(result["nodes"][0]["node"], one.url());
    assert_eq!(result["nodes"][1]["total_bytes_pruned"], 1000);
    for node in [&one, &two] {
        let [request] = &node.requests()[..] else { panic!("{:?}", node.requests()) };
        assert!(request.starts_with("POST /v2/cache/prune HTTP/1.1\n"), "{request}");
        for header in [format!("X-Auth-Token: {TOKEN}"), "Content-Length: 0".to_owned()] {
            assert!(request.lines().any(|line| line == header), "{request}");
        }
        assert!(request.contains("\nAccept: application/json\n") && request.ends_with('\n'), "{request}");
    }
    assert_eq!(env.images(), "abcde", "the cache of this host was pruned");
}

#[test]
fn clean_takes_the_empty_answer_of_glance_and_the_figures_of_ours() {
    let env = TestEnv::sqlite(&[]);
    let glance = Double::says(answer("200 OK", "Content-Type: text/html; charset=UTF-8\r\n", ""));
    let ours = Double::says(ok(r#"{"total_files_cleaned":3,"total_bytes_cleaned":70,"errors":[]}"#));
    let result = on(&env, &["clean"], &[&ours]).ok().json();
    assert_eq!((&result["total_files_cleaned"], &result["total_bytes_cleaned"]), (&json!(3), &json!(70)));
    // A sum of which a part is not known is not known.
    let result = on(&env, &["clean"], &[&ours, &glance]).ok().json();
    assert_eq!((&result["total_files_cleaned"], &result["nodes_done"]), (&json!(null), &json!(2)));
    assert_eq!(glance.lines(), ["POST /v2/cache/clean HTTP/1.1"]);
}

/// A node, and what is expected of it: its status, the status code, and a part of the message.
type Row = (Double, &'static str, Value, &'static str);

/// Prunes all nodes, and compares each with its row. Returns the result.
fn assert_outcomes(rows: &[Row]) -> Value {
    let env = TestEnv::sqlite(&[]);
    let nodes: Vec<&Double> = rows.iter().map(|(node, ..)| node).collect();
    let run = on(&env, &["prune"], &nodes).code(1);
    let result = run.json();
    for ((_, status, http, part), found) in rows.iter().zip(result["nodes"].as_array().unwrap()) {
        let error = found["error"].as_str().unwrap_or_default();
        assert_eq!((&found["status"], &found["http_status"]), (&json!(status), http), "{found}");
        assert!(error.contains(part), "{found}");
    }
    assert_eq!(result["nodes_asked"], rows.len());
    let failed = rows.iter().filter(|(_, status, ..)| *status != "done").count();
    assert_eq!(result["errors"].as_array().unwrap().len(), failed);
    assert!(!(run.stdout + &run.stderr).contains('\u{1b}'));
    result
}

#[test]
fn every_answer_has_its_status() {
    let plain = |status: &str| Double::says(answer(status, "", ""));
    let versions = ok(&json!({"versions": [{"id": "v2.17", "status": "CURRENT"}]}).to_string());
    let allow = answer("405 Method Not Allowed", "Allow: DELETE, PUT\r\n", "");
    let old = Double::new(move |request, stream| {
        send(stream, if request.starts_with("GET /versions ") { &versions } else { &allow });
    });
    let choices = json!({"versions": [{"id": "v2.18", "status": "CURRENT"}]}).to_string();
    let path = Double::says(answer("300 Multiple Choices", "Content-Type: application/json\r\n", &choices));
    let off = answer("404 Not Found", "", "Caching via API is not supported at this site.");
    let hostile = answer("500 Oops", "", "<h1>broken\u{1b}[31m</h1>");
    let elsewhere = Double::prunes(9, 9);
    let redirect = answer("307 Temporary Redirect", &format!("Location: {}\r\n", elsewhere.url()), "");
    let rows = [
        (Double::says(ok(ZERO)), "done", json!(200), ""),
        (plain("401 Unauthorized"), "refused", json!(401), "does not accept the token"),
        (plain("403 Forbidden"), "refused", json!(403), "wants the role admin"),
        (old, "not_supported", json!(405), "older than v2.18 (it says v2.17)"),
        (plain("404 Not Found"), "not_supported", json!(404), "no Cache API"),
        (plain("300 Multiple Choices"), "not_supported", json!(300), "does not have this call"),
        (Double::says(off), "caching_off", json!(404), "image_cache_dir is not set"),
        (plain("503 Service Unavailable"), "failed", json!(503), "answers 503"),
        (Double::says(hostile), "failed", json!(500), "broken\\u{1b}"),
        (plain("502 Bad Gateway"), "failed", json!(502), "answers 502"),
        (plain("504 Gateway Timeout"), "unknown", json!(504), "may still be at work"),
        (Double::says(redirect), "failed", json!(307), "not followed"),
        (Double::says(ok("<html>It works!</html>")), "failed", json!(200), "not of the Cache API"),
        (
            path,
            "not_supported",
            json!(300),
            "the path of this URL is wrong: glance-api there (v2.18) has no API",
        ),
    ];
    let result = assert_outcomes(&rows);
    assert_eq!(result["nodes"][3]["api_version"], "v2.17");
    assert_eq!(elsewhere.lines(), [""; 0], "the redirect was followed");
    // A call is never repeated, except with another token.
    assert_eq!(rows[10].0.lines().len(), 1);
}

/// Starts a node whose answer never ends.
fn is_endless(status: &'static str) -> Double {
    Double::new(move |_, stream| {
        send(stream, &format!("HTTP/1.1 {status}\r\nContent-Length: 99999999999\r\n\r\n"));
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    })
}

#[test]
fn answers_that_break_leave_it_unknown() {
    let rows = [
        (Double::says("SSH-2.0-OpenSSH_9.2\r\n"), "unknown", json!(null), "not HTTP: is it https?"),
        (Double::says(""), "unknown", json!(null), "without an answer"),
        (Double::says("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"), "unknown", json!(null), "broke"),
        (is_endless("200 OK"), "unknown", json!(null), "longer than"),
        (is_endless("500 Oops"), "failed", json!(500), "answers 500: xxx"),
    ];
    assert_outcomes(&rows);
    assert_eq!(rows[1].0.lines().len(), 1, "it was asked again");
}

#[test]
fn nodes_that_cannot_be_reached_are_unreachable() {
    let env = TestEnv::sqlite(&[]);
    let good = Double::prunes(1, 1);
    let plain = format!("https://127.0.0.1:{}", good.port);
    let run = run(&env, &["prune", "--os-image-url", "http://127.0.0.1:1", "--os-image-url", &plain]);
    let result = run.code(1).json();
    assert_eq!(statuses(&result), ["unreachable", "unreachable"]);
    assert_eq!(result["nodes_asked"], 2);
}

#[test]
fn a_busy_node_is_waited_for() {
    let env = TestEnv::sqlite(&[]);
    let busy = || answer("503 Service Unavailable", "Retry-After: 1\r\n", "");
    let asked = Mutex::new(0);
    let node = Double::new(move |_, stream| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        send(stream, &if *asked < 3 { busy() } else { ok(ZERO) });
    });
    let result = on(&env, &["prune"], &[&node]).ok().json();
    assert!(result["nodes"][0]["seconds"].as_f64().unwrap() >= 2.0, "{result}");
    assert_eq!(node.lines().len(), 3);
    let node = Double::says(busy());
    let result = on(&env, &["prune", "--timeout", "1500ms"], &[&node]).code(1).json();
    assert_eq!((statuses(&result), &result["nodes"][0]["http_status"]), (vec!["busy"], &json!(503)));
    assert_eq!(node.lines().len(), 2);
}

#[test]
fn a_node_is_not_waited_for_longer_than_there_is_time() {
    let env = TestEnv::sqlite(&[]);
    let busy = |after: &str| {
        let date = "Date: Sun, 29 Nov 2026 10:00:00 GMT\r\n";
        Double::says(answer("503 Service Unavailable", &format!("{date}Retry-After: {after}\r\n"), ""))
    };
    for (after, said) in [
        ("3600", "busy, and wants to be asked again in 1h, which is longer than there is time (--timeout)"),
        ("99999999999999999999999", "busy, and wants to be asked again in "),
        ("18446744073709551615", "busy, and wants to be asked again in "),
        ("Sun, 29 Nov 2026 10:40:00 GMT", "busy, and wants to be asked again in 40min"),
    ] {
        let (node, start) = (busy(after), Instant::now());
        let result = on(&env, &["prune", "--timeout", "20s"], &[&node]).code(1).json();
        assert_eq!(statuses(&result), ["busy"], "{result}");
        let error = result["nodes"][0]["error"].as_str().unwrap();
        assert!(error.contains(said), "{error}");
        assert_eq!(node.lines().len(), 1);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    // A date counts from the server's own.
    for after in ["Sun, 29 Nov 2026 10:00:02 GMT", "Sun, 29 Nov 2026 09:00:00 GMT"] {
        let asked = Mutex::new(0);
        let head = format!("Date: Sun, 29 Nov 2026 10:00:00 GMT\r\nRetry-After: {after}\r\n");
        let busy = answer("503 Service Unavailable", &head, "");
        let node = Double::new(move |_, stream| {
            let mut asked = asked.lock().unwrap();
            *asked += 1;
            send(stream, &if *asked < 2 { busy.clone() } else { ok(ZERO) });
        });
        let result = on(&env, &["prune"], &[&node]).ok().json();
        let seconds = result["nodes"][0]["seconds"].as_f64().unwrap();
        assert!((1.0..4.0).contains(&seconds), "{result}");
    }
}

#[test]
fn a_node_needs_some_time() {
    let env = TestEnv::sqlite(&[]);
    let node = Double::prunes(1, 1);
    for (command, timeout) in [("prune", "0"), ("clean", "0s"), ("list", "0"), ("status", "0ms")] {
        on(&env, &[command, "--timeout", timeout], &[&node])
            .fails(2, &["--timeout", "no node answers in no time: give a duration such as 30s or 15m"]);
    }
    assert_eq!(node.lines(), [""; 0]);
}

#[test]
fn a_node_that_never_answers_is_unknown_in_time() {
    let env = TestEnv::sqlite(&[]);
    let start = Instant::now();
    let node = Double::is_silent();
    let result = on(&env, &["prune", "--timeout", "1s"], &[&node]).code(1).json();
    assert_eq!(statuses(&result), ["unknown"]);
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(node.lines().len(), 1, "it was asked again");
}

/// A node that sends a byte now and then is not silent.
#[test]
fn a_node_that_trickles_is_not_told_as_silent() {
    let env = TestEnv::sqlite(&[]);
    let trickles = |begin: &'static str| {
        Double::new(move |_, stream| {
            send(stream, begin);
            while stream.write_all(b"x").is_ok() {
                sleep(Duration::from_millis(100));
            }
        })
    };
    for (begin, says) in [
        ("HTTP/1.1 200 OK\r\nX: ", "no whole answer: it was not complete within 2 s"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", "its answer broke: it was not complete in time"),
    ] {
        let run = on(&env, &["prune", "--timeout", "2s"], &[&trickles(begin)]).code(1).says(&[says]);
        assert!(!run.stderr.contains("nothing came"), "{}", run.stderr);
        assert_eq!(statuses(&run.json()), ["unknown"]);
    }
    let run = on(&env, &["prune", "--timeout", "1s"], &[&Double::is_silent()]).code(1);
    let _ = run.says(&["no answer: nothing came for 1 s"]);
}

#[test]
fn a_refused_token_is_renewed_once() {
    let env = TestEnv::sqlite(&[]);
    let keystone = keystone("http://127.0.0.1:1");
    let second = Double::new(|request, stream| {
        let is_second = request.contains("\nX-Auth-Token: token-2\n");
        send(stream, &if is_second { ok(ZERO) } else { answer("401 Unauthorized", "", "") });
    });
    let run = run_with_password(&env, &keystone, &["prune", "--os-image-url", &second.url()]).ok();
    assert_eq!(run.stderr, "");
    assert_eq!((second.lines().len(), keystone.lines().len()), (2, 2));
    let never = Double::says(answer("401 Unauthorized", "", ""));
    let run = run_with_password(&env, &keystone, &["prune", "--os-image-url", &never.url()]).code(1);
    assert_eq!(statuses(&run.json()), ["refused"]);
    assert_eq!(never.lines().len(), 2);
}

#[test]
fn without_a_token_nobody_is_asked() {
    let env = TestEnv::sqlite(&[]);
    let node = Double::prunes(1, 1);
    let refuses = Double::says(answer("401 Unauthorized", "", r#"{"error": {"message": "no"}}"#));
    let arguments = ["prune", "--os-image-url", &node.url()];
    run_with_password(&env, &refuses, &arguments).fails(3, &["refuses"]);
    env.raw(&arguments).fails(2, &["there are no credentials"]);
    assert_eq!(node.lines(), [""; 0]);
}

#[test]
fn all_nodes_of_the_database_are_asked() {
    let env = TestEnv::sqlite(FIVE);
    let nodes = [Double::prunes(1, 10), Double::prunes(2, 20), Double::says(answer("403 Forbidden", "", ""))];
    let urls: Vec<String> = nodes.iter().map(Double::url).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let database = database(&env, &urls);
    let run = run(&env, &["prune", "--all-nodes", &database]).code(1);
    run.has(&json!({
        "total_files_pruned": 3, "total_bytes_pruned": 30, "nodes_asked": 3, "nodes_done": 2,
    }));
    assert!(nodes.iter().all(|node| node.lines().len() == 1));
    assert_eq!(env.images(), "abcde");
}

/// Such URLs are those of one node, of which one is right: the other is asked only where the first is wrong.
#[test]
fn a_node_with_and_without_image_in_its_url_is_asked_once() {
    let env = TestEnv::sqlite(&[]);
    let is_at = |right: &'static str| {
        Double::new(move |request, stream| {
            let is_there = request.starts_with(&format!("POST {right}/v2/cache/prune "));
            let body = r#"{"total_files_pruned": 1, "total_bytes_pruned": 10}"#;
            send(stream, &if is_there { ok(body) } else { answer("404 Not Found", "", "") });
        })
    };
    let (both, plain, image, neither) =
        (Double::prunes(1, 10), is_at(""), is_at("/image"), Double::says(answer("404 Not Found", "", "")));
    let nodes = [&both, &plain, &image, &neither];
    let others = Double::prunes(1, 10);
    let urls: Vec<String> = nodes
        .iter()
        .flat_map(|node| [node.url(), node.url() + "/image", node.url() + "/image/v2"])
        // These are no such URLs.
        .chain([others.url() + "/a", others.url() + "/b", others.url() + "/a/images"])
        .collect();
    let database = database(&env, &urls.iter().map(String::as_str).collect::<Vec<_>>());
    let run = run(&env, &["prune", "--all-nodes", &database]).code(1);
    let run = run.has(&json!({"total_files_pruned": 6, "nodes_asked": 7, "nodes_done": 6}));
    let posts = |node: &Double| {
        let lines = node.lines().into_iter();
        lines.filter_map(|line| Some(line.strip_prefix("POST ")?.to_owned())).collect::<Vec<_>>()
    };
    let (first, second) = ("/v2/cache/prune HTTP/1.1", "/image/v2/cache/prune HTTP/1.1");
    assert_eq!(posts(&both), [first]);
    assert_eq!(posts(&plain), [first]);
    assert_eq!(posts(&image), [first, second]);
    assert_eq!(posts(&neither), [first, second]);
    assert_eq!(posts(&others).len(), 3);
    let result = run.json();
    let shown: Vec<&Value> = result["nodes"].as_array().unwrap().iter().map(|node| &node["node"]).collect();
    for url in [both.url(), plain.url(), image.url() + "/image", neither.url()] {
        assert!(shown.contains(&&json!(url)), "{url}: {shown:?}");
    }
    assert!(!shown.contains(&&json!(image.url())), "{shown:?}");
}

#[test]
fn a_web_server_at_the_root_of_a_node_does_not_hide_its_api() {
    let page = "<html><body>It works!</body></html>";
    for web in [
        answer("405 Method Not Allowed", "Allow: GET, HEAD\r\n", page),
        answer("405 Not Allowed", "", page),
        answer("301 Moved Permanently", "Location: https://127.0.0.1/\r\n", page),
        answer("200 OK", "Content-Type: text/html\r\n", page),
    ] {
        let env = TestEnv::sqlite(&[]);
        let answers = web.clone();
        let node = Double::new(move |request, stream| match request.split(' ').next() {
            _ if !request.contains(" /image/v2/cache/") => send(stream, &answers),
            Some("PUT") => send(stream, &answer("202 Accepted", "", "")),
            _ => send(stream, &ok(r#"{"total_files_pruned": 1, "total_bytes_pruned": 10}"#)),
        });
        let image = node.url() + "/image";
        let database = database(&env, &[&node.url(), &image]);
        let result = run(&env, &["prune", "--all-nodes", &database]).ok().json();
        assert_eq!((&result["nodes_done"], &result["nodes"][0]["node"]), (&json!(1), &json!(image)), "{web}");
        let result = run(&env, &["prefetch", "--all-nodes", &id('a'), &id('b'), &database]).ok().json();
        assert_eq!(result["nodes"][0]["node"], json!(image), "{web}");
        let puts: Vec<String> = node.lines().into_iter().filter(|line| line.starts_with("PUT")).collect();
        let first = format!("PUT /v2/cache/{} HTTP/1.1", id('a'));
        let others = ['a', 'b'].map(|letter| format!("PUT /image/v2/cache/{} HTTP/1.1", id(letter)));
        assert_eq!(puts, [vec![first], others.to_vec()].concat(), "{web}");
    }
}

#[test]
fn another_port_of_each_node_can_be_asked() {
    let env = TestEnv::sqlite(&[]);
    let node = Double::prunes(1, 10);
    let database = database(&env, &["http://127.0.0.1:9292/image", "http://127.0.0.1:9293/image/v2"]);
    let port = node.port.to_string();
    let result = run(&env, &["prune", "--all-nodes", "--nodes-port", &port, &database]).ok().json();
    // At that port both are the same node, and probably without a web server before it.
    assert_eq!(node.lines(), ["POST /v2/cache/prune HTTP/1.1"]);
    assert_eq!(result["nodes"][0]["node"], node.url());
}

#[test]
fn a_web_server_may_be_at_the_other_port() {
    let node = Double::new(move |request, stream| {
        let is_there = request.starts_with("POST /image/v2/cache/prune ");
        let body = r#"{"total_files_pruned": 1, "total_bytes_pruned": 10}"#;
        send(stream, &if is_there { ok(body) } else { answer("404 Not Found", "", "") });
    });
    let (image, port) = (format!("{}/image", node.url()), node.port.to_string());
    for urls in
        [&["http://127.0.0.1:9292/image"][..], &["http://127.0.0.1:9292", "http://127.0.0.1:9292/image"]]
    {
        let env = TestEnv::sqlite(&[]);
        let database = database(&env, urls);
        let result = run(&env, &["prune", "--all-nodes", "--nodes-port", &port, &database]).ok().json();
        assert_eq!((&result["nodes_asked"], &result["nodes"][0]["node"]), (&json!(1), &json!(image)));
    }
}

#[test]
fn urls_of_the_database_may_be_anything() {
    let env = TestEnv::sqlite(&[]);
    let good = Double::prunes(1, 10);
    let long = format!("http://{}", "a".repeat(10_000));
    let hostile = [
        "file:///etc/passwd",
        "http://admin:hunter2@127.0.0.1:1",
        "http://127.0.0.1\u{1b}[2J\u{7}:1",
        "http://127.0.0.1:1/?x=1",
        "gopher://127.0.0.1:1",
        "not a url",
        "",
        &long,
    ];
    let database = database(&env, &[&hostile[..], &[&good.url()]].concat());
    let run = run(&env, &["prune", "--all-nodes", &database]).code(1);
    let result = run.json();
    assert_eq!((&result["nodes_asked"], &result["nodes_done"]), (&json!(1), &json!(1)));
    let invalid = statuses(&result).into_iter().filter(|status| *status == "invalid_url").count();
    assert_eq!(invalid, hostile.len());
    let said = run.stdout.clone() + &run.stderr;
    assert!(!said.contains("hunter2") && !said.contains(['\u{1b}', '\u{7}']), "{said}");
    assert!(said.len() < 8000, "{}", said.len());
}

#[test]
fn an_endpoint_of_the_catalogue_is_no_node() {
    let env = TestEnv::sqlite(&[]);
    let (balancer, node) = (Double::prunes(9, 9), Double::prunes(1, 10));
    let keystone = keystone(&format!("{}/v2", balancer.url()));
    let database = database(&env, &[&balancer.url(), &node.url()]);
    let run = run_with_password(&env, &keystone, &["prune", "--all-nodes", &database]).code(1);
    let run = run.says(&["probably a load balancer"]);
    let result = run.json();
    assert_eq!((&result["nodes_asked"], &result["total_files_pruned"]), (&json!(1), &json!(1)));
    assert!(statuses(&result).contains(&"not_asked"));
    assert_eq!(balancer.lines(), [""; 0]);
    run_with_password(&env, &keystone, &["prune", "--os-image-url", &balancer.url()]).ok().has(&json!({
        "total_files_pruned": 9
    }));
}

#[test]
fn a_run_that_asks_nobody_is_exit_3() {
    let env = TestEnv::sqlite(&[]);
    let nodes = database(&env, &[]);
    run(&env, &["prune", "--all-nodes", &nodes]).fails(3, &["knows no node"]);
    let status = env.raw(&["status", "--all-nodes", &nodes]).ok().stdout;
    assert!(status.ends_with("\n\nno node is registered: a node is registered when glance-api is started\n"));
    let nodes = format!("--database=sqlite:///{}", env.outside("missing.sqlite").display());
    run(&env, &["prune", "--all-nodes", &nodes]).fails(3, &["does not exist"]);
    let other = TestEnv::sqlite(&[]);
    let nodes = database(&other, &["file:///etc/passwd"]);
    run(&other, &["clean", "--all-nodes", &nodes]).fails(3, &["no node was asked", "neither http nor https"]);
}

#[test]
fn no_variable_makes_a_command_ask_a_node() {
    let env = TestEnv::sqlite(FIVE);
    let node = Double::prunes(9, 9);
    let mut command = env.of_cache("prune");
    command.args(["--max-size", "3000B"]).env("OS_IMAGE_URL", node.url()).env("OS_CLOUD", "mine");
    command.env("OS_TOKEN", TOKEN).env("OS_AUTH_URL", node.url());
    env.finish(&mut command).ok().has(&json!({"total_files_pruned": 2}));
    assert_eq!(env.images(), "cde");
    assert_eq!(node.lines(), [""; 0]);
}

#[test]
fn options_that_a_node_cannot_be_asked_for_are_refused() {
    let env = TestEnv::sqlite(&[]);
    let node = Double::prunes(9, 9);
    let url = node.url();
    let id = id('a');
    for command in [
        &["prune", "--dry-run"][..],
        &["prune", "--max-size", "1GiB"],
        &["prune", "--target-size", "1GiB"],
        &["prune", "--min-free", "1GiB"],
        &["prune", "--min-age", "1h"],
        &["prune", "--keep", &id],
        &["prune", "--keep-from", "/dev/null"],
        &["prune", "--image", &id],
        &["prune", "--everything"],
        &["prune", "--older-than", "1d"],
        &["prune", "--forget-all"],
        &["prune", "--all-caches"],
        &["prune", "--require", "1GiB"],
        &["prune", "--cache-dir", "/tmp"],
        &["prune", "--skip-if-locked"],
        &["prune", "--lock-timeout", "1s"],
        &["prune", "--textfile", "/dev/null"],
        &["prune", "--all-nodes"],
        &["clean", "--dry-run"],
        &["clean", "--repair"],
        &["clean", "--stall-time", "1h"],
        &["clean", "--invalid-grace", "1h"],
        &["clean", "--forget-node", "http://a"],
        &["clean", "--all-caches"],
        &["clean", "--nodes-port", "1"],
    ] {
        run(&env, &[command, &["--os-image-url", &url]].concat()).fails(2, &["error: the argument"]);
    }
    for command in [
        &["prune", "--max-size", "1GiB"][..],
        &["prefetch", "--within-limit", &id],
        &["prefetch", "--enqueue", &id],
        &["prefetch", "--rate-limit", "1MiB", &id],
    ] {
        run(&env, &[command, &["--all-nodes"]].concat()).fails(2, &["error: the argument"]);
    }
    for command in
        [&["prune", "--jobs", "2"][..], &["prune", "--os-cloud", "x"], &["clean", "--timeout", "1s"]]
    {
        run(&env, command).fails(2, &["required arguments were not provided"]);
    }
    run(&env, &["prefetch", "--all-nodes"]).fails(2, &["required arguments were not provided"]);
    for (url, reason) in [
        ("http://admin:hunter2@127.0.0.1:1", "has credentials in it"),
        ("file:///etc/passwd", "neither http nor https"),
        ("127.0.0.1:9292", "is not a URL"),
        ("http://127.0.0.1:1?x", "has a query"),
    ] {
        let run = run(&env, &["prune", "--os-image-url", &node.url(), "--os-image-url", url]);
        let run = run.fails(2, &[reason]);
        assert!(!run.stderr.contains("hunter2") && !run.stdout.contains("hunter2"));
    }
    assert_eq!(node.lines(), [""; 0]);
}

#[test]
fn a_token_that_goes_over_the_network_unencrypted_is_a_warning() {
    let env = TestEnv::sqlite(&[]);
    let node = Double::prunes(1, 1);
    let mapped = format!("http://[::ffff:127.0.0.1]:{}", node.port);
    let run = run(&env, &["prune", "--os-image-url", &mapped, "--os-image-url", &node.url()]).ok();
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(
        run.stderr.starts_with("warning: the token goes unencrypted to http://[::ffff:"),
        "{}",
        run.stderr
    );
}

#[test]
fn nodes_are_asked_at_the_same_time() {
    let env = TestEnv::sqlite(&[]);
    let slow = || {
        Double::new(|_, stream| {
            sleep(Duration::from_millis(700));
            send(stream, &ok(ZERO));
        })
    };
    let nodes: Vec<Double> = (0..8).map(|_| slow()).collect();
    let nodes: Vec<&Double> = nodes.iter().collect();
    let start = Instant::now();
    on(&env, &["prune"], &nodes).ok().has(&json!({"nodes_done": 8}));
    assert!(start.elapsed() < Duration::from_millis(3500), "{:?}", start.elapsed());
    let start = Instant::now();
    on(&env, &["prune", "--jobs", "2"], &nodes).ok().has(&json!({"nodes_done": 8}));
    assert!(start.elapsed() >= Duration::from_millis(2800), "{:?}", start.elapsed());
}

/// 200 nodes of which eight are asked at a time take as long as 25 nodes do, one after the other.
#[test]
fn two_hundred_nodes_take_the_time_of_their_rounds() {
    let env = TestEnv::sqlite(&[]);
    let round = Duration::from_millis(200);
    let slow = || {
        Double::new(move |_, stream| {
            sleep(round);
            send(stream, &ok(r#"{"total_files_pruned": 1, "total_bytes_pruned": 10}"#));
        })
    };
    let nodes: Vec<Double> = (0..200).map(|_| slow()).collect();
    let urls: Vec<String> = nodes.iter().map(Double::url).collect();
    let database = database(&env, &urls.iter().map(String::as_str).collect::<Vec<_>>());
    let start = Instant::now();
    run(&env, &["prune", "--all-nodes", &database]).ok().has(&json!({
        "nodes_asked": 200, "nodes_done": 200, "total_files_pruned": 200, "total_bytes_pruned": 2000,
    }));
    let (took, least) = (start.elapsed(), round * 25);
    println!("200 nodes: {took:?}, {:.2} times {least:?}", took.as_secs_f64() / least.as_secs_f64());
    // A tenth more on a machine that does nothing else.
    assert!(took >= least && took < least.mul_f64(1.5), "{took:?}");
}

#[test]
fn images_are_queued_on_all_nodes() {
    let env = TestEnv::sqlite(&[]);
    let accepts = || Double::says(answer("202 Accepted", "", ""));
    let unknown = id('b');
    let (all, most) = (accepts(), {
        let unknown = unknown.clone();
        Double::new(move |request, stream| {
            let missing = answer("404 Not Found", "", &format!("Image {unknown} not found."));
            let queued = answer("202 Accepted", "", "");
            send(stream, if request.contains(&unknown) { &missing } else { &queued });
        })
    });
    let old = Double::says(answer("404 Not Found", "", "The resource could not be found."));
    let database = database(&env, &[&all.url(), &most.url(), &old.url()]);
    let command = ["prefetch", "--all-nodes", &database, &id('a'), &unknown, &id('c')];
    let text = run(&env, &[&command[..], &["--format", "text"]].concat()).code(1).stdout;
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(words.contains(&vec![&*most.url(), "failed", "2"]), "a part of the images: {text}");
    let run = run(&env, &command).code(1);
    let result = run.json();
    assert_eq!((&result["total_images_queued"], &result["nodes_done"]), (&json!(5), &json!(1)));
    for (node, lines) in [(&all, 6), (&most, 6), (&old, 2)] {
        // Of an old node the versions are asked for, too.
        let puts = node.lines().into_iter().filter(|line| line.starts_with("PUT /v2/cache/")).count();
        assert_eq!(puts, lines);
    }
    let of = |node: &Double| {
        let nodes = result["nodes"].as_array().unwrap();
        nodes.iter().find(|found| found["node"] == node.url()).unwrap().clone()
    };
    assert_eq!((&of(&most)["status"], &of(&most)["total_images_queued"]), (&json!("failed"), &json!(2)));
    assert_eq!(of(&old)["status"], "not_supported");
    run.says(&[&format!("image {unknown}: it answers 404")]);
}

#[test]
fn a_signal_ends_the_queue_of_a_node_between_two_images() {
    let env = TestEnv::sqlite(&[]);
    let node = Double::new(|_, stream| {
        sleep(Duration::from_secs(1));
        send(stream, &answer("202 Accepted", "", ""));
    });
    let (database, mut command) = (database(&env, &[&node.url()]), env.command(BINARY));
    command.args(["prefetch", "--all-nodes", &database, &id('a'), &id('b'), &id('c')]);
    let running = Running::start(command.env("OS_TOKEN", TOKEN), &env.outside(""));
    until("the node is at work", || !node.lines().is_empty());
    running.signal(Signal::TERM);
    let run = running.wait().code(143).says(&["stopped before 2 images"]);
    assert_eq!((statuses(&run.json()), node.lines().len()), (vec!["failed"], 1));
    assert_eq!(run.json()["total_images_queued"], 1);
}

#[test]
fn a_person_sees_a_table() {
    let env = TestEnv::sqlite(&[]);
    let (done, refused) = (Double::prunes(5, 8192), Double::says(answer("403 Forbidden", "", "")));
    let run = on(&env, &["prune", "--format", "text"], &[&done, &refused]).code(1);
    let text = run.stdout.replace(&done.port.to_string(), "DONE").replace(&refused.port.to_string(), "OTHER");
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["NODE", "STATUS", "FILES", "SIZE"]);
    assert_eq!(words[1], ["http://127.0.0.1:DONE", "done", "5", "8", "KiB"]);
    assert_eq!(words[2], ["http://127.0.0.1:OTHER", "refused", "-", "-"]);
    assert_eq!(words[3].join(" "), "pruned 5 files (8 KiB); 1 of 2 nodes done");
}

/// A log has the rows as lines of their own, and no head of a table.
#[test]
fn a_log_has_no_table() {
    let env = TestEnv::sqlite(&[]);
    let (done, refused) = (Double::prunes(5, 8192), Double::says(answer("403 Forbidden", "", "")));
    let log = env.outside("prune.log");
    let command = ["prune", "--format", "text", "--log-file", log.to_str().unwrap()];
    let run = on(&env, &command, &[&done, &refused]).code(1);
    assert!(run.stdout.starts_with("NODE "), "{}", run.stdout);
    let log = fs::read_to_string(log).unwrap();
    assert!(!log.contains("NODE"), "{log}");
    let lines: Vec<&str> = log.lines().filter_map(|line| line.split_once(" [-] ")).map(|(_, m)| m).collect();
    let of = |node: &Double| lines.iter().filter(|line| line.contains(&node.url())).count();
    // The refused node is an error of the run as well.
    assert_eq!((of(&done), of(&refused), lines.len()), (1, 2, 4), "{log}");
    assert_eq!(lines.last(), Some(&"pruned 5 files (8 KiB); 1 of 2 nodes done"), "{log}");
}

#[test]
fn a_signal_ends_the_run_within_seconds() {
    let env = TestEnv::sqlite(&[]);
    let (done, slow, silent, late) = (
        Double::prunes(1, 10),
        Double::new(|_, stream| {
            sleep(Duration::from_secs(3));
            send(stream, &ok(r#"{"total_files_pruned": 2, "total_bytes_pruned": 20}"#));
        }),
        Double::is_silent(),
        Double::prunes(4, 40),
    );
    let nodes = named(&[&done, &slow, &silent, &late]);
    let mut command = env.command(BINARY);
    command.args(["prune", "--jobs", "2"]).args(&nodes).env("OS_TOKEN", TOKEN);
    let start = Instant::now();
    let running = Running::start(&mut command, &env.outside(""));
    until("two nodes are at work", || !slow.lines().is_empty() && !silent.lines().is_empty());
    running.signal(Signal::INT);
    let run = running.wait().code(130);
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    let result = run.json();
    assert_eq!(statuses(&result), ["done", "done", "unknown", "not_asked"]);
    assert_eq!((&result["signal"], &result["total_files_pruned"]), (&json!("SIGINT"), &json!(3)));
    assert_eq!(late.lines(), [""; 0]);
}

#[test]
fn credentials_come_from_a_cloud() {
    let env = TestEnv::sqlite(&[]);
    let node = Double::prunes(1, 10);
    let keystone = keystone(&node.url());
    let clouds = env.write(
        "clouds.yaml",
        format!(
            "clouds:\n  mine:\n    auth:\n      auth_url: {}\n      username: admin\n      password: pa55word\n      \
             project_name: admin\n",
            keystone.url()
        ),
    );
    let prune = || {
        let mut command = env.command(BINARY);
        command.args(["prune", "--os-cloud", "mine", "--os-image-url", &node.url()]);
        env.finish(command.env("OS_CLIENT_CONFIG_FILE", &clouds)).ok().has(&json!({"total_files_pruned": 1}))
    };
    assert_eq!(prune().stderr, "");
    assert!(node.requests()[0].contains("\nX-Auth-Token: token-1\n"));
    fs::write(&clouds, fs::read_to_string(&clouds).unwrap() + "    verify: false\n").unwrap();
    let said = prune().stderr;
    assert!(said.contains("certificates are not verified") && said.lines().count() == 1, "{said}");
    // The token of another cloud is not sent there.
    let mut command = env.command(BINARY);
    command.args(["prune", "--os-cloud", "mine", "--os-image-url", &node.url()]).env("OS_TOKEN", TOKEN);
    env.finish(command.env("OS_CLIENT_CONFIG_FILE", &clouds)).ok();
    assert!(node.requests()[2].contains("\nX-Auth-Token: token-3\n"), "{}", node.requests()[2]);
}

/// Where the database has a password in the URL of a node, nothing shows it.
#[test]
fn the_password_in_the_url_of_a_node_is_not_shown() {
    let env = TestEnv::sqlite(&[]);
    let url = "http://u:s3cretpw@10.0.0.1:9292";
    let shown = "http://(credentials)@10.0.0.1:9292";
    let database = database(&env, &[url]);
    let dir = env.dir().to_str().unwrap();
    let prune = ["prune", "--cache-dir", dir, "--driver", "centralized_db", &database];
    let conf = env.conf(&format!("worker_self_reference_url = {url}\n"));
    for (arguments, code) in [
        (&["status", "--all-nodes", &database][..], 0),
        (&["status", "--all-nodes", "--format", "json", &database], 0),
        (&["status", "-v", "--config-file", &conf], 0),
        (&["clean", "--forget-node", "http://10.0.0.1", &database], 2),
        (&["clean", "--forget-node", url, "--dry-run", &database], 0),
        (&["clean", "--forget-node", url, "--config-file", &conf, &database], 2),
        (&[&prune[..], &["--node", "http://10.0.0.2"]].concat(), 2),
        (&[&prune[..], &["--node", "http://u:other-pw@10.0.0.1:9292"]].concat(), 2),
        (&prune, 2),
    ] {
        let run = run(&env, arguments).code(code);
        let said = run.stdout + &run.stderr;
        assert!(said.contains(shown), "{arguments:?}: {said}");
        assert!(!said.contains("s3cretpw") && !said.contains("other-pw"), "{arguments:?}: {said}");
    }
    run(&env, &["clean", "--forget-node", shown, &database])
        .fails(2, &["hint: give the URL as the database has it, with the credentials"]);
}

/// A signal before any node is asked ends the run as a signal does at any other time.
#[test]
fn a_signal_while_keystone_is_silent_ends_the_run() {
    let env = TestEnv::sqlite(&[]);
    let (node, keystone) = (Double::prunes(1, 10), Double::is_silent());
    let mut command = env.command(BINARY);
    command.args(["prune", "--os-image-url", &node.url()]).env("OS_AUTH_URL", keystone.url());
    command.env("OS_USERNAME", "admin").env("OS_PASSWORD", "pa55word");
    let running = Running::start(&mut command, &env.outside(""));
    until("Keystone is asked", || !keystone.lines().is_empty());
    running.signal(Signal::INT);
    let result = running.wait().code(130).json();
    assert_eq!((&result["signal"], &result["nodes_asked"]), (&json!("SIGINT"), &json!(0)));
    assert_eq!(node.lines(), [""; 0]);
}

/// Settings that are wrong are exit 2, with what is wrong about them.
#[test]
fn a_cloud_that_cannot_be_used_is_exit_2() {
    let env = TestEnv::sqlite(&[]);
    let node = Double::prunes(1, 10);
    let login = "auth: {auth_url: 'https://127.0.0.1:1', username: u, password: pa55word}";
    let directory = env.outside("").display().to_string();
    for (text, part) in [
        ("clouds: []\n".to_owned(), "clouds is a list, and has to be a mapping of names to clouds"),
        ("clouds: mine\n".to_owned(), "clouds is a text, and has to be a mapping"),
        ("clouds: {}\n".to_owned(), "has no clouds"),
        ("clouds: {mine: []}\n".to_owned(), "the cloud \"mine\" is a list, and has to be a mapping"),
        (
            format!("clouds: {{mine: {{cacert: {directory}/none.pem, {login}}}}}\n"),
            "cannot read certificate authorities from",
        ),
        (
            format!("clouds: {{mine: {{cacert: {directory}, {login}}}}}\n"),
            "it is a directory: name a file with the certificates (PEM)",
        ),
        (
            format!("clouds: {{mine: {{cert: {directory}/none.pem, {login}}}}}\n"),
            "cannot use the client certificate",
        ),
    ] {
        let clouds = env.write("clouds.yaml", &text);
        let mut command = env.command(BINARY);
        command.args(["prune", "--os-cloud", "mine", "--os-image-url", &node.url()]);
        let start = Instant::now();
        let run = env.finish(command.env("OS_CLIENT_CONFIG_FILE", &clouds)).fails(2, &[part]);
        assert!(!run.stderr.contains("is not reached"), "{}", run.stderr);
        assert!(start.elapsed() < Duration::from_secs(3), "{text}: {:?}", start.elapsed());
    }
    // With a token, Keystone is not asked, and the file is for the nodes.
    let mut command = env.command(BINARY);
    command.args(["list", "--os-image-url", "https://127.0.0.1:1"]).env("OS_TOKEN", TOKEN);
    command.env("OS_CACERT", format!("{directory}/none.pem"));
    env.finish(&mut command).fails(2, &["cannot read certificate authorities from"]);
}

const LIST: &str = r#"{"cached_images": [
    {"image_id": "ID-A", "hits": 3, "last_accessed": 1764000000.5, "last_modified": 1763000000, "size": 4096},
    {"image_id": "ID-B", "hits": 0, "last_accessed": 1765000000, "last_modified": 1763000000, "size": 1024}
], "queued_images": ["ID-C", "\u001b[2J"]}"#;

/// Starts a node with two images and two entries in the queue, one of them hostile.
fn with_images() -> Double {
    let list = LIST.replace("ID-A", &id('a')).replace("ID-B", &id('b')).replace("ID-C", &id('c'));
    let versions = json!({"versions": [{"id": "v2.18", "status": "CURRENT"}]}).to_string();
    Double::new(move |request, stream| {
        let is_list = request.starts_with("GET /v2/cache ");
        send(stream, &ok(if is_list { &list } else { &versions }));
    })
}

#[test]
fn the_images_of_a_node_are_listed() {
    let env = TestEnv::sqlite(FIVE);
    let node = with_images();
    let list = |arguments: &[&str]| on(&env, &[&["list"], arguments].concat(), &[&node]);
    let result = list(&["--format", "json"]).ok().json();
    assert_eq!((&result["node"], &result["cached_images"][0]["hits"]), (&json!(node.url()), &json!(3)));
    assert_eq!(result["queued_images"], json!([id('c'), "\\u{1b}[2J"]));
    assert_eq!(node.requests()[0].lines().next(), Some("GET /v2/cache HTTP/1.1"));
    let ids = |arguments: &[&str]| {
        let run = list(&[arguments, &["--format", "value", "--columns", "image"]].concat());
        run.ok().stdout.split_whitespace().map(|id| id.chars().next().unwrap()).collect::<String>()
    };
    assert_eq!(ids(&["--sort", "size", "--state", "tracked"]), "ba");
    assert_eq!(ids(&["--larger-than", "2KiB"]), "a");
    assert_eq!(ids(&["--limit", "1"]), "a");
    assert_eq!(ids(&[&id('c')]), "c");
    list(&[&id('d')]).fails(1, &["is not in the cache"]);
    let text = list(&[]).ok().stdout;
    assert!(text.contains("tracked") && text.contains("queued") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn the_state_of_a_node_is_shown() {
    let env = TestEnv::sqlite(FIVE);
    let node = with_images();
    on(&env, &["status", "--format", "json"], &[&node]).ok().has(&json!({
        "node": node.url(), "api_version": "v2.18", "images": 2, "bytes": 5120, "hits": 3, "queued": 2,
        "oldest_use": "2025-11-24T16:00:00Z", "newest_use": "2025-12-06T05:46:40Z",
    }));
    let text = on(&env, &["status"], &[&node]).ok().stdout;
    assert!(text.contains("images   2 images, 5 KiB\nqueued   2\n"), "{text}");
    assert!(text.contains("used     2025-11-24T16:00:00Z to 2025-12-06T05:46:40Z\n"), "{text}");
    on(&env, &["status", "--check"], &[&node]).fails(2, &["error: the argument"]);
}

/// A time that is none is null for programs.
#[test]
fn a_time_of_a_node_that_is_none_is_null() {
    let env = TestEnv::sqlite(&[]);
    for time in ["1e300", "-1e300", "0"] {
        let image = format!(r#"{{"image_id": "{}", "last_accessed": {time}, "size": 1}}"#, id('a'));
        let body = format!(r#"{{"cached_images": [{image}], "queued_images": []}}"#);
        let node = Double::says(ok(&body));
        on(&env, &["status", "--format", "json"], &[&node]).ok().has(&json!({
            "images": 1, "oldest_use": null, "newest_use": null,
        }));
        let text = on(&env, &["status"], &[&node]).ok().stdout;
        assert!(text.contains("used     -\n"), "{text}");
    }
}

#[test]
fn a_node_that_shows_nothing_is_exit_3() {
    let env = TestEnv::sqlite(&[]);
    for (node, part) in [
        (
            Double::says(answer("403 Forbidden", "", "")),
            "refused: the caller may not do that: the policy cache_list",
        ),
        (Double::says(answer("404 Not Found", "", "")), "not supported: there is no Cache API"),
        (Double::says(ok("{}")), "not that of the Cache API"),
        (Double::says(ok(r#"{"cached_images": [7], "queued_images": []}"#)), "not that of the Cache API"),
        (Double::says("nonsense\r\n\r\n"), "failed: "),
    ] {
        for (command, doing) in [("list", "cannot list http"), ("status", "cannot get the status of http")] {
            on(&env, &[command, "--format", "json"], &[&node]).fails(3, &[doing, part]);
        }
    }
    run(&env, &["list", "--os-image-url", "http://127.0.0.1:1"]).fails(3, &["unreachable: "]);
    run(&env, &["status", "--os-image-url", "http://a:b@127.0.0.1:1"]).fails(2, &["credentials in it"]);
    run(&env, &["list", "--all-nodes", "--os-image-url", "http://127.0.0.1:1"])
        .fails(2, &["error: the argument"]);
}
