package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kmsapi "k8s.io/kms/apis/v2"

	"github.com/keyfold/keyfold/internal/e2e/harness"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// revocationBound is how soon Keyfold refuses after its current key was
// disabled.
const revocationBound = 60 * time.Second

// loud is what a line of the log has to look like for an operator to notice an
// expired key.
var loud = regexp.MustCompile(`(?i)(level=(WARN|ERROR)|"level":"(WARN|ERROR)").*expired`)

// testExpired: an expired key reads, and the data key wrapped before goes on
// writing, over a cold start of everything, and the log says so.
func testExpired(t *testing.T, c *harness.Cluster) {
	o := c.CreateObjects(t, 10)
	version := c.Keyfold.Version()
	c.Keyfold.SetExpiry(t, version, time.Now().Add(-time.Minute))
	defer func() {
		c.Keyfold.SetExpiry(t, version, time.Time{})
		c.Healthy(t, time.Minute)
	}()

	c.Kill()
	mark := c.KeyfoldProcess().LogMark()
	took := c.Start(t)
	o.ReadBack(t)
	o.Add(t, 10)
	o.ReadBack(t)
	o.StoredUnder(t, c.Keyfold.KeyID(t, version))
	var line string
	harness.Eventually(t, 30*time.Second, "a loud warning is logged", func(context.Context) error {
		if line = loud.FindString(c.KeyfoldProcess().LogSince(mark)); line == "" {
			return errors.New("no warning names the expired key")
		}
		return nil
	})
	t.Logf("key expired, all killed and started: ready after %s, read and written; logged: %s", took.Round(time.Millisecond), line)
}

// revoked is what Keyfold's refusal under a disabled key says, whether it comes
// through a socket or not.
var revoked = regexp.MustCompile(`key (revoked|disabled)`)

// testDisabled: a disabled key is refused within the bound, by every call, and
// all is well again when it is enabled.
func testDisabled(t *testing.T, c *harness.Cluster) {
	o := c.CreateObjects(t, 10)
	version := c.Keyfold.Version()
	var refused func(context.Context) error
	if !c.Keyfold.InProcess {
		refused = pluginRefusal(t, c)
	}

	began := time.Now()
	c.Keyfold.SetEnabled(t, version, false)
	if refused != nil {
		took := harness.Eventually(t, revocationBound, "the plugin refuses", refused)
		t.Logf("key disabled: the plugin refuses Status, Encrypt and Decrypt after %s", took.Round(time.Millisecond))
	}
	// The API server goes by an answer of up to 20 s ago.
	reason := c.Unhealthy(t, revocationBound+20*time.Second-time.Since(began), revoked)
	t.Logf("key disabled: the API server is unhealthy after %s: %s", time.Since(began).Round(time.Millisecond), reason)
	writesStop(t, c, o, began)

	// Only an API server that was running when the key was disabled can read.
	c.Kill()
	if plugin := c.Keyfold.Process; plugin != nil {
		plugin.Start(t)
	}
	c.API.Start(t)
	notRead := func(ctx context.Context) error {
		err := o.ReadOne(ctx)
		if err == nil {
			t.Fatal("a Secret was read after a cold start under a disabled key")
		}
		return err
	}
	harness.Eventually(t, time.Minute, "the API server answers that it cannot read", func(ctx context.Context) error {
		if err := notRead(ctx); !apierrors.IsInternalError(err) {
			return err // it does not serve yet
		}
		return nil
	})
	harness.Always(t, 10*time.Second, "it cannot read", func(ctx context.Context) error {
		_ = notRead(ctx)
		return nil
	})
	c.Unhealthy(t, 30*time.Second, revoked)

	c.Keyfold.SetEnabled(t, version, true)
	took := c.API.Ready(t, 90*time.Second)
	o.Add(t, 5)
	o.ReadBack(t)
	t.Logf("killed and started under the disabled key: nothing is read; key enabled: ready after %s, read and written", took.Round(time.Millisecond))
}

