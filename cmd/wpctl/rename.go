package main

import (
	"regexp"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// kubectlWord finds kubectl as the name of a command, but not as a part of an
// address, a label or the name of another program.
var kubectlWord = regexp.MustCompile("(^|[\\s'\"`(])kubectl([\\s'\"`),:;]|\\.\\s|\\.$|$)")

// rename lets every help text speak of wpctl, so that its examples can be copied.
func rename(c *cobra.Command) {
	isRoot := c.Use == "kubectl"
	for _, text := range []*string{&c.Use, &c.Short, &c.Long, &c.Example} {
		*text = renamed(*text)
	}
	for _, set := range []*pflag.FlagSet{c.Flags(), c.PersistentFlags()} {
		set.VisitAll(func(f *pflag.Flag) { f.Usage = renamed(f.Usage) })
	}
	if isRoot {
		c.Short = "wpctl controls a Whalepod cluster, in the words of kubectl"
		c.Long = c.Short + ".\n\nWhatever works with kubectl works with wpctl; token, image, cluster, trace, doctor and demo are its own."
	}
	for _, sub := range c.Commands() {
		rename(sub)
	}
}

func renamed(text string) string { return kubectlWord.ReplaceAllString(text, "${1}wpctl${2}") }
