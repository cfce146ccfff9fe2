// Starting tasks: invariants S.
package plugin

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hashicorp/nomad/client/lib/cgroupslib"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
	sproto "github.com/hashicorp/nomad/plugins/shared/structs/proto"

	"holdfast.test/nomad/internal/cgroups"
	"holdfast.test/nomad/internal/processes"
)

func TestATaskRunsFromStartToDestroyUnderBothNames(t *testing.T) {
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostNamed(t, name, nil)
			task := h.run("echo hello; echo trouble >&2; exit 7")
			result := h.wait(task)
			must.NoError(t, result.Err)
			must.Eq(t, 7, result.ExitCode)
			must.Eq(t, "hello\n", output(task, "stdout"))
			must.Eq(t, "trouble\n", output(task, "stderr"))
			h.destroy(task)
		})
	}
}

func TestStartTaskFillsEveryFieldOfItsAnswer_S1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("sleep 1000")
	raw := encode(t, map[string]any{"command": "/bin/sleep", "args": []string{"1000"}})
	answer, err := h.Raw.StartTask(context.Background(), &proto.StartTaskRequest{Task: wire(task, raw)})
	must.NoError(t, err)
	must.Eq(t, proto.StartTaskResponse_SUCCESS, answer.Result)
	must.Eq(t, "", answer.DriverErrorMsg)
	must.Nil(t, answer.NetworkOverride, must.Sprint("a raw task has no network override"))
	must.Eq(t, proto.TaskState_RUNNING, answer.Handle.State)
	must.Eq(t, task.ID, answer.Handle.Config.Id)
	h.destroy(task)
}

func TestABusyExecutableIsARetryableFailure_S2(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.task(map[string]any{"command": "busy"})
	content, err := os.ReadFile("/bin/true")
	must.NoError(t, err)
	path := filepath.Join(task.AllocDir, task.Name, "local", "busy")
	must.NoError(t, os.WriteFile(path, content, 0o755))
	// Open for writing, so that execve(2) fails with ETXTBSY.
	writer, err := os.OpenFile(path, os.O_WRONLY, 0)
	must.NoError(t, err)
	defer writer.Close()

	_, err = h.Raw.StartTask(context.Background(), &proto.StartTaskRequest{
		Task: wire(task, encode(t, map[string]any{"command": "busy"})),
	})
	failure := status.Convert(err)
	must.Eq(t, codes.FailedPrecondition, failure.Code(), must.Sprintf("answer was: %v", err))
	must.Positive(t, len(failure.Details()), must.Sprint("no detail"))
	detail, ok := failure.Details()[0].(*sproto.RecoverableError)
	must.True(t, ok, must.Sprintf("first detail is %T", failure.Details()[0]))
	must.True(t, detail.Recoverable)
	must.StrContains(t, failure.Message(), "busy")

	_, _, err = h.Driver.StartTask(task)
	must.True(t, structs.IsRecoverable(err), must.Sprintf("Nomad's client takes %v as final", err))
	h.nothingLeft(task)
}

func TestAConfigurationErrorIsNotRetryable_S2(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.task(map[string]any{"command": "/bin/true", "work_dir": "relative"})
	_, _, err := h.Driver.StartTask(task)
	must.ErrorContains(t, err, "work_dir must be an absolute path")
	must.False(t, structs.IsRecoverable(err))
	h.nothingLeft(task)
}

func TestTheSameTaskIDIsNotStartedTwice_S3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("exec sleep 1000")
	pid := h.pid(task)
	_, _, err := h.Driver.StartTask(task)
	must.ErrorContains(t, err, fmt.Sprintf("task with ID %q already started", task.ID))
	must.True(t, processes.Alive(pid), must.Sprint("the refused start ended the task"))
	must.Eq(t, pid, h.pid(task))
	h.destroy(task)
}

