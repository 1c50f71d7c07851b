package main

import (
	"time"

	"github.com/keyfold/keyfold/kmsv2"
	"github.com/keyfold/keyfold/rotation"
)

// status is what /statusz shows: the service's snapshot and what the plugin adds.
type status struct {
	Version string       `json:"version"`
	Config  configStatus `json:"config"`
	kmsv2.Snapshot
	Keys []keyStatus `json:"keys"` // in place of the snapshot's
}

type configStatus struct {
	File string `json:"file,omitempty"`
	// Refused is why the file as it is now is not in use.
	Refused string `json:"refused,omitempty"`
}

// keyStatus is a rotation.KeyState with the names and texts of JSON.
type keyStatus struct {
	Role       rotation.Role `json:"role"`
	Writer     bool          `json:"writer"`
	ID         string        `json:"id"`
	Name       string        `json:"name,omitempty"`
	Enabled    *bool         `json:"enabled,omitempty"` // absent while unknown
	Created    time.Time     `json:"created,omitzero"`
	NotBefore  time.Time     `json:"notBefore,omitzero"`
	Expires    time.Time     `json:"expires,omitzero"`
	State      string        `json:"state"`
	Error      string        `json:"error,omitempty"`
	Attributes string        `json:"attributesError,omitempty"`
	LastWrap   time.Time     `json:"lastWrap,omitzero"`
	LastUnwrap time.Time     `json:"lastUnwrap,omitzero"`
}

func (p *plugin) status() status {
	s := status{Version: version(), Snapshot: p.service.Snapshot()}
	s.Config.File = p.cmd.configPath
	if refused := p.refused.Load(); refused != nil {
		s.Config.Refused = *refused
	}
	for _, k := range s.Snapshot.Keys {
		own := keyStatus{
			Role: k.Role, Writer: k.Writer, ID: k.ID, Name: k.Info.Name,
			Created: k.Info.Created, NotBefore: k.Info.NotBefore, Expires: k.Info.Expires,
			State: k.Health.State.String(), Error: textOf(k.Health.Err), Attributes: textOf(k.AttributesErr),
			LastWrap: k.LastWrap, LastUnwrap: k.LastUnwrap,
		}
		if k.Info.ID != "" {
			own.Enabled = &k.Info.Enabled
		}
		s.Keys = append(s.Keys, own)
	}
	return s
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
