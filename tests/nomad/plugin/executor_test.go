// The executor by hand, driven by Nomad's own executor client as if the agent had reattached to it.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad/client/lib/cgroupslib"
	"github.com/hashicorp/nomad/client/lib/cpustats"
	"github.com/hashicorp/nomad/drivers/shared/executor"
	"github.com/hashicorp/nomad/helper/testlog"
	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"
	"github.com/hashicorp/nomad/plugins/drivers/testutils"

	"holdfast.test/nomad/internal/cgroups"
	"holdfast.test/nomad/internal/guard"
	"holdfast.test/nomad/internal/processes"
)

func executorBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("HOLDFAST_EXECUTOR")
	if path == "" {
		path = filepath.Join("..", "..", "..", "target", "dist", "holdfast-executor")
	}
	absolute, err := filepath.Abs(path)
	must.NoError(t, err)
	_, err = os.Stat(absolute)
	must.NoError(t, err, must.Sprint("build the executor, or name it in HOLDFAST_EXECUTOR"))
	return absolute
}

// served is one `holdfast-executor serve` with Nomad's client attached, and the directories of its task.
type served struct {
	executor.Executor
	t       *testing.T
	client  *plugin.Client
	process *exec.Cmd
	ended   chan error
	root    string
	log     string
	allocID string
	scope   *cgroups.Task
}

func serve(t *testing.T) *served {
	t.Helper()
	binary := executorBinary(t)
	root, err := guard.Dir()
	must.NoError(t, err)
	s := &served{t: t, root: root, log: filepath.Join(root, "serve.log"), allocID: uuid.Generate(), ended: make(chan error, 1)}
	s.scope, err = cgroups.NewTask(s.allocID, "main")
	must.NoError(t, err)
	must.NoError(t, os.MkdirAll(filepath.Join(s.taskDir(), "local"), 0o755))
	socket := filepath.Join(root, "serve.sock")
	s.process = exec.Command(binary, "--state-dir", filepath.Join(root, "state"), "serve", "--socket", socket,
		"--log-file", s.log)
	must.NoError(t, s.process.Start())
	go func() { s.ended <- s.process.Wait() }()
	t.Cleanup(func() {
		processes.KillHolding(root, s.allocID)
		s.scope.Remove()
		if t.Failed() {
			said, _ := os.ReadFile(s.log)
			t.Logf("the executor's log:\n%s", said)
		}
		if err := guard.RemoveAll(root); err != nil {
			t.Errorf("remove the test's directory: %v", err)
		}
	})
	eventually(t, "the socket", func() error {
		_, err := net.Dial("unix", socket)
		return err
	})
	s.Executor, s.client, err = executor.ReattachToExecutor(&plugin.ReattachConfig{
		Protocol: plugin.ProtocolGRPC,
		Addr:     &net.UnixAddr{Net: "unix", Name: socket},
		Pid:      s.process.Process.Pid,
	}, testlog.HCLogger(t), cpustats.Compute{})
	must.NoError(t, err, must.Sprint("reattach"))
	return s
}

func (s *served) taskDir() string { return filepath.Join(s.root, "alloc", s.allocID, "main") }

func (s *served) output() string {
	said, _ := os.ReadFile(filepath.Join(s.root, "output"))
	return string(said)
}

// command is what Nomad's raw_exec asks for.
func (s *served) command(script string) *executor.ExecCommand {
	output := filepath.Join(s.root, "output")
	return &executor.ExecCommand{
		Cmd:        "/bin/sh",
		Args:       []string{"-c", script},
		Env:        []string{"PATH=" + os.Getenv("PATH"), "NOMAD_ALLOC_ID=" + s.allocID},
		TaskDir:    s.taskDir(),
		StdoutPath: output,
		StderrPath: output,
		Resources: &drivers.Resources{
			NomadResources: &structs.AllocatedTaskResources{
				Memory: structs.AllocatedMemoryResources{MemoryMB: 128},
				Cpu:    structs.AllocatedCpuResources{CpuShares: 100},
			},
			LinuxResources: &drivers.LinuxResources{
				MemoryLimitBytes: 128 << 20,
				CPUShares:        100,
				CpusetCgroupPath: s.scope.Path,
			},
		},
	}
}

func (s *served) launch(script string) int {
	s.t.Helper()
	state, err := s.Launch(s.command(script))
	must.NoError(s.t, err, must.Sprint("Launch"))
	must.Eq(s.t, -1, state.ExitCode)
	must.Positive(s.t, state.Pid)
	return state.Pid
}

