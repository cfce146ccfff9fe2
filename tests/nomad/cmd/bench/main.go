// Command bench drives Holdfast's plugin and Nomad's own raw_exec, served as a plugin, in turn in one run on one host, and
// prints what each call and each living task costs.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"holdfast.test/nomad/internal/cgroups"
)

// settings are the counts of a run.
type settings struct {
	Starts int           `json:"starts"`
	Spaced int           `json:"spaced_starts"`
	Gap    time.Duration `json:"gap_ns"`
	Tasks  int           `json:"tasks"`
	Calls  int           `json:"calls"`
	Stops  int           `json:"stops"`
	// OutputMiB is what a task writes to its standard output.
	OutputMiB int `json:"output_mib"`
}

func main() {
	var set settings
	driver := flag.String("driver", os.Getenv("HOLDFAST_DRIVER"), "Holdfast's plugin; default $HOLDFAST_DRIVER")
	nomad := flag.String("nomad", beside("nomad-raw-exec"), "Nomad's raw_exec as a plugin, built from cmd/nomad-raw-exec")
	output := flag.String("json", "", "also write the results to this `file`")
	check := flag.Bool("check", false, "exit with 1 if a promise is not kept")
	flag.IntVar(&set.Starts, "starts", 48, "StartTask calls back to back, for each concurrency")
	flag.IntVar(&set.Spaced, "spaced", 20, "StartTask calls with a gap between them")
	flag.DurationVar(&set.Gap, "gap", 100*time.Millisecond, "the gap")
	flag.IntVar(&set.Tasks, "tasks", 50, "living tasks whose memory is measured")
	flag.IntVar(&set.Calls, "calls", 50, "ExecTask, InspectTask and first-sample calls")
	flag.IntVar(&set.Stops, "stops", 10, "StopTask calls")
	flag.IntVar(&set.OutputMiB, "output-mib", 1024, "what a task writes to its output, in MiB; less than 64: not measured")
	flag.Parse()

	ok, err := run(*driver, *nomad, *output, *check, set)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(driver, nomad, output string, check bool, set settings) (bool, error) {
	if driver == "" {
		return false, fmt.Errorf("no plugin given: name it with -driver or in HOLDFAST_DRIVER")
	}
	release, err := cgroups.Claim()
	if err != nil {
		return false, fmt.Errorf("prepare cgroups as the agent does: %w", err)
	}
	defer release()

	ours, err := newSide("holdfast", driver)
	if err != nil {
		return false, err
	}
	defer ours.close()
	theirs, err := newSide("nomad", nomad)
	if err != nil {
		return false, err
	}
	defer theirs.close()

	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-interrupted
		ours.close()
		theirs.close()
		release()
		os.Exit(130)
	}()

	floor, err := measureFloor(set.Starts)
	if err != nil {
		return false, err
	}
	sides := []*side{ours, theirs}
	for _, step := range steps {
		for _, side := range sides {
			fmt.Fprintf(os.Stderr, "%-8s %s ...\n", side.name, step.name)
			if err := step.measure(side, set); err != nil {
				return false, fmt.Errorf("%s: %s: %w", side.name, step.name, err)
			}
		}
	}
	report := Report{Settings: set, Floor: floor, Holdfast: ours.results, Nomad: theirs.results}
	report.print(os.Stdout)
	broken := report.broken()
	report.Broken = broken
	if output != "" {
		encoded, err := json.MarshalIndent(report, "", "  ")
		if err != nil {
			return false, err
		}
		if err := os.WriteFile(output, append(encoded, '\n'), 0o644); err != nil {
			return false, err
		}
	}
	if !check {
		return true, nil
	}
	for _, promise := range broken {
		fmt.Println("BROKEN", promise)
	}
	if len(broken) == 0 {
		fmt.Println("all promises kept")
	}
	return len(broken) == 0, nil
}

func beside(name string) string {
	executable, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(executable), name)
}
