package house_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/keyfold/keyfold"

// rule says what the non-test files of one package may import beside the
// standard library. Names of this module are relative to it. A trailing "/..."
// covers what is below.
type rule struct {
	pkg   string
	house []string
	deps  []string
}

// The picture of ARCHITECTURE.md, from the bottom upwards. Imports point only
// downwards, no back end knows another, and none knows Kubernetes.
var rules = []rule{
	{pkg: ""},
	{pkg: "envelope", deps: []string{"golang.org/x/crypto/..."}},
	{pkg: "envelope/kektest", house: []string{"envelope"}},
	{pkg: "keyvault/hsmsim", house: []string{"envelope"}, deps: []string{"golang.org/x/crypto/...", "golang.org/x/sys/..."}},
	{pkg: "cache", house: []string{"envelope"}, deps: []string{"github.com/hashicorp/golang-lru/v2/...", "golang.org/x/sync/..."}},
	{pkg: "rotation", house: []string{"envelope"}},
	{pkg: "kmsv2/stored", house: []string{"envelope"}, deps: []string{"google.golang.org/protobuf/..."}},
	{pkg: "kmsv2", house: []string{"envelope", "cache", "rotation", "kmsv2/stored"},
		deps: []string{"k8s.io/kms/...", "google.golang.org/grpc/...", "golang.org/x/sys/..."}},
	{pkg: "kmsv2/v1beta1", house: []string{"kmsv2"}, deps: []string{"k8s.io/kms/...", "google.golang.org/grpc/..."}},
	// The conformance kit judges anybody's plugin, so it knows nothing of ours.
	{pkg: "kmsv2/kmstest", deps: []string{"k8s.io/kms/...", "google.golang.org/grpc/..."}},
	{pkg: "examples/...", house: []string{"..."}, deps: []string{"..."}},
	{pkg: "internal/bubble"},
	{pkg: "internal/house"},
}

func TestImportsPointDownwards(t *testing.T) {
	for _, p := range list(t, "./...") {
		r, ok := ruleFor(p.rel())
		if !ok {
			t.Errorf("%s has no rule: add it to the table and to the picture in ARCHITECTURE.md", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			allowed := r.deps
			name := imported
			if inHouse(imported) {
				allowed = r.house
				name = strings.TrimPrefix(strings.TrimPrefix(imported, module), "/")
			} else if standard(imported) {
				continue
			}
			if !slices.ContainsFunc(allowed, func(pattern string) bool { return matches(pattern, name) }) {
				t.Errorf("%s must not import %s", p.ImportPath, imported)
			}
		}
	}
}

// Whoever imports envelope must not compile gRPC, a cloud's SDK or cgo, however
// indirectly.
func TestEnvelopeDependencies(t *testing.T) {
	for _, p := range list(t, "-deps", "./envelope") {
		if !p.Standard && !inHouse(p.ImportPath) && !matches("golang.org/x/crypto/...", p.ImportPath) {
			t.Errorf("envelope depends on %s", p.ImportPath)
		}
	}
}

// The table itself: a rule for a package that is gone is a rule nobody reads.
func TestEveryRuleIsUsed(t *testing.T) {
	packages := list(t, "./...")
	for _, r := range rules {
		if !slices.ContainsFunc(packages, func(p listed) bool { return matches(r.pkg, p.rel()) }) {
			t.Errorf("no package matches the rule for %q", r.pkg)
		}
	}
}

type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
}

func (p listed) rel() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func list(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Standard,Imports"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	var packages []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) == 0 {
		t.Fatalf("go list %v named no package", args)
	}
	return packages
}

func ruleFor(pkg string) (rule, bool) {
	i := slices.IndexFunc(rules, func(r rule) bool { return matches(r.pkg, pkg) })
	if i < 0 {
		return rule{}, false
	}
	return rules[i], true
}

func matches(pattern, name string) bool {
	prefix, subtree := strings.CutSuffix(pattern, "...")
	if !subtree {
		return name == pattern
	}
	return strings.HasPrefix(name, prefix) || name == strings.TrimSuffix(prefix, "/")
}

func inHouse(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

// standard: the first element of a standard library path has no dot, nor does "C".
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}
