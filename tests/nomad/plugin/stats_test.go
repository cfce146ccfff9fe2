// TaskStats, TaskEvents, InspectTask: invariants T and I.
package plugin

import (
	"context"
	"io"
	"strconv"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	cstructs "github.com/hashicorp/nomad/client/structs"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
	sproto "github.com/hashicorp/nomad/plugins/shared/structs/proto"
)

const busy = "while :; do :; done"

func TestStatsAreAStreamThatEndsWithTheTask_T1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	samples, err := h.Driver.TaskStats(context.Background(), task.ID, 100*time.Millisecond)
	must.NoError(t, err)
	for range 5 {
		sample, open := <-samples
		must.True(t, open, must.Sprint("the stream ended before the task"))
		must.NotNil(t, sample.ResourceUsage)
		must.NotNil(t, sample.ResourceUsage.MemoryStats)
		must.NotNil(t, sample.ResourceUsage.CpuStats)
		must.Positive(t, sample.Timestamp)
	}
	must.NoError(t, h.Driver.StopTask(task.ID, patience, "SIGTERM"))
	ended := make(chan struct{})
	go func() {
		for range samples {
		}
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the stream goes on after the task's end")
	}
	h.destroy(task)
}

func TestAnIntervalOfZeroIsTheDefault_T1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	samples, err := h.Driver.TaskStats(ctx, task.ID, 0)
	must.NoError(t, err)
	var stamps []int64
	for range 2 {
		sample, open := <-samples
		must.True(t, open)
		stamps = append(stamps, sample.Timestamp)
	}
	must.Greater(t, stamps[0], stamps[1], must.Sprint("the samples' times"))
	h.destroy(task)
}

func TestStatsOfAnUnknownTaskEndTheAgentsRetries_T2_I1(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	stream, err := h.Raw.TaskStats(context.Background(), &proto.TaskStatsRequest{
		TaskId: "of/nobody/12345678", CollectionInterval: durationpb.New(time.Second),
	})
	must.NoError(t, err)
	_, err = stream.Recv()
	must.ErrorContains(t, err, notFound)
	failure := status.Convert(err)
	must.Positive(t, len(failure.Details()), must.Sprint("no detail: the agent would ask for ever"))
	detail, ok := failure.Details()[0].(*sproto.RecoverableError)
	must.True(t, ok, must.Sprintf("first detail is %T", failure.Details()[0]))
	must.False(t, detail.Recoverable)
}

func TestNoPartOfASampleIsMissing_T3_T4(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run(busy)
	stream, err := h.Raw.TaskStats(context.Background(), &proto.TaskStatsRequest{
		TaskId: task.ID, CollectionInterval: durationpb.New(100 * time.Millisecond),
	})
	must.NoError(t, err)
	pid := h.pid(task)
	for range 3 {
		sample, err := stream.Recv()
		must.NoError(t, err)
		must.NotNil(t, sample.Stats)
		must.Eq(t, task.ID, sample.Stats.Id)
		must.NotNil(t, sample.Stats.Timestamp)
		must.NotNil(t, sample.Stats.AggResourceUsage)
		must.NotNil(t, sample.Stats.AggResourceUsage.Cpu)
		must.NotNil(t, sample.Stats.AggResourceUsage.Memory)
		must.SliceContains(t, sample.Stats.AggResourceUsage.Memory.MeasuredFields, proto.MemoryUsage_RSS)
		must.SliceContains(t, sample.Stats.AggResourceUsage.Cpu.MeasuredFields, proto.CPUUsage_PERCENT)
		own, ok := sample.Stats.ResourceUsageByPid[strconv.Itoa(pid)]
		must.True(t, ok, must.Sprintf("usage by pid lacks %d", pid))
		must.NotNil(t, own.Cpu)
		must.NotNil(t, own.Memory)
	}
	h.destroy(task)
}

func TestABurnerUsesOneCoreAndTheTicksFollow_T5(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run(busy)
	samples, err := h.Driver.TaskStats(context.Background(), task.ID, 500*time.Millisecond)
	must.NoError(t, err)
	var best *cstructs.CpuStats
	var user, used, passed float64
	var before int64
	for range 10 {
		sample, open := <-samples
		must.True(t, open)
		cpu := sample.ResourceUsage.CpuStats
		if best == nil || cpu.Percent > best.Percent {
			best = cpu
		}
		user = max(user, cpu.UserMode)
		if before != 0 {
			since := float64(sample.Timestamp - before)
			used, passed = used+cpu.Percent*since, passed+since
		}
		before = sample.Timestamp
	}
	// A loaded host gives less than a core. It may also hold the driver up between its looks at the clock and at the counters: one sample
	// is then too high and the next too low, so that only all together are bounded from above.
	must.Greater(t, 5, best.Percent, must.Sprintf("%+v", best))
	must.Between(t, 1, used/passed, 130, must.Sprintf("percent of a core, on average"))
	must.Positive(t, best.TotalTicks)
	// The kernel counts user time at its ticks: on a loaded host a single sample may have met none.
	must.Positive(t, user)
	h.destroy(task)
}

