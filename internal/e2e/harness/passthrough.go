package harness

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// PassThrough is the control of the cases about KMS v1: a plugin that asks the
// HSM for each object.
type PassThrough struct {
	Process  *Process
	Provider Provider
}

// StartPassThrough starts one over the HSM of k and waits until it listens.
func StartPassThrough(t testing.TB, k *Keyfold) *PassThrough {
	t.Helper()
	socket := filepath.Join(filepath.Dir(k.Socket), "passthrough.sock")
	p := &PassThrough{
		Provider: Provider{Name: "passthrough", API: "v1", Endpoint: "unix://" + socket},
		Process: NewProcess(t, t.ArtifactDir(), Command{Name: "passthrough", Path: Build(t).PassThrough, Args: []string{
			"-socket=" + socket, "-hsmsim-dir=" + k.hsmDir, "-key-name=" + keyName,
		}}),
	}
	p.Process.Start(t)
	Eventually(t, 30*time.Second, "the control listens", func(ctx context.Context) error {
		if err := p.Process.mustRun(); err != nil {
			return err
		}
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err != nil {
			return fmt.Errorf("dial: %w", err)
		}
		return conn.Close()
	})
	return p
}
