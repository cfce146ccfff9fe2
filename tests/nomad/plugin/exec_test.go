// Sessions inside a task: invariants X, and Nomad's own conformance tests for streaming exec.
package plugin

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
	"github.com/hashicorp/nomad/plugins/drivers/testutils"

	"holdfast.test/nomad/internal/processes"
)

func TestNomadsStreamingExecConformance_X3(t *testing.T) {
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostNamed(t, name, nil)
			task := h.run("sleep 1000")
			// The harness serves a driver in process; its exec tests call that driver itself, which here is the client of
			// the external plugin.
			harness := testutils.NewDriverHarness(t, h.Driver)
			t.Cleanup(harness.Kill)
			testutils.ExecTaskStreamingConformanceTests(t, harness, task.ID)
			h.destroy(task)
		})
	}
}

func TestExecTaskAlwaysHasAResultAndCombinedOutput_X1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	for _, run := range []struct {
		script string
		code   int32
		stdout string
	}{
		{"echo one; echo two >&2; echo three", 0, "one\ntwo\nthree\n"},
		{"exit 42", 42, ""},
		{"echo $NOMAD_ALLOC_ID; pwd", 0, task.AllocID + "\n" + task.TaskDir().Dir + "\n"},
	} {
		answer, err := h.Raw.ExecTask(context.Background(), &proto.ExecTaskRequest{
			TaskId: task.ID, Command: []string{"/bin/sh", "-c", run.script}, Timeout: durationpb.New(patience),
		})
		must.NoError(t, err)
		must.NotNil(t, answer.Result)
		must.Eq(t, run.code, answer.Result.ExitCode)
		must.Eq(t, run.stdout, string(answer.Stdout))
		must.Eq(t, "", string(answer.Stderr))
	}
	h.destroy(task)
}

func TestAnExecOfNothingOrOfAMissingCommandIsAnError_X1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	_, err := h.Driver.ExecTask(task.ID, nil, patience)
	must.ErrorContains(t, err, "cmd must have at least one value")
	_, err = h.Driver.ExecTask(task.ID, []string{"/does/not/exist"}, patience)
	must.ErrorContains(t, err, "/does/not/exist")
	must.True(t, processes.Alive(h.pid(task)))
	h.destroy(task)
}

func TestATimeoutEndsTheSessionWithAllItsProcesses_X2(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	pid := h.pid(task)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := h.Raw.ExecTask(ctx, &proto.ExecTaskRequest{
		TaskId:  task.ID,
		Command: []string{"/bin/sh", "-c", "sleep 1234 & sleep 1234"},
		Timeout: durationpb.New(300 * time.Millisecond),
	})
	must.NotEq(t, codes.DeadlineExceeded, status.Code(err), must.Sprint("the call did not come back by itself"))
	eventually(t, "end of the session", func() error {
		if count := countMains(task, "sleep 1234"); count > 0 {
			return fmt.Errorf("%d of its processes are left", count)
		}
		return nil
	})
	must.True(t, processes.Alive(pid))
	h.destroy(task)
}

func TestATimeoutOfZeroIsNoLimit_X2(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	result, err := h.Driver.ExecTask(task.ID, []string{"/bin/sh", "-c", "sleep 1; echo done; exit 6"}, 0)
	must.NoError(t, err)
	must.Eq(t, "done\n", string(result.Stdout))
	must.Eq(t, 6, result.ExitResult.ExitCode)
	h.destroy(task)
}

func TestOfALongOutputTheLast4KiBAreKept_X2(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	result, err := h.Driver.ExecTask(task.ID, []string{"seq", "1", "100000"}, patience)
	must.NoError(t, err)
	must.Eq(t, drivers.CheckBufSize, len(result.Stdout))
	must.True(t, strings.HasSuffix(string(result.Stdout), "\n99999\n100000\n"), must.Sprintf("%q", result.Stdout))
	h.destroy(task)
}

