//! What the executor tells of a living task without being asked. The supervisor is the only writer.

use holdfast_record::{Notices, SupervisionDir};

use crate::log;

/// All notices, as they are on disk.
#[derive(Debug, Default)]
pub struct Board(Notices);

impl Board {
    /// Goes on with those of the executors before.
    pub fn read(dir: &SupervisionDir) -> Board {
        match dir.notices() {
            Ok(notices) => Board(notices.unwrap_or_default()),
            Err(e) => {
                log::line(&format!("{e}; notices begin anew"));
                Board::default()
            }
        }
    }

    /// Adds one and puts it on disk together with what it says to have been told by it, so that neither is there without the other.
    pub fn tell<'a>(
        &mut self,
        dir: &SupervisionDir,
        message: &str,
        annotations: impl IntoIterator<Item = (&'a str, String)>,
        told: impl FnOnce(&mut Notices),
    ) {
        log::line(message);
        self.0.push(message, annotations);
        told(&mut self.0);
        if let Err(e) = dir.write_notices(&self.0) {
            log::line(&e.to_string());
        }
    }

    /// What was told so far.
    pub fn told(&self) -> &Notices {
        &self.0
    }
}
