// Jobs under an agent in process.
package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/hashicorp/nomad/api"

	"holdfast.test/nomad/internal/processes"
)

// TestJobs shares one agent among all tests of jobs: its start is what takes time.
func TestJobs(t *testing.T) {
	n := inProcess(t)
	for _, driver := range names {
		t.Run(driver, func(t *testing.T) {
			here := *n
			here.t = t
			for _, test := range []struct {
				name string
				run  func(*node, string)
			}{
				{"RunLogsExecSignalStop", serviceFromStartToStop},
				{"ExitCodeIsTold_W2", exitCodeIsTold},
				{"RestartsInPlace_S8", restartsInPlace},
				{"DisabledLogsAreHonoured_L6", disabledLogs},
				{"AStartThatFailsIsExplained_S2", failureIsExplained},
				{"TheDriverIsKilledAndTheTaskGoesOn_R5", driverIsKilled},
				{"EndsWithItsExecutorIfItWantsNoOther", endsWithItsExecutor},
				{"ManyTasksWaitAtOnce_W1", manyTasks},
			} {
				t.Run(test.name, func(t *testing.T) {
					one := here
					one.t = t
					test.run(&one, driver)
				})
			}
		})
	}
	for _, driver := range isolatedNames {
		t.Run(driver, func(t *testing.T) {
			for _, test := range []struct {
				name string
				run  func(*node, string)
			}{
				{"RunLogsExecSignalStop", serviceFromStartToStop},
				{"ExitCodeIsTold_W2", exitCodeIsTold},
				{"RestartsInPlace_S8", restartsInPlace},
				{"AStartThatFailsIsExplained_S2", failureIsExplained},
				{"TheDriverIsKilledAndTheTaskGoesOn_R5", driverIsKilled},
			} {
				t.Run(test.name, func(t *testing.T) {
					one := *n
					one.t = t
					test.run(&one, driver)
				})
			}
		})
	}
}

func serviceFromStartToStop(n *node, driver string) {
	allocation := n.run("service", driver)
	pid := n.mainPid(allocation)
	identity := processes.Identity(pid)
	must.True(n.t, processes.Lives(identity))
	n.says(allocation, "stderr", "trouble of main\n")
	n.useEverything(allocation, pid)
	n.stop(allocation)
	must.False(n.t, processes.Lives(identity))
	n.purge(allocation.JobID)
}

// useEverything makes each call that a user can make on a running task of service.nomad.hcl.
func (n *node) useEverything(allocation *api.Allocation, pid int) {
	n.t.Helper()
	n.eventually("a session in the task", func() error {
		code, said, err := n.tryExec(allocation, "from outside\n", "/bin/sh", "-c", "cat; echo $NOMAD_TASK_NAME; exit 5")
		if err != nil {
			return err
		}
		if code != 5 || said != "from outside\nmain\n" {
			return fmt.Errorf("code %d, output %q", code, said)
		}
		return nil
	})
	code, said, err := n.exec(allocation, true, "", "/bin/sh", "-c", "tty > /dev/null && echo terminal")
	must.NoError(n.t, err)
	must.Eq(n.t, 0, code)
	must.Eq(n.t, "terminal\r\n", said)

	before := strings.Count(n.logs(allocation, "stdout"), "got usr1")
	must.NoError(n.t, n.api.Allocations().Signal(allocation, nil, "main", "SIGUSR1"))
	n.eventually("the signal in the log", func() error {
		if strings.Count(n.logs(allocation, "stdout"), "got usr1") <= before {
			return fmt.Errorf("is not there")
		}
		return nil
	})
	n.eventually("statistics", func() error {
		usage, err := n.api.Allocations().Stats(allocation, nil)
		if err != nil {
			return err
		}
		task := usage.Tasks["main"]
		if task == nil || task.ResourceUsage == nil || task.ResourceUsage.MemoryStats == nil ||
			task.ResourceUsage.MemoryStats.RSS == 0 {
			return fmt.Errorf("of the task: %+v", task)
		}
		return nil
	})
	must.True(n.t, processes.Alive(pid))
}

// stop stops an allocation and asserts that the task obeyed and its last line was kept.
func (n *node) stop(allocation *api.Allocation) {
	n.t.Helper()
	_, _, err := n.api.Jobs().Deregister(allocation.JobID, false, nil)
	must.NoError(n.t, err)
	ended := n.reaches(allocation.JobID, api.AllocClientStatusComplete)
	must.False(n.t, ended.TaskStates["main"].Failed, must.Sprint(events(ended)))
	n.startedOnce(ended)
	n.says(allocation, "stdout", "stopping\n")
}

// goFile lets a task of batch.nomad.hcl go on to its end.
func (n *node) goFile(allocation *api.Allocation) {
	n.t.Helper()
	path := filepath.Join(n.dataDir, "alloc", allocation.ID, "main", "local", "go")
	must.NoError(n.t, os.WriteFile(path, nil, 0o644))
}

