// Package pluginhost launches a driver plugin as Nomad's agent does: the same handshake, the same configuration path through the
// plugin's own schema, the same client.
package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/msgpack"
	"google.golang.org/grpc"

	"github.com/hashicorp/nomad/client/lib/numalib"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/base"
	baseproto "github.com/hashicorp/nomad/plugins/base/proto"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
)

// Topology is the host's, scanned once, as the agent passes it to every plugin.
var Topology = sync.OnceValue(func() *numalib.Topology { return numalib.Scan(numalib.PlatformScanners(false)) })

// Install copies a plugin binary, alone, into a plugin directory under the name by which the agent will know it.
func Install(binary, pluginDir, name string) (string, error) {
	// No fork while the copy is open for writing: a child that inherits it makes execve(2) fail with ETXTBSY.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	source, err := os.Open(binary)
	if err != nil {
		return "", err
	}
	defer source.Close()
	path := filepath.Join(pluginDir, name)
	target, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(target, source); err != nil {
		return "", errors.Join(err, target.Close())
	}
	return path, target.Close()
}

// Options say what to launch.
type Options struct {
	// Path of the plugin in its plugin directory.
	Path string
	// Reattach connects to a running plugin instead of launching one.
	Reattach *goplugin.ReattachConfig
	// Config is the `config` block of the agent's `plugin` block.
	Config map[string]any
	// Log receives the plugin's log lines.
	Log io.Writer
}

// Plugin is a launched and configured plugin.
type Plugin struct {
	// Driver is Nomad's own client.
	Driver drivers.DriverPlugin
	// Raw is the generated stub, for what Nomad's client hides.
	Raw proto.DriverClient
	// Base is the generated stub of the base service.
	Base baseproto.BasePluginClient
	// Conn is the connection that all of the above use.
	Conn *grpc.ClientConn
	// Capabilities as announced.
	Capabilities *drivers.Capabilities

	client     *goplugin.Client
	taskSchema *hclspec.Spec
}

// Launch starts (or reattaches to) a plugin and configures it with the agent's configuration.
func Launch(options Options) (*Plugin, error) {
	plugin, err := Start(options)
	if err != nil {
		return nil, err
	}
	if err := plugin.Configure(options.Config); err != nil {
		plugin.Close()
		return nil, err
	}
	return plugin, nil
}

// Start starts (or reattaches to) a plugin and does not configure it.
func Start(options Options) (*Plugin, error) {
	log := options.Log
	if log == nil {
		log = io.Discard
	}
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: log})
	config := &goplugin.ClientConfig{
		HandshakeConfig: base.Handshake,
		Plugins: map[string]goplugin.Plugin{
			base.PluginTypeBase:   &base.PluginBase{},
			base.PluginTypeDriver: drivers.NewDriverPlugin(nil, logger),
		},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Logger:           logger,
		Reattach:         options.Reattach,
	}
	if options.Reattach == nil {
		config.Cmd = exec.Command(options.Path)
	}
	client := goplugin.NewClient(config)
	plugin, err := connect(client)
	if err != nil {
		client.Kill()
		return nil, err
	}
	return plugin, nil
}

func connect(client *goplugin.Client) (*Plugin, error) {
	protocol, err := client.Client()
	if err != nil {
		return nil, err
	}
	dispensed, err := protocol.Dispense(base.PluginTypeDriver)
	if err != nil {
		return nil, err
	}
	driver, ok := dispensed.(drivers.DriverPlugin)
	if !ok {
		return nil, fmt.Errorf("dispensed plugin is a %T, no driver", dispensed)
	}
	transport, ok := protocol.(*goplugin.GRPCClient)
	if !ok {
		return nil, fmt.Errorf("plugin protocol is %T, not gRPC", protocol)
	}
	return &Plugin{
		Driver: driver,
		Raw:    proto.NewDriverClient(transport.Conn),
		Base:   baseproto.NewBasePluginClient(transport.Conn),
		Conn:   transport.Conn,
		client: client,
	}, nil
}

