// What holds of every task with a root of its own, whether the agent fills it (`exec`) or the driver (`holdfast`).
package plugin

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/testutils"

	"holdfast.test/nomad/internal/processes"
)

// failure is the message with which a start fails.
func (h *host) failure(config *drivers.TaskConfig) string {
	h.t.Helper()
	_, _, err := h.Driver.StartTask(config)
	must.Error(h.t, err)
	failure := status.Convert(err)
	must.SliceNotContains(h.t, []codes.Code{codes.Unavailable, codes.Canceled}, failure.Code())
	return failure.Message()
}

func TestATaskRunsAsNobodyUnlessItNamesAnotherUser(t *testing.T) {
	forEachIsolated(t, nil, func(h *host) {
		const who = "id -u; id -g; id -G"
		must.Eq(h.t, "65534\n65534\n65534\n", h.tells(h.script(who)))
		task := h.script(who)
		task.User = "daemon"
		must.Eq(h.t, "1\n1\n1\n", h.tells(task))
	})
}

func TestATaskIsInNamespacesOfItsOwnAndSoAreItsSessions_X3(t *testing.T) {
	forEachIsolated(t, nil, func(h *host) {
		task := h.script("exec sleep 1000")
		h.start(task)
		ours, its := namespaces(h.t, os.Getpid()), namespaces(h.t, h.pid(task))
		for _, kind := range []string{"ipc", "mnt", "pid"} {
			must.NotEq(h.t, ours[kind], its[kind], must.Sprint(kind))
		}
		must.Eq(h.t, ours["net"], its["net"])
		must.Eq(h.t, its, h.namespacesWithin(task))
		must.Eq(h.t, confinementOf(h.pid(task)), h.confinementWithin(task))
		// Each session has a cgroup of its own, and so a view of its own.
		for _, view := range []string{cgroupNamespace(h.t, h.pid(task)), h.within(task, "readlink /proc/self/ns/cgroup")} {
			must.Eq(h.t, h.name() == "exec", view == cgroupNamespace(h.t, os.Getpid()))
		}
		must.StrContains(h.t, h.within(task, "ls /proc"), "self")
		_, err := os.Stat(filepath.Join("/proc", fmt.Sprint(os.Getpid())))
		must.NoError(h.t, err)
		must.Eq(h.t, "none", h.within(task, fmt.Sprintf("ls -d /proc/%d 2>/dev/null || echo none", os.Getpid())),
			must.Sprint("it sees processes of the host"))
		h.destroy(task)
	})
}

func TestModesOfTheJobAndTheOperatorDecideWhichNamespacesAreTheHosts(t *testing.T) {
	operator := map[string]any{"default_pid_mode": "host", "default_ipc_mode": "host"}
	for _, run := range []struct {
		name           string
		config, option map[string]any
		isHosts        bool
	}{
		{"the operator's word", operator, nil, true},
		{"the job's word against the operator's", operator, map[string]any{"pid_mode": "private", "ipc_mode": "private"}, false},
		{"the job's word", nil, map[string]any{"pid_mode": "host", "ipc_mode": "host"}, true},
	} {
		t.Run(run.name, func(t *testing.T) {
			forEachIsolated(t, run.config, func(h *host) {
				task := h.scriptWith("exec sleep 1000", run.option)
				h.start(task)
				ours, its := namespaces(h.t, os.Getpid()), namespaces(h.t, h.pid(task))
				for _, kind := range []string{"ipc", "pid"} {
					must.Eq(h.t, run.isHosts, ours[kind] == its[kind], must.Sprint(kind))
				}
				must.Eq(h.t, its, h.namespacesWithin(task))
				must.NoError(h.t, h.Driver.StopTask(task.ID, patience, "SIGTERM"))
				must.Eq(h.t, int(syscall.SIGTERM), h.wait(task).Signal)
				h.destroy(task)
			})
		})
	}
}

