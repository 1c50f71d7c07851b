package harness

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	kmsapi "k8s.io/kms/apis/v2"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/internal/e2e/config"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// A Mode is how an API server reaches Keyfold.
type Mode struct {
	Name      string
	API       string // "v1" or "v2"
	InProcess bool
}

// The modes that the cases run in.
var (
	SocketV2    = Mode{Name: "v2-socket", API: "v2"}
	InProcessV2 = Mode{Name: "v2-inprocess", API: "v2", InProcess: true}
	SocketV1    = Mode{Name: "v1-socket", API: "v1"}
)

// keyName is the name of the key in the HSM.
const keyName = "kek"

// Keyfold is the service under test: a plugin process, or a part of the API
// server, over a simulated HSM that the test has opened as well.
type Keyfold struct {
	Mode
	// HSM is the test's own handle of the HSM, seen by Keyfold within a second.
	HSM *hsmsim.HSM
	// Process is the plugin; nil in process.
	Process *Process
	// Socket is the path of the plugin's socket.
	Socket string

	hsmDir     string
	configPath string
	file       config.File
}

// newKeyfold makes an HSM with one key and the configuration to use it.
func newKeyfold(t testing.TB, bins Binaries, mode Mode, spec hsmsim.KeySpec, dir, logDir string) *Keyfold {
	t.Helper()
	k := &Keyfold{
		Mode: mode, Socket: filepath.Join(dir, "kms.sock"),
		hsmDir: filepath.Join(dir, "hsm"), configPath: filepath.Join(dir, "keyfold.yaml"),
	}
	k.HSM = openHSM(t, k.hsmDir)
	key, err := k.HSM.CreateKey(t.Context(), keyName, spec)
	if err != nil {
		t.Fatal(err)
	}
	k.file = config.File{
		StateDir: filepath.Join(dir, "state"),
		Provider: config.Provider{Name: "hsmsim", Dir: k.hsmDir},
		Ring:     config.Ring{Current: config.Key{Name: keyName, Version: key.Version}},
	}
	if !mode.InProcess {
		k.file.ListenAddr = "unix://" + k.Socket
		k.Process = NewProcess(t, logDir, Command{
			Name: "kmsplugin", Path: bins.Plugin, Args: []string{"--config=" + k.configPath},
		})
	}
	k.save(t)
	return k
}

func openHSM(t testing.TB, dir string) *hsmsim.HSM {
	t.Helper()
	hsm, err := hsmsim.Open(dir, hsmsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hsm.Close() })
	return hsm
}

// Provider is Keyfold's entry in the encryption configuration.
func (k *Keyfold) Provider() Provider {
	if k.InProcess {
		return k.InProcessProvider()
	}
	return k.PluginProvider(k.API)
}

// PluginProvider is the plugin's entry for one KMS version; it serves both.
func (k *Keyfold) PluginProvider(api string) Provider {
	return Provider{Name: "keyfold-" + api, API: api, Endpoint: "unix://" + k.Socket}
}

// InProcessProvider is the entry that an API server with Keyfold inside serves
// itself. Nobody listens on its endpoint.
func (k *Keyfold) InProcessProvider() Provider {
	return Provider{Name: "keyfold-inprocess", API: "v2", Endpoint: "unix:///in-process"}
}

// Version is the version of the key that is current in the configuration.
func (k *Keyfold) Version() string { return k.file.Ring.Current.Version }

// Rotate makes a new version of the key in the HSM, and it current, and what was
// current previous, in the configuration that the running service follows.
func (k *Keyfold) Rotate(t testing.TB) (version string) {
	t.Helper()
	key, err := k.HSM.Rotate(t.Context(), keyName)
	if err != nil {
		t.Fatal(err)
	}
	previous := k.file.Ring.Current
	k.file.Ring.Previous = &previous
	k.file.Ring.Current = config.Key{Name: keyName, Version: key.Version}
	k.save(t)
	return key.Version
}

