//go:build !linux

package doctor

// Local is nil where no node can run: there is nothing to examine.
func Local() System { return nil }
