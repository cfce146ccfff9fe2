// Package agent holds the tests under a real Nomad agent: in process, and as a process of its own that is killed with -9 and
// started again on its data directory. The job files are those of raw_exec, and for the plugin's other names only the driver's name
// in them changes; `exec` and `holdfast` have job files of their own besides, with what jobs of isolated tasks use.
package agent
