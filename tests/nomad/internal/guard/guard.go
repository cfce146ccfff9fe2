// Package guard makes sure that nothing outlives a run of tests, however it ends: a process of its own waits for the end of the
// test process, also by a panic, a timeout or kill -9, and then removes what is left.
package guard

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast.test/nomad/internal/cgroups"
	"holdfast.test/nomad/internal/processes"
)

// variable tells the guard from the tests: they are one executable.
const variable = "HOLDFAST_TEST_GUARD"

// root is this run's directory; every test makes its own below it.
var root string

// Run runs a package's tests under a guard. To be called first in TestMain.
func Run(m *testing.M) int {
	if os.Getenv(variable) != "" {
		return watch()
	}
	end, err := start()
	if err != nil {
		fmt.Fprintf(os.Stderr, "start the guard of the tests: %v\n", err)
		return 1
	}
	code := m.Run()
	if err := end(); err != nil {
		fmt.Fprintf(os.Stderr, "the guard of the tests: %v\n", err)
		code = max(code, 1)
	}
	return code
}

// Dir makes a directory for one test. Its name is short, unlike that of testing.T's: socket paths have 107 bytes.
func Dir() (string, error) {
	dir, err := os.MkdirTemp(root, "")
	if err != nil {
		return "", err
	}
	// Tasks of other users must reach their directories.
	return dir, os.Chmod(dir, 0o755)
}

// start launches the guard and gives it this run's directory. The returned function ends both.
func start() (end func() error, err error) {
	if root, err = os.MkdirTemp("", "hf-"); err != nil {
		return nil, err
	}
	if err := os.Chmod(root, 0o755); err != nil {
		return nil, err
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.Command(executable)
	command.Env = append(os.Environ(), variable+"=1")
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// Not in the environment or the arguments: the guard looks for processes that mention the directory.
	orders, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	answers, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintln(orders, root); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(answers)
	if line, err := lines.ReadString('\n'); err != nil || line != "ready\n" {
		return nil, fmt.Errorf("it says %q: %w", line, errors.Join(err, command.Wait()))
	}
	return func() error {
		_ = orders.Close()
		said, _ := io.ReadAll(lines)
		if err := command.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, said)
		}
		return nil
	}, nil
}

// watch is the guard's own life.
func watch() int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	orders := bufio.NewReader(os.Stdin)
	line, err := orders.ReadString('\n')
	dir := strings.TrimSpace(line)
	if err != nil || !filepath.IsAbs(dir) {
		fmt.Printf("no directory to guard: %q\n", line)
		return 1
	}
	release, err := cgroups.Claim()
	if err != nil {
		fmt.Printf("prepare cgroups as the agent does: %v\n", err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, orders)

	processes.KillHolding(dir)
	for _, allocation := range allocations(dir) {
		processes.KillHolding(allocation)
		for _, cgroup := range cgroups.Of(allocation) {
			cgroups.RemoveTree(cgroup)
		}
	}
	release()
	if err := RemoveAll(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// allocations lists the ids of the allocations that were made below a directory: each has a folder of its name.
func allocations(dir string) []string {
	var ids []string
	for _, pattern := range []string{"*/alloc/*-*-*-*-*", "*/*/alloc/*-*-*-*-*"} {
		found, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, path := range found {
			ids = append(ids, filepath.Base(path))
		}
	}
	return ids
}

// RemoveAll removes a directory with what is mounted below it.
func RemoveAll(dir string) error {
	var failures []error
	for _, mount := range MountsBelow(dir) {
		if err := syscall.Unmount(mount, syscall.MNT_DETACH); err != nil {
			failures = append(failures, fmt.Errorf("unmount %s: %w", mount, err))
		}
	}
	return errors.Join(append(failures, os.RemoveAll(dir))...)
}

// MountsBelow lists mount points below a directory, the deepest first.
func MountsBelow(dir string) []string {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer file.Close()
	var found []string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			found = append([]string{fields[4]}, found...)
		}
	}
	return found
}
