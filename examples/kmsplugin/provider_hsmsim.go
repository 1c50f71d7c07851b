package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/pflag"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// hsmsimProvider is the simulated HSM in a folder of this machine.
//
//	provider: {name: hsmsim, dir: /var/lib/hsmsim, passphraseFile: /run/secrets/hsm}
type hsmsimProvider struct {
	Dir            string `json:"dir"`
	PassphraseFile string `json:"passphraseFile"`
}

var _ provider = (*hsmsimProvider)(nil)

func (p *hsmsimProvider) name() string { return "hsmsim" }

func (p *hsmsimProvider) flags(fs *pflag.FlagSet) {
	fs.StringVar(&p.Dir, "hsmsim-dir", p.Dir,
		"`DIR` of the simulated HSM; created if missing")
	// A passphrase itself is never a flag: other users see a process's arguments.
	fs.StringVar(&p.PassphraseFile, "hsmsim-passphrase-file", p.PassphraseFile,
		"unseal the simulated HSM with the first line of this `FILE` (default: the folder's own key file)")
}

func (p *hsmsimProvider) validate() error {
	if p.Dir == "" {
		return errors.New("provider hsmsim has no folder: set --hsmsim-dir (provider.dir)")
	}
	return nil
}

func (p *hsmsimProvider) open(log *slog.Logger) (vault, error) {
	var o hsmsim.Options
	if p.PassphraseFile != "" {
		b, err := os.ReadFile(p.PassphraseFile)
		if err != nil {
			return nil, fmt.Errorf("read the passphrase of the simulated HSM: %w", err)
		}
		defer clear(b)
		o.Passphrase, _, _ = bytes.Cut(b, []byte("\n"))
		o.Passphrase = bytes.TrimSuffix(o.Passphrase, []byte("\r"))
		if len(o.Passphrase) == 0 {
			return nil, fmt.Errorf("the passphrase file %s has an empty first line", p.PassphraseFile)
		}
	}
	h, err := hsmsim.Open(p.Dir, o)
	if err != nil {
		return nil, err
	}
	return &hsmsimVault{h, log}, nil
}

type hsmsimVault struct {
	*hsmsim.HSM
	log *slog.Logger
}

var _ vault = (*hsmsimVault)(nil)

func (v *hsmsimVault) kek(name, version string) (envelope.KEK, error) {
	return v.KEK(hsmsim.Ref{Name: name, Version: version})
}

// create makes an AES-256 key: it is authenticated, unlike an RSA one, under which
// whoever holds the public key can make envelopes, and it is fast.
func (v *hsmsimVault) create(ctx context.Context, name string) error {
	created, err := v.CreateKey(ctx, name, hsmsim.AES256)
	if errors.Is(err, hsmsim.ErrExists) {
		return nil
	}
	if err == nil {
		v.log.Warn("created the key, which was missing", "name", name, "version", created.Version,
			"remedy", "none at a first start; otherwise see that this is the folder and the name under which data was encrypted before")
	}
	return err
}
