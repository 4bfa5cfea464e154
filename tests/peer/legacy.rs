//! The old names in the very command lines of the field, with the very paths, in a mount name space of their
//! own.

use crate::support::deployed::*;
use crate::support::env::*;

mod as_root {
    use super::*;

    #[test]
    fn every_command_line_of_the_field_verbatim() {
        let mut run_lines = 0;
        for (who, line) in FIELD {
            let env = deployed(Sqlite, "etc/glance");
            let line = line.replace("ETC", "/etc/glance").replace("BIN", "/usr/bin");
            let script = format!(
                "mount -t overlay none -o lowerdir={root}/etc:/etc /etc && mount -t overlay none -o \
                 lowerdir={root}/bin:/usr/bin /usr/bin \
                 && exec env -i PATH=/usr/bin:/bin:/usr/sbin /bin/bash -c {line}",
                root = env.outside("").display().to_string().trim_end_matches('/'),
                line = quoted(&line)
            );
            let mut command = env.command("/usr/bin/unshare");
            command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args([
                "--mount",
                "/bin/bash",
                "-c",
                &script,
            ]);
            env.finish(&mut command).ok().silent();
            assert_done(&env, &line);
            println!("{who}: exit 0, silent: {line}");
            run_lines += 1;
        }
        println!("{run_lines} command lines, verbatim");
    }

    fn quoted(line: &str) -> String {
        format!("'{}'", line.replace('\'', "'\\''"))
    }
}
