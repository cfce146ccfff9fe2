//! Which task of an allocation runs when: the order that Nomad's `lifecycle` and `leader` ask for.
//!
//! Pure data. The owner of the allocation reports what happened and does what [`Flow::actions`] answers.

use crate::jobfile::Lifecycle;

/// How urgently something is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Urgency {
    /// Not at all.
    #[default]
    None,
    /// As the job says: its signal, its time, then a kill.
    Stop,
    /// At once.
    Kill,
}

/// How far a task has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Its time has not come.
    Waiting,
    /// Its time has come; it may not run yet, or wait for a restart.
    Launched,
    /// It has run at least once.
    Running,
    /// It is over, restarts included.
    Ended {
        /// Whether it failed.
        failed: bool,
    },
    /// Its time will never come.
    Skipped,
}

impl Progress {
    fn is_over(self) -> bool {
        matches!(self, Progress::Ended { .. } | Progress::Skipped)
    }

    fn is_under_way(self) -> bool {
        matches!(self, Progress::Launched | Progress::Running)
    }

    fn has_run(self) -> bool {
        matches!(self, Progress::Running | Progress::Ended { .. })
    }
}

/// What the owner is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Launch the task of this number.
    Launch(usize),
    /// End the task of this number.
    End(usize, Urgency),
}

/// One task as the flow sees it.
#[derive(Debug, Clone, Copy)]
struct Member {
    lifecycle: Lifecycle,
    leader: bool,
    progress: Progress,
    told: Urgency,
}

/// An allocation's tasks and how far each has come.
#[derive(Debug)]
pub struct Flow {
    members: Vec<Member>,
    urgency: Urgency,
}

impl Flow {
    /// A flow over tasks in the order of the job file, each with its lifecycle and whether it leads. `progress` is
    /// [`Progress::Waiting`] unless the task is known from before.
    pub fn new(tasks: impl IntoIterator<Item = (Lifecycle, bool, Progress)>) -> Flow {
        let member = |(lifecycle, leader, progress)| Member {
            lifecycle,
            leader,
            progress,
            told: Urgency::None,
        };
        Flow {
            members: tasks.into_iter().map(member).collect(),
            urgency: Urgency::None,
        }
    }

    /// Notes that a task runs.
    pub fn started(&mut self, task: usize) {
        if let Some(member) = self.members.get_mut(task).filter(|member| !member.progress.is_over()) {
            member.progress = Progress::Running;
        }
    }

    /// Notes that a task is over.
    pub fn ended(&mut self, task: usize, failed: bool) {
        if let Some(member) = self.members.get_mut(task) {
            member.progress = Progress::Ended { failed };
        }
    }

    /// Notes that the whole allocation is to end. Urgency only grows.
    pub fn end(&mut self, urgency: Urgency) {
        self.urgency = self.urgency.max(urgency);
    }

