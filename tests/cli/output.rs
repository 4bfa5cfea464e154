//! Output that nobody reads, that cannot be written, or that could grow without end; and runs without a home.

use std::fs::{self, File};

use crate::support::env::*;

#[test]
fn output_that_cannot_be_written_is_no_panic_and_costs_no_row() {
    let env = TestEnv::sqlite(FIVE);
    let mut command = env.of_cache("prune");
    command.args(["--max-size", "2000B"]).stdout(File::options().write(true).open("/dev/full").unwrap());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(env.left(), "de");
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let env = TestEnv::large(Xattr, 3000);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = env.of_cache("list").stdout(writer).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked") && !said.contains("roken pipe"), "{said}");
}

#[test]
fn no_home_and_no_terminal_are_no_problem() {
    let env = TestEnv::sqlite(FIVE);
    let mut command = env.of_cache("prune");
    env.finish(command.env_clear().args(["--max-size", "2000B"])).ok();
    assert_eq!(env.left(), "de");
}

#[test]
fn twenty_thousand_foreign_things_are_no_output_by_the_megabyte() {
    let env = TestEnv::sqlite(FIVE);
    env.sql(
        "INSERT INTO cached_images (image_id) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
         WHERE i < 20000) \
         SELECT printf('no uuid %050d', i) FROM n",
    );
    for n in 0..20_000 {
        fs::write(env.path(format!("foreign {n:050}")), "").unwrap();
    }
    env.run("status", &[]).ok();
    env.run("status", &["--check"]).code(1);
    env.prune(&["-v", "--max-size", "3000B"]).ok();
    env.run("list", &[]).ok();
    assert_eq!(env.images(), "cde");
}

#[test]
fn an_endless_list_of_images_to_keep_is_refused() {
    let env = TestEnv::xattr(FIVE);
    let limit = "ulimit -v 2000000; exec \"$0\" prune --cache-dir \"$1\" --driver xattr --max-size 0 \
                 --keep-from /dev/zero";
    let mut shell = env.command("/bin/sh");
    let run =
        env.finish(shell.args(["-c", limit, BINARY, env.dir().to_str().unwrap()])).fails(2, &["/dev/zero"]);
    assert!(!run.stderr.contains("memory"), "read until memory ran out: {run:?}");
    assert_eq!(env.left(), "abcde");
}