func (s *served) wait() *executor.ProcessState {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	state, err := s.Wait(ctx)
	must.NoError(s.t, err, must.Sprint("Wait"))
	return state
}

// says waits until the task has written a text.
func (s *served) says(text string) {
	s.t.Helper()
	eventually(s.t, "output of the task", func() error {
		if !strings.Contains(s.output(), text) {
			return fmt.Errorf("%q is not in %q", text, s.output())
		}
		return nil
	})
}

// leave ends the executor as the agent does, and asserts that nothing is left.
func (s *served) leave() {
	s.t.Helper()
	s.client.Kill()
	s.hasLeft()
}

func (s *served) hasLeft() {
	s.t.Helper()
	select {
	case err := <-s.ended:
		must.NoError(s.t, err, must.Sprint("the executor's end"))
	case <-time.After(patience):
		s.t.Fatal("the executor did not leave")
	}
	s.nothingLeft()
	_, err := os.Lstat(filepath.Join(s.root, "serve.sock"))
	must.ErrorIs(s.t, err, os.ErrNotExist)
}

func (s *served) nothingLeft() {
	s.t.Helper()
	eventually(s.t, "what is left", func() error {
		var left []string
		for _, process := range processes.Holding(s.root, s.allocID) {
			left = append(left, "process "+process.String())
		}
		folders, _ := filepath.Glob(filepath.Join(s.root, "state", "serve", "*"))
		left = append(left, folders...)
		agents := map[string]bool{}
		for _, controller := range []string{"freezer", "cpu", "memory"} {
			agents[cgroups.Scope(controller, s.allocID, "main")] = true
		}
		for _, dir := range cgroups.Of(s.allocID) {
			if !agents[dir] {
				left = append(left, "cgroup "+dir)
			}
		}
		if len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		return nil
	})
}

func TestExecutorAnswersTheVersionThatNomadExpects(t *testing.T) {
	t.Parallel()
	s := serve(t)
	version, err := s.Version()
	must.NoError(t, err)
	must.Eq(t, executor.ExecutorVersionLatest, version.Version)
	protocol, err := s.client.Client()
	must.NoError(t, err)
	must.NoError(t, protocol.Ping(), must.Sprint("health"))
	must.NoError(t, s.Shutdown("SIGINT", time.Second), must.Sprint("without a task there is nothing to shut down"))
	s.leave()
}

func TestExecutorRunsATaskAndTellsItsExitToEveryWaiter_W1(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pid := s.launch("echo $NOMAD_ALLOC_ID; pwd; read line; exit 7 <&-")
	state := s.wait()
	must.Eq(t, pid, state.Pid)
	must.Eq(t, 7, state.ExitCode)
	must.Eq(t, 0, state.Signal)
	must.Eq(t, s.allocID+"\n"+s.taskDir()+"\n", s.output())
	must.Eq(t, state, s.wait(), must.Sprint("after the exit every Wait answers the same"))
	must.NoError(t, s.Shutdown("SIGINT", time.Second), must.Sprint("shutdown of an ended task"))
	s.leave()
}

func TestExecutorRefusesWhatCannotRunAndNamesIt(t *testing.T) {
	t.Parallel()
	s := serve(t)
	command := s.command("")
	command.Cmd = "no-such-command"
	_, err := s.Launch(command)
	must.ErrorContains(t, err, `binary "no-such-command" could not be found`)
	// Nothing was tried yet, so another launch may.
	s.launch("sleep 1000")
	_, err = s.Launch(s.command("sleep 1000"))
	must.ErrorContains(t, err, "already")
	s.leave()
}

func TestExecutorShutsATaskDownBySignalThenByKill_K1(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.launch(`trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done`)
	s.says("ready")
	must.ErrorContains(t, s.Shutdown("SIGNONSENSE", time.Second), "error unknown signal given for shutdown: SIGNONSENSE")
	must.NoError(t, s.Shutdown("SIGTERM", 3*time.Second))
	state := s.wait()
	must.Eq(t, 137, state.ExitCode)
	must.Eq(t, int(syscall.SIGKILL), state.Signal)
	must.StrContains(t, s.output(), "asked")
	s.leave()
}

func TestExecutorShutsDownAtOnceWithoutGrace_K1(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.launch(`trap '' INT TERM; setsid sleep 1000 & echo ready; wait`)
	s.says("ready")
	must.NoError(t, s.Shutdown("", 0))
	must.Eq(t, 137, s.wait().ExitCode)
	s.leave()
}

