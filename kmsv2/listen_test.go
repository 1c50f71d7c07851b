package kmsv2_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	kmsapi "k8s.io/kms/apis/v2"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/kmsv2"
)

func TestBadEndpoints(t *testing.T) {
	for _, endpoint := range []string{
		"", "/run/kms.sock", "kms.sock", "tcp://127.0.0.1:8200", "http://localhost", "unix:", "unix://", "unix:///",
		"unix://run/kms.sock", "unix:run/kms.sock", "unix:kms.sock", "unix:@name", "unix:///@", "unix:///run//kms.sock",
		"unix:///run/../kms.sock", "unix:///run/kms.sock/", "unix:///run/kms.sock?x=1", "unix:///run/kms.sock?",
		"unix:///run/kms.sock#x", "unix:///run/kms.sock#", "unix://user@/run/kms.sock", "unix:///run/%zz",
		"unix:///run/kms%00.sock", "unix:///" + strings.Repeat("x", 107), "unix:///@" + strings.Repeat("x", 107), "UNIX\n",
	} {
		l, err := kmsv2.Listen(endpoint, kmsv2.ListenOptions{})
		if err == nil {
			l.Close()
			t.Errorf("%q is accepted", endpoint)
			continue
		}
		wantClass(t, err, envelope.ErrInvalid)
		if !strings.Contains(err.Error(), "remedy:") {
			t.Errorf("%q has no remedy", err)
		}
	}
}

// socketFolder is a short path: a socket's name has 107 bytes at most.
func socketFolder(t testing.TB) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "kms")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}

func abstractName(t testing.TB) string {
	return fmt.Sprintf("unix:///@keyfold-test-%d-%s", os.Getpid(), filepath.Base(socketFolder(t)))
}

func TestSocketMode(t *testing.T) {
	// Whatever the umask allows, only the mode that is asked for is there.
	defer syscall.Umask(syscall.Umask(0))
	for name, c := range map[string]struct {
		group string
		mode  os.FileMode
	}{
		"alone":        {"", os.ModeSocket | 0o600},
		"with a group": {fmt.Sprint(os.Getegid()), os.ModeSocket | 0o660},
	} {
		path := filepath.Join(socketFolder(t), "kms.sock")
		l, err := kmsv2.Listen("unix://"+path, kmsv2.ListenOptions{Group: c.group})
		must(t, err)
		info, err := os.Lstat(path)
		must(t, err)
		if info.Mode() != c.mode {
			t.Errorf("%s: mode %v, want %v", name, info.Mode(), c.mode)
		}
		if got := l.Addr().String(); got != path {
			t.Errorf("%s: address %q", name, got)
		}
		must(t, l.Close())
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s: Close leaves the socket (%v)", name, err)
		}
	}
	if _, err := kmsv2.Listen("unix://"+filepath.Join(socketFolder(t), "s"), kmsv2.ListenOptions{Group: "no such group"}); err == nil {
		t.Error("an unknown group is accepted")
	} else {
		wantClass(t, err, envelope.ErrInvalid)
	}
}

