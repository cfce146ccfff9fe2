// Recovery after the plugin, the agent or both have died: invariants R, and S-7.
package plugin

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"holdfast.test/nomad/internal/processes"
)

// asPersisted is the handle as the agent has it after its own restart: unexported fields, the driver configuration among them,
// are gone.
func asPersisted(t *testing.T, handle *drivers.TaskHandle) *drivers.TaskHandle {
	t.Helper()
	encoded, err := json.Marshal(handle)
	must.NoError(t, err)
	var persisted drivers.TaskHandle
	must.NoError(t, json.Unmarshal(encoded, &persisted))
	return &persisted
}

func TestATaskOutlivesItsDriverAndEveryLaterCallWorks_R1_R5_S7(t *testing.T) {
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostNamed(t, name, nil)
			task := h.shell(`trap 'echo got usr1' USR1; trap 'echo bye; exit 9' TERM; echo ready
				while :; do sleep 0.1; done`)
			handle := h.start(task)
			h.says(task, "ready")
			pid := h.pid(task)
			identity := processes.Identity(pid)
			for range 3 {
				h.relaunch()
				must.NoError(t, h.Driver.RecoverTask(asPersisted(t, handle)))
				must.NoError(t, h.Driver.RecoverTask(asPersisted(t, handle)), must.Sprint("a known id"))
				must.Eq(t, pid, h.pid(task))
				must.Eq(t, identity, processes.Identity(pid))
			}
			must.NoError(t, h.Driver.SignalTask(task.ID, "SIGUSR1"))
			h.says(task, "got usr1")
			executed, err := h.Driver.ExecTask(task.ID, []string{"echo", "session"}, patience)
			must.NoError(t, err)
			must.Eq(t, "session\n", string(executed.Stdout))
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			samples, err := h.Driver.TaskStats(ctx, task.ID, 0)
			must.NoError(t, err)
			sample, open := <-samples
			must.True(t, open)
			must.NotNil(t, sample.ResourceUsage)
			must.NoError(t, h.Driver.StopTask(task.ID, patience, "SIGTERM"))
			result := h.wait(task)
			must.NoError(t, result.Err)
			must.Eq(t, 9, result.ExitCode)
			must.StrContains(t, output(task, "stdout"), "bye")
			h.destroy(task)
		})
	}
}

func TestAWaitThatADriverCrashInterruptsIsAnsweredByTheNextOne_R5(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("trap 'exit 4' TERM; echo ready; while :; do sleep 0.1; done")
	handle := h.start(task)
	h.says(task, "ready")
	results, err := h.Driver.WaitTask(context.Background(), task.ID)
	must.NoError(t, err)
	pid := h.pid(task)
	must.NoError(t, h.Crash())
	interrupted := <-results
	must.Error(t, interrupted.Err)
	h.launch()
	must.NoError(t, h.Driver.RecoverTask(handle))
	send(t, pid, syscall.SIGTERM)
	must.Eq(t, 4, h.wait(task).ExitCode)
	h.destroy(task)
}

func TestAnExitWhileTheDriverWasAwayIsReplayed_R3(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct {
		script       string
		code, signal int
	}{
		"by a code":   {"read line < go; exit 7", 7, 0},
		"by success":  {"read line < go; exit 0", 0, 0},
		"by a signal": {"read line < go; kill -KILL $$", 128 + 9, 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			task := h.shell("mkfifo go; echo ready; " + end.script)
			handle := h.start(task)
			h.says(task, "ready")
			pid := h.pid(task)
			must.NoError(t, h.Crash())
			must.NoError(t, os.WriteFile(filepath.Join(task.AllocDir, task.Name, "go"), []byte("\n"), 0))
			gone(t, pid)
			h.launch()
			must.NoError(t, h.Driver.RecoverTask(asPersisted(t, handle)))
			result := h.wait(task)
			must.NoError(t, result.Err)
			must.Eq(t, end.code, result.ExitCode)
			must.Eq(t, end.signal, result.Signal)
			inspected, err := h.Driver.InspectTask(task.ID)
			must.NoError(t, err)
			must.Eq(t, drivers.TaskStateExited, inspected.State)
			h.destroy(task)
		})
	}
}

