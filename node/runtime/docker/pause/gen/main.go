// Command gen writes the pause programs that the agent carries: go generate in the folder above.
package main

import (
	"fmt"
	"os"

	"github.com/whalepod/whalepod/node/runtime/docker/pause/elf"
)

func main() {
	for _, arch := range []string{"amd64", "arm64"} {
		b, err := elf.Program(arch)
		if err == nil {
			err = os.WriteFile("pause-"+arch, b, 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
