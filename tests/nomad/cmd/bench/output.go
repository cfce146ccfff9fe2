package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

const (
	// chunkMiB is the size of the file that a task writes again and again.
	chunkMiB = 64
	// outputRounds are measured in turn with as many of cat.
	outputRounds = 3
	// minOutputRatio is how many times as fast as cat the log path is at least.
	minOutputRatio = 1.0
)

// Output is how long a task takes to write to its standard output, and how long the same writer takes into cat and a file.
type Output struct {
	Task time.Duration `json:"task_p50_ns"`
	Cat  time.Duration `json:"cat_p50_ns"`
	// Ratio is the median over rounds of cat's time divided by the task's.
	Ratio float64 `json:"times_as_fast_as_cat"`
}

// output times the log path against `cat pipe > file`, round by round.
func output(s *side, set settings) error {
	if set.OutputMiB < chunkMiB {
		return nil
	}
	lines := filepath.Join(s.root, "lines")
	line := append(bytes.Repeat([]byte{'x'}, 127), '\n')
	if err := os.WriteFile(lines, bytes.Repeat(line, chunkMiB<<20/len(line)), 0o644); err != nil {
		return err
	}
	defer os.Remove(lines)
	script := fmt.Sprintf("for n in $(seq %d); do dd if=%s bs=64k status=none; done", set.OutputMiB/chunkMiB, lines)
	var ours, cats []time.Duration
	var ratios []float64
	for range outputRounds {
		cat, err := catToFile(script, filepath.Join(s.root, "cat"))
		if err != nil {
			return fmt.Errorf("cat: %w", err)
		}
		task, err := outputOfTask(s, script)
		if err != nil {
			return err
		}
		cats, ours = append(cats, cat), append(ours, task)
		ratios = append(ratios, float64(cat)/float64(task))
	}
	slices.Sort(ratios)
	s.results.Output = Output{timesOf(ours).P50, timesOf(cats).P50, ratios[len(ratios)/2]}
	return nil
}

func catToFile(script, path string) (time.Duration, error) {
	file, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer os.Remove(path)
	defer file.Close()
	reader, writer, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	cat := exec.Command("cat")
	cat.Stdin, cat.Stdout = reader, file
	source := exec.Command("/bin/sh", "-c", script)
	source.Stdout, source.Stderr = writer, os.Stderr
	before := time.Now()
	if err := source.Start(); err != nil {
		return 0, err
	}
	startFailure := cat.Start()
	_ = reader.Close()
	_ = writer.Close()
	if startFailure != nil {
		_ = source.Wait()
		return 0, startFailure
	}
	catFailure := cat.Wait()
	took := time.Since(before)
	if err := source.Wait(); err != nil {
		return 0, err
	}
	return took, catFailure
}

// outputOfTask ends with the word that the task is over, which comes when its output is collected.
func outputOfTask(s *side, script string) (time.Duration, error) {
	prepared, err := s.prepare(false)
	if err != nil {
		return 0, err
	}
	command := map[string]any{"command": "/bin/sh", "args": []string{"-c", script}}
	if err := s.plugin.EncodeTask(prepared.config, command); err != nil {
		return 0, err
	}
	before := time.Now()
	if _, err := s.start(prepared); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	ended, err := s.plugin.Driver.WaitTask(ctx, prepared.config.ID)
	if err != nil {
		return 0, err
	}
	select {
	case result := <-ended:
		if result == nil || !result.Successful() {
			return 0, fmt.Errorf("the writing task ended with %v", result)
		}
	case <-ctx.Done():
		return 0, fmt.Errorf("the writing task did not end: %w", ctx.Err())
	}
	took := time.Since(before)
	if err := s.destroy([]*task{prepared}); err != nil {
		return 0, err
	}
	return took, os.RemoveAll(prepared.config.AllocDir)
}