// session is a raw stream of ExecTaskStreaming.
type session struct {
	proto.Driver_ExecTaskStreamingClient
	t *testing.T
}

func (h *host) session(ctx context.Context, task *drivers.TaskConfig, tty bool, command ...string) *session {
	h.t.Helper()
	stream, err := h.Raw.ExecTaskStreaming(ctx)
	must.NoError(h.t, err)
	must.NoError(h.t, stream.Send(&proto.ExecTaskStreamingRequest{
		Setup: &proto.ExecTaskStreamingRequest_Setup{TaskId: task.ID, Command: command, Tty: tty},
	}))
	return &session{stream, h.t}
}

func (s *session) input(data []byte, closes bool) {
	s.t.Helper()
	must.NoError(s.t, s.Send(&proto.ExecTaskStreamingRequest{
		Stdin: &proto.ExecTaskStreamingIOOperation{Data: data, Close: closes},
	}))
}

// finish reads until the end and returns what was said, in the order that the protocol wants.
func (s *session) finish() (stdout, stderr []byte, result *proto.ExitResult) {
	s.t.Helper()
	for {
		message, err := s.Recv()
		if errors.Is(err, io.EOF) {
			must.NotNil(s.t, result, must.Sprint("the stream ended without an exit"))
			return stdout, stderr, result
		}
		must.NoError(s.t, err)
		must.Nil(s.t, result, must.Sprintf("a message after the exit: %v", message))
		if message.Stdout != nil {
			stdout = append(stdout, message.Stdout.Data...)
		}
		if message.Stderr != nil {
			stderr = append(stderr, message.Stderr.Data...)
		}
		if message.Exited {
			must.NotNil(s.t, message.Result, must.Sprint("exited without a result"))
			result = message.Result
		}
	}
}

func TestTheStreamEndsWithOneExitAfterAllOutput_X3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	s := h.session(context.Background(), task, false, "/bin/sh", "-c", "echo out; echo err >&2; exit 12")
	stdout, stderr, result := s.finish()
	must.Eq(t, "out\n", string(stdout))
	must.Eq(t, "err\n", string(stderr))
	must.Eq(t, 12, result.ExitCode)

	s = h.session(context.Background(), task, false, "/bin/sh", "-c", "kill -TERM $$")
	_, _, result = s.finish()
	must.Eq(t, 143, result.ExitCode)
	h.destroy(task)
}

func TestTenMegabytesGoThroughASessionUnchanged_X3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	payload := make([]byte, 10<<20)
	_, err := rand.Read(payload)
	must.NoError(t, err)
	s := h.session(context.Background(), task, false, "cat")
	go func() {
		for chunk := range slicesOf(payload, 32<<10) {
			if s.Send(&proto.ExecTaskStreamingRequest{Stdin: &proto.ExecTaskStreamingIOOperation{Data: chunk}}) != nil {
				return
			}
		}
		_ = s.Send(&proto.ExecTaskStreamingRequest{Stdin: &proto.ExecTaskStreamingIOOperation{Close: true}})
	}()
	stdout, _, result := s.finish()
	must.Eq(t, 0, result.ExitCode)
	must.True(t, bytes.Equal(payload, stdout), must.Sprintf("%d bytes of %d came back", len(stdout), len(payload)))
	h.destroy(task)
}

func slicesOf(data []byte, size int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for start := 0; start < len(data); start += size {
			if !yield(data[start:min(start+size, len(data))]) {
				return
			}
		}
	}
}

func TestATerminalIsResizedAndItsInputEnds_X3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	s := h.session(context.Background(), task, true, "/bin/sh", "-c", "stty size; read line; stty size; cat; exit 3")
	size := func(height, width int32) {
		must.NoError(t, s.Send(&proto.ExecTaskStreamingRequest{
			TtySize: &proto.ExecTaskStreamingRequest_TerminalSize{Height: height, Width: width},
		}))
	}
	size(24, 80)
	var said string
	until := func(text string) {
		for !strings.Contains(said, text) {
			message, err := s.Recv()
			must.NoError(t, err, must.Sprintf("so far: %q", said))
			said += string(message.GetStdout().GetData())
		}
	}
	until("\r\n")
	size(33, 99)
	s.input([]byte("\n"), false)
	until("33 99\r\n")
	s.input(nil, true)
	_, _, result := s.finish()
	must.Eq(t, 3, result.ExitCode)
	h.destroy(task)
}