func TestSocketFolder(t *testing.T) {
	for name, c := range map[string]struct {
		mode, above os.FileMode
		good        bool
	}{
		"private":                           {0o700, 0o700, true},
		"readable by others":                {0o755, 0o755, true},
		"writable by a group":               {0o770, 0o700, false},
		"writable by others":                {0o707, 0o700, false},
		"sticky and writable by all":        {0o777 | os.ModeSticky, 0o700, false},
		"below a folder writable by others": {0o700, 0o777, false},
		"below a sticky folder":             {0o700, 0o777 | os.ModeSticky, true},
	} {
		above := socketFolder(t)
		folder := filepath.Join(above, "d")
		must(t, os.Mkdir(folder, 0o700))
		must(t, os.Chmod(folder, c.mode))
		must(t, os.Chmod(above, c.above))
		l, err := kmsv2.Listen("unix://"+filepath.Join(folder, "s"), kmsv2.ListenOptions{})
		if err == nil {
			l.Close()
		} else {
			wantClass(t, err, envelope.ErrInvalid)
		}
		if good := err == nil; good != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		mode os.FileMode // of the folder that the link is in
		good bool
	}{
		"through a link that others can replace": {0o777, false},
		"through a link":                         {0o755, true},
	} {
		folder, above := socketFolder(t), socketFolder(t)
		must(t, os.Chmod(above, c.mode))
		must(t, os.Symlink(folder, filepath.Join(above, "link2")))
		must(t, os.Mkdir(filepath.Join(folder, "d"), 0o700))
		straight := socketFolder(t)
		must(t, os.Symlink(filepath.Join(above, "link2"), filepath.Join(straight, "link1")))
		l, err := kmsv2.Listen("unix://"+filepath.Join(straight, "link1", "d", "s"), kmsv2.ListenOptions{})
		if err == nil {
			l.Close()
		}
		if good := err == nil; good != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := kmsv2.Listen("unix:///no/such/folder/s", kmsv2.ListenOptions{})
	wantClass(t, err, envelope.ErrInvalid)
}

// The name is already there.
func TestStaleSocket(t *testing.T) {
	for name, c := range map[string]struct {
		make func(t *testing.T, path string)
		good bool
	}{
		"a socket left behind": {func(t *testing.T, path string) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
			must(t, err)
			l.SetUnlinkOnClose(false)
			must(t, l.Close())
		}, true},
		"a socket in use": {func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			must(t, err)
			t.Cleanup(func() { l.Close() })
		}, false},
		"a datagram socket in use": {func(t *testing.T, path string) {
			c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
			must(t, err)
			t.Cleanup(func() { c.Close() })
		}, false},
		"a file":   {func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte("precious"), 0o600)) }, false},
		"a folder": {func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, false},
		"a symbolic link to a socket left behind": {func(t *testing.T, path string) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path + "2"})
			must(t, err)
			l.SetUnlinkOnClose(false)
			must(t, l.Close())
			must(t, os.Symlink(path+"2", path))
		}, false},
		"somebody else's socket": {func(t *testing.T, path string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a socket away")
			}
			l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
			must(t, err)
			l.SetUnlinkOnClose(false)
			must(t, l.Close())
			must(t, os.Chown(path, 65534, 65534))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(socketFolder(t), "s")
			c.make(t, path)
			before, err := os.Lstat(path)
			must(t, err)
			l, err := kmsv2.Listen("unix://"+path, kmsv2.ListenOptions{})
			if err == nil {
				defer l.Close()
			} else {
				wantClass(t, err, envelope.ErrInvalid)
				if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
					t.Error("what was there is gone")
				}
			}
			if good := err == nil; good != c.good {
				t.Errorf("Listen: %v", err)
			}
		})
	}
}

