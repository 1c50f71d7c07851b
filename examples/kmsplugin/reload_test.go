package main_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// configFor is a file that holds everything, with the ring given.
func (p *place) configFor(ring string, more ...string) string {
	return fmt.Sprintf("listenAddr: %s\nstateDir: %s\nprovider: {name: hsmsim, dir: %s}\n%s\n%s\n",
		p.endpoint(), p.state, p.hsm, ring, strings.Join(more, "\n"))
}

// TestReloadRotates: a new file moves the ring to a new version without a restart,
// and what was encrypted before still opens.
func TestReloadRotates(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	one := p.create("kek")
	config := p.write("config.yaml", p.configFor("ring: {current: {name: kek, version: "+one+"}}"))
	plugin := start(t, "--config", config)
	c := p.client()
	c.keyIDOf(one)
	old := c.encrypt("old")

	two := p.rotate("kek")
	p.write("config.yaml", p.configFor("ring: {current: {name: kek, version: "+two+"}, previous: {name: kek, version: "+one+"}}"))
	plugin.logLine("new configuration in use", "keysReloaded=true")
	c.keyIDOf(two)
	c.decrypts(old)
	c.decrypts(c.encrypt("new"))
}

// TestReloadKeepsOldOnError: whatever is wrong with a new file, the plugin says
// so and goes on with the one before.
func TestReloadKeepsOldOnError(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	version := p.create("kek")
	if err := p.openHSM().SetEnabled(t.Context(), "kek", version, true); err != nil {
		t.Fatal(err)
	}
	good := "ring: {current: {name: kek, version: " + version + "}}"
	config := p.write("config.yaml", p.configFor(good))
	plugin := start(t, "--config", config)
	c := p.client()
	id := c.keyIDOf(version)
	s := c.encrypt("kept")

	disabled := p.rotate("kek")
	if err := p.openHSM().SetEnabled(t.Context(), "kek", disabled, false); err != nil {
		t.Fatal(err)
	}
	p.create("other")
	for name, test := range map[string]struct{ text, want string }{
		"not YAML":         {"ring: [", "config.yaml"},
		"empty":            {"", "no socket to serve"},
		"unknown setting":  {p.configFor(good, "colour: red"), "colour"},
		"unknown key":      {p.configFor("ring: {current: {name: nobody}}"), "nobody"},
		"unknown version":  {p.configFor("ring: {current: {name: kek, version: '00000000000000000000000000000000'}}"), "the new current key does not work"},
		"disabled version": {p.configFor("ring: {current: {name: kek, version: " + disabled + "}}"), "disabled"},
		"used key dropped": {p.configFor("ring: {current: {name: other}}"), "cannot read it"},
		"another provider": {strings.Replace(p.configFor(good), p.hsm, p.hsm+"2", 1), "needs a restart"},
	} {
		p.write("config.yaml", test.text)
		plugin.logLine("new configuration refused; the old one stays in use", test.want)
		if got := c.keyID(); got != id {
			t.Fatalf("%s: key id became %s", name, got)
		}
		c.decrypts(s)
	}

	// And then one that is right again.
	p.write("config.yaml", p.configFor(good, "verbosity: 1"))
	plugin.logLine("new configuration in use", "verbosity=1", "keysReloaded=false")
}

// TestReloadSaysWhatWaits: verbosity changes at once, an address does not, and
// the log tells the difference.
func TestReloadSaysWhatWaits(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	config := p.write("config.yaml", p.configFor("keyName: kek"))
	plugin := start(t, "--config", config)
	c := p.client()
	c.encryptHealthy("quiet")
	if log := plugin.logs(); strings.Contains(log, "uid-of-quiet") {
		t.Fatalf("a line per request without -v 4:\n%s", log)
	}

	p.write("config.yaml", p.configFor("keyName: kek", "verbosity: 4", "metricsAddr: 127.0.0.1:1", "socketGroup: nobody"))
	line := plugin.logLine("take effect at the next start", "metricsAddr", "socketGroup")
	if strings.Contains(line, "listenAddr") {
		t.Errorf("names a setting that did not change: %s", line)
	}
	plugin.logLine("new configuration in use", "verbosity=4")
	c.encrypt("loud")
	plugin.logLine("uid-of-loud")
}

// TestFlagWinsOverFile: also after a reload.
func TestFlagWinsOverFile(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	config := p.write("config.yaml", p.configFor("keyName: kek", "logFormat: text", "verbosity: 0"))
	plugin := start(t, "--config", config, "--log-format-json", "-v", "2")
	p.client().keyID()
	p.write("config.yaml", p.configFor("keyName: kek", "verbosity: 3", "probeInterval: 14s"))
	plugin.logLine(`"msg":"new configuration in use"`, `"verbosity":2`)
}

