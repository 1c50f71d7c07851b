package kmsv2_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	kmsapi "k8s.io/kms/apis/v2"
	"k8s.io/kms/pkg/service"
	"k8s.io/kms/pkg/util"

	"github.com/keyfold/keyfold/kmsv2"
)

// fixedService answers with what a KMS may answer, or does what it is told.
type fixedService struct {
	status  func(ctx context.Context) error
	encrypt func(ctx context.Context, data []byte) (*service.EncryptResponse, error)
	decrypt func(ctx context.Context, req *service.DecryptRequest) ([]byte, error)
}

func (f fixedService) Status(ctx context.Context) (*service.StatusResponse, error) {
	if f.status != nil {
		if err := f.status(ctx); err != nil {
			return nil, err
		}
	}
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: "1"}, nil
}

func (f fixedService) Encrypt(ctx context.Context, _ string, data []byte) (*service.EncryptResponse, error) {
	if f.encrypt != nil {
		return f.encrypt(ctx, data)
	}
	return &service.EncryptResponse{Ciphertext: data, KeyID: "1"}, nil
}

func (f fixedService) Decrypt(ctx context.Context, _ string, req *service.DecryptRequest) ([]byte, error) {
	if f.decrypt != nil {
		return f.decrypt(ctx, req)
	}
	return req.Ciphertext, nil
}

// serve runs a server until the test ends.
func serve(t testing.TB, endpoint string, o kmsv2.ListenOptions, svc service.Service) *kmsv2.Server {
	t.Helper()
	srv := kmsv2.NewServer(svc, kmsv2.ServerOptions{})
	l, err := kmsv2.Listen(endpoint, o)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return srv
}

// dial connects as an API server does, but does not wait for a server that is not
// there.
func dial(t testing.TB, endpoint string) kmsapi.KeyManagementServiceClient {
	return kmsapi.NewKeyManagementServiceClient(dialConn(t, endpoint))
}

func dialConn(t testing.TB, endpoint string) *grpc.ClientConn {
	t.Helper()
	addr, err := util.ParseEndpoint(endpoint)
	must(t, err)
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			return net.DialUnix("unix", nil, &net.UnixAddr{Name: addr})
		}))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestServerRoundTrip(t *testing.T) {
	for name, endpoint := range map[string]string{
		"path":     "unix://" + filepath.Join(socketFolder(t), "kms.sock"),
		"abstract": abstractName(t),
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, setup{ring: oneKey(t)})
			serve(t, endpoint, kmsv2.ListenOptions{}, p)
			client := dial(t, endpoint)
			ctx := within(t, 10*time.Second)
			s, err := client.Status(ctx, &kmsapi.StatusRequest{})
			must(t, err)
			e, err := client.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: []byte("seed"), Uid: "1"})
			must(t, err)
			if s.Version != "v2" || s.Healthz != "ok" || e.KeyId != s.KeyId {
				t.Errorf("Status %v, Encrypt under %q", s, e.KeyId)
			}
			d, err := client.Decrypt(ctx, &kmsapi.DecryptRequest{Ciphertext: e.Ciphertext, KeyId: e.KeyId, Annotations: e.Annotations})
			must(t, err)
			if string(d.Plaintext) != "seed" {
				t.Errorf("Decrypt = %q", d.Plaintext)
			}

			_, err = client.Decrypt(ctx, &kmsapi.DecryptRequest{})
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "key id") {
				t.Errorf("an empty request: %v", err)
			}
			_, err = client.Encrypt(ctx, &kmsapi.EncryptRequest{})
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("an empty request: %v", err)
			}
			_, err = client.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: make([]byte, mib)})
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "remedy:") {
				t.Errorf("1 MiB: %v", err)
			}
			_, err = client.Encrypt(ctx, &kmsapi.EncryptRequest{Plaintext: make([]byte, 16*mib)})
			if status.Code(err) != codes.ResourceExhausted {
				t.Errorf("16 MiB: %v", err)
			}
		})
	}
}

