// Package house holds the rules of this module's own structure: which package
// may import which. Its test is the lint that ARCHITECTURE.md speaks of.
package house
