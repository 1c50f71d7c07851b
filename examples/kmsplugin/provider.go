package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/pflag"

	"github.com/keyfold/keyfold/envelope"
)

// A provider is one kind of place where KEKs live, with its settings. Each has
// a file of its own and a line in newProviders; nothing else knows it.
type provider interface {
	// name is what --provider and provider.name say.
	name() string
	// flags binds the provider's own flags, named after it, to its settings.
	flags(fs *pflag.FlagSet)
	// validate checks the settings without touching anything.
	validate() error
	// open reaches as little as it can: a vault that is away must not keep the
	// plugin from serving its socket.
	open(log *slog.Logger) (vault, error)
}

// newProviders returns one of each kind, without settings.
func newProviders() []provider {
	return []provider{&hsmsimProvider{}}
}

// A vault is an open provider.
type vault interface {
	// kek names a key without reaching for it. It wraps with the given version,
	// or with the latest where version is empty, and unwraps every version.
	kek(name, version string) (envelope.KEK, error)
	// create creates the key. It is no error if somebody else has just done so.
	create(ctx context.Context, name string) error
	Close() error
}

// providerSection is the provider part of the configuration: the name of the
// chosen one, and beside it that one's own settings.
//
//	provider: {name: hsmsim, dir: /var/lib/hsmsim}
type providerSection struct {
	Name string
	all  []provider
}

func newProviderSection() providerSection {
	return providerSection{all: newProviders()}
}

// chosen returns the provider that Name names, or nil.
func (p *providerSection) chosen() provider {
	for _, c := range p.all {
		if c.name() == p.Name {
			return c
		}
	}
	return nil
}

func (p *providerSection) names() string {
	var names []string
	for _, c := range p.all {
		names = append(names, c.name())
	}
	return strings.Join(names, ", ")
}

func (p *providerSection) validate() error {
	if p.Name == "" {
		return fmt.Errorf("no provider: set --provider (provider.name), one of: %s", p.names())
	}
	c := p.chosen()
	if c == nil {
		return fmt.Errorf("provider %q is not known: must be one of: %s", p.Name, p.names())
	}
	return c.validate()
}

// UnmarshalJSON gives everything but the name to the provider so named, and is
// as strict about it as the rest of the file.
func (p *providerSection) UnmarshalJSON(b []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	if err := json.Unmarshal(fields["name"], &p.Name); err != nil {
		return fmt.Errorf("provider.name is missing: must be one of: %s", p.names())
	}
	c := p.chosen()
	if c == nil {
		return fmt.Errorf("provider %q is not known: must be one of: %s", p.Name, p.names())
	}
	delete(fields, "name")
	own, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(own))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		return fmt.Errorf("provider %s: %w", p.Name, err)
	}
	return nil
}

// MarshalJSON is the inverse of UnmarshalJSON.
func (p providerSection) MarshalJSON() ([]byte, error) {
	fields := make(map[string]json.RawMessage)
	if c := p.chosen(); c != nil {
		own, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(own, &fields); err != nil {
			return nil, err
		}
	}
	name, err := json.Marshal(p.Name)
	if err != nil {
		return nil, err
	}
	fields["name"] = name
	return json.Marshal(fields)
}
