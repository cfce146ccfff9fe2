package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"holdfast.test/nomad/internal/processes"
)

// What --check demands.
const (
	maxPssKiB     = 600
	atTasks       = 50
	startFraction = 4
	maxStop       = 50 * time.Millisecond
	// Of tasks with a view of the host as their root, on a quiet machine.
	maxIsolatedStart = 6 * time.Millisecond
	maxIsolatedExec  = 2 * time.Millisecond
	// Percent of one core at sampledAt tasks.
	maxSampling = 2.0
)

// Times of many equal calls.
type Times struct {
	Count int           `json:"count"`
	P50   time.Duration `json:"p50_ns"`
	P99   time.Duration `json:"p99_ns"`
}

func timesOf(samples []time.Duration) Times {
	if len(samples) == 0 {
		return Times{}
	}
	sorted := slices.Sorted(slices.Values(samples))
	at := func(percent int) time.Duration { return sorted[min(len(sorted)*percent/100, len(sorted)-1)] }
	return Times{len(sorted), at(50), at(99)}
}

// Results of one side.
type Results struct {
	Start1      Times `json:"start_1"`
	Start8      Times `json:"start_8"`
	Spaced1     Times `json:"start_spaced_1"`
	Spaced8     Times `json:"start_spaced_8"`
	Exec        Times `json:"exec"`
	Inspect     Times `json:"inspect"`
	FirstSample Times `json:"first_stats_sample"`
	Stop        Times `json:"stop"`
	Recover     Times `json:"recover"`
	// Output is of the log path.
	Output Output `json:"output"`
	// Helpers is the number of processes per living task that are not the task.
	Helpers float64 `json:"helper_processes_per_task"`
	// Memory of a living task's supervision: executor and init; of Nomad's driver the executor alone.
	Memory processes.Memory `json:"memory_per_task"`
	// MemoryWithLogs adds the log process that the agent starts for a driver that does not collect logs.
	MemoryWithLogs processes.Memory `json:"memory_per_task_with_log_process"`
	// Plugin is the plugin process itself.
	Plugin processes.Memory `json:"memory_of_plugin"`
	// Sampling is measured for Holdfast alone.
	Sampling Sampling `json:"sampling"`
	Recovery Recovery `json:"recovery"`
	// Cycles are counted for Holdfast alone.
	Cycles Cycles   `json:"cycles"`
	Leaked []string `json:"leaked"`
}

// Report is a whole run.
type Report struct {
	Settings settings `json:"settings"`
	Floor    Floor    `json:"floor"`
	Holdfast Results  `json:"holdfast"`
	Nomad    Results  `json:"nomad"`
	// Isolated is the profile `holdfast`, NomadExec Nomad's `exec`; of both only calls are measured.
	Isolated  Results  `json:"isolated"`
	NomadExec Results  `json:"nomad_exec"`
	Broken    []string `json:"broken"`
}

