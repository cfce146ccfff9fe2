//! Which scenario comes by which point, and who is killed there.

use std::fmt;

use holdfast_sys::point::Point;

/// What goes on when the point is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// StartTask of a task without isolation.
    Start,
    /// StartTask of a task in namespaces of its own, whose init is process 1 there.
    StartIsolated,
    /// StartTask of a task that must not be without an agent for long: its executor has to know whom to watch.
    StartAttended,
    /// The main process exits.
    Exit,
    /// The main process of an isolated task exits.
    ExitIsolated,
    /// The main process is killed by a signal.
    Signal,
    /// StopTask of a task that obeys the signal.
    Stop,
    /// StopTask of a task that does not: it is killed after its grace.
    Kill,
    /// The task writes more than goes into one file.
    Rotate,
    /// The executor is killed under a driver that lives.
    Adopt,
    /// Driver and executor are killed; RecoverTask adopts.
    Recover,
    /// DestroyTask of a task that is over.
    Destroy,
}

impl Scenario {
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Start => "start",
            Scenario::StartIsolated => "start-isolated",
            Scenario::StartAttended => "start-attended",
            Scenario::Exit => "exit",
            Scenario::ExitIsolated => "exit-isolated",
            Scenario::Signal => "signal",
            Scenario::Stop => "stop",
            Scenario::Kill => "kill",
            Scenario::Rotate => "rotate",
            Scenario::Adopt => "adopt",
            Scenario::Recover => "recover",
            Scenario::Destroy => "destroy",
        }
    }

    pub fn is_start(self) -> bool {
        matches!(
            self,
            Scenario::Start | Scenario::StartIsolated | Scenario::StartAttended
        )
    }

    pub fn is_isolated(self) -> bool {
        matches!(self, Scenario::StartIsolated | Scenario::ExitIsolated)
    }
}

/// Who is killed. One that is not there at a point is not: the combination then shows that its absence harms nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    Driver,
    Executor,
    Init,
    DriverAndExecutor,
    All,
}

impl Victim {
    pub const ALL: [Victim; 5] = [
        Victim::Driver,
        Victim::Executor,
        Victim::Init,
        Victim::DriverAndExecutor,
        Victim::All,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Victim::Driver => "driver",
            Victim::Executor => "executor",
            Victim::Init => "init",
            Victim::DriverAndExecutor => "both",
            Victim::All => "all",
        }
    }

    pub fn has_driver(self) -> bool {
        matches!(self, Victim::Driver | Victim::DriverAndExecutor | Victim::All)
    }

    pub fn has_executor(self) -> bool {
        matches!(self, Victim::Executor | Victim::DriverAndExecutor | Victim::All)
    }

    pub fn has_init(self) -> bool {
        matches!(self, Victim::Init | Victim::All)
    }
}

/// One combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub point: Point,
    pub victim: Victim,
    pub scenario: Scenario,
    /// The turn in which who comes by is stopped.
    pub turn: u32,
    /// Whether a start that failed is repeated with the same id, as after a lost answer, or with another, as the agent does.
    pub same_id: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = if self.same_id { "same id" } else { "another id" };
        let (scenario, point, victim) = (self.scenario.name(), self.point.name(), self.victim.name());
        write!(f, "{scenario} / {point} (turn {}) / {victim} / {id}", self.turn)
    }
}

/// Every point with every victim in every scenario that comes by it.
pub fn all() -> Vec<Case> {
    let mut all = Vec::new();
    for (place, point) in Point::ALL.iter().enumerate() {
        let ways = ways(*point);
        assert!(!ways.is_empty(), "no scenario comes by {}", point.name());
        for (scenario, turn) in ways {
            for (number, victim) in Victim::ALL.into_iter().enumerate() {
                all.push(Case {
                    point: *point,
                    victim,
                    scenario: *scenario,
                    turn: *turn,
                    same_id: (place + number) % 2 == 0,
                });
            }
        }
    }
    all
}

/// Scenarios that come by a point, and the turn that is the interesting one. A new point must be given one.
fn ways(point: Point) -> &'static [(Scenario, u32)] {
    use Scenario::*;
    match point {
        Point::StartPlanned
        | Point::FolderMade
        | Point::FolderIntended
        | Point::FolderNamed
        | Point::ExecutorIdentified
        | Point::CgroupsMade
        | Point::LimitsSet
        | Point::OutputMade
        | Point::ExitPrefilled => &[(Start, 1)],
        Point::LaunchHeard | Point::CommitHeard | Point::HandleMade | Point::LaunchAnswered => {
            &[(Start, 1), (StartAttended, 1)]
        }
        Point::CommitRecorded | Point::CommitAnswered => &[(StartAttended, 1)],
        Point::InitCloned
        | Point::MainCloned
        | Point::LaunchRecorded
        | Point::MainReleased
        | Point::StartHeard
        | Point::InitWaits
        | Point::InitClonedMain
        | Point::InitReported
        | Point::MainWaits
        | Point::MainAtGate
        | Point::MainBehindGate
        | Point::InitSawStart => &[(Start, 1), (StartIsolated, 1)],
        Point::ExecutorCloned
        | Point::ExecutorConnected
        | Point::ExecutorBegun
        | Point::ExecutorLocked
        | Point::SocketBound
        | Point::SocketNamed
        | Point::ListeningTold => &[(Start, 1), (Adopt, 1)],
        Point::RecordWritten | Point::RecordReplaced => &[(Start, 1), (Stop, 1), (Adopt, 1)],
        Point::InitSawExit | Point::ExitRecorded | Point::ExitTold | Point::MainReaped => {
            &[(Exit, 1), (ExitIsolated, 1), (Signal, 1)]
        }
        Point::ExitHeard
        | Point::StatusKnown
        | Point::StragglersEnded
        | Point::OutputDrained
        | Point::ResultWritten
        | Point::ResultSynced
        | Point::ResultNamed
        | Point::ResultOnDisk
        | Point::InitEnded
        | Point::CgroupsRemoved
        | Point::ExecutorLeaving
        | Point::EndKnown => &[(Exit, 1), (Signal, 1)],
        Point::StopAsked | Point::StopRecorded | Point::StopSignalled | Point::SignalRecorded | Point::StopHeard => {
            &[(Stop, 1)]
        }
        Point::KillDue | Point::MainKilled | Point::AllKilled => &[(Kill, 1)],
        Point::OutputSpooled => &[(Rotate, 1), (Rotate, 2)],
        // The second rotation is the first that removes a file.
        Point::RotationDue | Point::RotationOpened | Point::RotationDone => &[(Rotate, 2)],
        Point::AdoptionDecided
        | Point::AdoptionRead
        | Point::AdoptionFound
        | Point::AdoptionPumping
        | Point::AdoptionRecorded
        | Point::AdoptionIdentified
        | Point::AdoptionDone => &[(Adopt, 1), (Recover, 1)],
        Point::DestroyBegun | Point::DestroyedCgroups | Point::FolderUnnamed | Point::FolderHalfRemoved => {
            &[(Destroy, 1)]
        }
    }
}
