package harness

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Etcd is an etcd process and a client that sees what is really stored.
type Etcd struct {
	*Process
	URL     string
	client  *clientv3.Client
	dataDir string
}

// StartEtcd starts an etcd on loopback and waits until it answers.
func StartEtcd(t testing.TB, bins Binaries, dir, logDir string) *Etcd {
	t.Helper()
	e := &Etcd{URL: "http://" + freeAddress(t), dataDir: filepath.Join(dir, "etcd")}
	peer := "http://" + freeAddress(t)
	e.Process = NewProcess(t, logDir, Command{Name: "etcd", Path: bins.Etcd, Args: []string{
		"--name=e2e", "--data-dir=" + e.dataDir,
		"--listen-client-urls=" + e.URL, "--advertise-client-urls=" + e.URL,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=e2e=" + peer,
		// No case takes the machine's power away, so nothing is lost by not
		// waiting for the disk.
		"--unsafe-no-fsync", "--log-level=warn",
	}})
	e.Start(t)
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{e.URL}, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		MaxCallRecvMsgSize: 256 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	e.client = client
	Eventually(t, 30*time.Second, "etcd answers", func(ctx context.Context) error {
		if err := e.mustRun(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := client.Get(ctx, "/")
		return err
	})
	return e
}

// Values returns every value under a key prefix, as etcd stores it.
func (e *Etcd) Values(t testing.TB, prefix string) map[string][]byte {
	t.Helper()
	got, err := e.client.Get(t.Context(), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string][]byte, len(got.Kvs))
	for _, kv := range got.Kvs {
		values[string(kv.Key)] = kv.Value
	}
	return values
}

// Objects returns the stored values of a resource ("secrets", "configmaps") in a
// namespace.
func (e *Etcd) Objects(t testing.TB, resource, namespace string) map[string][]byte {
	t.Helper()
	return e.Values(t, "/registry/"+resource+"/"+namespace+"/")
}

// Find returns where secret stands in what etcd holds: in the present value of
// any key at all, or anywhere in its files, which remember every earlier value.
// It looks for the bytes themselves and for their base64 at all three alignments.
func (e *Etcd) Find(t testing.TB, secret []byte) []string {
	t.Helper()
	forms := disguises(secret)
	var places []string
	look := func(place string, b []byte) {
		for _, f := range forms {
			if bytes.Contains(b, f) {
				places = append(places, fmt.Sprintf("%s (as %q)", place, f))
			}
		}
	}
	for key, value := range e.Values(t, "/") {
		look(key, value)
	}
	err := filepath.WalkDir(e.dataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		look(path, b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return places
}

// disguises returns the bytes and the parts of their base64 that do not depend
// on what stands before and after them.
func disguises(secret []byte) [][]byte {
	forms := [][]byte{secret}
	for shift := range 3 {
		padded := append(make([]byte, shift), secret...)
		padded = padded[:len(padded)-len(padded)%3]
		text := base64.StdEncoding.EncodeToString(padded)
		if shift > 0 {
			text = text[4:]
		}
		forms = append(forms, []byte(text))
	}
	return forms
}
