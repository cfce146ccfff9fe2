//! Network namespaces that this driver makes: CreateNetwork and DestroyNetwork.
//!
//! The agent asks for them if the driver announces that it must create networks; otherwise it makes the namespace itself. Either
//! way the agent's CNI plugins give the namespace its interfaces and addresses afterwards, and take them away before. What a
//! driver's own hand is good for: loopback is up also where no CNI plugin follows, and the agent then tells each task the address
//! of its allocation ([`HOSTNAME_LABEL`]), which goes into its `/etc/hosts`.

mod pinned;

use std::path::{Path, PathBuf};

use holdfast_sandbox::etc;
use holdfast_wire::nomad_driver::network_isolation_spec::NetworkIsolationMode;
use holdfast_wire::nomad_driver::{
    CreateNetworkRequest, CreateNetworkResponse, DestroyNetworkRequest, HostsConfig, NetworkIsolationSpec,
    NetworkOverride,
};

use crate::driver::Driver;
use crate::failure::Failure;

pub use pinned::{NetworkError, Pinned};

/// The one label by which the agent learns the host name of a network, whoever made it (`client/allocrunner/network_hook.go`).
/// Where it is set, the agent fills [`HostsConfig`] with the name and the address that the namespace was given; where it is not,
/// no task is ever told that address.
pub const HOSTNAME_LABEL: &str = "docker_sandbox_hostname";

/// CreateNetwork: a namespace for an allocation, with its loopback interface up. `created` is false if it is there and lives. The
/// agent's plugin client (1.11) leaves the host name out of the request; it is then the beginning of the allocation's id.
pub async fn create(driver: &Driver, request: CreateNetworkRequest) -> Result<CreateNetworkResponse, Failure> {
    let CreateNetworkRequest { alloc_id, hostname } = request;
    // A disabled driver has no task that would use it.
    if let Some(reason) = driver.refusal() {
        return Err(Failure::Final(reason));
    }
    let hostname = match hostname.is_empty() {
        true => default_hostname(&alloc_id),
        false => {
            etc::check_hostname(&hostname).map_err(Failure::last)?;
            Some(hostname)
        }
    };
    let pinned = Pinned::of(&folder(driver), &alloc_id).map_err(Failure::last)?;
    let path = pinned.path().to_string_lossy().into_owned();
    // Whoever is ahead in the same folder, and the kernel's lock of networks, are waited for.
    let created = tokio::task::spawn_blocking(move || pinned.create())
        .await
        .map_err(Failure::last)?
        .map_err(Failure::last)?;
    Ok(CreateNetworkResponse {
        isolation_spec: Some(NetworkIsolationSpec {
            mode: NetworkIsolationMode::Group as i32,
            path,
            labels: hostname
                .iter()
                .map(|name| (HOSTNAME_LABEL.to_owned(), name.clone()))
                .collect(),
            hosts_config: hostname.map(|hostname| HostsConfig {
                hostname,
                // The agent's to know.
                address: String::new(),
            }),
        }),
        created,
    })
}

/// DestroyNetwork: the namespace of an allocation is let go; it is gone with the last process in it. One that is not there is fine,
/// since the agent calls again after whatever went wrong.
pub async fn destroy(driver: &Driver, request: DestroyNetworkRequest) -> Result<(), Failure> {
    let DestroyNetworkRequest {
        alloc_id,
        isolation_spec,
    } = request;
    let pinned = Pinned::of(&folder(driver), &alloc_id).map_err(Failure::last)?;
    let own = pinned.path().to_owned();
    tokio::task::spawn_blocking(move || pinned.destroy())
        .await
        .map_err(Failure::last)?
        .map_err(Failure::last)?;
    let named = isolation_spec.map(|spec| PathBuf::from(spec.path)).unwrap_or_default();
    if named != own && !named.as_os_str().is_empty() && named.exists() {
        return Err(Failure::Final(format!(
            "network namespace {} of allocation {alloc_id:?} is not one of this driver's, which would be {}: it is left as it is",
            named.display(),
            own.display()
        )));
    }
    Ok(())
}

/// What StartTask says of a task's network. An override tells the agent that a task has an address that the driver gave it, by which
/// services with `address_mode = "driver"` are registered (`client/serviceregistration/address.go`); so there is one exactly if the
/// task is in a namespace that this driver made and the agent knows the address in it. It is never advertised unasked, and maps no
/// ports, since those of the allocation hold: what `auto` services and variables say is what they say without it.
pub fn network_override(driver: &Driver, isolation: Option<&NetworkIsolationSpec>) -> Option<NetworkOverride> {
    override_of(&folder(driver), isolation?)
}

fn override_of(folder: &Path, isolation: &NetworkIsolationSpec) -> Option<NetworkOverride> {
    let NetworkIsolationSpec {
        mode: _,
        path,
        labels: _,
        hosts_config,
    } = isolation;
    let HostsConfig { hostname: _, address } = hosts_config.as_ref()?;
    let is_ours = Path::new(path).parent() == Some(folder);
    (is_ours && !address.is_empty()).then(|| NetworkOverride {
        port_map: Default::default(),
        addr: address.clone(),
        auto_advertise: false,
    })
}

/// Beside the folders of the drivers, none of which has this name.
fn folder(driver: &Driver) -> PathBuf {
    driver.settings().state_dir().join("netns").join(driver.name().as_str())
}

/// The beginning of the id, as people and the agent's command line name allocations.
fn default_hostname(alloc_id: &str) -> Option<String> {
    let short = alloc_id.get(..8).unwrap_or(alloc_id);
    etc::check_hostname(short).is_ok().then(|| short.to_owned())
}

#[cfg(test)]
mod tests;