func TestAStartThatFailsLeavesNothing_S4(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	bystander := h.run("exec sleep 1000")
	for range 5 {
		task := h.task(map[string]any{"command": "/does/not/exist"})
		_, _, err := h.Driver.StartTask(task)
		must.ErrorContains(t, err, "/does/not/exist")
		h.nothingLeft(task)
	}
	must.True(t, processes.Alive(h.pid(bystander)))
	h.destroy(bystander)
	must.SliceEmpty(t, h.executors())
}

func TestANewDriverAdoptsATaskThatIsStartedAgainByTheSameID_S5(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("exec sleep 1000")
	pid := h.pid(task)
	identity := processes.Identity(pid)
	// The agent never got the handle: it asks the next plugin for the same start.
	h.relaunch()
	h.start(task)
	must.Eq(t, pid, h.pid(task))
	must.Eq(t, identity, processes.Identity(pid))
	must.Eq(t, 1, countMains(task, "sleep 1000"), must.Sprint("main processes of the task"))
	h.destroy(task)
}

func TestAnotherIDOfTheSameTaskEndsTheOldOneFirst_S5(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	old := h.run("exec sleep 1000")
	oldPid := h.pid(old)
	h.relaunch()
	renewed := *old
	renewed.ID = taskID(old.AllocID)
	h.start(&renewed)
	gone(t, oldPid)
	must.True(t, processes.Alive(h.pid(&renewed)))
	must.Eq(t, 1, countMains(old, "sleep 1000"), must.Sprint("main processes of the task"))
	h.destroy(&renewed)
	_ = h.Driver.DestroyTask(old.ID, true)
	h.nothingLeft(old)
}

func TestTheHandleCarriesConfigurationAndAVersion_S6_R6(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("sleep 1000")
	handle := h.start(task)
	must.NotNil(t, handle.Config)
	must.Eq(t, task.ID, handle.Config.ID)
	must.Eq(t, task.AllocID, handle.Config.AllocID)
	must.Eq(t, task.Env, handle.Config.Env)
	must.Eq(t, 1, handle.Version)
	must.Eq(t, drivers.TaskStateRunning, handle.State)
	must.Positive(t, len(handle.DriverState), must.Sprint("driver_state is empty"))
	h.destroy(task)
}

func TestTheScopeOfATaskIsUsedAgainByItsNextRun_S8(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	first := h.run("exec sleep 1000")
	must.NoError(t, h.Driver.StopTask(first.ID, patience, "SIGTERM"))
	h.destroy(first)
	second := *first
	second.ID = taskID(first.AllocID)
	h.start(&second)
	scope := cgroups.Scope("freezer", second.AllocID, second.Name)
	must.SliceContains(t, cgroups.Processes(scope), h.pid(&second), must.Sprintf("members of %s", scope))
	h.destroy(&second)
}

func TestOnlyTheTaskIsInItsScope_S8(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000 & wait")
	eventually(t, "the task's child", func() error {
		if len(processes.Children(h.pid(task))) == 0 {
			return fmt.Errorf("has not started")
		}
		return nil
	})
	expected := append(processes.Children(h.pid(task)), h.pid(task))
	for _, controller := range []string{"freezer", "cpu", "memory"} {
		scope := cgroups.Scope(controller, task.AllocID, task.Name)
		must.SliceContainsAll(t, expected, cgroups.Processes(scope), must.Sprintf("members of %s", scope))
	}
	h.destroy(task)
}

