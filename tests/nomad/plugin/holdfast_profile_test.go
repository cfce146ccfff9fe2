// The profile `holdfast`: a root that the driver makes without copying anything.
package plugin

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"
	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"holdfast.test/nomad/internal/chroot"
	"holdfast.test/nomad/internal/processes"
)

func TestCapabilitiesOfHoldfastAreThoseOfAnImage_C1_C2_C3_C4_C5(t *testing.T) {
	t.Parallel()
	h := newHostNamed(t, "holdfast", nil)
	answer, err := h.Raw.Capabilities(context.Background(), &proto.CapabilitiesRequest{})
	must.NoError(t, err)
	told := answer.Capabilities
	must.Eq(t, fsisolation.Image, h.Capabilities.FSIsolation)
	must.Eq(t, proto.DriverCapabilities_IMAGE, told.FsIsolation)
	must.Eq(t, proto.DriverCapabilities_UNKNOWN_MOUNTS, told.MountConfigs)
	must.Eq(t, []proto.NetworkIsolationSpec_NetworkIsolationMode{
		proto.NetworkIsolationSpec_HOST, proto.NetworkIsolationSpec_GROUP, proto.NetworkIsolationSpec_NONE,
	}, told.NetworkIsolationModes)
	must.True(t, told.SendSignals && told.Exec && told.DisableLogCollection)
	must.False(t, told.MustCreateNetwork || told.DynamicWorkloadUsers)
}

func TestWhatAnOperatorTurnsOnIsAnnounced_C1(t *testing.T) {
	t.Parallel()
	h := newHostNamed(t, "holdfast", map[string]any{
		"create_network": true, "dynamic_users": true, "log_collection": "agent",
	})
	must.True(t, h.Capabilities.MustInitiateNetwork)
	must.True(t, h.Capabilities.DynamicWorkloadUsers)
	must.False(t, h.Capabilities.DisableLogCollection)
}

// tree lists what is in a folder with sizes, but for logs.
func tree(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	found := map[string]int64{}
	must.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.Name() == "logs" {
			return fs.SkipDir
		}
		info, err := entry.Info()
		if err == nil && !entry.IsDir() {
			found[path] = info.Size()
		} else {
			found[path] = 0
		}
		return err
	}))
	return found
}

func TestTheViewOfTheHostUsesNoDiskAndCannotBeWritten(t *testing.T) {
	h := newIsolated(t, "holdfast", map[string]any{"allow_root": true})
	task := h.script(`exec 2>&1
		for folder in / /usr /etc /bin; do touch $folder/made || echo refused; done
		wc -c < /etc/shadow
		ls /usr/bin/env && echo seen
		ls /work /home /root || echo none
		echo ready; exec sleep 1000`)
	task.User = "root"
	before := tree(t, task.AllocDir)
	h.start(task)
	h.says(task, "ready\n")
	said := output(task, "stdout")
	must.Eq(t, 4, strings.Count(said, "Read-only file system"), must.Sprint(said))
	must.Eq(t, 4, strings.Count(said, "refused\n"), must.Sprint(said))
	must.StrContains(t, said, "\n0\n/usr/bin/env\nseen\n")
	must.StrContains(t, said, "none\n")
	must.Eq(t, before, tree(t, task.AllocDir), must.Sprint("something was copied"))
	supervision := tree(t, h.supervisionDirs()[0])
	for path, size := range supervision {
		must.Less(t, 64<<10, size, must.Sprint(path))
	}
	h.destroy(task)
}

func TestTheTasksOwnFoldersAreThereAndTheLogsCannotBeWritten_C2(t *testing.T) {
	h := newIsolated(t, "holdfast", nil)
	task := h.script(`exec 2>&1
		echo $NOMAD_ALLOC_DIR $NOMAD_TASK_DIR $NOMAD_SECRETS_DIR
		echo shared > /alloc/data/made; echo own > /local/made; echo secret > /secrets/made; echo scratch > /tmp/made
		touch /alloc/logs/made || echo refused
		stat -c %a /tmp; touch /run/made /var/tmp/made && echo made`)
	said := h.tells(task)
	must.StrHasPrefix(t, "/alloc /local /secrets\n", said)
	must.StrContains(t, said, "refused\n")
	must.StrHasSuffix(t, "777\nmade\n", strings.ReplaceAll(said, "1777\n", "777\n"))
	dir := task.TaskDir().Dir
	for path, expected := range map[string]string{
		filepath.Join(task.AllocDir, "alloc", "data", "made"): "shared\n",
		filepath.Join(dir, "local", "made"):                   "own\n",
		filepath.Join(dir, "secrets", "made"):                 "secret\n",
		filepath.Join(dir, "tmp", "made"):                     "scratch\n",
	} {
		content, err := os.ReadFile(path)
		must.NoError(t, err)
		must.Eq(t, expected, string(content))
	}
	_, err := os.Lstat(filepath.Join(task.AllocDir, "alloc", "logs", "made"))
	must.ErrorIs(t, err, os.ErrNotExist)
	_, err = os.Lstat("/tmp/made")
	must.ErrorIs(t, err, os.ErrNotExist)
}

