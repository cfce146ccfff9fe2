// Package chroot says what the agent puts into the chroots of tests: little, so that one is made quickly.
package chroot

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// programs that the scripts of these tests run: in a chroot there are no others.
var programs = []string{
	"cat", "head", "hostname", "id", "ls", "mktemp", "readlink", "sh", "sleep", "stat", "stty", "touch", "true", "tty", "wc",
}

// Env is a small `chroot_env`: the programs with their libraries, and the files in which names are looked up.
var Env = sync.OnceValues(func() (map[string]string, error) {
	paths := []string{"/etc/group", "/etc/hosts", "/etc/nsswitch.conf", "/etc/passwd", "/etc/resolv.conf"}
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			return nil, err
		}
		said, err := exec.Command("ldd", path).Output()
		if err != nil {
			return nil, fmt.Errorf("libraries of %s: %w", path, err)
		}
		for _, word := range strings.Fields(string(said)) {
			if strings.HasPrefix(word, "/") {
				paths = append(paths, word)
			}
		}
		paths = append(paths, filepath.Join("/bin", name))
	}
	entries := map[string]string{}
	for _, path := range paths {
		// The agent links what it is told to, not what a link leads to.
		source, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, err
		}
		entries[source] = path
	}
	return entries, nil
})
