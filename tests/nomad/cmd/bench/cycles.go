package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"holdfast.test/nomad/internal/cgroups"
	"holdfast.test/nomad/internal/processes"
)

const (
	// cyclesAt is the number of starts and stops that the promise is made for.
	cyclesAt = 10_000
	// cyclesAtOnce are under way at a time.
	cyclesAtOnce = 4
	// maxGrowth of a driver's own memory from the first look, which is after a tenth, to the last: what allocators keep, and no more.
	maxGrowthKiB = 512
)

// Cycles are starts and stops one after another, each of an allocation of its own, and what they leave.
type Cycles struct {
	Count int           `json:"count"`
	Took  time.Duration `json:"took_ns"`
	Looks []Look        `json:"looks"`
}

// Look is what there is after so many cycles, when everything is at rest.
type Look struct {
	After int `json:"after"`
	// Left of the tasks: processes, cgroups in any hierarchy, mounts, and files and folders of the state directory but for the programs.
	Processes int `json:"processes"`
	Cgroups   int `json:"cgroups"`
	Mounts    int `json:"mounts"`
	Files     int `json:"files"`
	// Of the driver's process.
	Memory  processes.Memory `json:"driver_memory"`
	Open    int              `json:"driver_descriptors"`
	Threads int              `json:"driver_threads"`
}

func (l Look) left() int { return l.Processes + l.Cgroups + l.Mounts + l.Files }

// cycles start and stop as many tasks as are asked for on this side; half of a run's are isolated and on the other side.
func cycles(s *side, set settings) error {
	if s.name != "holdfast" || set.Cycles == 0 {
		return nil
	}
	count := max(set.Cycles/2, 10)
	result := Cycles{Count: count}
	known := map[string]bool{}
	done := 0
	for _, mark := range []int{count / 10, count / 2, count} {
		begin := time.Now()
		if err := cycleUntil(s, mark-done, known); err != nil {
			return err
		}
		result.Took += time.Since(begin)
		done = mark
		look, err := lookAt(s, known)
		if err != nil {
			return err
		}
		look.After = done
		result.Looks = append(result.Looks, look)
	}
	s.results.Cycles = result
	return nil
}

// cycleUntil runs so many cycles, and adds their allocations to those that are known.
func cycleUntil(s *side, count int, known map[string]bool) error {
	var lock sync.Mutex
	var failure error
	queue := make(chan struct{})
	var all sync.WaitGroup
	for range cyclesAtOnce {
		all.Go(func() {
			for range queue {
				allocID, err := cycle(s)
				lock.Lock()
				known[allocID] = true
				if err != nil && failure == nil {
					failure = err
				}
				lock.Unlock()
			}
		})
	}
	for range count {
		queue <- struct{}{}
	}
	close(queue)
	all.Wait()
	return failure
}

// cycle starts a task, stops it and gives back what the agent made for it, and nothing else.
func cycle(s *side) (allocID string, err error) {
	prepared, err := s.prepare(false)
	if err != nil {
		return "", err
	}
	id := prepared.config.ID
	if _, err := s.start(prepared); err != nil {
		return prepared.config.AllocID, fmt.Errorf("StartTask: %w", err)
	}
	if err := s.plugin.Driver.StopTask(id, bound, "SIGTERM"); err != nil {
		return prepared.config.AllocID, fmt.Errorf("StopTask: %w", err)
	}
	if err := s.plugin.Driver.DestroyTask(id, false); err != nil {
		return prepared.config.AllocID, fmt.Errorf("DestroyTask: %w", err)
	}
	s.giveBack(prepared)
	return prepared.config.AllocID, os.RemoveAll(prepared.config.AllocDir)
}

// lookAt waits until what is on its way out is gone, and counts what stays.
func lookAt(s *side, known map[string]bool) (Look, error) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		look, err := count(s, known)
		if err != nil {
			return look, err
		}
		if look.left() == 0 || time.Now().After(deadline) {
			// Threads of the driver that have nothing to do leave by themselves, with what they hold.
			time.Sleep(15 * time.Second)
			return count(s, known)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func count(s *side, known map[string]bool) (Look, error) {
	var look Look
	look.Processes = len(s.helpers(nil))
	for _, dir := range cgroups.All() {
		name := filepath.Base(dir)
		if len(name) >= len("01234567-89ab-cdef-0123-456789abcdef") && known[name[:36]] {
			look.Cgroups++
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return look, err
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, s.root) {
			look.Mounts++
		}
	}
	tasks := filepath.Join(s.root, "state", s.profile)
	err = filepath.WalkDir(tasks, func(path string, _ fs.DirEntry, err error) error {
		if path != tasks && err == nil {
			look.Files++
		}
		// What goes away meanwhile is no error.
		return nil
	})
	if err != nil {
		return look, err
	}
	if look.Memory, err = processes.MemoryOf(s.plugin.Pid()); err != nil {
		return look, err
	}
	if look.Open, err = entries(s.plugin.Pid(), "fd"); err != nil {
		return look, err
	}
	look.Threads, err = entries(s.plugin.Pid(), "task")
	return look, err
}

func entries(pid int, folder string) (int, error) {
	found, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", pid, folder))
	return len(found), err
}

// broken tells which promises these cycles did not keep.
func (c Cycles) broken(what string) []string {
	var broken []string
	if len(c.Looks) == 0 {
		return []string{"starts and stops of " + what + " were not counted"}
	}
	first, last := c.Looks[0], c.Looks[len(c.Looks)-1]
	if left := last.left(); left > 0 {
		broken = append(broken, fmt.Sprintf("%d starts and stops of %s left %d processes, %d cgroups, %d mounts, %d files",
			c.Count, what, last.Processes, last.Cgroups, last.Mounts, last.Files))
	}
	if last.Memory.Private > first.Memory.Private+maxGrowthKiB {
		broken = append(broken, fmt.Sprintf("the driver of %s grew from %d to %d KiB between %d and %d starts and stops",
			what, first.Memory.Private, last.Memory.Private, first.After, last.After))
	}
	if last.Open > first.Open {
		broken = append(broken, fmt.Sprintf("the driver of %s had %d descriptors after %d starts and stops, and %d after %d",
			what, first.Open, first.After, last.Open, last.After))
	}
	return broken
}
