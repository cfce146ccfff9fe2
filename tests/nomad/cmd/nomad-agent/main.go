// Command nomad-agent is Nomad's agent and the client commands that the tests use, built from Nomad as a library, so that it
// can be a process of its own: killed with -9 and started again on the same data directory.
package main

import (
	"os"

	"github.com/hashicorp/cli"
	"github.com/hashicorp/nomad/command/agent"
	"github.com/hashicorp/nomad/version"
)

func main() {
	ui := &cli.BasicUi{Reader: os.Stdin, Writer: os.Stdout, ErrorWriter: os.Stderr}

	shutdown := make(chan struct{})
	cmd := &agent.Command{Version: version.GetVersion(), Ui: ui, ShutdownCh: shutdown}
	os.Exit(cmd.Run(os.Args[1:]))
}