func TestPathAndHomeAreSetWhereTheAgentSaysNothing(t *testing.T) {
	h := newIsolated(t, "holdfast", nil)
	task := h.script(`test -d "$HOME" && echo home; echo $USER; command -v sleep`)
	said := h.tells(task)
	must.RegexMatch(t, regexp.MustCompile(`^home\nnobody\n/.*/sleep\n$`), said)
	task = h.script("echo $PATH $HOME")
	task.Env["PATH"], task.Env["HOME"] = "/of/the/job:/bin", "/local"
	must.Eq(t, "/of/the/job:/bin /local\n", h.tells(task))
}

func TestRootNeedsTheOperatorsWord(t *testing.T) {
	h := newIsolated(t, "holdfast", nil)
	for _, user := range []string{"root", "0", "root:nogroup"} {
		task := h.script("true")
		task.User = user
		h.refuses(task, "allow_root")
	}
	h.refuses(h.scriptWith("true", map[string]any{"no_new_privileges": false}), "allow_root")
	h.refuses(h.scriptWith("true", map[string]any{"seccomp": "unconfined"}), "allow_seccomp_unconfined")

	allowed := newHostNamed(t, "holdfast", map[string]any{"allow_root": true})
	task := allowed.script("id -u")
	task.User = "root"
	must.Eq(t, "0\n", allowed.tells(task))
}

func TestSystemCallsAndPrivilegesOfProgramsAreRestrictedInSessionsToo(t *testing.T) {
	h := newIsolated(t, "holdfast", nil)
	task := h.script("exec sleep 1000")
	h.start(task)
	pid := h.pid(task)
	// SECCOMP_MODE_FILTER.
	must.Eq(t, "2", processes.Field(pid, "Seccomp"))
	must.Eq(t, "1", processes.Field(pid, "NoNewPrivs"))
	must.Eq(t, mask(0), processes.Field(pid, "CapEff"))
	must.Eq(t, confinementOf(pid), h.confinementWithin(task))
	h.destroy(task)
}

func TestAMinimalRootHoldsWhatTheJobPutsIntoIt(t *testing.T) {
	h := newIsolated(t, "holdfast", map[string]any{"allowed_host_paths": []string{"/usr"}})
	mounts := []map[string]any{{"source": "/usr", "target": "/usr", "readonly": true}}
	for _, link := range []string{"/bin", "/lib", "/lib64"} {
		real, err := filepath.EvalSymlinks(link)
		if err == nil && strings.HasPrefix(real, "/usr/") {
			mounts = append(mounts, map[string]any{"source": real, "target": link, "readonly": true})
		}
	}
	task := h.scriptWith("ls /; ls /etc; touch /made 2>/dev/null || echo refused", map[string]any{"rootfs": "minimal", "mount": mounts})
	said := h.tells(task)
	for _, name := range []string{"alloc", "bin", "dev", "local", "proc", "secrets", "tmp", "usr", "passwd"} {
		must.StrContains(t, said, name+"\n")
	}
	for _, name := range []string{"home", "root", "shadow", "opt"} {
		must.StrNotContains(t, said, "\n"+name+"\n")
	}
	must.StrHasSuffix(t, "refused\n", said)

	h.refuses(h.scriptWith("true", map[string]any{"rootfs": "minimal", "mount": []map[string]any{
		{"source": "/etc", "target": "/etc/of-the-host"},
	}}), "/etc", "allowed_host_paths")
}

// filled is a folder that can be a root, with the programs of these tests.
func (h *host) filled() string {
	h.t.Helper()
	entries, err := chroot.Env()
	must.NoError(h.t, err)
	root := filepath.Join(h.root, "filled")
	for source, target := range entries {
		content, err := os.ReadFile(source)
		must.NoError(h.t, err)
		target = filepath.Join(root, target)
		must.NoError(h.t, os.MkdirAll(filepath.Dir(target), 0o755))
		must.NoError(h.t, os.WriteFile(target, content, 0o755))
	}
	must.NoError(h.t, os.WriteFile(filepath.Join(root, "marker"), []byte("of the folder\n"), 0o644))
	return root
}

