// An agent as a process of its own, killed with -9 and started again on its data directory.
package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/hashicorp/nomad/api"

	"holdfast.test/nomad/internal/processes"
)

// service is a task of service.nomad.hcl, or of an isolated driver's own job file, with the process that it must stay.
type service struct {
	driver     string
	allocation *api.Allocation
	pid        int
	identity   string
}

// startIsolated runs the job file that is named after the driver, with what jobs of isolated tasks use, and looks at what came of it.
func startIsolated(n *node, driver string) *api.Allocation {
	n.t.Helper()
	allocation := n.run(driver, driver)
	user := map[string]string{"exec": "1", "holdfast": "65534"}[driver]
	n.says(allocation, "stdout", fmt.Sprintf("uid %s\nhello from main\nkept on the host\n", user))
	n.says(allocation, "stderr", "trouble of main\n")
	made, err := os.ReadFile(filepath.Join(n.volume(), driver))
	must.NoError(n.t, err)
	must.Eq(n.t, allocation.ID+"\n", string(made))
	return allocation
}

// staysInside asserts that a session is where its isolated task is.
func (n *node) staysInside(s service) {
	n.t.Helper()
	code, said, err := n.exec(s.allocation, true, "", "/bin/sh", "-c",
		"readlink /proc/self/ns/mnt; tty; ls -d "+n.root+" 2>/dev/null || echo unseen")
	must.NoError(n.t, err)
	must.Eq(n.t, 0, code)
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", s.pid))
	must.NoError(n.t, err)
	must.RegexMatch(n.t, regexp.MustCompile(`^`+regexp.QuoteMeta(namespace)+`\r\n/dev/pts/\d+\r\nunseen\r\n$`), said)
}

// shellEnds waits for the end of a task that is a shell.
func (n *node) shellEnds(allocation *api.Allocation) {
	n.t.Helper()
	n.eventually("end of the task of "+allocation.ID, func() error {
		for _, process := range processes.Holding(allocation.ID) {
			if process.Command != "" && processes.Field(process.Pid, "Name") == "sh" {
				return fmt.Errorf("process %s", process)
			}
		}
		return nil
	})
}

// executors are the identities of every process that the drivers have started from their state directory: executors and inits.
func (n *node) executors() []string {
	var found []string
	for _, process := range processes.Holding(n.stateDir()) {
		if strings.HasPrefix(process.Exe, n.stateDir()) {
			found = append(found, processes.Identity(process.Pid))
		}
	}
	slices.Sort(found)
	return found
}

func TestTasksOutliveTheAgentAndTheDriver(t *testing.T) {
	n := asProcess(t)
	var services []service
	add := func(driver string, allocation *api.Allocation) {
		pid := n.mainPid(allocation)
		services = append(services, service{driver, allocation, pid, processes.Identity(pid)})
	}
	for _, driver := range names {
		add(driver, n.run("service", driver))
	}
	for _, driver := range isolatedNames {
		add(driver, startIsolated(n, driver))
	}
	unchanged := func(t *testing.T) {
		for _, s := range services {
			must.True(t, processes.Lives(s.identity), must.Sprintf("task of %s", s.driver))
		}
	}
	useAll := func(t *testing.T) {
		here := *n
		here.t = t
		for _, s := range services {
			here.useEverything(s.allocation, s.pid)
			if slices.Contains(isolatedNames, s.driver) {
				here.staysInside(s)
			}
			now, _, err := here.api.Allocations().Info(s.allocation.ID, nil)
			must.NoError(t, err)
			must.Eq(t, api.AllocClientStatusRunning, now.ClientStatus, must.Sprint(events(now)))
			here.startedOnce(now)
			must.Eq(t, 0, count(now, api.TaskTerminated), must.Sprint(events(now)))
		}
		unchanged(t)
	}

	t.Run("BeforeAnythingIsKilled", useAll)

	t.Run("TheAgentIsKilled_P7", func(t *testing.T) {
		plugins := map[string]int{}
		for _, driver := range allNames() {
			plugins[driver] = n.plugin(driver)
		}
		n.kill()
		unchanged(t)
		n.launch()
		useAll(t)
		for _, driver := range allNames() {
			must.Eq(t, plugins[driver], n.plugin(driver), must.Sprint("the plugin is attached to again"))
		}
	})

	t.Run("TheDriversAreKilled_R5", func(t *testing.T) {
		for _, driver := range allNames() {
			n.killPlugin(driver)
		}
		useAll(t)
	})

	t.Run("TheAgentAndTheDriversAreKilled_R1_S7", func(t *testing.T) {
		n.kill()
		for _, driver := range allNames() {
			must.NoError(t, syscall.Kill(n.plugin(driver), syscall.SIGKILL))
		}
		unchanged(t)
		n.launch()
		useAll(t)
	})

	t.Run("EveryProcessOfTheAgentsServiceIsKilled_R1_R3", func(t *testing.T) {
		if n.service == nil {
			t.Skip("needs root and cgroups: a service has its own")
		}
		var batches []*api.Allocation
		for _, driver := range names {
			allocation := n.run("batch", driver)
			n.says(allocation, "stdout", "waiting\n")
			batches = append(batches, allocation)
		}
		executors := n.executors()
		must.Greater(t, len(services), len(executors), must.Sprint("executors and inits"))
		killed := n.service.Processes()
		var identities []string
		for _, pid := range killed {
			identities = append(identities, processes.Identity(pid))
		}
		must.SliceContains(t, killed, n.pid)
		for _, driver := range allNames() {
			must.SliceContains(t, killed, n.plugin(driver))
		}
		must.NoError(t, n.service.Kill())
		for _, identity := range identities {
			must.False(t, processes.Lives(identity))
		}
		unchanged(t)
		must.Eq(t, executors, n.executors(), must.Sprint("executors died with the service"))
		for _, allocation := range batches {
			n.goFile(allocation)
			n.shellEnds(allocation)
		}
		n.launch()
		for _, allocation := range batches {
			ended := n.reaches(allocation.JobID, api.AllocClientStatusFailed)
			n.exited(ended, "7")
			n.startedOnce(ended)
			n.says(allocation, "stdout", "waiting\ngoing\n")
			n.purge(allocation.JobID)
		}
		useAll(t)
	})

	t.Run("AnExitWhileTheAgentIsAwayIsTold_R3", func(t *testing.T) {
		var batches []*api.Allocation
		for _, driver := range names {
			allocation := n.run("batch", driver)
			n.says(allocation, "stdout", "waiting\n")
			batches = append(batches, allocation)
		}
		n.kill()
		for number, driver := range names {
			if number == 0 {
				// One with its driver alive, one without.
				must.NoError(t, syscall.Kill(n.plugin(driver), syscall.SIGKILL))
			}
		}
		for _, allocation := range batches {
			n.goFile(allocation)
			n.shellEnds(allocation)
		}
		n.launch()
		for _, allocation := range batches {
			ended := n.reaches(allocation.JobID, api.AllocClientStatusFailed)
			n.exited(ended, "7")
			n.startedOnce(ended)
			n.says(allocation, "stdout", "waiting\ngoing\n")
			n.purge(allocation.JobID)
		}
		useAll(t)
	})

	for _, s := range services {
		n.stop(s.allocation)
		must.False(t, processes.Lives(s.identity))
		n.purge(s.allocation.JobID)
	}
}
