// The fixture: one temporary directory per test with everything in it, and the proof that nothing is left of it.
package plugin

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/hashicorp/nomad/client/logmon"
	"github.com/hashicorp/nomad/helper/testlog"
	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"holdfast.test/nomad/internal/cgroups"
	"holdfast.test/nomad/internal/guard"
	"holdfast.test/nomad/internal/pluginhost"
	"holdfast.test/nomad/internal/processes"
)

// patience bounds every wait for something that must happen. No test asserts how long a thing takes.
var patience = 2 * time.Minute

// names are the plugin file names under which the raw profile is served.
var names = []string{"raw_exec", "holdfast_raw"}

func TestMain(m *testing.M) {
	flag.DurationVar(&patience, "patience", patience, "bound of every wait")
	flag.Parse()
	if _, err := os.Stat(driverBinary()); err != nil {
		fmt.Fprintf(os.Stderr, "no plugin to test: %v; build it, or name it in HOLDFAST_DRIVER\n", err)
		os.Exit(1)
	}
	os.Exit(guard.Run(m))
}

func driverBinary() string {
	path := os.Getenv("HOLDFAST_DRIVER")
	if path == "" {
		path = filepath.Join("..", "..", "..", "target", "dist", "holdfast-driver")
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	return absolute
}

// host is one plugin directory, one state directory, the plugin that runs from them, and its tasks.
type host struct {
	*pluginhost.Plugin
	t     *testing.T
	root  string
	path  string
	log   *log
	tasks []*drivers.TaskConfig
	// config is the plugin block.
	config map[string]any
	// mounts below root that are the agent's or the test's own.
	mounts []string
}

// newHost launches the plugin as raw_exec.
func newHost(t *testing.T) *host {
	t.Helper()
	return newHostNamed(t, "raw_exec", nil)
}

func newHostNamed(t *testing.T, name string, config map[string]any) *host {
	t.Helper()
	h := newRoot(t, name)
	for key, value := range config {
		h.config[key] = value
	}
	h.launch()
	return h
}

// newRoot lays out the directories and launches nothing.
func newRoot(t *testing.T, name string) *host {
	t.Helper()
	root, err := guard.Dir()
	must.NoError(t, err)
	h := &host{t: t, root: root, log: &log{}, config: map[string]any{}}
	if slices.Contains(names, name) {
		h.config["enabled"] = true
	}
	// A call that never comes back fails when its plugin is gone, so that the clean-up below is reached.
	watchdog := time.AfterFunc(3*patience, func() { processes.KillHolding(root) })
	t.Cleanup(func() {
		watchdog.Stop()
		processes.KillHolding(root)
		if err := guard.RemoveAll(root); err != nil {
			t.Errorf("remove the test's directory: %v", err)
		}
		if t.Failed() {
			t.Logf("the plugin's log:\n%s", h.log)
		}
	})
	for _, dir := range []string{"plugins", "alloc"} {
		must.NoError(t, os.Mkdir(filepath.Join(root, dir), 0o755))
	}
	h.path, err = pluginhost.Install(driverBinary(), filepath.Join(root, "plugins"), name)
	must.NoError(t, err)
	return h
}

func (h *host) stateDir() string { return filepath.Join(h.root, "state") }

// launch starts the plugin in this host's directories, on what an earlier one left there.
func (h *host) launch() {
	h.t.Helper()
	plugin, err := pluginhost.Start(pluginhost.Options{Path: h.path, Log: h.log})
	must.NoError(h.t, err, must.Sprint("launch the plugin"))
	h.t.Cleanup(plugin.Close)
	schema, err := plugin.Driver.ConfigSchema()
	must.NoError(h.t, err)
	if _, ours := schema.GetObject().GetAttributes()["state_dir"]; ours && h.config["state_dir"] == nil {
		h.config["state_dir"] = h.stateDir()
	}
	must.NoError(h.t, plugin.Configure(h.config))
	h.Plugin = plugin
}

// relaunch kills the plugin with -9 and starts another one.
func (h *host) relaunch() {
	h.t.Helper()
	must.NoError(h.t, h.Crash())
	h.launch()
}

// task prepares what the agent prepares before StartTask: directories, cgroups, log paths, environment.
func (h *host) task(options map[string]any) *drivers.TaskConfig {
	h.t.Helper()
	allocID := uuid.Generate()
	scope, err := cgroups.NewTask(allocID, "main")
	must.NoError(h.t, err)
	h.t.Cleanup(func() {
		processes.KillHolding(allocID)
		scope.Remove()
	})
	alloc := filepath.Join(h.root, "alloc", allocID)
	task := filepath.Join(alloc, "main")
	logs := filepath.Join(alloc, "alloc", "logs")
	for _, dir := range []string{logs, filepath.Join(task, "local"), filepath.Join(task, "secrets")} {
		must.NoError(h.t, os.MkdirAll(dir, 0o755))
	}
	// As the agent leaves them: writable by any user of the allocation.
	for _, dir := range []string{alloc, task, filepath.Join(task, "local")} {
		must.NoError(h.t, os.Chmod(dir, 0o777))
	}
	config := &drivers.TaskConfig{
		ID:            taskID(allocID),
		AllocID:       allocID,
		Name:          "main",
		JobName:       "test",
		JobID:         "test",
		TaskGroupName: "group",
		Namespace:     "default",
		AllocDir:      alloc,
		StdoutPath:    filepath.Join(logs, ".main.stdout.fifo"),
		StderrPath:    filepath.Join(logs, ".main.stderr.fifo"),
		Env: map[string]string{
			"PATH":           os.Getenv("PATH"),
			"NOMAD_TASK_DIR": filepath.Join(task, "local"),
			"NOMAD_ALLOC_ID": allocID,
		},
		Resources: &drivers.Resources{
			NomadResources: &structs.AllocatedTaskResources{
				Memory: structs.AllocatedMemoryResources{MemoryMB: 128},
				Cpu:    structs.AllocatedCpuResources{CpuShares: 100},
			},
			LinuxResources: &drivers.LinuxResources{
				MemoryLimitBytes: 128 << 20,
				CPUShares:        100,
				CpusetCgroupPath: scope.Path,
			},
		},
	}
	if h.Plugin != nil {
		must.NoError(h.t, h.EncodeTask(config, options))
		if !h.Capabilities.DisableLogCollection {
			h.collectLogs(config)
		}
	}
	h.tasks = append(h.tasks, config)
	return config
}

// collectLogs plays the agent's log process for a driver that leaves collection to the agent.
func (h *host) collectLogs(config *drivers.TaskConfig) {
	collector := logmon.NewLogMon(testlog.HCLogger(h.t))
	must.NoError(h.t, collector.Start(&logmon.LogConfig{
		LogDir:        filepath.Dir(config.StdoutPath),
		StdoutLogFile: config.Name + ".stdout",
		StderrLogFile: config.Name + ".stderr",
		StdoutFifo:    config.StdoutPath,
		StderrFifo:    config.StderrPath,
		MaxFiles:      10,
		MaxFileSizeMB: 10,
	}))
	h.t.Cleanup(func() { _ = collector.Stop() })
}

func taskID(allocID string) string { return allocID + "/main/" + uuid.Short() }

// shell prepares a task that runs a script.
func (h *host) shell(script string) *drivers.TaskConfig {
	h.t.Helper()
	return h.task(map[string]any{"command": "/bin/sh", "args": []string{"-c", script}})
}

// start starts a prepared task and returns its handle.
func (h *host) start(config *drivers.TaskConfig) *drivers.TaskHandle {
	h.t.Helper()
	handle, _, err := h.Driver.StartTask(config)
	must.NoError(h.t, err, must.Sprint("StartTask"))
	must.NotNil(h.t, handle)
	return handle
}

// run starts a script and returns its task.
func (h *host) run(script string) *drivers.TaskConfig {
	h.t.Helper()
	config := h.shell(script)
	h.start(config)
	return config
}

// wait waits for a task's exit.
func (h *host) wait(config *drivers.TaskConfig) *drivers.ExitResult {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result, err := h.Plugin.Wait(ctx, config.ID)
	must.NoError(h.t, err, must.Sprintf("WaitTask of %s", config.ID))
	return result
}

// pid of a task's main process, as InspectTask tells it.
func (h *host) pid(config *drivers.TaskConfig) int {
	h.t.Helper()
	status, err := h.Driver.InspectTask(config.ID)
	must.NoError(h.t, err, must.Sprint("InspectTask"))
	var pid int
	_, err = fmt.Sscan(status.DriverAttributes["pid"], &pid)
	must.NoError(h.t, err, must.Sprintf("no `pid` in the attributes of InspectTask: %v", status.DriverAttributes))
	return pid
}

// output is what the log files of a task hold, in order.
func output(config *drivers.TaskConfig, stream string) string {
	var all strings.Builder
	for _, file := range logFiles(config, stream) {
		content, _ := os.ReadFile(file)
		all.Write(content)
	}
	return all.String()
}

// logFiles of a task in the order of their numbers.
func logFiles(config *drivers.TaskConfig, stream string) []string {
	prefix := filepath.Join(filepath.Dir(config.StderrPath), config.Name+"."+stream+".")
	if config.StderrPath == os.DevNull {
		prefix = filepath.Join(config.AllocDir, "alloc", "logs", config.Name+"."+stream+".")
	}
	files, _ := filepath.Glob(prefix + "*")
	sort.Slice(files, func(a, b int) bool { return logNumber(files[a]) < logNumber(files[b]) })
	return files
}

func logNumber(file string) int {
	number := -1
	_, _ = fmt.Sscanf(filepath.Ext(file), ".%d", &number)
	return number
}

// eventually waits until check is content.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// says waits until a task has written a text to its stdout.
func (h *host) says(config *drivers.TaskConfig, text string) {
	h.t.Helper()
	eventually(h.t, "output of the task", func() error {
		if got := output(config, "stdout"); !strings.Contains(got, text) {
			return fmt.Errorf("%q is not in stdout %q, stderr %q", text, got, output(config, "stderr"))
		}
		return nil
	})
}

// nothingLeft asserts that no process, cgroup, folder or mount of a task exists any more. The cgroups that the agent made are the agent's.
func (h *host) nothingLeft(config *drivers.TaskConfig) {
	h.t.Helper()
	eventually(h.t, "what is left of task "+config.ID, func() error { return h.remains(config) })
}

func (h *host) remains(config *drivers.TaskConfig) error {
	var left []string
	for _, process := range processes.Holding(config.AllocID) {
		left = append(left, "process "+process.String())
	}
	agents := map[string]bool{}
	for _, controller := range []string{"freezer", "cpu", "memory"} {
		agents[cgroups.Scope(controller, config.AllocID, config.Name)] = true
	}
	for _, dir := range cgroups.Of(config.AllocID) {
		if !agents[dir] {
			left = append(left, "cgroup "+dir)
		}
		if pids := cgroups.Processes(dir); len(pids) > 0 {
			left = append(left, fmt.Sprintf("pids %v in cgroup %s", pids, dir))
		}
	}
	for _, folder := range h.supervisionDirs() {
		content, _ := os.ReadFile(filepath.Join(folder, "intent.json"))
		if strings.Contains(string(content), config.ID) || len(content) == 0 {
			left = append(left, "folder "+folder)
		}
	}
	if h.isolates() {
		if mounts := guard.MountsBelow(h.root); !slices.Equal(mounts, h.mounts) {
			left = append(left, fmt.Sprintf("mounts %v instead of %v", mounts, h.mounts))
		}
	}
	if len(left) > 0 {
		return errors.New(strings.Join(left, "\n"))
	}
	return nil
}

// supervisionDirs of this host's plugin: `<state_dir>/<driver name>/<one folder per task>`.
func (h *host) supervisionDirs() []string {
	folders, _ := filepath.Glob(filepath.Join(h.stateDir(), filepath.Base(h.path), "*-*"))
	return folders
}

// executors are the processes of this host that are neither the plugin nor in a task's scope: executors and inits.
func (h *host) executors() []processes.Process {
	var found []processes.Process
	for _, process := range processes.Holding(h.root) {
		if process.Pid != h.Pid() && strings.HasPrefix(process.Exe, h.stateDir()) {
			found = append(found, process)
		}
	}
	return found
}

// destroy destroys a task by force and asserts that nothing is left of it.
func (h *host) destroy(config *drivers.TaskConfig) {
	h.t.Helper()
	must.NoError(h.t, h.Driver.DestroyTask(config.ID, true))
	h.nothingLeft(config)
}

// wire is the configuration as the plugin gets it.
func wire(config *drivers.TaskConfig, raw []byte) *proto.TaskConfig {
	return &proto.TaskConfig{
		Id:                  config.ID,
		Name:                config.Name,
		AllocId:             config.AllocID,
		AllocDir:            config.AllocDir,
		StdoutPath:          config.StdoutPath,
		StderrPath:          config.StderrPath,
		JobName:             config.JobName,
		JobId:               config.JobID,
		TaskGroupName:       config.TaskGroupName,
		Namespace:           config.Namespace,
		User:                config.User,
		Env:                 config.Env,
		MsgpackDriverConfig: raw,
		Resources: &proto.Resources{
			AllocatedResources: &proto.AllocatedTaskResources{
				Cpu:    &proto.AllocatedCpuResources{CpuShares: 100},
				Memory: &proto.AllocatedMemoryResources{MemoryMb: 128},
			},
			LinuxResources: &proto.LinuxResources{
				CpuShares:        100,
				MemoryLimitBytes: 128 << 20,
				CpusetCgroup:     config.Resources.LinuxResources.CpusetCgroupPath,
			},
		},
	}
}

// log keeps what the plugin logs, so that a failed test can show it.
type log struct {
	lock    sync.Mutex
	content strings.Builder
}

func (l *log) Write(line []byte) (int, error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.content.Write(line)
}

func (l *log) String() string {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.content.String()
}

// asRoot skips a test that needs root, and says so.
func asRoot(t *testing.T, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("needs root: %s", why)
	}
}

// gone waits until a process has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	identity := processes.Identity(pid)
	eventually(t, fmt.Sprintf("end of process %d", pid), func() error {
		if processes.Lives(identity) {
			return fmt.Errorf("still in state %s", processes.State(pid))
		}
		return nil
	})
}

func send(t *testing.T, pid int, signal syscall.Signal) {
	t.Helper()
	must.NoError(t, syscall.Kill(pid, signal), must.Sprintf("send %s to %d", signal, pid))
}