func TestAFolderAsRootIsSharedAndStaysAsItIs(t *testing.T) {
	h := newIsolated(t, "holdfast", map[string]any{"allow_root": true, "allowed_host_paths": []string{"/tmp"}})
	root := h.filled()
	before := tree(t, root)
	const script = "cat /marker; echo changed > /marker; echo made > /made; cat /marker /made; exec sleep 1000"
	for range 2 {
		task := h.scriptWith(script, map[string]any{"rootfs": root})
		task.User = "root"
		h.start(task)
		h.says(task, "of the folder\nchanged\nmade\n")
		must.Eq(t, "changed", h.within(task, "cat /marker"), must.Sprint("a session sees another tree"))
		must.Eq(t, before, tree(t, root))
		h.destroy(task)
	}
	task := h.scriptWith("touch /made 2>&1 || echo refused", map[string]any{"rootfs": root, "readonly_rootfs": true})
	task.User = "root"
	must.StrHasSuffix(t, "refused\n", h.tells(task))
	h.refuses(h.scriptWith("true", map[string]any{"rootfs": "/var"}), "/var", "allowed_host_paths")
	h.refuses(h.scriptWith("true", map[string]any{"rootfs": filepath.Join(h.root, "nowhere")}), "nowhere")
}

func TestWhatAJobPutsIntoItsTreeIsThere(t *testing.T) {
	h := newIsolated(t, "holdfast", map[string]any{"allowed_host_paths": []string{"/tmp", "/dev/zero"}})
	shared := filepath.Join(h.root, "shared")
	must.NoError(t, os.Mkdir(shared, 0o777))
	must.NoError(t, os.Chmod(shared, 0o777))
	task := h.scriptWith(`exec 2>&1
		stat -f -c %T /run/fast /var/scratch /dev/shm
		stat -c %a /run/fast
		stat -f -c '%b %S' /run/fast /dev/shm
		echo x > /srv/rw/made && echo written
		echo x > /srv/ro/made || echo refused
		head -c 2 /dev/nothing | wc -c`, map[string]any{
		"tmpfs":    []string{"/run/fast:size=1048576,mode=1750"},
		"shm_size": 8 << 20,
		"mount": []map[string]any{
			{"type": "tmpfs", "target": "/var/scratch", "size": "1m"},
			{"type": "bind", "source": shared, "target": "/srv/rw"},
			{"source": shared, "target": "/srv/ro", "readonly": true},
		},
		"devices": []map[string]any{{"host_path": "/dev/zero", "container_path": "/dev/nothing", "cgroup_permissions": "r"}},
	})
	said := h.tells(task)
	must.StrHasPrefix(t, "tmpfs\ntmpfs\ntmpfs\n1750\n256 4096\n2048 4096\nwritten\n", said)
	must.StrHasSuffix(t, "Read-only file system\nrefused\n2\n", said)
	h.refuses(h.scriptWith("true", map[string]any{
		"devices": []map[string]any{{"host_path": "/dev/kmsg"}},
	}), "/dev/kmsg", "allowed_host_paths")
}

func TestACommandIsLookedForInTheView(t *testing.T) {
	h := newIsolated(t, "holdfast", nil)
	must.Eq(t, "found\n", h.tells(h.isolated(map[string]any{"command": "echo", "args": []string{"found"}})))
	task := h.isolated(map[string]any{"command": "local/mine"})
	own := filepath.Join(task.TaskDir().Dir, "local", "mine")
	must.NoError(t, os.WriteFile(own, []byte("#!/bin/sh\npwd\n"), 0o644))
	// As a task of exec starts.
	must.Eq(t, "/\n", h.tells(task))
	// On the host, and not in the view.
	hidden := filepath.Join(h.root, "hidden")
	must.NoError(t, os.WriteFile(hidden, []byte("#!/bin/sh\n"), 0o755))
	h.refuses(h.isolated(map[string]any{"command": hidden}), hidden)
}

func TestOneTaskCannotSeeOrSignalAnother(t *testing.T) {
	h := newIsolated(t, "holdfast", nil)
	other := h.script("exec sleep 1000")
	h.start(other)
	pid := h.pid(other)
	task := h.script("kill -9 " + itoa(pid) + " 2>&1 || echo refused; ls " + other.AllocDir + " 2>/dev/null || echo unseen")
	said := h.tells(task)
	must.StrHasSuffix(t, "refused\nunseen\n", said)
	must.True(t, processes.Alive(pid))
	must.NoError(t, h.Driver.StopTask(other.ID, patience, "SIGTERM"))
	must.Eq(t, int(syscall.SIGTERM), h.wait(other).Signal)
	h.destroy(other)
}
