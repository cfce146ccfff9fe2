//! What init wrote of a task's end, for a task whose executor can no longer say it.

use holdfast_init::exit::{ExitRecord, Kind};
use holdfast_record::Status;

/// Status and time (Unix milliseconds) of an exit record.
pub fn status_of(exit: &ExitRecord) -> (Status, i64) {
    let ExitRecord {
        kind,
        realtime_ns,
        boottime_ns: _,
    } = *exit;
    let status = match kind {
        Kind::Exited(code) => Status::Exited(code),
        Kind::Signalled(signal) => Status::Signalled(signal),
        Kind::NotStarted { step, errno } => {
            Status::NotStarted(format!("step {step}: {}", std::io::Error::from_raw_os_error(errno)))
        }
    };
    (status, realtime_ns.div_euclid(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_end_is_told() {
        let told = |kind| {
            status_of(&ExitRecord {
                kind,
                realtime_ns: 5_999_999,
                boottime_ns: 0,
            })
        };
        assert_eq!(told(Kind::Exited(7)), (Status::Exited(7), 5));
        assert_eq!(told(Kind::Signalled(9)).0, Status::Signalled(9));
        let Status::NotStarted(reason) = told(Kind::NotStarted { step: 3, errno: 2 }).0 else {
            panic!()
        };
        assert!(reason.starts_with("step 3: No such file"), "{reason}");
    }
}