func TestAnotherBootIDFailsAtOnceAndTouchesNothing_R2(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("sleep 1000")
	handle := h.start(task)
	pid := h.pid(task)
	must.NoError(t, h.Crash())
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must.NoError(t, err)
	current := strings.TrimSpace(string(boot))
	const other = "01234567-89ab-cdef-0123-456789abcdef"
	must.StrContains(t, string(handle.DriverState), current, must.Sprint("driver_state holds no boot id"))

	elsewhere := handle.Copy()
	elsewhere.DriverState = []byte(strings.ReplaceAll(string(handle.DriverState), current, other))
	changed := 0
	for _, folder := range h.supervisionDirs() {
		for _, name := range []string{"intent.json", "record.json"} {
			path := filepath.Join(folder, name)
			content, err := os.ReadFile(path)
			must.NoError(t, err)
			if strings.Contains(string(content), current) {
				changed++
			}
			rebooted := strings.ReplaceAll(string(content), current, other)
			must.NoError(t, os.WriteFile(path, []byte(rebooted), 0o600))
		}
	}
	must.Positive(t, changed, must.Sprint("no record holds a boot id"))
	h.launch()
	err = h.Driver.RecoverTask(elsewhere)
	must.ErrorContains(t, err, "boot")
	must.StrNotContains(t, err.Error(), "\n")
	must.True(t, processes.Alive(pid), must.Sprint("a process of another boot's pid was touched"))
	processes.KillHolding(task.AllocID)
}

// The agent answers an error with a new start: a task that cannot be supervised any more must not live beside it.
func TestATaskWhoseRecordsAreGoneIsEndedBeforeItsRecoveryFails_R2(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("exec sleep 1000")
	handle := h.start(task)
	identity := processes.Identity(h.pid(task))
	h.relaunch()
	var fields map[string]any
	must.NoError(t, json.Unmarshal(handle.DriverState, &fields))
	must.MapContainsKey(t, fields, "dir")
	fields["dir"] = filepath.Join(h.root, "nothing-here")
	encoded, err := json.Marshal(fields)
	must.NoError(t, err)
	lost := handle.Copy()
	lost.DriverState = encoded
	err = h.Driver.RecoverTask(lost)
	must.ErrorContains(t, err, task.ID)
	must.StrNotContains(t, status.Convert(err).Message(), "\n")
	must.False(t, processes.Lives(identity), must.Sprint("the task would run twice"))
	h.destroy(task)
}

func TestABadHandleIsRefusedWithOneLineAndNothingElseHappens_R2(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	bystander := h.run("sleep 1000")
	victim := h.shell("sleep 1000")
	handle := h.start(victim)
	pid := h.pid(victim)
	h.relaunch()
	rebuilt, _, err := h.Driver.StartTask(bystander)
	must.NoError(t, err, must.Sprint("adopt the bystander"))
	must.NotNil(t, rebuilt)

	var fields map[string]any
	must.NoError(t, json.Unmarshal(handle.DriverState, &fields), must.Sprint("driver_state is JSON"))
	with := func(key string, value any) []byte {
		altered := map[string]any{}
		for k, v := range fields {
			altered[k] = v
		}
		must.MapContainsKey(t, altered, key)
		altered[key] = value
		encoded, err := json.Marshal(altered)
		must.NoError(t, err)
		return encoded
	}
	for name, state := range map[string][]byte{
		"empty":              {},
		"truncated":          handle.DriverState[:len(handle.DriverState)/2],
		"no JSON":            []byte("\x81\xa3pid\x01 this is of another driver"),
		"JSON of another":    []byte(`{"ReattachConfig":{"Protocol":"grpc","Pid":1},"Pid":1}`),
		"an unknown version": with("version", 9999),
		"another task's id":  with("task_id", bystander.ID),
	} {
		t.Run(name, func(t *testing.T) {
			bad := handle.Copy()
			bad.DriverState = state
			err := h.Driver.RecoverTask(bad)
			must.Error(t, err)
			must.StrNotContains(t, status.Convert(err).Message(), "\n")
			must.NotEq(t, codes.Unavailable, status.Code(err))
			must.StrContains(t, err.Error(), victim.ID)
		})
	}
	_, err = h.Raw.RecoverTask(context.Background(), &proto.RecoverTaskRequest{})
	must.Error(t, err, must.Sprint("no handle at all"))
	must.NotEq(t, codes.Unavailable, status.Code(err))

	must.True(t, processes.Alive(pid), must.Sprint("a refused recovery ended the task"))
	must.True(t, processes.Alive(h.pid(bystander)))
	must.NoError(t, h.Driver.RecoverTask(handle), must.Sprint("the good handle still works"))
	must.Eq(t, pid, h.pid(victim))
	h.destroy(victim)
	h.destroy(bystander)
}