func TestExecutorPassesSignalsOn(t *testing.T) {
	t.Parallel()
	s := serve(t)
	must.ErrorContains(t, s.Signal(syscall.SIGUSR1), "Task not yet run")
	s.launch(`trap 'echo usr1; exit 3' USR1; echo ready; while :; do sleep 0.05; done`)
	s.says("ready")
	must.NoError(t, s.Signal(syscall.SIGUSR1))
	must.Eq(t, 3, s.wait().ExitCode)
	must.StrContains(t, s.output(), "usr1")
	must.Error(t, s.Signal(syscall.SIGUSR1), must.Sprint("the task is over"))
	s.leave()
}

func TestExecutorRunsCommandsInTheTask_X2(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pid := s.launch("sleep 1000")
	later := time.Now().Add(patience)
	out, code, err := s.Exec(later, "/bin/sh", []string{"-c", "echo $NOMAD_ALLOC_ID; echo err >&2; pwd; exit 5"})
	must.NoError(t, err)
	must.Eq(t, 5, code)
	must.Eq(t, s.allocID+"\nerr\n"+s.taskDir()+"\n", string(out))
	_, code, err = s.Exec(time.Now().Add(2*time.Second), "/bin/sh", []string{"-c", "sleep 1234 & sleep 1234"})
	must.NoError(t, err)
	must.Eq(t, -1, code)
	_, _, err = s.Exec(later, "/no/such/command", nil)
	must.ErrorContains(t, err, "/no/such/command")
	_, _, err = s.Exec(time.Now().Add(-time.Second), "true", nil)
	must.ErrorContains(t, err, "deadline exceeded")
	must.True(t, processes.Alive(pid))
	must.NoError(t, s.UpdateResources(s.command("").Resources))
	s.leave()
}

// ExecScript keeps the end of what a check says, as much as the client shows.
func TestExecutorKeepsTheEndOfALongOutput_X2(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.launch("sleep 1000")
	script := "i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo line $i; done; exit 3"
	out, code, err := s.Exec(time.Now().Add(patience), "/bin/sh", []string{"-c", script})
	must.NoError(t, err)
	must.Eq(t, 3, code)
	var whole strings.Builder
	for i := 1; i <= 5000; i++ {
		fmt.Fprintf(&whole, "line %d\n", i)
	}
	said := whole.String()
	must.Eq(t, said[len(said)-drivers.CheckBufSize:], string(out))
	s.leave()
}

// DestroyCgroup of the interface: what is in the task's cgroup dies with it, however it got away from its parent, and asking twice is
// no error.
func TestExecutorDestroysTheTasksCgroup(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.launch(`for i in 1 2 3; do (setsid sh -c 'trap "" INT TERM HUP; sleep 1000 & wait' &) ; done; echo ready; exec sleep 1000`)
	s.says("ready")
	eventually(t, "the daemons", func() error {
		if left := len(processes.Holding(s.allocID)); left < 7 {
			return fmt.Errorf("%d processes", left)
		}
		return nil
	})
	must.NoError(t, s.Shutdown("SIGTERM", patience))
	must.Eq(t, int(syscall.SIGTERM), s.wait().Signal)
	must.NoError(t, s.Shutdown("SIGTERM", patience))
	must.NoError(t, s.Shutdown("", 0))
	s.leave()
}

func TestExecutorUpdatesTheLimitsOfALivingTask(t *testing.T) {
	t.Parallel()
	if !cgroups.Available() {
		t.Fatal("needs root and cgroups")
	}
	s := serve(t)
	must.Error(t, s.UpdateResources(s.command("").Resources), must.Sprint("there is no task yet"))
	pid := s.launch("sleep 1000")
	must.Eq(t, 128<<20, s.memoryLimit())
	resources := s.command("").Resources
	resources.NomadResources.Memory.MemoryMB = 64
	must.NoError(t, s.UpdateResources(resources))
	must.Eq(t, 64<<20, s.memoryLimit())
	must.NoError(t, s.UpdateResources(nil), must.Sprint("nothing said, nothing changed"))
	must.Eq(t, 64<<20, s.memoryLimit())
	must.True(t, processes.Alive(pid))
	s.leave()
}

