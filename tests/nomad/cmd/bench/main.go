// Command bench drives Holdfast's plugin and Nomad's own raw_exec and exec, served as plugins, in turn in one run on one host, and
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
	// Sampled tasks each have a stream of samples.
	Sampled int `json:"sampled"`
	// OutputMiB is what a task writes to its standard output.
	OutputMiB int `json:"output_mib"`
	// Recovered tasks outlive their driver together, RecoveredNomad at most of Nomad's.
	Recovered      int `json:"recovered"`
	RecoveredNomad int `json:"recovered_nomad"`
	// Cycles of start and stop, half of them isolated.
	Cycles int `json:"cycles"`
}

func main() {
	var set settings
	driver := flag.String("driver", os.Getenv("HOLDFAST_DRIVER"), "Holdfast's plugin; default $HOLDFAST_DRIVER")
	nomad := flag.String("nomad", beside("nomad-raw-exec"), "Nomad's raw_exec as a plugin, built from cmd/nomad-raw-exec")
	nomadExec := flag.String("nomad-exec", beside("nomad-exec"), "the same of Nomad's exec, built from cmd/nomad-exec; not there: not measured")
	output := flag.String("json", "", "also write the results to this `file`")
	check := flag.Bool("check", false, "exit with 1 if a promise is not kept")
	flag.IntVar(&set.Starts, "starts", 48, "StartTask calls back to back, for each concurrency")
	flag.IntVar(&set.Spaced, "spaced", 20, "StartTask calls with a gap between them")
	flag.DurationVar(&set.Gap, "gap", 100*time.Millisecond, "the gap")
	flag.IntVar(&set.Tasks, "tasks", 50, "living tasks whose memory is measured")
	flag.IntVar(&set.Calls, "calls", 50, "ExecTask, InspectTask and first-sample calls")
	flag.IntVar(&set.Stops, "stops", 10, "StopTask calls")
	flag.IntVar(&set.Sampled, "sampled", 200, "living tasks that are sampled once a second; 0: none")
	long := flag.Bool("long", false, "sample as many tasks, start and stop as often as the promises are made for")
	flag.IntVar(&set.OutputMiB, "output-mib", 1024, "what a task writes to its output, in MiB; less than 64: not measured")
	flag.IntVar(&set.Recovered, "recovered", recoveredAt, "living tasks that are recovered at once after kill -9 of their driver; 0: none")
	flag.IntVar(&set.RecoveredNomad, "recovered-nomad", 100, "the same of Nomad's raw_exec, at most: each takes tens of MiB")
	flag.IntVar(&set.Cycles, "cycles", 400, "starts and stops after which what is left is counted, half of them isolated; 0: none")
	flag.Parse()
	if *long {
		set.Sampled, set.Cycles = sampledAt, cyclesAt
	}

	ok, err := run(binaries{*driver, *nomad, *nomadExec}, *output, *check, set)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// binaries are the plugins.
type binaries struct {
	driver, nomad, nomadExec string
}

func run(plugins binaries, output string, check bool, set settings) (bool, error) {
	if plugins.driver == "" {
		return false, fmt.Errorf("no plugin given: name it with -driver or in HOLDFAST_DRIVER")
	}
	release, err := cgroups.Claim()
	if err != nil {
		return false, fmt.Errorf("prepare cgroups as the agent does: %w", err)
	}
	defer release()

	var all []*side
	defer func() {
		for _, side := range all {
			side.close()
		}
	}()
	launch := func(name, profile, binary string) (*side, error) {
		side, err := newSide(name, profile, binary)
		if err == nil {
			all = append(all, side)
		}
		return side, err
	}
	ours, err := launch("holdfast", "raw_exec", plugins.driver)
	if err != nil {
		return false, err
	}
	theirs, err := launch("nomad", "raw_exec", plugins.nomad)
	if err != nil {
		return false, err
	}
	isolated := []*side{}
	if os.Geteuid() == 0 {
		side, err := launch("holdfast", "holdfast", plugins.driver)
		if err != nil {
			return false, err
		}
		isolated = append(isolated, side)
		if _, err := os.Stat(plugins.nomadExec); err == nil {
			if side, err = launch("nomad", "exec", plugins.nomadExec); err != nil {
				return false, err
			}
			isolated = append(isolated, side)
		}
	}

	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-interrupted
		for _, side := range all {
			side.close()
		}
		release()
		os.Exit(130)
	}()

	floor, err := measureFloor(set.Starts)
	if err != nil {
		return false, err
	}
	measure := func(steps []step, sides []*side) error {
		for _, step := range steps {
			for _, side := range sides {
				fmt.Fprintf(os.Stderr, "%-8s %s ...\n", side.name, step.name)
				if err := step.measure(side, set); err != nil {
					return fmt.Errorf("%s: %s: %w", side.name, step.name, err)
				}
			}
		}
		return nil
	}
	if err := measure(steps, []*side{ours, theirs}); err != nil {
		return false, err
	}
	if err := measure(isolatedSteps, isolated); err != nil {
		return false, err
	}
	report := Report{Settings: set, Floor: floor, Holdfast: ours.results, Nomad: theirs.results}
	for _, side := range isolated {
		if side.name == ours.name {
			report.Isolated = side.results
		} else {
			report.NomadExec = side.results
		}
	}
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