// TestConfigMapSwap: a mounted ConfigMap changes by the swap of a link to a folder,
// which is no event of the file itself.
func TestConfigMapSwap(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	one := p.create("kek")
	mount := filepath.Join(p.dir, "mount")
	publish := func(generation, text string) {
		t.Helper()
		data := filepath.Join(mount, generation)
		for _, err := range []error{
			os.MkdirAll(data, 0o755),
			os.WriteFile(filepath.Join(data, "config.yaml"), []byte(text), 0o644),
			os.Symlink(generation, filepath.Join(mount, "..data_tmp")),
			os.Rename(filepath.Join(mount, "..data_tmp"), filepath.Join(mount, "..data")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	publish("..1", p.configFor("ring: {current: {name: kek, version: "+one+"}}"))
	config := filepath.Join(mount, "config.yaml")
	if err := os.Symlink("..data/config.yaml", config); err != nil {
		t.Fatal(err)
	}
	start(t, "--config", config)
	c := p.client()
	c.keyIDOf(one)
	two := p.rotate("kek")
	publish("..2", p.configFor("ring: {current: {name: kek, version: "+two+"}, previous: {name: kek, version: "+one+"}}"))
	c.keyIDOf(two)
}

// TestPollFindsWhatWatchMisses: the file is a link into another folder, where
// nothing is watched.
func TestPollFindsWhatWatchMisses(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	elsewhere := filepath.Join(p.dir, "elsewhere")
	if err := os.Mkdir(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	p.write("elsewhere/config.yaml", p.configFor("keyName: kek"))
	link := filepath.Join(p.dir, "config.yaml")
	if err := os.Symlink("elsewhere/config.yaml", link); err != nil {
		t.Fatal(err)
	}
	plugin := start(t, "--config", link)
	p.client().keyID()
	p.write("elsewhere/config.yaml", p.configFor("keyName: kek", "verbosity: 1"))
	plugin.logLine("new configuration in use", "verbosity=1")
}

// TestSIGHUPPinsLatest: a key without a version stays where it is until somebody
// asks, and then moves to the latest.
func TestSIGHUPPinsLatest(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	plugin := start(t, p.args("--key-name", "kek")...)
	c := p.client()
	id := c.keyID()
	old := c.encrypt("old")
	version := p.rotate("kek")
	if got := c.keyID(); got != id {
		t.Fatalf("moved to %s by itself", got)
	}
	plugin.signal(syscall.SIGHUP)
	c.keyIDOf(version)
	c.decrypts(old)
	c.decrypts(c.encrypt("new"))
}

// TestEditKeepsPin: an edit that does not touch the keys does not move one to its
// latest version either.
func TestEditKeepsPin(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	config := p.write("config.yaml", p.configFor("keyName: kek"))
	plugin := start(t, "--config", config)
	c := p.client()
	id := c.keyID()
	p.rotate("kek")
	p.write("config.yaml", p.configFor("keyName: kek", "verbosity: 1"))
	plugin.logLine("new configuration in use", "keysReloaded=false")
	if got := c.keyID(); got != id {
		t.Errorf("key id %s, before %s", got, id)
	}
}

// TestReloadInOutage: keys to read can be added while the vault is away, and a new
// key to encrypt under cannot; that one is taken up when the vault is back.
func TestReloadInOutage(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	one := p.create("kek")
	p.create("old")
	current := "{name: kek, version: '" + one + "'}"
	config := p.write("config.yaml", p.configFor("ring: {current: "+current+"}"))
	plugin := start(t, "--config", config)
	c := p.client()
	id := c.keyIDOf(one)
	two := p.rotate("kek")

	p.faults(hsmsim.Faults{Outage: true})
	p.write("config.yaml", p.configFor("ring: {current: "+current+", read: [{name: old}]}"))
	plugin.logLine("new configuration in use", "keysReloaded=true")
	p.write("config.yaml", p.configFor("ring: {current: {name: kek, version: '"+two+"'}, read: [{name: old}]}"))
	plugin.logLine("new configuration refused", "the new current key does not work")
	if got := c.keyID(); got != id {
		t.Fatalf("key id %s in the outage, %s before", got, id)
	}
	p.faults(hsmsim.Faults{})
	c.keyIDOf(two) // by the next poll
}

// TestActivateAt: previous encrypts until the instant, current from then on; a
// previous that cannot is refused.
func TestActivateAt(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	one := p.create("kek")
	config := p.write("config.yaml", p.configFor("ring: {current: {name: kek, version: '"+one+"'}}"))
	plugin := start(t, "--config", config)
	c := p.client()
	c.keyIDOf(one)
	two := p.rotate("kek")
	ring := func(previous string, at time.Time) string {
		return p.configFor(fmt.Sprintf("ring: {current: {name: kek, version: '%s'}, previous: {name: kek, version: '%s'}, activateAt: %s}",
			two, previous, at.Format(time.RFC3339Nano)))
	}

	p.write("config.yaml", ring(strings.Repeat("0", 32), time.Now().Add(time.Hour)))
	plugin.logLine("new configuration refused", "the previous key would encrypt until activateAt")

	at := time.Now().Add(5 * time.Second) // later than this reload, however busy the machine
	p.write("config.yaml", ring(one, at))
	plugin.logLine("new configuration in use", "keysReloaded=true", "/"+one)
	c.keyIDOf(two)
	if now := time.Now(); now.Before(at) {
		t.Errorf("changed over %v too early", at.Sub(now))
	}
}

// TestRefusedKeyIsNotCreated: a key name that a reload refuses, a slip in most cases,
// leaves nothing behind in the vault.
func TestRefusedKeyIsNotCreated(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	config := p.write("config.yaml", p.configFor("keyName: kek"))
	plugin := start(t, "--config", config)
	p.client().keyID()
	p.write("config.yaml", p.configFor("keyName: kekk"))
	plugin.logLine("new configuration refused")
	if keys, err := p.openHSM().Keys(t.Context()); err != nil || len(keys) != 1 {
		t.Errorf("keys %v, %v; want kek alone", keys, err)
	}
}

// TestKeyIsNotRecreated: a key that was taken away is not replaced by a new one of
// the same name, under which nothing old opens.
func TestKeyIsNotRecreated(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	plugin := start(t, p.args("--key-name", "kek")...)
	p.client().keyID()
	h := p.openHSM()
	if err := errors.Join(h.Delete(t.Context(), "kek"), h.Purge(t.Context(), "kek")); err != nil {
		t.Fatal(err)
	}
	plugin.signal(syscall.SIGHUP)
	plugin.logLine("new configuration refused")
	if keys, err := h.Keys(t.Context()); err != nil || len(keys) != 0 {
		t.Errorf("keys %v, %v; want none", keys, err)
	}
}
