// Bad input: one clear line that names the culprit, nothing left behind, and nobody else disturbed.
package plugin

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hashicorp/nomad/client/lib/cgroupslib"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"holdfast.test/nomad/internal/processes"
)

func TestAMistakeInATaskIsNamedAndLeavesNothing_S4(t *testing.T) {
	h := newHost(t)
	bystander := h.run("n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.05; done")
	bystanderPid := h.pid(bystander)
	pluginPid := h.Pid()

	locked := filepath.Join(h.root, "locked")
	must.NoError(t, os.MkdirAll(filepath.Join(locked, "inside"), 0o755))
	must.NoError(t, os.Chmod(locked, 0o700))
	directory := filepath.Join(h.root, "directory")
	must.NoError(t, os.Mkdir(directory, 0o755))
	orphan := filepath.Join(h.root, "orphan")
	must.NoError(t, os.WriteFile(orphan, []byte("#!/no/such/interpreter\n"), 0o755))
	noELF := filepath.Join(h.root, "no-elf")
	must.NoError(t, os.WriteFile(noELF, []byte("\x7fELF but then nothing"), 0o755))

	for _, mistake := range []struct {
		name    string
		options map[string]any
		user    string
		says    []string
		root    bool
	}{
		{"no command", map[string]any{}, "", []string{"command"}, false},
		{"an empty command", map[string]any{"command": ""}, "", []string{"command"}, false},
		{"a command of another type", map[string]any{"command": []int{1}}, "", []string{"command"}, false},
		{"args of another type", map[string]any{"command": "/bin/true", "args": 5}, "", []string{"args"}, false},
		{"an unknown option", map[string]any{"command": "/bin/true", "comand": "x"}, "", []string{"comand"}, false},
		{"a command that does not exist", map[string]any{"command": "/no/such/tool"}, "", []string{"/no/such/tool"}, false},
		{"a command that is found nowhere", map[string]any{"command": "no-such-tool"}, "", []string{"no-such-tool"}, false},
		{"a directory as command", map[string]any{"command": directory}, "", []string{directory}, false},
		{"an interpreter that does not exist", map[string]any{"command": orphan}, "", []string{orphan}, false},
		{"a broken executable", map[string]any{"command": noELF}, "", []string{noELF}, false},
		{"a relative work_dir", map[string]any{"command": "/bin/true", "work_dir": "here"}, "",
			[]string{"work_dir must be an absolute path"}, false},
		{"a work_dir that does not exist", map[string]any{"command": "/bin/true", "work_dir": "/no/such/dir"}, "",
			[]string{"/no/such/dir"}, false},
		{"a work_dir that the user may not search", map[string]any{
			"command": "/bin/true", "work_dir": filepath.Join(locked, "inside"),
		}, "nobody", []string{locked, "nobody|65534"}, true},
		{"an unknown user", map[string]any{"command": "/bin/true"}, "no-such-user", []string{"no-such-user"}, false},
		{"a negative oom_score_adj", map[string]any{"command": "/bin/true", "oom_score_adj": -1}, "",
			[]string{"oom_score_adj must not be negative"}, false},
		{"both cgroup overrides", map[string]any{
			"command": "/bin/true", "cgroup_v2_override": "x", "cgroup_v1_override": []map[string]string{{"pids": "x"}},
		}, "", []string{"only one of cgroups_v1_override and cgroups_v2_override may be set"}, false},
		{"a cgroup that does not exist", withCommand(absentCgroup()), "", []string{"no/such/cgroup"}, true},
	} {
		t.Run(mistake.name, func(t *testing.T) {
			if mistake.root {
				asRoot(t, mistake.name)
			}
			task := h.shell("true")
			task.User = mistake.user
			// Straight to the plugin: the agent's schema would catch some of these before.
			must.NoError(t, task.EncodeConcreteDriverConfig(mistake.options))
			_, _, err := h.Driver.StartTask(task)
			must.Error(t, err)
			failure := status.Convert(err)
			must.SliceNotContains(t, []codes.Code{codes.Unavailable, codes.Canceled}, failure.Code())
			message := failure.Message()
			for _, culprit := range mistake.says {
				must.True(t, containsOne(message, culprit), must.Sprintf("%q does not name %q", message, culprit))
			}
			must.StrNotContains(t, message, "\n")
			must.StrNotContains(t, message, "panic")
			h.nothingLeft(task)
			_, err = h.Driver.InspectTask(task.ID)
			must.ErrorContains(t, err, notFound)
		})
	}
	must.Eq(t, pluginPid, h.Pid())
	must.True(t, processes.Alive(pluginPid))
	must.True(t, processes.Alive(bystanderPid))
	ticks := output(bystander, "stdout")
	eventually(t, "output of the bystander", func() error {
		if len(output(bystander, "stdout")) == len(ticks) {
			return fmt.Errorf("has stopped")
		}
		return nil
	})
	h.destroy(bystander)
	must.SliceEmpty(t, h.executors())
}

