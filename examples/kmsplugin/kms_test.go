package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kms/apis/v2"

	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// place is a machine's folders as one plugin sees them, over its restarts.
type place struct {
	t                     *testing.T
	dir, hsm, state, sock string
}

func newPlace(t *testing.T) *place {
	dir := t.TempDir()
	return &place{t: t, dir: dir, hsm: filepath.Join(dir, "hsm"), state: filepath.Join(dir, "state"), sock: filepath.Join(dir, "kms.sock")}
}

func (p *place) endpoint() string { return "unix://" + p.sock }

// args are the flags of every start, followed by more.
func (p *place) args(more ...string) []string {
	return append([]string{
		"--listen-addr", p.endpoint(), "--state-dir", p.state, "--provider", "hsmsim", "--hsmsim-dir", p.hsm,
	}, more...)
}

// write replaces the named file as an editor does: by a rename.
func (p *place) write(name, text string) (path string) {
	p.t.Helper()
	path = filepath.Join(p.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// openHSM opens the folder beside the plugin, as an operator's tool would.
func (p *place) openHSM() *hsmsim.HSM {
	p.t.Helper()
	h, err := hsmsim.Open(p.hsm, hsmsim.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { h.Close() })
	return h
}

// rotate makes a new version of the key and returns it.
func (p *place) rotate(name string) (version string) {
	p.t.Helper()
	v, err := p.openHSM().Rotate(p.t.Context(), name)
	if err != nil {
		p.t.Fatal(err)
	}
	return v.Version
}

// create makes a key and returns its version.
func (p *place) create(name string) (version string) {
	p.t.Helper()
	v, err := p.openHSM().CreateKey(p.t.Context(), name, hsmsim.AES256)
	if err != nil {
		p.t.Fatal(err)
	}
	return v.Version
}

// client is an API server as the plugin sees it.
type client struct {
	t    *testing.T
	conn *grpc.ClientConn
	v2   v2.KeyManagementServiceClient
}

func (p *place) client() *client { return dial(p.t, p.endpoint()) }

func dial(t *testing.T, endpoint string) *client {
	t.Helper()
	target := strings.Replace(endpoint, "unix:///@", "unix-abstract:", 1)
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn, v2.NewKeyManagementServiceClient(conn)}
}

func (c *client) context() context.Context {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	c.t.Cleanup(cancel)
	return ctx
}

// keyID waits for the plugin to be healthy, as an API server does, and returns
// the key id it then reports.
func (c *client) keyID() (id string) {
	c.t.Helper()
	eventually(c.t, "healthy Status", func() error {
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
		defer cancel()
		s, err := c.v2.Status(ctx, &v2.StatusRequest{})
		if err != nil {
			return err
		}
		if s.Version != "v2" || s.Healthz != "ok" || s.KeyId == "" {
			return fmt.Errorf("status %v", s)
		}
		id = s.KeyId
		return nil
	})
	return id
}

// keyIDOf waits until Status reports the key version.
func (c *client) keyIDOf(version string) (id string) {
	c.t.Helper()
	eventually(c.t, "key id with version "+version, func() error {
		if id = c.keyID(); !strings.Contains(id, "/"+version) {
			return fmt.Errorf("key id %s", id)
		}
		return nil
	})
	return id
}

// sealed is what an API server keeps of an Encrypt.
type sealed struct {
	*v2.EncryptResponse
	plaintext []byte
}

func (c *client) encrypt(plaintext string) sealed {
	c.t.Helper()
	s, err := c.tryEncrypt(c.context(), plaintext)
	if err != nil {
		c.t.Fatalf("encrypt: %v", err)
	}
	if bytes.Contains(s.Ciphertext, []byte(plaintext)) {
		c.t.Fatal("the ciphertext contains the plaintext")
	}
	return s
}

func (c *client) tryEncrypt(ctx context.Context, plaintext string) (sealed, error) {
	r, err := c.v2.Encrypt(ctx, &v2.EncryptRequest{Plaintext: []byte(plaintext), Uid: "uid-of-" + plaintext})
	return sealed{r, []byte(plaintext)}, err
}

// status is one Status call, whatever it says, within two seconds.
func (c *client) status() error {
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
	defer cancel()
	_, err := c.v2.Status(ctx, &v2.StatusRequest{})
	return err
}

func (c *client) tryDecrypt(ctx context.Context, s sealed) error {
	r, err := c.v2.Decrypt(ctx, &v2.DecryptRequest{
		Ciphertext: s.Ciphertext, KeyId: s.KeyId, Annotations: s.Annotations, Uid: "uid",
	})
	if err != nil {
		return err
	}
	if !bytes.Equal(r.Plaintext, s.plaintext) {
		return errors.New("another plaintext than was encrypted")
	}
	return nil
}

func (c *client) decrypts(s sealed) {
	c.t.Helper()
	if err := c.tryDecrypt(c.context(), s); err != nil {
		c.t.Fatalf("decrypt: %v", err)
	}
}

// get fetches a URL and returns the status code and the body.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	var code int
	var body []byte
	eventually(t, "GET "+url, func() error {
		r, err := http.Get(url)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		code = r.StatusCode
		body, err = io.ReadAll(io.LimitReader(r.Body, 1<<20))
		return err
	})
	return code, string(body)
}

// encryptHealthy encrypts as soon as the plugin is healthy.
func (c *client) encryptHealthy(plaintext string) sealed {
	c.t.Helper()
	c.keyID()
	return c.encrypt(plaintext)
}
