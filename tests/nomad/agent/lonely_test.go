// A task that does not want to be kept at any price, under a real agent.
package agent

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/hashicorp/nomad/api"

	"holdfast.test/nomad/internal/processes"
)

var pids = regexp.MustCompile(`(?m)^pid (\d+)$`)

// lonelyMain is the main process of a task of lonely.nomad.hcl in its turn, which counts from one.
func (n *node) lonelyMain(allocation *api.Allocation, turn int) string {
	n.t.Helper()
	var identity string
	n.eventually(fmt.Sprintf("main process %d", turn), func() error {
		said := pids.FindAllStringSubmatch(n.logs(allocation, "stdout"), -1)
		if len(said) != turn {
			return fmt.Errorf("the log has %d pids", len(said))
		}
		pid, err := strconv.Atoi(said[turn-1][1])
		must.NoError(n.t, err)
		identity = processes.Identity(pid)
		must.NotEq(n.t, "", identity)
		return nil
	})
	return identity
}

// startedTwice is what the servers know of an allocation once they know of its second start.
func (n *node) startedTwice(allocation *api.Allocation) *api.Allocation {
	n.t.Helper()
	var now *api.Allocation
	n.eventually("the second start of "+allocation.ID, func() error {
		info, _, err := n.api.Allocations().Info(allocation.ID, nil)
		if err != nil {
			return err
		}
		if started := count(info, api.TaskStarted); started != 2 {
			return fmt.Errorf("it started %d times\n%s", started, events(info))
		}
		now = info
		return nil
	})
	return now
}

func endsWithItsExecutor(n *node, driver string) {
	allocation := n.run("lonely", driver)
	first := n.lonelyMain(allocation, 1)
	number, _, _ := strings.Cut(first, "@")
	executor := 0
	for _, process := range processes.Holding(n.stateDir()) {
		// The init is the main process's parent, and the executor the init's.
		if strings.HasSuffix(process.Exe, "/holdfast-executor") && slices.ContainsFunc(processes.Children(process.Pid), func(init int) bool {
			return slices.ContainsFunc(processes.Children(init), func(main int) bool { return strconv.Itoa(main) == number })
		}) {
			executor = process.Pid
		}
	}
	must.Positive(n.t, executor)
	must.NoError(n.t, syscall.Kill(executor, syscall.SIGKILL))
	second := n.lonelyMain(allocation, 2)
	must.NotEq(n.t, first, second)
	must.False(n.t, processes.Lives(first), must.Sprint("two main processes"))
	now := n.startedTwice(allocation)
	must.StrContains(n.t, events(now), "executor lost")
	for _, event := range now.TaskStates["main"].Events {
		if event.Type == api.TaskTerminated {
			must.Eq(n.t, "9", event.Details["signal"], must.Sprint(events(now)))
		}
	}
	n.purge(allocation.JobID)
}

// While agent and driver are there no time runs; when both are gone it does.
func TestATaskThatMustNotBeAloneIsStoppedAndItsEndIsTold(t *testing.T) {
	n := asProcess(t)
	type lonely struct {
		allocation *api.Allocation
		main       string
	}
	var tasks []lonely
	for _, driver := range names {
		allocation := n.run("lonely", driver)
		tasks = append(tasks, lonely{allocation, n.lonelyMain(allocation, 1)})
	}
	// The agent alone goes, and comes back to drivers that have waited.
	n.kill()
	n.launch()
	for _, task := range tasks {
		must.True(t, processes.Lives(task.main))
	}
	n.kill()
	for _, driver := range names {
		must.NoError(t, syscall.Kill(n.plugin(driver), syscall.SIGKILL))
	}
	for _, task := range tasks {
		n.eventually("end of the task", func() error {
			if processes.Lives(task.main) {
				return fmt.Errorf("process %s lives", task.main)
			}
			return nil
		})
	}
	n.launch()
	for _, task := range tasks {
		second := n.lonelyMain(task.allocation, 2)
		must.NotEq(t, task.main, second)
		n.says(task.allocation, "stdout", "alone\n")
		now := n.startedTwice(task.allocation)
		n.exited(now, "9")
		must.Eq(t, 1, count(now, api.TaskTerminated), must.Sprint(events(now)))
		n.purge(task.allocation.JobID)
	}
}
