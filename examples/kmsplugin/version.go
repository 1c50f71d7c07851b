package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version says what was built: the module's version, or the commit it was
// built from, as the Go tool recorded them. No linker flag has to be remembered.
func version() string {
	v, revision, modified := "(unknown)", "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		v = info.Main.Version
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				revision = ", commit " + s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				modified = ", modified"
			}
		}
	}
	return fmt.Sprintf("%s (%s%s%s)", v, runtime.Version(), revision, modified)
}
