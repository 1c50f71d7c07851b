package kektest

//lint:file-ignore ST1005 Messages begin with the name of the method that they are about.

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyfold/keyfold/envelope"
)

// capabilityChecks are about the optional interfaces, and rotation, which shows in
// most of them.
func capabilityChecks() []check {
	outage := hook("Outage", func(s Subject) Hook { return s.Outage })
	disable := hook("Disable", func(s Subject) Hook { return s.Disable })
	prober := capability[envelope.Prober]("Prober")
	return []check{
		{name: "identifier", needs: []need{capability[envelope.Identifier]("Identifier")}, run: checkIdentifier},
		{name: "family", needs: []need{capability[envelope.FamilyIdentifier]("FamilyIdentifier")}, run: checkFamily},
		{name: "describer", needs: []need{capability[envelope.Describer]("Describer")}, run: checkDescriber},
		{name: "versions", needs: []need{capability[envelope.VersionLister]("VersionLister")}, run: checkVersions},
		{name: "pinner", needs: []need{capability[envelope.Pinner]("Pinner")}, run: checkPinner},
		{name: "prober", needs: []need{prober}, run: func(ctx context.Context, s Subject) error {
			if err := probe(ctx, s); err != nil {
				return fmt.Errorf("Probe of a key that works: %w", err)
			}
			return nil
		}},
		{name: "prober-outage", needs: []need{prober, outage}, run: func(ctx context.Context, s Subject) error {
			return during(ctx, s.Outage, func() error { return expect("Probe", probe(ctx, s), envelope.ErrUnreachable) })
		}},
		{name: "prober-disabled", needs: []need{prober, disable}, run: func(ctx context.Context, s Subject) error {
			return during(ctx, s.Disable, func() error { return expect("Probe", probe(ctx, s), envelope.ErrDisabled) })
		}},
		{name: "rotation", needs: []need{needRotate}, run: checkRotation},
	}
}

func probe(ctx context.Context, s Subject) error {
	p, _ := envelope.As[envelope.Prober](s.KEK)
	return p.Probe(ctx)
}

func checkIdentifier(ctx context.Context, s Subject) error {
	id, _ := envelope.As[envelope.Identifier](s.KEK)
	_, w, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	return withoutCall(s, "KeyID", func() error {
		if got := id.KeyID(); got != w.KeyID {
			return fmt.Errorf("KeyID tells %q, Wrap writes %q", got, w.KeyID)
		}
		return nil
	})
}

func checkFamily(ctx context.Context, s Subject) error {
	f, _ := envelope.As[envelope.FamilyIdentifier](s.KEK)
	_, w, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	id, err := envelope.ParseKeyID(w.KeyID)
	if err != nil {
		return fmt.Errorf("KeyFamily is there, but Wrap writes %q", w.KeyID)
	}
	return withoutCall(s, "KeyFamily", func() error {
		if got := f.KeyFamily(); got != id.Family {
			return fmt.Errorf("KeyFamily tells %q, Wrap writes %q", got, w.KeyID)
		}
		return nil
	})
}

func checkDescriber(ctx context.Context, s Subject) error {
	d, _ := envelope.As[envelope.Describer](s.KEK)
	_, w, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	info, err := d.Describe(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("Describe: %w", err)
	case info.ID != w.KeyID:
		return fmt.Errorf("Describe tells id %q, Wrap writes %q", info.ID, w.KeyID)
	case info.Algorithm != w.Algorithm:
		return fmt.Errorf("Describe tells algorithm %q, Wrap writes %q", info.Algorithm, w.Algorithm)
	case info.Name == "":
		return errors.New("Describe tells no name")
	case !info.Enabled:
		return errors.New("Describe tells that a key that works is disabled")
	}
	return nil
}

func checkVersions(ctx context.Context, s Subject) error {
	_, w, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	return listsOnce(ctx, s, w.KeyID)
}

// listsOnce checks that the versions are distinct and that ids are among them.
func listsOnce(ctx context.Context, s Subject, ids ...string) error {
	l, _ := envelope.As[envelope.VersionLister](s.KEK)
	infos, err := l.Versions(ctx)
	if err != nil {
		return fmt.Errorf("Versions: %w", err)
	}
	seen := map[string]bool{}
	for _, info := range infos {
		if info.ID == "" || seen[info.ID] {
			return fmt.Errorf("Versions lists id %q, which is empty or a repetition", info.ID)
		}
		seen[info.ID] = true
	}
	for _, id := range ids {
		if !seen[id] {
			return fmt.Errorf("Versions does not list %q, which Wrap wrote", id)
		}
	}
	return nil
}

