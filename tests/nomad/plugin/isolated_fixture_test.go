// What the agent prepares for a task of an isolated profile, and what it looks like from outside.
package plugin

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/hashicorp/nomad/client/allocdir"
	"github.com/hashicorp/nomad/helper/testlog"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"

	"holdfast.test/nomad/internal/chroot"
	"holdfast.test/nomad/internal/guard"
	"holdfast.test/nomad/internal/processes"
)

// isolatedNames are the plugin file names of the profiles with a root of the task's own.
var isolatedNames = []string{"exec", "holdfast"}

// nobody is whom their tasks run as unless told otherwise.
const nobody = 65534

// forEachIsolated runs a test once for each isolated profile.
func forEachIsolated(t *testing.T, config map[string]any, test func(*host)) {
	asRoot(t, "mounts and namespaces")
	t.Parallel()
	for _, name := range isolatedNames {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			block := map[string]any{}
			for key, value := range config {
				block[key] = value
			}
			if name == "exec" {
				// The built-in asks nobody.
				delete(block, "allow_root")
			}
			test(newHostNamed(t, name, block))
		})
	}
}

// newIsolated launches the plugin under the name of an isolated profile.
func newIsolated(t *testing.T, name string, config map[string]any) *host {
	t.Helper()
	asRoot(t, "mounts and namespaces")
	t.Parallel()
	return newHostNamed(t, name, config)
}

func (h *host) name() string   { return filepath.Base(h.path) }
func (h *host) isolates() bool { return slices.Contains(isolatedNames, h.name()) }

// isolated prepares a task as the agent does for what the driver announces: folders, a chroot, paths in the environment.
func (h *host) isolated(options map[string]any) *drivers.TaskConfig {
	h.t.Helper()
	config := h.task(options)
	dir := allocdir.NewAllocDir(testlog.HCLogger(h.t), filepath.Join(h.root, "alloc"), filepath.Join(h.root, "mounts"), config.AllocID)
	must.NoError(h.t, dir.Build())
	entries, err := chroot.Env()
	must.NoError(h.t, err)
	task := dir.NewTaskDir(&structs.Task{Name: config.Name})
	must.NoError(h.t, task.Build(h.Capabilities.FSIsolation, entries, config.User))
	config.Env["NOMAD_ALLOC_DIR"] = allocdir.SharedAllocContainerPath
	config.Env["NOMAD_TASK_DIR"] = allocdir.TaskLocalContainerPath
	config.Env["NOMAD_SECRETS_DIR"] = allocdir.TaskSecretsContainerPath
	if h.Capabilities.FSIsolation == fsisolation.Image {
		// The agent keeps the host's variables from images.
		delete(config.Env, "PATH")
	}
	h.knowMounts()
	return config
}

// knowMounts notes what is mounted by others than the driver.
func (h *host) knowMounts() { h.mounts = guard.MountsBelow(h.root) }

// script prepares an isolated task that runs a script.
func (h *host) script(script string) *drivers.TaskConfig {
	h.t.Helper()
	return h.scriptWith(script, nil)
}

// scriptWith prepares one with more options.
func (h *host) scriptWith(script string, options map[string]any) *drivers.TaskConfig {
	h.t.Helper()
	all := map[string]any{"command": "/bin/sh", "args": []string{"-c", script}}
	for key, value := range options {
		all[key] = value
	}
	return h.isolated(all)
}

// tells runs a task to its end, which must be a good one, and returns what it wrote.
func (h *host) tells(config *drivers.TaskConfig) string {
	h.t.Helper()
	h.start(config)
	result := h.wait(config)
	said := output(config, "stdout")
	must.True(h.t, result.Successful(), must.Sprintf("it ended with %+v, stdout %q, stderr %q", result, said, output(config, "stderr")))
	h.destroy(config)
	return said
}

// refuses starts a task, which must fail with a message that contains the texts and leave nothing.
func (h *host) refuses(config *drivers.TaskConfig, texts ...string) string {
	h.t.Helper()
	message := h.failure(config)
	for _, text := range texts {
		must.StrContains(h.t, message, text)
	}
	must.StrNotContains(h.t, message, "\n")
	h.nothingLeft(config)
	return message
}

// within runs a script in a task and returns what it wrote.
func (h *host) within(config *drivers.TaskConfig, script string) string {
	h.t.Helper()
	result, err := h.Driver.ExecTask(config.ID, []string{"/bin/sh", "-c", script}, patience)
	must.NoError(h.t, err, must.Sprint("ExecTask"))
	must.Eq(h.t, 0, result.ExitResult.ExitCode, must.Sprintf("%s: %s", script, result.Stdout))
	return strings.TrimSpace(string(result.Stdout))
}

// namespaces of a process that its task shares, as the kernel names them.
func namespaces(t *testing.T, pid int) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, kind := range []string{"ipc", "mnt", "net", "pid", "uts"} {
		name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		must.NoError(t, err)
		found[kind] = name
	}
	return found
}

func cgroupNamespace(t *testing.T, pid int) string {
	t.Helper()
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/cgroup", pid))
	must.NoError(t, err)
	return name
}

// namespacesWithin are those of a session.
func (h *host) namespacesWithin(config *drivers.TaskConfig) map[string]string {
	h.t.Helper()
	found := map[string]string{}
	for kind := range namespaces(h.t, os.Getpid()) {
		found[kind] = h.within(config, "readlink /proc/self/ns/"+kind)
	}
	return found
}

// confinement are the lines of proc_pid_status(5) that say what a process may do and who it is.
var confinement = []string{
	"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
}

func confinementOf(pid int) map[string]string {
	found := map[string]string{}
	for _, field := range confinement {
		found[field] = processes.Field(pid, field)
	}
	return found
}

// confinementWithin is that of a session.
func (h *host) confinementWithin(config *drivers.TaskConfig) map[string]string {
	h.t.Helper()
	lines := h.within(config, "cat /proc/self/status")
	found := map[string]string{}
	for _, line := range strings.Split(lines, "\n") {
		if key, value, ok := strings.Cut(line, ":"); ok && slices.Contains(confinement, key) {
			found[key] = strings.Join(strings.Fields(value), " ")
		}
	}
	return found
}

// executorPid is the process that supervises the only task.
func (h *host) executorPid() int {
	h.t.Helper()
	var pids []int
	for _, process := range h.executors() {
		if filepath.Base(process.Exe) == "holdfast-executor" {
			pids = append(pids, process.Pid)
		}
	}
	must.Len(h.t, 1, pids, must.Sprintf("executors among %v", h.executors()))
	return pids[0]
}
