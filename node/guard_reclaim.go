package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/pressure"
	"github.com/whalepod/whalepod/node/runtime"
)

// relieve the node of what it has too little of. It tells whether to look again at once.
func (g *guard) relieve(ctx context.Context, now time.Time, p guarded, met pressure.Threshold, seen pressure.Observations) bool {
	if !now.Before(g.tellAt) {
		g.tellAt = now.Add(guardEvery)
		g.cfg.Event(corev1.EventTypeWarning, "EvictionThresholdMet", fmt.Sprintf("Attempting to reclaim %s", met.Signal.Resource()))
	}
	if met.Signal.Disk() && !g.elsewhere(met.Signal) && !now.Before(g.reclaimAt) {
		if !g.reclaim(ctx, p) {
			g.reclaimAt = now.Add(reclaimAgain)
		}
		if ctx.Err() != nil {
			return false
		}
		seen = g.observe()
		if again := pressure.Met(g.cfg.Thresholds, seen); !slices.ContainsFunc(again, func(t pressure.Threshold) bool { return t.Signal == met.Signal }) {
			g.log.Info("room was made without evicting pods", "signal", met.Signal)
			return false
		}
	}
	return g.evictOne(ctx, p, met, seen)
}

// nothingLeft is logged once.
const nothingLeft = "no pod is left that may be evicted"

// evictOne pod, the first that may go, and wait until what it had is free. It tells whether there was one.
func (g *guard) evictOne(ctx context.Context, p guarded, met pressure.Threshold, seen pressure.Observations) bool {
	candidates := g.candidates(ctx, p, met.Signal)
	pressure.Rank(met.Signal, g.split, candidates)
	for _, c := range candidates {
		if pressure.Critical(c.Pod) {
			continue
		}
		message := pressure.Message(met, seen, c)
		if !p.Evict(string(c.Pod.UID), pods.Eviction{Message: message, Grace: evictionGrace, Disruption: true}) {
			continue
		}
		g.log.Warn("pod evicted", "pod", c.Pod.Namespace+"/"+c.Pod.Name, "signal", met.Signal, "message", message)
		g.awaitCleared(ctx, p, string(c.Pod.UID))
		return true
	}
	if !g.warned[nothingLeft] {
		g.warned[nothingLeft] = true
		g.log.Warn(nothingLeft, "signal", met.Signal, "pods", len(candidates))
	}
	return false
}

// awaitCleared waits until an evicted pod's memory and disk are free, or for as long as is reasonable.
func (g *guard) awaitCleared(ctx context.Context, p guarded, uid string) {
	patience := time.NewTimer(clearingPatience)
	defer patience.Stop()
	tick := time.NewTicker(clearingLook)
	defer tick.Stop()
	for !p.Cleared(uid) {
		select {
		case <-ctx.Done():
			return
		case <-patience.C:
			g.log.Warn("an evicted pod is still being ended", "uid", uid)
			return
		case <-tick.C:
		}
	}
}

// reclaim what no pod needs: containers of pods that have ended, then unused images, until there is as much room as image
// garbage collection aims at. It tells whether anything went.
func (g *guard) reclaim(ctx context.Context, p guarded) bool {
	before := g.observe()[pressure.ImageFsAvailable]
	call, cancel := context.WithTimeout(ctx, removeTimeout)
	p.RemoveEnded(call)
	cancel()
	removed, err := g.removeImages(ctx, p)
	if err != nil && ctx.Err() == nil {
		g.log.Warn("unused images could not be removed", "err", err)
	}
	return removed > 0 || g.observe()[pressure.ImageFsAvailable].Available > before.Available
}

// noCapacity is told once.
const noCapacity = "invalid capacity 0 on image filesystem"

// collect images when the disk is rather full though nothing is short yet.
func (g *guard) collect(ctx context.Context, now time.Time, seen pressure.Observation) {
	if seen.Capacity == 0 && !g.warned[noCapacity] {
		g.warned[noCapacity] = true
		g.cfg.Event(corev1.EventTypeWarning, "InvalidDiskCapacity", noCapacity)
	}
	if !g.cfg.Images.Due(seen) || now.Before(g.collectAt) {
		return
	}
	p := g.manager()
	if p == nil {
		return
	}
	g.collectAt = now.Add(collectAgain)
	_, err := g.removeImages(ctx, p)
	if ctx.Err() != nil {
		return
	}
	after := g.observe()[pressure.ImageFsAvailable]
	if err == nil && g.cfg.Images.Excess(after) > 0 {
		message := pressure.Insufficient(seen, max(after.Available-seen.Available, 0))
		g.cfg.Event(corev1.EventTypeWarning, "FreeDiskSpaceFailed", message)
		err = errors.New(message)
	}
	if err == nil {
		g.failures = 0
		return
	}
	g.failures++
	g.log.Warn("image garbage collection failed", "err", err, "times", g.failures)
	if g.failures > 1 { // the first may only have come too early, as in the kubelet
		g.cfg.Event(corev1.EventTypeWarning, "ImageGCFailed", err.Error())
	}
}

