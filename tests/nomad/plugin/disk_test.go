package plugin

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"holdfast.test/nomad/internal/processes"
)

// freezable mounts a file system of its own on a folder. A process of its own thaws and unmounts it when the test ends, also when the
// test is killed.
func freezable(t *testing.T, folder string) (freeze func(frozen bool)) {
	t.Helper()
	asRoot(t, "mounts a file system")
	image := filepath.Join(t.TempDir(), "image")
	file, err := os.Create(image)
	must.NoError(t, err)
	must.NoError(t, file.Truncate(32<<20))
	must.NoError(t, file.Close())
	run := func(program string, arguments ...string) {
		said, err := exec.Command(program, arguments...).CombinedOutput()
		must.NoError(t, err, must.Sprintf("%s %v: %s", program, arguments, said))
	}
	run("mkfs.ext4", "-q", "-F", image)
	run("mount", "-o", "loop", image, folder)
	// It hears of the folder, rather than being called with it, lest it be taken for a process of the task.
	const keep = `read -r folder; cat; fsfreeze -u "$folder" 2>&-; umount "$folder" 2>&- || umount -l "$folder"`
	keeper := exec.Command("setsid", "sh", "-c", keep)
	pipe, err := keeper.StdinPipe()
	must.NoError(t, err)
	must.NoError(t, keeper.Start())
	_, err = pipe.Write([]byte(folder + "\n"))
	must.NoError(t, err)
	t.Cleanup(func() {
		_ = pipe.Close()
		_ = keeper.Wait()
	})
	return func(frozen bool) {
		if frozen {
			run("fsfreeze", "-f", folder)
		} else {
			run("fsfreeze", "-u", folder)
		}
	}
}

// A thread of the executor hangs in a write that not even SIGKILL ends, and so does the executor's own end.
func TestAFrozenLogDiskDelaysNeitherExecNorStopNorWait(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell(`trap 'exit 3' TERM; echo first; while :; do echo more; sleep 0.01; done`)
	logs := filepath.Dir(task.StdoutPath)
	must.NoError(t, os.MkdirAll(logs, 0o755))
	freeze := freezable(t, logs)
	h.start(task)
	h.says(task, "first\n")
	executors := h.executors()
	freeze(true)
	eventually(t, "a write that hangs", func() error { return hangs(executors) })
	result, err := h.Driver.ExecTask(task.ID, []string{"/bin/echo", "here"}, time.Minute)
	must.NoError(t, err)
	must.Eq(t, "here\n", string(result.Stdout))
	must.NoError(t, h.Driver.StopTask(task.ID, time.Minute, "SIGTERM"))
	must.Eq(t, 3, h.wait(task).ExitCode)
	must.NoError(t, hangs(executors), must.Sprint("the disk let the executor go, and nothing was shown"))
	freeze(false)
	eventually(t, "the end of the executor, which the driver has to reap", func() error {
		for _, executor := range executors {
			if state := processes.State(executor.Pid); state != "" {
				return fmt.Errorf("process %d is in state %s", executor.Pid, state)
			}
		}
		return nil
	})
	h.destroy(task)
	must.NoError(t, unix.Access(logs, unix.R_OK))
}

// hangs is nil if a thread of an executor waits without hearing signals.
func hangs(executors []processes.Process) error {
	for _, executor := range executors {
		threads, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(executor.Pid), "task", "*", "stat"))
		if err != nil {
			return err
		}
		for _, thread := range threads {
			stat, err := os.ReadFile(thread)
			if err == nil && strings.Contains(string(stat), ") D ") {
				return nil
			}
		}
	}
	return errors.New("no thread of an executor is in state D")
}
