package envelope

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
)

// rewrapMemory bounds how many headers a Rewrapper remembers, old and new.
const rewrapMemory = 1024

// A Rewrapper moves envelopes to other KEKs without touching their messages: it
// replaces the wraps in the header and recomputes its tag. It is safe for
// concurrent use.
//
// A rewrapped envelope is as trustworthy as the old one was, no more, and whoever
// keeps an old header and the old KEK can open its messages for ever: rewrapping
// does not revoke a DEK that got out.
//
// What it remembers is bounded by number and not by time. When a target has begun
// to wrap under another key or version, make a new Rewrapper.
type Rewrapper struct {
	unwrapper Unwrapper
	targets   []Wrapper

	mu     sync.Mutex // guards what follows
	calls  map[[32]byte]*rewrapCall
	oldest [][32]byte // keys of calls in order of arrival
}

// rewrapCall is one header's work, done or under way.
type rewrapCall struct {
	done   chan struct{}
	header []byte
	err    error
}

var errUnfinished = errors.New("the work was not finished")

// NewRewrapper returns a Rewrapper that opens with u and wraps every DEK once for
// each target, 1 to [MaxWraps] of them, in their order.
func NewRewrapper(u Unwrapper, targets ...Wrapper) (*Rewrapper, error) {
	if u == nil || slices.Contains(targets, nil) {
		return nil, invalid("rewrap", "a nil unwrapper or target")
	}
	if len(targets) < 1 || len(targets) > MaxWraps {
		return nil, invalid("rewrap", "%d targets, not within 1 to %d", len(targets), MaxWraps)
	}
	return &Rewrapper{unwrapper: u, targets: slices.Clone(targets), calls: make(map[[32]byte]*rewrapCall)}, nil
}

// Rewrap returns env with its header rewrapped and its message as it is. env may
// be a detached header alone. Envelopes of one DEK all get the same new header,
// as long as this Rewrapper remembers it, and cost one unwrap for each distinct
// old header and one wrap for each target. Errors are those of [OpenHeader] and
// of the targets.
func (r *Rewrapper) Rewrap(ctx context.Context, env []byte) ([]byte, error) {
	p, err := parseHeader(env)
	if err != nil {
		return nil, err
	}
	message := env[len(p.raw):]
	if len(message) > 0 {
		if err := checkMessage(message); err != nil {
			return nil, err
		}
	}
	header, err := r.once(ctx, sha256.Sum256(p.raw), func() ([]byte, error) {
		return r.rewrapHeader(ctx, &p)
	})
	if err != nil {
		return nil, err
	}
	return slices.Concat(header, message), nil
}

// rewrapHeader unwraps the DEK of a header and wraps it for the targets, unless
// that was done already for another header of the same DEK. The DEK id alone would
// not show that: anybody can write any id.
func (r *Rewrapper) rewrapHeader(ctx context.Context, p *parsedHeader) ([]byte, error) {
	dek, s, err := unwrapHeader(ctx, r.unwrapper, p)
	if err != nil {
		return nil, err
	}
	defer clear(dek)
	defer s.wipe()
	return r.once(ctx, s.rewrap, func() ([]byte, error) {
		return wrapHeader(ctx, dek, p.dekID(), s, r.targets...)
	})
}

// wrapHeader makes the header of a DEK from one wrap for each target.
func wrapHeader(ctx context.Context, dek []byte, dekID [dekIDSize]byte, s *secrets, targets ...Wrapper) ([]byte, error) {
	h := Header{Version: Version1, Suite: SuiteXAES256GCM, DEKID: dekID}
	for _, t := range targets {
		w, err := t.Wrap(ctx, dek)
		if err != nil {
			return nil, fromKEK("wrap", "", err)
		}
		h.Wraps = append(h.Wraps, w)
	}
	signed, err := h.appendSigned(nil)
	if err != nil {
		return nil, err
	}
	tag := s.tag(signed)
	// Without spare capacity: who appends to what Sealer.Header returns gets a copy.
	return slices.Clip(append(signed, tag[:]...)), nil
}

// once returns what work returned before for this key, waits for the work that
// is under way, or does it. A caller that gives up leaves the others unharmed:
// the next of them does the work again.
func (r *Rewrapper) once(ctx context.Context, key [32]byte, work func() ([]byte, error)) ([]byte, error) {
	for {
		r.mu.Lock()
		call, found := r.calls[key]
		if !found {
			call = r.remember(key)
		}
		r.mu.Unlock()
		if !found {
			return r.lead(key, call, work)
		}
		select {
		case <-call.done:
			if call.err == nil {
				return call.header, nil
			}
		case <-ctx.Done():
			return nil, fromKEK("rewrap", "", ctx.Err())
		}
	}
}

// lead does the work of a call, and ends it even if a back end panics.
func (r *Rewrapper) lead(key [32]byte, call *rewrapCall, work func() ([]byte, error)) ([]byte, error) {
	call.err = errUnfinished
	defer func() {
		if call.err != nil {
			r.forget(key, call)
		}
		close(call.done)
	}()
	call.header, call.err = work()
	return call.header, call.err
}

// remember registers a call; r.mu is held.
func (r *Rewrapper) remember(key [32]byte) *rewrapCall {
	if len(r.oldest) == rewrapMemory {
		delete(r.calls, r.oldest[0])
		r.oldest = slices.Delete(r.oldest, 0, 1)
	}
	call := &rewrapCall{done: make(chan struct{})}
	r.calls[key] = call
	r.oldest = append(r.oldest, key)
	return call
}

// forget makes room for another attempt, unless one has begun.
func (r *Rewrapper) forget(key [32]byte, call *rewrapCall) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls[key] == call {
		delete(r.calls, key)
		r.oldest = slices.DeleteFunc(r.oldest, func(k [32]byte) bool { return k == key })
	}
}
