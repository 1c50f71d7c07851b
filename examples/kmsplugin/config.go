package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// settings is everything that can be configured. The file given by --config may
// hold all of it; a flag on the command line wins over the file (see flags.go).
type settings struct {
	ListenAddr    string          `json:"listenAddr"`
	SocketGroup   string          `json:"socketGroup"`
	AllowUIDs     []uint32        `json:"allowUIDs"`
	StateDir      string          `json:"stateDir"`
	Provider      providerSection `json:"provider"`
	KeyName       string          `json:"keyName"`
	Ring          *ringSection    `json:"ring"`
	OutageGrace   duration        `json:"outageGrace"`
	ProbeInterval duration        `json:"probeInterval"`
	Healthz       healthzSection  `json:"healthz"`
	MetricsAddr   string          `json:"metricsAddr"`
	LogFormat     string          `json:"logFormat"`
	Verbosity     int             `json:"verbosity"`

	digest [sha256.Size]byte // of the file's bytes; zero without a file
}

// ringSection names the keys of a rotation.Config.
type ringSection struct {
	Current    keySection   `json:"current"`
	Previous   *keySection  `json:"previous"`
	Read       []keySection `json:"read"`
	ActivateAt time.Time    `json:"activateAt"`
	Force      bool         `json:"force"`
}

// keySection names one key. Without a version, current is pinned to the latest
// version when the section is loaded; a read key reads every version anyway.
type keySection struct {
	Name    string     `json:"name"`
	Version keyVersion `json:"version"`
	Epoch   uint32     `json:"epoch"`
}

// keyVersion is text that YAML takes for a number if it has no hex letter, or no
// other than e. Rounded to a float it would name another version, or none.
type keyVersion string

func (v *keyVersion) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("version %s reads as a number: put it in quotes", b)
	}
	*v = keyVersion(s)
	return nil
}

// healthzSection is the health endpoint. Port 0 means none.
type healthzSection struct {
	Host    string   `json:"host"`
	Port    int      `json:"port"`
	Path    string   `json:"path"`
	Timeout duration `json:"timeout"`
}

// duration is a time.Duration written as in Go: 15s, 12h.
type duration time.Duration

func (d *duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("duration %s must be text such as 15s or 12h", b)
	}
	return d.Set(s)
}

// Set, String and Type make a duration a flag.
func (d *duration) Set(s string) error {
	v, err := time.ParseDuration(s)
	*d = duration(v)
	return err
}

func (d *duration) String() string { return time.Duration(*d).String() }
func (d *duration) Type() string   { return "duration" }

// defaultSettings are what neither the file nor a flag has to say.
func defaultSettings() settings {
	return settings{
		Provider:      newProviderSection(),
		OutageGrace:   duration(12 * time.Hour),
		ProbeInterval: duration(15 * time.Second),
		Healthz: healthzSection{
			Host:    "127.0.0.1",
			Path:    "/healthz",
			Timeout: duration(5 * time.Second),
		},
		LogFormat: "text",
	}
}

// readConfig decodes the file at path over s.
func readConfig(path string, s *settings) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the configuration file: %w", err)
	}
	s.digest = sha256.Sum256(b)
	if err := decodeStrict(b, s); err != nil {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	return nil
}

// validate reports everything that is wrong at once, each with its remedy, so
// that an operator corrects a file in one round.
func (s *settings) validate() error {
	var problems []error
	refuse := func(format string, a ...any) { problems = append(problems, fmt.Errorf(format, a...)) }

	switch {
	case s.ListenAddr == "":
		refuse("no socket to serve: set --listen-addr (listenAddr), for example unix:///run/kmsplugin/kms.sock")
	case !strings.HasPrefix(s.ListenAddr, "unix:///"):
		refuse("--listen-addr %q is not a unix socket: an API server accepts only unix:///PATH or unix:///@NAME", s.ListenAddr)
	}
	if s.StateDir == "" {
		refuse("no state folder: set --state-dir (stateDir) to a folder that survives restarts; with it the plugin starts while its key is expired")
	}
	if err := s.Provider.validate(); err != nil {
		problems = append(problems, err)
	}
	problems = append(problems, s.validateKeys()...)
	if s.OutageGrace <= 0 {
		refuse("outageGrace must be more than zero; leave it out for 12h")
	}
	if s.ProbeInterval <= 0 {
		refuse("probeInterval must be more than zero; leave it out for 15s")
	}
	problems = append(problems, s.Healthz.validate()...)
	if s.MetricsAddr != "" {
		if _, _, err := net.SplitHostPort(s.MetricsAddr); err != nil {
			refuse("--metrics-addr %q is not HOST:PORT, for example 127.0.0.1:8095: %v", s.MetricsAddr, err)
		}
	}
	if s.LogFormat != "text" && s.LogFormat != "json" {
		refuse("logFormat %q: must be text or json", s.LogFormat)
	}
	if s.Verbosity < 0 || s.Verbosity > 10 {
		refuse("verbosity %d: must be from 0 to 10", s.Verbosity)
	}
	return errors.Join(problems...)
}

func (s *settings) validateKeys() (problems []error) {
	refuse := func(format string, a ...any) { problems = append(problems, fmt.Errorf(format, a...)) }
	if s.Ring == nil {
		if s.KeyName == "" {
			refuse("no key: set --key-name (keyName), or a ring in the configuration file")
		}
		return problems
	}
	r := s.Ring
	if s.KeyName != "" {
		refuse("both a key name (%s) and a ring: the ring already names its keys, so drop --key-name or keyName", s.KeyName)
	}
	if r.Current.Name == "" {
		refuse("ring.current.name is missing: it names the key that encrypts")
	}
	if p := r.Previous; p != nil {
		if p.Name == "" {
			refuse("ring.previous.name is missing; leave out the whole of previous if there is none")
		}
		if p.Version == "" {
			refuse("ring.previous.version is missing: until activateAt it encrypts, and the latest version may be the very one being rotated to")
		}
	}
	if !r.ActivateAt.IsZero() && r.Previous == nil {
		refuse("ring.activateAt is set without ring.previous: nothing would encrypt until then")
	}
	for i, k := range r.Read {
		if k.Name == "" {
			refuse("ring.read[%d].name is missing", i)
		}
	}
	return problems
}

// openVersion reports whether the version that encrypts is left open.
func (s *settings) openVersion() bool { return s.Ring == nil || s.Ring.Current.Version == "" }

func (h *healthzSection) validate() (problems []error) {
	refuse := func(format string, a ...any) { problems = append(problems, fmt.Errorf(format, a...)) }
	if h.Port < 0 || h.Port > 65535 {
		refuse("--healthz-port %d: must be from 1 to 65535, or 0 for none", h.Port)
	}
	if !strings.HasPrefix(h.Path, "/") || strings.ContainsAny(h.Path, "{} \t") || h.Path == livezPath || h.Path == statuszPath {
		refuse("--healthz-path %q: must begin with /, hold no braces or blanks, and be neither %s nor %s", h.Path, livezPath, statuszPath)
	}
	if h.Timeout <= 0 {
		refuse("--healthz-timeout must be more than zero")
	}
	return problems
}