func TestAResizeWithoutATerminalIsIgnored_X3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	s := h.session(context.Background(), task, false, "cat")
	must.NoError(t, s.Send(&proto.ExecTaskStreamingRequest{
		TtySize: &proto.ExecTaskStreamingRequest_TerminalSize{Height: 24, Width: 80},
	}))
	s.input([]byte("still here\n"), true)
	stdout, _, result := s.finish()
	must.Eq(t, "still here\n", string(stdout))
	must.Eq(t, 0, result.ExitCode)
	h.destroy(task)
}

func TestAStreamThatDoesNotBeginWithSetupIsRefused_X3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	stream, err := h.Raw.ExecTaskStreaming(context.Background())
	must.NoError(t, err)
	must.NoError(t, stream.Send(&proto.ExecTaskStreamingRequest{
		Stdin: &proto.ExecTaskStreamingIOOperation{Data: []byte("x")},
	}))
	_, err = stream.Recv()
	must.Error(t, err)
	must.NotEq(t, io.EOF, err)
	must.SliceNotContains(t, []codes.Code{codes.Unavailable, codes.Canceled}, status.Code(err))
	h.destroy(task)
}

func TestACancelledStreamKillsTheSession_X4(t *testing.T) {
	for _, tty := range []bool{false, true} {
		t.Run(fmt.Sprintf("tty %v", tty), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			task := h.run("sleep 1000")
			ctx, cancel := context.WithCancel(context.Background())
			s := h.session(ctx, task, tty, "/bin/sh", "-c", "trap '' HUP INT TERM; sleep 1234 & echo up; sleep 1234")
			message, err := s.Recv()
			must.NoError(t, err)
			must.StrContains(t, string(message.GetStdout().GetData()), "up")
			must.Positive(t, countMains(task, "sleep 1234"))
			cancel()
			eventually(t, "end of the session", func() error {
				if count := countMains(task, "sleep 1234"); count > 0 {
					return fmt.Errorf("%d of its processes are left", count)
				}
				return nil
			})
			must.True(t, processes.Alive(h.pid(task)))
			h.destroy(task)
		})
	}
}

func TestSessionsDieWithTheTask_X4(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	s := h.session(context.Background(), task, false, "/bin/sh", "-c", "echo up; sleep 1234")
	_, err := s.Recv()
	must.NoError(t, err)
	must.NoError(t, h.Driver.StopTask(task.ID, patience, "SIGTERM"))
	h.destroy(task)
}

func TestASessionHasTheTasksUser_X3(t *testing.T) {
	asRoot(t, "changes the user")
	t.Parallel()
	h := newHost(t)
	task := h.shell("sleep 1000")
	task.User = "nobody"
	h.start(task)
	s := h.session(context.Background(), task, false, "id", "-un")
	stdout, _, _ := s.finish()
	must.Eq(t, "nobody\n", string(stdout))
	result, err := h.Driver.ExecTask(task.ID, []string{"id", "-un"}, patience)
	must.NoError(t, err)
	must.Eq(t, "nobody\n", string(result.Stdout))
	h.destroy(task)
}

func TestManySessionsAtOnce_X3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	const count = 20
	failures := make(chan error, count)
	for number := range count {
		go func() {
			result, err := h.Driver.ExecTask(task.ID, []string{"echo", itoa(number)}, patience)
			if err == nil && string(result.Stdout) != itoa(number)+"\n" {
				err = fmt.Errorf("session %d said %q", number, result.Stdout)
			}
			failures <- err
		}()
	}
	for range count {
		must.NoError(t, <-failures)
	}
	h.destroy(task)
}
