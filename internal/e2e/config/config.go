// Package config is the configuration file that the plugin reads and that the
// API server with Keyfold inside reads as well, so that one file serves a case
// in every mode. The spelling is the plugin's.
package config

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/keyfold/keyfold/keyvault/hsmsim"
	"github.com/keyfold/keyfold/rotation"
	"sigs.k8s.io/yaml"
)

// File is the part of the plugin's configuration file that the cases use.
type File struct {
	ListenAddr    string   `json:"listenAddr,omitempty"`
	StateDir      string   `json:"stateDir"`
	Provider      Provider `json:"provider"`
	Ring          Ring     `json:"ring"`
	OutageGrace   string   `json:"outageGrace,omitempty"`
	ProbeInterval string   `json:"probeInterval,omitempty"`
}

// Provider says where the keys live.
type Provider struct {
	Name string `json:"name"` // "hsmsim"
	Dir  string `json:"dir"`
}

// Ring says which keys there are.
type Ring struct {
	Current  Key   `json:"current"`
	Previous *Key  `json:"previous,omitempty"`
	Read     []Key `json:"read,omitempty"`
}

// Key names a key and, but for keys to read, one version of it.
type Key struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Epoch   uint32 `json:"epoch,omitempty"`
}

// Load reads the file.
func Load(path string) (File, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return File{}, err
	}
	var f File
	if err := yaml.UnmarshalStrict(b, &f); err != nil {
		return File{}, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Save writes the file so that a reader sees the old or the new one, never half.
func (f File) Save(path string) error {
	b, err := yaml.Marshal(f)
	if err != nil {
		return err
	}
	return Replace(path, b)
}

// Replace puts content at path atomically.
func Replace(path string, content []byte) error {
	next := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".next")
	if err := os.WriteFile(next, content, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// Rotation resolves the ring's keys in the HSM.
func (f File) Rotation(hsm *hsmsim.HSM) (rotation.Config, error) {
	key := func(k Key) (rotation.Key, error) {
		kek, err := hsm.KEK(hsmsim.Ref{Name: k.Name, Version: k.Version})
		return rotation.Key{KEK: kek, Epoch: k.Epoch}, err
	}
	var c rotation.Config
	var err error
	if c.Current, err = key(f.Ring.Current); err != nil {
		return rotation.Config{}, err
	}
	if f.Ring.Previous != nil {
		previous, err := key(*f.Ring.Previous)
		if err != nil {
			return rotation.Config{}, err
		}
		c.Previous = &previous
	}
	for _, k := range f.Ring.Read {
		read, err := key(k)
		if err != nil {
			return rotation.Config{}, err
		}
		c.Read = append(c.Read, read)
	}
	return c, nil
}

// Interval parses the interval between two probes; zero is the default's.
func (f File) Interval() (time.Duration, error) {
	if f.ProbeInterval == "" {
		return 0, nil
	}
	return time.ParseDuration(f.ProbeInterval)
}
