package e2e_test

import (
	"os"
	"testing"

	"github.com/keyfold/keyfold/internal/e2e/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveBuilt()
	os.Exit(code)
}
