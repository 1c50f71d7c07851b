package harness

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Migrate writes every Secret and ConfigMap of the cluster as it is, which moves
// all that is stored to what is written now: a storage migration.
func (c *Cluster) Migrate(t testing.TB) {
	t.Helper()
	c.MigrateNamespace(t, metav1.NamespaceAll)
}

// MigrateNamespace does so in one namespace.
func (c *Cluster) MigrateNamespace(t testing.TB, namespace string) {
	t.Helper()
	core := c.API.Client.CoreV1()
	secrets, err := core.Secrets(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = inParallel(t.Context(), 0, len(secrets.Items), func(ctx context.Context, i int) error {
		s := &secrets.Items[i]
		_, err := core.Secrets(s.Namespace).Update(ctx, s, metav1.UpdateOptions{})
		return writtenAnyway(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	configMaps, err := core.ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = inParallel(t.Context(), 0, len(configMaps.Items), func(ctx context.Context, i int) error {
		m := &configMaps.Items[i]
		_, err := core.ConfigMaps(m.Namespace).Update(ctx, m, metav1.UpdateOptions{})
		return writtenAnyway(err)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// writtenAnyway passes over an object that somebody else has just written or
// deleted, the API server itself for instance.
func writtenAnyway(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// WritesUnder writes one Secret and is an error unless it is stored under the
// key id.
func (c *Cluster) WritesUnder(t testing.TB, keyID string) error {
	t.Helper()
	secrets := c.API.Client.CoreV1().Secrets(metav1.NamespaceDefault)
	made, err := secrets.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-"},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	stored := c.Etcd.Values(t, "/registry/secrets/default/"+made.Name)
	if err := secrets.Delete(t.Context(), made.Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	for _, value := range stored {
		id, err := storedKeyID(value)
		if err == nil && id != keyID {
			err = fmt.Errorf("a Secret is written under %s, not under %s", id, keyID)
		}
		return err
	}
	return fmt.Errorf("etcd does not hold %s", made.Name)
}
