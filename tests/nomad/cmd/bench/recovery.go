package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// recoveredAt is the number of tasks that the promise about recovery is made for, and maxRecovery the promise: from kill -9 of the
	// driver until the next one has every task.
	recoveredAt = 1000
	maxRecovery = time.Second
	// recoveryRounds are measured; the median is told.
	recoveryRounds = 5
	// nomadTaskMiB is what a task of Nomad's raw_exec takes of the memory, its executor above all, with room to spare.
	nomadTaskMiB = 40
)

// Recovery is what it takes until a new driver has the tasks of one that was killed.
type Recovery struct {
	Tasks int `json:"tasks"`
	// Relaunch is from kill -9 until another plugin process is configured.
	Relaunch time.Duration `json:"relaunch_ns"`
	// Together is RecoverTask of all at once: so does the agent when the driver dies under it.
	Together time.Duration `json:"together_ns"`
	// InTurn is one after another: so does the agent when it comes back itself.
	InTurn time.Duration `json:"in_turn_ns"`
}

// all is how long the tasks were without a driver.
func (r Recovery) all() time.Duration { return r.Relaunch + r.Together }

// each is what one task takes of Together.
func (r Recovery) each() time.Duration {
	if r.Tasks == 0 {
		return 0
	}
	return r.Together / time.Duration(r.Tasks)
}

// recovery measures many tasks at once. Of Nomad's as many as are asked for and fit into half of what memory is free.
func recovery(s *side, set settings) error {
	count := set.Recovered
	if s.name != "holdfast" {
		free, err := availableMiB()
		if err != nil {
			return err
		}
		count = min(count, set.RecoveredNomad, free/2/nomadTaskMiB)
	}
	if count == 0 {
		return nil
	}
	tasks, err := startAtOnce(s, count)
	if err != nil {
		return err
	}
	pids := make([]string, count)
	for at, task := range tasks {
		if pids[at], err = s.pid(task); err != nil {
			return err
		}
	}
	recover := func(task *task) error {
		if err := s.plugin.Driver.RecoverTask(task.handle); err != nil {
			return fmt.Errorf("RecoverTask: %w", err)
		}
		return nil
	}
	var relaunches, together, inTurn []time.Duration
	for round := range recoveryRounds + 1 {
		before := time.Now()
		if err := s.relaunch(); err != nil {
			return err
		}
		relaunched := time.Now()
		if round == recoveryRounds {
			for _, task := range tasks {
				if err := recover(task); err != nil {
					return err
				}
			}
			inTurn = append(inTurn, time.Since(relaunched))
		} else {
			failures := make([]error, count)
			var all sync.WaitGroup
			for at, task := range tasks {
				all.Go(func() { failures[at] = recover(task) })
			}
			all.Wait()
			together = append(together, time.Since(relaunched))
			relaunches = append(relaunches, relaunched.Sub(before))
			if err := errors.Join(failures...); err != nil {
				return err
			}
		}
		for at, task := range tasks {
			// Recovered is who runs on as the same process.
			if pid, err := s.pid(task); err != nil || pid != pids[at] {
				return fmt.Errorf("task %s of pid %s is pid %q after its recovery: %w", task.config.ID, pids[at], pid, err)
			}
		}
	}
	s.results.Recovery = Recovery{count, median(relaunches), median(together), median(inTurn)}
	return s.destroy(tasks)
}

// startAtOnce starts tasks, some at a time: how long it takes is measured elsewhere.
func startAtOnce(s *side, count int) ([]*task, error) {
	tasks := make([]*task, count)
	for at := range tasks {
		prepared, err := s.prepare(false)
		if err != nil {
			return nil, err
		}
		tasks[at] = prepared
	}
	failures := make([]error, count)
	slots := make(chan struct{}, 8)
	var all sync.WaitGroup
	for at, task := range tasks {
		slots <- struct{}{}
		all.Go(func() {
			_, failures[at] = s.start(task)
			<-slots
		})
	}
	all.Wait()
	return tasks, errors.Join(failures...)
}

// pid of a running task's main process, as its driver tells it.
func (s *side) pid(task *task) (string, error) {
	status, err := s.plugin.Driver.InspectTask(task.config.ID)
	if err != nil {
		return "", fmt.Errorf("InspectTask: %w", err)
	}
	return status.DriverAttributes["pid"], nil
}

func median(samples []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[len(sorted)/2]
}

// availableMiB is what could be used without swapping (proc_meminfo(5)).
func availableMiB() (int, error) {
	content, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(content), "\n") {
		var kib int
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); err == nil {
			return kib / 1024, nil
		}
	}
	return 0, errors.New("/proc/meminfo does not tell how much memory is available")
}
