//! The credentials for the services of a cloud, from where operators keep them.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::config::{API_GLANCE_API_URL, Config};
use crate::net::tls::Trust;
use crate::net::wire::Waits;
use crate::openstack::cache_api::node_url;
use crate::openstack::clouds::{Cloud, CloudSearch, GLANCES_OWN};
use crate::run::Run;

/// Returns the first credentials that are found. An error is one of usage.
pub(super) fn find_cloud(run: &Run, config: Option<&Config>, name: Option<&str>) -> Result<Cloud> {
    let waits = Waits::new(run.interrupt.clone());
    let search = CloudSearch {
        name,
        environment: &run.environment,
        config,
        waits: &waits,
        root: Path::new("/"),
        directory: Path::new("."),
    };
    let cloud = search.find()?;
    if matches!(cloud.reach.trust, Trust::Anybody) {
        run.output.warning(&format!(
            "{}: certificates are not verified, and anybody on the way can read passwords and tokens",
            cloud.source
        ));
    }
    Ok(cloud)
}

/// Returns the credentials for Glance's API. With those of Glance itself, the glance-api of this host is
/// asked, if the configuration names it.
pub(crate) fn find_image_cloud(run: &Run, config: &Config, name: Option<&str>) -> Result<Cloud> {
    let mut cloud = find_cloud(run, Some(config), name)?;
    if cloud.source == GLANCES_OWN && cloud.image_endpoint.is_none() {
        let own = config.optional(&API_GLANCE_API_URL)?;
        let url = own.map(|own| {
            node_url(&own.value)
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("{}: cannot use glance_api_url", own.origin))
        });
        cloud.image_endpoint = url.transpose()?;
    }
    if let (None, Some(setting)) = (&cloud.image_endpoint, cloud.login.lacks_keystone()) {
        bail!(
            "{} does not say where Glance is: set {setting} to the address of its Keystone, or {} to that of \
             Glance",
            cloud.source,
            cloud.settings.address
        );
    }
    Ok(cloud)
}
