// Options beside the built-in's: from a job file's forms to what the task gets and what the agent is told.
package plugin

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
)

// events are those of one task, as they come.
func (h *host) events(config *drivers.TaskConfig) <-chan *proto.DriverTaskEvent {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h.t.Cleanup(cancel)
	stream, err := h.Raw.TaskEvents(ctx, &proto.TaskEventsRequest{})
	must.NoError(h.t, err)
	_, err = stream.Header()
	must.NoError(h.t, err, must.Sprint("the stream of events has not begun"))
	events := make(chan *proto.DriverTaskEvent, 64)
	go func() {
		for {
			event, err := stream.Recv()
			if err != nil {
				return
			}
			if event.TaskId == config.ID {
				events <- event
			}
		}
	}()
	return events
}

// eventWith waits for an event whose message contains a text.
func eventWith(t *testing.T, events <-chan *proto.DriverTaskEvent, text string) *proto.DriverTaskEvent {
	t.Helper()
	deadline := time.After(patience)
	var seen []string
	for {
		select {
		case event := <-events:
			if strings.Contains(event.Message, text) {
				return event
			}
			seen = append(seen, event.Message)
		case <-deadline:
			t.Fatalf("no event says %q; there were %q", text, seen)
		}
	}
}

func TestMapsAreWrittenAsBlocksOrAsValues(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, ulimit := range []any{
		map[string]any{"nofile": "300:400"},
		[]map[string]any{{"nofile": "300:400"}},
	} {
		task := h.task(map[string]any{
			"command": "/bin/sh", "args": []string{"-c", "ulimit -Sn; ulimit -Hn"}, "ulimit": ulimit,
		})
		h.start(task)
		must.Eq(t, 0, h.wait(task).ExitCode)
		must.Eq(t, "300\n400\n", output(task, "stdout"), must.Sprintf("stderr: %s", output(task, "stderr")))
		h.destroy(task)
	}
}

func TestTheAttributesOfAJobReachTheTaskAndItsSessions(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.task(map[string]any{
		"command": "/bin/sh", "args": []string{"-c", "umask; echo ready; sleep 1000"},
		"umask": "027", "nice": 7, "ulimit": map[string]any{"core": "0"},
	})
	h.start(task)
	h.says(task, "0027\nready")
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.pid(task)))
	must.NoError(t, err)
	// Field 19 is the nice value; the first one after the name is the third.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	must.Eq(t, "7", fields[16])
	session, err := h.Driver.ExecTask(task.ID, []string{"/bin/sh", "-c", "umask; ulimit -c"}, patience)
	must.NoError(t, err)
	must.Eq(t, "0027\n0\n", string(session.Stdout))
	h.destroy(task)
}

func TestTheEffectiveLimitsAreToldAtTheStart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("sleep 1000")
	events := h.events(task)
	h.start(task)
	event := eventWith(t, events, "Limits: ")
	must.Eq(t, "128 MiB", event.Annotations["memory_max"])
	must.Eq(t, "100", event.Annotations["cpu_shares"])
	must.NotNil(t, event.Timestamp)
	h.destroy(task)
}

func TestTheOperatorsCeilingsAreKept(t *testing.T) {
	t.Parallel()
	h := newHostNamed(t, "raw_exec", map[string]any{
		"max_pids_limit": 50, "max_ulimit": map[string]any{"nofile": "500"}, "max_exec_sessions": 2,
	})
	for _, refused := range []struct {
		options map[string]any
		says    string
	}{
		{map[string]any{"pids_limit": 51}, "pids_limit 51 is above the operator's max_pids_limit of 50"},
		{map[string]any{"pids_limit": -1}, "pids_limit -1 is above the operator's max_pids_limit of 50"},
		{map[string]any{"ulimit": map[string]any{"nofile": "501"}}, "max_ulimit of 500"},
		{map[string]any{"nice": -1}, "nice -1 is below the operator's min_nice of 0"},
		{map[string]any{"ionice": "realtime:1"}, "allow_realtime_io"},
		{map[string]any{"memory_enforcement": "none"}, "allowed_memory_enforcement"},
		{map[string]any{"max_exec_sessions": 3}, "max_exec_sessions must be between 0 and 2, but is 3"},
	} {
		refused.options["command"] = "/bin/true"
		task := h.task(refused.options)
		_, _, err := h.Driver.StartTask(task)
		must.ErrorContains(t, err, refused.says)
		h.nothingLeft(task)
	}
	within := h.task(map[string]any{"command": "/bin/true", "pids_limit": 50, "ulimit": map[string]any{"nofile": "500"}})
	h.start(within)
	must.Eq(t, 0, h.wait(within).ExitCode)
	h.destroy(within)
}

func TestALimitThatCannotBeAppliedIsToldOrRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	// No host has so many nodes.
	options := map[string]any{"command": "/bin/sleep", "args": []string{"1000"}, "cpuset_mems": "1000"}
	task := h.task(options)
	events := h.events(task)
	h.start(task)
	event := eventWith(t, events, "not all as asked")
	must.StrContains(t, event.Annotations["reason"], "cpuset controller")
	h.destroy(task)
	options["limits"] = "strict"
	strict := h.task(options)
	_, _, err := h.Driver.StartTask(strict)
	must.ErrorContains(t, err, "cpuset controller")
	h.nothingLeft(strict)
}

