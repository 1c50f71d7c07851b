package main

import (
	"io"
	"log/slog"
)

// newLogger returns a logger whose level can change while it is in use.
func newLogger(w io.Writer, format string, level *slog.LevelVar) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// levelOf maps -v to slog's scale, on which Info is 0 and Debug is -4: -v 0
// shows Info and above, -v 4 shows Debug, which is where request lines are.
func levelOf(verbosity int) slog.Level {
	return slog.LevelInfo - slog.Level(verbosity)
}
