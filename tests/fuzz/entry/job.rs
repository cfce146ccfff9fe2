//! Job files and configuration files of the embedded agent.

use holdfast_agent::jobfile;

/// Whatever is wrong is told by line, one line each.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.lines().count().max(1);
    if let Err(problems) = jobfile::parse(text) {
        assert!(!problems.is_empty());
        for problem in problems {
            assert!((1..=lines + 1).contains(&problem.line), "{problem:?} of {lines}");
            assert!(!problem.message.contains('\n'), "{problem:?}");
        }
    }
    if let Err(problems) = jobfile::parse_plugin_configs(text) {
        assert!(!problems.is_empty());
    }
}
