package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"testing"
	"time"
)

// TestServesBothVersions: flags alone give KMS v2 and v1 on one socket, and the
// key is made on the way.
func TestServesBothVersions(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	plugin := start(t, p.args("--key-name", "kek")...)
	c := p.client()
	id := c.keyID()

	s := c.encrypt("attack at dawn")
	if s.KeyId != id {
		t.Errorf("encrypted under %s, Status said %s", s.KeyId, id)
	}
	c.decrypts(s)

	checkV1(c)

	plugin.logLine("created the key", "kek")
	if fi, err := os.Stat(p.sock); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v; want mode 0600", fi, err)
	}
}

// TestSocketGroup: a group opens the socket to its members, and to nobody else.
func TestSocketGroup(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	start(t, p.args("--key-name", "kek", "--socket-group", fmt.Sprint(os.Getgid()), "--allow-uid", "4242")...)
	p.client().keyID()
	if fi, err := os.Stat(p.sock); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, %v; want mode 0660", fi, err)
	}
}

func TestUnknownGroup(t *testing.T) {
	t.Parallel()
	const name = "no-such-group-here"
	if _, err := user.LookupGroup(name); err == nil {
		t.Skip("this machine has the group", name)
	}
	p := newPlace(t)
	code, _, log := runToEnd(t, p.args("--key-name", "kek", "--socket-group", name)...)
	if code != 2 || !bytes.Contains([]byte(log), []byte(name)) {
		t.Errorf("exit code %d, log:\n%s", code, log)
	}
}

// TestAbstractSocket: unix:///@NAME serves without a file.
func TestAbstractSocket(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	endpoint := fmt.Sprintf("unix:///@keyfold-test-%d", os.Getpid())
	start(t, p.args("--key-name", "kek", "--listen-addr", endpoint)...)
	c := dial(t, endpoint)
	c.keyID()
	c.decrypts(c.encrypt("no file"))
	if left, _ := filepath.Glob(filepath.Join(p.dir, "*.sock")); left != nil {
		t.Errorf("socket files: %v", left)
	}
}

// TestKill9: a start after kill -9 takes over the socket that was left, reads what
// was written before, and goes on under the same data key.
func TestKill9(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	first := start(t, p.args("--key-name", "kek")...)
	c := p.client()
	id := c.keyID()
	before := c.encrypt("before")
	first.kill()
	if _, err := os.Lstat(p.sock); err != nil {
		t.Fatalf("a killed process cannot have removed its socket: %v", err)
	}

	start(t, p.args("--key-name", "kek")...)
	c = p.client()
	if got := c.keyID(); got != id {
		t.Errorf("key id %s after the restart, %s before", got, id)
	}
	c.decrypts(before)
	after := c.encrypt("after")
	c.decrypts(after)
	for name, header := range before.Annotations {
		if !bytes.Equal(after.Annotations[name], header) {
			t.Errorf("annotation %s changed over the restart: the state folder was not used", name)
		}
	}
}

// TestStartWhileExpired: with its state folder the plugin starts, encrypts and
// decrypts although its key has expired meanwhile; an API server that cannot get a
// seed encrypted cannot even read.
func TestStartWhileExpired(t *testing.T) {
	t.Parallel()
	for name, args := range map[string]func(p *place, version string) []string{
		"key name": func(p *place, _ string) []string { return p.args("--key-name", "kek") },
		"ring": func(p *place, version string) []string {
			return []string{"--config", p.write("config.yaml", p.configFor("ring: {current: {name: kek, version: '"+version+"'}}"))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			version := p.create("kek")
			first := start(t, args(p, version)...)
			c := p.client()
			id := c.keyID()
			before := c.encrypt("before")
			first.kill()
			if err := p.openHSM().SetExpiry(t.Context(), "kek", version, time.Now().Add(-time.Hour)); err != nil {
				t.Fatal(err)
			}

			plugin := start(t, args(p, version)...)
			c = p.client()
			if got := c.keyID(); got != id {
				t.Errorf("key id %s, before %s", got, id)
			}
			c.decrypts(before)
			c.decrypts(c.encrypt("while expired"))
			plugin.logLine("EXPIRED")
		})
	}
}

// TestPassphraseFile: the HSM's passphrase comes from a file.
func TestPassphraseFile(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	right := p.write("passphrase", "correct horse\n")
	wrong := p.write("wrong", "incorrect horse\n")
	args := p.args("--key-name", "kek", "--hsmsim-passphrase-file")
	first := start(t, append(args, right)...)
	s := p.client().encryptHealthy("sealed")
	first.kill()
	code, _, log := runToEnd(t, append(args, wrong)...)
	if code != 1 {
		t.Errorf("exit code %d with a wrong passphrase, log:\n%s", code, log)
	}
	start(t, append(args, right)...)
	c := p.client()
	c.keyID()
	c.decrypts(s)
}