func TestUnknownFieldsOfAHandleAreNoHindrance_R6(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("sleep 1000")
	handle := h.start(task)
	pid := h.pid(task)
	h.relaunch()
	var fields map[string]any
	must.NoError(t, json.Unmarshal(handle.DriverState, &fields))
	fields["of_a_later_version"] = map[string]any{"deep": []int{1, 2}}
	encoded, err := json.Marshal(fields)
	must.NoError(t, err)
	newer := handle.Copy()
	newer.DriverState = encoded
	must.NoError(t, h.Driver.RecoverTask(newer))
	must.Eq(t, pid, h.pid(task))
	h.destroy(task)
}

func TestAHandleHoldsNoSecret(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.task(map[string]any{"command": "/bin/sleep", "args": []string{"1000"}})
	const secret = "9c1fbd7a-hush"
	task.Env["TOKEN"] = secret
	handle := h.start(task)
	must.StrNotContains(t, string(handle.DriverState), secret)
	must.NoError(t, filepath.WalkDir(h.stateDir(), func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.Contains(path, "/bin/") {
			return err
		}
		content, err := os.ReadFile(path)
		must.StrNotContains(t, string(content), secret, must.Sprintf("%s", path))
		return err
	}))
	for _, process := range h.executors() {
		must.StrNotContains(t, process.Command, secret)
		environment, _ := os.ReadFile(filepath.Join("/proc", itoa(process.Pid), "environ"))
		must.StrNotContains(t, string(environment), secret, must.Sprintf("environment of %s", process))
	}
	must.StrNotContains(t, h.log.String(), secret)
	h.destroy(task)
}

// A thousand executors that had to be asked would each need a processor first: one that lives and has all it needs is known by who it is.
func TestALivingExecutorIsNotAskedWhenItsTaskIsRecovered_R1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("exec sleep 1000")
	handle := h.start(task)
	pid := h.pid(task)
	executors := h.executors()
	must.NoError(t, h.Crash())
	for _, process := range executors {
		send(t, process.Pid, syscall.SIGSTOP)
	}
	h.launch()
	must.NoError(t, h.Driver.RecoverTask(asPersisted(t, handle)), must.Sprint("nobody there can answer"))
	must.Eq(t, pid, h.pid(task))
	for _, process := range executors {
		send(t, process.Pid, syscall.SIGCONT)
	}
	executed, err := h.Driver.ExecTask(task.ID, []string{"echo", "session"}, patience)
	must.NoError(t, err)
	must.Eq(t, "session\n", string(executed.Stdout))
	h.destroy(task)
}

func TestRecoverAndStopOfManyTasksAtOnce_R1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	const count = 20
	var tasks []*drivers.TaskConfig
	var handles []*drivers.TaskHandle
	for range count {
		task := h.task(map[string]any{"command": "/bin/sleep", "args": []string{"1000"}})
		tasks = append(tasks, task)
		handles = append(handles, h.start(task))
	}
	h.relaunch()
	failures := make(chan error, count)
	for _, handle := range handles {
		go func() { failures <- h.Driver.RecoverTask(handle) }()
	}
	for range count {
		must.NoError(t, <-failures)
	}
	for _, task := range tasks {
		go func() { failures <- h.Driver.StopTask(task.ID, patience, "SIGTERM") }()
	}
	for range count {
		must.NoError(t, <-failures)
	}
	for _, task := range tasks {
		must.Eq(t, 15, h.wait(task).Signal)
		h.destroy(task)
	}
	must.SliceEmpty(t, h.executors())
}
