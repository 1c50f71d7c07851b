package hsmsim_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// TestNothingLeaks looks for key material, DEKs and plaintext wherever this package
// writes or speaks.
func TestNothingLeaks(t *testing.T) {
	var logged bytes.Buffer
	h, dir := open(t, hsmsim.Options{Logger: textLogger(&logged)})
	ctx := envelope.WithRequestID(t.Context(), "request-1")
	var said []string
	say := func(v any) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, string(b), errorText(v))
	}
	dek := []byte("a DEK that nobody may ever see..")
	for _, spec := range []hsmsim.KeySpec{hsmsim.AES256, hsmsim.RSA2048} {
		name := string(spec)
		v, err := h.CreateKey(ctx, name, spec)
		if err != nil {
			t.Fatal(err)
		}
		kek := mustKEK(t, h, hsmsim.Ref{Name: name})
		w, err := kek.Wrap(ctx, dek)
		if err != nil {
			t.Fatal(err)
		}
		say(v)
		say(w)
		say(second(kek.Unwrap(ctx, envelope.WrappedKey{KeyID: w.KeyID, Algorithm: w.Algorithm, Blob: w.Blob[1:]})))
		say(second(kek.Wrap(ctx, bytes.Repeat(dek, 10))))
		if err := h.SetEnabled(ctx, name, "", false); err != nil {
			t.Fatal(err)
		}
		say(second(kek.Wrap(ctx, dek)))
	}
	say(h)
	say(second(hsmsim.Open(dir, hsmsim.Options{Passphrase: dek})))
	said = append(said, logged.String())
	said = append(said, folderContent(t, dir)...)

	secrets := append(h.Material(), dek)
	if len(secrets) != 3 {
		t.Fatalf("%d secrets, want those of two keys and the DEK", len(secrets))
	}
	for _, secret := range secrets {
		for _, text := range said {
			for _, form := range forms(secret) {
				if strings.Contains(text, form) {
					t.Errorf("a secret shows as %q in %.200q", form, text)
				}
			}
		}
	}
}

func textLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func errorText(v any) string {
	if err, ok := v.(error); ok {
		return fmt.Sprintf("%v %+v %#v", err, err, err)
	}
	return fmt.Sprintf("%v %+v", v, v)
}

func folderContent(t testing.TB, dir string) (contents []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		contents = append(contents, string(b))
	}
	return contents
}

// forms are the ways in which 16 bytes out of a secret would show in text. They
// come from its end, where the private parts of a PKCS#8 key lie.
func forms(secret []byte) []string {
	part := secret[len(secret)-18:]
	whole := base64.StdEncoding.EncodeToString(secret)
	return []string{
		whole[len(whole)-24:],
		string(part),
		hex.EncodeToString(part),
		strings.ToUpper(hex.EncodeToString(part)),
		base64.StdEncoding.EncodeToString(part),
		base64.URLEncoding.EncodeToString(part),
		strings.Trim(fmt.Sprint(part), "[]"),
	}
}
