package harness

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// workers is how many requests a batch keeps in flight.
const workers = 16

// dataKey is the key of the data in every Secret and ConfigMap.
const dataKey = "data"

// Objects are Secrets and ConfigMaps of one namespace that hold one plaintext.
// Names are numbers; a Secret and a ConfigMap share each.
type Objects struct {
	Namespace string
	Plaintext []byte
	Count     int

	c *Cluster
}

// CreateObjects makes n Secrets and n ConfigMaps in a namespace of their own.
func (c *Cluster) CreateObjects(t testing.TB, n int) *Objects {
	t.Helper()
	o := &Objects{Namespace: c.Namespace(t), Plaintext: []byte("plaintext-" + rand.Text()), c: c}
	t.Cleanup(o.delete)
	o.Add(t, n)
	return o
}

// delete leaves nothing to be read by the cases after this one. A case that ran
// into trouble may have left an API server that cannot.
func (o *Objects) delete() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	core := o.c.API.Client.CoreV1()
	_ = core.Secrets(o.Namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
	_ = core.ConfigMaps(o.Namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
}

// Add makes n more of each.
func (o *Objects) Add(t testing.TB, n int) {
	t.Helper()
	o.each(t, o.Count, o.Count+n, func(ctx context.Context, meta metav1.ObjectMeta) error {
		core := o.c.API.Client.CoreV1()
		_, err := core.Secrets(o.Namespace).Create(ctx, &corev1.Secret{
			ObjectMeta: meta, Data: map[string][]byte{dataKey: o.Plaintext},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		_, err = core.ConfigMaps(o.Namespace).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: meta, Data: map[string]string{dataKey: string(o.Plaintext)},
		}, metav1.CreateOptions{})
		return err
	})
	o.Count += n
}

// ReadBack reads every object by itself, which goes to etcd, and all in two
// lists, and fails the test unless each is what was written.
func (o *Objects) ReadBack(t testing.TB) {
	t.Helper()
	if err := o.read(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (o *Objects) read(ctx context.Context) error {
	core := o.c.API.Client.CoreV1()
	secrets, err := core.Secrets(o.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	configMaps, err := core.ConfigMaps(o.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(secrets.Items) != o.Count || len(configMaps.Items) != o.Count {
		return fmt.Errorf("listed %d Secrets and %d ConfigMaps of %d each", len(secrets.Items), len(configMaps.Items), o.Count)
	}
	for i := range o.Count {
		if err := o.same(secrets.Items[i].Data[dataKey]); err != nil {
			return fmt.Errorf("listed Secret %s: %w", secrets.Items[i].Name, err)
		}
		if err := o.same([]byte(configMaps.Items[i].Data[dataKey])); err != nil {
			return fmt.Errorf("listed ConfigMap %s: %w", configMaps.Items[i].Name, err)
		}
	}
	return inParallel(ctx, 0, o.Count, func(ctx context.Context, i int) error {
		secret, err := core.Secrets(o.Namespace).Get(ctx, name(i), metav1.GetOptions{})
		if err != nil {
			return err
		}
		configMap, err := core.ConfigMaps(o.Namespace).Get(ctx, name(i), metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := o.same(secret.Data[dataKey]); err != nil {
			return err
		}
		return o.same([]byte(configMap.Data[dataKey]))
	})
}

func (o *Objects) same(got []byte) error {
	if !bytes.Equal(got, o.Plaintext) {
		return fmt.Errorf("read %q, written was %q", got, o.Plaintext)
	}
	return nil
}

// Acknowledged reads Secrets that a load has written beside the objects, and
// fails the test unless each is there and what was written.
func (o *Objects) Acknowledged(t testing.TB, names []string) {
	t.Helper()
	secrets, err := o.c.API.Client.CoreV1().Secrets(o.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	listed := make(map[string][]byte, len(secrets.Items))
	for _, s := range secrets.Items {
		listed[s.Name] = s.Data[dataKey]
	}
	for _, name := range names {
		if err := o.same(listed[name]); err != nil {
			t.Fatalf("Secret %s, which the API server had acknowledged: %v", name, err)
		}
	}
}

// ReadOne reads one Secret from etcd.
func (o *Objects) ReadOne(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	got, err := o.c.API.Client.CoreV1().Secrets(o.Namespace).Get(ctx, name(0), metav1.GetOptions{})
	if err != nil {
		return err
	}
	return o.same(got.Data[dataKey])
}

// Rewrite writes every object as it is: the no-op write of a storage migration.
func (o *Objects) Rewrite(t testing.TB) {
	t.Helper()
	o.each(t, 0, o.Count, func(ctx context.Context, meta metav1.ObjectMeta) error {
		core := o.c.API.Client.CoreV1()
		secret, err := core.Secrets(o.Namespace).Get(ctx, meta.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if _, err := core.Secrets(o.Namespace).Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
			return err
		}
		configMap, err := core.ConfigMaps(o.Namespace).Get(ctx, meta.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		_, err = core.ConfigMaps(o.Namespace).Update(ctx, configMap, metav1.UpdateOptions{})
		return err
	})
}

// Stored returns the raw values of all the objects, and fails the test if there
// are not as many as there should be.
func (o *Objects) Stored(t testing.TB) map[string][]byte {
	t.Helper()
	all := o.c.Etcd.Objects(t, "secrets", o.Namespace)
	if len(all) != o.Count {
		t.Fatalf("etcd holds %d Secrets, not %d", len(all), o.Count)
	}
	for key, value := range o.c.Etcd.Objects(t, "configmaps", o.Namespace) {
		all[key] = value
	}
	if len(all) != 2*o.Count {
		t.Fatalf("etcd holds %d objects, not %d", len(all), 2*o.Count)
	}
	return all
}

// StoredBy fails the test unless the provider wrote every stored value.
func (o *Objects) StoredBy(t testing.TB, p Provider) {
	t.Helper()
	for key, value := range o.Stored(t) {
		if !bytes.HasPrefix(value, []byte(p.Prefix())) {
			t.Fatalf("etcd: %s starts with %.40q, not with %q", key, value, p.Prefix())
		}
	}
}

// KeyIDs returns how many of the objects are stored under each key id.
func (o *Objects) KeyIDs(t testing.TB) map[string]int {
	t.Helper()
	ids := make(map[string]int)
	for key, value := range o.Stored(t) {
		id, err := storedKeyID(value)
		if err != nil {
			t.Fatalf("etcd: %s: %v", key, err)
		}
		ids[id]++
	}
	return ids
}

// StoredUnder fails the test unless every object is stored under the one key id.
func (o *Objects) StoredUnder(t testing.TB, keyID string) {
	t.Helper()
	ids := o.KeyIDs(t)
	if len(ids) != 1 || ids[keyID] != 2*o.Count {
		t.Fatalf("etcd: objects by key id: %v, want all %d under %s", ids, 2*o.Count, keyID)
	}
}

func (o *Objects) each(t testing.TB, from, to int, do func(context.Context, metav1.ObjectMeta) error) {
	t.Helper()
	err := inParallel(t.Context(), from, to, func(ctx context.Context, i int) error {
		return do(ctx, metav1.ObjectMeta{Name: name(i)})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func name(i int) string { return fmt.Sprintf("object-%05d", i) }

// inParallel calls do for every number and stops at the first error.
func inParallel(ctx context.Context, from, to int, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i := from; i < to && ctx.Err() == nil; i++ {
		g.Go(func() error {
			if err := do(ctx, i); err != nil {
				return fmt.Errorf("%s: %w", name(i), err)
			}
			return nil
		})
	}
	return g.Wait()
}

// CreateSecrets makes n Secrets in a namespace.
func (c *Cluster) CreateSecrets(t testing.TB, namespace string, n int) {
	t.Helper()
	secrets := c.API.Client.CoreV1().Secrets(namespace)
	err := inParallel(t.Context(), 0, n, func(ctx context.Context, i int) error {
		_, err := secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name(i)},
			Data:       map[string][]byte{dataKey: []byte(rand.Text())},
		}, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ListSecrets lists the Secrets of all namespaces and returns how many there are.
// It gives up after 10 s.
func (c *Cluster) ListSecrets(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := c.API.Client.CoreV1().Secrets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	return len(list.Items), nil
}