// writesStop waits until the API server cannot write any more. Under v1 it asks
// for each write; under v2 it uses its seed until 3 minutes after the last good
// status, which is waited for in one mode only.
func writesStop(t *testing.T, c *harness.Cluster, o *harness.Objects, began time.Time) {
	t.Helper()
	within := 10 * time.Second
	if c.Keyfold.API == "v2" {
		if !c.Keyfold.InProcess {
			return
		}
		within = 4*time.Minute + 10*time.Second
	}
	keyID := c.Keyfold.KeyID(t, c.Keyfold.Version())
	refusal := writeRefusal(c.Keyfold.API, keyID)
	refused := func(context.Context) error {
		switch err := c.WritesUnder(t, keyID); {
		case err == nil:
			return errors.New("it writes")
		case !apierrors.IsInternalError(err) || !refusal.MatchString(err.Error()):
			return fmt.Errorf("it does not write for another reason: %w", err)
		}
		return nil
	}
	harness.Eventually(t, within, "the API server stops writing", refused)
	stopped := time.Since(began)
	harness.Always(t, 3*time.Second, "the API server refuses to write", refused)
	if err := o.ReadOne(t.Context()); err != nil && c.Keyfold.API == "v2" {
		t.Errorf("the API server does not read from its own cache: %v", err)
	}
	t.Logf("key disabled: the API server stops writing after %s", stopped.Round(time.Second))
}

// writeRefusal matches why an API server that cannot encrypt does not write: under
// v1 Keyfold's answer, under v2 that its seed of this key has not been confirmed
// for too long.
func writeRefusal(api, keyID string) *regexp.Regexp {
	if api == "v1" {
		return regexp.MustCompile(`code = FailedPrecondition desc = .*` + revoked.String())
	}
	return regexp.MustCompile(`encryptedDEKSource with keyID hash "` + keyIDHash(keyID) + `" expired at`)
}

// pluginRefusal returns a function that is nil once the plugin refuses
// everything, and an error that names what it does not refuse before.
func pluginRefusal(t *testing.T, c *harness.Cluster) func(context.Context) error {
	t.Helper()
	client := c.Keyfold.Dial(t)
	request := &kmsapi.EncryptRequest{Plaintext: []byte("an API server's seed, 32 bytes.."), Uid: "e2e"}
	if _, err := client.Status(t.Context(), &kmsapi.StatusRequest{}); err != nil {
		t.Fatal(err)
	}
	sealed, err := client.Encrypt(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	refusal := func(call string, err error) error {
		if code := status.Code(err); code != codes.FailedPrecondition {
			return errors.New(call + " answers " + code.String())
		}
		return nil
	}
	return func(ctx context.Context) error {
		_, statusErr := client.Status(ctx, &kmsapi.StatusRequest{})
		_, encryptErr := client.Encrypt(ctx, request)
		_, decryptErr := client.Decrypt(ctx, &kmsapi.DecryptRequest{
			Ciphertext: sealed.Ciphertext, KeyId: sealed.KeyId, Annotations: sealed.Annotations, Uid: "e2e",
		})
		return errors.Join(refusal("Status", statusErr), refusal("Encrypt", encryptErr), refusal("Decrypt", decryptErr))
	}
}

// outages is how long the HSM is unreachable. An API server stops writing when
// the last good status is 3 minutes old, so one outage is longer than that.
var outages = map[string]time.Duration{
	harness.SocketV2.Name:    200 * time.Second,
	harness.InProcessV2.Name: 45 * time.Second,
	harness.SocketV1.Name:    45 * time.Second,
}

// testOutage: nobody notices that the HSM cannot be reached for a while.
func testOutage(t *testing.T, c *harness.Cluster) {
	c.Migrate(t) // everything under the data key in use
	o := c.CreateObjects(t, 10)
	c.Healthy(t, time.Minute)
	load := c.StartLoad(t, o)
	began := time.Now()
	c.Keyfold.SetFaults(t, hsmsim.Faults{Outage: true})
	defer c.Keyfold.SetFaults(t, hsmsim.Faults{})
	harness.Always(t, outages[c.Keyfold.Name], "the KMS providers are healthy during the outage", c.API.Health)
	report := load.Stop()
	report.MustBeClean(t)
	operations := c.Keyfold.Operations(t, c.KeyfoldProcess().PID(), began)
	if operations["wrapKey unreachable"] == 0 {
		t.Errorf("Keyfold has not even noticed the outage: %v", operations)
	}
	t.Logf("HSM unreachable for %s: %s; HSM operations: %v", outages[c.Keyfold.Name], report, operations)

	if !c.Keyfold.InProcess {
		c.API.Kill()
		took := c.API.StartReady(t)
		if err := o.ReadOne(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("HSM unreachable: an API server killed and started is ready after %s", took.Round(time.Millisecond))
	}
}
