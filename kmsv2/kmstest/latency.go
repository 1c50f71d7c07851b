package kmstest

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// tooSlow is beyond any doubt: API servers give a call three seconds (row 2) and make
// thousands at their start. What is merely slower than the guidance is noted, since
// the kit cannot tell a slow plugin from a busy machine.
const tooSlow = time.Second

func latency(ctx context.Context, s *subject) error {
	var answers []sealed
	encrypts, err := measure(looks, func(int) error {
		e, err := s.encrypt(ctx, seed())
		answers = append(answers, e)
		return err
	})
	if err != nil {
		return err
	}
	decrypts, err := measure(looks, func(i int) error { return s.opens(ctx, answers[i]) })
	if err != nil {
		return err
	}
	for _, m := range []struct {
		op       string
		took     []time.Duration
		guidance time.Duration
	}{{"Encrypt", encrypts, 100 * time.Millisecond}, {"Decrypt", decrypts, 10 * time.Millisecond}} {
		median := m.took[len(m.took)/2]
		verdict := "within"
		if median > m.guidance {
			verdict = "beyond"
		}
		s.note("%s: median %s, worst %s: %s the guidance of %s", m.op, median, m.took[len(m.took)-1], verdict, m.guidance)
		if median > tooSlow {
			return fmt.Errorf("%s takes %s", m.op, median)
		}
	}
	return nil
}

// measure returns how long each of n calls of f took, shortest first.
func measure(n int, f func(i int) error) ([]time.Duration, error) {
	var took []time.Duration
	for i := range n {
		start := time.Now()
		if err := f(i); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took, nil
}
