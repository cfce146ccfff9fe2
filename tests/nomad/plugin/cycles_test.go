package plugin

import (
	"fmt"
	"os"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/hashicorp/nomad/plugins/drivers"

	"holdfast.test/nomad/internal/processes"
)

// The benchmark does the same ten thousand times (`-cycles`).
func TestStartsAndStopsLeaveNothingAndTheDriverAsItWas(t *testing.T) {
	const (
		// Before the first look everything has been used that is used at all.
		warm  = 40
		after = 160
		// What an allocator may keep. A leak of a page in each cycle would be nearly as much again.
		growthKiB = 320
	)
	for _, name := range []string{"raw_exec", "holdfast"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asRoot(t, "isolates")
			h := newHostNamed(t, name, nil)
			var task *drivers.TaskConfig
			if h.isolates() {
				task = h.script("exec sleep 1000")
			} else {
				task = h.shell("exec sleep 1000")
			}
			cycles := func(count int) {
				for range count {
					task.ID = taskID(task.AllocID)
					h.start(task)
					must.NoError(t, h.Driver.StopTask(task.ID, patience, "SIGTERM"))
					must.NoError(t, h.Driver.DestroyTask(task.ID, false))
				}
				h.nothingLeft(task)
				must.SliceEmpty(t, h.supervisionDirs())
				must.SliceEmpty(t, h.executors())
			}
			open := func() int {
				descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.Pid()))
				must.NoError(t, err)
				return len(descriptors)
			}
			memory := func() int64 {
				memory, err := processes.MemoryOf(h.Pid())
				must.NoError(t, err)
				return memory.Private
			}
			cycles(warm)
			openBefore, before := open(), memory()
			cycles(after)
			// The last connections may be closed a moment later.
			eventually(t, "descriptors of the driver", func() error {
				if now := open(); now > openBefore {
					return fmt.Errorf("%d, after %d", now, openBefore)
				}
				return nil
			})
			must.LessEq(t, before+growthKiB, memory(), must.Sprintf("KiB of the driver, %d before", before))
			t.Logf("the driver: %d KiB and then %d, %d descriptors", before, memory(), openBefore)
		})
	}
}
