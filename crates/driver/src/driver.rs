//! What all services share.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use holdfast_executor::client::Launcher;
use holdfast_goplugin::services::Shutdown;
use holdfast_wire::nomad_base::SetConfigRequest;
use tokio::sync::watch;

use crate::attention::Attention;
use crate::events::Events;
use crate::executor_binary::Missing;
use crate::notices::NoticeBoard;
use crate::open_files;
use crate::options::Announced;
use crate::owner::Tasks;
use crate::plugin_name::PluginName;
use crate::settings::{InvalidSettings, Settings};
use crate::stats::Sources;

/// One driver: a name, its settings and its tasks.
#[derive(Debug)]
pub struct Driver {
    name: PluginName,
    /// Whose tasks these are.
    pub tasks: Tasks,
    /// What is told of them.
    pub events: Events,
    /// Whether an agent attends to the driver.
    pub attention: Attention,
    /// Where executors are heard.
    pub notices: NoticeBoard,
    /// What streams of statistics read.
    pub samples: Sources,
    /// The driver's end: long streams end with it.
    pub shutdown: Shutdown,
    settings: watch::Sender<Arc<Settings>>,
    executor: Mutex<Option<PathBuf>>,
    announced: OnceLock<Announced>,
}

impl Driver {
    /// A driver with an empty plugin block and no task. Must be called in a runtime.
    pub fn new(name: PluginName, shutdown: Shutdown) -> Result<Arc<Driver>, InvalidSettings> {
        Ok(Arc::new(Driver {
            name,
            shutdown,
            tasks: Tasks::start(),
            events: Events::default(),
            attention: Attention::default(),
            notices: NoticeBoard::default(),
            samples: Sources::within(open_files::limit() / 2),
            announced: OnceLock::new(),
            settings: watch::Sender::new(Arc::new(Settings::initial(name)?)),
            executor: Mutex::new(None),
        }))
    }

    /// The plugin's name.
    pub fn name(&self) -> PluginName {
        self.name
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// Follows the settings.
    pub fn follow_settings(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.subscribe()
    }

    /// Why no task may be started, in the built-in's words.
    pub fn refusal(&self) -> Option<String> {
        (!self.settings().options.enabled).then(|| format!("{} is disabled", self.name))
    }

    /// Takes new settings. Only those that carry the agent's part make the driver touch the host (contract, P-4), and
    /// what the host refuses is told by the fingerprint, not here (P-5).
    pub fn configure(&self, request: SetConfigRequest) -> Result<(), InvalidSettings> {
        let mut settings = Settings::of(request, self.name)?;
        if !settings.carries_agent {
            settings.compute = self.settings().compute;
        }
        self.hold_announced(&mut settings);
        let settings = Arc::new(settings);
        *self.provided() = None;
        if settings.carries_agent && settings.options.enabled {
            match settings.provide_executor() {
                Ok(path) => *self.provided() = Some(path),
                Err(e) => tracing::error!(error = %e, "tasks cannot be started"),
            }
            match holdfast_record::remove_abandoned(&settings.root(self.name)) {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "removed folders that a driver left half made or half removed"),
                Err(e) => tracing::warn!(error = %e, "cannot clean the state folder"),
            }
        }
        self.settings.send_replace(settings);
        Ok(())
    }

    /// What decides capabilities stays what it was when the agent was there for good: the agent asks for them once (contract, C-1).
    fn hold_announced(&self, settings: &mut Settings) {
        let asked = settings.options.announced;
        let held = match settings.carries_agent {
            true => Some(self.announced.get_or_init(|| asked)),
            false => self.announced.get(),
        };
        if let Some(held) = held.filter(|held| **held != asked) {
            tracing::warn!(
                "log_collection, private_mounts, dynamic_users or create_network has changed; it takes effect when the plugin is \
                 started anew"
            );
            settings.options.announced = *held;
        }
    }

    /// The folder of the supervision directories of this driver's tasks.
    pub fn root(&self) -> PathBuf {
        self.settings().root(self.name)
    }

    /// What starts executors.
    pub fn launcher(&self) -> Result<Launcher, Missing> {
        self.executor().map(Launcher::new)
    }

    /// The executor to start; laid out, or looked for again, if it is not where it was.
    pub fn executor(&self) -> Result<PathBuf, Missing> {
        let mut provided = self.provided();
        if let Some(path) = provided.as_ref().filter(|path| path.is_file()) {
            return Ok(path.clone());
        }
        let path = self.settings().provide_executor()?;
        *provided = Some(path.clone());
        Ok(path)
    }

    fn provided(&self) -> std::sync::MutexGuard<'_, Option<PathBuf>> {
        // A path is whole or not there, whatever happened to who held the lock.
        self.executor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