func TestNomadsStreamingExecConformanceInARootOfItsOwn_X3(t *testing.T) {
	// The harness looks for the agent's name in the names of cgroups.
	forEachIsolated(t, map[string]any{"default_cgroupns": "host"}, func(h *host) {
		task := h.script("sleep 1000")
		h.start(task)
		harness := testutils.NewDriverHarness(h.t, h.Driver)
		h.t.Cleanup(harness.Kill)
		testutils.ExecTaskStreamingConformanceTests(h.t, harness, task.ID)
		h.destroy(task)
	})
}

func TestATerminalOfASessionHasANameInTheTasksTree_X3(t *testing.T) {
	forEachIsolated(t, nil, func(h *host) {
		task := h.script("sleep 1000")
		h.start(task)
		s := h.session(context.Background(), task, true, "/bin/sh", "-c", "tty; stat -c %F $(tty)")
		stdout, _, result := s.finish()
		must.Eq(h.t, 0, result.ExitCode, must.Sprintf("%q", stdout))
		must.RegexMatch(h.t, regexp.MustCompile(`^/dev/pts/\d+\r\ncharacter special file\r\n$`), string(stdout))
		h.destroy(task)
	})
}

// As pid 1 of its namespace it would ignore the signal, and the kill timeout would pass.
func TestAPlainProgramEndsByTheStopSignalAndNotByTheKill_K1(t *testing.T) {
	forEachIsolated(t, nil, func(h *host) {
		task := h.isolated(map[string]any{"command": "/bin/sleep", "args": []string{"1000"}})
		h.start(task)
		must.NotEq(h.t, "1", lastField(processes.Field(h.pid(task), "NSpid")))
		must.NoError(h.t, h.Driver.StopTask(task.ID, 10*patience, "SIGTERM"))
		result := h.wait(task)
		must.Eq(h.t, int(syscall.SIGTERM), result.Signal)
		must.Eq(h.t, 128+int(syscall.SIGTERM), result.ExitCode)
		h.destroy(task)
	})
}

func TestSignalsReachTheTaskAndStatisticsLeaveIt_T1(t *testing.T) {
	forEachIsolated(t, nil, func(h *host) {
		task := h.script("trap 'echo got usr1' USR1; echo ready; while :; do sleep 0.1; done")
		h.start(task)
		h.says(task, "ready")
		must.NoError(h.t, h.Driver.SignalTask(task.ID, "SIGUSR1"))
		h.says(task, "got usr1")
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		samples, err := h.Driver.TaskStats(ctx, task.ID, 100*time.Millisecond)
		must.NoError(h.t, err)
		sample, open := <-samples
		must.True(h.t, open)
		must.Positive(h.t, sample.ResourceUsage.MemoryStats.RSS)
		h.destroy(task)
	})
}

func TestATaskOutlivesDriverAndExecutorAndLaterSessionsAreWhereItIs_R1_R5(t *testing.T) {
	forEachIsolated(t, nil, func(h *host) {
		task := h.script("echo ready; while :; do sleep 0.1; done")
		handle := h.start(task)
		h.says(task, "ready")
		pid := h.pid(task)
		identity, spaces, confined := processes.Identity(pid), namespaces(h.t, pid), confinementOf(pid)
		same := func() {
			h.t.Helper()
			must.Eq(h.t, pid, h.pid(task))
			must.Eq(h.t, identity, processes.Identity(pid))
			must.Eq(h.t, spaces, h.namespacesWithin(task))
			must.Eq(h.t, confined, h.confinementWithin(task))
		}
		same()
		h.relaunch()
		must.NoError(h.t, h.Driver.RecoverTask(asPersisted(h.t, handle)))
		same()

		adopted := func() {
			h.t.Helper()
			eventually(h.t, "a session after the executor's death", func() error {
				_, err := h.Driver.ExecTask(task.ID, []string{"/bin/sh", "-c", ":"}, patience)
				return err
			})
			same()
		}
		executor := h.executorPid()
		send(h.t, executor, syscall.SIGKILL)
		gone(h.t, executor)
		adopted()
		must.NotEq(h.t, executor, h.executorPid())

		executor = h.executorPid()
		must.NoError(h.t, h.Crash())
		send(h.t, executor, syscall.SIGKILL)
		gone(h.t, executor)
		h.launch()
		must.NoError(h.t, h.Driver.RecoverTask(asPersisted(h.t, handle)))
		adopted()

		s := h.session(context.Background(), task, true, "tty")
		stdout, _, _ := s.finish()
		must.StrHasPrefix(h.t, "/dev/pts/", string(stdout))
		must.NoError(h.t, h.Driver.StopTask(task.ID, patience, "SIGTERM"))
		h.wait(task)
		h.destroy(task)
	})
}

