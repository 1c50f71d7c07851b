package kmstest_test

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/kmsv2/kmstest"
)

// defect is one way to break the contract: what was built, and the rules that catch
// it, the one that it stands for first.
type defect struct {
	built  string
	caught []string
	bend   func(b *bent, o *kmstest.Options)
}

var defects = []defect{
	{"nothing answers", []string{"reachable"}, func(b *bent, o *kmstest.Options) {
		b.status = func(context.Context) (*service.StatusResponse, error) { return nil, errors.New("out of order") }
	}},
	{"Status answers nothing at all", []string{"reachable"}, func(b *bent, o *kmstest.Options) {
		b.status = func(context.Context) (*service.StatusResponse, error) { return nil, nil }
	}},
	{"Status waits for the vault for ever", []string{"reachable"}, func(b *bent, o *kmstest.Options) {
		b.status = func(context.Context) (*service.StatusResponse, error) { time.Sleep(time.Hour); return nil, nil }
	}},
	{"a version of KMS v1", []string{"status-version"}, func(b *bent, o *kmstest.Options) {
		b.onStatus(func(r *service.StatusResponse) { r.Version = "v1beta1" })
	}},
	{"a version that changes", []string{"status-version"}, func(b *bent, o *kmstest.Options) {
		var calls atomic.Int64
		b.onStatus(func(r *service.StatusResponse) {
			if calls.Add(1)%7 == 0 {
				r.Version = "v2beta1"
			}
		})
	}},
	{"a friendlier healthz", []string{"status-healthz", "restored-works"}, func(b *bent, o *kmstest.Options) {
		b.onStatus(func(r *service.StatusResponse) { r.Healthz = "OK" })
	}},
	{"a quota on Status", []string{"status-polled"}, func(b *bent, o *kmstest.Options) {
		// Sixty in a row, which is more than one API server makes in a row.
		var inARow atomic.Int64
		b.status = func(ctx context.Context) (*service.StatusResponse, error) {
			if inARow.Add(1) > 60 {
				inARow.Store(0)
				return nil, errors.New("too many requests")
			}
			return b.memory.Status(ctx)
		}
		b.onAnswer(func([]byte, *service.EncryptResponse) { inARow.Store(0) })
	}},

	{"a key id of more than 1 KiB", []string{"key-id-size"}, func(b *bent, o *kmstest.Options) {
		long := strings.Repeat("k", 1024)
		b.rename(func(id string) string { return long + id }, func(id string) string {
			rest, ok := strings.CutPrefix(id, long)
			if !ok {
				return "unknown"
			}
			return rest
		})
	}},
	{"a key id in binary", []string{"key-id-size"}, func(b *bent, o *kmstest.Options) {
		b.rename(func(id string) string { return "\xff" + id }, func(id string) string {
			rest, ok := strings.CutPrefix(id, "\xff")
			if !ok {
				return "unknown"
			}
			return rest
		})
	}},
	{"no key id before the first rotation", []string{"key-id-size"}, func(b *bent, o *kmstest.Options) {
		first := b.current
		b.rename(func(id string) string { return strings.TrimPrefix(id, first) }, func(id string) string {
			switch id {
			case "":
				return first
			case first:
				return "unknown"
			}
			return id
		})
	}},
	{"a new key at every Status", []string{"key-id-stable", "rotation-once", "restart-key-id"}, func(b *bent, o *kmstest.Options) {
		b.status = func(ctx context.Context) (*service.StatusResponse, error) {
			if err := b.rotate(ctx); err != nil {
				return nil, err
			}
			return b.memory.Status(ctx)
		}
	}},

	{"the key id of a local key from Encrypt", []string{"encrypt-key-id", "rotation-encrypt-key-id"}, func(b *bent, o *kmstest.Options) {
		b.onAnswer(func(_ []byte, r *service.EncryptResponse) { r.KeyID += "/local" })
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			remote, ok := strings.CutSuffix(req.KeyID, "/local")
			if !ok {
				return nil, errors.New("unknown key")
			}
			return b.memory.Decrypt(ctx, uid, &service.DecryptRequest{Ciphertext: req.Ciphertext, KeyID: remote, Annotations: req.Annotations})
		}
	}},
	{"a ciphertext as large as an ML-KEM encapsulation", []string{"ciphertext-size"}, func(b *bent, o *kmstest.Options) {
		frame := make([]byte, 1088)
		b.onAnswer(func(_ []byte, r *service.EncryptResponse) {
			r.Ciphertext = append(slices.Clone(frame), r.Ciphertext...)
		})
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			rest, ok := strings.CutPrefix(string(req.Ciphertext), string(frame))
			if !ok {
				return nil, errors.New("bad frame")
			}
			return b.memory.Decrypt(ctx, uid, &service.DecryptRequest{Ciphertext: []byte(rest), KeyID: req.KeyID, Annotations: req.Annotations})
		}
	}},
	{"an empty ciphertext, with all in an annotation", []string{"ciphertext-size", "decrypt-changed-annotations"}, func(b *bent, o *kmstest.Options) {
		const name = "ciphertext.kms.example.com"
		b.onAnswer(func(_ []byte, r *service.EncryptResponse) {
			r.Annotations[name], r.Ciphertext = r.Ciphertext, nil
		})
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			if len(req.Ciphertext) > 0 {
				return nil, errors.New("what is this?")
			}
			return b.memory.Decrypt(ctx, uid, &service.DecryptRequest{Ciphertext: req.Annotations[name], KeyID: req.KeyID, Annotations: req.Annotations})
		}
	}},
	{"a certificate chain as annotation", []string{"annotations-size"}, annotated("chain.kms.example.com", strings.Repeat("c", 32*1024))},
	{"an annotation as in the Kubernetes documentation", []string{"annotation-names"}, annotated("kms.kubernetes.io/local-kek", "x")},
	{"an annotation of one label", []string{"annotation-names"}, annotated("local-kek", "x")},
	{"an annotation in upper case", []string{"annotation-names"}, annotated("KEK.example.com", "x")},
	{"an annotation with a label of 64 bytes", []string{"annotation-names"}, annotated(strings.Repeat("a", 64)+".com", "x")},
	{"a debugging aid in an annotation", []string{"plaintext-hidden"}, func(b *bent, o *kmstest.Options) {
		b.onAnswer(func(plaintext []byte, r *service.EncryptResponse) {
			r.Annotations["debug.kms.example.com"] = []byte(base64.StdEncoding.EncodeToString(plaintext))
		})
	}},
	{"a store that is indexed by the first half of the plaintext", []string{"answers-distinct"}, func(b *bent, o *kmstest.Options) {
		var store answers
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			half := string(plaintext[:len(plaintext)/2])
			if len(plaintext) != 32 {
				half = string(plaintext) // only seeds collide
			}
			r, err := b.memory.Encrypt(ctx, uid, plaintext)
			if err != nil {
				return nil, err
			}
			return store.loadOrStore(half+r.KeyID, r), nil
		}
	}},

	{"a plaintext cut to the size of a seed", []string{"round-trip"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			p, err := b.memory.Decrypt(ctx, uid, req)
			return p[:min(len(p), 32)], err
		}
	}},
	{"zero bytes taken for padding", []string{"round-trip"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			p, err := b.memory.Decrypt(ctx, uid, req)
			if string(p) == string(make([]byte, 32)) {
				p = nil
			}
			return p, err
		}
	}},
	{"data that can be read once", []string{"round-trip"}, func(b *bent, o *kmstest.Options) {
		var reads answers
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			p, err := b.memory.Decrypt(ctx, uid, req)
			// Plaintexts of 24 bytes, so that only the rule about round trips sees it.
			if err == nil && len(p) == 24 && reads.count(string(req.Ciphertext)) > 1 {
				return nil, errors.New("already used")
			}
			return p, err
		}
	}},
	{"Encrypt made idempotent by uid", []string{"uid-irrelevant"}, func(b *bent, o *kmstest.Options) {
		var store answers
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			r, err := b.memory.Encrypt(ctx, uid, plaintext)
			if err != nil {
				return nil, err
			}
			return store.loadOrStore(uid, r), nil
		}
	}},
	{"a uid that is required", []string{"uid-irrelevant"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			if uid == "" {
				return nil, errors.New("no uid")
			}
			return b.memory.Decrypt(ctx, uid, req)
		}
	}},
	{"every key is tried", []string{"decrypt-unknown-key-id", "rotation-swapped-key-id", "oversize-requests"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			return b.tryAll(ctx, uid, req)
		}
	}},
	{"a key id found by its prefix", []string{"decrypt-unknown-key-id"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			found := *req
			for _, id := range b.ids() {
				if strings.HasPrefix(req.KeyID, id) {
					found.KeyID = id
				}
			}
			return b.memory.Decrypt(ctx, uid, &found)
		}
	}},
	{"AES-CTR without authentication", []string{"decrypt-changed-ciphertext", "oversize-requests", "rotation-swapped-key-id"}, func(b *bent, o *kmstest.Options) {
		b.newKey = newCTR
		b.keys = map[string]cipher.AEAD{b.current: newCTR()}
	}},
	{"trailing bytes ignored", []string{"decrypt-changed-ciphertext", "oversize-requests"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			p, err := b.memory.Decrypt(ctx, uid, req)
			const sealedSeed = 12 + 32 + 16
			if err != nil && len(req.Ciphertext) > sealedSeed {
				cut := *req
				cut.Ciphertext = req.Ciphertext[:sealedSeed]
				return b.memory.Decrypt(ctx, uid, &cut)
			}
			return p, err
		}
	}},
	{"a mask in an unauthenticated annotation", []string{"decrypt-changed-annotations"}, func(b *bent, o *kmstest.Options) {
		const name = "mask.kms.example.com"
		xor := func(p []byte, mask byte) []byte {
			p = slices.Clone(p)
			for i := range p {
				p[i] ^= mask
			}
			return p
		}
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			var mask [1]byte
			rand.Read(mask[:])
			r, err := b.memory.Encrypt(ctx, uid, xor(plaintext, mask[0]))
			if err == nil {
				r.Annotations[name] = mask[:]
			}
			return r, err
		}
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			if len(req.Annotations[name]) != 1 {
				return nil, errors.New("no mask")
			}
			p, err := b.memory.Decrypt(ctx, uid, req)
			return xor(p, req.Annotations[name][0]), err
		}
	}},

	{"plaintext wiped after use", []string{"memory-respected"}, func(b *bent, o *kmstest.Options) {
		b.onAnswer(func(plaintext []byte, _ *service.EncryptResponse) { clear(plaintext) })
	}},
	{"decryption in place", []string{"memory-respected"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			p, err := b.memory.Decrypt(ctx, uid, req)
			if err == nil {
				copy(req.Ciphertext, p)
			}
			return p, err
		}
	}},
	{"a cache that hands out its own plaintext", []string{"memory-respected"}, func(b *bent, o *kmstest.Options) {
		var cache answers
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			p, err := b.memory.Decrypt(ctx, uid, req)
			if err != nil {
				return nil, err
			}
			r := cache.loadOrStore(string(req.Ciphertext), &service.EncryptResponse{Ciphertext: p})
			return r.Ciphertext, nil
		}
	}},
	{"a panic on an empty ciphertext", []string{"empty-requests", "decrypt-changed-ciphertext"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			if req.KeyID != "" && len(req.Ciphertext) == 0 {
				_ = req.Ciphertext[0]
			}
			return b.memory.Decrypt(ctx, uid, req)
		}
	}},
	{"nothing decrypts to nothing", []string{"empty-requests"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			if len(req.Ciphertext) == 0 && len(req.Annotations) == 0 {
				return nil, nil
			}
			return b.memory.Decrypt(ctx, uid, req)
		}
	}},
	{"an encryption that has no limit", []string{"oversize-requests"}, func(b *bent, o *kmstest.Options) {
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			if len(plaintext) > 1<<16 {
				return &service.EncryptResponse{Ciphertext: plaintext, KeyID: b.current}, nil
			}
			return b.memory.Encrypt(ctx, uid, plaintext)
		}
	}},
	{"a quadratic parser of ciphertexts", []string{"oversize-requests"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			n := time.Duration(len(req.Ciphertext))
			time.Sleep(n * n / 256 * time.Nanosecond)
			return b.memory.Decrypt(ctx, uid, req)
		}
	}},
	{"one request at a time, others turned away", []string{"concurrent-calls"}, func(b *bent, o *kmstest.Options) {
		var busy atomic.Bool
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			if !busy.CompareAndSwap(false, true) {
				return nil, errors.New("busy")
			}
			defer busy.Store(false)
			time.Sleep(time.Millisecond)
			return b.memory.Encrypt(ctx, uid, plaintext)
		}
	}},
	{"a lock that a cancelled call never gives back", []string{"ended-calls"}, func(b *bent, o *kmstest.Options) {
		lock := make(chan struct{}, 1)
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			select {
			case lock <- struct{}{}:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			select {
			case <-time.After(3 * time.Millisecond):
			case <-ctx.Done():
				// Given back after more than a call's time-out, so that the other rules
				// are not judged on a plugin that is dead already.
				time.AfterFunc(4*time.Second, func() { <-lock })
				return nil, ctx.Err()
			}
			defer func() { <-lock }()
			return b.memory.Encrypt(ctx, uid, plaintext)
		}
	}},
	{"a wait that does not watch its context", []string{"ended-calls"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			if ctx.Err() != nil {
				time.Sleep(time.Hour)
			}
			return b.memory.Decrypt(ctx, uid, req)
		}
	}},
	{"a vault on the other side of the world", []string{"latency"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			time.Sleep(2 * time.Second)
			return b.memory.Decrypt(ctx, uid, req)
		}
	}},

	{"a key id read at start only", []string{"rotation-key-id"}, func(b *bent, o *kmstest.Options) {
		o.Rotate = func(context.Context) error { return nil }
	}},
	{"two vault replicas that disagree for a while", []string{"rotation-once"}, func(b *bent, o *kmstest.Options) {
		var left atomic.Int64
		var old atomic.Value
		o.Rotate = func(ctx context.Context) error {
			old.Store(b.current)
			left.Store(20)
			return b.rotate(ctx)
		}
		var reported atomic.Value
		b.onStatus(func(r *service.StatusResponse) {
			if n := left.Add(-1); n > 0 && n%3 == 0 {
				r.KeyID = old.Load().(string)
			}
			reported.Store(r.KeyID)
		})
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			return b.encryptUnder(plaintext, reported.Load().(string))
		}
	}},
	{"key ids that alternate between two slots", []string{"rotation-key-id-new"}, func(b *bent, o *kmstest.Options) {
		var a, z string
		o.Rotate = func(ctx context.Context) error {
			if a == "" {
				a = b.current
				err := b.rotate(ctx)
				z = b.current
				return err
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			b.current = map[string]string{a: z, z: a}[b.current]
			return nil
		}
	}},
	{"Encrypt that learns of a rotation later than Status", []string{"rotation-encrypt-key-id"}, func(b *bent, o *kmstest.Options) {
		var lag atomic.Int64
		var old string
		o.Rotate = func(ctx context.Context) error {
			old = b.current
			lag.Store(10)
			return b.rotate(ctx)
		}
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			if lag.Add(-1) > 0 {
				return b.encryptUnder(plaintext, old)
			}
			return b.memory.Encrypt(ctx, uid, plaintext)
		}
	}},
	{"old keys thrown away", []string{"rotation-old-data"}, func(b *bent, o *kmstest.Options) {
		o.Rotate = func(ctx context.Context) error {
			b.mu.Lock()
			delete(b.keys, b.current)
			b.mu.Unlock()
			return b.rotate(ctx)
		}
	}},
	{"every key of the plugin is tried", []string{"rotation-swapped-key-id"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			if !slices.Contains(b.ids(), req.KeyID) {
				return nil, errors.New("unknown key")
			}
			return b.tryAll(ctx, uid, req)
		}
	}},

	{"a new key id at each start", []string{"restart-key-id"}, func(b *bent, o *kmstest.Options) {
		o.Restart = b.rotate
	}},
	{"a key that lives in memory only", []string{"restart-old-data"}, func(b *bent, o *kmstest.Options) {
		o.Restart = func(context.Context) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.keys[b.current] = newAEAD()
			return nil
		}
	}},
	{"a restart that does not come up", []string{"restart-key-id", "restart-old-data"}, func(b *bent, o *kmstest.Options) {
		// Down for longer than the plugin may take.
		var downUntil atomic.Int64
		o.Restart = func(context.Context) error {
			downUntil.Store(time.Now().Add(61 * time.Second).UnixNano())
			return nil
		}
		b.status = func(ctx context.Context) (*service.StatusResponse, error) {
			if time.Now().UnixNano() < downUntil.Load() {
				return nil, errors.New("starting")
			}
			return b.memory.Status(ctx)
		}
	}},

	{"a healthz that tells of the revocation", []string{"revoked-status-fails"}, func(b *bent, o *kmstest.Options) {
		b.status = func(ctx context.Context) (*service.StatusResponse, error) {
			r, err := b.memory.Status(ctx)
			if err != nil {
				return &service.StatusResponse{Version: "v2", Healthz: err.Error(), KeyID: b.current}, nil
			}
			return r, nil
		}
	}},
	{"a failure that sticks", []string{"restored-works"}, func(b *bent, o *kmstest.Options) {
		var failed atomic.Bool
		b.status = func(ctx context.Context) (*service.StatusResponse, error) {
			r, err := b.memory.Status(ctx)
			if err != nil || failed.Load() {
				failed.Store(true)
				return nil, errors.New("key revoked")
			}
			return r, nil
		}
	}},
}

