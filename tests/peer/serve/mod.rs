//! The service with real parts around it: the clients of OpenStack, front ends, Keystone, and a glance-api on
//! the same cache and database.

mod clients;
mod fronts;
mod functional;
mod locks;
mod mounts;
mod parity;
mod sidecar;
mod sockets;
mod steps;

use std::path::Path;

use crate::support::env::*;
use crate::support::openstack::GlanceApi;
use crate::support::service::Service;

/// A service with the configuration of a glance-api: the same cache, database, Keystone and policy.
struct Beside {
    service: Service,
    _env: TestEnv,
}

impl Beside {
    /// Starts one that listens at a free port, with these lines in `[cache_api]`.
    fn start(glance: &GlanceApi, settings: &str) -> Self {
        Self::with(&glance.configuration(), settings)
    }

    /// Starts one with this configuration of glance-api.
    fn with(configuration: &Path, settings: &str) -> Self {
        let env = TestEnv::empty(Sqlite);
        let own = env.write("cache-api.conf", format!("[cache_api]\n{settings}\n"));
        let arguments = ["--config-file", &own, "--bind", "127.0.0.1:0"];
        let service = Service::at(&env, configuration.to_str().unwrap(), &arguments);
        Beside { service, _env: env }
    }

    /// Returns host and port.
    fn address(&self) -> &str {
        self.service.address.as_ref().unwrap()
    }

    fn url(&self) -> String {
        format!("http://{}", self.address())
    }
}