func (r Report) print(out io.Writer) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tholdfast\tNomad raw_exec\tratio\ttimes the floor\t")
	times := func(name string, ours, theirs Times, floor bool) {
		row := func(what string, ours, theirs time.Duration) {
			above := ""
			if floor && r.Floor.Times.P50 > 0 {
				above = fmt.Sprintf("%.1f", float64(ours)/float64(r.Floor.Times.P50))
			}
			fmt.Fprintf(table, "%s %s\t%s\t%s\t%s\t%s\t\n", name, what, milliseconds(ours), milliseconds(theirs),
				ratio(float64(ours), float64(theirs)), above)
		}
		row("p50", ours.P50, theirs.P50)
		row("p99", ours.P99, theirs.P99)
	}
	memory := func(name string, ours, theirs processes.Memory) {
		row := func(what string, ours, theirs int64) {
			fmt.Fprintf(table, "%s %s\t%d KiB\t%d KiB\t%s\t\t\n", name, what, ours, theirs,
				ratio(float64(ours), float64(theirs)))
		}
		row("Rss", ours.Rss, theirs.Rss)
		row("Pss", ours.Pss, theirs.Pss)
		row("private", ours.Private, theirs.Private)
	}
	h, n := r.Holdfast, r.Nomad
	times("StartTask back to back, 1 at a time", h.Start1, n.Start1, true)
	times("StartTask back to back, 8 at a time", h.Start8, n.Start8, true)
	times(fmt.Sprintf("StartTask spaced by %s, 1 at a time", r.Settings.Gap), h.Spaced1, n.Spaced1, true)
	times(fmt.Sprintf("StartTask spaced by %s, 8 at a time", r.Settings.Gap), h.Spaced8, n.Spaced8, true)
	times("ExecTask of true", h.Exec, n.Exec, false)
	times("InspectTask", h.Inspect, n.Inspect, false)
	times("first stats sample", h.FirstSample, n.FirstSample, false)
	times("RecoverTask after kill -9", h.Recover, n.Recover, false)
	times("StopTask of an obedient process", h.Stop, n.Stop, false)
	fmt.Fprintf(table, "%d MiB of output\t%s\t%s\t%s\t\t\n", r.Settings.OutputMiB, milliseconds(h.Output.Task),
		milliseconds(n.Output.Task), ratio(float64(h.Output.Task), float64(n.Output.Task)))
	fmt.Fprintf(table, "the same into cat and a file\t%s\t%s\t\t\t\n", milliseconds(h.Output.Cat), milliseconds(n.Output.Cat))
	fmt.Fprintf(table, "times as fast as cat\t%.2f\t%.2f\t\t\t\n", h.Output.Ratio, n.Output.Ratio)
	memory(fmt.Sprintf("supervision of a task at %d tasks", r.Settings.Tasks), h.Memory, n.Memory)
	memory("the same with its log process", h.MemoryWithLogs, n.MemoryWithLogs)
	memory("plugin process", h.Plugin, n.Plugin)
	if sampling := h.Sampling; sampling.Tasks > 0 {
		of := func(used time.Duration) float64 { return 100 * float64(used) / float64(sampling.Window) }
		fmt.Fprintf(table, "sampling %d tasks each second: plugin\t%.2f %% of a core\t\t\t\t\n", sampling.Tasks, of(sampling.Driver))
		fmt.Fprintf(table, "executors and inits\t%.2f %% of a core\t\t\t\t\n", of(sampling.Helpers))
		fmt.Fprintf(table, "together, for %d tasks\t%.2f %% of a core\t\t\t\t\n", sampledAt, sampling.percent())
		fmt.Fprintf(table, "samples\t%d of %d\t\t\t\t\n", sampling.Samples, sampling.Expected)
	}
	recoveries(table, h.Recovery, n.Recovery)
	fmt.Fprintf(table, "processes beside a task\t%.1f\t%.1f\t\t\t\n", h.Helpers, n.Helpers)
	fmt.Fprintf(table, "leaked\t%d\t%d\t\t\t\n", len(h.Leaked), len(n.Leaked))
	if i, e := r.Isolated, r.NomadExec; i.Start1.Count > 0 {
		fmt.Fprintln(table, "\tholdfast, isolated\tNomad exec\tratio\ttimes the floor\t")
		times("StartTask isolated, back to back, 1 at a time", i.Start1, e.Start1, true)
		times(fmt.Sprintf("StartTask isolated, spaced by %s", r.Settings.Gap), i.Spaced1, e.Spaced1, true)
		times("ExecTask isolated", i.Exec, e.Exec, false)
		times(fmt.Sprintf("StopTask isolated, kill after %s", isolatedGrace), i.Stop, e.Stop, false)
		fmt.Fprintf(table, "leaked\t%d\t%d\t\t\t\n", len(i.Leaked), len(e.Leaked))
	}
	fmt.Fprintf(table, "floor: two fork-and-exec, p50\t%s\t\t\t\t\n", milliseconds(r.Floor.Times.P50))
	_ = table.Flush()
	printCycles(out, "raw", h.Cycles)
	printCycles(out, "isolated", r.Isolated.Cycles)
	fmt.Fprintf(out, "The floor's binary is %s. Ratio: Nomad's divided by ours.\n", r.Floor.Binary)
	for _, leak := range slices.Concat(h.Leaked, r.Isolated.Leaked) {
		fmt.Fprintln(out, "leaked by holdfast:", leak)
	}
}

// recoveries of different numbers of tasks are compared by what one takes.
func recoveries(table io.Writer, h, n Recovery) {
	if h.Tasks == 0 {
		return
	}
	row := func(what string, ours, theirs time.Duration, ratio string) {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t\t\n", what, milliseconds(ours), milliseconds(theirs), ratio)
	}
	each := ratio(float64(h.each()), float64(n.each()))
	fmt.Fprintf(table, "tasks that are recovered at once\t%d\t%d\t\t\t\n", h.Tasks, n.Tasks)
	row("kill -9 until another driver is ready", h.Relaunch, n.Relaunch, ratio(float64(h.Relaunch), float64(n.Relaunch)))
	row("RecoverTask of all, at once", h.Together, n.Together, "")
	row("of them for each task", h.each(), n.each(), each)
	row("RecoverTask of all, one after another", h.InTurn, n.InTurn, "")
}

