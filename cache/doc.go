// Package cache keeps opened data-encryption keys (DEKs), so that reading costs
// one remote call for each DEK and not for each message.
//
//	opener := envelope.NewOpenerFrom(c)     // c, _ := cache.New(kek, cache.Options{})
//
// What is held, and where a request goes:
//
//	header ──► index ── the same bytes ──► gate: same generation? ──► key
//	             │                               └─ no: sweep: drop all that
//	            miss                                  is admitted no more
//	             ▼
//	          known DEK id and tag, other bytes? ── yes ──► ErrCorrupt
//	             │ no
//	             ▼
//	          failed just now? ── yes ──► the same error
//	             │ no
//	             ▼
//	          one flight for each header ──► at most 64 unwraps at once ──► verified?
//	                                                                          ├─ store
//	                                                                          └─ remember
//
//	entries      by DEK id and header tag; LRU and age; only verified headers
//	pinned       the Sealer's own last two; neither evicted nor aged
//	failures     by SHA-256 of the header, 1024 of them, for seconds
//	flights      by SHA-256 of the header, no more than callers waiting, and 64
//
// # Guarantees
//
//   - A hit takes no lock, allocates nothing and looks at no clock. It compares every
//     byte of the header with the one that was verified.
//   - What has not been verified is never stored among the keys and cannot push one
//     out: flights and failures have bounded stores of their own, under a name that
//     depends on every byte.
//   - However many ask for one header at once, the KEK is called once. A caller that
//     gives up neither ends that call nor waits for it.
//   - A failure is remembered only if trying again would change nothing (corrupt,
//     unknown key, revoked), and not beyond the gate's next generation.
//   - With a [Gate], a key is served only while at least one key that its header names
//     is configured and not revoked. The first call after the gate changed its
//     generation drops and wipes every other.
//   - Whoever holds the public half of an RSA KEK can mint DEKs without end. They
//     compete with other opened DEKs for the bounded room, where those in use get a
//     second chance, and never with the pinned ones.
//
// # What is wiped, and what Go cannot wipe
//
// A key dropped by revocation or [Cache.Purge] is wiped at once: calls that are
// decrypting with it end well, later ones fail. A key evicted for room or age may
// have been handed out an instant before, so it is wiped when the last reader
// has let go of it; the garbage collector finds that out, in an idle process
// within some minutes. Either way the 32 bytes of the key are overwritten. The
// key schedule inside crypto/aes, copies on stacks, and what the operating system
// swapped out or dumped are beyond a Go program's reach: count a DEK as exposed
// to whoever can read the memory of the process.
package cache
