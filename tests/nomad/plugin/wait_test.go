// WaitTask, StopTask, SignalTask, DestroyTask: invariants W and K.
package plugin

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/hashicorp/nomad/plugins/drivers"

	"holdfast.test/nomad/internal/processes"
)

const notFound = "task not found for given id"

func itoa(number int) string { return strconv.Itoa(number) }

func TestAnyNumberMayWaitAndAllGetTheSameResultUntilDestroy_W1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("mkfifo go; echo ready; read line < go; exit 5")
	h.says(task, "ready")
	const count = 250
	results := make(chan *drivers.ExitResult, count)
	for range count {
		waiting, err := h.Driver.WaitTask(context.Background(), task.ID)
		must.NoError(t, err)
		go func() { results <- <-waiting }()
	}
	// All streams are open while another call goes through.
	must.Positive(t, h.pid(task))
	must.NoError(t, os.WriteFile(filepath.Join(task.AllocDir, task.Name, "go"), []byte("\n"), 0))
	for range count {
		result := <-results
		must.NoError(t, result.Err)
		must.Eq(t, 5, result.ExitCode)
	}
	for range 3 {
		must.Eq(t, 5, h.wait(task).ExitCode)
	}
	h.destroy(task)
	must.ErrorContains(t, h.wait(task).Err, notFound)
}

func TestAWaiterThatLeavesHarmsNobody_W1_W3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	ctx, cancel := context.WithCancel(context.Background())
	leaving, err := h.Driver.WaitTask(ctx, task.ID)
	must.NoError(t, err)
	cancel()
	<-leaving
	staying, err := h.Driver.WaitTask(context.Background(), task.ID)
	must.NoError(t, err)
	select {
	case result := <-staying:
		t.Fatalf("the task lives, and yet WaitTask said %+v", result)
	case <-time.After(200 * time.Millisecond):
	}
	must.NoError(t, h.Driver.StopTask(task.ID, 0, ""))
	must.Eq(t, 9, (<-staying).Signal)
	h.destroy(task)
}

func TestExitCodeAndSignalAreTold_W2_W4(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, end := range []struct {
		script       string
		code, signal int
		successful   bool
	}{
		{"exit 0", 0, 0, true},
		{"exit 1", 1, 0, false},
		{"exit 255", 255, 0, false},
		{"kill -TERM $$", 143, 15, false},
		{"kill -SEGV $$", 139, 11, false},
		{"kill -KILL $$", 137, 9, false},
	} {
		task := h.run(end.script)
		result := h.wait(task)
		must.NoError(t, result.Err)
		must.Eq(t, end.code, result.ExitCode, must.Sprint(end.script))
		must.Eq(t, end.signal, result.Signal, must.Sprint(end.script))
		must.False(t, result.OOMKilled)
		must.Eq(t, end.successful, result.Successful())
		h.destroy(task)
	}
}

func TestAllOutputIsThereWhenTheExitIsTold_W5(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for range 10 {
		task := h.run("seq 1 20000; echo last")
		must.True(t, h.wait(task).Successful())
		lines := strings.Split(strings.TrimSpace(output(task, "stdout")), "\n")
		must.Len(t, 20001, lines)
		must.Eq(t, "last", lines[20000])
		h.destroy(task)
	}
}

func TestADaemonThatHoldsTheOutputDoesNotHoldTheExit_W5(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("setsid sleep 1000 & sleep 0.1; echo over; exit 3")
	must.Eq(t, 3, h.wait(task).ExitCode)
	must.Eq(t, "over\n", output(task, "stdout"))
	h.destroy(task)
}

func TestStopSendsTheSignalAndKillsAfterTheTimeout_K1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	report := func(signal string) string {
		return "trap 'echo got " + signal + "; exit 0' " + signal + "; echo ready; while :; do sleep 0.05; done"
	}
	for _, stop := range []struct {
		name, script, signal string
		timeout              time.Duration
		said                 string
		killed               int
	}{
		{"no name is SIGINT", report("INT"), "", patience, "got INT", 0},
		{"a name", report("HUP"), "SIGHUP", patience, "got HUP", 0},
		{"no timeout is kill", report("TERM"), "SIGTERM", 0, "", 9},
		{"deaf to it", "trap '' TERM; echo ready; while :; do sleep 0.05; done", "SIGTERM", 300 * time.Millisecond, "", 9},
	} {
		task := h.run(stop.script)
		h.says(task, "ready")
		identity := processes.Identity(h.pid(task))
		must.NoError(t, h.Driver.StopTask(task.ID, stop.timeout, stop.signal), must.Sprint(stop.name))
		must.False(t, processes.Lives(identity), must.Sprintf("%s: StopTask came back before the end", stop.name))
		result := h.wait(task)
		must.NoError(t, result.Err)
		must.Eq(t, stop.killed, result.Signal, must.Sprint(stop.name))
		must.StrContains(t, output(task, "stdout"), stop.said)
		h.destroy(task)
	}
}

func TestAnUnknownSignalIsAnErrorInStop_K1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	err := h.Driver.StopTask(task.ID, patience, "SIGNONSENSE")
	must.ErrorContains(t, err, "SIGNONSENSE")
	must.True(t, processes.Alive(h.pid(task)))
	h.destroy(task)
}

