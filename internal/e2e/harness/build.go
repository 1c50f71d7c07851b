package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Binaries are the paths of the programs that the cases run.
type Binaries struct {
	Etcd, APIServer, Plugin, PassThrough string
}

// commands are the programs and where they are built: the plugin in the main
// module, as its users build it, and the others in this one. Tests run in the
// folder of their package, which is the root of this module.
var commands = []struct{ name, dir, pkg string }{
	{"etcd", ".", "./cmd/etcd"},
	{"kube-apiserver", ".", "./cmd/kube-apiserver"},
	{"passthrough", ".", "./cmd/passthrough"},
	{"kmsplugin", "../..", "./examples/kmsplugin"},
}

var built struct {
	once sync.Once
	dir  string
	bins Binaries
	err  error
}

// Build builds every program, once for the whole test process. The build cache
// makes all but the first run a matter of linking.
func Build(t testing.TB) Binaries {
	t.Helper()
	built.once.Do(func() {
		began := time.Now()
		built.bins, built.err = build()
		t.Logf("built %d programs in %s", len(commands), time.Since(began).Round(time.Second))
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.bins
}

// RemoveBuilt removes what Build built. TestMain calls it last.
func RemoveBuilt() {
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
}

func build() (Binaries, error) {
	dir, err := os.MkdirTemp("", "keyfold-e2e-bin-")
	if err != nil {
		return Binaries{}, err
	}
	built.dir = dir
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, c := range commands {
		// Without symbol tables: the API server links in half the time and memory.
		cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path(c.name), c.pkg)
		cmd.Dir = c.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return Binaries{}, fmt.Errorf("build %s: %w\n%s", c.pkg, err, out)
		}
	}
	return Binaries{
		Etcd: path("etcd"), APIServer: path("kube-apiserver"),
		Plugin: path("kmsplugin"), PassThrough: path("passthrough"),
	}, nil
}
