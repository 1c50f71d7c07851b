package kektest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

type broken struct {
	check, mistake string
	make           func(v *vault) envelope.KEK
}

// brokenKEKs are KEKs with one mistake each.
func brokenKEKs() []broken {
	wraps := func(check, mistake string, f func(v *vault, ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error)) broken {
		return broken{check, mistake, func(v *vault) envelope.KEK {
			return faulty{memKEK: memKEK{vault: v}, wrap: func(ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
				return f(v, ctx, dek, right)
			}}
		}}
	}
	unwraps := func(check, mistake string, f func(v *vault, ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error)) broken {
		return broken{check, mistake, func(v *vault) envelope.KEK {
			return faulty{memKEK: memKEK{vault: v}, unwrap: func(ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
				return f(v, ctx, w, right)
			}}
		}}
	}
	// misreports answers class to where from is right, in Wrap and in Unwrap.
	misreports := func(check string, from, to error) broken {
		return broken{check, fmt.Sprintf("reports %v", to), func(v *vault) envelope.KEK {
			return faulty{
				memKEK: memKEK{vault: v},
				wrap: func(ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
					w, err := right(ctx, dek)
					return w, reclassed(err, from, to)
				},
				unwrap: func(ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
					dek, err := right(ctx, w)
					return dek, reclassed(err, from, to)
				},
			}
		}}
	}
	return []broken{
		unwraps("round-trip", "another DEK", func(_ *vault, ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
			dek, err := right(ctx, w)
			if err == nil {
				dek[0] ^= 1
			}
			return dek, err
		}),
		wraps("bounds", "key id too long", func(_ *vault, ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
			w, err := right(ctx, dek)
			w.KeyID += strings.Repeat("0", envelope.MaxKeyIDSize)
			return w, err
		}),
		wraps("bounds", "no algorithm", func(_ *vault, ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
			w, err := right(ctx, dek)
			w.Algorithm = ""
			return w, err
		}),
		wraps("bounds", "DEK in the clear", func(_ *vault, ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
			w, err := right(ctx, dek)
			w.Blob = append(w.Blob, dek...)
			return w, err
		}),
		{"two-deks", "wraps the first for ever", func(v *vault) envelope.KEK {
			var first envelope.WrappedKey
			return faulty{memKEK: memKEK{vault: v}, wrap: func(ctx context.Context, dek []byte, right wrapFunc) (w envelope.WrappedKey, err error) {
				if first.Blob == nil {
					first, err = right(ctx, dek)
				}
				return first, err
			}}
		}},
		wraps("two-deks", "key id changes", func(v *vault, ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
			v.rotate()
			return right(ctx, dek)
		}),
		wraps("sizes", "pads and cuts", func(_ *vault, ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
			return right(ctx, append(slices.Clone(dek), make([]byte, envelope.DEKSize)...)[:envelope.DEKSize])
		}),
		wraps("sizes", "panics", func(_ *vault, ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
			return right(ctx, dek[:envelope.DEKSize])
		}),
		wraps("callers-slices", "wipes the caller's DEK", func(_ *vault, ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
			defer clear(dek)
			return right(ctx, dek)
		}),
		wraps("callers-slices", "writes behind the caller's DEK", func(_ *vault, ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
			_ = append(dek, 0)
			return right(ctx, dek)
		}),
		{"callers-slices", "keeps the caller's DEK", func(v *vault) envelope.KEK {
			var mu sync.Mutex
			kept := map[string][]byte{}
			return faulty{
				memKEK: memKEK{vault: v},
				wrap: func(ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
					w, err := right(ctx, dek)
					mu.Lock()
					defer mu.Unlock()
					kept[string(w.Blob)] = dek
					return w, err
				},
				unwrap: func(ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
					mu.Lock()
					defer mu.Unlock()
					if dek, ok := kept[string(w.Blob)]; ok {
						return slices.Clone(dek), nil
					}
					return right(ctx, w)
				},
			}
		}},
		unwraps("callers-slices", "decrypts in place", func(_ *vault, ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
			dek, err := right(ctx, w)
			if err != nil {
				return nil, err
			}
			return append(w.Blob[:0], dek...), nil
		}),
		{"callers-slices", "returns its own buffer", func(v *vault) envelope.KEK {
			// A data race would fail this test instead of the check, so the buffer
			// is shared only by calls that have the bubble's time to themselves.
			var buffer [200]byte
			var inFlight atomic.Int32
			return faulty{memKEK: memKEK{vault: v}, wrap: func(ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
				inFlight.Add(1)
				defer inFlight.Add(-1)
				time.Sleep(time.Millisecond)
				alone := inFlight.Load() == 1
				time.Sleep(time.Millisecond)
				w, err := right(ctx, dek)
				if alone {
					w.Blob = append(buffer[:0], w.Blob...)
				}
				return w, err
			}}
		}},
		{"concurrency", "shares a field", func(v *vault) envelope.KEK {
			var last []byte
			return faulty{memKEK: memKEK{vault: v}, wrap: func(ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
				v.mu.Lock()
				last = dek
				v.mu.Unlock()
				time.Sleep(time.Millisecond) // lets the others in, in the bubble's time
				v.mu.Lock()
				dek = last
				v.mu.Unlock()
				return right(ctx, dek)
			}}
		}},
		wraps("envelope", "key id too long", func(_ *vault, ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
			w, err := right(ctx, dek)
			w.KeyID += strings.Repeat("0", envelope.MaxKeyIDSize)
			return w, err
		}),
		misreports("foreign-key", envelope.ErrUnknownKey, envelope.ErrCorrupt),
		unwraps("foreign-key-without-a-call", "asks the vault", func(v *vault, ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
			dek, err := right(ctx, w)
			if errors.Is(err, envelope.ErrUnknownKey) {
				err = errors.Join(err, v.call(ctx, false, func() error { return nil }))
			}
			return dek, err
		}),
		misreports("foreign-blob", envelope.ErrCorrupt, envelope.ErrUnreachable),
		misreports("foreign-blob", envelope.ErrCorrupt, errUnclassified),
		misreports("foreign-blob", envelope.ErrCorrupt, &envelope.Error{Class: envelope.ErrCorrupt, Err: envelope.ErrUnreachable}),
		unwraps("unknown-version", "tries every version", func(v *vault, ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
			for _, mv := range v.versions {
				w2 := w
				w2.KeyID = mv.id.String()
				if dek, err := right(ctx, w2); err == nil {
					return dek, nil
				}
			}
			return right(ctx, w)
		}),
		unwraps("wrong-algorithm", "ignores it", func(_ *vault, ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
			w.Algorithm = memAlgorithm
			return right(ctx, w)
		}),
		unwraps("blob-flips", "makes up a DEK", func(_ *vault, ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
			dek, err := right(ctx, w)
			if errors.Is(err, envelope.ErrCorrupt) {
				return make([]byte, envelope.DEKSize), nil
			}
			return dek, err
		}),
		unwraps("blob-flips", "a DEK beside the error", func(_ *vault, ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
			dek, err := right(ctx, w)
			if err != nil {
				dek = make([]byte, envelope.DEKSize)
			}
			return dek, err
		}),
		unwraps("blob-lengths", "cuts trailing bytes", func(_ *vault, ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
			w.Blob = w.Blob[:min(len(w.Blob), 12+envelope.DEKSize+16)]
			return right(ctx, w)
		}),
		unwraps("blob-lengths", "panics", func(_ *vault, ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
			_ = w.Blob[:12]
			return right(ctx, w)
		}),
		wraps("error-text", "quotes the DEK", func(_ *vault, ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
			w, err := right(ctx, dek)
			if err != nil {
				err = fmt.Errorf("wrap %x: %w", dek, err)
			}
			return w, err
		}),
		wraps("canceled-context", "Wrap ignores it", func(_ *vault, ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
			return right(context.WithoutCancel(ctx), dek)
		}),
		wraps("canceled-context", "Wrap panics", func(_ *vault, ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
			if ctx.Err() != nil {
				panic("no time left")
			}
			return right(ctx, dek)
		}),
		unwraps("expired-context", "Unwrap ignores it", func(_ *vault, ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
			return right(context.WithoutCancel(ctx), w)
		}),
		misreports("expired-context", envelope.ErrUnreachable, &envelope.Error{Class: envelope.ErrCorrupt, Err: context.DeadlineExceeded}),
		unwraps("stalled", "waits on", func(v *vault, ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
			dek, err := right(ctx, w)
			if err != nil {
				time.Sleep(time.Hour)
			}
			return dek, err
		}),
		wraps("round-trip", "never returns", func(v *vault, ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
			time.Sleep(2 * time.Hour)
			return right(ctx, dek)
		}),
		misreports("disabled", envelope.ErrDisabled, envelope.ErrForbidden),
		misreports("expired", envelope.ErrExpired, envelope.ErrDisabled),
		unwraps("expired", "unwraps nothing", func(v *vault, ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
			if err := v.call(ctx, true, func() error { return nil }); errors.Is(err, envelope.ErrExpired) {
				return nil, err
			}
			return right(ctx, w)
		}),
		misreports("not-yet-valid", envelope.ErrNotYetValid, envelope.ErrExpired),
		misreports("deleted", envelope.ErrDeleted, envelope.ErrUnknownKey),
		misreports("forbidden", envelope.ErrForbidden, envelope.ErrUnauthenticated),
		misreports("throttled", envelope.ErrThrottled, envelope.ErrUnreachable),
		misreports("outage", envelope.ErrUnreachable, envelope.ErrDeleted),
		{"outage", "does not recover", func(v *vault) envelope.KEK {
			var latched error
			return faulty{memKEK: memKEK{vault: v}, wrap: func(ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
				w, err := right(ctx, dek)
				v.mu.Lock()
				defer v.mu.Unlock()
				if latched == nil && ctx.Err() == nil && errors.Is(err, envelope.ErrUnreachable) {
					latched = err
				}
				if latched != nil {
					return envelope.WrappedKey{}, latched
				}
				return w, err
			}}
		}},
		{"identifier", "another id", func(v *vault) envelope.KEK {
			k := memKEK{vault: v, pinned: v.versions[0].id.Version}
			v.rotate()
			return misnamed{k, v.versions[1].id.String()}
		}},
		{"family", "another family", func(v *vault) envelope.KEK { return misfiled{memKEK{vault: v}} }},
		{"describer", "the oldest version", func(v *vault) envelope.KEK {
			v.rotate()
			return faulty{memKEK: memKEK{vault: v}, describe: func(envelope.KeyInfo) envelope.KeyInfo { return v.versions[0].info() }}
		}},
		{"describer", "another algorithm", func(v *vault) envelope.KEK {
			return faulty{memKEK: memKEK{vault: v}, describe: func(i envelope.KeyInfo) envelope.KeyInfo { i.Algorithm = "RSA1_5"; return i }}
		}},
		{"versions", "twice", func(v *vault) envelope.KEK {
			return faulty{memKEK: memKEK{vault: v}, versions: func(l []envelope.KeyInfo) []envelope.KeyInfo { return append(l, l...) }}
		}},
		{"versions", "none", func(v *vault) envelope.KEK {
			return faulty{memKEK: memKEK{vault: v}, versions: func([]envelope.KeyInfo) []envelope.KeyInfo { return nil }}
		}},
		{"pinner", "does not pin", func(v *vault) envelope.KEK {
			return faulty{memKEK: memKEK{vault: v}, pin: func(_ string, _ envelope.KEK, err error) (envelope.KEK, error) { return memKEK{vault: v}, err }}
		}},
		{"pinner", "pins anything", func(v *vault) envelope.KEK {
			return faulty{memKEK: memKEK{vault: v}, pin: func(version string, _ envelope.KEK, _ error) (envelope.KEK, error) {
				return memPinned{memKEK{v, version}}, nil
			}}
		}},
		{"prober", "always fails", func(v *vault) envelope.KEK {
			return faulty{memKEK: memKEK{vault: v}, probe: func(error) error { return envelope.ErrUnreachable }}
		}},
		{"prober-outage", "never fails", func(v *vault) envelope.KEK {
			return faulty{memKEK: memKEK{vault: v}, probe: func(error) error { return nil }}
		}},
		{"prober-disabled", "never fails", func(v *vault) envelope.KEK {
			return faulty{memKEK: memKEK{vault: v}, probe: func(error) error { return nil }}
		}},
		unwraps("rotation", "the latest version alone", func(v *vault, ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
			if id, err := envelope.ParseKeyID(w.KeyID); err == nil && id.Family == v.family {
				w.KeyID = v.versions[len(v.versions)-1].id.String()
			}
			return right(ctx, w)
		}),
		{"rotation", "pinned follows the latest", func(v *vault) envelope.KEK {
			return faulty{memKEK: memKEK{vault: v}, pin: func(version string, right envelope.KEK, err error) (envelope.KEK, error) {
				return misnamed{memKEK{vault: v}, envelope.KeyID{Family: v.family, Version: version}.String()}, err
			}}
		}},
	}
}

// misnamed tells an id that is not that of its wraps.
type misnamed struct {
	memKEK
	id string
}

func (m misnamed) KeyID() string { return m.id }

// misfiled tells a family that is not that of its wraps.
type misfiled struct{ memKEK }

func (misfiled) KeyFamily() string { return envelope.Family("memory", "test", "another") }