func printCycles(out io.Writer, what string, cycles Cycles) {
	if cycles.Count == 0 {
		return
	}
	fmt.Fprintf(out, "\n%d starts and stops of %s tasks, %.1f a second:\n", cycles.Count, what, float64(cycles.Count)/cycles.Took.Seconds())
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "after\tprocesses\tcgroups\tmounts\tfiles\tdriver: private\tPss\tRss\tdescriptors\tthreads\t")
	for _, l := range cycles.Looks {
		fmt.Fprintf(table, "%d\t%d\t%d\t%d\t%d\t%d KiB\t%d KiB\t%d KiB\t%d\t%d\t\n", l.After, l.Processes, l.Cgroups, l.Mounts,
			l.Files, l.Memory.Private, l.Memory.Pss, l.Memory.Rss, l.Open, l.Threads)
	}
	_ = table.Flush()
}

// broken lists the promises that this run did not keep.
func (r Report) broken() []string {
	var broken []string
	h, n := r.Holdfast, r.Nomad
	if r.Settings.Tasks < atTasks {
		broken = append(broken, fmt.Sprintf("memory was measured at %d tasks, not at %d", r.Settings.Tasks, atTasks))
	}
	if h.MemoryWithLogs.Pss > maxPssKiB {
		broken = append(broken, fmt.Sprintf("memory per task is %d KiB proportional, more than %d KiB",
			h.MemoryWithLogs.Pss, maxPssKiB))
	}
	// The other rows are printed and not judged: on cgroup v1 both drivers wait for the same grace period of the kernel when starts are
	// apart, and eight at a time on few cores measure the host.
	if h.Start1.P50*startFraction > n.Start1.P50 {
		broken = append(broken, fmt.Sprintf("StartTask p50, one at a time, is %s, more than a fourth of Nomad's %s",
			milliseconds(h.Start1.P50), milliseconds(n.Start1.P50)))
	}
	if h.Stop.P50 >= maxStop {
		broken = append(broken, fmt.Sprintf("StopTask p50 is %s, not under %s", milliseconds(h.Stop.P50), maxStop))
	}
	if sampling := h.Sampling; sampling.Tasks == 0 {
		broken = append(broken, "sampling was not measured")
	} else {
		if percent := sampling.percent(); percent > maxSampling {
			broken = append(broken, fmt.Sprintf("sampling %d tasks each second takes %.2f %% of a core, more than %.0f %%",
				sampledAt, percent, maxSampling))
		}
		// A second may end between two samples.
		if sampling.Samples < sampling.Expected-sampling.Tasks {
			broken = append(broken, fmt.Sprintf("only %d of %d samples came", sampling.Samples, sampling.Expected))
		}
	}
	if h.Recovery.Tasks < recoveredAt {
		broken = append(broken, fmt.Sprintf("recovery was measured of %d tasks, not of %d", h.Recovery.Tasks, recoveredAt))
	} else if took := h.Recovery.all(); took > maxRecovery {
		broken = append(broken, fmt.Sprintf("%d tasks had no driver for %s after its kill -9, longer than %s", h.Recovery.Tasks,
			milliseconds(took), maxRecovery))
	}
	broken = append(broken, h.Cycles.broken("raw tasks")...)
	broken = append(broken, r.Isolated.Cycles.broken("isolated tasks")...)
	if r.Settings.OutputMiB >= chunkMiB && h.Output.Ratio < minOutputRatio {
		broken = append(broken, fmt.Sprintf("output is %.2f times as fast as through cat, less than %.1f", h.Output.Ratio, minOutputRatio))
	}
	if i := r.Isolated; i.Start1.Count == 0 {
		broken = append(broken, "isolated tasks were not measured")
	} else {
		if i.Start1.P50 > maxIsolatedStart {
			broken = append(broken, fmt.Sprintf("StartTask p50 of an isolated task is %s, more than %s",
				milliseconds(i.Start1.P50), maxIsolatedStart))
		}
		if i.Exec.P50 > maxIsolatedExec {
			broken = append(broken, fmt.Sprintf("ExecTask p50 in an isolated task is %s, more than %s",
				milliseconds(i.Exec.P50), maxIsolatedExec))
		}
	}
	if leaked := len(h.Leaked) + len(r.Isolated.Leaked); leaked > 0 {
		broken = append(broken, fmt.Sprintf("%d things leaked", leaked))
	}
	slices.Sort(broken)
	return broken
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/1e6) }

func ratio(ours, theirs float64) string {
	if ours == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", theirs/ours)
}