func TestVolumesAreWhereTheAgentWantsThem_C3(t *testing.T) {
	forEachIsolated(t, nil, func(h *host) {
		volume := filepath.Join(h.root, "volume")
		must.NoError(h.t, os.Mkdir(volume, 0o777))
		must.NoError(h.t, os.Chmod(volume, 0o777))
		must.NoError(h.t, os.WriteFile(filepath.Join(volume, "there"), []byte("before\n"), 0o644))
		task := h.script(`cat /srv/rw/there /srv/ro/there /srv/file
			echo by the task > /srv/rw/made
			touch /srv/ro/made 2>&1 || echo refused`)
		task.Mounts = []*drivers.MountConfig{
			{TaskPath: "/srv/rw", HostPath: volume},
			{TaskPath: "/srv/ro", HostPath: volume, Readonly: true},
			{TaskPath: "/srv/file", HostPath: filepath.Join(volume, "there"), Readonly: true},
		}
		said := h.tells(task)
		must.StrHasPrefix(h.t, "before\nbefore\nbefore\n", said)
		must.StrContains(h.t, said, "Read-only file system")
		must.StrHasSuffix(h.t, "refused\n", said)
		made, err := os.ReadFile(filepath.Join(volume, "made"))
		must.NoError(h.t, err)
		must.Eq(h.t, "by the task\n", string(made))
	})
}

func TestLaterMountsInAVolumeAreSeenAsThePropagationSays_C3(t *testing.T) {
	forEachIsolated(t, nil, func(h *host) {
		volume := filepath.Join(h.root, "volume")
		inside := filepath.Join(volume, "inside")
		must.NoError(h.t, os.MkdirAll(inside, 0o755))
		must.NoError(h.t, unix.Mount(volume, volume, "", unix.MS_BIND, ""))
		must.NoError(h.t, unix.Mount("", volume, "", unix.MS_SHARED, ""))
		task := h.script("exec sleep 1000")
		task.Mounts = []*drivers.MountConfig{
			{TaskPath: "/srv/private", HostPath: volume, PropagationMode: "private"},
			{TaskPath: "/srv/usual", HostPath: volume},
			{TaskPath: "/srv/slave", HostPath: volume, PropagationMode: "host-to-task"},
			{TaskPath: "/srv/shared", HostPath: volume, PropagationMode: "bidirectional"},
		}
		h.start(task)
		must.NoError(h.t, unix.Mount("tmpfs", inside, "tmpfs", 0, ""))
		must.NoError(h.t, os.WriteFile(filepath.Join(inside, "later"), nil, 0o644))
		h.knowMounts()
		must.Eq(h.t, "/srv/shared/inside/later\n/srv/slave/inside/later", h.within(task, "ls -d /srv/*/inside/*"))
		tags := propagation(h.t, h.pid(task))
		must.StrContains(h.t, tags["/srv/shared"], "shared:")
		must.StrContains(h.t, tags["/srv/slave"], "master:")
		must.StrNotContains(h.t, tags["/srv/slave"], "shared:")
		for _, path := range []string{"/srv/private", "/srv/usual", "/"} {
			must.Eq(h.t, "", tags[path], must.Sprint(path))
		}
		h.destroy(task)
	})
}

// propagation are the optional fields of mountinfo, proc_pid_mountinfo(5), by mount point.
func propagation(t *testing.T, pid int) map[string]string {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	must.NoError(t, err)
	found := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(content)), "\n") {
		before, _, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		found[fields[4]] = strings.Join(fields[6:], " ")
	}
	return found
}

