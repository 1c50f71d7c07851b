// Package envelope encrypts data at rest under keys that live somewhere safer
// than this process.
//
// A message is encrypted under a data-encryption key (DEK), 32 random bytes made
// here. The DEK is wrapped (encrypted) under a key-encryption key (KEK) that a
// vault, a token or an HSM never gives away, and stored, wrapped, with the
// message:
//
//	KEK            in the vault
//	 └ wraps DEK           in the header, next to the data
//	    └ encrypts messages
//
// One DEK serves many messages. So the vault is asked once for each DEK, and not
// once for each message.
//
// # What to use
//
// A [Sealer] seals. It makes a DEK, has it wrapped by a [Wrapper], and renews it
// in time. An [Opener] opens, by way of an [Unwrapper] or, where that is a
// network call, a cache of opened keys (any [KeySource]). Both have four methods
// that do the same: Seal and Open allocate their result, AppendSeal and AppendOpen
// append it to a buffer of the caller's and allocate nothing if it fits, and both
// have a variant ending in Detached that keeps the header apart from the message.
//
// Whoever writes a back end implements [KEK], two methods, and runs package
// kektest on it. What more a back end can do (describe its key, list versions) it
// says by optional interfaces, see [As].
//
// A [Rewrapper] moves envelopes to another KEK without touching their messages,
// and [Inspect] shows, without any key, which keys an envelope needs.
//
// # Associated data
//
// Seal and Open take associated data: what the message is and where it belongs,
// such as "table/column/row". It is authenticated and not stored. An envelope
// that somebody moved to another place does not open there.
//
// # The envelope
//
//	header   "KFE" version suite length DEK-id count  wrap … wrap  tag
//	           3      1      1     2      16     1                  32
//
//	wrap     length key-id  length algorithm  length blob
//	           1    1…255     1      1…64       2    1…4096
//
//	message  selector nonce ciphertext     tag
//	            12     12   len(plaintext)  16
//
//	envelope = header || message, or the two stored apart ("detached")
//
// The header holds 1 to 8 copies of the DEK, each wrapped under another KEK; any
// of them opens it. Its tag is an HMAC under a key derived from the DEK: every
// byte of the header is authenticated, and the envelope is committed to its DEK.
// The message is XAES-256-GCM (https://c2sp.org/XAES-256-GCM) under another key
// derived from it. FORMAT.md specifies all of it, well enough to implement it in
// another language, and testdata/vectors.json pins it.
//
// # Guarantees
//
//   - What this version writes, later versions read. Each value has one encoding
//     only; everything else is refused.
//   - Malformed input is [ErrCorrupt] before any key is asked for, and never makes
//     a panic or a large allocation. Data that is not authentic is [ErrCorrupt];
//     none of it is ever returned.
//   - The caller's slices are not kept and, but for the destinations of the
//     appending methods, not written to. A destination that overlaps an input is
//     refused, [ErrInvalid], before anything is written.
//   - Nonces are random, and no sub-key seals more than 2^28 messages, at which
//     the chance that any two nonces are the same is 2^-41. What an envelope
//     brought along never seals: an [OpenKey] only opens.
//   - Errors have a class, which errors.Is finds: [ErrCorrupt], [ErrUnknownKey],
//     [ErrUnreachable] and so on. [Error] has the details. None shows a key or a
//     plaintext.
//   - DEKs are overwritten right after derivation. The expanded AES keys inside
//     crypto/aes cannot be, see [OpenKey.Wipe].
//   - Everything runs under GODEBUG=fips140=only.
//
// What envelopes do not do is in FORMAT.md, section 8: among other things, they
// cannot show that an older envelope was put back.
package envelope
