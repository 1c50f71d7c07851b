package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// faults disturbs the HSM of a running plugin; the zero value ends it.
func (p *place) faults(f hsmsim.Faults) {
	p.t.Helper()
	if err := os.MkdirAll(p.hsm, 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := hsmsim.WriteFaults(p.hsm, f); err != nil {
		p.t.Fatal(err)
	}
}

// TestHealthEndpoints: healthy, then without its vault from the start. Readiness
// follows the vault; liveness does not, or a kubelet would kill a plugin for an
// outage that a restart only makes worse.
func TestHealthEndpoints(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.create("kek")
	p.faults(hsmsim.Faults{Outage: true})
	port := freePort(t)
	start(t, p.args("--key-name", "kek", "--healthz-port", port, "--healthz-path", "/ready", "--healthz-timeout", "2s")...)
	url := "http://127.0.0.1:" + port

	if code, body := get(t, url+"/livez"); code != http.StatusOK {
		t.Errorf("/livez in an outage: %d %s", code, body)
	}
	if code, body := get(t, url+"/ready"); code != http.StatusServiceUnavailable || strings.TrimSpace(body) == "" {
		t.Errorf("/ready in an outage: %d %q", code, body)
	}
	if code, _ := get(t, url+"/healthz"); code != http.StatusNotFound {
		t.Errorf("/healthz although the path is /ready: %d", code)
	}

	p.faults(hsmsim.Faults{})
	id := p.client().keyID()
	eventually(t, "/ready after the outage", func() error {
		if code, body := get(t, url+"/ready"); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	code, body := get(t, url+"/statusz")
	var status map[string]any
	if err := json.Unmarshal([]byte(body), &status); err != nil || code != http.StatusOK {
		t.Fatalf("/statusz: %d %v\n%s", code, err, body)
	}
	if !strings.Contains(body, id) {
		t.Errorf("/statusz does not show the key id %s:\n%s", id, body)
	}

	// A socket without a name in the folder is what only a restart mends.
	if err := os.Remove(p.sock); err != nil {
		t.Fatal(err)
	}
	if code, body := get(t, url+"/livez"); code != http.StatusServiceUnavailable {
		t.Errorf("/livez without a socket: %d %s", code, body)
	}
}

// TestLivezOfEscapedEndpoint: the endpoint is a URL, and liveness asks at the path
// that it means.
func TestLivezOfEscapedEndpoint(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	port := freePort(t)
	start(t, p.args("--key-name", "kek", "--listen-addr", p.endpoint()+"%20x", "--healthz-port", port)...)
	if code, body := get(t, "http://127.0.0.1:"+port+"/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d %s", code, body)
	}
}

// TestSocketServedWithoutVault: a start while the vault is away serves at once;
// Status fails as an RPC, and heals by itself.
func TestSocketServedWithoutVault(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.create("kek")
	p.faults(hsmsim.Faults{Outage: true})
	start(t, p.args("--key-name", "kek")...)
	c := p.client()
	if err := c.status(); err == nil {
		t.Fatal("Status succeeds before the vault has ever answered")
	}
	p.faults(hsmsim.Faults{})
	c.decrypts(c.encryptHealthy("healed"))
}

var metricLine = regexp.MustCompile(`(?m)^(keyfold_[a-z_]+)(\{.*\})? \S+$`)

func TestMetrics(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	version := p.create("kek")
	expires := time.Now().Add(90 * 24 * time.Hour).Truncate(time.Second)
	if err := p.openHSM().SetExpiry(t.Context(), "kek", version, expires); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	start(t, p.args("--key-name", "kek", "--metrics-addr", "127.0.0.1:"+port)...)
	c := p.client()
	s := c.encryptHealthy("counted")
	c.decrypts(s)
	forged := sealed{EncryptResponse: s.EncryptResponse, plaintext: s.plaintext}
	forged.Ciphertext = append([]byte{s.Ciphertext[0] ^ 1}, s.Ciphertext[1:]...)
	if err := c.tryDecrypt(c.context(), forged); err == nil {
		t.Fatal("a forged ciphertext opens")
	}

	url := "http://127.0.0.1:" + port + "/metrics"
	wants := []string{
		`keyfold_kms_requests_total{api="v2",operation="encrypt",outcome="ok"} 1`,
		`keyfold_kms_requests_total{api="v2",operation="decrypt",outcome="ok"} 1`,
		`keyfold_kms_requests_total{api="v2",operation="decrypt",outcome="corrupt"} 1`,
		`keyfold_kms_request_duration_seconds_bucket{api="v2",operation="encrypt",le="5e-05"}`,
		`keyfold_kek_operations_total{operation="wrap",outcome="ok"}`,
		`keyfold_kek_health{state="healthy"} 1`,
		`keyfold_kek_health{state="revoked"} 0`,
		`keyfold_dek_age_seconds `,
		`keyfold_dek_cache_hits_total 2`,
		`keyfold_config_last_reload_successful 1`,
		`keyfold_build_info{`,
		`keyfold_key_expiry_timestamp_seconds{key_id_hash="sha256:`,
		fmt.Sprintf(`role="current"} %v`, float64(expires.Unix())),
		`go_goroutines `, `process_open_fds `,
	}
	var body string
	eventually(t, "metrics", func() error {
		_, body = get(t, url)
		for _, want := range wants {
			if !strings.Contains(body, want) {
				return fmt.Errorf("no %s", want)
			}
		}
		return nil
	})
	if strings.Contains(body, s.KeyId) {
		t.Error("a key id is in the metrics in the clear")
	}
	if n := len(metricLine.FindAllString(body, -1)); n > 200 {
		t.Errorf("%d series: labels are not bounded", n)
	}
	if code, _ := get(t, strings.TrimSuffix(url, "/metrics")+"/statusz"); code != http.StatusNotFound {
		t.Errorf("the metrics address also serves /statusz: %d", code)
	}
}

// TestRefusedConfigurationShows: where an operator looks, not in the log alone.
func TestRefusedConfigurationShows(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	metrics, health := freePort(t), freePort(t)
	good := p.configFor("keyName: kek", "metricsAddr: 127.0.0.1:"+metrics, "healthz: {port: "+health+"}")
	config := p.write("config.yaml", good)
	start(t, "--config", config)
	p.client().keyID()
	shows := func(gauge, refused string) {
		t.Helper()
		eventually(t, "the state of the configuration", func() error {
			_, m := get(t, "http://127.0.0.1:"+metrics+"/metrics")
			_, s := get(t, "http://127.0.0.1:"+health+"/statusz")
			var status struct {
				Config struct{ File, Refused string }
			}
			if err := json.Unmarshal([]byte(s), &status); err != nil {
				return err
			}
			if !strings.Contains(m, "keyfold_config_last_reload_successful "+gauge) ||
				status.Config.File != config || !strings.Contains(status.Config.Refused, refused) || (refused == "") != (status.Config.Refused == "") {
				return fmt.Errorf("statusz %+v", status)
			}
			return nil
		})
	}
	shows("1", "")
	p.write("config.yaml", good+"colour: red\n")
	shows("0", "colour")
	p.write("config.yaml", good)
	shows("1", "")
}

// TestDrain: SIGTERM under load. What has been accepted is answered, the socket
// goes, and the process ends with code 0 long before a kubelet's patience.
func TestDrain(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	plugin := start(t, p.args("--key-name", "kek")...)
	c := p.client()
	c.keyID()

	load, stopLoad := context.WithCancel(t.Context())
	defer stopLoad()
	var workers sync.WaitGroup
	results := make(chan error, 1<<16)
	for range 8 {
		workers.Go(func() {
			for i := 0; load.Err() == nil; i++ {
				ctx, cancel := context.WithTimeout(load, time.Second)
				s, err := c.tryEncrypt(ctx, fmt.Sprint("secret ", i))
				if err == nil {
					err = c.tryDecrypt(ctx, s)
				}
				cancel()
				select {
				case results <- err:
				default:
				}
				if err != nil {
					return
				}
			}
		})
	}
	for range 200 { // under way
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	plugin.signal(syscall.SIGTERM)
	if code := plugin.exitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	stopLoad()
	workers.Wait()
	plugin.logLine("kmsplugin stopped")
	if _, err := os.Lstat(p.sock); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// stuck starts a plugin and sends it a request that waits for the vault, and
// returns when it does.
func (p *place) stuck(latency time.Duration) (plugin *process, answered <-chan error) {
	p.t.Helper()
	first := start(p.t, p.args("--key-name", "kek")...)
	s := p.client().encryptHealthy("slow")
	first.kill()

	// Another state folder, hence another data key: the old one must be unwrapped.
	p.state = filepath.Join(p.dir, "state2")
	port := freePort(p.t)
	plugin = start(p.t, p.args("--key-name", "kek", "--metrics-addr", "127.0.0.1:"+port)...)
	c := p.client()
	c.keyID()
	loads := func() string {
		_, body := get(p.t, "http://127.0.0.1:"+port+"/metrics")
		return regexp.MustCompile(`keyfold_dek_cache_loads_total \d+`).FindString(body)
	}
	before := loads()
	p.faults(hsmsim.Faults{Latency: latency})
	done := make(chan error, 1)
	go func() { done <- c.tryDecrypt(c.context(), s) }()
	eventually(p.t, "the request to wait for the vault", func() error {
		if now := loads(); now == before {
			return errors.New(now)
		}
		return nil
	})
	return plugin, done
}

// TestDrainWaitsForSlowRequest: a request that waits for the vault when SIGTERM
// comes is answered.
func TestDrainWaitsForSlowRequest(t *testing.T) {
	t.Parallel()
	plugin, answered := newPlace(t).stuck(2 * time.Second)
	plugin.signal(syscall.SIGTERM)
	if err := <-answered; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	if code := plugin.exitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestDrainIsBounded: a vault that never answers does not keep the plugin.
func TestDrainIsBounded(t *testing.T) {
	t.Parallel()
	plugin, answered := newPlace(t).stuck(time.Hour)
	plugin.signal(syscall.SIGINT)
	if code := plugin.exitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if err := <-answered; err == nil {
		t.Error("answered although the vault never did")
	}
	plugin.logLine("cutting them off")
}

// TestSecondSignalEndsAtOnce: whoever does not want to wait for the drain sends
// the signal again.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	plugin, answered := newPlace(t).stuck(time.Hour)
	plugin.signal(syscall.SIGTERM)
	plugin.logLine("finishing the requests under way")
	plugin.signal(syscall.SIGTERM)
	plugin.exitCode()
	if status := plugin.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGTERM {
		t.Errorf("ended by %v, not by the second signal", plugin.cmd.ProcessState)
	}
	<-answered
}

// TestPortInUse: a start that cannot serve what it was told to serve fails.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	port := freePort(t)
	start(t, p.args("--key-name", "kek", "--metrics-addr", "127.0.0.1:"+port)...)
	p.client().keyID()
	other := newPlace(t)
	code, _, log := runToEnd(t, other.args("--key-name", "kek", "--metrics-addr", "127.0.0.1:"+port)...)
	if code != 1 || !strings.Contains(log, "listen for metrics") {
		t.Errorf("exit code %d, log:\n%s", code, log)
	}
}
