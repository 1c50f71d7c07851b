package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/pflag"
)

// commandLine is what the arguments ask for.
type commandLine struct {
	args       []string
	configPath string
	help       bool
	version    bool
}

// flagGroup is a group of flags under one heading of --help.
type flagGroup struct {
	title string
	*pflag.FlagSet
}

// groups binds every flag to its place in c and s. A flag's default is what s
// already holds: the file's setting, so that parsing over a settings read from
// the file leaves the flags that were given as the only overrides.
func groups(c *commandLine, s *settings) []flagGroup {
	group := func(title string) flagGroup {
		return flagGroup{title, pflag.NewFlagSet(title, pflag.ContinueOnError)}
	}

	socket := group("Socket")
	socket.StringVar(&s.ListenAddr, "listen-addr", s.ListenAddr,
		"serve KMS v2 and v1 on `unix:///PATH`, or on the abstract unix:///@NAME")
	socket.StringVar(&s.SocketGroup, "socket-group", s.SocketGroup,
		"let this `GROUP` use the socket: mode 0660 instead of 0600")
	socket.VarPF(&uidList{list: &s.AllowUIDs}, "allow-uid", "",
		"admit this user `ID` too, beside root and the plugin's own; may be repeated")

	keys := group("Keys")
	keys.StringVar(&s.Provider.Name, "provider", s.Provider.Name,
		"`NAME` of the place where keys live: "+s.Provider.names())
	keys.StringVar(&s.KeyName, "key-name", s.KeyName,
		"encrypt under the latest version of the key `NAME`, pinned at start, and created then if missing")
	keys.StringVar(&s.StateDir, "state-dir", s.StateDir,
		"keep the wrapped data key (no secret) in this `DIR`, to start while the key is expired")
	for _, p := range s.Provider.all {
		p.flags(keys.FlagSet)
	}

	health := group("Health and metrics")
	health.StringVar(&s.Healthz.Host, "healthz-host", s.Healthz.Host,
		"`ADDRESS` of the health endpoints")
	health.IntVar(&s.Healthz.Port, "healthz-port", s.Healthz.Port,
		"`PORT` of the health endpoints (default none)")
	health.StringVar(&s.Healthz.Path, "healthz-path", s.Healthz.Path,
		"`PATH` of the readiness check; /livez and /statusz are beside it")
	health.Var(&s.Healthz.Timeout, "healthz-timeout",
		"`BOUND` of one health check, such as 5s")
	health.StringVar(&s.MetricsAddr, "metrics-addr", s.MetricsAddr,
		"serve Prometheus metrics at http://`HOST:PORT`/metrics")

	logs := group("Logging")
	logs.BoolFunc("log-format-json", "log in JSON instead of text", func(v string) error {
		json, err := strconv.ParseBool(v)
		s.LogFormat = "text"
		if json {
			s.LogFormat = "json"
		}
		return err
	})
	logs.IntVarP(&s.Verbosity, "verbosity", "v", s.Verbosity,
		"log more with a larger `N`: 0 what an operator must know, 4 a line per request with its uid")

	other := group("Other")
	other.StringVar(&c.configPath, "config", c.configPath,
		"read settings, and the ring's keys, from this YAML `FILE`; watched, and read again on SIGHUP")
	other.BoolVar(&c.version, "version", false, "print the version and exit")
	other.BoolVarP(&c.help, "help", "h", false, "print this and exit")

	return []flagGroup{socket, keys, health, logs, other}
}

// parse reads the arguments over s.
func (c *commandLine) parse(s *settings) error {
	fs := pflag.NewFlagSet("kmsplugin", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.Usage = func() {}
	for _, g := range groups(c, s) {
		fs.AddFlagSet(g.FlagSet)
	}
	if err := fs.Parse(c.args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: every setting is a flag, such as --key-name NAME", fs.Arg(0))
	}
	return nil
}

// newCommandLine learns from the arguments what to do and which file to read.
func newCommandLine(args []string) (*commandLine, error) {
	c := &commandLine{args: args}
	ignored := defaultSettings()
	return c, c.parse(&ignored)
}

// load returns the settings as they are now: defaults, then the file, then the
// flags. It is what a start and a reload share.
func (c *commandLine) load() (settings, error) {
	s := defaultSettings()
	if c.configPath != "" {
		if err := readConfig(c.configPath, &s); err != nil {
			return settings{}, err
		}
	}
	again := *c // others are reading c
	if err := again.parse(&s); err != nil {
		return settings{}, err
	}
	if err := s.validate(); err != nil {
		return settings{}, err
	}
	return s, nil
}

// uidList is a repeatable flag; the first one given replaces the file's list.
type uidList struct {
	list  *[]uint32
	given bool
}

func (u *uidList) Set(v string) error {
	id, err := strconv.ParseUint(v, 10, 32)
	if err != nil {
		return errors.New("must be a numeric user id; `id -u NAME` prints it")
	}
	if !u.given {
		*u.list, u.given = nil, true
	}
	*u.list = append(*u.list, uint32(id))
	return nil
}

func (u *uidList) String() string { return "" }
func (u *uidList) Type() string   { return "uid" }