    /// Whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        self.members.iter().all(|member| member.progress.is_over())
    }

    /// What is to be done now; every action is answered once.
    pub fn actions(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        // Skipping one task can decide about another, so until nothing changes.
        while let Some(action) = self.step() {
            actions.extend(action);
        }
        actions
    }

    /// One change, with the action that it asks for.
    fn step(&mut self) -> Option<Option<Action>> {
        for task in 0..self.members.len() {
            let member = self.members[task];
            match member.progress {
                Progress::Waiting if self.never(member) => {
                    self.members[task].progress = Progress::Skipped;
                    return Some(None);
                }
                Progress::Waiting if self.is_due(member) => {
                    self.members[task].progress = Progress::Launched;
                    return Some(Some(Action::Launch(task)));
                }
                progress if progress.is_under_way() => {
                    let urgency = self.urgency_of(member);
                    if urgency > member.told {
                        self.members[task].told = urgency;
                        return Some(Some(Action::End(task, urgency)));
                    }
                }
                _ => {}
            }
        }
        None
    }

    fn all(&self, which: impl Fn(&Member) -> bool, condition: impl Fn(Progress) -> bool) -> bool {
        self.members
            .iter()
            .filter(|member| which(member))
            .all(|member| condition(member.progress))
    }

    /// Whether the work as a whole is to end: it was asked to, a task failed, or the leader is over.
    fn is_ending(&self) -> bool {
        let failed = |member: &Member| member.progress == Progress::Ended { failed: true };
        let led = |member: &Member| member.leader && member.progress.is_over();
        self.urgency > Urgency::None || self.members.iter().any(|member| failed(member) || led(member))
    }

    fn never(&self, member: Member) -> bool {
        match member.lifecycle {
            Lifecycle::Poststop => self.urgency == Urgency::Kill,
            _ => self.is_ending(),
        }
    }

    fn is_due(&self, member: Member) -> bool {
        let prestart = |sidecar| move |member: &Member| member.lifecycle == Lifecycle::Prestart { sidecar };
        let main = |member: &Member| member.lifecycle == Lifecycle::Main;
        match member.lifecycle {
            Lifecycle::Prestart { .. } => true,
            Lifecycle::Main => {
                self.all(prestart(false), Progress::is_over) && self.all(prestart(true), Progress::has_run)
            }
            Lifecycle::Poststart { .. } => self.all(main, Progress::has_run),
            Lifecycle::Poststop => self.all(|member| member.lifecycle != Lifecycle::Poststop, Progress::is_over),
        }
    }

    fn urgency_of(&self, member: Member) -> Urgency {
        if self.urgency == Urgency::Kill {
            return Urgency::Kill;
        }
        let main = |member: &Member| member.lifecycle == Lifecycle::Main;
        let mains_are_over = self.all(main, Progress::is_over);
        let may_end = match member.lifecycle {
            Lifecycle::Poststop => false,
            // What runs beside the main tasks ends after them.
            lifecycle if lifecycle.is_sidecar() => return if mains_are_over { Urgency::Stop } else { Urgency::None },
            // The leader goes first, as in Nomad.
            _ => self.is_ending() && (member.leader || self.all(|member| member.leader, Progress::is_over)),
        };
        if may_end { Urgency::Stop } else { Urgency::None }
    }
}

#[cfg(test)]
mod tests {
    use super::Action::{End, Launch};
    use super::*;

    const PRE: Lifecycle = Lifecycle::Prestart { sidecar: false };
    const PRE_SIDECAR: Lifecycle = Lifecycle::Prestart { sidecar: true };
    const MAIN: Lifecycle = Lifecycle::Main;
    const POST: Lifecycle = Lifecycle::Poststart { sidecar: false };
    const POST_SIDECAR: Lifecycle = Lifecycle::Poststart { sidecar: true };
    const POSTSTOP: Lifecycle = Lifecycle::Poststop;

    fn flow(tasks: &[(Lifecycle, bool)]) -> Flow {
        Flow::new(
            tasks
                .iter()
                .map(|(lifecycle, leader)| (*lifecycle, *leader, Progress::Waiting)),
        )
    }

    #[test]
    fn main_tasks_start_together_and_at_once() {
        let mut flow = flow(&[(MAIN, false), (MAIN, false)]);
        assert_eq!(flow.actions(), [Launch(0), Launch(1)]);
        assert_eq!(flow.actions(), []);
    }

    #[test]
    fn main_tasks_wait_for_prestart_tasks_to_succeed_and_for_sidecars_to_run() {
        let mut flow = flow(&[(MAIN, false), (PRE, false), (PRE_SIDECAR, false)]);
        assert_eq!(flow.actions(), [Launch(1), Launch(2)]);
        flow.started(1);
        flow.ended(1, false);
        assert_eq!(flow.actions(), []);
        flow.started(2);
        assert_eq!(flow.actions(), [Launch(0)]);
    }

    #[test]
    fn a_failed_prestart_task_keeps_main_from_starting_but_not_poststop() {
        let mut flow = flow(&[(PRE, false), (MAIN, false), (POST, false), (POSTSTOP, false)]);
        assert_eq!(flow.actions(), [Launch(0)]);
        flow.ended(0, true);
        assert_eq!(flow.actions(), [Launch(3)]);
        assert!(!flow.is_over());
        flow.ended(3, false);
        assert!(flow.is_over());
    }

