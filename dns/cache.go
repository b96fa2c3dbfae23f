package dns

import (
	"hash/maphash"
	"sync"
	"time"
)

const (
	cacheShards = 16
	// cacheBytes bounds the memory of all answers together, shardBytes that of a shard's. A larger answer is not kept.
	cacheBytes = 8 << 20
	shardBytes = cacheBytes / cacheShards
)

// cache keeps finished answers by question, at most a fixed number of them and of their bytes.
type cache struct {
	perShard int
	shards   [cacheShards]cacheShard
}

type cacheShard struct {
	mu      sync.RWMutex
	answers map[string]*packed
	bytes   int
}

func newCache(size int) *cache {
	c := &cache{perShard: max(size/cacheShards, 1)}
	for i := range c.shards {
		c.shards[i].answers = map[string]*packed{}
	}
	return c
}

func (c *cache) shard(key []byte) *cacheShard {
	return &c.shards[maphash.Bytes(hashSeed, key)%cacheShards]
}

// get returns an answer that is still good: from the zone as it is now, or from upstream and not expired.
func (c *cache) get(key []byte, generation uint64, now time.Time) *packed {
	s := c.shard(key)
	s.mu.RLock()
	p := s.answers[string(key)]
	s.mu.RUnlock()
	if p == nil || p.stale(generation, now) {
		return nil
	}
	return p
}

// stale: the zone has changed since, or the time is over.
func (p *packed) stale(generation uint64, now time.Time) bool {
	return p.generation != 0 && p.generation != generation || !p.stored.IsZero() && !now.Before(p.expires)
}

// put makes room when the shard is full: first from what is stale, then from anything. A map's random order is good enough,
// since what is asked often comes back at once.
func (c *cache) put(key []byte, p *packed, generation uint64, now time.Time) {
	size := p.bytes + len(key)
	if size > shardBytes {
		return
	}
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	full := func() bool { return len(s.answers) >= c.perShard || s.bytes+size > shardBytes }
	s.drop(string(key))
	if full() {
		looked := 0
		for k, old := range s.answers {
			if looked++; looked > 16 {
				break
			}
			if old.stale(generation, now) {
				s.drop(k)
			}
		}
		for k := range s.answers {
			if !full() {
				break
			}
			s.drop(k)
		}
	}
	s.answers[string(key)] = p
	s.bytes += size
}

// drop one answer. Call with mu held.
func (s *cacheShard) drop(key string) {
	if p := s.answers[key]; p != nil {
		s.bytes -= p.bytes + len(key)
		delete(s.answers, key)
	}
}

// forget one answer.
func (c *cache) forget(key []byte) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(string(key))
}

// clear forgets everything.
func (c *cache) clear() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.answers, s.bytes = map[string]*packed{}, 0
		s.mu.Unlock()
	}
}

func (c *cache) len() int {
	n := 0
	for i := range c.shards {
		c.shards[i].mu.RLock()
		n += len(c.shards[i].answers)
		c.shards[i].mu.RUnlock()
	}
	return n
}