func TestMemoryAndCPULimitsAreTheAgents_S9(t *testing.T) {
	asRoot(t, "writes cgroup files")
	const mib = int64(1 << 20)
	files := limitFiles{"memory", "memory.max", "memory.low", "cpu", "cpu.weight"}
	// What Nomad makes of 333 shares on each version.
	unlimited, weight := "max", "13"
	if cgroupslib.GetMode() == cgroupslib.CG1 {
		files = limitFiles{"memory", "memory.limit_in_bytes", "memory.soft_limit_in_bytes", "cpu", "cpu.shares"}
		unlimited, weight = readScope(t, "/sys/fs/cgroup/memory/memory.limit_in_bytes"), "333"
	}
	for _, limit := range []struct {
		name              string
		memory, memoryMax int64
		hard, soft        string
	}{
		{"memory alone is the hard limit", 64, 0, strconv.FormatInt(64*mib, 10), ""},
		{"memory_max is hard and memory soft", 64, 96, strconv.FormatInt(96*mib, 10), strconv.FormatInt(64*mib, 10)},
		{"memory_max of -1 is no hard limit", 64, -1, unlimited, strconv.FormatInt(64*mib, 10)},
	} {
		t.Run(limit.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			task := h.shell("sleep 1000")
			task.Resources.NomadResources.Memory.MemoryMB = limit.memory
			task.Resources.NomadResources.Memory.MemoryMaxMB = limit.memoryMax
			// As the agent computes it, wrong for -1: no source of truth.
			task.Resources.LinuxResources.MemoryLimitBytes = max(limit.memory, limit.memoryMax) * mib
			task.Resources.LinuxResources.CPUShares = 333
			h.start(task)
			memory := cgroups.Scope(files.memory, task.AllocID, task.Name)
			must.Eq(t, limit.hard, readScope(t, filepath.Join(memory, files.hard)))
			if limit.soft != "" {
				must.Eq(t, limit.soft, readScope(t, filepath.Join(memory, files.soft)))
			}
			cpu := cgroups.Scope(files.cpu, task.AllocID, task.Name)
			must.Eq(t, weight, readScope(t, filepath.Join(cpu, files.weight)))
			h.destroy(task)
		})
	}
}

// limitFiles are controllers and their files.
type limitFiles struct {
	memory, hard, soft string
	cpu, weight        string
}

func TestATaskEntersTheNetworkNamespaceItIsGiven_S10(t *testing.T) {
	asRoot(t, "makes a network namespace")
	t.Parallel()
	h := newHost(t)
	holder := exec.Command("/bin/sleep", "1000")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	must.NoError(t, holder.Start())
	t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	path := fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
	expected, err := os.Readlink(path)
	must.NoError(t, err)

	task := h.shell("readlink /proc/self/ns/net; sleep 1000")
	task.NetworkIsolation = &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, Path: path}
	h.start(task)
	h.says(task, expected+"\n")
	// A session is inside too.
	result, err := h.Driver.ExecTask(task.ID, []string{"readlink", "/proc/self/ns/net"}, patience)
	must.NoError(t, err)
	must.Eq(t, expected+"\n", string(result.Stdout))
	h.destroy(task)

	own, err := os.Readlink("/proc/self/ns/net")
	must.NoError(t, err)
	host := h.run("readlink /proc/self/ns/net")
	h.wait(host)
	must.Eq(t, own+"\n", output(host, "stdout"), must.Sprint("a task without a specification is in the host's"))
	h.destroy(host)
}

func TestTheTaskGetsItsEnvironmentAndNothingOfThePlugins(t *testing.T) {
	t.Setenv("HOLDFAST_TEST_SECRET", "of-the-agent")
	h := newHostNamed(t, "raw_exec", map[string]any{"denied_envvars": []string{"DENIED_BY_OPERATOR*"}})
	task := h.task(map[string]any{
		"command":        "/usr/bin/env",
		"denied_envvars": []string{"*_BY_TASK"},
	})
	task.Env["WANTED"] = "yes"
	task.Env["DENIED_BY_OPERATOR_1"] = "no"
	task.Env["DENIED_BY_TASK"] = "no"
	h.start(task)
	must.True(t, h.wait(task).Successful())
	lines := strings.Split(strings.TrimSpace(output(task, "stdout")), "\n")
	must.SliceContains(t, lines, "WANTED=yes")
	for _, line := range lines {
		key, _, _ := strings.Cut(line, "=")
		_, given := task.Env[key]
		must.True(t, given, must.Sprintf("%q was not in the task's environment", line))
		must.StrNotHasPrefix(t, "DENIED", line)
	}
	h.destroy(task)
}

