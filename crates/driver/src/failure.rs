//! What went wrong, in the form that the agent understands.

use holdfast_wire::nomad_structs::RecoverableError;
use prost::Message as _;
use tonic::{Code, Status};

/// Why a call fails. Ordinary failures have the code that the built-in's plain errors get: `Unavailable` and `Canceled`
/// mean to the agent that the plugin is gone (contract, I-3), and the text, code included, is what users of the
/// built-in know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No such task (contract, I-1).
    #[error("task not found for given id")]
    TaskNotFound,
    /// The agent may try the same again (contract, S-2).
    #[error("{0}")]
    Retryable(String),
    /// Trying again leads nowhere.
    #[error("{0}")]
    Final(String),
}

impl Failure {
    /// The same failure where it is one of the host at the moment, and not of the job.
    pub fn may_pass(self) -> Failure {
        match self {
            Failure::Final(what) => Failure::Retryable(what),
            other => other,
        }
    }

    /// A failure that no retry mends.
    pub fn last(what: impl std::fmt::Display) -> Failure {
        Failure::Final(what.to_string())
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        match failure {
            Failure::TaskNotFound | Failure::Final(_) => Status::new(Code::Unknown, failure.to_string()),
            Failure::Retryable(message) => with_recoverable(message, true),
        }
    }
}

/// A status that says whether the agent may try again. The agent reads the first detail only (contract, S-2, T-2).
pub fn with_recoverable(message: String, recoverable: bool) -> Status {
    let code = Code::FailedPrecondition;
    let details = RpcStatus {
        code: code as i32,
        message: message.clone(),
        details: vec![prost_types::Any {
            type_url: "type.googleapis.com/hashicorp.nomad.plugins.shared.structs.RecoverableError".to_owned(),
            value: RecoverableError { recoverable }.encode_to_vec(),
        }],
    };
    Status::with_details(code, message, details.encode_to_vec().into())
}

/// `google.rpc.Status`, which the header `grpc-status-details-bin` holds.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retryable_failure_carries_the_detail_that_the_agent_looks_for_s2() {
        let status = Status::from(Failure::Retryable("disk full".to_owned()));
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "disk full");
        let url = b"type.googleapis.com/hashicorp.nomad.plugins.shared.structs.RecoverableError";
        let mut any = vec![0x0a, u8::try_from(url.len()).unwrap()];
        any.extend_from_slice(url);
        any.extend_from_slice(b"\x12\x02\x08\x01");
        let mut expected = b"\x08\x09\x12\x09disk full\x1a".to_vec();
        expected.push(u8::try_from(any.len()).unwrap());
        expected.extend(any);
        assert_eq!(status.details(), expected);
    }

    #[test]
    fn a_terminal_detail_says_false_t2() {
        // False is protocol buffers' default: the detail is there and its value is empty.
        let status = with_recoverable("task not found for given id".to_owned(), false);
        let details = RpcStatus::decode(status.details()).unwrap();
        assert_eq!(details.details.len(), 1);
        assert!(details.details[0].value.is_empty());
    }

    #[test]
    fn an_ordinary_failure_is_never_taken_for_a_dead_plugin_i3() {
        for failure in [
            Failure::TaskNotFound,
            Failure::Retryable("x".into()),
            Failure::last("y"),
        ] {
            let text = failure.to_string();
            let status = Status::from(failure);
            assert!(!matches!(status.code(), Code::Unavailable | Code::Cancelled));
            assert_eq!(status.message(), text);
        }
        assert_eq!(
            Status::from(Failure::TaskNotFound).message(),
            "task not found for given id"
        );
    }
}
