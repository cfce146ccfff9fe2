// Command nomad-raw-exec is Nomad's own raw_exec driver served as an external plugin, from the same library that the tests use:
// the other side of every comparison in the benchmark. Its executors are this same file, started again by the driver.
package main

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/hashicorp/nomad/drivers/rawexec"
	"github.com/hashicorp/nomad/plugins"
)

func main() {
	plugins.ServeCtx(func(ctx context.Context, logger hclog.Logger) any {
		return rawexec.NewRawExecDriver(ctx, logger)
	})
}
