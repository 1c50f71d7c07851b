package stored

import (
	"errors"
	"fmt"
	"strings"
)

// Annotation is one piece of metadata that a KMS v2 plugin attached to its
// ciphertext. It stands in etcd in the clear.
type Annotation struct {
	Name  string
	Value []byte
}

// Annotations are in the order in which they were stored, which means nothing: API
// servers write them in the random order of a Go map. Names are distinct.
type Annotations []Annotation

// Get returns the value of the annotation called name.
func (as Annotations) Get(name string) (value []byte, ok bool) {
	for _, a := range as {
		if a.Name == name {
			return a.Value, true
		}
	}
	return nil, false
}

var errAnnotationsTooLarge = fmt.Errorf("the annotations exceed %d bytes", MaxAnnotationsSize)

func (as Annotations) validate() error {
	size := 0
	seen := make(map[string]bool, len(as))
	for _, a := range as {
		if err := validateName(a.Name); err != nil {
			return err
		}
		if seen[a.Name] {
			return fmt.Errorf("annotation %q is there twice", a.Name)
		}
		seen[a.Name] = true
		size += len(a.Name) + len(a.Value)
	}
	if size > MaxAnnotationsSize {
		return errAnnotationsTooLarge
	}
	return nil
}

// validateName is the API server's rule for the name of an annotation: a fully
// qualified domain name in lower case (RFC 1123) of at least two labels of 1 to 63
// letters, digits and inner hyphens, 253 bytes in all, and at most one trailing dot. A
// slash is refused, though the examples in the Kubernetes documentation have one
// ("kms.kubernetes.io/local-kek").
func validateName(name string) error {
	if err := validateDomainName(strings.TrimSuffix(name, ".")); err != nil {
		return fmt.Errorf("annotation name %.80q: %w", name, err)
	}
	return nil
}

func validateDomainName(name string) error {
	if len(name) > 253 {
		return errors.New("longer than 253 bytes")
	}
	labels := strings.Split(name, ".")
	if len(labels) < 2 {
		return errors.New("not a domain name of at least two labels")
	}
	for _, label := range labels {
		if !isLabel(label) {
			return fmt.Errorf("label %.80q is not 1 to 63 lower-case letters, digits and inner hyphens", label)
		}
	}
	return nil
}

func isLabel(label string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	return len(label) >= 1 && len(label) <= 63 &&
		strings.Trim(label, letters+"-") == "" &&
		!strings.HasPrefix(label, "-") && !strings.HasSuffix(label, "-")
}
