package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHelpTeaches: what an operator needs is in --help, on stdout, with exit
// code 0, and every flag is there with a description.
func TestHelpTeaches(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"--help", "-h"} {
		code, out, errs := runToEnd(t, flag)
		if code != 0 || errs != "" {
			t.Fatalf("%s: exit code %d, stderr %q", flag, code, errs)
		}
		for _, want := range []string{
			"Examples:", "EncryptionConfiguration", "endpoint: unix:///", "SIGHUP", "Exit codes:",
			"--listen-addr", "--socket-group", "--allow-uid", "--provider", "--hsmsim-dir", "--key-name", "--state-dir",
			"--healthz-port", "--healthz-path", "--healthz-timeout", "--metrics-addr", "--log-format-json", "-v, --verbosity",
			"--version", "--config", "activateAt:",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("%s does not mention %q:\n%s", flag, want, out)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	code, out, _ := runToEnd(t, "--version")
	if code != 0 || !strings.HasPrefix(out, "kmsplugin ") || !strings.Contains(out, "go1.") {
		t.Errorf("exit code %d, output %q", code, out)
	}
}

// TestUsageErrors: a wrong flag or setting ends the plugin at once with exit code
// 2, and says what to do instead.
func TestUsageErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := []string{
		"--listen-addr", "unix://" + filepath.Join(dir, "kms.sock"), "--state-dir", filepath.Join(dir, "state"),
		"--provider", "hsmsim", "--hsmsim-dir", filepath.Join(dir, "hsm"),
	}
	with := func(args ...string) []string { return append(append([]string{}, good...), args...) }
	file := func(text string) []string {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return with("--config", path)
	}
	for _, test := range []struct {
		name string
		args []string
		want []string
	}{
		{"nothing", nil, []string{"--listen-addr", "--state-dir", "--provider", "--key-name", "--help"}},
		{"unknown flag", []string{"--bogus"}, []string{"unknown flag: --bogus", "--help"}},
		{"argument", []string{"serve"}, []string{`unexpected argument "serve"`}},
		{"tcp", with("--key-name", "kek", "--listen-addr", "tcp://127.0.0.1:1"), []string{"unix:///PATH"}},
		{"provider", with("--key-name", "kek", "--provider", "clay"), []string{`provider "clay"`, "hsmsim"}},
		{"no folder", []string{"--provider", "hsmsim"}, []string{"--hsmsim-dir"}},
		{"no key", good, []string{"--key-name", "ring"}},
		{"uid", with("--key-name", "kek", "--allow-uid", "root"), []string{"numeric", "id -u"}},
		{"port", with("--key-name", "kek", "--healthz-port", "70000"), []string{"--healthz-port 70000"}},
		{"path", with("--key-name", "kek", "--healthz-path", "/livez"), []string{"--healthz-path", "/livez"}},
		{"pattern as a path", with("--key-name", "kek", "--healthz-port", "1", "--healthz-path", "/{"), []string{"--healthz-path", `"/{"`}},
		{"timeout", with("--key-name", "kek", "--healthz-timeout", "soon"), []string{"--healthz-timeout"}},
		{"metrics", with("--key-name", "kek", "--metrics-addr", "8095"), []string{"HOST:PORT"}},
		{"verbosity", with("--key-name", "kek", "-v", "11"), []string{"verbosity 11"}},
		{"missing file", with("--config", filepath.Join(dir, "none.yaml")), []string{"none.yaml"}},
		{"misspelt setting", file("keyNane: kek"), []string{"keyNane"}},
		{"setting twice", file("keyName: a\nkeyName: b"), []string{"keyName"}},
		{"misspelt provider setting", file("keyName: kek\nprovider: {name: hsmsim, folder: /tmp}"), []string{"folder"}},
		{"other capitals", file("keyName: kek\nKeyname: other"), []string{`"Keyname"`, "capitals"}},
		{"other capitals below", file("ring: {current: {name: kek}, read: [{name: a, Name: b}]}"), []string{`"ring.read[0].Name"`}},
		{"other capitals of a provider", file("keyName: kek\nprovider: {name: hsmsim, dir: /a, Dir: /b}"), []string{`"provider.Dir"`}},
		{"second document", file("keyName: kek\n---\nkeyName: other"), []string{"more than one YAML document"}},
		{"key name and ring", file("keyName: kek\nring: {current: {name: kek}}"), []string{"both a key name (kek) and a ring"}},
		{"previous without version", file("ring: {current: {name: kek}, previous: {name: kek}}"), []string{"ring.previous.version"}},
		{"activateAt without previous", file("ring: {current: {name: kek}, activateAt: 2030-01-01T00:00:00Z}"), []string{"ring.activateAt"}},
		{"read without name", file("ring: {current: {name: kek}, read: [{version: ab}]}"), []string{"ring.read[0].name"}},
		{"bad version", file("ring: {current: {name: kek, version: ../../x}}"), []string{"../../x"}},
		{"version as a number", file("ring: {current: {name: kek, version: 12345678901234567890123456789012}}"), []string{"put it in quotes"}},
		{"duration", file("keyName: kek\noutageGrace: 12"), []string{"15s or 12h"}},
		{"log format", file("keyName: kek\nlogFormat: xml"), []string{"text or json"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			code, out, errs := runToEnd(t, test.args...)
			if code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			if out != "" {
				t.Errorf("stdout %q, want nothing", out)
			}
			for _, want := range test.want {
				if !strings.Contains(errs, want) {
					t.Errorf("stderr does not mention %q:\n%s", want, errs)
				}
			}
		})
	}
}

// TestReadmeConfiguration: the README's files are accepted as they stand, but for
// the one mistake that is put into them here so that the plugin ends.
func TestReadmeConfiguration(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(first string) string {
		_, rest, found := strings.Cut(string(readme), "```yaml\n"+first)
		text, _, ended := strings.Cut(rest, "```")
		if !found || !ended {
			t.Fatalf("README.md has no YAML that begins with %q", first)
		}
		return first + text
	}
	reference := block("listenAddr:")
	wrong := strings.Replace(reference, "verbosity: 0", "verbosity: 99", 1)
	for name, text := range map[string]string{
		"keyName": wrong,
		"ring":    strings.Replace(wrong, "keyName: kek", block("ring:\n  current:"), 1),
	} {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, _, errs := runToEnd(t, "--config", path)
		if code != 2 || strings.Count(errs, "\n  - ") != 1 || !strings.Contains(errs, "verbosity 99") {
			t.Errorf("%s: exit code %d:\n%s", name, code, errs)
		}
	}
}
