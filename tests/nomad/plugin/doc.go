// Package plugin holds the tests that drive the plugin binary through Nomad's own driver client, as the agent would.
//
// HOLDFAST_DRIVER names the binary. It can also be pointed at cmd/nomad-raw-exec, Nomad's own driver served as a plugin: what
// then fails is what only Holdfast promises. A test's name ends in the number of the invariant that it holds.
package plugin