// removeImages that nobody uses, one after the other until the disk has room again. The engine's own idea of an image's size
// is no help: images share layers.
func (g *guard) removeImages(ctx context.Context, p guarded) (removed int, err error) {
	call, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	images, err := g.cfg.Engine.Images(call)
	if err != nil {
		return 0, err
	}
	used := inUse(images, p.Active())
	if err := g.addUsed(call, images, used); err != nil {
		return 0, err
	}
	now := time.Now()
	g.mu.Lock()
	g.images.Note(now, images, used)
	order := g.images.Removable(now, images, used, g.cfg.Images.MinAge)
	g.mu.Unlock()
	var errs []error
	for i := range order {
		seen := g.observe()
		if ctx.Err() != nil || g.cfg.Images.Excess(seen[pressure.ImageFsAvailable]) == 0 && len(pressure.Met(g.helped(), seen)) == 0 {
			break
		}
		if err := g.removeImage(ctx, p, &order[i]); err != nil {
			errs = append(errs, err)
			continue
		}
		removed++
	}
	return removed, errors.Join(errs...)
}

// helped are the thresholds that removing images can bring out of being met.
func (g *guard) helped() []pressure.Threshold {
	return slices.DeleteFunc(slices.Clone(g.cfg.Thresholds), func(t pressure.Threshold) bool {
		return !t.Signal.Disk() || g.elsewhere(t.Signal)
	})
}

// elsewhere: the signal is about a file system that has neither images nor containers.
func (g *guard) elsewhere(s pressure.Signal) bool {
	return g.split && (s == pressure.NodeFsAvailable || s == pressure.NodeFsInodesFree)
}

// removeImage also when it turns out to be used after all, which is no error: somebody was faster.
func (g *guard) removeImage(ctx context.Context, p guarded, image *runtime.Image) error {
	call, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	names := append(slices.Clone(image.Tags), image.Digests...)
	err := g.cfg.Engine.RemoveImage(call, image.ID)
	if errors.Is(err, runtime.ErrConflict) {
		g.log.Info("an image that seemed unused is used", "image", image.ID, "names", names)
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing image %s: %w", image.ID, err)
	}
	p.ForgetImages(names)
	g.log.Info("image removed to free disk space", "image", image.ID, "names", names, "bytes", image.SizeBytes)
	return nil
}

// addUsed adds what the engine has containers of, also those that are not ours.
func (g *guard) addUsed(ctx context.Context, images []runtime.Image, used map[string]bool) error {
	keeper, ok := g.cfg.Engine.(runtime.Housekeeper)
	if !ok {
		return errors.New("the container engine cannot say which images are used")
	}
	more, err := keeper.UsedImages(ctx)
	for id := range more {
		used[id] = true
	}
	return err
}

// inUse are the IDs of the images that pods run, or are about to: also one whose pull has just ended.
func inUse(images []runtime.Image, active []pods.Active) map[string]bool {
	byName := map[string]string{}
	for i := range images {
		byName[images[i].ID] = images[i].ID
		for _, name := range append(slices.Clone(images[i].Tags), images[i].Digests...) {
			byName[name] = images[i].ID
		}
	}
	used := map[string]bool{}
	note := func(name string) {
		if id, ok := byName[name]; ok {
			used[id] = true
		}
	}
	for i := range active {
		for _, id := range active[i].ImageIDs {
			_, name, _ := strings.Cut(id, "://")
			note(name)
		}
		spec := &active[i].Pod.Spec
		for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
			for j := range list {
				note(pods.ImageName(list[j].Image))
			}
		}
		for j := range spec.EphemeralContainers {
			note(pods.ImageName(spec.EphemeralContainers[j].Image))
		}
		for j := range spec.Volumes {
			if v := spec.Volumes[j].Image; v != nil {
				note(pods.ImageName(v.Reference))
			}
		}
	}
	return used
}

// saw which images there are, so that it is known later which was used last.
func (g *guard) saw(images []runtime.Image) {
	used := map[string]bool{}
	if p := g.manager(); p != nil {
		used = inUse(images, p.Active())
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.images.Note(time.Now(), images, used)
}
