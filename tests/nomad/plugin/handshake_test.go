// Start of the plugin process, the go-plugin protocol and the agent's loader: invariants P.
package plugin

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-version"
	"github.com/shoenig/test/must"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/hashicorp/nomad/client/lib/numalib"
	"github.com/hashicorp/nomad/helper/pluginutils/loader"
	structsconfig "github.com/hashicorp/nomad/nomad/structs/config"
	"github.com/hashicorp/nomad/plugins/base"
	baseproto "github.com/hashicorp/nomad/plugins/base/proto"
	"github.com/hashicorp/nomad/plugins/drivers"

	"holdfast.test/nomad/internal/pluginhost"
	"holdfast.test/nomad/internal/processes"
)

// byHand is the plugin started without go-plugin's client, to see its bare output.
type byHand struct {
	command *exec.Cmd
	stdout  *bufio.Reader
	stderr  *log
	exited  chan struct{}
}

func startByHand(t *testing.T, path string, env ...string) *byHand {
	t.Helper()
	b := &byHand{command: exec.Command(path), stderr: &log{}, exited: make(chan struct{})}
	b.command.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + filepath.Dir(path)}, env...)
	b.command.Stderr = b.stderr
	reader, writer, err := os.Pipe()
	must.NoError(t, err)
	b.command.Stdout = writer
	must.NoError(t, b.command.Start())
	must.NoError(t, writer.Close())
	b.stdout = bufio.NewReader(reader)
	go func() {
		_ = b.command.Wait()
		close(b.exited)
	}()
	t.Cleanup(func() {
		_ = b.command.Process.Kill()
		<-b.exited
		_ = reader.Close()
	})
	return b
}

func cookie() string {
	return base.Handshake.MagicCookieKey + "=" + base.Handshake.MagicCookieValue
}

func TestTheHandshakeIsOneLineAndNothingElseIsOnStdout_P1_P2(t *testing.T) {
	t.Parallel()
	h := newRoot(t, "raw_exec")
	b := startByHand(t, h.path, cookie(), "PLUGIN_PROTOCOL_VERSIONS=2", "PLUGIN_MIN_PORT=10000", "PLUGIN_MAX_PORT=25000")
	line, err := b.stdout.ReadString('\n')
	must.NoError(t, err, must.Sprintf("stderr: %s", b.stderr))
	parts := strings.Split(strings.TrimSuffix(line, "\n"), "|")
	must.GreaterEq(t, 5, len(parts), must.Sprintf("handshake line %q", line))
	must.Eq(t, []string{"1", "2", "unix"}, parts[:3], must.Sprintf("handshake line %q", line))
	must.Eq(t, "grpc", parts[4])
	if len(parts) > 5 {
		must.Eq(t, "", parts[5], must.Sprint("a certificate was not asked for"))
	}
	socket := parts[3]
	info, err := os.Stat(socket)
	must.NoError(t, err)
	must.Eq(t, os.ModeSocket, info.Mode().Type())

	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must.NoError(t, err)
	defer conn.Close()
	answer, err := baseproto.NewBasePluginClient(conn).PluginInfo(context.Background(), &baseproto.PluginInfoRequest{})
	must.NoError(t, err)
	must.Eq(t, "raw_exec", answer.Name)
	_ = conn.Invoke(context.Background(), "/plugin.GRPCController/Shutdown", &emptypb.Empty{}, &emptypb.Empty{})

	rest, err := io.ReadAll(b.stdout)
	must.NoError(t, err)
	must.Eq(t, "", string(rest), must.Sprint("stdout after the handshake line"))
	<-b.exited
	must.Eq(t, 0, b.command.ProcessState.ExitCode())
	_, err = os.Stat(socket)
	must.ErrorIs(t, err, os.ErrNotExist, must.Sprint("the socket outlives its plugin"))
}

func TestWithoutTheCookieAHumanIsTold_P2(t *testing.T) {
	for name, env := range map[string]string{
		"no cookie":      "UNRELATED=1",
		"another cookie": base.Handshake.MagicCookieKey + "=something",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newRoot(t, "raw_exec")
			b := startByHand(t, h.path, env)
			out, err := io.ReadAll(b.stdout)
			must.NoError(t, err)
			<-b.exited
			must.NotEq(t, 0, b.command.ProcessState.ExitCode())
			told := string(out) + b.stderr.String()
			must.StrContains(t, told, "plugin")
			must.StrNotContains(t, told, "panic")
			must.StrNotContains(t, told, "1|2|unix", must.Sprint("it serves all the same"))
		})
	}
}

func TestControllerShutdownEndsThePlugin_P3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	pid := h.Pid()
	// The plugin may be gone before its answer arrives.
	_ = h.Conn.Invoke(context.Background(), "/plugin.GRPCController/Shutdown", &emptypb.Empty{}, &emptypb.Empty{})
	gone(t, pid)
}

