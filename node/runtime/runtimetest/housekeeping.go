package runtimetest

import "github.com/whalepod/whalepod/node/runtime"

// testHousekeeping: an image is used as long as there is a container of it, whether it runs or not, and whoever's it is.
func testHousekeeping(h *harness) {
	keeper, ok := h.e.(runtime.Housekeeper)
	if !ok {
		h.Skip("the engine cannot say")
	}
	i, err := h.e.Image(h.ctx, h.env.Image)
	h.check(err)
	uses := func(want bool) {
		h.Helper()
		used, err := keeper.UsedImages(h.ctx)
		h.check(err)
		if used[i.ID] != want {
			h.Errorf("image used: %v, want %v", used[i.ID], want)
		}
	}
	s := h.sandbox()
	id, err := h.e.CreateContainer(h.ctx, h.spec(s, "sleep 600"))
	h.check(err)
	uses(true)
	h.check(h.e.StartContainer(h.ctx, id))
	if n, err := keeper.LayerSize(h.ctx, id); err != nil || n < 0 {
		h.Errorf("layer of %d bytes: %v", n, err)
	}
	h.check(h.e.StopContainer(h.ctx, id, 0))
	uses(true)
	h.check(h.e.RemoveContainer(h.ctx, id))
	uses(false)
}
