package pki

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// What makes the cluster this cluster. All other certificates are made from these anew.
// The certificate goes last: without it an interrupted import is not taken for a whole one.
var identityFiles = []string{tokenKeyFile, gossipKeyFile, "ca.key", "ca.crt"}

// Names of the keys that are nobody's certificate's.
const (
	gossipKeyFile = "gossip.key"
	tokenKeyFile  = "sa.key"
)

// Export returns what a master on another machine needs to be this cluster's master: nodes and people go on trusting it.
// Whoever has it can do everything.
func (p *PKI) Export() ([]byte, error) {
	files := map[string]string{}
	for _, name := range identityFiles {
		data, err := os.ReadFile(p.path(name))
		if err != nil {
			return nil, fmt.Errorf("the cluster's identity: %w", err)
		}
		files[name] = string(data)
	}
	return json.Marshal(files)
}

// Import puts an exported identity below dir. An identity that is there already stays: imported is false then.
func Import(dir string, exported []byte) (imported bool, err error) {
	var files map[string]string
	if err := json.Unmarshal(exported, &files); err != nil {
		return false, fmt.Errorf("the cluster's identity in the backup cannot be read: %w", err)
	}
	for _, name := range identityFiles {
		if files[name] == "" {
			return false, fmt.Errorf("the cluster's identity in the backup lacks %s", name)
		}
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return false, err // it is there, or who knows
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	for _, name := range identityFiles {
		if err := writeFile(filepath.Join(dir, name), []byte(files[name])); err != nil {
			return false, err
		}
	}
	return true, nil
}