func TestAGracefulStopOfTheAgentLeavesTheTask_P3_P7(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.shell("sleep 1000")
	handle := h.start(task)
	pid := h.pid(task)
	identity := processes.Identity(pid)
	pluginPid := h.Pid()
	h.Close()
	gone(t, pluginPid)
	must.Eq(t, identity, processes.Identity(pid))
	must.True(t, processes.Alive(pid))
	h.launch()
	must.NoError(t, h.Driver.RecoverTask(handle))
	h.destroy(task)
}

func TestHealthServesTheServicePlugin_P3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	answer, err := grpc_health_v1.NewHealthClient(h.Conn).Check(context.Background(),
		&grpc_health_v1.HealthCheckRequest{Service: "plugin"})
	must.NoError(t, err)
	must.Eq(t, grpc_health_v1.HealthCheckResponse_SERVING, answer.Status)
}

func TestBrokerAndStdioCallsAreTolerated_P3(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, method := range []string{"/plugin.GRPCBroker/StartStream", "/plugin.GRPCStdio/StreamStdio"} {
		ctx, cancel := context.WithCancel(context.Background())
		stream, err := h.Conn.NewStream(ctx,
			&grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
		must.NoError(t, err)
		if method == "/plugin.GRPCStdio/StreamStdio" {
			must.NoError(t, stream.SendMsg(&emptypb.Empty{}))
			must.NoError(t, stream.CloseSend())
		}
		answers := make(chan error, 1)
		go func() { answers <- stream.RecvMsg(&emptypb.Empty{}) }()
		_, err = h.Driver.PluginInfo()
		must.NoError(t, err, must.Sprintf("with an open stream of %s", method))
		cancel()
		code := status.Code(<-answers)
		must.SliceContains(t, []codes.Code{codes.Canceled, codes.Unimplemented, codes.OK, codes.Unknown}, code,
			must.Sprintf("%s", method))
	}
}

// catalog loads the plugin directory as the agent does at its start: fingerprint, then validation.
func (h *host) catalog(configs ...*structsconfig.PluginConfig) (*loader.PluginLoader, error) {
	return loader.NewPluginLoader(&loader.PluginLoaderConfig{
		Logger:            hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: h.log}),
		PluginDir:         filepath.Dir(h.path),
		Configs:           configs,
		SupportedVersions: loader.AgentSupportedApiVersions,
	})
}

func TestTheAgentsLoaderTakesThePluginUnderBothNames_P4_P9(t *testing.T) {
	t.Parallel()
	h := newRoot(t, names[0])
	_, err := pluginhost.Install(driverBinary(), filepath.Dir(h.path), names[1])
	must.NoError(t, err)
	var configs []*structsconfig.PluginConfig
	for _, name := range names {
		configs = append(configs, &structsconfig.PluginConfig{
			Name:   name,
			Config: map[string]any{"enabled": true, "state_dir": h.stateDir()},
		})
	}
	plugins, err := h.catalog(configs...)
	must.NoError(t, err)
	_, err = os.Stat(h.stateDir())
	must.ErrorIs(t, err, os.ErrNotExist, must.Sprint("fingerprint and validation have a side effect"))

	catalog := plugins.Catalog()[base.PluginTypeDriver]
	must.Len(t, len(names), catalog)
	for _, info := range catalog {
		must.SliceContains(t, names, info.Name)
		must.Eq(t, base.PluginTypeDriver, info.Type)
		must.SliceContains(t, info.PluginApiVersions, drivers.ApiVersion010)
		must.True(t, version.Must(version.NewVersion(info.PluginVersion)).
			GreaterThanOrEqual(version.Must(version.NewVersion("0.1.0"))),
			must.Sprintf("version %s does not replace the built-in", info.PluginVersion))

		agent := &base.AgentConfig{Driver: &base.ClientDriverConfig{Topology: numalib.NoImpl(nil)}}
		instance, err := plugins.Dispense(info.Name, base.PluginTypeDriver, agent, hclog.NewNullLogger())
		must.NoError(t, err)
		_, ok := instance.Plugin().(drivers.DriverPlugin)
		must.True(t, ok)
		instance.Kill()
		must.True(t, instance.Exited())
	}
}

func TestAHostProblemIsToldByTheFingerprintAndNotByTheLoader_P5(t *testing.T) {
	t.Parallel()
	h := newRoot(t, "raw_exec")
	// No directory can be made there, not even by root.
	impossible := "/proc/holdfast"
	_, err := h.catalog(&structsconfig.PluginConfig{
		Name:   "raw_exec",
		Config: map[string]any{"enabled": true, "state_dir": impossible},
	})
	must.NoError(t, err, must.Sprint("the agent would not start"))
	h.config["state_dir"] = impossible
	h.launch()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	fingerprints, err := h.Driver.Fingerprint(ctx)
	must.NoError(t, err)
	first := <-fingerprints
	must.NoError(t, first.Err)
	must.NotEq(t, drivers.HealthStateHealthy, first.Health)
	must.StrContains(t, first.HealthDescription, impossible)
}

