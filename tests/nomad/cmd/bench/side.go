package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"

	"github.com/hashicorp/nomad/client/allocdir"
	"github.com/hashicorp/nomad/client/logmon"
	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"

	"holdfast.test/nomad/internal/cgroups"
	"holdfast.test/nomad/internal/chroot"
	"holdfast.test/nomad/internal/pluginhost"
	"holdfast.test/nomad/internal/processes"
)

// bound of any single call.
const bound = time.Minute

// side is one driver, with its plugin and its tasks.
type side struct {
	name string
	// profile is the plugin's file name.
	profile string
	root    string
	path    string
	config  map[string]any
	plugin  *pluginhost.Plugin
	results Results

	lock  sync.Mutex
	tasks []*task
	ended sync.Once
}

// task is one that was prepared and maybe started.
type task struct {
	config *drivers.TaskConfig
	scope  *cgroups.Task
	// folders as the agent makes them for a driver that isolates.
	folders *allocdir.AllocDir
	handle  *drivers.TaskHandle
	logs    logmon.LogMon
	process *goplugin.Client
}

// newSide installs and launches a plugin in directories of its own.
func newSide(name, profile, binary string) (*side, error) {
	root, err := os.MkdirTemp("", "hf-bench-")
	if err != nil {
		return nil, err
	}
	// Tasks of other users must reach their directories.
	if err := os.Chmod(root, 0o755); err != nil {
		return nil, err
	}
	s := &side{name: name, profile: profile, root: root, config: map[string]any{}}
	if err := s.install(binary); err != nil {
		s.close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

func (s *side) install(binary string) error {
	plugins := filepath.Join(s.root, "plugins")
	if err := os.Mkdir(plugins, 0o755); err != nil {
		return err
	}
	var err error
	if s.path, err = pluginhost.Install(binary, plugins, s.profile); err != nil {
		return err
	}
	plugin, err := pluginhost.Start(pluginhost.Options{Path: s.path})
	if err != nil {
		return err
	}
	s.plugin = plugin
	schema, err := plugin.Driver.ConfigSchema()
	if err != nil {
		return err
	}
	for option, value := range map[string]any{"enabled": true, "state_dir": filepath.Join(s.root, "state")} {
		if _, known := schema.GetObject().GetAttributes()[option]; known {
			s.config[option] = value
		}
	}
	return plugin.Configure(s.config)
}

// relaunch kills the plugin with -9 and starts another.
func (s *side) relaunch() error {
	if err := s.plugin.Crash(); err != nil {
		return err
	}
	plugin, err := pluginhost.Launch(pluginhost.Options{Path: s.path, Config: s.config})
	if err != nil {
		return err
	}
	s.plugin = plugin
	return nil
}

// close ends everything of this side.
func (s *side) close() {
	s.ended.Do(func() {
		if s.plugin != nil {
			s.plugin.Close()
		}
		processes.KillHolding(s.root)
		s.lock.Lock()
		defer s.lock.Unlock()
		for _, task := range s.tasks {
			task.forget()
		}
		_ = os.RemoveAll(s.root)
	})
}

// prepare does what the agent does before StartTask. With logProcess, a driver that leaves the collection of logs to the agent
// gets a log process for the task, as under the agent; otherwise its logs are read in this process, which costs less.
func (s *side) prepare(logProcess bool) (*task, error) {
	allocID := uuid.Generate()
	scope, err := cgroups.NewTask(allocID, "main")
	if err != nil {
		return nil, err
	}
	prepared := &task{scope: scope}
	s.lock.Lock()
	s.tasks = append(s.tasks, prepared)
	s.lock.Unlock()

	alloc := filepath.Join(s.root, "alloc", allocID)
	logs := filepath.Join(alloc, "alloc", "logs")
	for _, dir := range []string{logs, filepath.Join(alloc, "main", "local")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	prepared.config = &drivers.TaskConfig{
		ID:         allocID + "/main/" + uuid.Short(),
		AllocID:    allocID,
		Name:       "main",
		AllocDir:   alloc,
		StdoutPath: filepath.Join(logs, ".main.stdout.fifo"),
		StderrPath: filepath.Join(logs, ".main.stderr.fifo"),
		Env:        map[string]string{"PATH": os.Getenv("PATH")},
		Resources: &drivers.Resources{
			NomadResources: &structs.AllocatedTaskResources{
				Memory: structs.AllocatedMemoryResources{MemoryMB: 64},
				Cpu:    structs.AllocatedCpuResources{CpuShares: 100},
			},
			LinuxResources: &drivers.LinuxResources{
				MemoryLimitBytes: 64 << 20,
				CPUShares:        100,
				CpusetCgroupPath: scope.Path,
			},
		},
	}
	if s.isolates() {
		if err := s.fill(prepared); err != nil {
			return nil, err
		}
	}
	err = s.plugin.EncodeTask(prepared.config, map[string]any{"command": "/bin/sleep", "args": []string{"100000"}})
	if err != nil {
		return nil, err
	}
	if s.plugin.Capabilities.DisableLogCollection {
		return prepared, nil
	}
	return prepared, prepared.collectLogs(logProcess)
}

// isolates says whether tasks have a root of their own.
func (s *side) isolates() bool { return s.plugin.Capabilities.FSIsolation != fsisolation.None }

// fill makes the folders of a task, and its chroot if the driver wants one. The chroot holds a few programs only, and is not measured.
func (s *side) fill(prepared *task) error {
	entries, err := chroot.Env()
	if err != nil {
		return err
	}
	logger := hclog.New(&hclog.LoggerOptions{Output: io.Discard})
	config := prepared.config
	prepared.folders = allocdir.NewAllocDir(logger, filepath.Dir(config.AllocDir), filepath.Join(s.root, "mounts"), config.AllocID)
	if err := prepared.folders.Build(); err != nil {
		return err
	}
	return prepared.folders.NewTaskDir(&structs.Task{Name: config.Name}).Build(s.plugin.Capabilities.FSIsolation, entries, "")
}

func (t *task) collectLogs(ownProcess bool) error {
	logger := hclog.New(&hclog.LoggerOptions{Output: io.Discard})
	t.logs = logmon.NewLogMon(logger)
	if ownProcess {
		var err error
		// This executable once more: the library starts it with an argument of its own.
		if t.logs, t.process, err = logmon.LaunchLogMon(logger, nil); err != nil {
			return fmt.Errorf("start a log process: %w", err)
		}
	}
	return t.logs.Start(&logmon.LogConfig{
		LogDir:        filepath.Dir(t.config.StdoutPath),
		StdoutLogFile: "main.stdout",
		StderrLogFile: "main.stderr",
		StdoutFifo:    t.config.StdoutPath,
		StderrFifo:    t.config.StderrPath,
		MaxFiles:      10,
		MaxFileSizeMB: 10,
	})
}

// giveBack does what the agent does once a task is destroyed: what the driver made is left as it is.
func (s *side) giveBack(done *task) {
	s.lock.Lock()
	s.tasks = slices.DeleteFunc(s.tasks, func(task *task) bool { return task == done })
	s.lock.Unlock()
	if done.folders != nil {
		_ = done.folders.UnmountAll()
	}
	done.scope.GiveBack()
}

// forget ends what this process keeps for a task.
func (t *task) forget() {
	if t.logs != nil {
		_ = t.logs.Stop()
		t.logs = nil
	}
	if t.process != nil {
		t.process.Kill()
		t.process = nil
	}
	if t.folders != nil {
		_ = t.folders.UnmountAll()
	}
	t.scope.Remove()
}

// start starts a prepared task and says how long the call took.
func (s *side) start(prepared *task) (time.Duration, error) {
	before := time.Now()
	handle, _, err := s.plugin.Driver.StartTask(prepared.config)
	took := time.Since(before)
	prepared.handle = handle
	return took, err
}

// destroy ends tasks by force, several at a time.
func (s *side) destroy(tasks []*task) error {
	failures := make([]error, len(tasks))
	slots := make(chan struct{}, 16)
	var all sync.WaitGroup
	for at, task := range tasks {
		all.Add(1)
		slots <- struct{}{}
		go func() {
			defer all.Done()
			failures[at] = s.plugin.Driver.DestroyTask(task.config.ID, true)
			task.forget()
			<-slots
		}()
	}
	all.Wait()
	return errors.Join(failures...)
}

// helpers are the processes that live because of the tasks and are not the tasks: executors, inits, log processes.
func (s *side) helpers(tasks []*task) []processes.Process {
	apart := map[int]bool{s.plugin.Pid(): true}
	markers := []string{s.root}
	for _, task := range tasks {
		for _, pid := range cgroups.Processes(cgroups.Scope("freezer", task.config.AllocID, task.config.Name)) {
			apart[pid] = true
		}
		if status, err := s.plugin.Driver.InspectTask(task.config.ID); err == nil {
			var pid int
			if _, err := fmt.Sscan(status.DriverAttributes["pid"], &pid); err == nil {
				apart[pid] = true
			}
		}
	}
	var found []processes.Process
	for _, process := range processes.Holding(markers...) {
		if !apart[process.Pid] {
			found = append(found, process)
		}
	}
	return found
}
