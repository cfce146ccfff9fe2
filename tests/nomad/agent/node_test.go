// The node under test: an agent that is server and client at once, with the plugin in its plugin directory under both names.
package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/command/agent"
	"github.com/hashicorp/nomad/nomad/structs"
	structsconfig "github.com/hashicorp/nomad/nomad/structs/config"

	"holdfast.test/nomad/internal/cgroups"
	"holdfast.test/nomad/internal/chroot"
	"holdfast.test/nomad/internal/guard"
	"holdfast.test/nomad/internal/pluginhost"
	"holdfast.test/nomad/internal/processes"
)

// patience bounds every wait. An agent's first registration alone can take half a minute.
var patience = 5 * time.Minute

// names are the plugin file names, and so the drivers, under which the raw profile is served.
var names = []string{"raw_exec", "holdfast_raw"}

// Nomad's own driver, served as a plugin, answers to raw_exec only.
var chosen = flag.String("names", strings.Join(names, ","), "plugin file names to test, separated by commas")

var waiting = flag.Int("waiting", 300, "how many tasks wait at once")

// isolatedNames are those of the profiles with a root of the task's own. They need root.
var isolatedNames []string

var isolated = flag.String("isolated", "exec,holdfast", "the same of plugins that isolate; empty: none")

// noCloud keeps the agent from asking clouds for what this host is: without a network that takes minutes.
const noCloud = "env_aws,env_gce,env_azure,env_digitalocean"

