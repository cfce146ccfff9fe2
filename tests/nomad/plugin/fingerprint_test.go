// Fingerprint and capabilities: invariants F and C.
package plugin

import (
	"context"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
)

func TestAnEnabledDriverIsHealthyAtOnceAndSaysSoAgain_F1_F2_F3_F4(t *testing.T) {
	t.Parallel()
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostNamed(t, name, nil)
			// The next one is due after 30 s.
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			stream, err := h.Driver.Fingerprint(ctx)
			must.NoError(t, err)
			first, open := <-stream
			must.True(t, open)
			must.NoError(t, first.Err)
			must.Eq(t, drivers.HealthStateHealthy, first.Health)
			must.Eq(t, drivers.DriverHealthy, first.HealthDescription)
			must.MapContainsKey(t, first.Attributes, "driver."+name)
			enabled, ok := first.Attributes["driver."+name].GetBool()
			must.True(t, ok && enabled, must.Sprintf("attributes: %v", first.Attributes))

			second, open := <-stream
			must.True(t, open, must.Sprint("the stream ended"))
			must.NoError(t, second.Err)
			must.Eq(t, first.HealthDescription, second.HealthDescription)
			must.Eq(t, first.Attributes, second.Attributes)
		})
	}
}

func TestADisabledDriverIsUndetected_F2_F5(t *testing.T) {
	t.Parallel()
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostNamed(t, name, map[string]any{"enabled": false})
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			stream, err := h.Driver.Fingerprint(ctx)
			must.NoError(t, err)
			first, open := <-stream
			must.True(t, open)
			must.NoError(t, first.Err, must.Sprint("an error makes the driver unhealthy, not disabled"))
			must.Eq(t, drivers.HealthStateUndetected, first.Health)
			must.Eq(t, "disabled", first.HealthDescription)
			// An attribute is removed by an empty value, never by its absence.
			if attribute, ok := first.Attributes["driver."+name]; ok {
				text, _ := attribute.GetString()
				must.Eq(t, "", text)
			}
		})
	}
}

func TestTheDefaultIsDisabled(t *testing.T) {
	t.Parallel()
	h := newHostNamed(t, "raw_exec", nil)
	delete(h.config, "enabled")
	must.NoError(t, h.Configure(h.config))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := h.Driver.Fingerprint(ctx)
	must.NoError(t, err)
	must.Eq(t, drivers.HealthStateUndetected, (<-stream).Health)
}

func TestCapabilitiesAreThoseOfTheRawProfileAndConstant_C1_C2_C3_C4_C5(t *testing.T) {
	t.Parallel()
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostNamed(t, name, nil)
			ask := func() *proto.DriverCapabilities {
				answer, err := h.Raw.Capabilities(context.Background(), &proto.CapabilitiesRequest{})
				must.NoError(t, err)
				return answer.Capabilities
			}
			first := ask()
			must.Eq(t, proto.DriverCapabilities_NONE, first.FsIsolation)
			must.Eq(t, proto.DriverCapabilities_NO_MOUNTS, first.MountConfigs)
			must.True(t, first.SendSignals)
			must.True(t, first.Exec)
			must.True(t, first.DisableLogCollection)
			must.False(t, first.MustCreateNetwork)
			must.False(t, first.DynamicWorkloadUsers)
			must.SliceContainsAll(t, []proto.NetworkIsolationSpec_NetworkIsolationMode{
				proto.NetworkIsolationSpec_HOST, proto.NetworkIsolationSpec_GROUP,
			}, first.NetworkIsolationModes)

			task := h.run("true")
			h.wait(task)
			h.destroy(task)
			must.Eq(t, first.String(), ask().String())
		})
	}
}
