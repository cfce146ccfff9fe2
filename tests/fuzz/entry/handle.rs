//! The handle's `driver_state`, as an agent hands it back.

use holdfast_record::HandleState;

/// What is read can be written, and is then read as the same.
pub fn run(data: &[u8]) {
    let Ok(handle) = HandleState::parse(data) else { return };
    let written = handle.to_bytes().expect("what came from text is text");
    let again = HandleState::parse(&written).expect("what was written can be read");
    assert_eq!(again.dir, handle.dir);
    assert_eq!(again.socket, handle.socket);
    assert_eq!(
        (again.executor, again.init, again.main),
        (handle.executor, handle.init, handle.main)
    );
    assert_eq!(
        (again.task_id, again.boot_id, again.started_at_ms),
        (handle.task_id, handle.boot_id, handle.started_at_ms)
    );
    let names = |handle: &HandleState| handle.extra.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&HandleState::parse(&written).expect("as before")),
        names(&HandleState::parse(data).expect("as before"))
    );
}
