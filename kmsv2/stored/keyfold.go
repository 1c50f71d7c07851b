package stored

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/keyfold/keyfold/envelope"
)

// HeaderAnnotation is the annotation in which Keyfold's KMS v2 service keeps the
// envelope header of a ciphertext.
const HeaderAnnotation = "header.kms.keyfold.dev"

// headerMagic begins every Keyfold header (see envelope/FORMAT.md).
var headerMagic = []byte("KFE")

// Header returns the Keyfold header that wraps the record's key, as a view of the
// record: the annotation [HeaderAnnotation] under KMS v2, the beginning of the
// encrypted DEK under KMS v1. Records with equal headers share one DEK of ours, and
// [envelope.Inspect] tells which KEKs open it.
//
// A record that Keyfold did not write is [envelope.ErrUnknownKey]; a header that is
// there and malformed is [envelope.ErrCorrupt]. A well-formed one is not yet an
// authentic one, which takes a key to tell.
func (r Record) Header() ([]byte, error) {
	switch r.Kind {
	case KMSv1:
		if !bytes.HasPrefix(r.EncryptedDEK, headerMagic) {
			return nil, r.notOurs(errors.New("the encrypted DEK does not begin with a Keyfold header"))
		}
		_, size, err := envelope.Inspect(r.EncryptedDEK)
		if err != nil {
			return nil, err
		}
		return r.EncryptedDEK[:size:size], nil
	case KMSv2:
		header, ok := r.Annotations.Get(HeaderAnnotation)
		if !ok {
			return nil, r.notOurs(fmt.Errorf("there is no annotation %s", HeaderAnnotation))
		}
		_, size, err := envelope.Inspect(header)
		if err == nil && size != len(header) {
			err = &envelope.Error{Class: envelope.ErrCorrupt, Op: "read stored header", Err: fmt.Errorf("%d bytes after the header", len(header)-size)}
		}
		if err != nil {
			return nil, err
		}
		return header, nil
	}
	return nil, r.notOurs(fmt.Errorf("the record is of kind %s", r.Kind))
}

func (r Record) notOurs(why error) error {
	return &envelope.Error{Class: envelope.ErrUnknownKey, Op: "read stored header", Err: fmt.Errorf("not written by Keyfold: %w", why)}
}