// containsOne says whether a text contains one of some alternatives, separated by |.
func containsOne(text, alternatives string) bool {
	for _, alternative := range strings.Split(alternatives, "|") {
		if strings.Contains(text, alternative) {
			return true
		}
	}
	return false
}

func TestTheSchemaCatchesAMistakenOptionBeforeThePluginSeesIt(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for name, mistake := range map[string]struct {
		options map[string]any
		says    string
	}{
		"unknown":    {map[string]any{"command": "x", "comand": "y"}, "comand"},
		"mistyped":   {map[string]any{"command": "x", "oom_score_adj": "many"}, "oom_score_adj"},
		"no command": {map[string]any{"args": []string{"x"}}, "command"},
	} {
		t.Run(name, func(t *testing.T) {
			err := h.EncodeTask(&drivers.TaskConfig{}, mistake.options)
			must.ErrorContains(t, err, mistake.says)
		})
	}
}

func TestADeniedUserIsRefused(t *testing.T) {
	asRoot(t, "changes the user")
	t.Parallel()
	h := newHostNamed(t, "raw_exec", map[string]any{"denied_host_uids": "0,1000-2000", "denied_host_gids": "2"})
	task := h.shell("true")
	task.User = "root"
	_, _, err := h.Driver.StartTask(task)
	must.ErrorContains(t, err, "0")
	must.True(t, containsOne(err.Error(), "disallowed|denied|not allowed"), must.Sprint(err.Error()))
	h.nothingLeft(task)
	task.User = "nobody"
	h.start(task)
	must.True(t, h.wait(task).Successful())
	h.destroy(task)
}

func TestATaskConfigurationWithHolesIsRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	full := h.shell("true")
	raw := encode(t, map[string]any{"command": "/bin/true"})
	for name, change := range map[string]func(*proto.TaskConfig) *proto.TaskConfig{
		"no task at all":      func(*proto.TaskConfig) *proto.TaskConfig { return nil },
		"no id":               func(c *proto.TaskConfig) *proto.TaskConfig { c.Id = ""; return c },
		"no driver config":    func(c *proto.TaskConfig) *proto.TaskConfig { c.MsgpackDriverConfig = nil; return c },
		"broken msgpack":      func(c *proto.TaskConfig) *proto.TaskConfig { c.MsgpackDriverConfig = []byte{0x81, 0xa7}; return c },
		"a folder in the id":  func(c *proto.TaskConfig) *proto.TaskConfig { c.AllocDir = "/no/such/alloc"; return c },
		"a NUL in a variable": func(c *proto.TaskConfig) *proto.TaskConfig { c.Env = map[string]string{"A": "b\x00c"}; return c },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.Raw.StartTask(context.Background(), &proto.StartTaskRequest{Task: change(wire(full, raw))})
			must.Error(t, err)
			must.SliceNotContains(t, []codes.Code{codes.Unavailable, codes.Canceled}, status.Code(err))
			must.StrNotContains(t, status.Convert(err).Message(), "\n")
			h.nothingLeft(full)
		})
	}
	h.start(full)
	must.True(t, h.wait(full).Successful(), must.Sprint("after all of these, the same task runs"))
	h.destroy(full)
}