func TestStopTakesTheWholeFamilyAlong_K1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	// One child in a session of its own, one that was orphaned.
	task := h.run("setsid sleep 1000 & (sleep 1001 &) ; echo ready; sleep 1002")
	h.says(task, "ready")
	must.NoError(t, h.Driver.StopTask(task.ID, patience, "SIGTERM"))
	h.wait(task)
	h.destroy(task)
}

func TestStopOfAnExitedOrUnknownTaskIsOK_K3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("exit 3")
	must.Eq(t, 3, h.wait(task).ExitCode)
	must.NoError(t, h.Driver.StopTask(task.ID, patience, "SIGTERM"))
	must.Eq(t, 3, h.wait(task).ExitCode, must.Sprint("the result after a late stop"))
	h.destroy(task)
	must.NoError(t, h.Driver.StopTask(task.ID, patience, "SIGTERM"))
	must.NoError(t, h.Driver.StopTask("of/nobody/12345678", patience, ""))
}

func TestTwoStopsAtOnceBothSucceed_K1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("trap '' TERM; echo ready; while :; do sleep 0.05; done")
	h.says(task, "ready")
	failures := make(chan error, 2)
	for _, timeout := range []time.Duration{patience, 0} {
		go func() { failures <- h.Driver.StopTask(task.ID, timeout, "SIGTERM") }()
	}
	must.NoError(t, <-failures)
	must.NoError(t, <-failures)
	h.destroy(task)
}

func TestAStopUnderWayIsFinishedWithoutTheDriver_K1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("trap 'echo told' TERM; echo ready; while :; do sleep 0.05; done")
	handle := h.start(task)
	h.says(task, "ready")
	pid := h.pid(task)
	go func() { _ = h.Driver.StopTask(task.ID, time.Second, "SIGTERM") }()
	h.says(task, "told")
	must.NoError(t, h.Crash())
	gone(t, pid)
	h.launch()
	must.NoError(t, h.Driver.RecoverTask(handle))
	must.Eq(t, 9, h.wait(task).Signal)
	h.destroy(task)
}

func TestSignalTaskReachesTheMainProcessAndAnUnknownOneIsSIGINT_K4(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run(`for s in HUP INT USR1 USR2 WINCH; do trap "echo got $s" $s; done; echo ready
		while :; do sleep 0.05; done`)
	h.says(task, "ready")
	for _, signal := range []string{"SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH"} {
		must.NoError(t, h.Driver.SignalTask(task.ID, signal))
		h.says(task, "got "+strings.TrimPrefix(signal, "SIG"))
	}
	must.StrNotContains(t, output(task, "stdout"), "got INT")
	must.NoError(t, h.Driver.SignalTask(task.ID, "SIGNONSENSE"))
	h.says(task, "got INT")
	eventually(t, "a warning that names the signal", func() error {
		if !strings.Contains(h.log.String(), "SIGNONSENSE") {
			return fmt.Errorf("the log is silent")
		}
		return nil
	})
	h.destroy(task)
	must.ErrorContains(t, h.Driver.SignalTask(task.ID, "SIGHUP"), notFound)
}

func TestDestroyWithoutForceRefusesARunningTask_K5(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	must.ErrorContains(t, h.Driver.DestroyTask(task.ID, false), "cannot destroy running task")
	must.True(t, processes.Alive(h.pid(task)))
	must.NoError(t, h.Driver.StopTask(task.ID, patience, "SIGTERM"))
	must.NoError(t, h.Driver.DestroyTask(task.ID, false))
	h.nothingLeft(task)
}

func TestDestroyIsIdempotentAndFreesTheRecord_K6(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	h.destroy(task)
	h.destroy(task)
	must.NoError(t, h.Driver.DestroyTask("of/nobody/12345678", true))
	_, err := h.Driver.InspectTask(task.ID)
	must.ErrorContains(t, err, notFound)
	must.SliceEmpty(t, h.executors())
	must.SliceEmpty(t, h.supervisionDirs())
}

func TestDestroyOfATaskThatIsNotInTheTableClearsItsFolder_K6(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("exit 0")
	h.wait(task)
	h.relaunch()
	h.destroy(task)
	must.SliceEmpty(t, h.supervisionDirs())
}

func TestTheAgentsCgroupsStayAfterDestroy_K7(t *testing.T) {
	asRoot(t, "looks at cgroups")
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	h.destroy(task)
	path := task.Resources.LinuxResources.CpusetCgroupPath
	_, err := os.Stat(path)
	must.NoError(t, err, must.Sprint("the agent uses it for the next run of the task"))
}

func TestAFrozenOrStoppedTaskIsStoppedAllTheSame_K1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	send(t, h.pid(task), syscall.SIGSTOP)
	must.NoError(t, h.Driver.StopTask(task.ID, 200*time.Millisecond, "SIGTERM"))
	h.wait(task)
	h.destroy(task)
}

func TestAThousandShortTasksLeaveNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("asked to be short")
	}
	t.Parallel()
	h := newHost(t)
	task := h.task(map[string]any{"command": "/bin/true"})
	for range 1000 {
		task.ID = taskID(task.AllocID)
		h.start(task)
		must.True(t, h.wait(task).Successful())
		must.NoError(t, h.Driver.DestroyTask(task.ID, true))
	}
	h.nothingLeft(task)
	must.SliceEmpty(t, h.supervisionDirs())
	must.SliceEmpty(t, h.executors())
}
