package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/keyfold/keyfold/envelope"
)

// Exit codes.
const (
	exitOK     = 0 // stopped by a signal, or --help, --version
	exitFailed = 1 // failed while starting or running
	exitUsage  = 2 // flags or configuration are wrong; a restart does not help
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	// First of all: unhandled, SIGHUP ends a process.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)

	cmd, err := newCommandLine(args)
	if err != nil {
		return usage(stderr, err)
	}
	if cmd.help {
		printHelp(stdout)
		return exitOK
	}
	if cmd.version {
		fmt.Fprintln(stdout, "kmsplugin", version())
		return exitOK
	}
	s, err := cmd.load()
	if err != nil {
		return usage(stderr, err)
	}

	level := new(slog.LevelVar)
	level.Set(levelOf(s.Verbosity))
	log := newLogger(stderr, s.LogFormat, level)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, func() {
		stop() // a second signal has its default effect: the end, at once
		log.Info("stopping: finishing the requests under way; a second signal ends at once")
	})

	log.Info("kmsplugin starts", "version", version(), "provider", s.Provider.Name, "config", cmd.configPath)
	p, err := newPlugin(cmd, s, log, level)
	if err == nil {
		err = p.run(ctx, hup)
	}
	if err != nil {
		log.Error("kmsplugin failed", "err", err)
		if errors.Is(err, envelope.ErrInvalid) {
			return exitUsage
		}
		return exitFailed
	}
	log.Info("kmsplugin stopped")
	return exitOK
}

// usage lists what is wrong, one line each.
func usage(stderr io.Writer, err error) int {
	fmt.Fprintln(stderr, "kmsplugin: wrong flags or configuration:")
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(stderr, "  -", strings.TrimSpace(line))
	}
	fmt.Fprintln(stderr, "kmsplugin --help shows every setting, with examples.")
	return exitUsage
}
