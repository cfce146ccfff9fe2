//! Named crash points: the steps at which the tests stop a process of Holdfast and kill it, or another one.
//!
//! They are in debug builds only. A process that was given a folder (`HOLDFAST_CRASH_POINTS`, see `holdfast_sys::point`) looks into it
//! whenever it comes by a point; the init, which has neither environment nor, once the task's root is in place, the host's paths,
//! looks through a descriptor that it inherits. docs/testing.md says how to stop at a point by hand.

macro_rules! points {
    ($($(#[$documentation:meta])+ $point:ident = $name:literal,)+) => {
        /// A step that has been taken. Each says what has been done and what has not.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Point {
            $($(#[$documentation])+ $point,)+
        }

        impl Point {
            /// In the order of a task's life, more or less.
            pub const ALL: &'static [Point] = &[$(Point::$point,)+];

            /// What a person or a test calls it: who is there, and what is done.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Point::$point => $name,)+
                }
            }
        }
    };
}

points! {
    /// Driver: StartTask has taken the id and validated everything; on the host there is nothing but an executor of which nothing was asked, and a
    /// folder that no reader takes for a task's.
    StartPlanned = "driver.start-planned",
    /// Driver: the supervision directory is made under a temporary name; it is empty.
    FolderMade = "driver.folder-made",
    /// Driver: the intent is in the folder, which still has its temporary name.
    FolderIntended = "driver.folder-intended",
    /// Driver: the supervision directory is there under its name; the executor has not been told so.
    FolderNamed = "driver.folder-named",
    /// Driver: an executor was cloned; nothing has been heard of it or said to it.
    ExecutorCloned = "driver.executor-cloned",
    /// Driver: there is a connection to an executor, on which nothing has been asked.
    ExecutorConnected = "driver.executor-connected",
    /// Driver: the executor is there, and known; it has not been asked to launch.
    ExecutorIdentified = "driver.executor-identified",
    /// Driver: the task runs and is recorded; nobody has committed it.
    LaunchHeard = "driver.launch-heard",
    /// Driver: the task is committed; the table does not know that it runs.
    CommitHeard = "driver.commit-heard",
    /// Driver: the table knows that the task runs; the agent has not been given its handle.
    HandleMade = "driver.handle-made",

    /// Executor: it is executed, and in its cgroup if that was there; a new one waits to be asked, one that adopts has not asked for the lock.
    ExecutorBegun = "executor.begun",
    /// Executor: it has the lock; nobody can connect yet.
    ExecutorLocked = "executor.locked",
    /// Executor: the socket listens under a temporary name.
    SocketBound = "executor.socket-bound",
    /// Executor: the socket has its name; the launcher was not told.
    SocketNamed = "executor.socket-named",
    /// Executor: it serves, and who waits for it to listen was told.
    ListeningTold = "executor.listening-told",
    /// Executor: the FIFOs of the output and their spools are made.
    OutputMade = "executor.output-made",
    /// Executor: the pre-filled exit record and the events are there; an init, if there is one, knows nothing of them.
    ExitPrefilled = "executor.exit-prefilled",
    /// Executor: the init is there and told what to run; it has not been heard of. On v1 there are no cgroups to run it in.
    InitCloned = "executor.init-cloned",
    /// Executor: the main process is cloned and comes to the gate; nothing is recorded. On v1 its cgroups are made.
    MainCloned = "executor.main-cloned",
    /// Executor: the task's own cgroups are made; neither rules for devices nor limits are set. On v2 this comes before all else.
    CgroupsMade = "executor.cgroups-made",
    /// Executor: limits are set, while the main process builds what it is to see.
    LimitsSet = "executor.limits-set",
    /// Executor: all identities are recorded; the gate is shut.
    LaunchRecorded = "executor.launch-recorded",
    /// Executor: the gate is open; nobody has said that the main process is executed.
    MainReleased = "executor.main-released",
    /// Executor: the main process is executed; the driver has not been answered.
    StartHeard = "executor.start-heard",
    /// Executor: the answer to Launch is on its way; the task is not committed.
    LaunchAnswered = "executor.launch-answered",
    /// Executor: the commit is recorded and not answered.
    CommitRecorded = "executor.commit-recorded",
    /// Executor: the answer to Commit is on its way.
    CommitAnswered = "executor.commit-answered",

    /// Init: what can be done before its task is known is done; it waits to be told.
    InitWaits = "init.waits",
    /// Init: the main process is cloned; the executor has not been told.
    InitClonedMain = "init.main-cloned",
    /// Init: the executor was told which process is the main one.
    InitReported = "init.main-reported",
    /// Main process: it waits until its cgroups are made (v1), and is in none of them.
    MainWaits = "main.waits",
    /// Main process: all its steps before the gate are done.
    MainAtGate = "main.at-gate",
    /// Main process: the gate has let it through; it is not executed yet.
    MainBehindGate = "main.behind-gate",
    /// Init: the main process is executed; the event has not been told.
    InitSawStart = "init.start-seen",

    /// Executor: a new record is written under a temporary name.
    RecordWritten = "executor.record-written",
    /// Executor: the record is replaced.
    RecordReplaced = "executor.record-replaced",

    /// Init: the main process is over; nothing is recorded of it.
    InitSawExit = "init.exit-seen",
    /// Init: the exit is recorded; nobody was told.
    ExitRecorded = "init.exit-recorded",
    /// Init: the exit was told; the main process is not reaped.
    ExitTold = "init.exit-told",
    /// Init: the main process is reaped.
    MainReaped = "init.main-reaped",
    /// Executor: it knows that the main process is over, and not how.
    ExitHeard = "executor.exit-heard",
    /// Executor: it knows how the task ended; what the main process has left lives.
    StatusKnown = "executor.status-known",
    /// Executor: nobody of the task is left; its last output is not written.
    StragglersEnded = "executor.stragglers-ended",
    /// Executor: all output is written; there is no result.
    OutputDrained = "executor.output-drained",
    /// Executor: the result is written under a temporary name, and not synced.
    ResultWritten = "executor.result-written",
    /// Executor: the result is synced, under a temporary name.
    ResultSynced = "executor.result-synced",
    /// Executor: the result has its name; the folder is not synced.
    ResultNamed = "executor.result-named",
    /// Executor: the result is on disk; the init lives.
    ResultOnDisk = "executor.result-on-disk",
    /// Executor: the init is killed; the task's own cgroups are there.
    InitEnded = "executor.init-ended",
    /// Executor: the task's own cgroups are removed; who waits for the end has not been told.
    CgroupsRemoved = "executor.cgroups-removed",
    /// Executor: all is told, and nothing is left to do but to exit.
    ExecutorLeaving = "executor.leaving",
    /// Driver: it knows how the task ended and has told nobody.
    EndKnown = "driver.end-known",

    /// Driver: StopTask was asked for; the executor does not know.
    StopAsked = "driver.stop-asked",
    /// Executor: the deadline of the stop is recorded; no signal was sent.
    StopRecorded = "executor.stop-recorded",
    /// Executor: the signal was sent, and that is not recorded.
    StopSignalled = "executor.stop-signalled",
    /// Executor: it is recorded that the signal was sent.
    SignalRecorded = "executor.signal-recorded",
    /// Executor: the task is to be killed; nothing was sent.
    KillDue = "executor.kill-due",
    /// Executor: the main process was killed; others of the task were not.
    MainKilled = "executor.main-killed",
    /// Executor: all of the task were killed; that is not recorded.
    AllKilled = "executor.all-killed",
    /// Driver: the executor has said that the task is over; the table does not know.
    StopHeard = "driver.stop-heard",

    /// Executor: a piece of output has left the FIFO and is in no file.
    OutputSpooled = "executor.output-spooled",
    /// Executor: the output is full up to its limit; no new file is there.
    RotationDue = "executor.rotation-due",
    /// Executor: the new file is open; files that are too old are there.
    RotationOpened = "executor.rotation-opened",
    /// Executor: files that were too old are removed.
    RotationDone = "executor.rotation-done",

    /// Driver: nobody answers for the task and nobody has its lock; no executor was started to adopt it.
    AdoptionDecided = "driver.adoption-decided",
    /// Executor that adopts: it has the lock and the record.
    AdoptionRead = "executor.adoption-read",
    /// Executor that adopts: it has found init and main process again; the output stands still.
    AdoptionFound = "executor.adoption-found",
    /// Executor that adopts: it moves the output; sessions of the executor before it live.
    AdoptionPumping = "executor.adoption-pumping",
    /// Executor that adopts: it is recorded as the task's executor; nobody can connect yet.
    AdoptionRecorded = "executor.adoption-recorded",
    /// Driver: the executor that adopted has said who it is; it has no environment for sessions.
    AdoptionIdentified = "driver.adoption-identified",
    /// Driver: the executor that adopted has all that it needs.
    AdoptionDone = "driver.adoption-done",

    /// Driver: the task is out of the table; its traces are all there.
    DestroyBegun = "driver.destroy-begun",
    /// Driver: the task's cgroups are removed; its folder is there.
    DestroyedCgroups = "driver.destroyed-cgroups",
    /// Driver: the folder has a name that nobody takes for a task's.
    FolderUnnamed = "driver.folder-unnamed",
    /// Driver: something that was in the folder is removed.
    FolderHalfRemoved = "driver.folder-half-removed",
}

/// Files of the folder through which a test and the processes that it stops know of each other.
pub mod names {
    /// Written by the test: `<name of a point> <count>`. Who comes by that point as the `count`-th, counted over all processes, stops.
    pub const ARMED: &str = "armed";
    /// Made by who comes by: `hit.<n>`; who stops writes `<name of the point> <pid>` and a newline into it.
    pub const HIT: &str = "hit.";
    /// FIFO, made by the test: who is stopped goes on when it can read a byte, or its end.
    pub const GATE: &str = "gate";
    /// If the test makes it, every point that is reached is appended: `<name of the point> <pid>`.
    pub const TRACE: &str = "trace";
}

/// To be called when the step has been taken, with a descriptor of the folder. One that is not of a folder is none.
#[cfg(debug_assertions)]
pub fn reached_in(folder: i32, point: Point) {
    debug::reached_in(folder, point);
}

/// Nothing: only debug builds have crash points.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reached_in(_: i32, _: Point) {}

/// Without libc and without allocation, for whoever runs here.
#[cfg(debug_assertions)]
mod debug {
    use super::{Point, names};
    use crate::raw::{self, nr};

    const O_WRONLY: usize = 1;
    const O_CREAT: usize = 0o100;
    const O_EXCL: usize = 0o200;
    const O_APPEND: usize = 0o2000;
    const O_CLOEXEC: usize = 0o2000000;

    pub(super) fn reached_in(folder: i32, point: Point) {
        let mut line = Text::of(&[point.name(), " "]);
        line.number(raw::pid());
        line.add("\n");
        if let Ok(trace) = open(folder, Text::of(&[names::TRACE]), O_WRONLY | O_APPEND) {
            let _ = raw::write(trace, line.bytes());
            raw::close(trace);
        }
        let Ok(armed) = open(folder, Text::of(&[names::ARMED]), 0) else {
            return;
        };
        let mut content = [0; 128];
        let length = raw::read(armed, &mut content).unwrap_or(0);
        raw::close(armed);
        let Some(count) = count(&content[..length], point.name().as_bytes()) else {
            return;
        };
        for number in 1..=count {
            let mut name = Text::of(&[names::HIT]);
            name.number(number);
            // Made by one alone: the count is that of all processes.
            if let Ok(hit) = open(folder, name, O_WRONLY | O_CREAT | O_EXCL) {
                if number == count {
                    stop(folder, hit, line.bytes());
                }
                raw::close(hit);
                return;
            }
        }
    }

    fn stop(folder: i32, hit: i32, line: &[u8]) {
        let gate = open(folder, Text::of(&[names::GATE]), 0);
        let _ = raw::write(hit, line);
        if let Ok(gate) = gate {
            let _ = raw::read(gate, &mut [0]);
            raw::close(gate);
        }
    }

    /// Of `<name> <count>`, if it is this name. Byte by byte: there is no `bcmp` without libc.
    fn count(content: &[u8], name: &[u8]) -> Option<u32> {
        let mut bytes = content.iter();
        for expected in name.iter().chain(b" ") {
            if bytes.next() != Some(expected) {
                return None;
            }
        }
        let mut number = 0u32;
        for digit in bytes.take_while(|byte| byte.is_ascii_digit()) {
            number = number.wrapping_mul(10).wrapping_add(u32::from(digit - b'0'));
        }
        (1..100).contains(&number).then_some(number)
    }

    fn open(folder: i32, name: Text, flags: usize) -> Result<i32, i32> {
        // SAFETY: the name ends in zero.
        let opened = unsafe {
            raw::checked(
                nr::OPENAT,
                folder as usize,
                name.bytes.as_ptr() as usize,
                flags | O_CLOEXEC,
                0o666,
            )
        };
        opened.map(|fd| fd as i32)
    }

    /// A short text, followed by zeros.
    struct Text {
        bytes: [u8; 64],
        length: usize,
    }

    impl Text {
        fn of(parts: &[&str]) -> Self {
            let mut text = Self {
                bytes: [0; 64],
                length: 0,
            };
            for part in parts {
                text.add(part);
            }
            text
        }

        fn add(&mut self, part: &str) {
            for byte in part.bytes() {
                self.push(byte);
            }
        }

        fn push(&mut self, byte: u8) {
            // The last stays zero.
            if self.length < self.bytes.len() - 1 {
                self.bytes[self.length] = byte;
                self.length += 1;
            }
        }

        fn number(&mut self, number: u32) {
            let mut divisor = 1_000_000_000;
            while divisor > 0 {
                let digit = number / divisor % 10;
                if number >= divisor || divisor == 1 {
                    self.push(b'0' + digit as u8);
                }
                divisor /= 10;
            }
        }

        fn bytes(&self) -> &[u8] {
            &self.bytes[..self.length]
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn no_two_points_have_one_name_and_each_says_who_comes_by() {
        for (index, point) in Point::ALL.iter().enumerate() {
            let name = point.name();
            let who = name.split('.').next().unwrap();
            assert!(["driver", "executor", "init", "main"].contains(&who), "{name}");
            assert!(Point::ALL[..index].iter().all(|other| other.name() != name), "{name}");
            assert!(name.len() < 48, "{name} has no room beside a pid");
        }
    }

    #[test]
    fn who_comes_by_an_armed_point_in_its_turn_stops_and_nobody_else_does() {
        let folder = std::env::temp_dir().join(format!("holdfast-point-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let opened = fs::File::open(&folder).unwrap();
        let pass = |point| reached_in(opened.as_raw_fd(), point);
        pass(Point::StartPlanned);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "nothing is armed");

        fs::write(folder.join(names::TRACE), "").unwrap();
        fs::write(folder.join(names::ARMED), "driver.folder-made 2").unwrap();
        // Who is stopped goes on at once: there is an end to be read.
        fs::write(folder.join(names::GATE), "").unwrap();
        for point in [
            Point::StartPlanned,
            Point::FolderMade,
            Point::FolderMade,
            Point::FolderMade,
        ] {
            pass(point);
        }
        let pid = std::process::id();
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(
            (read("hit.1"), read("hit.2")),
            (String::new(), format!("driver.folder-made {pid}\n"))
        );
        assert!(!folder.join("hit.3").exists());
        let passed = format!("driver.folder-made {pid}\n").repeat(3);
        assert_eq!(read(names::TRACE), format!("driver.start-planned {pid}\n{passed}"));
        reached_in(-1, Point::FolderMade);
        fs::remove_dir_all(&folder).unwrap();
    }
}
