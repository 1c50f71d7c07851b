package v1beta1_test

//lint:file-ignore SA1019 KMS v1 is deprecated; what it wrote has to be served all the same.

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	v1 "k8s.io/kms/apis/v1beta1"
	v2 "k8s.io/kms/apis/v2"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
	"github.com/keyfold/keyfold/kmsv2"
	"github.com/keyfold/keyfold/kmsv2/v1beta1"
	"github.com/keyfold/keyfold/rotation"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// plugin serves both APIs on one socket.
type plugin struct {
	v1  v1.KeyManagementServiceClient
	v2  v2.KeyManagementServiceClient
	hsm *hsmsim.HSM
	dir string
}

func start(t *testing.T) *plugin {
	t.Helper()
	dir, err := os.MkdirTemp("", "v1")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &plugin{dir: filepath.Join(dir, "hsm")}
	p.hsm, err = hsmsim.Open(p.dir, hsmsim.Options{})
	must(t, err)
	t.Cleanup(func() { p.hsm.Close() })
	version, err := p.hsm.CreateKey(t.Context(), "kek", hsmsim.AES256)
	must(t, err)
	p.serve(t, filepath.Join(dir, "s"), version.Version)
	return p
}

// serve starts a process's worth of plugin.
func (p *plugin) serve(t *testing.T, path, version string) (stop func()) {
	t.Helper()
	kek, err := p.hsm.KEK(hsmsim.Ref{Name: "kek", Version: version})
	must(t, err)
	ring, err := rotation.New(rotation.Config{Current: rotation.Key{KEK: kek}}, rotation.Options{})
	must(t, err)
	svc, err := kmsv2.New(ring, kmsv2.Options{})
	must(t, err)
	l, err := kmsv2.Listen("unix://"+path, kmsv2.ListenOptions{})
	must(t, err)
	srv := kmsv2.NewServer(svc, kmsv2.ServerOptions{})
	v1beta1.Register(srv, svc)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- svc.Run(ctx) }()
	go func() { ended <- srv.Serve(ctx, l) }()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	must(t, err)
	p.v1, p.v2 = v1.NewKeyManagementServiceClient(conn), v2.NewKeyManagementServiceClient(conn)
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		conn.Close()
		cancel()
		must(t, <-ended)
		must(t, <-ended)
	}
	t.Cleanup(stop)
	return stop
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestVersion(t *testing.T) {
	p := start(t)
	r, err := p.v1.Version(within(t), &v1.VersionRequest{Version: "v1beta1"})
	must(t, err)
	semver := regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
	if r.Version != "v1beta1" || r.RuntimeName != "keyfold" || !semver.MatchString(r.RuntimeVersion) {
		t.Errorf("Version = %v", r)
	}
}

// The first request of a process may be this one: what the API server's health check
// sends. It waits for the key.
func TestProbe(t *testing.T) {
	p := start(t)
	e, err := p.v1.Encrypt(within(t), &v1.EncryptRequest{Version: "v1beta1", Plain: []byte("ping")})
	must(t, err)
	d, err := p.v1.Decrypt(within(t), &v1.DecryptRequest{Version: "v1beta1", Cipher: e.Cipher})
	must(t, err)
	if string(d.Plain) != "ping" {
		t.Errorf("Decrypt = %q", d.Plain)
	}
}

