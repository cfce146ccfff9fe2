package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"holdfast.test/nomad/internal/processes"
)

// sampledAt is the number of tasks that the promise about sampling is made for.
const sampledAt = 1000

// samplingWindow is how long the CPU time is counted for.
const samplingWindow = 20 * time.Second

// Sampling is the CPU time of a driver and all executors while each of many tasks has a stream of samples, one a second.
type Sampling struct {
	Tasks    int           `json:"tasks"`
	Window   time.Duration `json:"window_ns"`
	Driver   time.Duration `json:"driver_ns"`
	Helpers  time.Duration `json:"executors_and_inits_ns"`
	Samples  int           `json:"samples"`
	Expected int           `json:"samples_expected"`
}

// percent of one core, for the number of tasks that the promise is made for.
func (s Sampling) percent() float64 {
	if s.Tasks == 0 || s.Window == 0 {
		return 0
	}
	return 100 * float64(s.Driver+s.Helpers) / float64(s.Window) * sampledAt / float64(s.Tasks)
}

// sampling is measured for Holdfast alone: a host that bears so many tasks of ours need not bear as many of Nomad's.
func sampling(s *side, set settings) error {
	if s.name != "holdfast" || set.Sampled == 0 {
		return nil
	}
	var tasks []*task
	for range set.Sampled {
		prepared, err := s.prepare(false)
		if err != nil {
			return err
		}
		if _, err := s.start(prepared); err != nil {
			return err
		}
		tasks = append(tasks, prepared)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var lock sync.Mutex
	received := 0
	var first sync.WaitGroup
	for _, task := range tasks {
		samples, err := s.plugin.Driver.TaskStats(ctx, task.config.ID, time.Second)
		if err != nil {
			return err
		}
		first.Add(1)
		go func() {
			begun := sync.OnceFunc(first.Done)
			defer begun()
			for range samples {
				begun()
				lock.Lock()
				received++
				lock.Unlock()
			}
		}()
	}
	first.Wait()
	// Past what a start and a first sample cost.
	time.Sleep(2 * time.Second)

	measured := Sampling{Tasks: len(tasks)}
	helpers := s.helpers(tasks)
	used := func() (driver, others time.Duration, samples int, err error) {
		if driver, err = processes.CPUTime(s.plugin.Pid()); err != nil {
			return
		}
		for _, helper := range helpers {
			time, err := processes.CPUTime(helper.Pid)
			if err != nil {
				return 0, 0, 0, fmt.Errorf("CPU time of %s: %w", helper, err)
			}
			others += time
		}
		lock.Lock()
		defer lock.Unlock()
		return driver, others, received, nil
	}
	begin := time.Now()
	driver, others, samples, err := used()
	if err != nil {
		return err
	}
	time.Sleep(samplingWindow)
	measured.Window = time.Since(begin)
	driverAfter, othersAfter, samplesAfter, err := used()
	if err != nil {
		return err
	}
	measured.Driver = driverAfter - driver
	measured.Helpers = othersAfter - others
	measured.Samples = samplesAfter - samples
	measured.Expected = int(measured.Window.Seconds()) * len(tasks)
	s.results.Sampling = measured
	cancel()
	return s.destroy(tasks)
}
