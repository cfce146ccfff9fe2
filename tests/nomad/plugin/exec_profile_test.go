// The profile `exec`: what jobs written for Nomad's driver of that name rely on, beside that driver itself where it can be asked.
package plugin

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/hashicorp/go-hclog"
	nomadexec "github.com/hashicorp/nomad/drivers/exec"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"
	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"holdfast.test/nomad/internal/pluginhost"
	"holdfast.test/nomad/internal/processes"
)

// builtIn is Nomad's own driver, in this process. Nothing is started with it.
func builtIn(t *testing.T) *pluginhost.Plugin {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return &pluginhost.Plugin{Driver: nomadexec.NewExecDriver(ctx, hclog.NewNullLogger())}
}

func TestCapabilitiesOfExecAreThoseOfTheBuiltInAndLogCollection_C1_C2_C3_C4_C5(t *testing.T) {
	t.Parallel()
	h := newHostNamed(t, "exec", nil)
	theirs := builtIn(t)
	must.NoError(t, theirs.Configure(nil))
	expected := *theirs.Capabilities
	expected.DisableLogCollection = true
	must.Eq(t, &expected, h.Capabilities)
	must.Eq(t, fsisolation.Chroot, h.Capabilities.FSIsolation)
	answer, err := h.Raw.Capabilities(context.Background(), &proto.CapabilitiesRequest{})
	must.NoError(t, err)
	must.Eq(t, []proto.NetworkIsolationSpec_NetworkIsolationMode{
		proto.NetworkIsolationSpec_HOST, proto.NetworkIsolationSpec_GROUP,
	}, answer.Capabilities.NetworkIsolationModes)
}

func TestWhatTheBuiltInExecRefusesIsRefusedInItsWords(t *testing.T) {
	asRoot(t, "folders of tasks")
	for _, block := range []map[string]any{
		{"default_pid_mode": "sideways"},
		{"default_ipc_mode": "shared"},
		{"allow_caps": []string{"chown", "no_such_capability"}},
		{"denied_host_uids": "1-x"},
		{"denied_host_gids": "5-1"},
	} {
		h := newRoot(t, "exec")
		plugin, err := pluginhost.Start(pluginhost.Options{Path: h.path, Log: h.log})
		must.NoError(t, err)
		t.Cleanup(plugin.Close)
		theirs := builtIn(t).Configure(block)
		must.Error(t, theirs, must.Sprintf("%v", block))
		block["state_dir"] = h.stateDir()
		ours := plugin.Configure(block)
		must.ErrorContains(t, ours, strings.TrimPrefix(theirs.Error(), "SetConfig: "))
	}

	h := newHostNamed(t, "exec", map[string]any{"denied_host_uids": "1"})
	theirs := builtIn(t)
	must.NoError(t, theirs.Configure(map[string]any{"denied_host_uids": "1"}))
	for _, mistake := range []struct {
		user    string
		options map[string]any
	}{
		{"", map[string]any{"pid_mode": "sideways"}},
		{"", map[string]any{"ipc_mode": "sideways"}},
		{"", map[string]any{"cap_add": []string{"no_such_capability"}}},
		{"", map[string]any{"cap_drop": []string{"chown", "CAP_NONSENSE"}}},
		{"", map[string]any{"cap_add": []string{"sys_admin"}}},
		{"", map[string]any{"cap_add": []string{"NET_RAW", "CAP_SYS_PTRACE"}}},
		{"", map[string]any{"cap_add": []string{"all"}}},
		{"", map[string]any{"work_dir": "not/absolute"}},
		{"daemon", nil},
		{"no-such-user", nil},
	} {
		mistake.options = withCommand(mistake.options)
		task := h.isolated(mistake.options)
		task.User = mistake.user
		same := task.Copy()
		must.NoError(t, theirs.EncodeTask(same, mistake.options))
		_, _, expected := theirs.Driver.StartTask(same)
		must.Error(t, expected, must.Sprintf("%v", mistake))
		must.Eq(t, expected.Error(), h.refuses(task), must.Sprintf("%v", mistake))
	}
}

func withCommand(options map[string]any) map[string]any {
	all := map[string]any{"command": "/bin/sh"}
	for key, value := range options {
		all[key] = value
	}
	return all
}

