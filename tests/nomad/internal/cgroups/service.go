package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/client/lib/cgroupslib"
)

// Service is what a service manager keeps a service in: a cgroup of its own.
type Service struct {
	// Dirs are the cgroup's, one in each hierarchy that has it.
	Dirs []string
}

// NewService makes the cgroup: on v1 where service managers have one, named and unified, and in the hierarchies of a few controllers.
// It lies below the parent of all tasks, which goes when the last test does, however that ends.
func NewService(name string) (*Service, error) {
	var roots []string
	if cgroupslib.GetMode() == cgroupslib.CG1 {
		for _, hierarchy := range []string{"systemd", "unified", "pids", "freezer"} {
			mount := filepath.Join(root, hierarchy)
			if _, err := os.Stat(filepath.Join(mount, "cgroup.procs")); err == nil {
				roots = append(roots, mount)
			}
		}
	} else {
		roots = []string{root}
	}
	service := &Service{}
	for _, mount := range roots {
		dir := filepath.Join(mount, cgroupslib.NomadCgroupParent, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("make the cgroup of a service: %w", err), service.Remove())
		}
		service.Dirs = append(service.Dirs, dir)
	}
	return service, nil
}

// Command is a shell's that moves itself into the cgroup and becomes the program.
func (s *Service) Command(program string, arguments ...string) []string {
	const script = `while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"`
	command := append([]string{"/bin/sh", "-c", script, "sh"}, s.Dirs...)
	return append(append(command, "--", program), arguments...)
}

// Processes are those in the cgroup, of whichever hierarchy.
func (s *Service) Processes() []int {
	seen := map[int]bool{}
	var pids []int
	for _, dir := range s.Dirs {
		for _, pid := range Processes(dir) {
			if !seen[pid] {
				seen[pid] = true
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Kill kills every process of the service with -9 until none is left.
func (s *Service) Kill() error {
	for range 600 {
		pids := s.Processes()
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("processes %v of the service do not die", s.Processes())
}

// Remove removes the empty cgroup.
func (s *Service) Remove() error {
	var failures []error
	for _, dir := range s.Dirs {
		if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, syscall.ENOENT) {
			failures = append(failures, fmt.Errorf("remove cgroup %s: %w", dir, err))
		}
	}
	return errors.Join(failures...)
}
