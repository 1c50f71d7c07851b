package envelope_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/sha3"
	"encoding/hex"
	"io"
	"testing"

	"github.com/keyfold/keyfold/envelope"
)

// sealXAES is XAES-256-GCM with a chosen nonce, over the sub-key derivation of
// this package. Only tests may choose nonces, so FIPS-only mode refuses them.
func sealXAES(t testing.TB, key *[32]byte, nonce [24]byte, plaintext, aad []byte) (ciphertext []byte) {
	t.Helper()
	subkey, err := envelope.XAESSubkey(key, [12]byte(nonce[:12]))
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(subkey[:])
	if err != nil {
		t.Fatal(err)
	}
	fips140.WithoutEnforcement(func() {
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		ciphertext = gcm.Seal(nil, nonce[12:], plaintext, aad)
	})
	return ciphertext
}

// openXAES opens with the cipher that messages are opened with.
func openXAES(t testing.TB, key *[32]byte, nonce [24]byte, ciphertext, aad []byte) ([]byte, error) {
	t.Helper()
	aead, err := envelope.NewMessageAEAD(key, [12]byte(nonce[:12]))
	if err != nil {
		t.Fatal(err)
	}
	return aead.Open(nil, nil, append(bytes.Clone(nonce[12:]), ciphertext...), aad)
}

// The vectors of https://c2sp.org/XAES-256-GCM. The most significant bit of L is
// clear in the first and set in the second.
func TestXAESVectors(t *testing.T) {
	for _, v := range []struct{ key, subkey, aad, ciphertext string }{
		{
			key:        "0101010101010101010101010101010101010101010101010101010101010101",
			subkey:     "c8612c9ed53fe43e8e005b828a1631a0bbcb6ab2f46514ec4f439fcfd0fa969b",
			ciphertext: "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271",
		},
		{
			key:        "0303030303030303030303030303030303030303030303030303030303030303",
			subkey:     "e9c621d4cdd9b11b00a6427ad7e559aeedd66b3857646677748f8ca796cb3fd8",
			aad:        "c2sp.org/XAES-256-GCM",
			ciphertext: "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
		},
	} {
		key := [32]byte(unhex(t, v.key))
		nonce := [24]byte([]byte("ABCDEFGHIJKLMNOPQRSTUVWX"))
		plaintext := []byte("XAES-256-GCM")

		subkey, err := envelope.XAESSubkey(&key, [12]byte(nonce[:12]))
		if err != nil || hex.EncodeToString(subkey[:]) != v.subkey {
			t.Errorf("sub-key %x, %v; want %s", subkey, err, v.subkey)
		}
		if c := sealXAES(t, &key, nonce, plaintext, []byte(v.aad)); hex.EncodeToString(c) != v.ciphertext {
			t.Errorf("ciphertext %x, want %s", c, v.ciphertext)
		}
		p, err := openXAES(t, &key, nonce, unhex(t, v.ciphertext), []byte(v.aad))
		if err != nil || !bytes.Equal(p, plaintext) {
			t.Errorf("opened %q, %v", p, err)
		}
	}
}

// The accumulated vectors of the same document: inputs from one SHAKE128, all
// ciphertexts hashed by another.
func TestXAESAccumulated(t *testing.T) {
	for _, v := range []struct {
		name       string
		iterations int
		hash       string
		long       bool
	}{
		{"10,000", 10_000, "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939", false},
		{"1,000,000", 1_000_000, "2163ae1445985a30b60585ee67daa55674df06901b890593e824b8a7c885ab15", true},
	} {
		t.Run(v.name, func(t *testing.T) {
			if v.long && testing.Short() {
				t.Skip("takes seconds")
			}
			t.Parallel()
			rng, hash := sha3.NewSHAKE128(), sha3.NewSHAKE128()
			var buf [2][255]byte
			for range v.iterations {
				var key [32]byte
				var nonce [24]byte
				io.ReadFull(rng, key[:])
				io.ReadFull(rng, nonce[:])
				plaintext := readVariable(rng, &buf[0])
				aad := readVariable(rng, &buf[1])

				ciphertext := sealXAES(t, &key, nonce, plaintext, aad)
				hash.Write(ciphertext)
				if v.long {
					continue // the short run has opened enough
				}
				if p, err := openXAES(t, &key, nonce, ciphertext, aad); err != nil || !bytes.Equal(p, plaintext) {
					t.Fatalf("opened %x, %v; want %x", p, err, plaintext)
				}
			}
			var sum [32]byte
			io.ReadFull(hash, sum[:])
			if hex.EncodeToString(sum[:]) != v.hash {
				t.Errorf("hash %x, want %s", sum, v.hash)
			}
		})
	}
}

func readVariable(r io.Reader, buf *[255]byte) []byte {
	var n [1]byte
	io.ReadFull(r, n[:])
	b := buf[:n[0]]
	io.ReadFull(r, b)
	return b
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