func TestPanicIsOneRequestsError(t *testing.T) {
	endpoint := "unix://" + filepath.Join(socketFolder(t), "s")
	log := &logBuffer{}
	secret := "the plaintext in a panic"
	svc := fixedService{
		encrypt: func(context.Context, []byte) (*service.EncryptResponse, error) { panic(secret) },
		decrypt: func(_ context.Context, r *service.DecryptRequest) ([]byte, error) { return r.Ciphertext[:1000], nil },
	}
	srv := kmsv2.NewServer(svc, kmsv2.ServerOptions{Logger: slog.New(slog.NewTextHandler(log, nil))})
	l, err := kmsv2.Listen(endpoint, kmsv2.ListenOptions{})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, l) }()

	client := dial(t, endpoint)
	_, err = client.Encrypt(within(t, 5*time.Second), &kmsapi.EncryptRequest{Plaintext: []byte("x")})
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), secret) {
		t.Errorf("a panic: %v", err)
	}
	_, err = client.Decrypt(within(t, 5*time.Second), &kmsapi.DecryptRequest{Ciphertext: []byte("xyz")})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "out of range") {
		t.Errorf("a panic of the runtime: %v", err)
	}
	if _, err := client.Status(within(t, 5*time.Second), &kmsapi.StatusRequest{}); err != nil {
		t.Errorf("after two panics: %v", err)
	}
	if n := srv.Panics(); n != 2 {
		t.Errorf("%d panics counted", n)
	}
	if !strings.Contains(log.String(), "server_test.go") || strings.Contains(log.String(), secret) {
		t.Errorf("the log:\n%s", log)
	}
	cancel()
	must(t, <-served)
}

// Requests under way end well, new ones are not taken.
func TestDrain(t *testing.T) {
	path := filepath.Join(socketFolder(t), "s")
	entered, release := make(chan struct{}), make(chan struct{})
	svc := fixedService{status: func(context.Context) error {
		close(entered)
		<-release
		return nil
	}}
	srv := kmsv2.NewServer(svc, kmsv2.ServerOptions{DrainTimeout: time.Minute})
	l, err := kmsv2.Listen("unix://"+path, kmsv2.ListenOptions{})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, l) }()
	answered := make(chan error, 1)
	client := dial(t, "unix://"+path)
	go func() {
		_, err := client.Status(context.Background(), &kmsapi.StatusRequest{})
		answered <- err
	}()
	<-entered
	cancel()
	for {
		conn, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		conn.Close()
	}
	select {
	case err := <-served:
		t.Fatalf("Serve returned %v with a request under way", err)
	default:
	}
	close(release)
	must(t, <-answered)
	must(t, <-served)
}

// A request that never ends does not hold the server for ever.
func TestDrainIsBounded(t *testing.T) {
	path := filepath.Join(socketFolder(t), "s")
	entered, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	svc := fixedService{status: func(context.Context) error {
		close(entered)
		<-release
		return nil
	}}
	srv := kmsv2.NewServer(svc, kmsv2.ServerOptions{DrainTimeout: time.Millisecond})
	l, err := kmsv2.Listen("unix://"+path, kmsv2.ListenOptions{})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, l) }()
	answered := make(chan error, 1)
	client := dial(t, "unix://"+path)
	go func() {
		_, err := client.Status(context.Background(), &kmsapi.StatusRequest{})
		answered <- err
	}()
	<-entered
	cancel()
	must(t, <-served)
	if err := <-answered; status.Code(err) != codes.Unavailable {
		t.Errorf("the request that was cut off: %v", err)
	}
}

// A context that has ended already: the socket goes, and nothing is wrong.
func TestServeAfterTheEnd(t *testing.T) {
	for range 50 {
		path := filepath.Join(socketFolder(t), "s")
		l, err := kmsv2.Listen("unix://"+path, kmsv2.ListenOptions{})
		must(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		must(t, kmsv2.NewServer(fixedService{}, kmsv2.ServerOptions{}).Serve(ctx, l))
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			t.Fatal("somebody still listens")
		}
	}
}

func TestServeReportsItsListener(t *testing.T) {
	srv := kmsv2.NewServer(fixedService{}, kmsv2.ServerOptions{})
	broken := errors.New("broken listener")
	if err := srv.Serve(context.Background(), brokenListener{broken}); !errors.Is(err, broken) {
		t.Errorf("Serve = %v", err)
	}
}

type brokenListener struct{ err error }

