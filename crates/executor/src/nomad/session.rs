//! Sessions in Nomad's messages, which are the driver's (contract, X-3).

use holdfast_wire::executor_v1::{self, ExecInput, ExecOutput, exec_input, exec_output};
use holdfast_wire::nomad_driver::{
    ExecTaskStreamingIoOperation, ExecTaskStreamingRequest, ExecTaskStreamingResponse, ExitResult,
    exec_task_streaming_request::TerminalSize,
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

/// The client's messages as a session takes them. A client that half-closes its side has not closed the input: it has a message
/// for that.
pub fn inputs(requests: Streaming<ExecTaskStreamingRequest>) -> impl Stream<Item = Result<ExecInput, Status>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut requests = requests;
        while let Ok(Some(request)) = requests.message().await {
            for message in inputs_of(request) {
                if sender.send(Ok(ExecInput { message: Some(message) })).await.is_err() {
                    return;
                }
            }
        }
        sender.closed().await;
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

/// A session's messages as Nomad takes them.
pub fn outputs(
    messages: impl Stream<Item = Result<ExecOutput, Status>>,
) -> impl Stream<Item = Result<ExecTaskStreamingResponse, Status>> {
    messages.filter_map(|message| message.map(response_of).transpose())
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
        let size = |count: i32| u32::try_from(count).unwrap_or(0);
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
            response.result = Some(ExitResult {
                exit_code: exit_code(exit),
                signal: exit.signal,
                oom_killed: false,
            });
        }
    }
    Some(response)
}

/// 128 + n after a signal; -1 for a command that was killed at its time limit.
pub fn exit_code(exit: executor_v1::SessionExit) -> i32 {
    let executor_v1::SessionExit {
        exit_code,
        signal,
        timed_out,
    } = exit;
    match (timed_out, signal) {
        (true, _) => -1,
        (false, 0) => exit_code,
        (false, signal) => 128 + signal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_keeps_its_order_and_the_end_is_one_message_x3() {
        let request = ExecTaskStreamingRequest {
            setup: None,
            tty_size: Some(TerminalSize { height: 24, width: -1 }),
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
                exec_input::Message::Size(executor_v1::TerminalSize { rows: 24, columns: 0 }),
            ]
        );
        let exit = executor_v1::SessionExit {
            exit_code: 3,
            ..Default::default()
        };
        let message = Some(exec_output::Message::Exit(exit));
        let response = response_of(ExecOutput { message }).unwrap();
        assert!(response.exited);
        assert_eq!(response.result.unwrap().exit_code, 3);
    }
}
