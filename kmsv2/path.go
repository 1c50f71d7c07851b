package kmsv2

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// A Domain names an API and begins its associated data, so that what one API
// wrote does not open through another.
type Domain string

// DomainV2 is the domain of KMS v2.
const DomainV2 Domain = "keyfold/kms/v2"

// aadV2 binds a ciphertext to its API and to the key id that stands beside it in
// storage. The zero byte ends the domain, which contains none.
func aadV2(keyID string) []byte {
	aad := make([]byte, 0, len(DomainV2)+1+len(keyID))
	aad = append(aad, DomainV2...)
	aad = append(aad, 0)
	return append(aad, keyID...)
}

// MaxSealed is the longest plaintext of [Service.Seal] in bytes. What KMS v1 stores
// has 16 bits for the length of an encrypted key: with the largest header, this fits.
const MaxSealed = maxEnvelope - envelope.MaxHeaderSize - envelope.MessageOverhead

const maxEnvelope = 1<<16 - 1

// Seal encrypts plaintext, 1 to [MaxSealed] bytes, into a self-contained envelope,
// for an API that has room for one and is not told key ids. The domain is the
// associated data. It makes no remote call, except that the first requests of a
// process may have to wait for its first key.
func (s *Service) Seal(ctx context.Context, d Domain, plaintext []byte) (env []byte, err error) {
	defer s.answered(d, OperationEncrypt, "", s.o.Now(), &err)
	if len(plaintext) > MaxSealed {
		return nil, invalid("encrypt", "KMS encrypts keys, not data", "%d bytes of plaintext, more than %d", len(plaintext), MaxSealed)
	}
	err = s.seal(ctx, d, plaintext, func(k *writeKey) (err error) {
		env, err = k.sealer.Seal(ctx, plaintext, []byte(d))
		return err
	})
	return env, err
}

// Open decrypts what Seal returned for the same domain.
func (s *Service) Open(ctx context.Context, d Domain, env []byte) (plaintext []byte, err error) {
	defer s.answered(d, OperationDecrypt, "", s.o.Now(), &err)
	if len(env) > maxEnvelope {
		// AEADs make room for the plaintext before they know that there is none.
		return nil, corrupt("decrypt", "an envelope of %d bytes, more than %d", len(env), maxEnvelope)
	}
	if err := s.mayOpen(); err != nil {
		return nil, err
	}
	return s.open.Open(ctx, env, []byte(d))
}

// seal is the one path of every encryption: wait for a write key, check that it may
// be used, use it.
func (s *Service) seal(ctx context.Context, d Domain, plaintext []byte, with func(*writeKey) error) error {
	if len(plaintext) == 0 {
		return invalid("encrypt", "send the key to encrypt", "the plaintext is empty")
	}
	for {
		keys, err := s.await(ctx)
		if err != nil {
			return err
		}
		k := keys.forDomain(d)
		if err := s.mayWrite(k); err != nil {
			return err
		}
		err = with(k)
		if err == nil || s.keys.Load().has(k) {
			return err
		}
		// The key was replaced and closed between the two looks. There is another.
	}
}

// mayOpen refuses what the policy refuses whatever the data: a vault that has been
// away for longer than the grace. Revocation is not decided here: it concerns one
// version, and the cache and the ring know which one data names.
func (s *Service) mayOpen() error {
	if s.closed.Load() {
		return errServiceClosed
	}
	if live := s.keys.Load().live; live != nil && live.takenAway() == nil {
		return s.outage(live)
	}
	return nil
}

var errServiceClosed error = &envelope.Error{
	Class: envelope.ErrUnreachable, Op: "serve", Err: errors.New("the KMS service is closed"),
}

// answered ends every request: it counts it, logs it and gives its error a gRPC
// status. It is deferred, so that start is taken first. A panic is counted as the
// error that it becomes, and goes on to whoever turns it into one.
func (s *Service) answered(d Domain, op Operation, uid string, start time.Time, err *error) {
	if p := recover(); p != nil {
		*err = panicked(p)
		defer panic(p) // with the stack of the first still below it
	}
	e := Event{Domain: d, Operation: op, Class: Class(*err), Duration: s.o.Now().Sub(start)}
	s.counts.add(e)
	s.o.Observer.Observe(e)
	*err = toStatus(*err)

	ctx := context.Background()
	level := slog.LevelDebug
	suppressed := 0
	if *err != nil {
		if n, ok := s.failures.allow(string(op)+e.Class, s.o.Now()); ok {
			level, suppressed = slog.LevelWarn, n
		}
	}
	if !s.o.Logger.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("operation", string(op)), slog.String("domain", string(d)), slog.String("uid", uid[:min(len(uid), 128)]),
		slog.String("class", e.Class), slog.Duration("duration", e.Duration),
	}
	if *err != nil {
		attrs = append(attrs, slog.Any("err", *err), slog.Int("not_logged_before", suppressed))
	}
	s.o.Logger.LogAttrs(ctx, level, "KMS request", attrs...)
}
