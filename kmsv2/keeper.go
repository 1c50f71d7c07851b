package kmsv2

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/rotation"
)

const (
	// keepInterval is how often the keeper looks even if nothing wakes it: a DEK may
	// be due.
	keepInterval = 15 * time.Second
	// prepareTimeout bounds one attempt to get a write key ready.
	prepareTimeout = 10 * time.Second
	// The pause after a failed attempt doubles from the first to the second. A change
	// of the ring ends it.
	minBackoff = time.Second
	maxBackoff = 16 * time.Second
	// saveBackoff is the pause after a failure to save the state.
	saveBackoff = time.Minute
)

// keeper is Run's own loop. It keeps a write key ready for the ring's writer, and
// the state on disk in step. Only its goroutine touches its fields.
type keeper struct {
	*Service

	attempt  attempt
	saveNext time.Time // no earlier save, after one that failed
}

// attempt is the last try to prepare a write key.
type attempt struct {
	at         time.Time // never two within minBackoff, unless the ring was reloaded
	generation uint64

	// What follows is of one that failed.
	writer  rotation.Writer
	backoff time.Duration
	next    time.Time
}

func newKeeper(s *Service) *keeper { return &keeper{Service: s} }

func (k *keeper) run(ctx context.Context) {
	k.loadState()
	timer := time.NewTimer(keepInterval)
	defer timer.Stop()
	for {
		changed := k.ring.Changed()
		k.look(ctx)
		timer.Reset(k.pause())
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-k.wake:
		case <-timer.C:
		}
	}
}

// look does whatever is due.
func (k *keeper) look(ctx context.Context) {
	if k.closed.Load() {
		return
	}
	k.dropRevoked()
	writer := k.ring.Writer()
	live := k.keys.Load().live
	k.noteAnswers(live, writer)
	switch {
	case live.serves(writer):
		k.attempt.backoff = 0
		if k.ring.Health().State == rotation.Healthy {
			// Renews a DEK that is due, without waiting, so that no request meets one.
			if err := live.sealer.Prepare(ctx); err != nil {
				k.log().Warn("cannot renew the data key", "key_id", live.keyID, "err", err)
			}
		}
	case k.due(writer):
		generation := k.ring.Generation()
		err := k.prepare(ctx, writer)
		if ctx.Err() != nil {
			return
		}
		k.tried(writer, generation, err)
	}
	k.noteAnswers(k.keys.Load().live, writer)
	k.saveLive()
}

// noteAnswers keeps with the live key what the ring's probe finds while the key is
// the writer: when the writer changes, the ring speaks of another.
func (k *keeper) noteAnswers(live *writeKey, writer rotation.Writer) {
	if live == nil {
		return
	}
	live.heldOver.Store(!live.serves(writer))
	if live.serves(writer) {
		live.verify(k.ring.Health().LastOK)
	}
}

// pause is the time to the next look.
func (k *keeper) pause() time.Duration {
	if k.keys.Load().live.serves(k.ring.Writer()) {
		return keepInterval
	}
	return min(max(k.attempt.next.Sub(k.o.Now()), minBackoff), maxBackoff)
}

// dropRevoked wipes the write keys once the ring does not admit the newest any
// more. If the key comes back, it is prepared anew.
func (k *keeper) dropRevoked() {
	live := k.keys.Load().live
	if live == nil || k.ring.Admits(live.keyID) {
		return
	}
	if k.ring.Health().State == rotation.Revoked {
		k.waiting.fail(k.taken(live))
	} else {
		// Another key has taken its place and is about to be prepared: worth waiting for.
		k.waiting.fail(nil)
	}
	k.replaceKeys(func(writeKeys) writeKeys { return writeKeys{} })
	k.attempt.backoff = 0
}

// due tells whether to try now: at once for a writer not yet tried, after a pause
// for one that failed.
func (k *keeper) due(writer rotation.Writer) bool {
	a, now := k.attempt, k.o.Now()
	switch {
	case a.generation != k.ring.Generation():
		return true
	case now.Before(a.at.Add(minBackoff)):
		// Whatever a KEK does to its key ids, it is not asked without pause.
		return false
	}
	return a.backoff == 0 || a.writer != writer || !now.Before(a.next)
}

// tried notes how an attempt ended.
func (k *keeper) tried(writer rotation.Writer, generation uint64, err error) {
	now := k.o.Now()
	a := attempt{at: now, generation: generation}
	if err != nil {
		a.writer = writer
		a.backoff = min(max(2*k.attempt.backoff, minBackoff), maxBackoff)
		a.next = now.Add(a.backoff)
	}
	k.attempt = a
}