func TestWorkDirIsTheTaskDirUnlessTold(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("pwd")
	h.wait(task)
	must.Eq(t, filepath.Join(task.AllocDir, task.Name)+"\n", output(task, "stdout"))
	h.destroy(task)
	elsewhere := h.task(map[string]any{"command": "/bin/pwd", "work_dir": "/usr"})
	h.start(elsewhere)
	h.wait(elsewhere)
	must.Eq(t, "/usr\n", output(elsewhere, "stdout"))
	h.destroy(elsewhere)
}

func TestACommandIsLookedUpInTheTaskThenOnTheHost(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	local := h.task(map[string]any{"command": "tool"})
	// Not executable: the driver makes it so, as the built-in does.
	script := filepath.Join(local.AllocDir, local.Name, "local", "tool")
	must.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\necho from local\n"), 0o644))
	h.start(local)
	h.wait(local)
	must.Eq(t, "from local\n", output(local, "stdout"))
	h.destroy(local)

	searched := h.task(map[string]any{"command": "uname", "args": []string{"-s"}})
	h.start(searched)
	h.wait(searched)
	must.Eq(t, "Linux\n", output(searched, "stdout"))
	h.destroy(searched)
}

func TestOOMScoreAdjIsSet(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.task(map[string]any{
		"command": "/bin/cat", "args": []string{"/proc/self/oom_score_adj"}, "oom_score_adj": 567,
	})
	h.start(task)
	h.wait(task)
	must.Eq(t, "567\n", output(task, "stdout"))
	h.destroy(task)
}

func TestATaskOfAnotherUserHasItsCredentials_U1(t *testing.T) {
	asRoot(t, "changes the user")
	t.Parallel()
	h := newHost(t)
	// Opening /dev/stdout again needs the pipe to be the user's.
	task := h.shell("id -u; id -g; id -G; echo again > /dev/stdout; echo error > /dev/stderr")
	task.User = "nobody"
	h.start(task)
	must.True(t, h.wait(task).Successful(), must.Sprintf("stderr: %s", output(task, "stderr")))
	expected := ""
	for _, flag := range []string{"-u", "-g", "-G"} {
		line, err := exec.Command("id", flag, "nobody").Output()
		must.NoError(t, err)
		expected += string(line)
	}
	must.Eq(t, expected+"again\n", output(task, "stdout"))
	must.Eq(t, "error\n", output(task, "stderr"))
	h.destroy(task)
}

func TestSignalsAndDescriptorsOfATaskAreClean(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("cat /proc/self/status | grep -E '^Sig(Blk|Ign|Cgt)'; ls /proc/self/fd")
	h.wait(task)
	got := strings.Fields(output(task, "stdout"))
	must.Eq(t, []string{
		"SigBlk:", "0000000000000000", "SigIgn:", "0000000000000000", "SigCgt:", "0000000000000000",
		// The fourth is that of ls itself.
		"0", "1", "2", "3",
	}, got)
	h.destroy(task)
}

func TestADisabledDriverRefusesToStart(t *testing.T) {
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostNamed(t, name, map[string]any{"enabled": false})
			task := h.shell("true")
			_, _, err := h.Driver.StartTask(task)
			must.ErrorContains(t, err, name+" is disabled")
			h.nothingLeft(task)
		})
	}
}

func encode(t *testing.T, options map[string]any) []byte {
	t.Helper()
	var raw []byte
	must.NoError(t, base.MsgPackEncode(&raw, options))
	return raw
}

func readScope(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	must.NoError(t, err)
	return strings.TrimSpace(string(content))
}

// countMains counts the living processes of an allocation that run a command.
func countMains(config *drivers.TaskConfig, command string) int {
	count := 0
	for _, process := range processes.Holding(config.AllocID) {
		if strings.HasSuffix(process.Command, command) && processes.Alive(process.Pid) {
			count++
		}
	}
	return count
}