func TestTheAgentCollectsLogsIfTheOperatorSaysSo_C1_C4(t *testing.T) {
	t.Parallel()
	h := newHostNamed(t, "raw_exec", map[string]any{"log_collection": "agent"})
	must.False(t, h.Capabilities.DisableLogCollection)
	task := h.run("echo to the agent; echo and errors >&2; sleep 1000")
	h.says(task, "to the agent")
	eventually(t, "errors", func() error {
		if got := output(task, "stderr"); got != "and errors\n" {
			return fmt.Errorf("stderr is %q", got)
		}
		return nil
	})
	h.destroy(task)
	h.config["log_collection"] = "driver"
	must.NoError(t, h.Configure(h.config))
	must.False(t, h.Capabilities.DisableLogCollection, must.Sprint("it is constant for a plugin's life"))
}

func TestATaskBelowAParentOfTheJobsChoiceIsLimitedMeasuredAndRemoved(t *testing.T) {
	t.Parallel()
	asRoot(t, "makes cgroups")
	h := newHost(t)
	options := map[string]any{"command": "/bin/sleep", "args": []string{"1000"}}
	agents := h.task(options)
	// Beside those that the agent makes, so that it is removed with them.
	parent := "nomad-parent-" + agents.AllocID
	options["cgroup_parent"] = parent
	task := h.task(options)
	t.Cleanup(func() {
		for _, controller := range []string{"freezer", "cpu", "cpuacct", "memory", "pids", "cpuset"} {
			_ = os.Remove("/sys/fs/cgroup/" + controller + "/" + parent)
		}
	})
	h.start(task)
	membership, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", h.pid(task)))
	must.NoError(t, err)
	must.StrContains(t, string(membership), "/"+parent+"/"+task.AllocID+".main")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	samples, err := h.Driver.TaskStats(ctx, task.ID, time.Second)
	must.NoError(t, err)
	sample := <-samples
	must.Positive(t, sample.ResourceUsage.MemoryStats.Usage)
	h.destroy(task)
	for _, controller := range []string{"freezer", "memory"} {
		_, err := os.Stat(fmt.Sprintf("/sys/fs/cgroup/%s/%s/%s.main", controller, parent, task.AllocID))
		must.ErrorIs(t, err, os.ErrNotExist)
	}
}

func TestFreezeAndThawAreSignals(t *testing.T) {
	t.Parallel()
	asRoot(t, "freezes a cgroup")
	h := newHost(t)
	task := h.run("n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.01; done")
	h.says(task, "tick")
	must.NoError(t, h.Driver.SignalTask(task.ID, "FREEZE"))
	// What was written before may still be on its way.
	eventually(t, "standstill", func() error {
		before := output(task, "stdout")
		time.Sleep(200 * time.Millisecond)
		if output(task, "stdout") != before {
			return fmt.Errorf("it goes on")
		}
		return nil
	})
	frozen := output(task, "stdout")
	must.NoError(t, h.Driver.SignalTask(task.ID, "THAW"))
	eventually(t, "going on", func() error {
		if output(task, "stdout") == frozen {
			return fmt.Errorf("it stands still")
		}
		return nil
	})
	must.NoError(t, h.Driver.SignalTask(task.ID, "FREEZE"))
	must.NoError(t, h.Driver.StopTask(task.ID, patience, "SIGTERM"), must.Sprint("a stop thaws first"))
	must.Eq(t, 15, h.wait(task).Signal)
	h.destroy(task)
}

func TestWhatCgroupsCanDoIsFingerprinted_F5(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := h.Driver.Fingerprint(ctx)
	must.NoError(t, err)
	first := <-stream
	for _, name := range []string{"memory", "cpu", "cpuset", "pids", "io", "kill", "freeze"} {
		attribute := first.Attributes["driver.raw_exec.cgroup."+name]
		must.NotNil(t, attribute, must.Sprintf("no attribute for %s: %v", name, first.Attributes))
		_, isBool := attribute.GetBool()
		must.True(t, isBool)
	}
	version, ok := first.Attributes["driver.raw_exec.cgroup.version"].GetString()
	must.True(t, ok)
	must.SliceContains(t, []string{"v1", "v2"}, version)
}

func TestARunTimeThatIsOverIsToldAndEndsTheTaskAlsoWithoutADriver(t *testing.T) {
	t.Parallel()
	for name, crash := range map[string]bool{"with its driver": false, "without one": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			task := h.task(map[string]any{
				"command": "/bin/sleep", "args": []string{"1000"}, "max_runtime": "2s", "max_runtime_signal": "SIGINT",
			})
			events := h.events(task)
			handle := h.start(task)
			if crash {
				pid := h.pid(task)
				must.NoError(t, h.Crash())
				gone(t, pid)
				h.launch()
				events = h.events(task)
				must.NoError(t, h.Driver.RecoverTask(handle))
			}
			event := eventWith(t, events, "aximum run time")
			must.Eq(t, "2000", event.Annotations["max_runtime_ms"])
			must.Eq(t, 2, h.wait(task).Signal)
			select {
			case again := <-events:
				must.StrNotContains(t, again.Message, "aximum run time", must.Sprint("it is told once"))
			default:
			}
			h.destroy(task)
		})
	}
}

func TestAKilledChildIsToldWhileTheTaskGoesOn(t *testing.T) {
	t.Parallel()
	asRoot(t, "limits memory")
	h := newHost(t)
	// 128 MiB are allowed; tail keeps the whole of an endless line in memory.
	task := h.shell("head -c 1000000000 /dev/zero | tail -n 1 > /dev/null; echo went on; sleep 1000")
	events := h.events(task)
	h.start(task)
	eventWith(t, events, "killed by the OOM killer")
	h.says(task, "went on")
	h.destroy(task)
}
