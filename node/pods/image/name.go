package image

import "github.com/distribution/reference"

// Name is the name under which engines list the image that a pod asks for: with the tag that everybody means, and without one
// where a digest says more. Empty when it is no name.
func Name(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ""
	}
	if d, ok := named.(reference.Digested); ok {
		if only, err := reference.WithDigest(reference.TrimNamed(named), d.Digest()); err == nil {
			return reference.FamiliarString(only)
		}
	}
	return reference.FamiliarString(reference.TagNameOnly(named))
}
