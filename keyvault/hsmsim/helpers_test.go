package hsmsim_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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
