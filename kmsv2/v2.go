package kmsv2

import (
	"context"
	"slices"
	"strings"

	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/kmsv2/stored"
)

const (
	// AnnotationHeader is the annotation that holds the envelope's header: a domain
	// name of at least two labels, since an API server refuses any other (rule 7).
	AnnotationHeader = stored.HeaderAnnotation

	// MaxPlaintext is the longest plaintext of a KMS v2 request in bytes. An API
	// server sends a 32-byte seed; a ciphertext may have 1024 bytes (rule 6).
	MaxPlaintext = maxCiphertext - envelope.MessageOverhead

	maxCiphertext = 1024

	// apiVersion and healthOK are what an API server compares with (rules 3 and 4).
	// A failing service fails the call instead of saying anything else (rule 15).
	apiVersion = "v2"
	healthOK   = "ok"
)

// Encrypt seals plaintext, 1 to [MaxPlaintext] bytes, under the key id that the last
// Status reported. It makes no remote call. uid is for logs.
func (s *Service) Encrypt(ctx context.Context, uid string, plaintext []byte) (resp *service.EncryptResponse, err error) {
	defer s.answered(DomainV2, OperationEncrypt, uid, s.o.Now(), &err)
	if len(plaintext) > MaxPlaintext {
		return nil, invalid("encrypt", "KMS v2 encrypts keys, not data",
			"%d bytes of plaintext make a ciphertext of more than %d bytes, which API servers refuse", len(plaintext), maxCiphertext)
	}
	err = s.seal(ctx, DomainV2, plaintext, func(k *writeKey) error {
		header, message, err := k.sealer.SealDetached(ctx, plaintext, k.aad)
		if err != nil {
			return err
		}
		resp = &service.EncryptResponse{
			Ciphertext:  message,
			KeyID:       k.keyID,
			Annotations: map[string][]byte{AnnotationHeader: header},
		}
		return nil
	})
	return resp, err
}

// Decrypt opens what Encrypt returned. Nothing but a well-formed request that names
// one of its header's own key ids reaches a key. uid is for logs, here and in the
// vault.
func (s *Service) Decrypt(ctx context.Context, uid string, req *service.DecryptRequest) (plaintext []byte, err error) {
	defer s.answered(DomainV2, OperationDecrypt, uid, s.o.Now(), &err)
	header, err := checkDecrypt(req)
	if err != nil {
		return nil, err
	}
	if err := s.mayOpen(); err != nil {
		return nil, err
	}
	if passable(uid) {
		ctx = envelope.WithRequestID(ctx, uid)
	}
	return s.open.OpenDetached(ctx, header, req.Ciphertext, aadV2(req.KeyID))
}

// passable reports whether a uid may go on to a vault, which may be in the header of
// an HTTP request, and into its logs. An API server's is a UUID.
func passable(uid string) bool {
	printable := func(c rune) bool { return '!' <= c && c <= '~' }
	return uid != "" && len(uid) <= 128 && strings.TrimFunc(uid, printable) == ""
}

// checkDecrypt returns the header of a request that could be one of ours.
func checkDecrypt(req *service.DecryptRequest) ([]byte, error) {
	const op = "decrypt"
	switch {
	case req == nil:
		return nil, invalid(op, "send a request", "the request is empty")
	case req.KeyID == "" || len(req.KeyID) > envelope.MaxKeyIDSize:
		return nil, corrupt(op, "a key id of %d bytes", len(req.KeyID))
	case len(req.Ciphertext) == 0 || len(req.Ciphertext) > maxCiphertext:
		return nil, corrupt(op, "a ciphertext of %d bytes", len(req.Ciphertext))
	}
	header, ok := req.Annotations[AnnotationHeader]
	switch {
	case !ok:
		return nil, corrupt(op, "no annotation %s: this was written by another KMS plugin", AnnotationHeader)
	case len(req.Annotations) != 1:
		// We write this one alone. Whatever else stands there is not authenticated and
		// must not look as if it were.
		return nil, corrupt(op, "%d annotations beside %s", len(req.Annotations)-1, AnnotationHeader)
	}
	h, size, err := envelope.Inspect(header)
	if err != nil {
		return nil, err
	}
	if size != len(header) {
		return nil, corrupt(op, "%d bytes after the header", len(header)-size)
	}
	// Rule 11: never try a key that the request does not name.
	if !slices.ContainsFunc(h.Wraps, func(w envelope.WrappedKey) bool { return w.KeyID == req.KeyID }) {
		return nil, corrupt(op, "the header names other keys than %.80q", req.KeyID)
	}
	return header, nil
}

// Status reports the key id that Encrypt will use from now on. It answers from
// memory; only before the vault's first answer it waits, within its deadline. It
// fails when nothing may be written, see the package's documentation.
func (s *Service) Status(ctx context.Context) (resp *service.StatusResponse, err error) {
	defer s.answered(DomainV2, OperationStatus, "", s.o.Now(), &err)
	keys, err := s.await(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.mayWrite(keys.live); err != nil {
		return nil, err
	}
	k := s.report()
	if k == nil { // revoked between the two looks
		return nil, s.waiting.error()
	}
	return &service.StatusResponse{Version: apiVersion, Healthz: healthOK, KeyID: k.keyID}, nil
}

// Healthz returns the error that Status would return now, or nil. Unlike Status it
// never waits and decides nothing: however often it is called, Encrypt goes on under
// the key that the API server knows.
func (s *Service) Healthz(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return toStatus(err)
	}
	live := s.keys.Load().live
	if live == nil {
		return toStatus(s.waiting.error())
	}
	return toStatus(s.mayWrite(live))
}
