//! The old tools as deployers run them: every command line found in the field, and caches configured as they
//! do it.

use super::env::*;
use super::images::small_database;

pub(crate) const CLEANER: &str = "glance-cache-cleaner";
pub(crate) const PRUNER: &str = "glance-cache-pruner";
pub(crate) const PREFETCHER: &str = "glance-cache-prefetcher";

/// Every command line found in the field for the three tools, as they stand in crontabs and job templates.
/// `BIN` is the directory with the tools, `ETC` stands for `/etc/glance`.
pub(crate) const FIELD: &[(&str, &str)] = &[
    ("puppet-glance, cleaner", "glance-cache-cleaner "),
    ("puppet-glance, pruner", "glance-cache-pruner "),
    ("puppet-glance, with options", "sleep `expr ${RANDOM} % 1`; glance-cache-pruner --config-dir ETC/"),
    ("openstack-ansible, pruner", "BIN/glance-cache-pruner"),
    ("openstack-ansible, cleaner", "BIN/glance-cache-cleaner"),
    ("RHOSO, cleaner", "/bin/bash -c \"BIN/glance-cache-cleaner --config-dir ETC/glance.conf.d\""),
    ("RHOSO, pruner", "/bin/bash -c \"BIN/glance-cache-pruner --config-dir ETC/glance.conf.d\""),
    (
        "CobaltCore",
        "set -eu; rc=0; glance-cache-pruner --config-dir ETC/glance-api.conf.d/ || rc=1; \
         glance-cache-cleaner --config-dir ETC/glance-api.conf.d/ || rc=1; exit $rc",
    ),
    ("StarlingX", "BIN/glance-cache-pruner --config-file ETC/glance-api.conf"),
    ("Chef, pruner", "BIN/glance-cache-pruner > /dev/null 2>&1"),
    ("Chef, cleaner", "BIN/glance-cache-cleaner > /dev/null 2>&1"),
    ("older puppet, pruner", "BIN/glance-cache-pruner"),
    ("older puppet, cleaner", "BIN/glance-cache-cleaner"),
    ("crowbar, pruner", "BIN/glance-cache-pruner"),
    ("source install, cleaner", "BIN/glance-cache-cleaner"),
    ("functional tests' shape", "glance-cache-cleaner --config-file ETC/glance-api.conf"),
    ("crowbar, prefetcher", "BIN/glance-cache-prefetcher"),
    ("functional tests, prefetcher", "glance-cache-prefetcher --config-file ETC/glance-api.conf"),
];

/// Makes a cache with something to do for both, limit 3000, configured in the places that all these deployers
/// use.
pub(crate) fn deployed(driver: Driver, etc: &str) -> TestEnv {
    let env = TestEnv::new(driver, FIVE);
    env.file("invalid/x", 1, 1);
    let connection = format!("[database]\nconnection = {}", small_database(&env, 'f', 500));
    env.file(format!("queue/{}", id('f')), 0, 1);
    let text = env.conf_text(&format!(
        "image_cache_max_size = 3000\n{connection}\n[glance_store]\nfilesystem_store_datadir = \
         {}\n[keystone_authtoken]\n\
         admin_password = secret",
        env.outside("store").display()
    ));
    for name in ["glance-api.conf", "glance.conf.d/00-config.conf", "glance-api.conf.d/10-cache.conf"] {
        env.write(&format!("{etc}/{name}"), &text);
    }
    for name in [CLEANER, PRUNER, PREFETCHER] {
        env.old_name(name);
    }
    env
}

pub(crate) fn assert_done(env: &TestEnv, line: &str) {
    if line.contains("pruner") {
        assert_eq!(env.left(), "cde", "{line}");
    }
    if line.contains("cleaner") {
        assert_eq!(env.names("invalid"), [""; 0], "{line}");
    }
    if line.contains("prefetcher") {
        assert_eq!(env.left(), "abcdef", "{line}");
        assert_eq!(env.names("queue"), [""; 0], "{line}");
    }
}
