package harness

import (
	"bytes"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/kmsv2/stored"
)

// readStored reads a value that Keyfold has written through KMS v1 or v2 and the
// header of its data key. On the way it holds package stored to its word on what a
// real API server writes: that it gives the same bytes back, and that it reads the
// key id that the API server's own type reads.
func readStored(value []byte) (stored.Record, envelope.Header, error) {
	record, err := stored.Parse(value)
	if err != nil {
		return stored.Record{}, envelope.Header{}, err
	}
	if again, err := record.Append(nil); err != nil || !bytes.Equal(again, value) {
		return stored.Record{}, envelope.Header{}, fmt.Errorf("the parsed value does not turn into its own bytes again (%v)", err)
	}
	raw, err := record.Header()
	if err != nil {
		return stored.Record{}, envelope.Header{}, err
	}
	header, _, err := envelope.Inspect(raw)
	if err != nil {
		return stored.Record{}, envelope.Header{}, err
	}
	if record.Kind == stored.KMSv2 {
		var object kmstypes.EncryptedObject
		if err := proto.Unmarshal(bytes.SplitN(value, []byte(":"), 6)[5], &object); err != nil {
			return stored.Record{}, envelope.Header{}, err
		}
		if object.KeyID != record.KeyID || record.KeyID != header.Wraps[0].KeyID {
			return stored.Record{}, envelope.Header{}, fmt.Errorf(
				"the API server's type reads key id %q, package stored %q, and the header says %q",
				object.KeyID, record.KeyID, header.Wraps[0].KeyID)
		}
	}
	return record, header, nil
}

// storedKeyID returns the key id that a stored value names; under KMS v1, which
// has none, that of Keyfold's header.
func storedKeyID(value []byte) (string, error) {
	_, header, err := readStored(value)
	if err != nil {
		return "", err
	}
	return header.Wraps[0].KeyID, nil
}

// StoredDEKs returns how many Secrets and ConfigMaps are stored under each of
// Keyfold's data keys. Keyfold must have written all of them.
func (c *Cluster) StoredDEKs(t testing.TB) map[[16]byte]int {
	t.Helper()
	deks := make(map[[16]byte]int)
	for _, prefix := range []string{"/registry/secrets/", "/registry/configmaps/"} {
		for key, value := range c.Etcd.Values(t, prefix) {
			_, header, err := readStored(value)
			if err != nil {
				t.Fatalf("etcd: %s: %v", key, err)
			}
			deks[header.DEKID]++
		}
	}
	if len(deks) == 0 {
		t.Fatal("etcd holds nothing")
	}
	return deks
}
