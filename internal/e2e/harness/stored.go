package harness

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"

	"github.com/keyfold/keyfold/envelope"
)

// storedKeyID returns the key id that a stored value names. It reads v2 with the
// API server's own type, not with the library under test; v1 has no key id of its
// own, so Keyfold's header is asked.
func storedKeyID(value []byte) (string, error) {
	api, rest, err := cutPrefix(value)
	if err != nil {
		return "", err
	}
	if api == "v2" {
		var object kmstypes.EncryptedObject
		if err := proto.Unmarshal(rest, &object); err != nil {
			return "", err
		}
		return object.KeyID, nil
	}
	header, err := v1Header(rest)
	if err != nil {
		return "", err
	}
	return header.Wraps[0].KeyID, nil
}

// StoredDEKs returns how many stored Secrets and ConfigMaps there are under each
// of Keyfold's DEKs. All of them must be written by Keyfold through KMS v1.
func (c *Cluster) StoredDEKs(t testing.TB) map[[16]byte]int {
	t.Helper()
	deks := make(map[[16]byte]int)
	for _, prefix := range []string{"/registry/secrets/", "/registry/configmaps/"} {
		for key, value := range c.Etcd.Values(t, prefix) {
			_, rest, err := cutPrefix(value)
			if err != nil {
				t.Fatalf("etcd: %s: %v", key, err)
			}
			header, err := v1Header(rest)
			if err != nil {
				t.Fatalf("etcd: %s: %v", key, err)
			}
			deks[header.DEKID]++
		}
	}
	return deks
}

// cutPrefix takes k8s:enc:kms:API:NAME: off a stored value.
func cutPrefix(value []byte) (api string, rest []byte, err error) {
	parts := bytes.SplitN(value, []byte(":"), 6)
	if len(parts) != 6 || !bytes.HasPrefix(value, []byte("k8s:enc:kms:v")) {
		return "", nil, fmt.Errorf("%.40q is not written by a KMS provider", value)
	}
	return string(parts[3]), parts[5], nil
}

// v1Header reads the header of the envelope that an API server keeps in front of
// an object as its encrypted data key, with two bytes of length before it.
func v1Header(rest []byte) (envelope.Header, error) {
	if len(rest) < 2 || len(rest) < 2+int(binary.BigEndian.Uint16(rest)) {
		return envelope.Header{}, fmt.Errorf("%.40q is cut short", rest)
	}
	header, _, err := envelope.Inspect(rest[2 : 2+int(binary.BigEndian.Uint16(rest))])
	return header, err
}
