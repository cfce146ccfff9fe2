// Images in an OCI layout as roots of tasks.
package plugin

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"holdfast.test/nomad/internal/chroot"
)

// layout is an OCI image layout that a test writes (image-spec 1.1).
type layout struct {
	t   *testing.T
	dir string
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func (l layout) write(name string, content []byte) {
	l.t.Helper()
	file := filepath.Join(l.dir, name)
	must.NoError(l.t, os.MkdirAll(filepath.Dir(file), 0o755))
	must.NoError(l.t, os.WriteFile(file, content, 0o644))
}

func (l layout) blob(kind string, content []byte) descriptor {
	l.t.Helper()
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	l.write("blobs/sha256/"+sum, content)
	return descriptor{MediaType: "application/vnd.oci.image." + kind, Digest: "sha256:" + sum, Size: len(content)}
}

func (l layout) json(value any) []byte {
	l.t.Helper()
	encoded, err := json.Marshal(value)
	must.NoError(l.t, err)
	return encoded
}

// layer is an uncompressed one with these files.
func (l layout) layer(files map[string][]byte) descriptor {
	l.t.Helper()
	var archive bytes.Buffer
	out := tar.NewWriter(&archive)
	folders := map[string]bool{".": true}
	for name, content := range files {
		name = strings.TrimPrefix(name, "/")
		var above []string
		for dir := path.Dir(name); !folders[dir]; dir = path.Dir(dir) {
			above = append([]string{dir}, above...)
			folders[dir] = true
		}
		for _, dir := range above {
			must.NoError(l.t, out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}))
		}
		must.NoError(l.t, out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))}))
		_, err := out.Write(content)
		must.NoError(l.t, err)
	}
	must.NoError(l.t, out.Close())
	return l.blob("layer.v1.tar", archive.Bytes())
}

// image writes a layout with one image, named `app`, of these layers.
func (h *host) image(layers ...map[string][]byte) string {
	h.t.Helper()
	l := layout{h.t, filepath.Join(h.root, "layout")}
	var descriptors []descriptor
	var ids []string
	for _, files := range layers {
		layer := l.layer(files)
		descriptors = append(descriptors, layer)
		ids = append(ids, layer.Digest)
	}
	config := l.blob("config.v1+json", l.json(map[string]any{
		"architecture": "amd64",
		"os":           "linux",
		"config": map[string]any{
			"User": "app", "WorkingDir": "/work-of-app", "Env": []string{"PATH=/bin", "OF_IMAGE=yes", "NOMAD_ALLOC_ID=of the image"},
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	}))
	manifest := l.blob("manifest.v1+json", l.json(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": descriptors,
	}))
	manifest.Annotations = map[string]string{"org.opencontainers.image.ref.name": "app"}
	l.write("index.json", l.json(map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifest}}))
	l.write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return l.dir
}

func TestAnImageIsUnpackedOnceAndSharedByTasksThatCannotChangeIt(t *testing.T) {
	h := newIsolated(t, "holdfast", map[string]any{"allowed_host_paths": []string{"/tmp"}})
	below := map[string][]byte{"/marker": []byte("of the first layer\n"), "/removed": nil, "/work-of-app/here": nil}
	entries, err := chroot.Env()
	must.NoError(t, err)
	for source, target := range entries {
		content, err := os.ReadFile(source)
		must.NoError(t, err)
		below[target] = content
	}
	below["/etc/passwd"] = []byte("root:x:0:0::/:/bin/sh\napp:x:4242:4243::/work-of-app:/bin/sh\n")
	below["/etc/group"] = []byte("root:x:0:\napp:x:4243:\n")
	dir := h.image(below, map[string][]byte{"/marker": []byte("of the second layer\n"), "/.wh.removed": nil})

	options := map[string]any{"rootfs": "oci:" + dir + ":app"}
	task := h.scriptWith(`cat /marker; ls -d /removed 2>/dev/null || echo removed; id -u; id -g; pwd; echo $OF_IMAGE $NOMAD_ALLOC_ID
		echo x > /local/made; exec sleep 1000`, options)
	h.start(task)
	h.says(task, "of the second layer\nremoved\n4242\n4243\n/work-of-app\nyes "+task.AllocID+"\n")
	must.Eq(t, "4242 of the second layer", h.within(task, "echo $(id -u) $(cat /marker)"), must.Sprint("a session"))

	unpacked := func() map[string]int64 { return tree(t, filepath.Join(h.stateDir(), "images")) }
	first := unpacked()
	layers := 0
	for file := range first {
		if filepath.Base(file) == "tree" {
			layers++
		}
	}
	must.Eq(t, 2, layers, must.Sprintf("%v", first))
	root := h.scriptWith("touch /marker 2>&1 || echo refused", options)
	must.StrHasSuffix(t, "refused\n", h.tells(root))
	must.Eq(t, first, unpacked(), must.Sprint("something was unpacked again, or changed"))
	h.destroy(task)
	must.Eq(t, first, unpacked())

	h.refuses(h.scriptWith("true", map[string]any{"rootfs": "oci:" + dir + ":other"}), "other")
	h.refuses(h.scriptWith("true", map[string]any{"rootfs": "oci:/var/no-such-layout"}), "allowed_host_paths")
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	must.NoError(t, err)
	for _, blob := range blobs {
		must.NoError(t, os.WriteFile(blob, []byte("damaged"), 0o644))
	}
	h.refuses(h.scriptWith("true", options), dir)
}
