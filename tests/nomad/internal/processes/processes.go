// Package processes finds the processes that belong to a test by what they hold, and measures them.
package processes

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is one line of a listing.
type Process struct {
	Pid     int
	Command string
	Exe     string
	State   string
}

func (p Process) String() string {
	return fmt.Sprintf("%d [%s] %s (%s)", p.Pid, p.State, p.Command, p.Exe)
}

// Holding lists every process, this one excepted, that mentions one of the markers: in its executable, working directory, command
// line, environment, cgroups or open files, but for those of the cgroup file systems. A marker is something only one test uses, such as its temporary directory.
func Holding(markers ...string) []Process {
	var found []Process
	for _, pid := range all() {
		if pid != os.Getpid() && holds(pid, markers) {
			found = append(found, describe(pid))
		}
	}
	return found
}

// KillHolding ends what Holding finds, until nothing is found or a bound has passed.
func KillHolding(markers ...string) {
	for range 1000 {
		found := Holding(markers...)
		if len(found) == 0 {
			return
		}
		for _, process := range found {
			_ = syscall.Kill(process.Pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Alive says whether a process exists and is no zombie.
func Alive(pid int) bool {
	state := State(pid)
	return state != "" && state != "Z" && state != "X"
}

// State is the one-letter state of proc(5), empty if there is no such process.
func State(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The command name is in parentheses and may contain anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) == 0 {
		return ""
	}
	return string(fields[0])
}

// Identity is a process's pid with its start time, so that a reused pid is not mistaken for it.
func Identity(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return ""
	}
	return fmt.Sprintf("%d@%s", pid, fields[19])
}

// Lives says whether the process of an identity exists and is no zombie. That a process has ended is asked so: by its pid alone,
// which another may have been given since, it seems alive.
func Lives(identity string) bool {
	number, _, _ := strings.Cut(identity, "@")
	pid, err := strconv.Atoi(number)
	return err == nil && Identity(pid) == identity && Alive(pid)
}

// CPUTime is what a process has used so far, in user mode and in the kernel, its dead threads included.
func CPUTime(pid int) (time.Duration, error) {
	const tick = 10 * time.Millisecond
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// Fields 14 and 15 of proc_pid_stat(5); the first one here is the third.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is cut off", pid)
	}
	var ticks int64
	for _, field := range fields[11:13] {
		count, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += count
	}
	return time.Duration(ticks) * tick, nil
}

// Children lists a process's direct children.
func Children(pid int) []int {
	var children []int
	for _, candidate := range all() {
		if Field(candidate, "PPid") == strconv.Itoa(pid) {
			children = append(children, candidate)
		}
	}
	return children
}

// Field is one line of /proc/PID/status.
func Field(pid int, name string) string {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ""
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && key == name {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return ""
}

// Memory is what smaps_rollup says, in KiB.
type Memory struct {
	Rss     int64 `json:"rss_kib"`
	Pss     int64 `json:"pss_kib"`
	Private int64 `json:"private_kib"`
}

// Add sums two processes.
func (m Memory) Add(other Memory) Memory {
	return Memory{m.Rss + other.Rss, m.Pss + other.Pss, m.Private + other.Private}
}

// Per divides a sum among equals.
func (m Memory) Per(count int) Memory {
	if count == 0 {
		return Memory{}
	}
	return Memory{m.Rss / int64(count), m.Pss / int64(count), m.Private / int64(count)}
}

// MemoryOf reads a process's /proc/PID/smaps_rollup.
func MemoryOf(pid int) (Memory, error) {
	var memory Memory
	file, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return memory, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "Rss:":
			memory.Rss += kib
		case "Pss:":
			memory.Pss += kib
		case "Private_Clean:", "Private_Dirty:":
			memory.Private += kib
		}
	}
	return memory, lines.Err()
}

func all() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func holds(pid int, markers []string) bool {
	dir := fmt.Sprintf("/proc/%d", pid)
	mentions := func(text string) bool {
		for _, marker := range markers {
			if marker != "" && strings.Contains(text, marker) {
				return true
			}
		}
		return false
	}
	for _, link := range []string{"exe", "cwd"} {
		if target, err := os.Readlink(filepath.Join(dir, link)); err == nil && mentions(target) {
			return true
		}
	}
	for _, file := range []string{"cmdline", "environ", "cgroup"} {
		if content, err := os.ReadFile(filepath.Join(dir, file)); err == nil && mentions(string(content)) {
			return true
		}
	}
	descriptors, _ := os.ReadDir(filepath.Join(dir, "fd"))
	for _, descriptor := range descriptors {
		target, err := os.Readlink(filepath.Join(dir, "fd", descriptor.Name()))
		// Whoever lists cgroups, such as another package's tests, holds each for a moment.
		if err == nil && !strings.HasPrefix(target, "/sys/fs/cgroup/") && mentions(target) {
			return true
		}
	}
	return false
}

func describe(pid int) Process {
	command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return Process{
		Pid:     pid,
		Command: strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " ")),
		Exe:     exe,
		State:   State(pid),
	}
}
