//! Roots that come from images.

use std::path::Path;

use holdfast_record::{Isolation, Root, RootBase};
use holdfast_sandbox::Resolver;
use holdfast_sandbox::image::{Image, ImageConfig, Reference, Store};
use holdfast_sandbox::isolation::{Account, RootOption, View};
use holdfast_sandbox::users::Sources;
use tokio::sync::oneshot;

use super::isolation::{invalid, real};
use crate::failure::Failure;
use crate::options::AllowedHostPaths;
use crate::settings::Settings;

/// Below the state directory; shared by drivers of every name.
const STORE: &str = "images";

/// Whom a task runs as whose image does not say: the user that owns nothing (proc_sys_kernel(5), overflowuid). An image may have no
/// `nobody`, and one that says nothing means root, which nobody shall be by accident.
const NOBODY: &str = "65534";

/// Unpacks what is not there yet. On a thread of its own: it may take minutes, and other tasks are planned meanwhile.
pub(super) async fn unpack(reference: Reference, settings: &Settings) -> Result<Image, Failure> {
    let allowed = settings.options.isolation.allowed_host_paths.clone();
    let store = Store::at(settings.state_dir().join(STORE));
    let (answer, unpacked) = oneshot::channel();
    let work = move || {
        // The caller may have given up; what was unpacked stays for the next one.
        let _ = answer.send(unpack_here(&reference, &allowed, &store));
    };
    std::thread::Builder::new()
        .name("image".to_owned())
        .spawn(work)
        .map_err(|e| {
            Failure::Retryable(format!(
                "failed to launch command with executor: cannot start a thread: {e}"
            ))
        })?;
    unpacked.await.map_err(Failure::last)?
}

fn unpack_here(reference: &Reference, allowed: &AllowedHostPaths, store: &Store) -> Result<Image, Failure> {
    let reference = at_its_real_path(reference, allowed)?;
    let image = store.unpack(&reference).map_err(|e| {
        let message = format!(
            "failed to launch command with executor: rootfs {:?}: {e}",
            reference.to_string()
        );
        match e.is_retryable() {
            true => Failure::Retryable(message),
            false => Failure::Final(message),
        }
    })?;
    if image.unpacked > 0 {
        for note in &image.notes {
            tracing::info!(image = %reference, note, "an image was unpacked");
        }
    }
    Ok(image)
}

/// With the links in its path followed, since what the operator allows is where it leads.
fn at_its_real_path(reference: &Reference, allowed: &AllowedHostPaths) -> Result<Reference, Failure> {
    let layout = real(reference.layout(), "rootfs", allowed)?;
    if layout == reference.layout() {
        return Ok(reference.clone());
    }
    let text = reference.to_string();
    let selection = (text.strip_prefix("oci:"))
        .and_then(|text| text.strip_prefix(reference.layout().to_str()?))
        .unwrap_or_default();
    let real = Reference::parse(&format!("oci:{}{selection}", layout.display())).map_err(invalid)?;
    match real.layout() == layout {
        true => Ok(real),
        // A colon in it, for one, would make another image of it.
        false => Err(invalid(format_args!(
            "rootfs {text:?}: {layout:?} cannot be written as the path of an image"
        ))),
    }
}

/// What a task gets from its image where its job says nothing.
pub(super) fn root_and_account(image: &Image) -> (RootOption, Account) {
    let ImageConfig {
        env,
        // A job names its command.
        entrypoint: _,
        cmd: _,
        user,
        work_dir,
    } = image.config.clone();
    let (path, environment): (Vec<_>, Vec<_>) = env.into_iter().partition(|(name, _)| name == "PATH");
    let account = Account {
        user,
        path: path.into_iter().next_back().map(|(_, path)| path),
        environment,
        work_dir,
        home: None,
    };
    (RootOption::Layers(image.layers.clone()), account)
}

/// Who knows the users of a task with this root, and whom it runs as if nobody says.
pub(super) fn users(root: &RootOption) -> (Resolver, &'static str) {
    let RootOption::Layers(layers) = root else {
        return (Resolver::system(), super::isolation::NOBODY);
    };
    let view = View::of(&Isolation {
        root: Some(Root {
            base: RootBase::Overlay(layers.clone()),
            read_only: true,
            no_pivot: false,
        }),
        ..Isolation::default()
    });
    // A root without users has none, not the host's.
    let file = |path: &str| {
        let found = view.look(Path::new(path)).ok().filter(|found| found.is_file());
        found.and_then(|found| found.host).unwrap_or_else(|| "/dev/null".into())
    };
    let sources = Sources {
        passwd: file("/etc/passwd"),
        group: file("/etc/group"),
        // Only files are in it.
        nsswitch: "/dev/null".into(),
        ..Sources::default()
    };
    (Resolver::new(sources), NOBODY)
}
