//! What all services share.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use holdfast_executor::client::Launcher;
use holdfast_goplugin::services::Shutdown;
use holdfast_wire::nomad_base::SetConfigRequest;
use tokio::sync::watch;

use crate::events::Events;
use crate::executor_binary::Missing;
use crate::notices::NoticeBoard;
use crate::open_files;
use crate::options::LogCollector;
use crate::owner::Tasks;
use crate::plugin_name::{PluginName, Profile};
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
    /// Where executors are heard.
    pub notices: NoticeBoard,
    /// What streams of statistics read.
    pub samples: Sources,
    /// The driver's end: long streams end with it.
    pub shutdown: Shutdown,
    settings: watch::Sender<Arc<Settings>>,
    executor: Mutex<Option<PathBuf>>,
    log_collector: OnceLock<LogCollector>,
}

impl Driver {
    /// A driver with an empty plugin block and no task. Must be called in a runtime.
    pub fn new(name: PluginName, shutdown: Shutdown) -> Result<Arc<Driver>, InvalidSettings> {
        Ok(Arc::new(Driver {
            name,
            shutdown,
            tasks: Tasks::start(),
            events: Events::default(),
            notices: NoticeBoard::default(),
            samples: Sources::within(open_files::limit() / 2),
            log_collector: OnceLock::new(),
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
        match self.name.profile() {
            Profile::Exec | Profile::Holdfast => Some(not_built(self.name)),
            Profile::Raw if !self.settings().options.enabled => Some(format!("{} is disabled", self.name)),
            Profile::Raw => None,
        }
    }

    /// Takes new settings. Only those that carry the agent's part make the driver touch the host (contract, P-4), and
    /// what the host refuses is told by the fingerprint, not here (P-5).
    pub fn configure(&self, request: SetConfigRequest) -> Result<(), InvalidSettings> {
        let mut settings = Settings::of(request, self.name)?;
        if !settings.carries_agent {
            settings.compute = self.settings().compute;
        }
        let settings = Arc::new(settings);
        *self.provided() = None;
        if settings.carries_agent {
            let asked = settings.options.log_collection;
            if *self.log_collector.get_or_init(|| asked) != asked {
                tracing::warn!("log_collection has changed; it takes effect when the plugin is started anew");
            }
        }
        if settings.carries_agent && self.refusal_of(&settings).is_none() {
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

    /// Who collects output. Once the agent is there for good it stays what it is: it decides a capability, which the agent asks
    /// for once (contract, C-1).
    pub fn log_collector(&self) -> LogCollector {
        let announced = self.log_collector.get().copied();
        announced.unwrap_or_else(|| self.settings().options.log_collection)
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

    fn refusal_of(&self, settings: &Settings) -> Option<&'static str> {
        match self.name.profile() {
            Profile::Exec | Profile::Holdfast => Some("not built"),
            Profile::Raw => (!settings.options.enabled).then_some("disabled"),
        }
    }
}

/// What a plugin of the isolated profile says of itself.
pub fn not_built(name: PluginName) -> String {
    format!("the isolated profile of {name} is not built yet")
}
