// Log files, written by the driver because it announces that it collects output itself: invariants L.
package plugin

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/hashicorp/nomad/plugins/drivers"
)

const fileSize = 10 << 20

func TestOutputIsRotatedAtALineAndKeptWhole_L1_L2_L3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	// 25 MB in lines whose length divides nothing.
	task := h.run("seq -f 'a line that is numbered %.0f' 1 850000")
	must.True(t, h.wait(task).Successful())

	files := logFiles(task, "stdout")
	must.Greater(t, 1, len(files), must.Sprintf("files: %v", files))
	whole := sha256.New()
	for number, file := range files {
		must.Eq(t, number, logNumber(file))
		info, err := os.Stat(file)
		must.NoError(t, err)
		must.Eq(t, 0o644, info.Mode().Perm(), must.Sprintf("mode of %s", file))
		must.LessEq(t, fileSize, info.Size(), must.Sprintf("size of %s", file))
		content, err := os.ReadFile(file)
		must.NoError(t, err)
		must.Positive(t, len(content), must.Sprintf("%s is empty", file))
		must.Eq(t, '\n', rune(content[len(content)-1]), must.Sprintf("%s ends within a line", file))
		whole.Write(content)
	}
	expected := sha256.New()
	for number := 1; number <= 850000; number++ {
		fmt.Fprintf(expected, "a line that is numbered %d\n", number)
	}
	must.Eq(t, expected.Sum(nil), whole.Sum(nil), must.Sprint("the output is not what was written"))
	must.Eq(t, "", output(task, "stderr"))
	h.destroy(task)
	must.SliceNotEmpty(t, logFiles(task, "stdout"), must.Sprint("the logs are the allocation's, not the task's"))
}

func TestTheOldestFilesAreRemovedBeyondTheLimit_L0_L1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	// Nomad's default, 10 files of 10 MB, is the driver's; 125 MB.
	task := h.run("yes 'a line of some length, so that there are not too many of them' | head -c 125000000")
	must.True(t, h.wait(task).Successful())
	files := logFiles(task, "stdout")
	must.LessEq(t, 10, len(files), must.Sprintf("files: %v", files))
	must.Greater(t, 0, logNumber(files[0]), must.Sprintf("files: %v", files))
	for at, file := range files {
		must.Eq(t, logNumber(files[0])+at, logNumber(file), must.Sprint("a gap in the numbers"))
	}
	h.destroy(task)
}

func TestTheNextRunContinuesTheFiles_L4(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	first := h.run("echo first")
	h.wait(first)
	h.destroy(first)
	second := *first
	second.ID = taskID(first.AllocID)
	must.NoError(t, h.EncodeTask(&second, map[string]any{"command": "/bin/echo", "args": []string{"second"}}))
	h.start(&second)
	h.wait(&second)
	must.Eq(t, "first\nsecond\n", output(&second, "stdout"))
	h.destroy(&second)
}

func TestTheHighestNumberIsContinued_L4(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("echo more")
	logs := filepath.Dir(task.StdoutPath)
	must.NoError(t, os.WriteFile(filepath.Join(logs, "main.stdout.7"), []byte("before\n"), 0o644))
	h.start(task)
	h.wait(task)
	must.Eq(t, "before\nmore\n", output(task, "stdout"))
	for _, file := range logFiles(task, "stdout") {
		must.GreaterEq(t, 7, logNumber(file))
	}
	h.destroy(task)
}

func TestOutputGoesOnAfterTheDriverIsReplaced_L4_L5(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done")
	handle := h.start(task)
	h.says(task, "line 5\n")
	h.relaunch()
	must.NoError(t, h.Driver.RecoverTask(handle))
	h.says(task, "line 60\n")
	must.NoError(t, h.Driver.StopTask(task.ID, patience, "SIGTERM"))
	lines := 0
	got := output(task, "stdout")
	for got != "" {
		var number int
		_, err := fmt.Sscanf(got, "line %d\n", &number)
		must.NoError(t, err, must.Sprintf("rest: %q", got))
		lines++
		must.Eq(t, lines, number, must.Sprint("a line is missing or there twice"))
		got = got[len(fmt.Sprintf("line %d\n", number)):]
	}
	must.GreaterEq(t, 60, lines)
	h.destroy(task)
}

func TestALineIsThereWhileTheTaskRuns_L5(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("printf 'no newline yet'; sleep 1000")
	h.says(task, "no newline yet")
	h.destroy(task)
}

func TestDisabledLogsAreHonoured_L6(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("readlink /proc/self/fd/1 > target; head -c 3000000 /dev/zero; echo lost >&2")
	task.StdoutPath, task.StderrPath = os.DevNull, os.DevNull
	h.start(task)
	must.True(t, h.wait(task).Successful())
	for _, stream := range []string{"stdout", "stderr"} {
		must.SliceEmpty(t, logFiles(task, stream))
	}
	entries, err := os.ReadDir(filepath.Join(task.AllocDir, "alloc", "logs"))
	must.NoError(t, err)
	must.SliceEmpty(t, entries)
	h.destroy(task)
}

func TestOneDisabledStreamLeavesTheOther_L6(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("echo kept; echo lost >&2")
	task.StderrPath = os.DevNull
	h.start(task)
	h.wait(task)
	must.Eq(t, []string{"main.stdout.0"}, listing(t, filepath.Dir(task.StdoutPath)))
	content, err := os.ReadFile(filepath.Join(filepath.Dir(task.StdoutPath), "main.stdout.0"))
	must.NoError(t, err)
	must.Eq(t, "kept\n", string(content))
	h.destroy(task)
}

func TestNoFIFOIsLeftWhereTheAgentNamesOne_L0(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("echo x")
	h.wait(task)
	for _, path := range []string{task.StdoutPath, task.StderrPath} {
		_, err := os.Lstat(path)
		must.ErrorIs(t, err, os.ErrNotExist, must.Sprintf("%s", path))
	}
	h.destroy(task)
}

func TestASymlinkInTheLogsIsNotFollowed_U1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("echo overwritten")
	target := filepath.Join(h.root, "precious")
	must.NoError(t, os.WriteFile(target, []byte("precious\n"), 0o644))
	must.NoError(t, os.Symlink(target, filepath.Join(filepath.Dir(task.StdoutPath), "main.stdout.0")))
	if _, _, err := h.Driver.StartTask(task); err == nil {
		h.wait(task)
	}
	content, err := os.ReadFile(target)
	must.NoError(t, err)
	must.Eq(t, "precious\n", string(content))
	h.destroy(task)
}

func TestManyTasksWriteAtOnce_L1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var tasks []*drivers.TaskConfig
	for range 8 {
		tasks = append(tasks, h.run("seq 1 100000"))
	}
	for _, task := range tasks {
		must.True(t, h.wait(task).Successful())
		must.Eq(t, 588895, len(output(task, "stdout")))
		h.destroy(task)
	}
}

// listing lists a directory, hidden entries included.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must.NoError(t, err)
	var listed []string
	for _, entry := range entries {
		listed = append(listed, entry.Name())
	}
	return listed
}