func (k *Keyfold) save(t testing.TB) {
	t.Helper()
	if err := k.file.Save(k.configPath); err != nil {
		t.Fatal(err)
	}
}

// KeyID is the key id that a wrap under the version carries.
func (k *Keyfold) KeyID(t testing.TB, version string) string {
	t.Helper()
	kek, err := k.HSM.KEK(hsmsim.Ref{Name: keyName, Version: version})
	if err != nil {
		t.Fatal(err)
	}
	id, ok := envelope.As[envelope.Identifier](kek)
	if !ok {
		t.Fatalf("version %s of the key has no key id", version)
	}
	return id.KeyID()
}

// SetEnabled enables or disables a version of the key.
func (k *Keyfold) SetEnabled(t testing.TB, version string, enabled bool) {
	t.Helper()
	if err := k.HSM.SetEnabled(t.Context(), keyName, version, enabled); err != nil {
		t.Fatal(err)
	}
}

// SetExpiry sets when a version of the key expires; zero is never.
func (k *Keyfold) SetExpiry(t testing.TB, version string, at time.Time) {
	t.Helper()
	if err := k.HSM.SetExpiry(t.Context(), keyName, version, at); err != nil {
		t.Fatal(err)
	}
}

// SetFaults disturbs the HSM for every process that has it open, from the next
// operation on; the zero Faults end that.
func (k *Keyfold) SetFaults(t testing.TB, f hsmsim.Faults) {
	t.Helper()
	if err := hsmsim.WriteFaults(k.hsmDir, f); err != nil {
		t.Fatal(err)
	}
}

// HSMDir is the folder of the HSM.
func (k *Keyfold) HSMDir() string { return k.hsmDir }

// OperationLog returns what a process has asked of the HSM since a time, in order.
func (k *Keyfold) OperationLog(t testing.TB, pid int, since time.Time) []hsmsim.LogEntry {
	t.Helper()
	var log []hsmsim.LogEntry
	for e, err := range hsmsim.ReadLog(k.hsmDir) {
		if err != nil {
			t.Fatal(err)
		}
		if e.PID == pid && !e.Time.Before(since) {
			log = append(log, e)
		}
	}
	return log
}

// CountOperations counts what was asked of the HSM by operation and result, as in
// "unwrapKey ok".
func CountOperations(log []hsmsim.LogEntry) map[string]int {
	counts := make(map[string]int)
	for _, e := range log {
		counts[string(e.Operation)+" "+e.Result]++
	}
	return counts
}

// Operations is [CountOperations] of [Keyfold.OperationLog].
func (k *Keyfold) Operations(t testing.TB, pid int, since time.Time) map[string]int {
	t.Helper()
	return CountOperations(k.OperationLog(t, pid, since))
}

// Start starts the plugin, if there is one, and waits until it serves.
func (k *Keyfold) Start(t testing.TB) time.Duration {
	t.Helper()
	if k.Process == nil {
		return 0
	}
	k.Process.Start(t)
	client := k.Dial(t)
	return Eventually(t, 30*time.Second, "the plugin serves", func(ctx context.Context) error {
		if err := k.Process.mustRun(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		_, err := client.Status(ctx, &kmsapi.StatusRequest{})
		return err
	})
}

// LoseState removes the state folder, as a node that is set up anew does.
func (k *Keyfold) LoseState(t testing.TB) {
	t.Helper()
	if err := os.RemoveAll(k.file.StateDir); err != nil {
		t.Fatal(err)
	}
}

// Kill ends the plugin, if there is one, with SIGKILL.
func (k *Keyfold) Kill() {
	if k.Process != nil {
		k.Process.Kill()
	}
}

// Dial returns a client of the plugin's socket, as an API server has one, so
// that a case can see what the plugin itself answers.
func (k *Keyfold) Dial(t testing.TB) kmsapi.KeyManagementServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+k.Socket, grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return kmsapi.NewKeyManagementServiceClient(conn)
}