func TestMain(m *testing.M) {
	flag.DurationVar(&patience, "patience", patience, "bound of every wait")
	flag.Parse()
	names = strings.Split(*chosen, ",")
	if *isolated != "" && os.Geteuid() == 0 {
		isolatedNames = strings.Split(*isolated, ",")
	}
	if _, err := os.Stat(driverBinary()); err != nil {
		fmt.Fprintf(os.Stderr, "no plugin to test: %v; build it, or name it in HOLDFAST_DRIVER\n", err)
		os.Exit(1)
	}
	_ = os.Unsetenv("AWS_CA_BUNDLE")
	// The agent in process logs through the test, at length; a log level in the environment brings it back.
	for key, value := range map[string]string{"NOMAD_TEST_LOG_LEVEL": "OFF", "NOMAD_TEST_STDOUT": "1"} {
		if _, set := os.LookupEnv(key); !set {
			_ = os.Setenv(key, value)
		}
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

// node is one agent, in process or not.
type node struct {
	t    *testing.T
	root string
	api  *api.Client
	// dataDir is the agent's.
	dataDir string
	// pid of the agent, 0 if it is in process, and what ends it.
	pid int
	end func()
	// service is the cgroup of an agent that is a process, as a service manager makes one; nil if there are none to make.
	service *cgroups.Service
}

// newNode lays out the directories of a node and sees to their end.
func newNode(t *testing.T) *node {
	t.Helper()
	root, err := guard.Dir()
	must.NoError(t, err)
	n := &node{t: t, root: root, dataDir: filepath.Join(root, "data")}
	t.Cleanup(func() {
		processes.KillHolding(root)
		if err := guard.RemoveAll(root); err != nil {
			t.Errorf("remove the test's directory: %v", err)
		}
	})
	for _, dir := range []string{"plugins", "data", "volume"} {
		must.NoError(t, os.Mkdir(filepath.Join(root, dir), 0o755))
	}
	// Tasks of any user write into it.
	must.NoError(t, os.Chmod(n.volume(), 0o777))
	must.NoError(t, os.WriteFile(filepath.Join(n.volume(), "kept"), []byte("kept on the host\n"), 0o644))
	for _, name := range allNames() {
		_, err := pluginhost.Install(driverBinary(), n.pluginDir(), name)
		must.NoError(t, err)
	}
	return n
}

// allNames are those of every plugin of the node.
func allNames() []string { return slices.Concat(names, isolatedNames) }

// volume is the folder behind the host volume `shared`.
func (n *node) volume() string    { return filepath.Join(n.root, "volume") }
func (n *node) pluginDir() string { return filepath.Join(n.root, "plugins") }
func (n *node) stateDir() string  { return filepath.Join(n.root, "state") }

// pluginConfig is the plugin block of one name. Only what the plugin's schema knows may be in it.
func (n *node) pluginConfig(name string) map[string]any {
	n.t.Helper()
	plugin, err := pluginhost.Start(pluginhost.Options{Path: filepath.Join(n.pluginDir(), name)})
	must.NoError(n.t, err)
	defer plugin.Close()
	schema, err := plugin.Driver.ConfigSchema()
	must.NoError(n.t, err)
	config := map[string]any{}
	for option, value := range map[string]any{"enabled": true, "state_dir": n.stateDir()} {
		if _, known := schema.GetObject().GetAttributes()[option]; known {
			config[option] = value
		}
	}
	return config
}

// inProcess starts an agent in this process.
func inProcess(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	var plugins []*structsconfig.PluginConfig
	for _, name := range allNames() {
		plugins = append(plugins, &structsconfig.PluginConfig{Name: name, Config: n.pluginConfig(name)})
	}
	chrootEnv, err := chroot.Env()
	must.NoError(t, err)
	agent.TempDir = n.root
	running := agent.NewTestAgent(t, "holdfast", func(config *agent.Config) {
		config.Client.Enabled = true
		config.PluginDir = n.pluginDir()
		config.Plugins = plugins
		config.Client.Options["fingerprint.denylist"] = noCloud
		config.Client.GCMaxAllocs = 10000
		config.Client.GCDiskUsageThreshold = 99.9
		config.Client.GCInodeUsageThreshold = 99.9
		config.Client.ChrootEnv = chrootEnv
		config.Client.HostVolumes = []*structs.ClientHostVolumeConfig{{Name: "shared", Path: n.volume()}}
	})
	t.Cleanup(running.Shutdown)
	n.dataDir = running.DataDir
	n.api = running.APIClient()
	n.ready()
	n.endsClean()
	return n
}

// asProcess starts an agent as a process of its own.
func asProcess(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	ports := freePorts(t, 3)
	chrootEnv, err := chroot.Env()
	must.NoError(t, err)
	var chrootLines strings.Builder
	for source, target := range chrootEnv {
		fmt.Fprintf(&chrootLines, "    %q = %q\n", source, target)
	}
	var config strings.Builder
	fmt.Fprintf(&config, `
name        = "holdfast"
data_dir    = %q
plugin_dir  = %q
bind_addr   = "127.0.0.1"
log_level   = "DEBUG"
enable_debug = true
disable_update_check = true

ports {
  http = %d
  rpc  = %d
  serf = %d
}

advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

server {
  enabled          = true
  bootstrap_expect = 1
}

client {
  enabled                  = true
  network_interface        = "lo"
  gc_max_allocs            = 10000
  # A fuller disk of the machine must not make the client forget allocations that a test looks at.
  gc_disk_usage_threshold  = 99.9
  gc_inode_usage_threshold = 99.9

  options {
    "fingerprint.denylist" = %q
  }

  chroot_env {
%s  }

  host_volume "shared" {
    path = %q
  }
}

# Without it the agent asks no driver for statistics.
telemetry {
  publish_allocation_metrics = true
}

consul {
  auto_advertise   = false
  client_auto_join = false
  server_auto_join = false
}
`, n.dataDir, n.pluginDir(), ports[0], ports[1], ports[2], noCloud, &chrootLines, n.volume())
	for _, name := range allNames() {
		fmt.Fprintf(&config, "\nplugin %q {\n  config {\n", name)
		for key, value := range n.pluginConfig(name) {
			if text, ok := value.(string); ok {
				value = fmt.Sprintf("%q", text)
			}
			fmt.Fprintf(&config, "    %s = %v\n", key, value)
		}
		config.WriteString("  }\n}\n")
	}
	must.NoError(t, os.WriteFile(n.configFile(), []byte(config.String()), 0o600))

	settings := api.DefaultConfig()
	settings.Address = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	client, err := api.NewClient(settings)
	must.NoError(t, err)
	n.api = client
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the agent's log:\n%s", strings.Join(n.lastLines(60), "\n"))
		}
	})
	if os.Geteuid() == 0 && cgroups.Available() {
		n.service, err = cgroups.NewService(fmt.Sprintf("agent-%d.service", os.Getpid()))
		must.NoError(t, err)
		// When everything that was started in it has been told to end.
		t.Cleanup(func() {
			if err := errors.Join(n.service.Kill(), n.service.Remove()); err != nil {
				t.Errorf("the agent's own cgroup: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		if n.end != nil {
			n.end()
		}
	})
	n.launch()
	n.endsClean()
	return n
}

func (n *node) configFile() string { return filepath.Join(n.root, "agent.hcl") }
func (n *node) logFile() string    { return filepath.Join(n.root, "agent.log") }

// lastLines is the end of what the agent's log says of its client and drivers. The many lines of requests and of the scheduler would
// hide what failed.
func (n *node) lastLines(count int) []string {
	content, _ := os.ReadFile(n.logFile())
	lines := slices.DeleteFunc(strings.Split(string(content), "\n"), func(line string) bool {
		_, said, _ := strings.Cut(line, "] ")
		said = strings.TrimLeft(said, " ")
		for _, source := range []string{"http:", "worker", "nomad", "client: allocation updates", "client: updated allocations"} {
			if strings.HasPrefix(said, source) {
				return true
			}
		}
		return false
	})
	return lines[max(0, len(lines)-count):]
}

// launch starts the agent's process on the node's data directory.
func (n *node) launch() {
	n.t.Helper()
	output, err := os.OpenFile(n.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	must.NoError(n.t, err)
	defer output.Close()
	arguments := []string{n.agentBinary(), "-config", n.configFile()}
	if n.service != nil {
		arguments = n.service.Command(arguments[0], arguments[1:]...)
	}
	command := exec.Command(arguments[0], arguments[1:]...)
	command.Stdout, command.Stderr = output, output
	// As a service manager would: not the terminal's group.
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	must.NoError(n.t, command.Start())
	n.pid = command.Process.Pid
	exited := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(exited)
	}()
	n.end = func() {
		_ = command.Process.Kill()
		<-exited
	}
	n.ready()
}

// kill ends the agent's process with -9, and nothing else.
func (n *node) kill() {
	n.t.Helper()
	identity := processes.Identity(n.pid)
	must.NoError(n.t, syscall.Kill(n.pid, syscall.SIGKILL))
	n.eventually("end of the agent", func() error {
		if processes.Lives(identity) {
			return fmt.Errorf("process %d is alive", n.pid)
		}
		return nil
	})
}

// agentBinary builds the agent.
func (n *node) agentBinary() string {
	n.t.Helper()
	path := filepath.Join(n.root, "nomad-agent")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	build := exec.Command("go", "build", "-tags", "hashicorpmetrics", "-o", path, "../cmd/nomad-agent")
	said, err := build.CombinedOutput()
	must.NoError(n.t, err, must.Sprintf("build the agent: %s", said))
	return path
}

// ready waits until the agent's client is registered and finds every driver healthy.
func (n *node) ready() {
	n.t.Helper()
	n.eventually("registration of the client", func() error {
		if n.pid != 0 && !processes.Alive(n.pid) {
			n.t.Fatal("the agent has ended")
		}
		nodes, _, err := n.api.Nodes().List(&api.QueryOptions{})
		if err != nil {
			return err
		}
		if len(nodes) != 1 {
			return fmt.Errorf("%d nodes", len(nodes))
		}
		if nodes[0].Status != api.NodeStatusReady {
			return fmt.Errorf("the node is %s", nodes[0].Status)
		}
		for _, name := range allNames() {
			driver := nodes[0].Drivers[name]
			if driver == nil || !driver.Detected || !driver.Healthy {
				return fmt.Errorf("driver %s is %+v", name, driver)
			}
		}
		return nil
	})
}

// endsClean asserts, at the end of the test, that the jobs leave nothing behind.
func (n *node) endsClean() {
	n.t.Cleanup(func() {
		jobs, _, err := n.api.Jobs().List(&api.QueryOptions{})
		if err != nil {
			n.t.Errorf("list the jobs that are left: %v", err)
			return
		}
		for _, job := range jobs {
			n.purge(job.ID)
		}
	})
}

// eventually waits until check is content.
func (n *node) eventually(what string, check func() error) {
	n.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// job registers a job file under a name of its own, with the driver's name put in.
func (n *node) job(file, driver string) *api.Job {
	n.t.Helper()
	return n.jobWith(file, driver, "")
}

func (n *node) jobWith(file, driver, variables string) *api.Job {
	n.t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "jobs", file+".nomad.hcl"))
	must.NoError(n.t, err)
	source := string(content)
	if !strings.Contains(source, fmt.Sprintf("%q", driver)) {
		must.Eq(n.t, 1, strings.Count(source, `"raw_exec"`))
		source = strings.Replace(source, `"raw_exec"`, fmt.Sprintf("%q", driver), 1)
	}
	job, err := n.api.Jobs().ParseHCLOpts(&api.JobsParseRequest{JobHCL: source, Variables: variables, Canonicalize: true})
	must.NoError(n.t, err, must.Sprintf("parse %s", file))
	id := fmt.Sprintf("%s-%s", file, strings.ReplaceAll(driver, "_", "-"))
	job.ID, job.Name = &id, &id
	_, _, err = n.api.Jobs().Register(job, nil)
	must.NoError(n.t, err, must.Sprintf("register %s", id))
	return job
}

