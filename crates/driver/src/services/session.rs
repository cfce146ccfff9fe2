//! Sessions: ExecTaskStreaming between the agent's messages and the executor's (contract, X-3).

use holdfast_executor::client::Peer;
use holdfast_executor::nomad::session::{inputs_of, response_of};
use holdfast_wire::executor_v1::{ExecInput, ExecSetup, exec_input};
use holdfast_wire::nomad_driver::{ExecTaskStreamingRequest, ExecTaskStreamingResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::failure::Failure;

/// Messages on their way in each direction.
const IN_FLIGHT: usize = 16;

/// Forwards a session until it has ended or the agent goes away. Its processes end with the stream to the executor
/// (contract, X-4), which is dropped together with this one.
pub fn forward(
    peer: Peer,
    setup: ExecSetup,
    mut requests: Streaming<ExecTaskStreamingRequest>,
) -> ReceiverStream<Result<ExecTaskStreamingResponse, Status>> {
    let (inputs, input_stream) = mpsc::channel(IN_FLIGHT);
    let (responses, response_stream) = mpsc::channel(IN_FLIGHT);
    let failures = responses.clone();
    let agent = responses.clone();
    let Peer { mut executor, .. } = peer;
    let upstream = async move {
        let mut next = vec![exec_input::Message::Setup(setup)];
        loop {
            for message in next {
                // An executor that takes no more input may still have output: only `downstream` ends such a session.
                let _ = inputs.send(ExecInput { message: Some(message) }).await;
            }
            next = match requests.message().await {
                Ok(Some(request)) => inputs_of(request),
                // The agent closes its side of a session that goes on; whoever reads the input is told by a message of
                // its own.
                Ok(None) => std::future::pending().await,
                // Too large or not decodable: this session ends, and nothing else.
                Err(status) => {
                    let failure = Failure::Final(format!("the session's input is unusable: {}", status.message()));
                    let _ = failures.send(Err(failure.into())).await;
                    return;
                }
            }
        }
    };
    let downstream = async move {
        let mut outputs = match executor.exec_stream(ReceiverStream::new(input_stream)).await {
            Ok(outputs) => outputs.into_inner(),
            Err(status) => {
                let _ = responses.send(Err(ordinary(&status))).await;
                return;
            }
        };
        loop {
            let response = match outputs.message().await {
                Ok(Some(output)) => match response_of(output) {
                    Some(response) => Ok(response),
                    None => continue,
                },
                Ok(None) => return,
                Err(status) => Err(ordinary(&status)),
            };
            let is_last = response.as_ref().map_or(true, |response| response.exited);
            if responses.send(response).await.is_err() || is_last {
                return;
            }
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            () = upstream => {}
            () = downstream => {}
            () = agent.closed() => {}
        }
    });
    ReceiverStream::new(response_stream)
}

/// An end that the agent takes for what it is: some of the transport's codes would mean to it that the driver is dead
/// (I-3).
pub fn ordinary(status: &Status) -> Status {
    Failure::Final(status.message().to_owned()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executors_refusal_is_never_taken_for_a_dead_plugin_i3() {
        let text = "the task runs 4 sessions already, as many as max_sessions allows";
        for status in [
            Status::resource_exhausted(text),
            Status::unavailable(text),
            Status::cancelled(text),
        ] {
            let told = ordinary(&status);
            assert_eq!((told.code(), told.message()), (tonic::Code::Unknown, text));
        }
    }
}
