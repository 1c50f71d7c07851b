package kmstest_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	kmsapi "k8s.io/kms/apis/v2"
	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/internal/bubble"
	"github.com/keyfold/keyfold/kmsv2/kmstest"
)

// TestCorrectService: nothing that keeps the contract is accused, in process.
func TestCorrectService(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		m := newMemory()
		for _, r := range kmstest.Check(t.Context(), m, m.options()) {
			if want := outcomeInProcess(r.Rule); r.Outcome != want {
				t.Errorf("%s: %s, want %s: %v", r.Rule.Name, r.Outcome, want, r.Err)
			}
		}
	})
}

// outcomeInProcess: only the rule about the socket has nothing to look at.
func outcomeInProcess(r kmstest.Rule) kmstest.Outcome {
	if r.Name == "wire-garbage" {
		return kmstest.Skipped
	}
	return kmstest.Passed
}

// TestCorrectPlugin: nor through a socket, a path or an abstract name.
func TestCorrectPlugin(t *testing.T) {
	for _, abstract := range []bool{false, true} {
		t.Run(fmt.Sprintf("abstract=%v", abstract), func(t *testing.T) {
			m := newMemory()
			endpoint := "unix://" + socketPath(t)
			if abstract {
				endpoint = fmt.Sprintf("unix:///@kmstest-%d", os.Getpid())
			}
			serve(t, endpoint, m)
			kmstest.Run(t, endpoint, m.options())
		})
	}
}

// TestMissingHooks: what cannot be judged is skipped, with the reason, never passed.
func TestMissingHooks(t *testing.T) {
	needs := map[string]string{"rotation": "Options.Rotate", "restart": "Options.Restart", "revoked": "Options.Revoke", "restored": "Options.Revoke"}
	bubble.Test(t, func(t *testing.T) {
		skipped := 0
		for _, r := range kmstest.Check(t.Context(), newMemory(), kmstest.Options{}) {
			group, _, _ := strings.Cut(r.Rule.Name, "-")
			hook, want := needs[group]
			if !want {
				continue
			}
			skipped++
			if r.Outcome != kmstest.Skipped || !strings.Contains(r.Err.Error(), hook) {
				t.Errorf("%s: %s, %v; want it skipped for want of %s", r.Rule.Name, r.Outcome, r.Err, hook)
			}
		}
		if skipped != 10 {
			t.Errorf("%d rules need hooks, want 10", skipped)
		}
	})
}

// TestContractNamesEveryRule keeps CONTRACT.md and the rules together, both ways.
func TestContractNamesEveryRule(t *testing.T) {
	text, err := os.ReadFile("CONTRACT.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{} // "row name"
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) < 3 {
			continue
		}
		for name := range strings.SplitSeq(cells[len(cells)-1], ", ") {
			if strings.Contains(name, "-") && len(name) > 1 || name == "reachable" || name == "latency" {
				named[cells[0]+" "+name] = true
			}
		}
	}
	delete(named, "2 reachable") // its row is 1, and it is about both
	names := map[string]bool{}
	for _, r := range kmstest.Rules() {
		if names[r.Name] {
			t.Errorf("two rules are called %s", r.Name)
		}
		names[r.Name] = true
		key := fmt.Sprintf("%d %s", r.Row, r.Name)
		if !named[key] {
			t.Errorf("row %d of CONTRACT.md does not name %s", r.Row, r.Name)
		}
		delete(named, key)
		if r.Text == "" {
			t.Errorf("%s has no text", r.Name)
		}
	}
	for left := range named {
		t.Errorf("CONTRACT.md names a rule that does not exist: %s", left)
	}
}

// serve makes a plugin of svc, on the stock gRPC server.
func serve(t *testing.T, endpoint string, svc service.Service) {
	t.Helper()
	addr := strings.TrimPrefix(strings.TrimPrefix(endpoint, "unix://"), "/@")
	if addr != strings.TrimPrefix(endpoint, "unix://") {
		addr = "@" + addr
	}
	l, err := net.Listen("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, svc)
}

func serveOn(t *testing.T, l net.Listener, svc service.Service, o ...grpc.ServerOption) {
	t.Helper()
	srv := grpc.NewServer(o...)
	kmsapi.RegisterKeyManagementServiceServer(srv, service.NewGRPCService("", 0, svc))
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Stop()
		<-done
	})
}

// socketPath returns a path short enough for a socket: t.TempDir may exceed the 107
// bytes that a unix address has.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kmstest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "kms.sock")
}
