package envelope

import "unsafe"

// checkDst refuses a destination that shares memory with what is read while it
// is written. All of dst's spare capacity counts, whether or not this call would
// fill it, so that the answer never depends on how large a message happens to
// be. GCM itself panics for some overlaps and cannot see others, such as one
// with the header written before it.
func checkDst(op string, dst []byte, inputs ...[]byte) error {
	spare := dst[len(dst):cap(dst)]
	for _, in := range inputs {
		if overlap(spare, in) {
			return errOverlap(op)
		}
	}
	return nil
}

func errOverlap(op string) error {
	return invalid(op, "the spare capacity of the destination overlaps another argument")
}

// overlap tells whether a and b share a byte.
func overlap(a, b []byte) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	first := func(s []byte) uintptr { return uintptr(unsafe.Pointer(&s[0])) }
	last := func(s []byte) uintptr { return uintptr(unsafe.Pointer(&s[len(s)-1])) }
	return first(a) <= last(b) && first(b) <= last(a)
}