// prepare gets a write key ready for the writer: the saved DEK if it is the writer's,
// else a new one. If the writer cannot wrap, the key in use stays, or at a start the
// saved DEK of an earlier writer serves, as long as it opens.
func (k *keeper) prepare(ctx context.Context, writer rotation.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	live := k.keys.Load().live
	saved := k.saved.Load()
	if writer.KeyID == "" && saved != nil {
		// A KEK that is not pinned: one probe tells which id it writes now.
		k.ring.Probe(ctx)
		writer = k.ring.Writer()
	}
	var resumeErr error
	if saved != nil && saved.keyID == writer.KeyID {
		if resumeErr = k.resume(ctx, writer, *saved); resumeErr == nil {
			k.log().Info("going on under the data key of an earlier run", "key_id", saved.keyID, "created", saved.created)
			return nil
		}
		if errors.Is(resumeErr, envelope.ErrCorrupt) || errors.Is(resumeErr, envelope.ErrUnknownKey) {
			k.ignoreState(resumeErr)
			k.saved.Store(nil)
			resumeErr = nil
		}
	}
	err := k.wrapNew(ctx, writer)
	if err == nil {
		return nil
	}
	switch {
	case live != nil:
		k.log().Warn("the current key cannot wrap; the one before stays in use", "key_id", live.keyID, "err", err)
	case saved != nil && saved.keyID != writer.KeyID && k.resume(ctx, writer, *saved) == nil:
		k.log().Error("THE CURRENT KEY CANNOT WRAP: writing goes on under an older one, found in the state folder",
			"key_id", saved.keyID, "created", saved.created, "err", err)
	default:
		// A key that does not wrap is no trouble as long as it opens, so why it does not
		// open is what decides whether to wait.
		err = cmp.Or(resumeErr, err)
		k.log().Error("no key to write with", "err", err)
		if errors.Is(err, envelope.ErrRevoked) {
			err = revoked(writer.KeyID, err)
		}
		k.waiting.fail(err)
	}
	return err
}

// wrapNew prepares a write key with a new DEK.
func (k *keeper) wrapNew(ctx context.Context, writer rotation.Writer) error {
	key, err := k.newWriteKey(writer, "") // the wrap tells the id
	if err != nil {
		return err
	}
	if err := key.sealer.Prepare(ctx); err != nil {
		key.sealer.Close()
		return err
	}
	k.putToUse(key)
	k.log().Info("a data key is ready", "key_id", key.keyID, "role", writer.Role)
	return nil
}

// resume prepares a write key with the saved DEK.
func (k *keeper) resume(ctx context.Context, writer rotation.Writer, d savedDEK) error {
	key, err := k.newWriteKey(writer, d.keyID)
	if err != nil {
		return err
	}
	if err := key.sealer.Resume(ctx, k.ring, d.header, d.created); err != nil {
		key.sealer.Close()
		return err
	}
	k.putToUse(key)
	return nil
}

func (k *keeper) newWriteKey(writer rotation.Writer, keyID string) (*writeKey, error) {
	key := &writeKey{keyID: keyID}
	sealer, err := envelope.NewSealer(&keyWrapper{key: key, kek: writer.KEK}, envelope.SealerOptions{
		Now: k.o.Now,
		OnNewDEK: func(opened *envelope.OpenKey, created time.Time) {
			key.use(opened.Header(), created, k.o.Now())
			// What was just written opens without a call, even during an outage.
			k.cache.Pin(opened)
			k.nudge()
		},
	})
	if err != nil {
		return nil, err
	}
	key.sealer = sealer
	return key, nil
}

// putToUse saves a key's DEK, so that whatever is written under it can be written
// after a restart too, and then makes it live.
func (k *keeper) putToUse(key *writeKey) {
	key.aad = aadV2(key.keyID)
	k.saveNext = time.Time{}
	k.save(key.currentDEK())
	k.promote(key)
	k.waiting.fail(nil)
}

func (k *keeper) loadState() {
	if k.state == nil {
		return
	}
	saved, err := k.state.load()
	if err != nil {
		k.ignoreState(err)
		return
	}
	k.saved.Store(saved)
}

func (k *keeper) ignoreState(err error) {
	k.log().Error("IGNORING THE SAVED DATA KEY; it is replaced once another is wrapped", "file", k.state.path(), "err", err,
		"remedy", "if the file was not written by this plugin, find out by whom")
}

// saveLive saves the DEK of the live key if a renewal has changed it, or if it could
// not be saved before.
func (k *keeper) saveLive() {
	if live := k.keys.Load().live; live != nil {
		k.save(live.currentDEK())
	}
}

func (k *keeper) save(d savedDEK) {
	if k.state == nil || k.isSaved(d) || k.o.Now().Before(k.saveNext) {
		return
	}
	if err := k.state.save(d); err != nil {
		k.saveNext = k.o.Now().Add(saveBackoff)
		k.log().Error("CANNOT SAVE THE DATA KEY: a restart while the key-encryption key is expired would not come up",
			"file", k.state.path(), "err", err, "remedy", "see to the folder's permissions and free space")
		return
	}
	k.saved.Store(&d)
}

func (s *Service) isSaved(d savedDEK) bool {
	saved := s.saved.Load()
	return saved != nil && saved.equal(d)
}
