package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// withDashes lets "exec POD COMMAND" mean "exec POD -- COMMAND", as it did in kubectl for years and as posts of that time
// write it. From the command on nothing is a flag of ours. Anything else stays as it is.
func withDashes(root *cobra.Command, args []string) []string {
	c, rest, err := root.Find(args)
	if err != nil || c.Name() != "exec" || c.Parent() != root {
		return args
	}
	pod := false
	for i := 0; i < len(rest); i++ {
		word := rest[i]
		switch {
		case word == "--":
			return args
		case strings.HasPrefix(word, "-") && word != "-":
			name, takesNext := flagOf(c, word)
			if name == "filename" {
				return args // the pod is in the file: the first word is the command already
			}
			if takesNext {
				i++
			}
		case !pod:
			pod = true
		default:
			return slices.Concat([]string{"exec"}, rest[:i], []string{"--"}, rest[i:])
		}
	}
	return args
}

// flagOf finds which flag of the command a word gives, the last one of several letters, and whether its value is the next
// word.
func flagOf(c *cobra.Command, word string) (name string, takesNext bool) {
	lookup := func(find func(*pflag.FlagSet) *pflag.Flag) *pflag.Flag {
		for _, set := range []*pflag.FlagSet{c.Flags(), c.InheritedFlags()} {
			if f := find(set); f != nil {
				return f
			}
		}
		return nil
	}
	if long, ok := strings.CutPrefix(word, "--"); ok {
		name, _, given := strings.Cut(long, "=")
		f := lookup(func(s *pflag.FlagSet) *pflag.Flag { return s.Lookup(name) })
		return name, f != nil && !given && f.NoOptDefVal == ""
	}
	for i := 1; i < len(word); i++ {
		f := lookup(func(s *pflag.FlagSet) *pflag.Flag { return s.ShorthandLookup(word[i : i+1]) })
		if f == nil {
			return "", false // the library will say that there is none
		}
		if f.NoOptDefVal == "" { // what follows is its value
			return f.Name, i == len(word)-1
		}
		name = f.Name
	}
	return name, false
}