func TestBothAPIsOnOneSocket(t *testing.T) {
	p := start(t)
	one, err := p.v1.Encrypt(within(t), &v1.EncryptRequest{Plain: []byte("object key")})
	must(t, err)
	two, err := p.v2.Encrypt(within(t), &v2.EncryptRequest{Plaintext: []byte("seed")})
	must(t, err)
	h, _, err := envelope.Inspect(one.Cipher)
	must(t, err)
	if h.Wraps[0].KeyID != two.KeyId {
		t.Errorf("v1 under %q, v2 under %q", h.Wraps[0].KeyID, two.KeyId)
	}
	// The same DEK, and still neither opens the other's.
	header, message, err := envelope.Split(one.Cipher)
	must(t, err)
	_, err = p.v2.Decrypt(within(t), &v2.DecryptRequest{
		Ciphertext: message, KeyId: two.KeyId, Annotations: map[string][]byte{kmsv2.AnnotationHeader: header},
	})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("v1 data through v2: %v", err)
	}
	_, err = p.v1.Decrypt(within(t), &v1.DecryptRequest{
		Cipher: append(bytes.Clone(two.Annotations[kmsv2.AnnotationHeader]), two.Ciphertext...),
	})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("v2 data through v1: %v", err)
	}
}

// The wall that this package is there to break: a cold read of many objects costs
// one call for each data key, not one for each object.
func TestColdReadOfManyObjects(t *testing.T) {
	p := start(t)
	const objects = 2500
	ciphers := make([][]byte, objects)
	for i := range ciphers {
		e, err := p.v1.Encrypt(within(t), &v1.EncryptRequest{Plain: []byte{byte(i), byte(i >> 8), 1}})
		must(t, err)
		ciphers[i] = e.Cipher
	}
	key, err := p.hsm.Key(t.Context(), "kek", "")
	must(t, err)
	cold := &plugin{hsm: p.hsm, dir: p.dir}
	dir, err := os.MkdirTemp("", "v1")
	must(t, err)
	defer os.RemoveAll(dir)
	cold.serve(t, filepath.Join(dir, "s"), key.Version)
	_, err = cold.v1.Encrypt(within(t), &v1.EncryptRequest{Plain: []byte("ping")})
	must(t, err)
	before := unwraps(t, p.dir)
	for i, c := range ciphers {
		d, err := cold.v1.Decrypt(within(t), &v1.DecryptRequest{Cipher: c})
		must(t, err)
		if !bytes.Equal(d.Plain, []byte{byte(i), byte(i >> 8), 1}) {
			t.Fatalf("object %d opens to %x", i, d.Plain)
		}
	}
	// The rings' probes unwrap as well, every 15 s.
	if n := unwraps(t, p.dir) - before; n > 10 {
		t.Errorf("%d unwraps for %d objects", n, objects)
	}
}

func unwraps(t *testing.T, dir string) (n int) {
	t.Helper()
	for e, err := range hsmsim.ReadLog(dir) {
		must(t, err)
		if e.Operation == hsmsim.OpUnwrapKey {
			n++
		}
	}
	return n
}

// What the handler refuses arrives with the same code at the other end, 1 MiB of it
// included.
func TestBadRequestsOverTheSocket(t *testing.T) {
	p := start(t)
	good, err := p.v1.Encrypt(within(t), &v1.EncryptRequest{Plain: []byte("object key")})
	must(t, err)
	foreign, err := start(t).v1.Encrypt(within(t), &v1.EncryptRequest{Plain: []byte("object key")})
	must(t, err)
	for name, c := range map[string]struct {
		cipher []byte
		code   codes.Code
	}{
		"empty":          {nil, codes.InvalidArgument},
		"cut":            {good.Cipher[:len(good.Cipher)-1], codes.InvalidArgument},
		"1 MiB of zeros": {make([]byte, mib), codes.InvalidArgument},
		"another ring's": {foreign.Cipher, codes.NotFound},
	} {
		if r, err := p.v1.Decrypt(within(t), &v1.DecryptRequest{Cipher: c.cipher}); r != nil || status.Code(err) != c.code {
			t.Errorf("%s: %v, %v; want %v", name, r, err, c.code)
		}
	}
	for _, size := range []int{0, mib} {
		r, err := p.v1.Encrypt(within(t), &v1.EncryptRequest{Plain: make([]byte, size)})
		if r != nil || status.Code(err) != codes.InvalidArgument {
			t.Errorf("a plaintext of %d bytes: %v, %v", size, r, err)
		}
	}
}