// memoryLimit is what the kernel holds, in bytes.
func (s *served) memoryLimit() int {
	s.t.Helper()
	path := filepath.Join(cgroups.Scope("memory", s.allocID, "main"), "memory.limit_in_bytes")
	if cgroupslib.GetMode() == cgroupslib.CG2 {
		path = filepath.Join(s.scope.Path, "memory.max")
	}
	said, err := os.ReadFile(path)
	must.NoError(s.t, err)
	limit, err := strconv.Atoi(strings.TrimSpace(string(said)))
	must.NoError(s.t, err)
	return limit
}

func TestExecutorRefusesWordsThatNameNothing(t *testing.T) {
	t.Parallel()
	s := serve(t)
	command := s.command("exit 0")
	command.ModePID = "alone"
	_, err := s.Launch(command)
	must.ErrorContains(t, err, `pid_mode must be "private" or "host", got "alone"`)
	command = s.command("exit 0")
	command.Capabilities = []string{"CAP_CHOWN", "CAP_FLY"}
	_, err = s.Launch(command)
	must.ErrorContains(t, err, "not supported by system: fly")
	// Every one that Nomad's own executor would list is known.
	command.Capabilities = executor.SupportedCaps(true)
	command.ModePID = executor.IsolationMode(executor.IsolationModePrivate, executor.IsolationModeHost)
	_, err = s.Launch(command)
	must.NoError(t, err)
	must.Eq(t, 0, s.wait().ExitCode)
	s.leave()
}

// sessions is a driver in the eyes of Nomad's conformance tests.
type sessions struct {
	*testutils.MockDriver
	executor executor.Executor
}

func (s sessions) ExecTaskStreamingRaw(ctx context.Context, _ string, command []string, tty bool,
	stream drivers.ExecTaskStream) error {
	return s.executor.ExecStreaming(ctx, command, tty, stream)
}

func TestExecutorPassesNomadsStreamingConformance_X3(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.launch("sleep 1000")
	harness := testutils.NewDriverHarness(t, sessions{
		MockDriver: &testutils.MockDriver{
			MockPlugin: base.MockPlugin{PluginInfoF: func() (*base.PluginInfoResponse, error) {
				return &base.PluginInfoResponse{Name: "executor", Type: base.PluginTypeDriver}, nil
			}},
			CapabilitiesF: func() (*drivers.Capabilities, error) {
				return &drivers.Capabilities{FSIsolation: fsisolation.None}, nil
			},
		},
		executor: s,
	})
	t.Cleanup(harness.Kill)
	testutils.ExecTaskStreamingConformanceTests(t, harness, "main")
	s.leave()
}

func TestExecutorMeasuresTheTask_T1(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.launch("while :; do :; done")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	samples, err := s.Stats(ctx, 200*time.Millisecond)
	must.NoError(t, err)
	var busiest float64
	for count := 0; count < 3 || busiest == 0; count++ {
		sample, ok := <-samples
		must.True(t, ok, must.Sprint("the samples ended"))
		usage := sample.ResourceUsage
		must.NotNil(t, usage)
		must.Positive(t, usage.MemoryStats.Usage+usage.MemoryStats.RSS)
		must.SliceNotEmpty(t, usage.MemoryStats.Measured)
		must.SliceContains(t, usage.CpuStats.Measured, "Percent")
		busiest = max(busiest, usage.CpuStats.Percent)
	}
	must.NoError(t, s.Shutdown("SIGKILL", 0))
	eventually(t, "end of the samples", func() error {
		if _, more := <-samples; more {
			return errors.New("there is another one")
		}
		return nil
	})
	s.leave()
}

func TestExecutorIsTheTasksInDeathToo(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(unix.SignalName(signal), func(t *testing.T) {
			t.Parallel()
			s := serve(t)
			pid := s.launch(`trap 'echo asked; exit 0' INT TERM; echo ready; while :; do sleep 0.05; done`)
			s.says("ready")
			send(t, s.process.Process.Pid, signal)
			s.hasLeft()
			gone(t, pid)
			must.StrContains(t, s.output(), "asked")
		})
	}
}

func TestExecutorsTaskSurvivesGarbageOnTheSocket(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pid := s.launch("sleep 1000")
	for _, garbage := range []string{"\n", "GET / HTTP/1.1\r\n\r\n", strings.Repeat("\xff", 100_000), ""} {
		connection, err := net.Dial("unix", filepath.Join(s.root, "serve.sock"))
		must.NoError(t, err)
		_, _ = connection.Write([]byte(garbage))
		_ = connection.Close()
	}
	_, err := s.Version()
	must.NoError(t, err)
	must.True(t, processes.Alive(pid))
	s.leave()
}
