package stored

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// wireReader reads the fields of one protobuf message in the one order and the one
// encoding that is accepted. After the first error every method returns zero values.
type wireReader struct {
	rest []byte
	err  error
}

var errNotMinimal = errors.New("a number is not in its shortest form")

// next consumes the tag of field num, if that is what comes next.
func (r *wireReader) next(num protowire.Number, typ protowire.Type) bool {
	if r.err != nil || len(r.rest) == 0 {
		return false
	}
	tag, n := protowire.ConsumeVarint(r.rest)
	if n < 0 || tag != protowire.EncodeTag(num, typ) {
		return false // end reports what is left
	}
	if n != protowire.SizeVarint(tag) {
		r.err = errNotMinimal
		return false
	}
	r.rest = r.rest[n:]
	return true
}

func (r *wireReader) varint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := protowire.ConsumeVarint(r.rest)
	switch {
	case n < 0:
		r.err = protowire.ParseError(n)
		return 0
	case n != protowire.SizeVarint(v):
		r.err = errNotMinimal
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// bytes consumes a length and that many bytes, as a view of the input.
func (r *wireReader) bytes() []byte {
	n := r.varint()
	if r.err != nil {
		return nil
	}
	if n > uint64(len(r.rest)) {
		r.err = errors.New("truncated")
		return nil
	}
	v := r.rest[:n:n]
	r.rest = r.rest[n:]
	return v
}

// optionalBytes reads a proto3 field, which is absent when empty and never present
// and empty.
func (r *wireReader) optionalBytes(num protowire.Number) []byte {
	if !r.next(num, protowire.BytesType) {
		return nil
	}
	v := r.bytes()
	if r.err == nil && len(v) == 0 {
		r.err = fmt.Errorf("field %d is present and empty", num)
	}
	return v
}

// requiredBytes reads a field that is always present, though it may be empty.
func (r *wireReader) requiredBytes(num protowire.Number) []byte {
	if !r.next(num, protowire.BytesType) {
		if r.err == nil {
			r.err = fmt.Errorf("field %d is missing", num)
		}
		return nil
	}
	return r.bytes()
}

// end returns the first error, or one if anything is left.
func (r *wireReader) end() error {
	if r.err == nil && len(r.rest) > 0 {
		r.err = fmt.Errorf("%d bytes that no API server writes there: a field out of order, repeated or unknown", len(r.rest))
	}
	return r.err
}

func appendBytes(dst []byte, num protowire.Number, v []byte) []byte {
	dst = protowire.AppendTag(dst, num, protowire.BytesType)
	return protowire.AppendBytes(dst, v)
}
