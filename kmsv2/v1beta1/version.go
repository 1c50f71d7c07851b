package v1beta1

import (
	"runtime/debug"
	"strings"
)

const modulePath = "github.com/keyfold/keyfold"

// moduleVersion is the version that the go command built this module at, without
// the "v", as semantic versioning writes it.
func moduleVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			if v, ok := strings.CutPrefix(m.Version, "v"); ok && m.Path == modulePath {
				return v
			}
		}
	}
	return "0.0.0-devel"
}
