package envelope

// HeaderKey returns what a cache knows a detached header by: the DEK id and the
// tag, read from their fixed places without parsing what lies between. They name
// the header and prove nothing: a cache compares all of its bytes with one that
// [OpenHeader] has verified. It allocates nothing, and every error is [ErrCorrupt].
func HeaderKey(header []byte) (dekID [16]byte, tag [32]byte, err error) {
	n, err := headerSize(header)
	if err != nil {
		return dekID, tag, err
	}
	if n != len(header) {
		return dekID, tag, corrupt("header", "%d bytes after the header", len(header)-n)
	}
	return [16]byte(header[dekIDOffset:]), [32]byte(header[n-headerTagSize:]), nil
}
