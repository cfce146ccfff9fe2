package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"holdfast.test/nomad/internal/cgroups"
	"holdfast.test/nomad/internal/processes"
)

// step is measured on both sides before the next.
type step struct {
	name    string
	measure func(*side, settings) error
}

// steps of the drivers that do not isolate.
var steps = []step{
	{"warm up", warmUp},
	{"StartTask back to back, one at a time", func(s *side, set settings) error {
		return startMany(s, set.Starts, 1, 0, &s.results.Start1)
	}},
	{"StartTask back to back, eight at a time", func(s *side, set settings) error {
		return startMany(s, set.Starts, 8, 0, &s.results.Start8)
	}},
	{"StartTask spaced, one at a time", func(s *side, set settings) error {
		return startMany(s, set.Spaced, 1, set.Gap, &s.results.Spaced1)
	}},
	{"StartTask spaced, eight at a time", func(s *side, set settings) error {
		return startMany(s, set.Spaced, 8, set.Gap, &s.results.Spaced8)
	}},
	{"calls on a task", callsOnATask},
	{"StopTask", stops},
	{"output", output},
	{"memory of living tasks, RecoverTask", livingTasks},
	{"CPU time of sampling", sampling},
	{"recovery of many tasks", recovery},
	{"starts and stops", cycles},
	{"what is left", leftovers},
}

// isolatedSteps are those of the drivers that do.
var isolatedSteps = []step{
	{"isolated: warm up", warmUp},
	{"isolated: StartTask back to back, one at a time", func(s *side, set settings) error {
		return startMany(s, set.Starts, 1, 0, &s.results.Start1)
	}},
	{"isolated: StartTask spaced, one at a time", func(s *side, set settings) error {
		return startMany(s, set.Spaced, 1, set.Gap, &s.results.Spaced1)
	}},
	{"isolated: calls on a task", callsOnATask},
	{"isolated: StopTask", stops},
	{"isolated: starts and stops", cycles},
	{"isolated: what is left", leftovers},
}

// isolatedGrace is how long a stop waits in the drivers that isolate: in Nomad's, a program without a handler never hears the signal.
const isolatedGrace = 5 * time.Second

func warmUp(s *side, _ settings) error {
	var ignored Times
	return startMany(s, 2, 1, 0, &ignored)
}

// startMany times StartTask of tasks that are prepared before and destroyed after.
func startMany(s *side, count, workers int, gap time.Duration, times *Times) error {
	tasks := make([]*task, count)
	for at := range tasks {
		prepared, err := s.prepare(false)
		if err != nil {
			return err
		}
		tasks[at] = prepared
	}
	var lock sync.Mutex
	var samples []time.Duration
	var failure error
	queue := make(chan *task)
	var all sync.WaitGroup
	for range workers {
		all.Add(1)
		go func() {
			defer all.Done()
			for task := range queue {
				took, err := s.start(task)
				lock.Lock()
				samples = append(samples, took)
				if err != nil {
					failure = err
				}
				lock.Unlock()
				time.Sleep(gap)
			}
		}()
	}
	for _, task := range tasks {
		queue <- task
	}
	close(queue)
	all.Wait()
	if failure != nil {
		return failure
	}
	*times = timesOf(samples)
	return s.destroy(tasks)
}

func callsOnATask(s *side, set settings) error {
	prepared, err := s.prepare(false)
	if err != nil {
		return err
	}
	if _, err := s.start(prepared); err != nil {
		return err
	}
	id := prepared.config.ID
	calls := func(times *Times, call func() error) error {
		var samples []time.Duration
		for range set.Calls {
			before := time.Now()
			if err := call(); err != nil {
				return err
			}
			samples = append(samples, time.Since(before))
		}
		*times = timesOf(samples)
		return nil
	}
	if err := calls(&s.results.Exec, func() error {
		result, err := s.plugin.Driver.ExecTask(id, []string{"/bin/true"}, bound)
		if err == nil && result.ExitResult.ExitCode != 0 {
			err = fmt.Errorf("true ended with %d: %s", result.ExitResult.ExitCode, result.Stdout)
		}
		return err
	}); err != nil {
		return fmt.Errorf("ExecTask: %w", err)
	}
	if err := calls(&s.results.Inspect, func() error {
		_, err := s.plugin.Driver.InspectTask(id)
		return err
	}); err != nil {
		return fmt.Errorf("InspectTask: %w", err)
	}
	if err := calls(&s.results.FirstSample, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), bound)
		defer cancel()
		samples, err := s.plugin.Driver.TaskStats(ctx, id, time.Second)
		if err != nil {
			return err
		}
		if _, open := <-samples; !open {
			return fmt.Errorf("the stream ended without a sample")
		}
		return nil
	}); err != nil {
		return fmt.Errorf("TaskStats: %w", err)
	}
	return s.destroy([]*task{prepared})
}

