package node

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whalepod/whalepod/node/runtime/fake"
	"github.com/whalepod/whalepod/node/session"
)

// stuck has one mount, which goes away or not.
type stuck struct {
	at    string
	stays bool
}

func (*stuck) Tmpfs(string, int64) error   { return nil }
func (*stuck) Bind(*os.File, string) error { return nil }

func (s *stuck) Below(dir string) ([]string, error) {
	if s.at == "" || !strings.HasPrefix(s.at, dir) {
		return nil, nil
	}
	return []string{s.at}, nil
}

// Unmount empties the directory, as it looks when nothing is mounted there any more.
func (s *stuck) Unmount(dir string) error {
	if s.stays {
		return errors.New("device or resource busy")
	}
	s.at = ""
	return os.Remove(filepath.Join(dir, "data"))
}

// What is mounted below a pod's directory may be the user's own data.
func TestUninstallRemovesNothingThatIsMounted(t *testing.T) {
	dir := t.TempDir()
	mount := filepath.Join(dir, "pods", "uid-p", "volume-subpaths", "v", "c", "0")
	if err := os.MkdirAll(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(mount, "data")
	if err := os.WriteFile(data, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := &stuck{at: mount, stays: true}
	cfg := UninstallConfig{
		DataDir: dir, Identity: &session.Identity{Node: "n1", Config: json.RawMessage("{}")}, Engine: fake.New("n1"), Mounter: m, Logger: slog.New(slog.DiscardHandler),
	}
	if err := Uninstall(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("a mount that stays: %v", err)
	}
	if _, err := os.Stat(data); err != nil {
		t.Fatal(err)
	}
	m.stays = false
	if err := Uninstall(t.Context(), cfg); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}
