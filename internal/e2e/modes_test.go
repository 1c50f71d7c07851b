package e2e_test

import (
	"testing"

	"github.com/keyfold/keyfold/internal/e2e/harness"
)

// cases run one after the other on the cluster of each mode. Each finds the
// current key usable and leaves it so, and leaves nothing stored, so that any of
// them runs alone as well.
var cases = []struct {
	name string
	run  func(*testing.T, *harness.Cluster)
}{
	{"storage", testStorage},
	{"rotation", testRotation},
	{"two rotations", testTwoRotations},
	{"expired", testExpired},
	{"disabled", testDisabled},
	{"outage", testOutage},
}

func runCases(t *testing.T, mode harness.Mode) {
	t.Parallel()
	c := harness.NewCluster(t, mode, harness.Options{})
	for _, tc := range cases {
		if !t.Run(tc.name, func(t *testing.T) { tc.run(t, c) }) {
			// What failed may have left the cluster in any state at all.
			t.Fatalf("%s: the cases after %q were not run", mode.Name, tc.name)
		}
	}
}

// TestV2Socket: KMS v2 through the plugin's unix socket.
func TestV2Socket(t *testing.T) { runCases(t, harness.SocketV2) }

// TestV2InProcess: KMS v2 inside the API server, no plugin.
func TestV2InProcess(t *testing.T) { runCases(t, harness.InProcessV2) }

// TestV1Socket: KMS v1 through the same plugin's socket.
func TestV1Socket(t *testing.T) { runCases(t, harness.SocketV1) }