func TestMemoryOfATaskIsMeasured_T4(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	// tail keeps the whole of an endless line in memory.
	task := h.run("head -c 30000000 /dev/zero | { tail -c 30000000 > /dev/null; } & (head -c 30000000 /dev/zero; sleep 1000) | tail -n 1")
	samples, err := h.Driver.TaskStats(context.Background(), task.ID, 100*time.Millisecond)
	must.NoError(t, err)
	deadline := time.Now().Add(patience)
	for sample := range samples {
		if sample.ResourceUsage.MemoryStats.RSS > 25_000_000 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("30 MB are held, and Rss is %d", sample.ResourceUsage.MemoryStats.RSS)
		}
	}
	h.destroy(task)
}

func TestEventsAreOneStreamForAllTasks_T6(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := h.Raw.TaskEvents(ctx, &proto.TaskEventsRequest{})
	must.NoError(t, err)
	failures := make(chan error, 1)
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				failures <- err
				return
			}
		}
	}()
	for range 2 {
		task := h.run("true")
		h.wait(task)
		h.destroy(task)
	}
	select {
	case err := <-failures:
		t.Fatalf("the stream of events ended: %v", err)
	default:
	}
	cancel()
	must.Eq(t, codes.Canceled, status.Code(<-failures))
}

func TestInspectTellsARunningAndAnExitedTask_I2(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	before := time.Now().Add(-time.Second)
	task := h.run("mkfifo go; echo ready; read line < go")
	h.says(task, "ready")
	answer, err := h.Raw.InspectTask(context.Background(), &proto.InspectTaskRequest{TaskId: task.ID})
	must.NoError(t, err)
	must.Eq(t, proto.TaskState_RUNNING, answer.Task.State)
	must.Eq(t, task.ID, answer.Task.Id)
	must.Eq(t, task.Name, answer.Task.Name)
	must.NotNil(t, answer.Task.StartedAt)
	must.NotNil(t, answer.Task.CompletedAt, must.Sprint("Nomad's client needs it also while the task runs"))
	must.NotNil(t, answer.Task.Result)
	must.NotNil(t, answer.Driver)
	pid, err := strconv.Atoi(answer.Driver.Attributes["pid"])
	must.NoError(t, err)
	must.Positive(t, pid)

	running, err := h.Driver.InspectTask(task.ID)
	must.NoError(t, err)
	must.Eq(t, drivers.TaskStateRunning, running.State)
	must.True(t, running.StartedAt.After(before) && !running.StartedAt.After(time.Now().Add(time.Second)),
		must.Sprintf("started at %s", running.StartedAt))
	must.Nil(t, running.NetworkOverride)

	must.NoError(t, h.Driver.StopTask(task.ID, patience, "SIGTERM"))
	exited, err := h.Driver.InspectTask(task.ID)
	must.NoError(t, err)
	must.Eq(t, drivers.TaskStateExited, exited.State)
	must.False(t, exited.CompletedAt.Before(exited.StartedAt))
	must.Eq(t, 143, exited.ExitResult.ExitCode)
	must.Eq(t, 15, exited.ExitResult.Signal)
	h.destroy(task)
}

func TestAnUnknownTaskIsToldInNomadsWords_I1_I3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	ctx := context.Background()
	const id = "of/nobody/12345678"
	for name, call := range map[string]func() error{
		"InspectTask": func() error {
			_, err := h.Raw.InspectTask(ctx, &proto.InspectTaskRequest{TaskId: id})
			return err
		},
		"WaitTask": func() error {
			_, err := h.Raw.WaitTask(ctx, &proto.WaitTaskRequest{TaskId: id})
			return err
		},
		"SignalTask": func() error {
			_, err := h.Raw.SignalTask(ctx, &proto.SignalTaskRequest{TaskId: id, Signal: "SIGHUP"})
			return err
		},
		"ExecTask": func() error {
			_, err := h.Raw.ExecTask(ctx, &proto.ExecTaskRequest{
				TaskId: id, Command: []string{"true"}, Timeout: durationpb.New(time.Second),
			})
			return err
		},
		"ExecTaskStreaming": func() error {
			stream, err := h.Raw.ExecTaskStreaming(ctx)
			if err != nil {
				return err
			}
			if err := stream.Send(&proto.ExecTaskStreamingRequest{
				Setup: &proto.ExecTaskStreamingRequest_Setup{TaskId: id, Command: []string{"true"}},
			}); err != nil && err != io.EOF {
				return err
			}
			_, err = stream.Recv()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := call()
			must.ErrorContains(t, err, notFound)
			must.SliceNotContains(t, []codes.Code{codes.Unavailable, codes.Canceled}, status.Code(err))
			must.False(t, structs.IsRecoverable(err))
		})
	}
}
