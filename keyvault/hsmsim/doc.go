// Package hsmsim is a simulated hardware security module in a folder on this
// machine: the embedded default of Keyfold, for development, tests and
// installations that have no vault yet. It behaves like Azure Key Vault, so that
// a program that works with it meets no surprise there, but it is software: who
// reads the folder together with its key file or passphrase has the keys.
//
//	h, err := hsmsim.Open("/var/lib/hsmsim", hsmsim.Options{})
//	v, err := h.CreateKey(ctx, "kek", hsmsim.AES256)
//	kek, err := h.KEK(hsmsim.Ref{Name: "kek", Version: v.Version})
//
// # The folder
//
//	DIR/               0700
//	  hsm.state        0600  every key and its attributes, sealed
//	  hsm.key          0600  the sealing key, unless a passphrase or another file is used
//	  lock             0600  flock of writers, never removed
//	  operations.log   0600  one JSON line an operation, read by [ReadLog]
//	  operations.log.1 0600  the log before it
//	  faults.json            optional, see [Faults]
//
// A folder or file that others can read is refused. The state file is replaced
// by write, fsync and rename under the lock, so that a kill or a power cut at any
// instant leaves the state before or after a change and nothing else. Every
// operation looks (one stat) whether another process has replaced it, so that
// changes are seen at once. Losing hsm.key or the passphrase loses the keys.
//
// # Keys
//
// A key has a name and versions of 32 lower-case hex digits; the latest is the
// one made last. An empty version means the latest. Attributes belong to a
// version and act as in Key Vault:
//
//	state                        wrap, encrypt    unwrap, decrypt
//	disabled                     ErrDisabled      ErrDisabled
//	past its expiry              ErrExpired       allowed
//	before its not-before date   ErrNotYetValid   allowed
//	deleted, purged, not found   ErrDeleted       ErrDeleted
//
// Deleting takes away the whole key and can be recovered from, purging cannot.
// Key material has no way out: there is neither export nor import.
//
// # Guarantees
//
// An [HSM] and the KEKs made from it are safe for concurrent use. Every error
// about a key is an [envelope.Error] with a remedy. A corrupt state file is
// [envelope.ErrCorrupt] on Open and never the start of a new, empty HSM; met
// later, it is [envelope.ErrUnreachable], because it says nothing about the data
// that a caller wanted to open.
//
// It needs flock and directory fsync: Linux, macOS and the BSDs on a local disk.
package hsmsim