func TestAnOptionOfThePluginBlockThatIsUnknownOrMistypedIsNamed(t *testing.T) {
	t.Parallel()
	for name, mistake := range map[string]struct {
		config map[string]any
		says   string
	}{
		"unknown":         {map[string]any{"enabeld": true}, "enabeld"},
		"mistyped":        {map[string]any{"denied_envvars": 5}, "denied_envvars"},
		"a bad range":     {map[string]any{"denied_host_uids": "100-1"}, "100-1"},
		"not even a list": {map[string]any{"denied_host_gids": "all"}, "all"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newRoot(t, "raw_exec")
			_, err := h.catalog(&structsconfig.PluginConfig{Name: "raw_exec", Config: mistake.config})
			must.ErrorContains(t, err, mistake.says)
		})
	}
}

func TestReattachFindsThePluginWithItsMemory_P7_P8(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	again, err := pluginhost.Start(pluginhost.Options{Reattach: h.Reattach(), Log: h.log})
	must.NoError(t, err)
	status, err := again.Driver.InspectTask(task.ID)
	must.NoError(t, err)
	must.Eq(t, drivers.TaskStateRunning, status.State)
	must.Eq(t, h.Pid(), again.Pid())
	h.destroy(task)
}

func TestCtrlCOnTheAgentsTerminalDoesNotEndThePlugin_P8(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for range 3 {
		send(t, h.Pid(), syscall.SIGINT)
	}
	task := h.run("sleep 1000")
	must.True(t, processes.Alive(h.Pid()))
	h.destroy(task)
}

func TestStderrIsHclogJSON_P10(t *testing.T) {
	t.Parallel()
	h := newRoot(t, "raw_exec")
	b := startByHand(t, h.path, cookie(), "PLUGIN_PROTOCOL_VERSIONS=2")
	line, err := b.stdout.ReadString('\n')
	must.NoError(t, err)
	conn, err := grpc.NewClient("unix:"+strings.Split(line, "|")[3],
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	must.NoError(t, err)
	defer conn.Close()
	plugin := baseproto.NewBasePluginClient(conn)
	config := encode(t, map[string]any{"enabled": true, "state_dir": h.stateDir()})
	_, err = plugin.SetConfig(context.Background(), &baseproto.SetConfigRequest{
		MsgpackConfig: config, NomadConfig: &baseproto.NomadConfig{Driver: &baseproto.NomadDriverConfig{}},
	})
	must.NoError(t, err)
	_ = conn.Invoke(context.Background(), "/plugin.GRPCController/Shutdown", &emptypb.Empty{}, &emptypb.Empty{})
	<-b.exited
	lines := strings.Split(strings.TrimSpace(b.stderr.String()), "\n")
	must.NotEq(t, "", lines[0], must.Sprint("nothing was logged: this test would hold of a mute plugin"))
	for _, line := range lines {
		var entry map[string]any
		must.NoError(t, json.Unmarshal([]byte(line), &entry), must.Sprintf("line %q", line))
		for _, key := range []string{"@level", "@message", "@timestamp"} {
			must.MapContainsKey(t, entry, key, must.Sprintf("line %q", line))
		}
	}
}

func TestGarbageOnTheSocketDisturbsNobody(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	task := h.run("sleep 1000")
	pid := h.pid(task)
	socket := h.Reattach().Addr.String()
	for _, garbage := range []string{
		"\x00\xff\xfe garbage",
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x00" + strings.Repeat("x", 70000),
		"",
	} {
		conn, err := net.Dial("unix", socket)
		must.NoError(t, err)
		_, _ = conn.Write([]byte(garbage))
		must.NoError(t, conn.Close())
	}
	// Real frames with a body that is no message.
	err := h.Conn.Invoke(context.Background(), "/hashicorp.nomad.plugins.drivers.proto.Driver/StartTask",
		[]byte("\x0a\xff\xff\xff\xff\x0f"), &emptypb.Empty{}, grpc.ForceCodec(verbatim{}))
	must.Error(t, err)
	must.NotEq(t, codes.Unavailable, status.Code(err))
	must.True(t, processes.Alive(pid))
	must.Eq(t, pid, h.pid(task))
	h.destroy(task)
}

// verbatim is a codec that sends bytes as they are.
type verbatim struct{}

func (verbatim) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (verbatim) Unmarshal([]byte, any) error   { return nil }
func (verbatim) Name() string                  { return "proto" }
