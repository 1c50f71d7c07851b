package kmstest_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"sync"

	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/kmsv2/kmstest"
)

// bent is the correct service with some calls replaced.
type bent struct {
	*memory
	status  func(ctx context.Context) (*service.StatusResponse, error)
	encrypt func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error)
	decrypt func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error)
}

func (b *bent) Status(ctx context.Context) (*service.StatusResponse, error) {
	if b.status == nil {
		return b.memory.Status(ctx)
	}
	return b.status(ctx)
}

func (b *bent) Encrypt(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
	if b.encrypt == nil {
		return b.memory.Encrypt(ctx, uid, plaintext)
	}
	return b.encrypt(ctx, uid, plaintext)
}

func (b *bent) Decrypt(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
	if b.decrypt == nil {
		return b.memory.Decrypt(ctx, uid, req)
	}
	return b.decrypt(ctx, uid, req)
}

// onStatus and onAnswer change what the correct service answers.
func (b *bent) onStatus(change func(r *service.StatusResponse)) {
	b.status = func(ctx context.Context) (*service.StatusResponse, error) {
		r, err := b.memory.Status(ctx)
		if err == nil {
			change(r)
		}
		return r, err
	}
}

func (b *bent) onAnswer(change func(plaintext []byte, r *service.EncryptResponse)) {
	b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
		r, err := b.memory.Encrypt(ctx, uid, plaintext)
		if err == nil {
			change(plaintext, r)
		}
		return r, err
	}
}

// rename gives every key id another form, in both directions, as a plugin would that
// builds its ids wrongly but consistently.
func (b *bent) rename(to, from func(id string) string) {
	b.onStatus(func(r *service.StatusResponse) { r.KeyID = to(r.KeyID) })
	b.onAnswer(func(_ []byte, r *service.EncryptResponse) { r.KeyID = to(r.KeyID) })
	b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
		renamed := *req
		renamed.KeyID = from(req.KeyID)
		return b.memory.Decrypt(ctx, uid, &renamed)
	}
}

// annotated adds an annotation that Decrypt ignores.
func annotated(name, value string) func(b *bent, o *kmstest.Options) {
	return func(b *bent, _ *kmstest.Options) {
		b.onAnswer(func(_ []byte, r *service.EncryptResponse) { r.Annotations[name] = []byte(value) })
	}
}

// ids returns the ids of all keys.
func (b *bent) ids() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.keys))
}

// tryAll decrypts with whichever key fits.
func (b *bent) tryAll(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
	for _, id := range b.ids() {
		attempt := *req
		attempt.KeyID = id
		if p, err := b.memory.Decrypt(ctx, uid, &attempt); err == nil {
			return p, nil
		}
	}
	return nil, errors.New("no key fits")
}

// answers is a store of answers, as a careless plugin keeps one.
type answers struct {
	mu    sync.Mutex
	first map[string]*service.EncryptResponse
	reads map[string]int
}

// loadOrStore returns the first answer that was stored under key.
func (a *answers) loadOrStore(key string, r *service.EncryptResponse) *service.EncryptResponse {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.first == nil {
		a.first = map[string]*service.EncryptResponse{}
	}
	if first, ok := a.first[key]; ok {
		return first
	}
	a.first[key] = r
	return r
}

// count returns how often it was asked about key.
func (a *answers) count(key string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.reads == nil {
		a.reads = map[string]int{}
	}
	a.reads[key]++
	return a.reads[key]
}

// ctr is an AEAD without the A.
type ctr struct{ cipher.Block }

func newCTR() cipher.AEAD {
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	return ctr{block}
}

func (c ctr) NonceSize() int { return 0 }
func (c ctr) Overhead() int  { return c.BlockSize() }

func (c ctr) Seal(dst, _, plaintext, _ []byte) []byte {
	iv := make([]byte, c.BlockSize())
	rand.Read(iv)
	out := append(slices.Clone(iv), plaintext...)
	cipher.NewCTR(c.Block, iv).XORKeyStream(out[len(iv):], plaintext)
	return append(dst, out...)
}

func (c ctr) Open(dst, _, ciphertext, _ []byte) ([]byte, error) {
	if len(ciphertext) < c.BlockSize() {
		return nil, errors.New("too short")
	}
	iv, rest := ciphertext[:c.BlockSize()], ciphertext[c.BlockSize():]
	out := make([]byte, len(rest))
	cipher.NewCTR(c.Block, iv).XORKeyStream(out, rest)
	return append(dst, out...), nil
}
