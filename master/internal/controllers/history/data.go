package history

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/rand"
)

// maxPrefix leaves room for a hyphen and the hash in a name of 253 characters; as long as Kubernetes has it.
const maxPrefix = 223

// encode makes a revision's data: the strategic merge patch that brings the template back, which is what `kubectl rollout
// undo` sends. It is JSON with sorted keys, so that one template always has the same bytes.
func encode(t *corev1.PodTemplateSpec) ([]byte, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("pod template: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // a float64 does not hold every int64
	fields := map[string]any{}
	if err := decoder.Decode(&fields); err != nil {
		return nil, fmt.Errorf("pod template: %w", err)
	}
	fields["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
}

// TemplateOf reads the template that a revision holds.
func TemplateOf(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var data struct {
		Spec struct {
			Template *corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &data); err != nil {
		return nil, fmt.Errorf("revision %s: %w", r.Name, err)
	}
	if data.Spec.Template == nil {
		return nil, fmt.Errorf("revision %s holds no template", r.Name)
	}
	return data.Spec.Template, nil
}

// holds says whether a revision is that of a template, whose data is given. Bytes differ when another release, or Kubernetes
// itself, wrote the revision.
func holds(r *appsv1.ControllerRevision, t *corev1.PodTemplateSpec, data []byte) bool {
	if bytes.Equal(r.Data.Raw, data) {
		return true
	}
	held, err := TemplateOf(r)
	return err == nil && apiequality.Semantic.DeepEqual(held, t)
}

// hashOf names data, in letters that make no words; collisions leads past a taken name.
func hashOf(data []byte, collisions int32) string {
	h := fnv.New32()
	h.Write(data)
	h.Write(strconv.AppendInt(nil, int64(collisions), 10))
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

func nameOf(owner, hash string) string {
	return owner[:min(len(owner), maxPrefix)] + "-" + hash
}
