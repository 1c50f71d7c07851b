// Package kektest is the conformance suite that every KEK passes: those of this
// module and anybody's own. It checks what package envelope promises about a KEK,
// and what the packages above it rely on.
//
//	func TestKEK(t *testing.T) {
//		kektest.Run(t, func(t *testing.T) kektest.Subject {
//			return kektest.Subject{KEK: newKEK(t), Foreign: newKEK(t)}
//		})
//	}
//
// A [Subject] needs two KEKs. Its hooks bring the back end into states that only
// its owner can provoke (disabled, expired, rotated, unreachable); the more of
// them, the more is checked. What a missing hook or a missing capability leaves
// unchecked is reported as a skipped test that names it.
//
//	check                         catches a KEK that
//	round-trip                    returns another DEK than it wrapped
//	bounds                        makes a wrapped key that no header can hold, or the DEK in the clear
//	two-deks                      confuses DEKs, or changes the key id without a cause
//	sizes                         cuts or pads a DEK of another size
//	callers-slices                changes, keeps or shares the caller's bytes
//	concurrency                   confuses concurrent calls
//	envelope                      cannot serve a Sealer and an Opener
//	foreign-key                   does not answer ErrUnknownKey for another's key
//	foreign-key-without-a-call    asks its vault about another's key
//	foreign-blob                  opens, or misjudges, another key's blob under its own id
//	unknown-version               ignores the version in a key id
//	wrong-algorithm               lets the stored algorithm choose
//	blob-flips, blob-lengths      accepts a changed blob, or misjudges it
//	error-text                    puts a DEK into an error
//	canceled-context,
//	expired-context, stalled      goes on after its context has ended
//	disabled, expired,
//	not-yet-valid, deleted,
//	forbidden, throttled, outage  reports the wrong class, or does not recover
//	identifier, family, describer,
//	versions, pinner, prober      describes another key than it wraps under
//	prober-outage,
//	prober-disabled               reports a key as usable that is not
//	rotation                      does not open what its older versions wrapped
//
// Capabilities are looked for with [envelope.As], so that a decorator is checked
// with those of the KEK inside it.
//
// [Check] is the suite without package testing, for those who check the suite.
package kektest