func (b brokenListener) Accept() (net.Conn, error) { return nil, b.err }
func (b brokenListener) Close() error              { return nil }
func (b brokenListener) Addr() net.Addr            { return &net.UnixAddr{} }

func TestFactory(t *testing.T) {
	p := start(t, setup{ring: oneKey(t)})
	next := errors.New("passed on")
	var passed []string
	factory := kmsv2.Factory(p, func(name string) bool { return name == "ours" },
		func(_ context.Context, endpoint, name string, timeout time.Duration) (service.Service, error) {
			passed = append(passed, endpoint, name, timeout.String())
			return nil, next
		})
	if _, err := factory(context.Background(), "tcp://theirs", "theirs", time.Second); err != next ||
		strings.Join(passed, " ") != "tcp://theirs theirs 1s" {
		t.Errorf("another provider: %v, passed on %v", err, passed)
	}
	if _, err := factory(context.Background(), "tcp://x", "ours", time.Second); err == nil {
		t.Error("an endpoint that is no unix URL is accepted")
	}
	// A configuration that is reloaded ends its context; the service goes on.
	ctx, cancel := context.WithCancel(context.Background())
	svc, err := factory(ctx, "unix:///unused", "ours", 3*time.Second)
	must(t, err)
	cancel()
	s, err := svc.Status(context.Background())
	must(t, err)
	e, err := svc.Encrypt(context.Background(), "", []byte("seed"))
	must(t, err)
	d, err := svc.Decrypt(context.Background(), "", request(e))
	must(t, err)
	if e.KeyID != s.KeyID || string(d) != "seed" {
		t.Errorf("%q under %q, Status %q", d, e.KeyID, s.KeyID)
	}
	if _, err := svc.Encrypt(context.Background(), "", nil); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an empty plaintext: %v", err)
	}
}

// inProcess is svc behind Factory.
func inProcess(t *testing.T, svc service.Service, timeout time.Duration) service.Service {
	t.Helper()
	made, err := kmsv2.Factory(svc, func(string) bool { return true }, nil)(context.Background(), "unix:///unused", "ours", timeout)
	must(t, err)
	return made
}

// Neither side ever sees the other's slices: what one of them does later is its own
// business.
func TestFactorySharesNoSlices(t *testing.T) {
	var kept [][]byte
	svc := inProcess(t, fixedService{
		encrypt: func(_ context.Context, data []byte) (*service.EncryptResponse, error) {
			kept = append(kept, data)
			out := []byte("ciphertext")
			note := []byte("annotation")
			kept = append(kept, out, note)
			return &service.EncryptResponse{Ciphertext: out, KeyID: "1", Annotations: map[string][]byte{"a.b": note}}, nil
		},
		decrypt: func(_ context.Context, r *service.DecryptRequest) ([]byte, error) {
			out := []byte("plaintext")
			kept = append(kept, r.Ciphertext, r.Annotations["a.b"], out)
			return out, nil
		},
	}, time.Minute)
	plaintext := []byte("seed")
	e, err := svc.Encrypt(context.Background(), "", plaintext)
	must(t, err)
	sent := request(e)
	d, err := svc.Decrypt(context.Background(), "", sent)
	must(t, err)
	for _, k := range kept {
		clear(k)
	}
	if string(plaintext) != "seed" || string(e.Ciphertext) != "ciphertext" ||
		string(sent.Annotations["a.b"]) != "annotation" || string(d) != "plaintext" {
		t.Errorf("%q %q %q %q", plaintext, e.Ciphertext, sent.Annotations["a.b"], d)
	}
	if bytes.Equal(kept[0], plaintext) {
		t.Error("the test clears nothing")
	}
}

// The call time-out holds even for a service that does not look at its context,
// and a panic does not end the API server.
func TestFactoryGuardsTheCaller(t *testing.T) {
	release := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	svc := inProcess(t, fixedService{
		status: func(context.Context) error {
			defer wg.Done()
			<-release
			return nil
		},
		encrypt: func(context.Context, []byte) (*service.EncryptResponse, error) { panic("secret") },
	}, 10*time.Millisecond)
	if _, err := svc.Status(context.Background()); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a service that hangs: %v", err)
	}
	close(release)
	wg.Wait()
	if _, err := svc.Encrypt(context.Background(), "", []byte("x")); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("a service that panics: %v", err)
	}
}
