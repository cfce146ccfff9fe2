// Command nomad-exec is Nomad's own exec driver served as an external plugin, as cmd/nomad-raw-exec is its raw_exec: its executors,
// and what sets up their containers, are this same file, started again.
package main

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/hashicorp/nomad/drivers/exec"
	"github.com/hashicorp/nomad/plugins"
)

func main() {
	plugins.ServeCtx(func(ctx context.Context, logger hclog.Logger) any {
		return exec.NewExecDriver(ctx, logger)
	})
}