// exited asserts the exit code that an allocation's last event of its end tells.
func (n *node) exited(allocation *api.Allocation, code string) {
	n.t.Helper()
	for _, event := range allocation.TaskStates["main"].Events {
		if event.Type == api.TaskTerminated {
			must.Eq(n.t, code, event.Details["exit_code"], must.Sprint(events(allocation)))
			must.Eq(n.t, "0", event.Details["signal"])
			return
		}
	}
	n.t.Fatalf("no event of its end:\n%s", events(allocation))
}

func exitCodeIsTold(n *node, driver string) {
	allocation := n.run("batch", driver)
	n.says(allocation, "stdout", "waiting\n")
	n.goFile(allocation)
	ended := n.reaches(allocation.JobID, api.AllocClientStatusFailed)
	n.exited(ended, "7")
	n.says(allocation, "stdout", "waiting\ngoing\n")
	n.purge(allocation.JobID)
}

func restartsInPlace(n *node, driver string) {
	job := n.job("restart", driver)
	ended := n.reaches(*job.ID, api.AllocClientStatusComplete)
	must.Eq(n.t, uint64(2), ended.TaskStates["main"].Restarts, must.Sprint(events(ended)))
	// Its first events are gone by now: the agent keeps ten.
	must.Eq(n.t, "run 1\nrun 2\nrun 3\n", n.logs(ended, "stdout"))
	n.purge(*job.ID)
}

func disabledLogs(n *node, driver string) {
	job := n.job("quiet", driver)
	ended := n.reaches(*job.ID, api.AllocClientStatusComplete)
	entries, err := os.ReadDir(filepath.Join(n.dataDir, "alloc", ended.ID, "alloc", "logs"))
	must.NoError(n.t, err)
	must.SliceEmpty(n.t, entries)
	n.purge(*job.ID)
}

func failureIsExplained(n *node, driver string) {
	job := n.job("broken", driver)
	ended := n.reaches(*job.ID, api.AllocClientStatusFailed)
	must.StrContains(n.t, events(ended), "/no/such/tool")
	must.Eq(n.t, 1, count(ended, api.TaskDriverFailure), must.Sprint(events(ended)))
	n.purge(*job.ID)
}

func driverIsKilled(n *node, driver string) {
	allocation := n.run("service", driver)
	pid := n.mainPid(allocation)
	identity := processes.Identity(pid)
	for range 2 {
		n.killPlugin(driver)
		n.useEverything(allocation, pid)
		must.Eq(n.t, identity, processes.Identity(pid), must.Sprint("the task is another process"))
	}
	now, _, err := n.api.Allocations().Info(allocation.ID, nil)
	must.NoError(n.t, err)
	must.Eq(n.t, api.AllocClientStatusRunning, now.ClientStatus)
	must.Eq(n.t, 0, count(now, api.TaskTerminated), must.Sprint(events(now)))
	n.stop(allocation)
	n.purge(allocation.JobID)
}

func manyTasks(n *node, driver string) {
	job := n.jobWith("many", driver, fmt.Sprintf("count = %d", *waiting))
	sleepers := func() map[int]string {
		found := map[int]string{}
		for _, process := range processes.Holding(n.dataDir) {
			if process.Command == "/bin/sleep 100000" {
				found[process.Pid] = processes.Identity(process.Pid)
			}
		}
		return found
	}
	allRun := func() error {
		allocations, _, err := n.api.Jobs().Allocations(*job.ID, true, nil)
		if err != nil {
			return err
		}
		running := 0
		for _, allocation := range allocations {
			if allocation.ClientStatus == api.AllocClientStatusRunning {
				running++
			}
		}
		if running != *waiting || len(allocations) != *waiting {
			return fmt.Errorf("%d of %d allocations run", running, len(allocations))
		}
		return nil
	}
	n.eventually("all tasks to run", allRun)
	before := sleepers()
	must.MapLen(n.t, *waiting, before)

	allocations, _, err := n.api.Jobs().Allocations(*job.ID, true, nil)
	must.NoError(n.t, err)
	one, _, err := n.api.Allocations().Info(allocations[*waiting/2].ID, nil)
	must.NoError(n.t, err)
	code, said, err := n.exec(one, false, "", "echo", "there is room for one more stream")
	must.NoError(n.t, err)
	must.Eq(n.t, 0, code)
	must.StrContains(n.t, said, "one more")

	n.killPlugin(driver)
	n.eventually("a session after the driver's death", func() error {
		_, _, err := n.tryExec(one, "", "true")
		return err
	})
	must.NoError(n.t, allRun())
	must.Eq(n.t, before, sleepers(), must.Sprint("tasks were replaced"))

	_, _, err = n.api.Jobs().Deregister(*job.ID, false, nil)
	must.NoError(n.t, err)
	n.eventually("end of all tasks", func() error {
		if left := len(sleepers()); left > 0 {
			return fmt.Errorf("%d are left", left)
		}
		return nil
	})
	n.purge(*job.ID)
}