// run registers a job and returns its only allocation, once it runs.
func (n *node) run(file, driver string) *api.Allocation {
	n.t.Helper()
	return n.reaches(*n.job(file, driver).ID, api.AllocClientStatusRunning)
}

// reaches waits until the only allocation of a job has a client status.
func (n *node) reaches(job, wanted string) *api.Allocation {
	n.t.Helper()
	var found *api.Allocation
	n.eventually(fmt.Sprintf("job %s to be %s", job, wanted), func() error {
		allocations, _, err := n.api.Jobs().Allocations(job, true, nil)
		if err != nil {
			return err
		}
		if len(allocations) != 1 {
			return fmt.Errorf("%d allocations", len(allocations))
		}
		allocation, _, err := n.api.Allocations().Info(allocations[0].ID, nil)
		if err != nil {
			return err
		}
		if allocation.ClientStatus != wanted {
			return fmt.Errorf("it is %s\n%s", allocation.ClientStatus, events(allocation))
		}
		found = allocation
		return nil
	})
	return found
}

// purge stops a job and waits until its allocations have ended and left nothing.
func (n *node) purge(job string) {
	n.t.Helper()
	allocations, _, err := n.api.Jobs().Allocations(job, true, nil)
	must.NoError(n.t, err)
	_, _, err = n.api.Jobs().Deregister(job, false, nil)
	must.NoError(n.t, err)
	for _, allocation := range allocations {
		n.eventually("end of allocation "+allocation.ID, func() error {
			info, _, err := n.api.Allocations().Info(allocation.ID, nil)
			if err != nil {
				return err
			}
			if !info.ClientTerminalStatus() {
				return fmt.Errorf("it is %s\n%s", info.ClientStatus, events(info))
			}
			return nil
		})
		n.nothingLeft(allocation.ID)
	}
	_, _, err = n.api.Jobs().Deregister(job, true, nil)
	must.NoError(n.t, err)
}