// version returns the version that w names, "" if the subject cannot tell.
func version(ctx context.Context, s Subject, w envelope.WrappedKey) string {
	if d, ok := envelope.As[envelope.Describer](s.KEK); ok {
		if info, err := d.Describe(ctx); err == nil && info.ID == w.KeyID {
			return info.Version
		}
	}
	if id, err := envelope.ParseKeyID(w.KeyID); err == nil {
		return id.Version
	}
	return ""
}

func checkPinner(ctx context.Context, s Subject) error {
	dek, w, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	if version(ctx, s, w) == "" {
		return skip("version to pin: neither capability envelope.Describer nor a key id of the form FAMILY/VERSION")
	}
	pinned, err := pin(ctx, s, w)
	if err != nil {
		return err
	}
	if err := wrapsAs(ctx, pinned, w.KeyID, s.KEK); err != nil {
		return err
	}
	if err := opens(ctx, pinned, w, dek); err != nil {
		return fmt.Errorf("pinned: %w", err)
	}
	p, _ := envelope.As[envelope.Pinner](s.KEK)
	if _, err := p.Pin("../\x00"); err == nil {
		return errors.New("Pin accepted a version that cannot be one")
	}
	return nil
}

// pin pins the version that w names.
func pin(ctx context.Context, s Subject, w envelope.WrappedKey) (envelope.KEK, error) {
	p, _ := envelope.As[envelope.Pinner](s.KEK)
	v := version(ctx, s, w)
	var pinned envelope.KEK
	err := withoutCall(s, "Pin", func() (err error) {
		if pinned, err = p.Pin(v); err != nil {
			err = fmt.Errorf("Pin(%q): %w", v, err)
		}
		return err
	})
	return pinned, err
}

// wrapsAs checks that a pinned KEK wraps under id, says so, and is understood by
// its parent.
func wrapsAs(ctx context.Context, pinned envelope.KEK, id string, parent envelope.Unwrapper) error {
	dek, w, err := wrap(ctx, pinned)
	if err != nil {
		return fmt.Errorf("pinned: %w", err)
	}
	if w.KeyID != id {
		return fmt.Errorf("pinned to %q, Wrap writes %q", id, w.KeyID)
	}
	i, ok := envelope.As[envelope.Identifier](pinned)
	if !ok {
		return errors.New("a pinned KEK has no capability envelope.Identifier")
	}
	if got := i.KeyID(); got != id {
		return fmt.Errorf("pinned to %q, KeyID tells %q", id, got)
	}
	if err := opens(ctx, parent, w, dek); err != nil {
		return fmt.Errorf("parent of the pinned KEK: %w", err)
	}
	return nil
}

// withoutCall runs f and, where the subject counts, checks that it made no call.
func withoutCall(s Subject, what string, f func() error) error {
	if s.Calls == nil {
		return f()
	}
	before := s.Calls()
	if err := f(); err != nil {
		return err
	}
	if n := s.Calls() - before; n != 0 {
		return fmt.Errorf("%s made %d calls to the back end, want none", what, n)
	}
	return nil
}

func has[T any](k envelope.KEK) bool {
	_, ok := envelope.As[T](k)
	return ok
}

func checkRotation(ctx context.Context, s Subject) error {
	dek, old, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	var pinnedOld envelope.KEK
	if has[envelope.Pinner](s.KEK) && version(ctx, s, old) != "" {
		if pinnedOld, err = pin(ctx, s, old); err != nil {
			return err
		}
	}
	if err := s.Rotate(ctx); err != nil {
		return fmt.Errorf("the hook failed: %w", err)
	}
	newDEK, latest, err := wrap(ctx, s.KEK)
	if err != nil {
		return fmt.Errorf("after a rotation: %w", err)
	}
	if fixed := has[envelope.Identifier](s.KEK); fixed != (latest.KeyID == old.KeyID) {
		return fmt.Errorf("wraps name %q before and %q after a rotation; fixed to one version: %t", old.KeyID, latest.KeyID, fixed)
	}
	for _, u := range []envelope.KEK{s.KEK, pinnedOld} {
		if u == nil {
			continue
		}
		if err := errors.Join(opens(ctx, u, old, dek), opens(ctx, u, latest, newDEK)); err != nil {
			return fmt.Errorf("after a rotation: %w", err)
		}
	}
	if pinnedOld != nil {
		if err := wrapsAs(ctx, pinnedOld, old.KeyID, s.KEK); err != nil {
			return fmt.Errorf("after a rotation: %w", err)
		}
	}
	if has[envelope.VersionLister](s.KEK) {
		return listsOnce(ctx, s, old.KeyID, latest.KeyID)
	}
	return nil
}
