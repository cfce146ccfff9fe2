//! Tests that stay on the host, each with its reason. All others run in the VM too.

use super::program::GO_TESTS;

/// A test that cannot run in the VM.
pub struct Exclusion {
    /// Of which program, as [`super::program::Program::name`].
    pub program: &'static str,
    /// The test's whole name.
    pub test: &'static str,
    /// What the VM lacks.
    #[expect(dead_code, reason = "for those who read the list")]
    reason: &'static str,
}

pub const EXCLUSIONS: &[Exclusion] = &[
    Exclusion {
        program: "holdfast-executor process",
        test: "adoption::executors_may_die_again_and_again",
        reason: "an executor that dies between reading output and writing it loses that piece, a moment that emulation stretches",
    },
    Exclusion {
        program: "holdfast-executor process",
        test: "launch::environment_and_arguments_arrive_and_are_never_on_disk",
        reason: "compares the environment of a shell, to which busybox's adds PWD and SHLVL",
    },
    Exclusion {
        program: "holdfast-executor process",
        test: "output_large::a_large_output_arrives_whole_over_rotated_files",
        reason: "moves more than an emulated processor can within the patience of a test",
    },
    Exclusion {
        program: "holdfast-executor process",
        test: "run_options::completions_and_manual_know_every_command",
        reason: "asks bash what it thinks of its completions",
    },
    Exclusion {
        program: "holdfast-executor process",
        test: "session_stream::a_resize_is_heard_by_the_foreground_and_ignored_if_no_terminal_has_that_size_x3",
        reason: "reads the size by stty, of which busybox's says 24 80 for any above 30000",
    },
    Exclusion {
        program: "holdfast-sandbox holdfast_sandbox",
        test: "image::tests::content::owners_modes_times_links_and_attributes_are_those_of_the_layer",
        reason: "files in memory have no attributes of users before Linux 6.6",
    },
    Exclusion {
        program: "holdfast-sandbox holdfast_sandbox",
        test: "image::tests::content::without_root_everything_is_the_users_and_set_id_bits_are_gone",
        reason: "files in memory have no attributes of users before Linux 6.6",
    },
    Exclusion {
        program: "holdfast-sandbox holdfast_sandbox",
        test: "users::tests::the_hosts_own_getent_is_understood",
        reason: "there is no glibc, and so no getent",
    },
    Exclusion {
        program: GO_TESTS,
        test: "TestAThousandShortTasksLeaveNothing",
        reason: "starts more than an emulated processor can within the patience of a run",
    },
    Exclusion {
        program: GO_TESTS,
        test: "TestTenMegabytesGoThroughASessionUnchanged_X3",
        reason: "moves more than an emulated processor can within the patience of a test",
    },
    Exclusion {
        program: GO_TESTS,
        test: "TestAKilledChildIsToldWhileTheTaskGoesOn",
        reason: "has tail(1) keep an endless line until memory is out, which takes busybox's minutes",
    },
    Exclusion {
        program: GO_TESTS,
        test: "TestManyTasksWriteAtOnce_L1",
        reason: "moves more than an emulated processor can within the patience of a test",
    },
    Exclusion {
        program: GO_TESTS,
        test: "TestOutputIsRotatedAtALineAndKeptWhole_L1_L2_L3",
        reason: "has seq(1) number 25 MB of lines in a form that busybox's does not know",
    },
    Exclusion {
        program: GO_TESTS,
        test: "TestRecoverAndStopOfManyTasksAtOnce_R1",
        reason: "twenty tasks at once keep an emulated processor busy for longer than the driver waits for an executor's word",
    },
    Exclusion {
        program: GO_TESTS,
        test: "TestManySessionsAtOnce_X3",
        reason: "twenty sessions at once keep an emulated processor busy for longer than the driver waits for an executor's word",
    },
    Exclusion {
        program: GO_TESTS,
        test: "TestPathAndHomeAreSetWhereTheAgentSaysNothing",
        reason: "asks a shell for a program's path, where busybox's says that the program is its own",
    },
];

/// Those of a program.
pub fn of(program: &str) -> impl Iterator<Item = &'static Exclusion> {
    EXCLUSIONS.iter().filter(move |exclusion| exclusion.program == program)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::GO_TESTS;
    use crate::go;

    #[test]
    fn every_excluded_go_test_is_there() {
        let folder = go::module().join("plugin");
        let files = fs::read_dir(folder).unwrap();
        let text: String = files
            .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
            .collect();
        for exclusion in super::of(GO_TESTS) {
            let test = exclusion.test.split('/').next().unwrap_or_default();
            assert!(text.contains(&format!("\nfunc {test}(")), "there is no {test}");
        }
    }
}