// nothingLeft asserts that an allocation has neither processes nor cgroups nor a supervision directory any more.
func (n *node) nothingLeft(allocID string) {
	n.t.Helper()
	n.eventually("what is left of allocation "+allocID, func() error {
		for _, process := range processes.Holding(allocID) {
			// The agent and the plugins may mention an allocation in what they hold open.
			if process.Pid != n.pid && filepath.Dir(process.Exe) != n.pluginDir() {
				return fmt.Errorf("process %s", process)
			}
		}
		if dirs := cgroups.Of(allocID); len(dirs) > 0 {
			return fmt.Errorf("cgroups %v", dirs)
		}
		intents, _ := filepath.Glob(filepath.Join(n.stateDir(), "*", "*-*", "intent.json"))
		for _, intent := range intents {
			if content, _ := os.ReadFile(intent); strings.Contains(string(content), allocID) {
				return fmt.Errorf("folder %s", filepath.Dir(intent))
			}
		}
		return nil
	})
}

// events of an allocation's task, one a line.
func events(allocation *api.Allocation) string {
	var lines []string
	if state := allocation.TaskStates["main"]; state != nil {
		for _, event := range state.Events {
			lines = append(lines, fmt.Sprintf("  %s: %s", event.Type, event.DisplayMessage))
		}
	}
	return strings.Join(lines, "\n")
}

// startedOnce asserts that a task was started and never again. Its event of the start alone does not tell: the agent keeps ten events
// of a task, and signals are events too.
func (n *node) startedOnce(allocation *api.Allocation) {
	n.t.Helper()
	state := allocation.TaskStates["main"]
	must.NotNil(n.t, state)
	must.False(n.t, state.StartedAt.IsZero())
	must.Eq(n.t, 0, state.Restarts, must.Sprint(events(allocation)))
	must.LessEq(n.t, 1, count(allocation, api.TaskStarted), must.Sprint(events(allocation)))
}

