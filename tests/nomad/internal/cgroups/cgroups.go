// Package cgroups does what the agent does with cgroups before a driver is called: the parent for all tasks, and a scope for
// each. It leaves the host as it found it.
package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"github.com/hashicorp/nomad/client/lib/cgroupslib"
	"github.com/hashicorp/nomad/client/lib/idset"
	"github.com/hashicorp/nomad/client/lib/numalib/hw"
)

const root = "/sys/fs/cgroup"

// lockFile is shared by every process that uses the parent cgroup: the first one notes whether it was there before, the last one
// removes it if it was not.
const lockFile = "holdfast-tests-cgroups.lock"

const absent = "absent"

// Available says whether the agent would use cgroups on this host at all.
func Available() bool {
	return cgroupslib.GetMode() != cgroupslib.OFF
}

// Claim makes the parent cgroups that the agent makes at its start. The returned function gives them back.
func Claim() (release func(), err error) {
	if !Available() {
		return func() {}, nil
	}
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	fd := int(lock.Fd())
	if syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		before := absent
		if len(parents()) > 0 {
			before = "present"
		}
		if err := lock.Truncate(0); err != nil {
			return nil, err
		}
		if _, err := lock.WriteAt([]byte(before), 0); err != nil {
			return nil, err
		}
	}
	if err := syscall.Flock(fd, syscall.LOCK_SH); err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	cores, err := allCores()
	if err != nil {
		return nil, err
	}
	if err := cgroupslib.Init(hclog.NewNullLogger(), cores); err != nil {
		return nil, err
	}
	// As the agent does before each task: without CPUs nobody can enter the partition of all tasks (v1).
	partition := cgroupslib.GetPartition(hclog.NewNullLogger(), idset.Parse[hw.CoreID](cores))
	if err := partition.Reserve(idset.Empty[hw.CoreID]()); err != nil {
		return nil, err
	}
	return func() {
		defer lock.Close()
		if syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			return
		}
		before := make([]byte, len(absent))
		if n, _ := lock.ReadAt(before, 0); string(before[:n]) == absent {
			for _, parent := range parents() {
				RemoveTree(parent)
			}
		}
	}, nil
}

// Task is the scope of one task.
type Task struct {
	lifecycle cgroupslib.Lifecycle
	allocID   string
	// Path is what the agent passes as the task's `cpuset_cgroup`.
	Path string
}

// NewTask makes the cgroups that the agent makes before it starts a task.
func NewTask(allocID, task string) (*Task, error) {
	if !Available() {
		return &Task{allocID: allocID}, nil
	}
	lifecycle := cgroupslib.Factory(allocID, task, false)
	if err := lifecycle.Setup(); err != nil {
		return nil, fmt.Errorf("make the cgroups of %s.%s: %w", allocID, task, err)
	}
	return &Task{lifecycle, allocID, cgroupslib.LinuxResourcesPath(allocID, task, false)}, nil
}

// Remove kills what is left in the scope and removes every cgroup of the allocation, the driver's own included.
func (t *Task) Remove() {
	if t.lifecycle == nil {
		return
	}
	_ = t.lifecycle.Kill()
	_ = t.lifecycle.Teardown()
	for _, dir := range Of(t.allocID) {
		RemoveTree(dir)
	}
}

// GiveBack removes what NewTask made, as the agent does when the task is destroyed, and leaves what the driver made.
func (t *Task) GiveBack() {
	if t.lifecycle == nil {
		return
	}
	_ = t.lifecycle.Kill()
	_ = t.lifecycle.Teardown()
}

// All lists every cgroup below those in which all tasks of the agent lie.
func All() []string {
	var found []string
	for _, parent := range parents() {
		_ = filepath.WalkDir(parent, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() && path != parent {
				found = append(found, path)
			}
			return nil
		})
	}
	return found
}

// Of lists the cgroups of an allocation in every hierarchy, with their children.
func Of(allocID string) []string {
	var found []string
	for _, parent := range parents() {
		_ = filepath.WalkDir(parent, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() && strings.Contains(path, allocID) {
				found = append(found, path)
			}
			return nil
		})
	}
	sort.Strings(found)
	return found
}

// Processes lists the pids in a cgroup, without its children's.
func Processes(dir string) []int {
	content, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, field := range strings.Fields(string(content)) {
		var pid int
		if _, err := fmt.Sscan(field, &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Scope is the directory of a task in the hierarchy of one controller (v1), or its only directory (v2).
func Scope(controller, allocID, task string) string {
	if cgroupslib.GetMode() == cgroupslib.CG1 {
		return filepath.Join(root, controller, cgroupslib.NomadCgroupParent, cgroupslib.ScopeCG1(allocID, task))
	}
	return cgroupslib.LinuxResourcesPath(allocID, task, false)
}

// RemoveTree removes a cgroup with its children. A cgroup that still has processes stays.
func RemoveTree(dir string) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	for _, entry := range entries {
		if entry.IsDir() {
			RemoveTree(filepath.Join(dir, entry.Name()))
		}
	}
	_ = syscall.Rmdir(dir)
}

// parents lists the cgroups below which all tasks of the agent lie: one per mounted hierarchy.
func parents() []string {
	pattern := filepath.Join(root, cgroupslib.NomadCgroupParent)
	if cgroupslib.GetMode() == cgroupslib.CG1 {
		pattern = filepath.Join(root, "*", cgroupslib.NomadCgroupParent)
	}
	found, _ := filepath.Glob(pattern)
	return found
}

func allCores() (string, error) {
	for _, file := range []string{"cpuset/cpuset.cpus", "cpuset.cpus.effective"} {
		if content, err := os.ReadFile(filepath.Join(root, file)); err == nil {
			return strings.TrimSpace(string(content)), nil
		}
	}
	return "", fmt.Errorf("no list of cores below %s", root)
}
