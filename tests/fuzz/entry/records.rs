//! Every record of a supervision directory, as the bytes of its file.

use std::cell::OnceCell;
use std::fs;

use holdfast_record::{BootId, Intent, RecordError, SupervisionDir, names};
use serde_json::Value;

thread_local! {
    static PLACE: OnceCell<(tempfile::TempDir, SupervisionDir)> = const { OnceCell::new() };
}

/// The first byte says which file the others are. What is no record is an error of one line that names the file; what is one can be
/// written again, with all that was in it.
pub fn run(data: &[u8]) {
    let Some((which, content)) = data.split_first() else {
        return;
    };
    PLACE.with(|place| {
        let (_guard, dir) = place.get_or_init(|| {
            let guard = tempfile::tempdir().expect("a folder for temporary files");
            let boot_id = BootId::parse("aa").expect("a boot id");
            let intent = Intent::new("a/t/1", "a", "t", "raw_exec", boot_id).expect("random bytes");
            let dir = SupervisionDir::create(&guard.path().join("raw_exec"), &intent).expect("a writable folder");
            (guard, dir)
        });
        match which % 6 {
            0 => check(
                dir,
                names::RECORD,
                content,
                |dir| dir.record(),
                |dir, of| dir.write_record(of),
            ),
            1 => check(
                dir,
                names::RESULT,
                content,
                |dir| dir.result(),
                |dir, of| dir.write_result(of),
            ),
            2 => check(
                dir,
                names::NOTICES,
                content,
                |dir| dir.notices(),
                |dir, of| {
                    let mut more = of.clone();
                    more.push("more", []);
                    dir.write_notices(of)
                },
            ),
            3 => check(
                dir,
                names::TOLD,
                content,
                |dir| dir.told(),
                |dir, of| dir.write_told(of),
            ),
            4 => {
                let intent = fs::read(dir.path().join(names::INTENT)).expect("the intent");
                put(dir, names::INTENT, content);
                if let Err(error) = dir.intent() {
                    names_the_file(names::INTENT, &error);
                }
                put(dir, names::INTENT, &intent);
            }
            _ => {
                put(dir, names::EXIT, content);
                if let Err(error) = dir.exit() {
                    names_the_file(names::EXIT, &error);
                }
            }
        }
    });
}

fn check<T>(
    dir: &SupervisionDir,
    name: &str,
    content: &[u8],
    read: impl Fn(&SupervisionDir) -> Result<Option<T>, RecordError>,
    write: impl FnOnce(&SupervisionDir, &T) -> Result<(), RecordError>,
) {
    put(dir, name, content);
    match read(dir) {
        Ok(found) => {
            write(dir, &found.expect("there is such a file")).expect("what was read can be written");
            let written = fs::read(dir.path().join(name)).expect("it was written");
            let (before, after) = (serde_json::from_slice(content), serde_json::from_slice(&written));
            includes(&after.expect("it is JSON"), &before.expect("it was JSON"));
            read(dir).expect("what was written can be read");
        }
        Err(error) => names_the_file(name, &error),
    }
    fs::remove_file(dir.path().join(name)).expect("it is there");
}

fn put(dir: &SupervisionDir, name: &str, content: &[u8]) {
    fs::write(dir.path().join(name), content).expect("a writable folder");
}

fn names_the_file(name: &str, error: &RecordError) {
    let text = error.to_string();
    assert!(text.contains(name) && !text.contains('\n'), "{text:?}");
}

/// `after` has every name that `before` has, at every depth of objects.
fn includes(after: &Value, before: &Value) {
    if let (Value::Object(after), Value::Object(before)) = (after, before) {
        for (name, before) in before {
            includes(after.get(name).unwrap_or_else(|| panic!("{name:?} is lost")), before);
        }
    }
}
