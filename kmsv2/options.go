package kmsv2

import (
	"log/slog"
	"time"

	"github.com/keyfold/keyfold/cache"
)

// DefaultOutageGrace is how long requests are served from memory while the vault
// does not answer: a night in which nobody needs to get up.
const DefaultOutageGrace = 12 * time.Hour

// Options tune a [Service]. The zero value works, but without a StateDir an API
// server cannot start while the KEK is expired.
type Options struct {
	// StateDir is a folder for the header of the DEK in use. It is made if it does
	// not exist. Nobody but this user and root may be able to write it. Several
	// processes may share it. Empty: nothing is kept.
	StateDir string
	// OutageGrace is how long the vault may be out of reach before Status, Encrypt
	// and Decrypt fail; [DefaultOutageGrace] if zero.
	OutageGrace time.Duration
	// Cache bounds the cache of unwrapped DEKs. Its Gate and Now are set by New, and
	// must be nil here; a zero MaxAge becomes a day and the outage grace.
	Cache cache.Options
	// Logger receives what an operator should know, and each request at debug level;
	// nil discards it.
	Logger *slog.Logger
	// Observer is told of each request; nil for none.
	Observer Observer
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

func (o Options) withDefaults() (Options, error) {
	if o.OutageGrace < 0 {
		return o, invalid("new KMS service", "leave it zero for the default of 12 h", "OutageGrace is negative")
	}
	if o.OutageGrace == 0 {
		o.OutageGrace = DefaultOutageGrace
	}
	if o.Cache.Gate != nil || o.Cache.Now != nil {
		return o, invalid("new KMS service", "leave Cache.Gate and Cache.Now nil: the ring is the gate and Options.Now the clock",
			"the cache has a gate or a clock of its own")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Observer == nil {
		o.Observer = discardObserver{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o, nil
}
