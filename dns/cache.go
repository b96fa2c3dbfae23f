package dns

import (
	"hash/maphash"
	"sync"
	"time"
)

const cacheShards = 16

// cache keeps finished answers by question, at most a fixed number of them.
type cache struct {
	perShard int
	shards   [cacheShards]cacheShard
}

type cacheShard struct {
	mu      sync.RWMutex
	answers map[string]*packed
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
	switch {
	case p == nil:
		return nil
	case p.stored.IsZero():
		if p.generation != generation {
			return nil
		}
	case !now.Before(p.expires):
		return nil
	}
	return p
}

// put makes room when the shard is full: first from what is expired, then from anything. A map's random order is
// good enough, since what is asked often comes back at once.
func (c *cache) put(key []byte, p *packed, now time.Time) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.answers) >= c.perShard {
		looked := 0
		for k, old := range s.answers {
			if looked++; looked > 16 {
				break
			}
			if old.stored.IsZero() && old.generation != p.generation || !old.stored.IsZero() && !now.Before(old.expires) {
				delete(s.answers, k)
			}
		}
		for k := range s.answers {
			if len(s.answers) < c.perShard {
				break
			}
			delete(s.answers, k)
		}
	}
	s.answers[string(key)] = p
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
