package main

import (
	"fmt"
	"io"
)

const helpIntro = `kmsplugin encrypts Kubernetes Secrets under a key that never leaves its vault.

It serves KMS v2, and KMS v1 for old data, on one unix socket. API servers send it
data keys, not Secrets; it wraps its own data key under your key-encryption key,
so that remote calls stay few however many Secrets there are.

Examples:

  # A simulated HSM in a folder: for a trial, or where there is no vault.
  kmsplugin --listen-addr unix:///run/kmsplugin/kms.sock --state-dir /var/lib/kmsplugin \
      --provider hsmsim --hsmsim-dir /var/lib/hsmsim --key-name kek

  # Everything from a file, which names key versions too and is reloaded when it changes.
  kmsplugin --config /etc/kmsplugin/config.yaml

  # With health and metrics endpoints, JSON logs, and a line per request.
  kmsplugin --config /etc/kmsplugin/config.yaml --healthz-port 8787 \
      --metrics-addr 127.0.0.1:8095 --log-format-json -v 4
`

const helpRest = `
A flag wins over the same setting in the file. A file looks like this:

  listenAddr: unix:///run/kmsplugin/kms.sock
  stateDir: /var/lib/kmsplugin
  provider: {name: hsmsim, dir: /var/lib/hsmsim}
  ring:
    current:  {name: kek, version: 5f0c6e...}   # encrypts; no version: the latest when loaded
    previous: {name: kek, version: 91d2ab...}   # encrypts until activateAt
    read:     [{name: old-kek}]                 # decrypts only
    activateAt: 2026-12-01T00:00:00Z

The API server's --encryption-provider-config that goes with it:

  apiVersion: apiserver.config.k8s.io/v1
  kind: EncryptionConfiguration
  resources:
    - resources: [secrets]
      providers:
        - kms:
            apiVersion: v2
            name: keyfold
            endpoint: unix:///run/kmsplugin/kms.sock
            timeout: 3s
        - identity: {}   # reads what is not encrypted yet; remove it when everything is

Signals: SIGTERM and SIGINT finish the requests at hand, a second one ends at once;
SIGHUP reads the configuration again and pins keys without a version to their latest.
Exit codes: 0 stopped by a signal, 1 failed while running, 2 wrong flags or configuration.
`

// printHelp teaches: what this is for, examples, flags by group, the file and
// the API server's side.
func printHelp(w io.Writer) {
	fmt.Fprint(w, helpIntro)
	s := defaultSettings()
	for _, g := range groups(&commandLine{}, &s) {
		g.SortFlags = false
		fmt.Fprintf(w, "\n%s:\n%s", g.title, g.FlagUsagesWrapped(100))
	}
	fmt.Fprint(w, helpRest)
}
