//! Sessions in Nomad's messages, which are the driver's (contract, X-3): for this executor's service, and for the driver's.

use holdfast_wire::executor_v1::{self, ExecInput, ExecOutput, exec_input, exec_output};
use holdfast_wire::nomad_driver::{
    ExecTaskStreamingIoOperation, ExecTaskStreamingRequest, ExecTaskStreamingResponse, ExitResult,
    exec_task_streaming_request::TerminalSize,
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

/// The client's messages as a session takes them. A client that half-closes its side has not closed the input: it has a message
/// for that.
pub fn inputs(requests: Streaming<ExecTaskStreamingRequest>) -> impl Stream<Item = Result<ExecInput, Status>> + Unpin {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut requests = requests;
        loop {
            let messages = match requests.message().await {
                Ok(Some(request)) => inputs_of(request).into_iter().map(Ok).collect(),
                Ok(None) => break,
                Err(status) => vec![Err(status)],
            };
            for message in messages {
                let message = message.map(|message| ExecInput { message: Some(message) });
                let is_last = message.is_err();
                if sender.send(message).await.is_err() || is_last {
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

/// What a session takes of one message, in the order in which it is meant. A size that cannot be one is 0, which no session takes.
pub fn inputs_of(request: ExecTaskStreamingRequest) -> Vec<exec_input::Message> {
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

/// One message of a session; `None`: it says nothing.
pub fn response_of(output: ExecOutput) -> Option<ExecTaskStreamingResponse> {
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

/// As the agent reads it: 128 + n and the number after a signal; for a command that was killed at its time limit -1, which no
/// command can exit with, and which the built-in says as well.
pub fn exit_result(exit: executor_v1::SessionExit) -> ExitResult {
    let executor_v1::SessionExit {
        exit_code,
        signal,
        timed_out,
    } = exit;
    let exit_code = match (timed_out, signal) {
        (true, _) => -1,
        (false, 0) => exit_code,
        (false, signal) => signal.saturating_add(128),
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
