package kmsv2

import (
	"sync"
	"time"
)

// limiter keeps a flood of equal events from becoming a flood of log lines: it lets
// one through for each kind in a while, and counts the others.
type limiter struct {
	every time.Duration

	mu    sync.Mutex
	kinds map[string]*limited
}

type limited struct {
	next       time.Time
	suppressed int
}

// allow reports whether to log an event of this kind now, and how many before it
// were not. Kinds must come from a small fixed set.
func (l *limiter) allow(kind string, now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kinds[kind]
	if k == nil {
		if l.kinds == nil {
			l.kinds = make(map[string]*limited)
		}
		k = &limited{}
		l.kinds[kind] = k
	}
	if now.Before(k.next) {
		k.suppressed++
		return 0, false
	}
	suppressed, k.suppressed = k.suppressed, 0
	k.next = now.Add(l.every)
	return suppressed, true
}