    #[test]
    fn poststart_tasks_start_once_all_main_tasks_have_run() {
        let mut flow = flow(&[(MAIN, false), (MAIN, false), (POST, false)]);
        assert_eq!(flow.actions(), [Launch(0), Launch(1)]);
        flow.started(0);
        assert_eq!(flow.actions(), []);
        flow.started(1);
        assert_eq!(flow.actions(), [Launch(2)]);
    }

    #[test]
    fn sidecars_end_after_the_main_tasks_and_poststop_runs_last() {
        let mut flow = flow(&[
            (MAIN, false),
            (PRE_SIDECAR, false),
            (POST_SIDECAR, false),
            (POSTSTOP, false),
        ]);
        assert_eq!(flow.actions(), [Launch(1)]);
        flow.started(1);
        assert_eq!(flow.actions(), [Launch(0)]);
        flow.started(0);
        assert_eq!(flow.actions(), [Launch(2)]);
        flow.started(2);
        flow.ended(0, false);
        assert_eq!(flow.actions(), [End(1, Urgency::Stop), End(2, Urgency::Stop)]);
        flow.ended(1, false);
        assert_eq!(flow.actions(), []);
        flow.ended(2, false);
        assert_eq!(flow.actions(), [Launch(3)]);
    }

    #[test]
    fn the_end_of_the_leader_ends_the_others() {
        let mut flow = flow(&[(MAIN, true), (MAIN, false)]);
        assert_eq!(flow.actions(), [Launch(0), Launch(1)]);
        flow.started(0);
        flow.started(1);
        flow.ended(0, false);
        assert_eq!(flow.actions(), [End(1, Urgency::Stop)]);
    }

    #[test]
    fn the_failure_of_one_task_ends_its_siblings() {
        let mut flow = flow(&[(MAIN, false), (MAIN, false)]);
        flow.actions();
        flow.ended(1, true);
        assert_eq!(flow.actions(), [End(0, Urgency::Stop)]);
    }

    #[test]
    fn a_stop_reaches_the_leader_first() {
        let mut flow = flow(&[(MAIN, false), (MAIN, true)]);
        flow.actions();
        flow.end(Urgency::Stop);
        assert_eq!(flow.actions(), [End(1, Urgency::Stop)]);
        flow.ended(1, false);
        assert_eq!(flow.actions(), [End(0, Urgency::Stop)]);
    }

    #[test]
    fn a_kill_reaches_everything_at_once_and_skips_what_waits() {
        let mut flow = flow(&[(MAIN, true), (MAIN, false), (PRE_SIDECAR, false), (POSTSTOP, false)]);
        flow.actions();
        flow.started(2);
        assert_eq!(flow.actions(), [Launch(0), Launch(1)]);
        flow.end(Urgency::Stop);
        assert_eq!(flow.actions(), [End(0, Urgency::Stop)]);
        flow.end(Urgency::Kill);
        assert_eq!(
            flow.actions(),
            [End(0, Urgency::Kill), End(1, Urgency::Kill), End(2, Urgency::Kill)]
        );
        (0..3).for_each(|task| flow.ended(task, false));
        assert_eq!(flow.actions(), []);
        assert!(flow.is_over());
    }

    #[test]
    fn a_poststop_task_survives_a_stop_and_not_a_kill() {
        let mut flow = flow(&[(MAIN, false), (POSTSTOP, false)]);
        flow.actions();
        flow.end(Urgency::Stop);
        assert_eq!(flow.actions(), [End(0, Urgency::Stop)]);
        flow.ended(0, false);
        assert_eq!(flow.actions(), [Launch(1)]);
        flow.started(1);
        assert_eq!(flow.actions(), []);
        flow.end(Urgency::Kill);
        assert_eq!(flow.actions(), [End(1, Urgency::Kill)]);
    }

    #[test]
    fn what_is_known_from_before_is_not_launched_again() {
        let ended = Progress::Ended { failed: false };
        let mut flow = Flow::new([
            (PRE, false, ended),
            (MAIN, false, Progress::Launched),
            (MAIN, false, Progress::Waiting),
        ]);
        assert_eq!(flow.actions(), [Launch(2)]);
        flow.end(Urgency::Stop);
        assert_eq!(flow.actions(), [End(1, Urgency::Stop), End(2, Urgency::Stop)]);
    }
}