// TestDefects: each defect is caught by the rules that it breaks and by no other.
func TestDefects(t *testing.T) {
	for _, d := range defects {
		t.Run(strings.ReplaceAll(d.built, " ", "_"), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				m := newMemory()
				b, o := &bent{memory: m}, m.options()
				d.bend(b, &o)
				// Calls that hang do so until some hour of the fake clock, and the
				// bubble must not end before they do.
				defer time.Sleep(2 * time.Hour)
				results := kmstest.Check(t.Context(), b, o)
				want := slices.Sorted(slices.Values(d.caught))
				if got := failed(results); !slices.Equal(got, want) {
					t.Errorf("caught by %q, want %q", got, want)
					for _, r := range results {
						if r.Outcome == kmstest.Failed {
							t.Logf("%s: %v", r.Rule.Name, r.Err)
						}
					}
				}
			})
		})
	}
}

// TestEveryRuleCatchesSomething: a rule that nothing breaks is a rule that may check
// nothing.
func TestEveryRuleCatchesSomething(t *testing.T) {
	caught := map[string]bool{"wire-garbage": true} // TestFragileListener
	for _, d := range defects {
		caught[d.caught[0]] = true
	}
	for _, r := range kmstest.Rules() {
		if !caught[r.Name] {
			t.Errorf("no defect stands for %s", r.Name)
		}
		delete(caught, r.Name)
	}
	if len(caught) > 0 {
		t.Errorf("there are no such rules: %v", slices.Collect(maps.Keys(caught)))
	}
}