func TestATaskOfExecSeesTheChrootThatTheAgentHasFilledAndNothingElse_C2(t *testing.T) {
	h := newIsolated(t, "exec", nil)
	task := h.script(`ls -d / /alloc /local /secrets /tmp /bin/sh /etc/passwd
		ls /root /work /home 2>/dev/null
		echo $NOMAD_ALLOC_DIR $NOMAD_TASK_DIR $NOMAD_SECRETS_DIR
		pwd
		echo shared > /alloc/data/made; echo own > /local/made; echo scratch > /tmp/made`)
	must.NoError(t, os.WriteFile(filepath.Join(task.TaskDir().Dir, "local", "given"), []byte("from outside\n"), 0o644))
	must.Eq(t, "/\n/alloc\n/bin/sh\n/etc/passwd\n/local\n/secrets\n/tmp\n/alloc /local /secrets\n/\n", h.tells(task))
	for path, expected := range map[string]string{
		filepath.Join(task.AllocDir, "alloc", "data", "made"): "shared\n",
		filepath.Join(task.TaskDir().Dir, "local", "made"):    "own\n",
		filepath.Join(task.TaskDir().Dir, "tmp", "made"):      "scratch\n",
	} {
		content, err := os.ReadFile(path)
		must.NoError(t, err)
		must.Eq(t, expected, string(content))
	}
}

func TestACommandIsLookedForInTheChroot(t *testing.T) {
	h := newIsolated(t, "exec", nil)
	for _, command := range []string{"/bin/cat", "cat", "local/mine"} {
		task := h.isolated(map[string]any{"command": command, "args": []string{"/etc/passwd"}})
		own := filepath.Join(task.TaskDir().Dir, "local", "mine")
		must.NoError(t, os.WriteFile(own, []byte("#!/bin/sh\nexec cat \"$@\"\n"), 0o644))
		content, err := os.ReadFile("/etc/passwd")
		must.NoError(t, err)
		must.Eq(t, string(content), h.tells(task), must.Sprint(command))
	}
}

func TestTheWorkDirOfExecIsInTheChroot(t *testing.T) {
	h := newIsolated(t, "exec", nil)
	must.Eq(t, "/local\n", h.tells(h.scriptWith("pwd", map[string]any{"work_dir": "/local"})))
	task := h.scriptWith("exec sleep 1000", map[string]any{"work_dir": "/alloc/data"})
	h.start(task)
	must.Eq(t, "/alloc/data", h.within(task, "pwd"), must.Sprint("a session"))
	h.destroy(task)
	h.refuses(h.scriptWith("true", map[string]any{"work_dir": "/home"}), "/home")
}

// mask is a set of capabilities as proc_pid_status(5) writes it.
func mask(bits uint64) string { return fmt.Sprintf("%016x", bits) }

func TestCapabilitiesOfExecAreAddedAndDropped(t *testing.T) {
	h := newIsolated(t, "exec", map[string]any{"allow_caps": []string{"chown", "kill", "net_raw"}})
	// Numbers of capabilities(7).
	const chown, kill, netRaw = 1 << 0, 1 << 5, 1 << 13
	for _, run := range []struct {
		options  map[string]any
		expected string
	}{
		{nil, mask(chown | kill)},
		{map[string]any{"cap_add": []string{"net_raw"}}, mask(chown | kill | netRaw)},
		{map[string]any{"cap_drop": []string{"chown"}}, mask(kill)},
		{map[string]any{"cap_drop": []string{"all"}, "cap_add": []string{"CAP_NET_RAW"}}, mask(netRaw)},
		{map[string]any{"cap_drop": []string{"all"}}, mask(0)},
	} {
		task := h.scriptWith("exec sleep 1000", run.options)
		h.start(task)
		main := confinementOf(h.pid(task))
		for _, set := range []string{"CapBnd", "CapPrm", "CapInh", "CapEff", "CapAmb"} {
			must.Eq(t, run.expected, main[set], must.Sprintf("%s with %v", set, run.options))
		}
		must.Eq(t, main, h.confinementWithin(task), must.Sprintf("%v", run.options))
		h.destroy(task)
	}
}

func TestExecRestrictsNeitherSystemCallsNorPrivilegesOfPrograms(t *testing.T) {
	h := newIsolated(t, "exec", nil)
	task := h.script("exec sleep 1000")
	h.start(task)
	pid := h.pid(task)
	must.Eq(t, "0", processes.Field(pid, "Seccomp"))
	must.Eq(t, "0", processes.Field(pid, "NoNewPrivs"))
	h.destroy(task)
}

func TestPathsOfTheKernelAreCoveredOrReadOnlyAsInTheBuiltIn(t *testing.T) {
	h := newIsolated(t, "exec", nil)
	task := h.script(`exec 2>&1
		if [ -e /proc/kcore ]; then wc -c < /proc/kcore; else echo 0; fi
		ls /sys/firmware | wc -l
		echo x > /proc/sys/kernel/hostname || echo refused
		touch /sys/made || echo refused
		stat -f -c %T /dev/shm
		echo x > /dev/shm/made && echo made`)
	task.User = "root"
	said := h.tells(task)
	must.StrHasPrefix(t, "0\n0\n", said)
	must.Eq(t, 2, strings.Count(said, "refused\n"), must.Sprint(said))
	must.Eq(t, 2, strings.Count(said, "Read-only file system"), must.Sprint(said))
	must.StrHasSuffix(t, "tmpfs\nmade\n", said)
}