func TestNothingOfTheHostsMountsIsLeftInTheTask(t *testing.T) {
	forEachIsolated(t, nil, func(h *host) {
		task := h.script("exec sleep 1000")
		h.start(task)
		for point := range propagation(h.t, h.pid(task)) {
			must.StrNotContains(h.t, point, h.root, must.Sprint("the old root is still there"))
			must.StrNotContains(h.t, point, "deleted")
		}
		h.destroy(task)
	})
}

func TestADeviceOfTheAgentIsUnderItsPathAndNoOtherCanBeOpened(t *testing.T) {
	forEachIsolated(t, map[string]any{"allow_root": true}, func(h *host) {
		task := h.script(`exec 2>&1
			head -c 3 /dev/nothing | wc -c
			head -c 0 /dev/looked-at && echo read
			echo x > /dev/looked-at || echo not written
			ls /dev/kmsg || echo none`)
		task.User = "root"
		task.Devices = []*drivers.DeviceConfig{
			{HostPath: "/dev/zero", TaskPath: "/dev/nothing", Permissions: "rwm"},
			{HostPath: "/dev/net/tun", TaskPath: "/dev/looked-at", Permissions: "r"},
		}
		if h.name() == "exec" {
			// Always allowed there, as in the built-in.
			task.Devices[1].HostPath = "/dev/fuse"
		}
		if _, err := os.Stat(task.Devices[1].HostPath); err != nil {
			h.t.Skipf("this host has no %s", task.Devices[1].HostPath)
		}
		said := h.tells(task)
		must.StrHasPrefix(h.t, "3\nread\n", said)
		must.StrContains(h.t, said, "Operation not permitted")
		must.StrContains(h.t, said, "not written\n")
		must.StrHasSuffix(h.t, "none\n", said)

		task = h.script("true")
		task.Devices = []*drivers.DeviceConfig{{HostPath: "/dev/no-such-device", TaskPath: "/dev/x", Permissions: "rwm"}}
		h.refuses(task, "/dev/no-such-device")
		task = h.script("true")
		task.Devices = []*drivers.DeviceConfig{{HostPath: "/etc/passwd", TaskPath: "/dev/x", Permissions: "rwm"}}
		h.refuses(task, "/etc/passwd", "not a device")
	})
}

func TestNamesAreLookedUpAsTheAgentSays(t *testing.T) {
	forEachIsolated(t, nil, func(h *host) {
		of := func(path string) string {
			content, err := os.ReadFile(path)
			must.NoError(h.t, err)
			return string(content)
		}
		before := of("/etc/resolv.conf")
		task := h.script("cat /etc/resolv.conf")
		task.DNS = &drivers.DNSConfig{
			Servers: []string{"192.0.2.53"}, Searches: []string{"example.org"}, Options: []string{"ndots:2"},
		}
		said := h.tells(task)
		for _, line := range []string{"nameserver 192.0.2.53\n", "search example.org\n", "options ndots:2\n"} {
			must.StrContains(h.t, said, line)
		}
		must.Eq(h.t, before, of("/etc/resolv.conf"), must.Sprint("the host's own"))

		hosts := of("/etc/hosts")
		task = h.scriptWith("cat /etc/hosts; hostname", map[string]any{
			"hostname": "of-the-task", "extra_hosts": []string{"db:192.0.2.7"},
		})
		said = h.tells(task)
		must.RegexMatch(h.t, regexp.MustCompile(`(?m)^192\.0\.2\.7\s+db$`), said)
		must.StrHasSuffix(h.t, "\nof-the-task\n", said)
		must.Eq(h.t, hosts, of("/etc/hosts"), must.Sprint("the host's own"))
	})
}

func TestATaskOfTheHostsTreeJoinsTheNetworkToo_S10(t *testing.T) {
	asRoot(t, "network namespaces")
	t.Parallel()
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostNamed(t, name, map[string]any{"create_network": true})
			networks := h.Driver.(drivers.DriverNetworkManager)
			task := h.shell("exec sleep 1000")
			spec, created, err := networks.CreateNetwork(task.AllocID, &drivers.NetworkCreateRequest{})
			must.NoError(t, err)
			must.True(t, created)
			t.Cleanup(func() { _ = networks.DestroyNetwork(task.AllocID, spec) })
			task.NetworkIsolation = spec
			h.start(task)
			its, ours := namespaces(t, h.pid(task)), namespaces(t, os.Getpid())
			must.NotEq(t, ours["net"], its["net"])
			must.Eq(t, its["net"], h.within(task, "readlink /proc/self/ns/net"))
			ours["net"] = its["net"]
			must.Eq(t, ours, its)
			h.destroy(task)
			must.NoError(t, networks.DestroyNetwork(task.AllocID, spec))
		})
	}
}

