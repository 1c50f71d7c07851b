package envelope

import "unsafe"

// checkDst refuses a destination that shares memory with what is read while it
// is written. All of dst's spare capacity counts, whether or not this call would
// fill it, so that the answer never depends on how large a message happens to
// be. GCM itself panics for some overlaps and cannot see others, such as one
// with the header written before it.
func checkDst(op string, dst []byte, inputs ...[]byte) error {
	start, end := span(dst[:cap(dst)])
	start += uintptr(len(dst))
	if start == end {
		return nil
	}
	for _, in := range inputs {
		if inStart, inEnd := span(in); inStart < end && start < inEnd && inStart != inEnd {
			return invalid(op, "the spare capacity of the destination overlaps another argument")
		}
	}
	return nil
}

// span returns the addresses of the first byte of b and of the one after its
// last, for comparison only.
func span(b []byte) (start, end uintptr) {
	start = uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return start, start + uintptr(len(b))
}