// stops times StopTask of a process that ends at the signal.
func stops(s *side, set settings) error {
	count, grace := set.Stops, bound
	if s.isolates() {
		count, grace = min(count, 5), isolatedGrace
	}
	var samples []time.Duration
	for range count {
		prepared, err := s.prepare(false)
		if err != nil {
			return err
		}
		if _, err := s.start(prepared); err != nil {
			return err
		}
		before := time.Now()
		if err := s.plugin.Driver.StopTask(prepared.config.ID, grace, "SIGTERM"); err != nil {
			return err
		}
		samples = append(samples, time.Since(before))
		if err := s.destroy([]*task{prepared}); err != nil {
			return err
		}
	}
	s.results.Stop = timesOf(samples)
	return nil
}

// livingTasks measures the memory of many tasks, and recovers them after kill -9 of the plugin.
func livingTasks(s *side, set settings) error {
	var tasks []*task
	for range set.Tasks {
		prepared, err := s.prepare(true)
		if err != nil {
			return err
		}
		if _, err := s.start(prepared); err != nil {
			return err
		}
		tasks = append(tasks, prepared)
	}
	// Past the bound within which a helper may still tidy up after the start.
	time.Sleep(2 * time.Second)

	logProcesses := map[int]bool{}
	for _, task := range tasks {
		if task.process != nil {
			logProcesses[task.process.ReattachConfig().Pid] = true
		}
	}
	var supervision, withLogs processes.Memory
	counted := 0
	for _, helper := range s.helpers(tasks) {
		memory, err := processes.MemoryOf(helper.Pid)
		if err != nil {
			return fmt.Errorf("memory of %s: %w", helper, err)
		}
		withLogs = withLogs.Add(memory)
		counted++
		if !logProcesses[helper.Pid] {
			supervision = supervision.Add(memory)
		}
	}
	s.results.Helpers = float64(counted) / float64(len(tasks))
	s.results.Memory = supervision.Per(len(tasks))
	s.results.MemoryWithLogs = withLogs.Per(len(tasks))
	var err error
	if s.results.Plugin, err = processes.MemoryOf(s.plugin.Pid()); err != nil {
		return err
	}

	if err := s.relaunch(); err != nil {
		return err
	}
	var samples []time.Duration
	for _, task := range tasks {
		before := time.Now()
		if err := s.plugin.Driver.RecoverTask(task.handle); err != nil {
			return fmt.Errorf("RecoverTask: %w", err)
		}
		samples = append(samples, time.Since(before))
	}
	s.results.Recover = timesOf(samples)
	return s.destroy(tasks)
}

// leftovers looks for what the tasks of this side left behind.
func leftovers(s *side, _ settings) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		s.results.Leaked = nil
		for _, process := range s.helpers(nil) {
			s.results.Leaked = append(s.results.Leaked, "process "+process.String())
		}
		for _, task := range s.tasks {
			for _, dir := range cgroups.Of(task.config.AllocID) {
				s.results.Leaked = append(s.results.Leaked, "cgroup "+dir)
			}
		}
		folders, _ := filepath.Glob(filepath.Join(s.root, "state", s.profile, "*-*"))
		for _, folder := range folders {
			s.results.Leaked = append(s.results.Leaked, "folder "+folder)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		for _, line := range strings.Split(string(mounts), "\n") {
			if strings.Contains(line, s.root) {
				s.results.Leaked = append(s.results.Leaked, "mount "+line)
			}
		}
		if len(s.results.Leaked) == 0 || time.Now().After(deadline) {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
}