func TestATaskJoinsTheNetworkThatTheDriverMade(t *testing.T) {
	forEachIsolated(t, map[string]any{"create_network": true}, func(h *host) {
		must.True(h.t, h.Capabilities.MustInitiateNetwork)
		networks, ok := h.Driver.(drivers.DriverNetworkManager)
		must.True(h.t, ok)
		task := h.script("exec sleep 1000")
		spec, created, err := networks.CreateNetwork(task.AllocID, &drivers.NetworkCreateRequest{})
		must.NoError(h.t, err)
		must.True(h.t, created)
		h.t.Cleanup(func() { _ = networks.DestroyNetwork(task.AllocID, spec) })
		again, created, err := networks.CreateNetwork(task.AllocID, &drivers.NetworkCreateRequest{})
		must.NoError(h.t, err)
		must.False(h.t, created)
		must.Eq(h.t, spec.Path, again.Path)
		h.knowMounts()

		task.NetworkIsolation = spec
		h.start(task)
		var file unix.Stat_t
		must.NoError(h.t, unix.Stat(spec.Path, &file))
		its := namespaces(h.t, h.pid(task))
		must.Eq(h.t, fmt.Sprintf("net:[%d]", file.Ino), its["net"])
		must.Eq(h.t, its, h.namespacesWithin(task))
		must.Eq(h.t, "lo", h.within(task, "ls /sys/class/net"))
		// IFF_UP and IFF_LOOPBACK, netdevice(7).
		must.Eq(h.t, "0x9", h.within(task, "cat /sys/class/net/lo/flags"))
		h.destroy(task)

		must.NoError(h.t, networks.DestroyNetwork(task.AllocID, spec))
		must.NoError(h.t, networks.DestroyNetwork(task.AllocID, spec), must.Sprint("once more"))
		_, err = os.Lstat(spec.Path)
		must.ErrorIs(h.t, err, os.ErrNotExist)

		dead := h.script("true")
		dead.NetworkIsolation = spec
		h.knowMounts()
		h.refuses(dead, spec.Path)
	})
}

func TestAMistakeInATaskOfItsOwnRootIsNamedAndLeavesNothing_S4(t *testing.T) {
	forEachIsolated(t, nil, func(h *host) {
		outside := filepath.Join(h.root, "outside")
		must.NoError(h.t, os.Mkdir(outside, 0o755))
		with := func(options map[string]any) *drivers.TaskConfig {
			all := map[string]any{"command": "/bin/sh"}
			maps.Copy(all, options)
			return h.isolated(all)
		}
		h.refuses(with(map[string]any{"command": "/no/such/tool"}), "/no/such/tool")
		h.refuses(with(map[string]any{"work_dir": outside}), outside)
		h.refuses(with(map[string]any{"cap_add": []string{"sys_admin"}}), "sys_admin")
		h.refuses(with(map[string]any{"pid_mode": "sideways"}), "pid_mode", "sideways")
		volume := with(nil)
		volume.Mounts = []*drivers.MountConfig{{TaskPath: "/srv", HostPath: "/no/such/volume"}}
		h.refuses(volume, "/no/such/volume")
		onto := with(nil)
		onto.Mounts = []*drivers.MountConfig{{TaskPath: "/etc/passwd", HostPath: outside}}
		h.refuses(onto, "/etc/passwd")
		network := with(nil)
		network.NetworkIsolation = &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, Path: "/no/such/network"}
		h.refuses(network, "/no/such/network")
		must.SliceEmpty(h.t, h.executors())
	})
}

func lastField(text string) string {
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return ""
	}
	return fields[len(fields)-1]
}
