package route

import "slices"

// nameLabel is on every namespace, with or without a document for it, and
// always holds its name, so that nobody can label himself into another's.
const nameLabel = "kubernetes.io/metadata.name"

// namespaceAdmits reports whether the selector takes a namespace with these
// labels of its document.
func (s *Selector) namespaceAdmits(name string, labels map[string]string) bool {
	value := func(key string) (string, bool) {
		if key == nameLabel {
			return name, true
		}
		v, ok := labels[key]
		return v, ok
	}
	for k, want := range s.Labels {
		if v, ok := value(k); !ok || v != want {
			return false
		}
	}
	for _, t := range s.Terms {
		if v, ok := value(t.Key); !t.holds(v, ok) {
			return false
		}
	}
	return true
}

// holds is the meaning of a term (LabelSelectorRequirement). NotIn also takes
// what lacks the label; an operator that is not known takes nothing.
func (t Term) holds(value string, there bool) bool {
	switch t.Operator {
	case "In":
		return there && slices.Contains(t.Values, value)
	case "NotIn":
		return !there || !slices.Contains(t.Values, value)
	case "Exists":
		return there
	case "DoesNotExist":
		return !there
	}
	return false
}
