// Package kmsv2 makes a Kubernetes KMS of a ring of keys: the service behind the KMS
// v2 API, the gRPC server for its unix socket, and a factory that serves an API
// server from inside its own process. Package kmsv2/v1beta1 adds KMS v1.
//
//	API server ──► unix socket ──► Server ─┐                 ┌─► Sealer ──► ring (wrap)
//	                                       ├──► Service ─────┤
//	API server build ──► Factory ──────────┘   one path      └─► cache ──► ring (unwrap)
//
// A plugin is a ring, a Service, a socket and a Server:
//
//	svc, err := kmsv2.New(ring, kmsv2.Options{StateDir: "/var/lib/keyfold"})
//	l, err := kmsv2.Listen("unix:///run/kms/keyfold.sock", kmsv2.ListenOptions{})
//	srv := kmsv2.NewServer(svc, kmsv2.ServerOptions{})
//	v1beta1.Register(srv, svc) // if KMS v1 is needed
//	go svc.Run(ctx)
//	err = srv.Serve(ctx, l)
//
// With the defaults, [ListenAndServe] is the last of it in one call.
//
// # What is stored
//
// A data-encryption key (DEK) of ours stands between the key-encryption key (KEK)
// in the vault and what the API server sends, so the vault is asked once for each
// DEK and not for each request. The header with the wrapped DEK goes where there is
// room:
//
//	v2  ciphertext   nonce 24 | encrypted | tag 16       at most 1024 bytes
//	    annotation   header.kms.keyfold.dev = header     the DEK under the KEK
//	    key_id       FAMILY/VERSION[.EPOCH] of the KEK
//	    associated   "keyfold/kms/v2" 0x00 key_id
//
//	v1  cipher       header | nonce 24 | encrypted | tag 16
//	    associated   "keyfold/kms/v1"
//
// The associated data keeps a ciphertext of one API, or under one key id, from being
// replayed as another's.
//
// # Which key writes
//
// Encrypt makes no remote call. It seals under a write key: a key id with a DEK that
// was wrapped under it, or unwrapped again after a restart, before the write key is
// put to use. When the ring has a new writer, Run prepares the next write key in the
// background. The next Status reports its id, and from then on Encrypt uses it: an
// API server discards what was encrypted under another id than the last one reported
// (rule 8 of the KMS v2 contract). In between both are alive. KMS v1 has no Status
// and always uses the newer one.
//
// # What is refused, and when
//
//	the ring's health      Status              Encrypt          Decrypt
//	healthy                ok                  yes              yes
//	expired, not yet valid ok, logged loudly   under the DEK    yes
//	                                           wrapped before
//	unavailable            ok within the       within the       within the
//	                       outage grace,       grace            grace
//	                       then an error
//	revoked                error               no               not under the
//	                                                            revoked version
//
// A current key that cannot wrap is no reason to stop: the key before it stays in use,
// until it is itself found to be taken away, within the same bound. What was sealed
// under it opens from memory even then, like anything under a key that is not current.
//
// Status fails as a call and never by way of its healthz field: an API server whose
// provider says anything but "ok" there goes on writing for ever, and one whose
// provider's Status fails stops after three minutes (rule 15). Before the vault's
// first answer Status waits, within its deadline, and then fails.
//
// # State
//
// With [Options.StateDir], the header of the DEK in use is kept in a file, so that a
// restarted process goes on under it, even if the KEK has expired meanwhile and
// only unwraps. Without that, an API server that restarts while the KEK is expired
// could not so much as read. The file holds no secret, but who writes it chooses
// the key that we write with, so it is guarded like one.
//
// # Errors
//
// Every error is both an [envelope.Error] of the right class, for errors.Is, and a
// gRPC status, see [Code].
package kmsv2
