//! Supervision directories in which anything may lie.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use holdfast_record::{
    BootId, Intent, RecordError, SupervisionDir, find_by_task, find_by_task_id, find_matching, names, remove_abandoned,
};

/// Three bytes for each thing that is put somewhere: what, under which name, and a byte of its content. No reader waits, follows a link or
/// takes any of it for a fact; and all of it goes with the folder.
pub fn run(data: &[u8]) {
    let host = tempfile::tempdir().expect("a folder for temporary files");
    let root = host.path().join("raw_exec");
    let outside = host.path().join("outside");
    fs::write(&outside, "not ours").expect("a writable folder");
    let intent = |id: &str| {
        let boot_id = BootId::parse("aa").expect("a boot id");
        Intent::new(id, "a", "t", "raw_exec", boot_id).expect("random bytes")
    };
    let dir = SupervisionDir::create(&root, &intent("a/t/1")).expect("a writable folder");
    for things in data.chunks_exact(3).take(24) {
        let [what, name, content] = *things else { continue };
        const NAMES: [&str; 12] = [
            names::INTENT,
            names::RECORD,
            names::EXIT,
            names::RESULT,
            names::NOTICES,
            names::TOLD,
            names::COMMITTED,
            names::LOG,
            names::STDOUT,
            names::EVENTS,
            names::SOCKET,
            names::WRITTEN,
        ];
        let folder = match name / 12 % 4 {
            0..=2 => dir.path(),
            _ => &root,
        };
        let place = match (name / 12 % 4, content % 3) {
            (3, 0) => folder.join("00000000-00000000"),
            (3, 1) => folder.join(format!(".new-{}-{content}-0", i32::MAX)),
            (3, _) => folder.join(format!(".old-{content}")),
            _ => folder.join(NAMES[usize::from(name % 12)]),
        };
        put(what, &place, content, &outside);
    }

    let one_line = |error: &RecordError| assert!(!error.to_string().contains('\n'), "{error}");
    let _ = dir.intent().map_err(|e| one_line(&e));
    let _ = dir.record().map_err(|e| one_line(&e));
    let _ = dir.result().map_err(|e| one_line(&e));
    let _ = dir.exit().map_err(|e| one_line(&e));
    let _ = dir.notices().map_err(|e| one_line(&e));
    let _ = dir.told().map_err(|e| one_line(&e));
    let _ = dir.lock().map_err(|e| one_line(&e));
    for listed in SupervisionDir::list(&root).expect("a readable folder") {
        let _ = listed.map_err(|e| one_line(&e));
    }
    let _ = find_by_task(&root, "a", "t").map_err(|e| one_line(&e));
    let _ = find_by_task_id(&root, "a/t/1").map_err(|e| one_line(&e));
    let _ = find_matching(&root, "t").map_err(|e| one_line(&e));
    let _ = SupervisionDir::create(&root, &intent("a/t/1")).map_err(|e| one_line(&e));
    remove_abandoned(&root).expect("what is abandoned can be removed");
    let path = dir.path().to_owned();
    dir.remove().expect("it can be removed");
    assert!(!path.exists());
    assert_eq!(fs::read_to_string(&outside).expect("it is outside"), "not ours");
}

fn put(what: u8, place: &Path, content: u8, outside: &Path) {
    let _ = fs::remove_file(place);
    // What is there and no file stays.
    let _ = match what % 8 {
        0 => fs::write(place, [content]),
        1 => fs::write(place, b"{\"version\":1}"),
        2 => fs::write(place, [0; 64]),
        3 => fs::create_dir_all(place.join("deep/er")),
        4 => symlink(outside, place),
        5 => symlink("/", place),
        6 => rustix::fs::mknodat(
            rustix::fs::CWD,
            place,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .map_err(Into::into),
        _ => fs::write(place, vec![b'{'; 1 + usize::from(content) * 5000]),
    };
}