// Configure sends the plugin block's configuration, decoded by the plugin's own schema, with the agent's.
func (p *Plugin) Configure(config map[string]any) error {
	encoded, err := p.EncodeConfig(config)
	if err != nil {
		return err
	}
	err = p.Driver.SetConfig(&base.Config{
		ApiVersion:   drivers.ApiVersion010,
		PluginConfig: encoded,
		AgentConfig: &base.AgentConfig{Driver: &base.ClientDriverConfig{
			ClientMinPort: 14000,
			ClientMaxPort: 14512,
			Topology:      Topology(),
		}},
	})
	if err != nil {
		return fmt.Errorf("SetConfig: %w", err)
	}
	if p.Capabilities, err = p.Driver.Capabilities(); err != nil {
		return fmt.Errorf("Capabilities: %w", err)
	}
	return nil
}

// EncodeConfig turns a plugin block into what SetConfig carries.
func (p *Plugin) EncodeConfig(config map[string]any) ([]byte, error) {
	schema, err := p.Driver.ConfigSchema()
	if err != nil {
		return nil, fmt.Errorf("ConfigSchema: %w", err)
	}
	value, err := Decode(schema, config)
	if err != nil {
		return nil, err
	}
	return msgpack.Marshal(value, value.Type())
}

// EncodeTask decodes a task's `config` block by the plugin's schema and puts it into the task's configuration.
func (p *Plugin) EncodeTask(task *drivers.TaskConfig, options map[string]any) error {
	if p.taskSchema == nil {
		schema, err := p.Driver.TaskConfigSchema()
		if err != nil {
			return fmt.Errorf("TaskConfigSchema: %w", err)
		}
		p.taskSchema = schema
	}
	value, err := Decode(p.taskSchema, options)
	if err != nil {
		return err
	}
	return task.EncodeDriverConfig(value)
}

// Decode is the agent's way from a block to a value: the plugin's schema decides, before the plugin sees anything.
func Decode(schema *hclspec.Spec, block map[string]any) (cty.Value, error) {
	spec, diagnostics := hclspecutils.Convert(schema)
	if diagnostics.HasErrors() {
		return cty.NilVal, fmt.Errorf("schema: %w", errors.Join(diagnostics.Errs()...))
	}
	if block == nil {
		block = map[string]any{}
	}
	value, diagnostics, errs := hclutils.ParseHclInterface(block, spec, nil)
	if diagnostics.HasErrors() {
		return cty.NilVal, errors.Join(errs...)
	}
	return value, nil
}

// Pid of the plugin process.
func (p *Plugin) Pid() int { return p.client.ReattachConfig().Pid }

// Reattach is what another client needs to connect to this plugin.
func (p *Plugin) Reattach() *goplugin.ReattachConfig { return p.client.ReattachConfig() }

// Exited says whether the plugin process is gone.
func (p *Plugin) Exited() bool { return p.client.Exited() }

// Close ends the plugin as a graceful stop of the agent does.
func (p *Plugin) Close() { p.client.Kill() }

// Crash ends the plugin with SIGKILL and waits until the client has noticed.
func (p *Plugin) Crash() error {
	if err := syscall.Kill(p.Pid(), syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill -9 of the plugin: %w", err)
	}
	deadline := time.Now().Add(2 * time.Minute)
	for !p.client.Exited() {
		if time.Now().After(deadline) {
			return errors.New("the plugin was killed with -9 but its client does not notice")
		}
		time.Sleep(5 * time.Millisecond)
	}
	// Closes the connection and the goroutines of the client.
	p.client.Kill()
	return nil
}

// Wait waits for a task's exit.
func (p *Plugin) Wait(ctx context.Context, taskID string) (*drivers.ExitResult, error) {
	results, err := p.Driver.WaitTask(ctx, taskID)
	if err != nil {
		return nil, err
	}
	select {
	case result := <-results:
		return result, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