func TestAFullDiskForLogsIsNamedAndEndsNobody(t *testing.T) {
	asRoot(t, "mounts a small tmpfs")
	h := newHost(t)
	bystander := h.run("n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.05; done")
	task := h.shell("echo ready > local/ready; head -c 4000000 /dev/zero | tr '\\0' x; echo done > local/done; sleep 1000")
	logs := filepath.Dir(task.StdoutPath)
	must.NoError(t, syscall.Mount("tmpfs", logs, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() {
		processes.KillHolding(task.AllocID)
		if err := syscall.Unmount(logs, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", logs, err)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events, err := h.Driver.TaskEvents(ctx)
	must.NoError(t, err)
	said := &log{}
	go func() {
		for event := range events {
			fmt.Fprintln(said, event.TaskID, event.Message)
		}
	}()
	h.start(task)
	pid := h.pid(task)
	eventually(t, "a line about the full disk, as an event or in a log", func() error {
		told := said.String() + h.log.String()
		for _, folder := range h.supervisionDirs() {
			content, _ := os.ReadFile(filepath.Join(folder, "executor.log"))
			told += string(content)
		}
		for _, line := range strings.Split(told, "\n") {
			if strings.Contains(line, logs) && containsOne(strings.ToLower(line), "no space left|enospc") {
				return nil
			}
		}
		return fmt.Errorf("none names %s", logs)
	})
	must.True(t, processes.Alive(pid), must.Sprint("a full disk ended the task"))
	must.True(t, processes.Alive(h.Pid()))
	result, err := h.Driver.ExecTask(task.ID, []string{"echo", "still served"}, patience)
	must.NoError(t, err)
	must.Eq(t, "still served\n", string(result.Stdout))
	ticks := len(output(bystander, "stdout"))
	eventually(t, "output of the bystander", func() error {
		if len(output(bystander, "stdout")) == ticks {
			return fmt.Errorf("has stopped")
		}
		return nil
	})
	must.NoError(t, h.Driver.StopTask(task.ID, patience, "SIGTERM"))
	h.wait(task)
	h.destroy(task)
	h.destroy(bystander)
}

func TestADiskThatBecomesRoomyAgainTakesTheRestOfTheOutput(t *testing.T) {
	asRoot(t, "mounts a small tmpfs")
	t.Parallel()
	h := newHost(t)
	task := h.shell("seq 1 20000; echo last; sleep 1000")
	logs := filepath.Dir(task.StdoutPath)
	must.NoError(t, syscall.Mount("tmpfs", logs, "tmpfs", 0, "size=32k"))
	t.Cleanup(func() {
		processes.KillHolding(task.AllocID)
		_ = syscall.Unmount(logs, syscall.MNT_DETACH)
	})
	h.start(task)
	eventually(t, "the disk to be full", func() error {
		if len(output(task, "stdout")) < 16<<10 {
			return fmt.Errorf("%d bytes so far", len(output(task, "stdout")))
		}
		return nil
	})
	must.NoError(t, syscall.Mount("tmpfs", logs, "tmpfs", syscall.MS_REMOUNT, "size=8m"))
	h.says(task, "\nlast\n")
	expected := bytes.Buffer{}
	for number := 1; number <= 20000; number++ {
		fmt.Fprintln(&expected, number)
	}
	must.Eq(t, expected.String()+"last\n", output(task, "stdout"), must.Sprint("the default is to block, not to drop"))
	h.destroy(task)
}

// absentCgroup is the option for a cgroup of one's own choice that is not there, in the words of the host's version.
func absentCgroup() map[string]any {
	if cgroupslib.GetMode() == cgroupslib.CG2 {
		return map[string]any{"cgroup_v2_override": "no/such/cgroup"}
	}
	return map[string]any{"cgroup_v1_override": []map[string]string{{"pids": "no/such/cgroup"}}}
}