// count of a type of events.
func count(allocation *api.Allocation, kind string) int {
	count := 0
	if state := allocation.TaskStates["main"]; state != nil {
		for _, event := range state.Events {
			if event.Type == kind {
				count++
			}
		}
	}
	return count
}

// logs is what the agent's API serves as a task's log.
func (n *node) logs(allocation *api.Allocation, stream string) string {
	cancel := make(chan struct{})
	defer close(cancel)
	frames, failures := n.api.AllocFS().Logs(allocation, false, "main", stream, "start", 0, cancel, nil)
	var said strings.Builder
	for {
		select {
		case frame, open := <-frames:
			if !open {
				return said.String()
			}
			said.Write(frame.Data)
		case err := <-failures:
			if err != nil {
				return said.String() + "\nerror: " + err.Error()
			}
			return said.String()
		case <-time.After(patience):
			return said.String() + "\nerror: the stream of logs does not end"
		}
	}
}

// says waits until a task's log has a text.
func (n *node) says(allocation *api.Allocation, stream, text string) {
	n.t.Helper()
	n.eventually("log of the task", func() error {
		if said := n.logs(allocation, stream); !strings.Contains(said, text) {
			return fmt.Errorf("%q is not in %q", text, said)
		}
		return nil
	})
}

// mainPid is the pid of a task's main process, which is a shell, as the host knows it.
func (n *node) mainPid(allocation *api.Allocation) int {
	n.t.Helper()
	n.says(allocation, "stdout", "pid ")
	var pids []int
	n.eventually("one shell in the task's cgroup", func() error {
		pids = nil
		for _, pid := range cgroups.Processes(cgroups.Scope("freezer", allocation.ID, "main")) {
			if command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.HasPrefix(string(command), "/bin/sh\x00") {
				pids = append(pids, pid)
			}
		}
		// What the shell has forked is called as it is until it executes a program of its own.
		if len(pids) != 1 {
			return fmt.Errorf("there are %v", pids)
		}
		return nil
	})
	return pids[0]
}

// exec runs a command in a task through the agent's API.
func (n *node) exec(allocation *api.Allocation, tty bool, input string, command ...string) (int, string, error) {
	return n.execWithin(patience, allocation, tty, input, command...)
}

// tryExec is one of several attempts while the driver may be dead. A session that fails while its input is on the way can hang for
// ever in the agent's HTTP server (execStreamImpl): it waits for room for a third error in a channel of two that only itself reads.
func (n *node) tryExec(allocation *api.Allocation, input string, command ...string) (int, string, error) {
	return n.execWithin(patience/10, allocation, false, input, command...)
}

func (n *node) execWithin(bound time.Duration, allocation *api.Allocation, tty bool, input string, command ...string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	var stdout, stderr strings.Builder
	source := io.Reader(strings.NewReader(input))
	var sizes chan api.TerminalSize
	if tty {
		sizes = make(chan api.TerminalSize, 1)
		sizes <- api.TerminalSize{Height: 24, Width: 80}
		// A terminal whose input ends hangs up; a user's stays open.
		open, close := io.Pipe()
		defer close.Close()
		source = io.MultiReader(source, open)
	}
	code, err := n.api.Allocations().Exec(ctx, allocation, "main", tty, command,
		source, &stdout, &stderr, sizes, nil)
	return code, stdout.String() + stderr.String(), err
}

// plugin is the pid of the plugin process of a name.
func (n *node) plugin(name string) int {
	n.t.Helper()
	var pid int
	path := filepath.Join(n.pluginDir(), name)
	n.eventually("plugin process of "+name, func() error {
		for _, process := range processes.Holding(n.pluginDir()) {
			if process.Command == path && processes.Alive(process.Pid) {
				pid = process.Pid
				return nil
			}
		}
		return fmt.Errorf("there is none")
	})
	return pid
}

// killPlugin kills a plugin with -9 and waits for the one that the agent starts in its place.
func (n *node) killPlugin(name string) {
	n.t.Helper()
	old := n.plugin(name)
	identity := processes.Identity(old)
	must.NoError(n.t, syscall.Kill(old, syscall.SIGKILL))
	n.eventually("another plugin process of "+name, func() error {
		if processes.Lives(identity) {
			return fmt.Errorf("the old one is alive")
		}
		return nil
	})
	must.NotEq(n.t, identity, processes.Identity(n.plugin(name)))
}

func freePorts(t *testing.T, count int) []int {
	t.Helper()
	var ports []int
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		must.NoError(t, err)
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports
}
