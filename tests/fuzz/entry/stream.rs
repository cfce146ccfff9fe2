//! Messages as they come over a socket, and what is made of them.

use holdfast_executor::nomad::session::{inputs_of, response_of};
use holdfast_executor::task::Task;
use holdfast_wire::executor_v1::{
    CommitRequest, EquipRequest, ExecInput, ExecOutput, ExecRequest, FreezeRequest, IdentifyRequest, IdentifyResponse,
    LaunchRequest, LaunchResponse, SignalRequest, StopRequest, UpdateRequest, WaitResponse, exec_input,
};
use holdfast_wire::nomad_driver::{
    CreateNetworkRequest, DestroyTaskRequest, ExecTaskStreamingRequest, ExecTaskStreamingResponse, RecoverTaskRequest,
    SignalTaskRequest, StartTaskRequest, StopTaskRequest, WaitTaskRequest,
};
use prost::Message;

/// The first byte says which message the others are.
pub fn run(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else {
        return;
    };
    match which % 22 {
        0 => {
            let Some(request) = decoded::<ExecTaskStreamingRequest>(bytes) else {
                return;
            };
            let stdin = request.stdin.as_ref().map_or(0, |stdin| stdin.data.len());
            let taken: usize = (inputs_of(request).iter())
                .map(|message| match message {
                    exec_input::Message::Stdin(bytes) => bytes.len(),
                    _ => 0,
                })
                .sum();
            assert_eq!(taken, stdin, "no byte of input is lost or doubled");
        }
        1 => {
            if let Some(response) = decoded::<ExecOutput>(bytes).and_then(response_of) {
                assert_eq!(response.exited, response.result.is_some());
            }
        }
        2 => {
            if let Some(LaunchRequest { task: Some(spec), .. }) = decoded(bytes)
                && let Ok(task) = Task::of(spec.clone())
            {
                assert!(!task.task_id.is_empty() && task.plan.command.starts_with('/'));
                assert_eq!((task.args, task.env), (spec.args, spec.env));
            }
        }
        3 => drop(decoded::<ExecInput>(bytes)),
        4 => drop(decoded::<IdentifyRequest>(bytes)),
        5 => drop(decoded::<IdentifyResponse>(bytes)),
        6 => drop(decoded::<LaunchResponse>(bytes)),
        7 => drop(decoded::<CommitRequest>(bytes)),
        8 => drop(decoded::<EquipRequest>(bytes)),
        9 => drop(decoded::<ExecRequest>(bytes)),
        10 => drop(decoded::<FreezeRequest>(bytes)),
        11 => drop(decoded::<SignalRequest>(bytes)),
        12 => drop(decoded::<StopRequest>(bytes)),
        13 => drop(decoded::<UpdateRequest>(bytes)),
        14 => drop(decoded::<WaitResponse>(bytes)),
        15 => drop(decoded::<StartTaskRequest>(bytes)),
        16 => drop(decoded::<RecoverTaskRequest>(bytes)),
        17 => drop(decoded::<WaitTaskRequest>(bytes)),
        18 => drop(decoded::<StopTaskRequest>(bytes)),
        19 => drop(decoded::<DestroyTaskRequest>(bytes)),
        20 => drop(decoded::<SignalTaskRequest>(bytes)),
        _ => {
            drop(decoded::<CreateNetworkRequest>(bytes));
            drop(decoded::<ExecTaskStreamingResponse>(bytes));
        }
    }
}

/// What is read can be written, and is then read as the same.
fn decoded<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let written = message.encode_to_vec();
    let again = M::decode(&*written).expect("what was written can be read");
    // Not compared as values: a NaN differs from itself.
    assert_eq!(again.encode_to_vec().len(), written.len());
    Some(message)
}