func failed(results []kmstest.Result) []string {
	var names []string
	for _, r := range results {
		if r.Outcome == kmstest.Failed {
			names = append(names, r.Rule.Name)
		}
	}
	slices.Sort(names)
	return names
}

// fragile is a listener that gives up when somebody does not speak HTTP/2.
type fragile struct{ net.Listener }

func (l fragile) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	first := make([]byte, 3)
	if _, err := io.ReadFull(conn, first); err != nil || string(first) != "PRI" {
		l.Close()
		conn.Close()
		return nil, errors.New("what was that?")
	}
	return &rewound{conn, bytes.NewReader(first)}, nil
}

// rewound is a connection whose first bytes have been looked at.
type rewound struct {
	net.Conn
	first *bytes.Reader
}

func (c *rewound) Read(b []byte) (int, error) {
	if c.first.Len() > 0 {
		return c.first.Read(b)
	}
	return c.Conn.Read(b)
}

func TestFragileListener(t *testing.T) {
	path := socketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, fragile{l}, newMemory())
	client, err := kmstest.Dial("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	results := kmstest.Check(t.Context(), client, kmstest.Options{})
	if got := failed(results); !slices.Equal(got, []string{"wire-garbage"}) {
		t.Errorf("caught by %q, want wire-garbage alone", got)
	}
}
