package kmsv2

import (
	"cmp"
	"encoding/hex"
	"slices"
	"time"

	"github.com/keyfold/keyfold/cache"
	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/rotation"
)

// Snapshot is the state of a [Service] at one instant, for /statusz and for metrics.
// It holds nothing secret and marshals to JSON.
type Snapshot struct {
	Time    time.Time `json:"time"`
	Started time.Time `json:"started"`
	// Error is what Status would fail with, "" if it would not; Class is its class.
	Error string `json:"error,omitempty"`
	Class string `json:"class"`
	// KeyID is the key id that the next Status reports, ReportedKeyID the one that the
	// last did and that Encrypt uses; "" if there is none.
	KeyID         string `json:"keyID"`
	ReportedKeyID string `json:"reportedKeyID"`
	// DEK is the data key in use, nil if there is none.
	DEK    *DEKSnapshot   `json:"dek,omitempty"`
	Health HealthSnapshot `json:"health"`
	// Keys are in the order of [rotation.Ring.Keys].
	Keys     []KeySnapshot    `json:"keys"`
	Settings SettingsSnapshot `json:"settings"`
	Cache    cache.Stats      `json:"cache"`
	// Requests are sorted by domain, operation and class.
	Requests []Count `json:"requests"`
}

// DEKSnapshot describes a data key.
type DEKSnapshot struct {
	// ID is the random id in the header of whatever was sealed under it, in hex.
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	// AgeSeconds may pass a day while the KEK wraps nothing new.
	AgeSeconds float64 `json:"ageSeconds"`
	// Saved tells that a restart would find it.
	Saved bool `json:"saved"`
}

// HealthSnapshot is what the ring knows of its writer.
type HealthSnapshot struct {
	State  string        `json:"state"`
	Role   rotation.Role `json:"role"`
	KeyID  string        `json:"keyID"`
	Error  string        `json:"error,omitempty"`
	Class  string        `json:"class"`
	Since  time.Time     `json:"since,omitzero"`
	LastOK time.Time     `json:"lastOK,omitzero"`
}

// KeySnapshot is a [rotation.KeyState] with the names and texts of JSON: an error as
// it stands may not marshal, or hold more than its text.
type KeySnapshot struct {
	Role   rotation.Role `json:"role"`
	Writer bool          `json:"writer"`
	// ID is the id that the key writes, or that of its latest version if it is not
	// pinned; "" while unknown. Name is for people.
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	// Version and Epoch are what ID says of them, "" and 0 if it is no
	// [envelope.KeyID].
	Version string `json:"version,omitempty"`
	Epoch   uint32 `json:"epoch,omitempty"`
	// Enabled and the dates are what the back end told last; nil and zero: nothing.
	Enabled   *bool     `json:"enabled,omitempty"`
	Created   time.Time `json:"created,omitzero"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	Expires   time.Time `json:"expires,omitzero"`
	// State is "unknown" for a key that is not probed.
	State           string    `json:"state"`
	Error           string    `json:"error,omitempty"`
	AttributesError string    `json:"attributesError,omitempty"`
	LastWrap        time.Time `json:"lastWrap,omitzero"`
	LastUnwrap      time.Time `json:"lastUnwrap,omitzero"`
}

// SettingsSnapshot are the bounds that decide what is refused, and when.
type SettingsSnapshot struct {
	OutageGraceSeconds     float64 `json:"outageGraceSeconds"`
	RevocationBoundSeconds float64 `json:"revocationBoundSeconds"`
	StateDir               string  `json:"stateDir,omitempty"`
}

// Snapshot describes the service. It makes no remote call, and never counts as a
// Status: see [Service.Healthz].
func (s *Service) Snapshot() Snapshot {
	now := s.o.Now()
	writer, health := s.ring.Writer(), s.ring.Health()
	snap := Snapshot{
		Time: now, Started: s.started,
		Health: HealthSnapshot{
			State: health.State.String(), Role: writer.Role, KeyID: writer.KeyID,
			Error: errorText(health.Err), Class: Class(health.Err), Since: health.Since, LastOK: health.LastOK,
		},
		Keys: describeKeys(s.ring.Keys()),
		Settings: SettingsSnapshot{
			OutageGraceSeconds:     s.o.OutageGrace.Seconds(),
			RevocationBoundSeconds: max(s.ring.RevocationBound(), heldOverBound).Seconds(),
			StateDir:               s.o.StateDir,
		},
		Cache:    s.cache.Stats(),
		Requests: s.counts.list(),
	}
	slices.SortFunc(snap.Requests, func(a, b Count) int {
		return cmp.Or(cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Class, b.Class))
	})
	keys := s.keys.Load()
	err := error(nil)
	if keys.live == nil {
		err = s.waiting.error()
	} else {
		err = s.mayWrite(keys.live)
		snap.KeyID = keys.live.keyID
		snap.DEK = s.describeDEK(keys.live.currentDEK(), now)
	}
	snap.Error, snap.Class = errorText(err), Class(err)
	if keys.reported != nil {
		snap.ReportedKeyID = keys.reported.keyID
	}
	return snap
}

func describeKeys(states []rotation.KeyState) []KeySnapshot {
	keys := make([]KeySnapshot, 0, len(states))
	for _, k := range states {
		own := KeySnapshot{
			Role: k.Role, Writer: k.Writer, ID: cmp.Or(k.ID, k.Info.ID), Name: k.Info.Name,
			Created: k.Info.Created, NotBefore: k.Info.NotBefore, Expires: k.Info.Expires,
			State: k.Health.State.String(), Error: errorText(k.Health.Err), AttributesError: errorText(k.AttributesErr),
			LastWrap: k.LastWrap, LastUnwrap: k.LastUnwrap,
		}
		if id, err := envelope.ParseKeyID(own.ID); err == nil {
			own.Version, own.Epoch = id.Version, id.Epoch
		}
		if k.Info.ID != "" {
			own.Enabled = &k.Info.Enabled
		}
		keys = append(keys, own)
	}
	return keys
}

func (s *Service) describeDEK(d savedDEK, now time.Time) *DEKSnapshot {
	h, _, err := envelope.Inspect(d.header)
	if err != nil {
		return nil
	}
	return &DEKSnapshot{ID: hex.EncodeToString(h.DEKID[:]), Created: d.created, AgeSeconds: now.Sub(d.created).Seconds(), Saved: s.isSaved(d)}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