// Of many that start at once over a stale socket, one listens and stays reachable.
func TestRacingStarts(t *testing.T) {
	path := filepath.Join(socketFolder(t), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	must(t, err)
	stale.SetUnlinkOnClose(false)
	must(t, stale.Close())

	const starters = 8
	results := make(chan net.Listener, starters)
	for range starters {
		go func() {
			l, err := kmsv2.Listen("unix://"+path, kmsv2.ListenOptions{})
			if err != nil {
				l = nil
			}
			results <- l
		}()
	}
	var winners []net.Listener
	for range starters {
		if l := <-results; l != nil {
			winners = append(winners, l)
		}
	}
	if len(winners) != 1 {
		t.Fatalf("%d listen on one path", len(winners))
	}
	go net.Dial("unix", path)
	conn, err := winners[0].Accept()
	must(t, err)
	conn.Close()
	must(t, winners[0].Close())
}

// Close leaves a socket alone that has taken the place of its own.
func TestCloseKeepsAnothersSocket(t *testing.T) {
	path := filepath.Join(socketFolder(t), "s")
	old, err := kmsv2.Listen("unix://"+path, kmsv2.ListenOptions{})
	must(t, err)
	must(t, os.Remove(path))
	next, err := kmsv2.Listen("unix://"+path, kmsv2.ListenOptions{})
	must(t, err)
	must(t, old.Close())
	conn, err := net.Dial("unix", path)
	must(t, err)
	conn.Close()
	must(t, next.Close())
	if err := next.Close(); err == nil {
		t.Error("a second Close says nothing")
	}
	if _, err := next.Accept(); err == nil {
		t.Error("Accept after Close")
	}
}

const (
	strangerUID   = 65534
	strangerGroup = 54321
)

// The kernel's word on who connects decides, whatever the socket's mode says.
func TestPeers(t *testing.T) {
	if endpoint := os.Getenv("KMSV2_TEST_PEER"); endpoint != "" {
		// This is the peer: another user, in a process of its own.
		_, err := dial(t, endpoint).Status(within(t, 5*time.Second), &kmsapi.StatusRequest{})
		must(t, err)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can start processes of other users")
	}
	member := &syscall.Credential{Uid: strangerUID, Gid: strangerUID, Groups: []uint32{strangerGroup}}
	primary := &syscall.Credential{Uid: strangerUID, Gid: strangerGroup, NoSetGroups: true}
	nobody := &syscall.Credential{Uid: strangerUID, Gid: strangerUID}
	group := kmsv2.ListenOptions{Group: fmt.Sprint(strangerGroup)}
	for _, c := range []struct {
		name     string
		abstract bool
		options  kmsv2.ListenOptions
		mode     os.FileMode // set on the socket against its owner's will
		peer     *syscall.Credential
		good     bool
	}{
		{"abstract, own user", true, kmsv2.ListenOptions{}, 0, nil, true},
		{"abstract, stranger", true, kmsv2.ListenOptions{}, 0, nobody, false},
		{"abstract, allowed user", true, kmsv2.ListenOptions{AllowUIDs: []uint32{strangerUID}}, 0, nobody, true},
		{"abstract, another user allowed", true, kmsv2.ListenOptions{AllowUIDs: []uint32{1234}}, 0, nobody, false},
		{"abstract, member of the group", true, group, 0, member, true},
		{"abstract, the group is the primary one", true, group, 0, primary, true},
		{"abstract, not a member", true, group, 0, nobody, false},
		{"path, own user", false, kmsv2.ListenOptions{}, 0, nil, true},
		{"path, stranger", false, kmsv2.ListenOptions{}, 0, nobody, false},
		{"path, stranger let in by the mode", false, kmsv2.ListenOptions{}, 0o666, nobody, false},
		{"path, member of the group", false, group, 0, member, true},
		{"path, the group is the primary one", false, group, 0, primary, true},
		{"path, not a member", false, group, 0, nobody, false},
		{"path, not a member but let in by the mode", false, group, 0o666, nobody, false},
		{"path, allowed user", false, kmsv2.ListenOptions{AllowUIDs: []uint32{strangerUID}}, 0o666, nobody, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			endpoint := abstractName(t)
			if !c.abstract {
				folder := socketFolder(t)
				must(t, os.Chmod(folder, 0o755))
				endpoint = "unix://" + filepath.Join(folder, "s")
			}
			serve(t, endpoint, c.options, fixedService{})
			if c.mode != 0 {
				must(t, os.Chmod(strings.TrimPrefix(endpoint, "unix://"), c.mode))
			}
			// Not by its path: the folders that go test builds in are private.
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestPeers$")
			cmd.Env = append(os.Environ(), "KMSV2_TEST_PEER="+endpoint)
			cmd.Dir = "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.peer}
			out, err := cmd.CombinedOutput()
			if good := err == nil; good != c.good {
				t.Errorf("the peer: %v\n%s", err, out)
			}
			if !c.good && !strings.Contains(string(out), "code = Unavailable") {
				t.Errorf("the peer failed for another reason:\n%s", out)
			}
		})
	}
}

// One connection that says nothing, or many, do not shut out the next.
func TestSilentConnections(t *testing.T) {
	endpoint := "unix://" + filepath.Join(socketFolder(t), "s")
	serve(t, endpoint, kmsv2.ListenOptions{}, fixedService{})
	for range 20 {
		conn, err := net.Dial("unix", strings.TrimPrefix(endpoint, "unix://"))
		must(t, err)
		defer conn.Close()
	}
	_, err := dial(t, endpoint).Status(within(t, 5*time.Second), &kmsapi.StatusRequest{})
	must(t, err)
}

// Connections beyond the bound wait until another ends.
func TestConnectionsAreBounded(t *testing.T) {
	path := filepath.Join(socketFolder(t), "s")
	l, err := kmsv2.Listen("unix://"+path, kmsv2.ListenOptions{})
	must(t, err)
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	var open []net.Conn
	const bound = 64
	for range bound + 1 {
		conn, err := net.Dial("unix", path)
		must(t, err)
		defer conn.Close()
	}
	for range bound {
		open = append(open, <-accepted)
	}
	select {
	case <-accepted:
		t.Fatal("one connection too many")
	case <-time.After(100 * time.Millisecond): // can miss a defect, not invent one
	}
	must(t, open[0].Close())
	(<-accepted).Close()
	for _, c := range open[1:] {
		c.Close()
	}
	must(t, l.Close())
	if _, more := <-accepted; more {
		t.Error("a connection after Close")
	}
}
