//! Sessions: ExecTaskStreaming between the agent's messages and the executor's (contract, X-3).

use holdfast_executor::client::Peer;
use holdfast_wire::executor_v1::{self, ExecInput, ExecOutput, ExecSetup, exec_input, exec_output};
use holdfast_wire::nomad_driver::{
    ExecTaskStreamingIoOperation, ExecTaskStreamingRequest, ExecTaskStreamingResponse, ExitResult,
    exec_task_streaming_request::TerminalSize,
};
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

fn inputs_of(request: ExecTaskStreamingRequest) -> Vec<exec_input::Message> {
    // A second setup means nothing.
    let ExecTaskStreamingRequest {
        setup: _,
        tty_size,
        stdin,
    } = request;
    let mut messages = Vec::with_capacity(1);
    if let Some(ExecTaskStreamingIoOperation { data, close }) = stdin {
        if !data.is_empty() {
            messages.push(exec_input::Message::Stdin(data));
        }
        if close {
            messages.push(exec_input::Message::StdinClose(true));
        }
    }
    if let Some(TerminalSize { height, width }) = tty_size {
        let size = |n: i32| u32::try_from(n).unwrap_or(0);
        messages.push(exec_input::Message::Size(executor_v1::TerminalSize {
            rows: size(height),
            columns: size(width),
        }));
    }
    messages
}

fn response_of(output: ExecOutput) -> Option<ExecTaskStreamingResponse> {
    let operation = |data, close| Some(ExecTaskStreamingIoOperation { data, close });
    let mut response = ExecTaskStreamingResponse::default();
    match output.message? {
        exec_output::Message::Stdout(data) => response.stdout = operation(data, false),
        exec_output::Message::Stderr(data) => response.stderr = operation(data, false),
        exec_output::Message::StdoutClose(close) => response.stdout = operation(Vec::new(), close),
        exec_output::Message::StderrClose(close) => response.stderr = operation(Vec::new(), close),
        exec_output::Message::Exit(exit) => {
            response.exited = true;
            response.result = Some(exit_result(exit));
        }
    }
    Some(response)
}

/// As the agent reads it: 128 + n and the number after a signal; -1 for a command that was killed at its time limit.
pub fn exit_result(exit: executor_v1::SessionExit) -> ExitResult {
    let executor_v1::SessionExit {
        exit_code,
        signal,
        timed_out,
    } = exit;
    let exit_code = match (timed_out, signal) {
        (true, _) => -1,
        (false, 0) => exit_code,
        (false, signal) => 128 + signal,
    };
    ExitResult {
        exit_code,
        signal,
        oom_killed: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_keeps_its_order_and_the_close_comes_last_x3() {
        let request = ExecTaskStreamingRequest {
            setup: None,
            tty_size: Some(TerminalSize { height: 24, width: 80 }),
            stdin: Some(ExecTaskStreamingIoOperation {
                data: b"x".to_vec(),
                close: true,
            }),
        };
        assert_eq!(
            inputs_of(request),
            [
                exec_input::Message::Stdin(b"x".to_vec()),
                exec_input::Message::StdinClose(true),
                exec_input::Message::Size(executor_v1::TerminalSize { rows: 24, columns: 80 }),
            ]
        );
        assert!(inputs_of(ExecTaskStreamingRequest::default()).is_empty());
    }

    #[test]
    fn the_end_is_one_message_with_a_result_x3() {
        let exit = executor_v1::SessionExit {
            exit_code: 3,
            ..Default::default()
        };
        let output = ExecOutput {
            message: Some(exec_output::Message::Exit(exit)),
        };
        let response = response_of(output).unwrap();
        assert!(response.exited);
        assert_eq!(response.result.unwrap().exit_code, 3);
        let output = ExecOutput {
            message: Some(exec_output::Message::StderrClose(true)),
        };
        assert!(response_of(output).unwrap().stderr.unwrap().close);
    }

    #[test]
    fn a_signalled_session_is_told_as_a_signalled_task_w4() {
        let exit = |exit_code, signal, timed_out| {
            let result = exit_result(executor_v1::SessionExit {
                exit_code,
                signal,
                timed_out,
            });
            (result.exit_code, result.signal)
        };
        assert_eq!(exit(5, 0, false), (5, 0));
        assert_eq!(exit(0, 15, false), (143, 15));
        assert_eq!(exit(0, 9, true), (-1, 9));
    }
}
