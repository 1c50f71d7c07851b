package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// page prints the story.
type page struct {
	out    io.Writer
	hsmDir string
	read   int // entries of the operations log that were printed already
}

func (p *page) heading(title string) {
	fmt.Fprintf(p.out, "\n%s\n%s\n", title, strings.Repeat("-", len(title)))
}

func (p *page) say(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }

func (p *page) fact(name, format string, args ...any) {
	fmt.Fprintf(p.out, "    %-12s  %s\n", name, fmt.Sprintf(format, args...))
}

// asked prints what the HSM was asked to do since the last time, from its own log.
func (p *page) asked() error {
	calls := map[string]int{}
	var order []string
	seen := 0
	for entry, err := range hsmsim.ReadLog(p.hsmDir) {
		if err != nil {
			return err
		}
		if seen++; seen <= p.read {
			continue
		}
		name := string(entry.Operation)
		if entry.Result != "ok" {
			name += " (refused: " + entry.Result + ")"
		}
		if calls[name] == 0 {
			order = append(order, name)
		}
		calls[name]++
	}
	p.read = seen
	for i, name := range order {
		order[i] = fmt.Sprintf("%d %s", calls[name], name)
	}
	p.fact("HSM's log", "%s", strings.Join(order, ", "))
	return nil
}
