package desired

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// PolicySet is a part of the addresses that a peer of network policies stands for. It is no kind of the API: the protocol has it.
type PolicySet struct {
	metav1.ObjectMeta // empty: the key says all
	agentv1.PolicySet
}

// Marshal implements Object.
func (p *PolicySet) Marshal() ([]byte, error) { return proto.Marshal(&p.PolicySet) }

// Unmarshal implements Object. Members with ports have one each.
func (p *PolicySet) Unmarshal(data []byte) error {
	if err := proto.Unmarshal(data, &p.PolicySet); err != nil {
		return err
	}
	if n := len(p.Ports); n != 0 && n != len(p.Addresses) {
		return fmt.Errorf("a part of a policy set has %d addresses with %d ports", len(p.Addresses), n)
	}
	return nil
}
